/* core_test.c - the C core from C: every kernel against plain loops, with asserts on.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Built by test_c_core.py together with the sources of src_c; also an example of how to
 * use the interface without Python.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "t5bucket.h"

enum { MAX_COUNT = 1100, GUARD = 0x5a };

/* T5's rule for 32 buckets up to 128 tokens, bidirectional. */
static const int64_t boundaries[] = {12, 16, 23, 32, 46, 64, 91};
static const t5b_scheme scheme = {8, 16, 1, boundaries, 7};

static int64_t expected_bucket(const t5b_scheme *rule, int64_t d)
{
    const int64_t n = d == INT64_MIN ? INT64_MAX : d < 0 ? -d : rule->bidirectional ? d : 0;
    int64_t bucket = n < rule->max_exact ? n : rule->max_exact;
    for (size_t i = 0; i < rule->num_boundaries; i++)
        bucket += rule->boundaries[i] <= n;
    return bucket + (d > 0 ? rule->future_base : 0);
}

/* The same rule as a table over -128 .. 128, of two heads of 16-bit items. */
static uint16_t items[2][257];
static const t5b_table indexed = {items, 2, 2, 257, NULL, -128};
/* And as ranges: the rule's starts, found in the table. */
static uint16_t range_items[2][64];
static int64_t starts[63];
static t5b_table ranges = {range_items, 2, 2, 0, starts, 0};

static void make_tables(void)
{
    size_t count = 0;
    for (int64_t d = -128; d <= 128; d++) {
        for (int head = 0; head < 2; head++)
            items[head][d + 128] = (uint16_t)(expected_bucket(&scheme, d) + 1000 * head);
        if (d == -128 || items[0][d + 128] != items[0][d + 127]) {
            if (count > 0)
                starts[count - 1] = d;
            count++;
        }
        for (int head = 0; head < 2; head++)
            range_items[head][count - 1] = items[head][d + 128];
    }
    ranges.num_ranges = count;
    /* Heads are num_ranges apart. */
    memmove((uint16_t *)range_items + count, range_items[1], count * sizeof(uint16_t));
}

static uint16_t expected_item(int64_t d, size_t head)
{
    const int64_t near = d < -128 ? -128 : d > 128 ? 128 : d;
    return items[head][near + 128];
}

static void test_count_and_lookup(const t5b_implementation *implementation, size_t count,
                                  int streaming)
{
    int32_t *position = malloc((count + 1) * sizeof *position);
    int64_t *wide = malloc((count + 1) * sizeof *wide);
    uint16_t *found = malloc((count + 1) * sizeof *found);
    uint8_t *bucket = malloc(count + 1);

    for (size_t i = 0; i < count; i++) {
        position[i] = (int32_t)(i * 2654435761u % 601) - 300;
        wide[i] = i % 7 == 0 ? INT64_MIN : i % 7 == 1 ? INT64_MAX : position[i];
    }
    found[count] = bucket[count] = GUARD;
    implementation->count_buckets(&scheme, position, T5B_INT32, count, 1, streaming, bucket);
    for (size_t i = 0; i < count; i++)
        assert(bucket[i] == expected_bucket(&scheme, position[i]));
    implementation->count_buckets(&scheme, wide, T5B_INT64, count, 2, streaming, found);
    for (size_t i = 0; i < count; i++)
        assert(found[i] == expected_bucket(&scheme, wide[i]));
    for (int way = 0; way < 2; way++) {
        t5b_lookup(way ? &ranges : &indexed, wide, T5B_INT64, count, streaming, found);
        for (size_t i = 0; i < count; i++)
            assert(found[i] == expected_item(wide[i], 0));
    }
    implementation->count_buckets(&scheme, wide, T5B_INT64, count, 8, streaming, wide); /* in place */
    for (size_t i = 0; i < count; i++)
        assert(wide[i] < 32);
    assert(found[count] == GUARD && bucket[count] == GUARD);
    free(position);
    free(wide);
    free(found);
    free(bucket);
}

static void test_grid(const t5b_table *table, size_t query_length, size_t key_length,
                      int64_t offset, int streaming)
{
    const size_t num_diagonals = query_length + key_length - 1;
    const size_t row = key_length + 3; /* padded */
    uint16_t *diagonals = malloc(2 * num_diagonals * sizeof *diagonals);
    uint16_t *out = malloc(2 * query_length * row * sizeof *out);
    int64_t *query = malloc(query_length * sizeof *query);
    int64_t *key = malloc(key_length * sizeof *key);
    const t5b_matrix matrix = {out, query_length, key_length, 0,
                               (ptrdiff_t)(query_length * row * sizeof *out),
                               (ptrdiff_t)(row * sizeof *out)};

    for (size_t i = 0; i < query_length; i++)
        query[i] = (int64_t)i;
    for (size_t j = 0; j < key_length; j++)
        key[j] = offset + (int64_t)j;
    t5b_fill_diagonals(table, offset - (int64_t)query_length + 1, num_diagonals, diagonals,
                       (ptrdiff_t)(num_diagonals * sizeof *diagonals));
    for (int way = 0; way < 2; way++) {
        memset(out, GUARD, 2 * query_length * row * sizeof *out);
        if (way)
            t5b_copy_diagonals(diagonals, sizeof *out, 0, 2 * query_length, streaming, &matrix);
        else
            t5b_lookup_pairs(table, query, key, 0, 0, query_length, streaming, &matrix);
        for (size_t head = 0; head < 2; head++)
            for (size_t i = 0; i < query_length; i++) {
                const uint16_t *line = out + (head * query_length + i) * row;
                for (size_t j = 0; j < key_length; j++)
                    assert(line[j] == expected_item(key[j] - query[i], head));
                assert(line[key_length] == GUARD * 0x101);
            }
    }
    free(diagonals);
    free(out);
    free(query);
    free(key);
}

int main(void)
{
    const t5b_implementation *implementation;

    make_tables();
    assert(t5b_can_count(&scheme));
    for (size_t i = 0; (implementation = t5b_get_implementation(i)) != NULL; i++)
        if (implementation->is_supported()) {
            for (size_t count = 0; count <= MAX_COUNT; count += count < 70 ? 1 : 103)
                for (int streaming = 0; streaming < 2; streaming++)
                    test_count_and_lookup(implementation, count, streaming);
            printf("%s ", implementation->name);
        }
    for (int way = 0; way < 2; way++)
        for (size_t q = 1; q <= 300; q += q < 5 ? 1 : 97)
            for (size_t k = 1; k <= 700; k += k < 5 ? 1 : 111)
                for (int64_t offset = -900; offset <= 900; offset += 300)
                    test_grid(way ? &ranges : &indexed, q, k, offset, (int)(k % 2));
    printf("%s\n", t5b_get_compiler());
    return 0;
}
