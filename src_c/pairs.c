/* pairs.c - explicit positions: locate each pair of a matrix once, for all heads.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#include <assert.h>

#include "epilogue.h"
#include "locate.h"
#include "take_heads.h"

enum { STRIP_LENGTH = 8 }; /* rows that are located together: 16 KiB */

/* Write num_heads heads of located rows, from first_head on. They fit in a vector. */
static void write_heads(const t5b_table *table, uint32_t (*offset)[BLOCK_LENGTH],
                        const t5b_epilogue *epilogue, row_block block, size_t first_head,
                        size_t num_heads, size_t begin, size_t end, int streaming,
                        const t5b_matrix *matrix)
{
    const size_t itemsize = table->itemsize;
    vector_rows taken;
    block_mask mask;

    mask.is_filled = 0;
    for (size_t row = begin; row < end; row++) {
        const unsigned char *rows = (const unsigned char *)taken.items;
        move_to_row(&block, row, matrix->query_length);
        take_heads(table, first_head, num_heads, offset[row - begin], block.count,
                   (unsigned char *)taken.items);
        for (size_t h = 0; h < num_heads; h++)
            write_block(epilogue, &block, first_head + h, rows + h * TAKEN_LENGTH * itemsize,
                        itemsize, &mask, streaming, matrix);
    }
}

/* The binary logarithm of a power of two. */
static uint32_t get_shift(size_t stride)
{
    uint32_t shift = 0;

    while (stride >> shift > 1)
        shift++;
    return shift;
}

/* Write a block of some rows: locate its pairs, then take each vector of heads. */
static void write_strip(const t5b_table *table, const t5b_pairs *positions,
                        const t5b_epilogue *epilogue, row_block block, size_t begin, size_t end,
                        int streaming, const t5b_matrix *matrix)
{
    const size_t group_length = T5B_VECTOR_NBYTES / table->itemsize;
    const uint32_t shift = get_shift(table->range_stride);
    uint32_t offset[STRIP_LENGTH][BLOCK_LENGTH]; /* bytes from items to the range's items */

    for (size_t row = begin; row < end; row++) {
        move_to_row(&block, row, matrix->query_length);
        locate_block(table, positions, &block, offset[row - begin]);
        for (size_t i = 0; i < block.count; i++)
            offset[row - begin][i] <<= shift;
    }
    for (size_t head = 0; head < table->num_heads; head += group_length) {
        const size_t rest = table->num_heads - head;
        write_heads(table, offset, epilogue, block, head,
                    rest < group_length ? rest : group_length, begin, end, streaming, matrix);
    }
}

void t5b_write_pairs(const t5b_table *table, const t5b_pairs *positions,
                     const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
                     const t5b_matrix *matrix)
{
    row_block block = first_block(matrix->key_length, BLOCK_LENGTH);

    assert(table->num_ranges > 0 && table->num_ranges <= UINT32_MAX / table->range_stride);
    assert(matrix->query_length > 0 && matrix->key_length > 0);
    assert((table->range_stride & (table->range_stride - 1)) == 0);
    assert(table->num_heads == 1 || table->range_stride % T5B_VECTOR_NBYTES == 0);
    do
        for (size_t row = begin; row < end; row += STRIP_LENGTH)
            write_strip(table, positions, epilogue, block, row,
                        end - row < STRIP_LENGTH ? end : row + STRIP_LENGTH, streaming, matrix);
    while (next_block(&block, get_line_length(table->itemsize)));
    fence_stores();
}
