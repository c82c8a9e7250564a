/* epilogues_test.c - the C core from C: epilogues with all combinations of masks and sums.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Matrices of several batches are accumulated, added to and masked, with masks that heads and
 * queries share or not, and gradients are summed. The program needs no Python, and runs under
 * valgrind and sanitizers. vectors_test.c has one batch and no sums; guard_test.c has one batch.
 * test_c_core.py builds this with the sources of src_c. With an argument n, only every n-th
 * case runs, for valgrind.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "t5bucket.h"

static size_t every = 1, num_cases, num_taken;

/* Whether to run this case. */
static int takes_case(void)
{
    const int takes = num_cases++ % every == 0;

    num_taken += (size_t)takes;
    return takes;
}

/* Three heads, for distances of -3 to 3. Items are small integers: all types can represent them
 * and their sums. */
enum { NUM_HEADS = 3, NUM_BATCHES = 2, NUM_RANGES = 7 };
enum { QUERY_OFFSET = 5, KEY_OFFSET = 4, MASKED = -1000 };

static int expected_weight(int64_t d, size_t head)
{
    return (int)(10 * head) + (int)(d < -3 ? -3 : d > 3 ? 3 : d) + 3;
}

/* Masks of a matrix of NUM_BATCHES x NUM_HEADS heads, and its items before the call. */
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
           (!s->is_causal || j + KEY_OFFSET <= q + QUERY_OFFSET);
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
        const int64_t d = (int64_t)(j + KEY_OFFSET) - (int64_t)(query + QUERY_OFFSET);
        const int value = expected_weight(d, head) + (s->accumulate ? (int)(i % 11) : 0) +
                          (s->has_addend ? (int)(j % 5) : 0);
        assert(get_item(out, i, itemsize) == encode(s->type, shown ? value : MASKED));
        if (shown)
            sums[((d < -3 ? -3 : d > 3 ? 3 : d) + 3) * NUM_HEADS + (int64_t)head] += value;
    }
}

/* Memory of a case, and its description for the kernels. */
typedef struct scene {
    unsigned char weight[NUM_HEADS * NUM_RANGES * 8], weight_by_range[NUM_RANGES * 32];
    unsigned char masked[8], *out, *addend, *keep, *diagonals;
    int32_t *query, *key;
    int64_t *query_segment, *key_segment;
    t5b_table table, by_range;
    t5b_matrix matrix;
    t5b_pairs positions;
    t5b_epilogue epilogue;
} scene;

static void *allocate(size_t count, size_t itemsize)
{
    void *memory = malloc(count * itemsize);
    assert(memory);
    return memory;
}

static void make_tables(scene *of, t5b_float type)
{
    const size_t itemsize = get_itemsize(type), range_stride = itemsize == 8 ? 32 : 16;

    of->table = (t5b_table){of->weight, itemsize, NUM_HEADS, NUM_RANGES, itemsize, NULL, -3};
    of->by_range =
        (t5b_table){of->weight_by_range, itemsize, NUM_HEADS, NUM_RANGES, range_stride, NULL, -3};
    memset(of->weight_by_range, 0, sizeof of->weight_by_range);
    for (size_t head = 0; head < NUM_HEADS; head++)
        for (size_t range = 0; range < NUM_RANGES; range++) {
            const int value = expected_weight((int64_t)range - 3, head);
            set_integer(of->weight, head * NUM_RANGES + range, type, value);
            set_integer(of->weight_by_range + range * range_stride, head, type, value);
        }
}

static void make_positions(scene *of, size_t q, size_t k)
{
    of->query = allocate(q, sizeof *of->query);
    of->key = allocate(k, sizeof *of->key);
    of->query_segment = allocate(NUM_BATCHES * q, sizeof *of->query_segment);
    of->key_segment = allocate(k, sizeof *of->key_segment);
    for (size_t i = 0; i < q; i++)
        of->query[i] = (int32_t)i + QUERY_OFFSET;
    for (size_t j = 0; j < k; j++)
        of->key[j] = (int32_t)j + KEY_OFFSET;
    for (size_t i = 0; i < NUM_BATCHES * q; i++)
        of->query_segment[i] = (int64_t)get_query_segment(i / q, i % q) << 40;
    for (size_t j = 0; j < k; j++)
        of->key_segment[j] = (int64_t)(j / 4 % 2) << 40;
    of->positions = (t5b_pairs){T5B_INT32, of->query, of->key, 0, 0};
}

