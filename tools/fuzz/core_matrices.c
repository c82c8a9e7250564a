/* core_matrices.c - a libFuzzer target: the kernels that write matrices.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes become one valid call. input.h says how, and what a run checks.
 */
#include "t5bucket.h"

#include "matrices.h"

/* Where items come from: diagonals, or a table by positions. */
typedef struct item_source {
    const unsigned char *diagonals;
    const t5b_table *table;
    const t5b_pairs *positions;
} item_source;

static const void *get_source_item(const item_source *source, const shape *s, size_t itemsize,
                                   size_t batch, size_t head, size_t i, size_t j)
{
    const size_t num_diagonals = s->query_length + s->key_length - 1;

    if (source->diagonals)
        return source->diagonals +
               (head * num_diagonals + s->query_length - 1 - i + j) * itemsize;
    return expected_item(source->table, head,
                         get_relative_position(source->positions, batch, i, j));
}

/* Compute what is written for an item; `*is_any_nan` is as in expected_sum. */
static uint64_t expected_written(const t5b_epilogue *epilogue, size_t itemsize, uint64_t item,
                                 uint64_t held, size_t batch, size_t head, size_t i, size_t j,
                                 int *is_any_nan)
{
    if (!epilogue)
        return item;
    if (!expected_visible(epilogue, batch, head, i, j)) {
        *is_any_nan = 0;
        return read_bits(epilogue->masked_item, itemsize);
    }
    if (epilogue->accumulate)
        item = expected_sum(epilogue->type, held, item, is_any_nan);
    if (epilogue->addend.data)
        item = expected_sum(
            epilogue->type, item,
            read_bits(get_matrix_item(&epilogue->addend, itemsize, batch, head, i, j), itemsize),
            is_any_nan);
    return item;
}

/* Check an output after rows begin to end - 1 were written; other rows must be as before. */
static void check_matrix(const t5b_matrix *matrix, region found, region before,
                         const item_source *source, const shape *s, size_t itemsize,
                         const t5b_epilogue *epilogue, size_t begin, size_t end)
{
    for (size_t row = begin; row < end; row++)
        for (size_t head = 0; head < s->num_heads; head++)
            for (size_t j = 0; j < s->key_length; j++) {
                const size_t batch = row / s->query_length, i = row % s->query_length;
                const unsigned char *written =
                    get_matrix_item(matrix, itemsize, batch, head, i, j);
                unsigned char *expected = before.begin + (written - found.begin);
                const uint64_t actual = read_bits(written, itemsize);
                const void *item = get_source_item(source, s, itemsize, batch, head, i, j);
                int is_any_nan = 0;
                uint64_t bits = expected_written(epilogue, itemsize, read_bits(item, itemsize),
                                                 read_bits(expected, itemsize), batch, head, i, j,
                                                 &is_any_nan);
                if (is_any_nan && is_nan(float_formats[epilogue->type], actual))
                    bits = actual;
                write_bits(expected, itemsize, bits);
            }
    check_equal(found, before);
}

static void fuzz_fill_diagonals(void)
{
    const size_t itemsize = take_itemsize(), num_heads = 1 + take_below(6);
    const t5b_table table = take_table(itemsize, num_heads, 0);
    const size_t count = take_below(4) ? take_below(200) : take_below(3000);
    const int64_t first =
        clamp(draw_position(&table) - (wide)take_below(300), INT64_MIN, INT64_MAX - (wide)count);
    const shape s = {1, num_heads, 1, count};
    region memory, expected;
    const t5b_matrix diagonals = take_matrix(&s, itemsize, 0, &memory);

    snprintf(call_text, sizeof call_text, "fill_diagonals from %lld, %zu, %zu ranges, starts %d",
             (long long)first, count, table.num_ranges, table.starts != NULL);
    expected = copy_region(memory);
    for (size_t head = 0; head < num_heads; head++)
        for (size_t i = 0; i < count; i++) {
            const unsigned char *item = get_matrix_item(&diagonals, itemsize, 0, head, 0, i);
            memcpy(expected.begin + (item - memory.begin),
                   expected_item(&table, head, (wide)first + i), itemsize);
        }
    t5b_fill_diagonals(&table, first, count, diagonals.data, diagonals.head_stride);
    check_equal(memory, expected);
}

static void fuzz_write_diagonals(void)
{
    const shape s = take_shape();
    const int streaming = take_below(2) == 1;
    const size_t num_diagonals = s.query_length + s.key_length - 1;
    t5b_epilogue memory_of_epilogue;
    size_t itemsize, cuts[NUM_CUTS];
    const t5b_epilogue *epilogue = take_epilogue(&s, &memory_of_epilogue, &itemsize);
    unsigned char *diagonals;
    const region items =
        allocate_region(s.num_heads * num_diagonals * itemsize, itemsize, &diagonals);
    const item_source source = {diagonals, NULL, NULL};
    region memory, before;
    const t5b_matrix matrix = take_matrix(&s, itemsize, 0, &memory);

    if (epilogue && (epilogue->accumulate || epilogue->addend.data)) {
        take_floats(items, epilogue->type);
        take_floats(memory, epilogue->type);
    }
    before = copy_region(memory);
    take_cuts(s.num_batches * s.query_length, cuts);
    describe_matrix("write_diagonals", &s, itemsize, epilogue, cuts, streaming);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        t5b_write_diagonals(diagonals, itemsize, s.num_heads, epilogue, cuts[call],
                            cuts[call + 1], streaming, &matrix);
    check_matrix(&matrix, memory, before, &source, &s, itemsize, epilogue, cuts[0], cuts[3]);
}

static void fuzz_write_pairs(void)
{
    const shape s = take_shape();
    const int streaming = take_below(2) == 1;
    t5b_epilogue memory_of_epilogue;
    size_t itemsize, cuts[NUM_CUTS];
    const t5b_epilogue *epilogue = take_epilogue(&s, &memory_of_epilogue, &itemsize);
    const t5b_table table = take_table(itemsize, s.num_heads, s.num_heads > 1 || take_below(2));
    const t5b_pairs positions = take_pairs(&s, &table);
    const item_source source = {NULL, &table, &positions};
    region memory, before;
    const t5b_matrix matrix = take_matrix(&s, itemsize, 0, &memory);

    if (epilogue && (epilogue->accumulate || epilogue->addend.data))
        take_floats(memory, epilogue->type);
    before = copy_region(memory);
    take_cuts(s.num_batches * s.query_length, cuts);
    describe_matrix("write_pairs", &s, itemsize, epilogue, cuts, streaming);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        t5b_write_pairs(&table, &positions, epilogue, cuts[call], cuts[call + 1], streaming,
                        &matrix);
    check_matrix(&matrix, memory, before, &source, &s, itemsize, epilogue, cuts[0], cuts[3]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static const kernel_test tests[] = {fuzz_fill_diagonals, fuzz_write_diagonals,
                                        fuzz_write_pairs};

    return run_one(tests, sizeof tests / sizeof *tests, data, nbytes);
}
