/* rows.h - divide the rows of a matrix into blocks: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A block fits in the first-level cache. Blocks overlap by a line of memory, so that each head
 * can end its part where one of its lines ends, and begin the next part there. A line that is
 * written in two pieces costs as much as several lines.
 *
 *     keys                0 ........... 1007 .. 1023 .......... 2031
 *     first block         [                         )
 *     second block                       [                           )
 *     a head's part       [                     )[              ...
 */
#ifndef T5BUCKET_ROWS_H
#define T5BUCKET_ROWS_H

#include "t5bucket.h"

#include "stream.h"

enum { BLOCK_LENGTH = 1024 }; /* largest number of keys in a block */

/* Keys first to first + count - 1 of a row, which is one query of one batch. */
typedef struct row_block {
    size_t row, batch, query, first, count, key_length;
} row_block;

/* The first block of every row. */
static inline row_block first_block(size_t key_length, size_t max_count)
{
    const size_t count = key_length < max_count ? key_length : max_count;
    const row_block block = {0, 0, 0, 0, count, key_length};
    return block;
}

/* Move to the next block, which begins `overlap` keys before the end of this one. Return 0 if
 * there is none. */
static inline int next_block(row_block *block, size_t overlap)
{
    const size_t end = block->first + block->count, rest = block->key_length - end + overlap;

    block->first = end - overlap;
    block->count = rest < BLOCK_LENGTH ? rest : BLOCK_LENGTH;
    return end < block->key_length;
}

static inline void move_to_row(row_block *block, size_t row, size_t query_length)
{
    block->row = row;
    block->batch = row / query_length;
    block->query = row % query_length;
}

/* The same as move_to_row to the next row, but without a division. */
static inline void move_to_next_row(row_block *block, size_t query_length)
{
    block->row++;
    if (++block->query == query_length) {
        block->query = 0;
        block->batch++;
    }
}

static inline unsigned char *get_row(const t5b_matrix *matrix, const row_block *block,
                                     size_t head)
{
    return (unsigned char *)matrix->data + (ptrdiff_t)block->batch * matrix->batch_stride +
           (ptrdiff_t)head * matrix->head_stride + (ptrdiff_t)block->query * matrix->query_stride;
}

static inline size_t get_line_length(size_t itemsize)
{
    return LINE_NBYTES / itemsize;
}

/* The key, at or before this one, at which the last line of memory begins. */
static inline size_t floor_line(const unsigned char *row, size_t key, size_t itemsize)
{
    return key - (uintptr_t)(row + key * itemsize) % LINE_NBYTES / itemsize;
}

#endif
