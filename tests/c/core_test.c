/* core_test.c - the C core from C: every kernel against plain loops, with asserts on.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Built by test_c_core.py together with the sources of src_c; also an example of how to
 * use the interface without Python. An argument n takes every n-th case, for valgrind.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
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

static size_t every = 1, num_cases, num_taken;

/* Whether it is this case's turn. */
static int takes_case(void)
{
    const int takes = num_cases++ % every == 0;

    num_taken += (size_t)takes;
    return takes;
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
    /* In place. */
    implementation->count_buckets(&scheme, wide, T5B_INT64, count, 8, streaming, wide);
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
    const t5b_matrix matrix = {out,
                               query_length,
                               key_length,
                               0,
                               (ptrdiff_t)(query_length * row * sizeof *out),
                               (ptrdiff_t)(row * sizeof *out)};
    const t5b_pairs positions = {T5B_INT64, query, key, 0, 0};

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

/* Three heads, by distances of -3 .. 3, of small integers, which all types have and whose sums
 * they have. */
enum { NUM_HEADS = 3, NUM_BATCHES = 2, NUM_RANGES = 7 };

static int expected_weight(int64_t d, size_t head)
{
    return (int)(10 * head) + (int)(d < -3 ? -3 : d > 3 ? 3 : d) + 3;
}

/* Masks of a matrix of NUM_BATCHES x NUM_HEADS heads, and what it held. */
typedef struct setting {
    t5b_float type;
    size_t query_length, key_length;
    int has_addend, has_keep, keep_by_head, keep_by_query, has_segments, is_causal, accumulate;
} setting;

static int get_keep(const setting *s, size_t batch, size_t head, size_t q, size_t j)
{
    return (batch + (s->keep_by_head ? head : 0) + (s->keep_by_query ? q : 0) + j) % 3 != 0;
}

static int get_query_segment(size_t batch, size_t q)
{
    return (int)((batch + q / 3) % 2);
}

static int is_visible(const setting *s, size_t batch, size_t head, size_t q, size_t j)
{
    return (!s->has_keep || get_keep(s, batch, head, q, j)) &&
           (!s->has_segments || get_query_segment(batch, q) == (int)(j / 4 % 2)) &&
           (!s->is_causal || j + 4 <= q + 5);
}

/* Bytes of `keep`, with strides of 0 where it does not change. */
static t5b_matrix make_keep(const setting *s, unsigned char *keep)
{
    const size_t q = s->keep_by_query ? s->query_length : 1;
    const size_t heads = s->keep_by_head ? NUM_HEADS : 1;
    const ptrdiff_t row = (ptrdiff_t)s->key_length;
    const t5b_matrix matrix = {keep,
                               s->query_length,
                               s->key_length,
                               row * (ptrdiff_t)(q * heads),
                               s->keep_by_head ? row * (ptrdiff_t)q : 0,
                               s->keep_by_query ? row : 0};

    for (size_t batch = 0; batch < NUM_BATCHES; batch++)
        for (size_t head = 0; head < heads; head++)
            for (size_t i = 0; i < q; i++)
                for (size_t j = 0; j < s->key_length; j++)
                    *keep++ = (unsigned char)get_keep(s, batch, head, i, j);
    return matrix;
}

/* Compare every item, and add its number to the sums of its distance. */
static void check_items(const setting *s, const unsigned char *out, double *sums)
{
    const size_t itemsize = get_itemsize(s->type), k = s->key_length, q = s->query_length;

    memset(sums, 0, NUM_RANGES * NUM_HEADS * sizeof *sums);
    for (size_t i = 0; i < NUM_BATCHES * NUM_HEADS * q * k; i++) {
        const size_t j = i % k, query = i / k % q, head = i / k / q % NUM_HEADS;
        const int shown = is_visible(s, i / k / q / NUM_HEADS, head, query, j);
        const int64_t d = (int64_t)j + 4 - (int64_t)(query + 5);
        const int value = expected_weight(d, head) + (s->accumulate ? (int)(i % 11) : 0) +
                          (s->has_addend ? (int)(j % 5) : 0);
        assert(get_item(out, i, itemsize) == encode(s->type, shown ? value : -1000));
        if (shown)
            sums[((d < -3 ? -3 : d > 3 ? 3 : d) + 3) * NUM_HEADS + (int64_t)head] += value;
    }
}

static void test_epilogue(const setting *s, const t5b_implementation *implementation,
                          int streaming)
{
    const size_t itemsize = get_itemsize(s->type), q = s->query_length, k = s->key_length;
    const size_t count = NUM_BATCHES * NUM_HEADS * q * k, num_diagonals = q + k - 1;
    const ptrdiff_t row = (ptrdiff_t)(k * itemsize), head_stride = row * (ptrdiff_t)q;
    unsigned char weight[NUM_HEADS * NUM_RANGES * 8], vectors[NUM_RANGES * 32], masked[8];
    const size_t range_stride = itemsize == 8 ? 32 : 16;
    const t5b_table table = {weight, itemsize, NUM_HEADS, NUM_RANGES, itemsize, NULL, -3};
    const t5b_table by_range = {vectors, itemsize, NUM_HEADS, NUM_RANGES, range_stride, NULL, -3};
    unsigned char *out = malloc((count + 1) * itemsize), *addend = malloc(k * itemsize);
    unsigned char *keep = malloc(NUM_BATCHES * NUM_HEADS * q * k);
    unsigned char *diagonals = malloc(NUM_HEADS * num_diagonals * itemsize);
    int32_t *query = malloc(q * sizeof *query), *key = malloc(k * sizeof *key);
    int64_t *query_segment = malloc(NUM_BATCHES * q * sizeof *query_segment);
    int64_t *key_segment = malloc(k * sizeof *key_segment);
    double *scratch = malloc(5 * sizeof *scratch); /* for -2 .. 2 */
    double sums[NUM_RANGES * NUM_HEADS], expected[NUM_RANGES * NUM_HEADS];
    const t5b_matrix matrix = {out, q, k, NUM_HEADS * head_stride, head_stride, row};
    const t5b_pairs positions = {T5B_INT32, query, key, 0, 0};
    t5b_epilogue epilogue = {s->type, implementation, s->accumulate, {0}, {0}, {0}, {0}, masked};

    memset(vectors, 0, sizeof vectors);
    set_integer(masked, 0, s->type, -1000);
    for (size_t head = 0; head < NUM_HEADS; head++)
        for (size_t range = 0; range < NUM_RANGES; range++) {
            const int value = expected_weight((int64_t)range - 3, head);
            set_integer(weight, head * NUM_RANGES + range, s->type, value);
            set_integer(vectors + range * range_stride, head, s->type, value);
        }
    for (size_t i = 0; i < q; i++)
        query[i] = (int32_t)i + 5;
    for (size_t i = 0; i < NUM_BATCHES * q; i++)
        query_segment[i] = (int64_t)get_query_segment(i / q, i % q) << 40;
    for (size_t j = 0; j < k; j++) {
        key[j] = (int32_t)j + 4;
        key_segment[j] = (int64_t)(j / 4 % 2) << 40;
        set_integer(addend, j, s->type, (int)(j % 5));
    }
    if (s->has_addend)
        epilogue.addend = (t5b_matrix){addend, q, k, 0, 0, 0};
    if (s->has_keep)
        epilogue.keep = make_keep(s, keep);
    if (s->has_segments)
        epilogue.segments = (t5b_pairs){T5B_INT64, query_segment, key_segment, q, 0};
    if (s->is_causal)
        epilogue.causal = positions;
    t5b_fill_diagonals(&table, -(int64_t)q, num_diagonals, diagonals,
                       (ptrdiff_t)(num_diagonals * itemsize));
    for (int way = 0; way < 2; way++) {
        for (size_t i = 0; i <= count; i++)
            set_integer(out, i, s->type, (int)(i % 11));
        for (size_t begin = 0; begin < NUM_BATCHES * q; begin += q / 2 + 1) {
            const size_t rest = NUM_BATCHES * q - begin, step = q / 2 + 1;
            const size_t end = begin + (rest < step ? rest : step);
            if (way)
                t5b_write_diagonals(diagonals, itemsize, NUM_HEADS, &epilogue, begin, end,
                                    streaming, &matrix);
            else
                t5b_write_pairs(&by_range, &positions, &epilogue, begin, end, streaming, &matrix);
        }
        check_items(s, out, expected);
        set_integer(masked, 0, s->type, (int)(count % 11));
        assert(memcmp(out + count * itemsize, masked, itemsize) == 0);
        set_integer(masked, 0, s->type, -1000);
        memset(sums, 0, sizeof sums);
        for (size_t begin = 0; begin <= NUM_BATCHES * q; begin += NUM_BATCHES * q) /* also none */
            if (way)
                t5b_sum_diagonals(&table, -(int64_t)q, s->type, &epilogue, begin, NUM_BATCHES * q,
                                  &matrix, scratch, sums);
            else
                t5b_sum_pairs(&table, &positions, s->type, &epilogue, begin, NUM_BATCHES * q,
                              &matrix, sums);
        assert(memcmp(sums, expected, sizeof sums) == 0);
    }
    free(out), free(addend), free(keep), free(diagonals), free(query), free(key);
    free(query_segment), free(key_segment), free(scratch);
}

/* All combinations of masks over a few shapes, each with one of the types in turn. */
static void test_epilogues(const t5b_implementation *implementation)
{
    size_t turn = 0;

    for (int masks = 0; masks < 128; masks++)
        for (size_t q = 1; q <= 40; q += q < 3 ? 2 : 19)
            for (size_t k = 1; k <= 3000; k += k < 70 ? 23 : 977) {
                const setting s = {(t5b_float)(turn++ % 4),
                                   q,
                                   k,
                                   masks & 1,
                                   masks & 2,
                                   masks & 4,
                                   masks & 8,
                                   masks & 16,
                                   masks & 32,
                                   masks >> 6};
                if ((s.has_keep || !(s.keep_by_head || s.keep_by_query)) && takes_case())
                    test_epilogue(&s, implementation, (int)(turn / 4 % 2));
            }
}

int main(int num_arguments, char **arguments)
{
    const t5b_implementation *implementation;

    if (num_arguments > 1)
        every = strtoul(arguments[1], NULL, 10);
    assert(every > 0);
    make_tables();
    assert(t5b_can_count(&scheme));
    for (size_t i = 0; (implementation = t5b_get_implementation(i)) != NULL; i++)
        if (implementation->is_supported()) {
            for (size_t count = 0; count <= MAX_COUNT; count += count < 70 ? 1 : 103)
                for (int streaming = 0; streaming < 2; streaming++)
                    test_count_and_lookup(implementation, count, streaming);
            test_epilogues(implementation);
            printf("%s ", implementation->name);
        }
    for (int way = 0; way < 2; way++)
        for (size_t q = 1; q <= 300; q += q < 5 ? 1 : 97)
            for (size_t k = 1; k <= 700; k += k < 5 ? 1 : 111)
                for (int64_t offset = -900; offset <= 900; offset += 300)
                    if (takes_case())
                        test_grid(way ? &ranges : &indexed,
                                  way ? &ranges_by_range : &indexed_by_range, q, k, offset,
                                  (int)(k % 2));
    printf("%s, %zu of %zu cases\n", t5b_get_compiler(), num_taken, num_cases);
    return 0;
}