static void make_epilogue(scene *of, const setting *s, const t5b_implementation *implementation)
{
    const size_t q = s->query_length, k = s->key_length;

    of->addend = allocate(k, get_itemsize(s->type));
    of->keep = allocate(NUM_BATCHES * NUM_HEADS * q * k, 1);
    for (size_t j = 0; j < k; j++)
        set_integer(of->addend, j, s->type, (int)(j % 5));
    set_integer(of->masked, 0, s->type, MASKED);
    of->epilogue = (t5b_epilogue){.type = s->type,
                                  .implementation = implementation,
                                  .accumulate = s->accumulate,
                                  .masked_item = of->masked};
    if (s->has_addend)
        of->epilogue.addend = (t5b_matrix){of->addend, q, k, 0, 0, 0};
    if (s->has_keep)
        of->epilogue.keep = make_keep(s, of->keep);
    if (s->has_segments)
        of->epilogue.segments = (t5b_pairs){T5B_INT64, of->query_segment, of->key_segment, q, 0};
    if (s->is_causal)
        of->epilogue.causal = of->positions;
}

static scene *make_scene(const setting *s, const t5b_implementation *implementation)
{
    const size_t itemsize = get_itemsize(s->type), q = s->query_length, k = s->key_length;
    const size_t num_diagonals = q + k - 1;
    const ptrdiff_t row = (ptrdiff_t)(k * itemsize), head_stride = row * (ptrdiff_t)q;
    scene *made = allocate(1, sizeof *made);

    make_tables(made, s->type);
    make_positions(made, q, k);
    make_epilogue(made, s, implementation);
    made->out = allocate(NUM_BATCHES * NUM_HEADS * q * k + 1, itemsize);
    made->matrix = (t5b_matrix){made->out, q, k, NUM_HEADS * head_stride, head_stride, row};
    made->diagonals = allocate(NUM_HEADS * num_diagonals, itemsize);
    t5b_fill_diagonals(&made->table, -(int64_t)q, num_diagonals, made->diagonals,
                       (ptrdiff_t)(num_diagonals * itemsize));
    return made;
}

static void free_scene(scene *of)
{
    free(of->out), free(of->addend), free(of->keep), free(of->diagonals);
    free(of->query), free(of->key), free(of->query_segment), free(of->key_segment);
    free(of);
}

/* Write the matrix in several calls, and compare; return the expected sums. */
static void check_matrix(const setting *s, const scene *of, int by_pairs, int streaming,
                         double *expected)
{
    const size_t itemsize = get_itemsize(s->type), num_rows = NUM_BATCHES * s->query_length;
    const size_t count = num_rows * NUM_HEADS * s->key_length, step = s->query_length / 2 + 1;

    for (size_t i = 0; i <= count; i++)
        set_integer(of->out, i, s->type, (int)(i % 11));
    for (size_t begin = 0; begin < num_rows; begin += step) {
        const size_t end = num_rows - begin < step ? num_rows : begin + step;
        if (by_pairs)
            t5b_write_pairs(&of->by_range, &of->positions, &of->epilogue, begin, end, streaming,
                            &of->matrix);
        else
            t5b_write_diagonals(of->diagonals, itemsize, NUM_HEADS, &of->epilogue, begin, end,
                                streaming, &of->matrix);
    }
    check_items(s, of->out, expected);
    assert(get_item(of->out, count, itemsize) == encode(s->type, (int)(count % 11)));
}

static void check_gradient(const setting *s, const scene *of, int by_pairs,
                           const double *expected)
{
    const size_t num_rows = NUM_BATCHES * s->query_length;
    double sums[NUM_RANGES * NUM_HEADS] = {0};
    double *scratch = allocate(NUM_RANGES - 2, sizeof *scratch); /* for -2 to 2 */

    for (size_t begin = 0; begin <= num_rows; begin += num_rows) /* all rows, then none */
        if (by_pairs)
            t5b_sum_pairs(&of->table, &of->positions, s->type, &of->epilogue, begin, num_rows,
                          &of->matrix, sums);
        else
            t5b_sum_diagonals(&of->table, -(int64_t)s->query_length, s->type, &of->epilogue,
                              begin, num_rows, &of->matrix, scratch, sums);
    assert(memcmp(sums, expected, sizeof sums) == 0);
    free(scratch);
}

static void test_epilogue(const setting *s, const t5b_implementation *implementation,
                          int streaming)
{
    scene *of = make_scene(s, implementation);
    double expected[NUM_RANGES * NUM_HEADS];

    for (int by_pairs = 0; by_pairs < 2; by_pairs++) {
        check_matrix(s, of, by_pairs, streaming, expected);
        check_gradient(s, of, by_pairs, expected);
    }
    free_scene(of);
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
    for (size_t i = 0; (implementation = t5b_get_implementation(i)) != NULL; i++)
        if (implementation->is_supported()) {
            test_epilogues(implementation);
            printf("%s ", implementation->name);
        }
    printf("%s, %zu of %zu cases\n", t5b_get_compiler(), num_taken, num_cases);
    return 0;
}
