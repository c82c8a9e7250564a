/* gradient.c - the adjoint of writing a matrix: sums of its gradient by range of the table.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#include <assert.h>

#include "float64_sums.h"
#include "locate.h"
#include "masks.h"
#include "rows.h"

/* Return a head's gradient in a block; if a mask applies, a copy in `scratch` with zeros. */
static const unsigned char *read_block(t5b_float type, const t5b_epilogue *epilogue,
                                       const row_block *block, size_t head,
                                       const t5b_matrix *gradient, block_mask *mask,
                                       uint64_t *scratch)
{
    const size_t itemsize = get_float_nbytes(type);
    const unsigned char *items = get_row(gradient, block, head) + block->first * itemsize;
    row_source selected;

    if (!has_mask(epilogue))
        return items;
    join_masks(epilogue, block, head, itemsize, NULL, mask);
    selected = mask_items(items, mask, 0);
    write_bytes((unsigned char *)scratch, &selected, 0, block->count * itemsize);
    return (const unsigned char *)scratch;
}

/* Relative positions first to first + count - 1, all between the first and the last range. */
typedef struct middle_positions {
    int64_t first;
    size_t count;
} middle_positions;

/* Find which of d to d + count - 1 are between the first and the last range. */
static middle_positions find_middle(const t5b_table *table, int64_t d, size_t count)
{
    const size_t last = table->num_ranges - 1;
    const size_t begin = count_until(table, 0, d, count);
    const size_t end = last > 0 ? count_until(table, last - 1, d, count) : begin;
    const middle_positions found = {d + (int64_t)begin, end - begin};
    return found;
}

/* Add items of consecutive relative positions from d on. Most items of a large matrix are in
 * the first or the last range: they are added to the sums of these ranges. All others are
 * added to their diagonals. */
static void sum_run(const t5b_table *table, int64_t d, t5b_float type, const unsigned char *items,
                    size_t count, int64_t first, double *diagonals, double *sums)
{
    const size_t itemsize = get_float_nbytes(type);
    const middle_positions middle = find_middle(table, d, count);
    const size_t begin = (size_t)(middle.first - d), end = begin + middle.count;

    sums[0] += sum_in_float64(type, items, begin);
    if (middle.count > 0)
        add_in_float64(type, items + begin * itemsize, middle.count,
                       diagonals + (middle.first - first));
    sums[(table->num_ranges - 1) * table->num_heads] +=
        sum_in_float64(type, items + end * itemsize, count - end);
}

/* Add diagonals to a head's sums. */
static void sum_ranges(const t5b_table *table, const middle_positions *middle,
                       const double *diagonals, double *sums)
{
    size_t begin = 0;

    for (size_t range = 1; begin < middle->count; range++) {
        const size_t end = count_until(table, range, middle->first, middle->count);
        for (; begin < end; begin++)
            sums[range * table->num_heads] += diagonals[begin];
    }
}

void t5b_sum_diagonals(const t5b_table *table, int64_t first, t5b_float type,
                       const t5b_epilogue *epilogue, size_t begin, size_t end,
                       const t5b_matrix *gradient, double *diagonals, double *sums)
{
    const size_t query_length = gradient->query_length, key_length = gradient->key_length;
    const size_t last_query = query_length - 1;
    const middle_positions middle = find_middle(table, first, last_query + key_length);
    block_mask mask;
    uint64_t scratch[BLOCK_LENGTH];

    assert(query_length > 0 && key_length > 0);
    mask.is_filled = 0;
    for (size_t head = 0; head < table->num_heads; head++) {
        row_block block = first_block(key_length, has_mask(epilogue) ? BLOCK_LENGTH : key_length);
        memset(diagonals, 0, middle.count * sizeof *diagonals);
        do
            for (size_t row = begin; row < end; row++) {
                move_to_row(&block, row, query_length);
                sum_run(table, first + (int64_t)(last_query - block.query + block.first), type,
                        read_block(type, epilogue, &block, head, gradient, &mask, scratch),
                        block.count, middle.first, diagonals, sums + head);
            }
        while (next_block(&block, 0));
        sum_ranges(table, &middle, diagonals, sums + head);
    }
}

enum { GROUP_LENGTH = 4 }; /* heads that are added side by side */

/* Add the numbers of each pair, one for each head, to the sums of the pair's range. */
static inline void scatter(double (*numbers)[BLOCK_LENGTH], const uint32_t *range, size_t count,
                           size_t num_heads, size_t range_length, double *sums)
{
    for (size_t i = 0; i < count; i++)
        for (size_t h = 0; h < num_heads; h++)
            sums[range[i] * range_length + h] += numbers[h][i];
}

void t5b_sum_pairs(const t5b_table *table, const t5b_pairs *positions, t5b_float type,
                   const t5b_epilogue *epilogue, size_t begin, size_t end,
                   const t5b_matrix *gradient, double *sums)
{
    const size_t num_heads = table->num_heads;
    row_block block = first_block(gradient->key_length, BLOCK_LENGTH);
    uint32_t range[BLOCK_LENGTH];
    double numbers[GROUP_LENGTH][BLOCK_LENGTH];
    block_mask mask;
    uint64_t scratch[BLOCK_LENGTH];

    assert(table->num_ranges > 0 && table->num_ranges <= UINT32_MAX);
    assert(gradient->query_length > 0 && gradient->key_length > 0);
    mask.is_filled = 0;
    do
        for (size_t row = begin; row < end; row++) {
            move_to_row(&block, row, gradient->query_length);
            locate_block(table, positions, &block, range);
            for (size_t head = 0; head < num_heads; head++) {
                const size_t lane = head % GROUP_LENGTH;
                memset(numbers[lane], 0, block.count * sizeof *numbers[lane]);
                add_in_float64(type,
                               read_block(type, epilogue, &block, head, gradient, &mask, scratch),
                               block.count, numbers[lane]);
                if (lane == GROUP_LENGTH - 1)
                    scatter(numbers, range, block.count, GROUP_LENGTH, num_heads,
                            sums + head - lane);
                else if (head == num_heads - 1)
                    scatter(numbers, range, block.count, lane + 1, num_heads, sums + head - lane);
            }
        }
    while (next_block(&block, 0));
}
