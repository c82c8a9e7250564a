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
static const t5b_table indexed = {items, 2, 2, 257, 2, NULL, -128};
/* And as ranges: the rule's starts, found in the table. */
static uint16_t range_items[2][64];
static int64_t starts[63];
static t5b_table ranges = {range_items, 2, 2, 0, 2, starts, 0};
/* Both again, with the heads of a range side by side, in vectors of 16 bytes. */
static uint16_t indexed_vectors[257][8], range_vectors[64][8];
static const t5b_table indexed_by_range = {indexed_vectors, 2, 2, 257, 16, NULL, -128};
static t5b_table ranges_by_range = {range_vectors, 2, 2, 0, 16, starts, 0};

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
            range_items[head][count - 1] = range_vectors[count - 1][head] =
                indexed_vectors[d + 128][head] = items[head][d + 128];
    }
    ranges.num_ranges = ranges_by_range.num_ranges = count;
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

static void test_grid(const t5b_table *table, const t5b_table *by_range, size_t query_length,
                      size_t key_length, int64_t offset, int streaming)
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
    const t5b_pairs positions = {T5B_INT64, query, key, 0};

    for (size_t i = 0; i < query_length; i++)
        query[i] = (int64_t)i;
    for (size_t j = 0; j < key_length; j++)
        key[j] = offset + (int64_t)j;
    t5b_fill_diagonals(table, offset - (int64_t)query_length + 1, num_diagonals, diagonals,
                       (ptrdiff_t)(num_diagonals * sizeof *diagonals));
    for (int way = 0; way < 2; way++) {
        memset(out, GUARD, 2 * query_length * row * sizeof *out);
        if (way)
            t5b_write_diagonals(diagonals, sizeof *out, 2, NULL, 0, query_length, streaming,
                                &matrix);
        else
            t5b_write_pairs(by_range, &positions, NULL, 0, query_length, streaming, &matrix);
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

/* Three heads of float32, by distances of -3 .. 3; small numbers, so that sums are exact. */
enum { NUM_HEADS = 3, NUM_BATCHES = 2 };
static float weight[NUM_HEADS][7], weight_vectors[7][4];
static const t5b_table weights = {weight, 4, NUM_HEADS, 7, 4, NULL, -3};
static const t5b_table weights_by_range = {weight_vectors, 4, NUM_HEADS, 7, 16, NULL, -3};

static float expected_weight(int64_t d, size_t head)
{
    return weight[head][(d < -3 ? -3 : d > 3 ? 3 : d) + 3];
}

/* A batch of masked, accumulated matrices and their gradient, against plain loops; `masks` says
 * which masks there are, by its bits. */
static void test_epilogue(size_t query_length, size_t key_length, int masks, int streaming)
{
    const size_t count = NUM_BATCHES * NUM_HEADS * query_length * key_length;
    const int has_addend = masks & 1, has_keep = masks & 2, has_segments = masks & 4;
    const int is_causal = masks & 8, accumulate = masks >> 4 & 1;
    const ptrdiff_t row = (ptrdiff_t)(key_length * 4), head_stride = row * (ptrdiff_t)query_length;
    const float masked = -1000;
    float *out = malloc((count + 1) * sizeof *out), *addend = malloc(key_length * sizeof *addend);
    float *diagonals = malloc(NUM_HEADS * (query_length + key_length) * sizeof *diagonals);
    unsigned char *keep = malloc(NUM_BATCHES * key_length);
    int32_t *query = malloc(query_length * sizeof *query);
    int32_t *key = malloc(key_length * sizeof *key);
    int64_t *query_segment = calloc(NUM_BATCHES * query_length, sizeof *query_segment);
    int64_t *key_segment = calloc(key_length, sizeof *key_segment);
    int32_t *query_batches = malloc(NUM_BATCHES * query_length * sizeof *query_batches);
    double *scratch = malloc(5 * sizeof *scratch); /* -2 .. 2 */
    double sums[7][NUM_HEADS], expected[7][NUM_HEADS];
    t5b_epilogue epilogue = {T5B_FLOAT32, t5b_get_implementation(0), accumulate, {0}, {0}, {0}, {0},
                             &masked};
    const t5b_matrix matrix = {out, query_length, key_length, NUM_HEADS * head_stride, head_stride,
                               row};
    t5b_pairs positions = {T5B_INT32, query_batches, key, 0};

    for (size_t i = 0; i < query_length; i++)
        query[i] = (int32_t)i + 5;
    for (size_t i = 0; i < NUM_BATCHES * query_length; i++) {
        query_batches[i] = query[i % query_length];
        query_segment[i] = (int64_t)(i / 3 % 2) << 40;
    }
    for (size_t j = 0; j < key_length; j++) {
        key[j] = (int32_t)j + 4;
        addend[j] = (float)(j % 5);
        key_segment[j] = (int64_t)(j / 4 % 2) << 40;
    }
    for (size_t j = 0; j < NUM_BATCHES * key_length; j++)
        keep[j] = j % 3 != 0;
    if (has_addend)
        epilogue.addend = (t5b_matrix){addend, query_length, key_length, 0, 0, 0};
    if (has_keep)
        epilogue.keep =
            (t5b_matrix){keep, query_length, key_length, (ptrdiff_t)key_length, 0, 0};
    if (has_segments)
        epilogue.segments = (t5b_pairs){T5B_INT64, query_segment, key_segment, 0};
    if (is_causal)
        epilogue.causal = positions;
    t5b_fill_diagonals(&weights, -(int64_t)query_length, query_length + key_length - 1, diagonals,
                       (ptrdiff_t)((query_length + key_length - 1) * 4));
    for (int way = 0; way < 2; way++) {
        for (size_t i = 0; i <= count; i++)
            out[i] = (float)(i % 11);
        if (way)
            t5b_write_diagonals(diagonals, 4, NUM_HEADS, &epilogue, 0, NUM_BATCHES * query_length,
                                streaming, &matrix);
        else
            t5b_write_pairs(&weights_by_range, &positions, &epilogue, 0,
                            NUM_BATCHES * query_length, streaming, &matrix);
        memset(expected, 0, sizeof expected);
        for (size_t i = 0; i < count; i++) {
            const size_t j = i % key_length, q = i / key_length % query_length;
            const size_t head = i / key_length / query_length % NUM_HEADS;
            const size_t batch = i / key_length / query_length / NUM_HEADS;
            const int32_t d = key[j] - query[q];
            const int is_visible =
                (!has_keep || keep[batch * key_length + j]) &&
                (!has_segments || query_segment[batch * query_length + q] == key_segment[j]) &&
                (!is_causal || d <= 0);
            const float value = expected_weight(d, head) + (accumulate ? (float)(i % 11) : 0) +
                                (has_addend ? addend[j] : 0);
            assert(out[i] == (is_visible ? value : masked));
            expected[(d < -3 ? -3 : d > 3 ? 3 : d) + 3][head] += is_visible ? out[i] : 0;
        }
        assert(out[count] == (float)(count % 11));
        memset(sums, 0, sizeof sums);
        if (way)
            t5b_sum_diagonals(&weights, -(int64_t)query_length, T5B_FLOAT32, &epilogue, 0,
                              NUM_BATCHES * query_length, &matrix, scratch, &sums[0][0]);
        else
            t5b_sum_pairs(&weights, &positions, T5B_FLOAT32, &epilogue, 0,
                          NUM_BATCHES * query_length, &matrix, &sums[0][0]);
        t5b_sum_diagonals(&weights, -(int64_t)query_length, T5B_FLOAT32, &epilogue, 1, 1, &matrix,
                          scratch, &sums[0][0]); /* no rows */
        assert(memcmp(sums, expected, sizeof sums) == 0);
    }
    free(out), free(addend), free(diagonals), free(keep), free(query), free(key);
    free(query_segment), free(key_segment), free(query_batches), free(scratch);
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
                    test_grid(way ? &ranges : &indexed, way ? &ranges_by_range : &indexed_by_range, q, k,
                              offset, (int)(k % 2));
    for (int head = 0; head < NUM_HEADS; head++)
        for (int range = 0; range < 7; range++)
            weight[head][range] = weight_vectors[range][head] = (float)(10 * head + range);
    for (int masks = 0; masks < 32; masks++)
        for (size_t q = 1; q <= 40; q += q < 5 ? 1 : 17)
            for (size_t k = 1; k <= 3000; k += k < 70 ? 3 : 977)
                test_epilogue(q, k, masks, (int)(k % 2));
    printf("%s\n", t5b_get_compiler());
    return 0;
}
