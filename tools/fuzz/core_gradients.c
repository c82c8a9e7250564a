/* core_gradients.c - a libFuzzer target: the kernels that sum gradients.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes become one valid call. input.h says how, and what a run checks.
 */
#include "t5bucket.h"

#include "matrices.h"

/* Small integers, whose sums are exact in any order; masked items may be anything. */
static void encode_gradient(const shape *s, const t5b_epilogue *epilogue, t5b_float type,
                            const t5b_matrix *gradient, const size_t *cuts,
                            const t5b_table *table, const t5b_pairs *positions, int64_t first,
                            double *expected)
{
    const size_t itemsize = float_formats[type].itemsize;

    for (size_t row = 0; row < s->num_batches * s->query_length; row++)
        for (size_t head = 0; head < s->num_heads; head++)
            for (size_t j = 0; j < s->key_length; j++) {
                const size_t batch = row / s->query_length, i = row % s->query_length;
                const wide d = positions ? get_relative_position(positions, batch, i, j)
                                         : (wide)first + (s->query_length - 1 - i + j);
                const int value = (int)draw_below(65) - 32;
                if (row < cuts[0] || row >= cuts[3] ||
                    (epilogue && !expected_visible(epilogue, batch, head, i, j)))
                    continue; /* random bits stay */
                write_bits(get_matrix_item(gradient, itemsize, batch, head, i, j), itemsize,
                           encode_integer(type, value));
                expected[expected_range(table, d) * s->num_heads + head] += value;
            }
}

static size_t count_middle(const t5b_table *table, int64_t first, size_t count)
{
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        const size_t range = expected_range(table, (wide)first + i);
        found += range > 0 && range + 1 < table->num_ranges;
    }
    return found;
}

/* An epilogue with only masks: the kernel must not read the masked item or the addend. */
static const t5b_epilogue *take_masks_alone(const shape *s, t5b_epilogue *epilogue)
{
    const size_t flags = take_below(8) * KEEP;

    memset(epilogue, 0, sizeof *epilogue);
    if (flags == 0 && take_below(2))
        return NULL;
    epilogue->accumulate = 1;
    epilogue->addend.data = allocate(0);
    take_masks(s, flags, epilogue);
    return epilogue;
}

static void fuzz_sums(int has_positions)
{
    const shape s = take_shape();
    const size_t num_diagonals = s.query_length + s.key_length - 1;
    const t5b_float type = (t5b_float)take_below(4);
    const size_t itemsize = float_formats[type].itemsize;
    t5b_epilogue memory_of_epilogue;
    const t5b_epilogue *epilogue = take_masks_alone(&s, &memory_of_epilogue);
    t5b_table table = {NULL, 0, s.num_heads, 0, 0, NULL, 0};
    t5b_pairs positions;
    size_t cuts[NUM_CUTS];
    region memory;
    const t5b_matrix gradient = take_matrix(&s, itemsize, 0, &memory);
    double *sums, *expected, *scratch;
    int64_t first;

    take_ranges(&table);
    positions = take_pairs(&s, &table);
    first = clamp(draw_position(&table) - (wide)take_below(200), INT64_MIN,
                  INT64_MAX - (wide)num_diagonals);
    take_cuts(s.num_batches * s.query_length, cuts);
    sums = (double *)allocate(table.num_ranges * s.num_heads * sizeof *sums);
    expected = (double *)allocate(table.num_ranges * s.num_heads * sizeof *sums);
    for (size_t i = 0; i < table.num_ranges * s.num_heads; i++)
        sums[i] = expected[i] = (double)draw_below(1000);
    encode_gradient(&s, epilogue, type, &gradient, cuts, &table,
                    has_positions ? &positions : NULL, first, expected);
    scratch = (double *)allocate(count_middle(&table, first, num_diagonals) * sizeof *scratch);
    describe_matrix(has_positions ? "sum_pairs" : "sum_diagonals", &s, itemsize, epilogue, cuts,
                    0);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        if (has_positions)
            t5b_sum_pairs(&table, &positions, type, epilogue, cuts[call], cuts[call + 1],
                          &gradient, sums);
        else
            t5b_sum_diagonals(&table, first, type, epilogue, cuts[call], cuts[call + 1],
                              &gradient, scratch, sums);
    for (size_t i = 0; i < table.num_ranges * s.num_heads; i++)
        check(sums[i] == expected[i], "a sum is wrong");
}

static void fuzz_sum_diagonals(void)
{
    fuzz_sums(0);
}

static void fuzz_sum_pairs(void)
{
    fuzz_sums(1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static const kernel_test tests[] = {fuzz_sum_diagonals, fuzz_sum_pairs};

    return run_one(tests, sizeof tests / sizeof *tests, data, nbytes);
}
