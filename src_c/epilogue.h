/* epilogue.h - what becomes of a block of items on its way into a matrix: shared, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Rows of the matrix are worked off in blocks that stay in the first-level cache.
 * They overlap by a line of memory, so that each head can stop and go on where a
 * line of its own begins: one that is written in two pieces costs as much as several.
 *
 *     keys                0 ........... 1007 .. 1023 .......... 2031
 *     first block         [                         )
 *     second block                       [                           )
 *     a head's part       [                     )[              ...
 */
#ifndef T5BUCKET_EPILOGUE_H
#define T5BUCKET_EPILOGUE_H

#include "t5bucket.h"

#include "floats.h"
#include "stream.h"

enum { BLOCK_LENGTH = 1024 };

/* Keys first, ..., first + count - 1 of a row: one query of one batch. */
typedef struct row_block {
    size_t row, batch, query, first, count, key_length;
} row_block;

/* The first block of every row. */
static inline row_block first_block(size_t key_length, size_t max_count)
{
    const row_block block = {0, 0, 0, 0, key_length < max_count ? key_length : max_count,
                             key_length};
    return block;
}

/* Go on to the next block, `overlap` keys before the end of this one; 0 if there is none. */
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

static inline unsigned char *get_row(const t5b_matrix *matrix, const row_block *block, size_t head)
{
    return (unsigned char *)matrix->data + (ptrdiff_t)block->batch * matrix->batch_stride +
           (ptrdiff_t)head * matrix->head_stride +
           (ptrdiff_t)block->query * matrix->query_stride;
}

static inline size_t get_line_length(size_t itemsize)
{
    return LINE_NBYTES / itemsize;
}

/* ---- masks -------------------------------------------------------------- */

/* A block's masks, as bits of items: written = (item & keep) | other. */
typedef struct row_selection {
    uint64_t keep[BLOCK_LENGTH], other[BLOCK_LENGTH];
    int is_set;
    size_t row, first, head; /* it is that of */
} row_selection;

static inline int has_mask(const t5b_epilogue *epilogue)
{
    return epilogue && (epilogue->keep.data || epilogue->segments.query || epilogue->causal.query);
}

#define HIDE(type) \
    { \
        const type query = ((const type *)pairs->query)[query_index]; \
        const type *key = (const type *)pairs->key + key_index; \
        for (size_t i = 0; i < block->count; i++) \
            visible[i] &= is_causal ? key[i] <= query : key[i] == query; \
    }

/* Hide the keys of the future, or those of other segments. */
ALWAYS_INLINE void hide(const t5b_pairs *pairs, const row_block *block, int is_causal,
                        unsigned char *visible)
{
    const size_t query_index = block->batch * pairs->query_batch_stride + block->query;
    const size_t key_index = block->batch * pairs->key_batch_stride + block->first;

    if (pairs->type == T5B_INT32)
        HIDE(int32_t)
    else
        HIDE(int64_t)
}

#undef HIDE

#define EXPAND(type) \
    { \
        const type masked = masked_item ? *(const type *)masked_item : 0; \
        type *restrict keep = (type *)selection->keep, *restrict other = (type *)selection->other; \
        for (size_t i = 0; i < count; i++) { \
            keep[i] = (type)(0 - (type)visible[i]); \
            other[i] = (type)~keep[i] & masked; \
        } \
    }

static inline void expand_visible(const unsigned char *visible, size_t count, size_t itemsize,
                                  const void *masked_item, row_selection *selection)
{
    switch (itemsize) {
    case 1: EXPAND(uint8_t) break;
    case 2: EXPAND(uint16_t) break;
    case 4: EXPAND(uint32_t) break;
    default: EXPAND(uint64_t) break;
    }
}

#undef EXPAND

static inline void select_block(const t5b_epilogue *epilogue, const row_block *block,
                                size_t head, size_t itemsize, const void *masked_item,
                                row_selection *selection)
{
    unsigned char visible[BLOCK_LENGTH];

    if (epilogue->keep.data) {
        const unsigned char *row = get_row(&epilogue->keep, block, head) + block->first;
        for (size_t i = 0; i < block->count; i++)
            visible[i] = row[i] != 0;
    } else {
        memset(visible, 1, block->count);
    }
    if (epilogue->segments.query)
        hide(&epilogue->segments, block, 0, visible);
    if (epilogue->causal.query)
        hide(&epilogue->causal, block, 1, visible);
    expand_visible(visible, block->count, itemsize, masked_item, selection);
}

/* Join the masks of a block, unless the selection, whose is_set was 0 at first, is already
 * theirs. The masked item is 0 if masked_item is NULL. */
static inline void update_selection(const t5b_epilogue *epilogue, const row_block *block,
                                    size_t head, size_t itemsize, const void *masked_item,
                                    row_selection *selection)
{
    const int is_by_query =
        epilogue->keep.query_stride != 0 || epilogue->segments.query || epilogue->causal.query;
    const size_t row = is_by_query ? block->row : block->batch;
    const size_t own_head = epilogue->keep.head_stride != 0 ? head : 0;

    if (selection->is_set && selection->row == row && selection->first == block->first &&
        selection->head == own_head)
        return;
    select_block(epilogue, block, own_head, itemsize, masked_item, selection);
    selection->is_set = 1;
    selection->row = row;
    selection->first = block->first;
    selection->head = own_head;
}

/* What to write of items: the selected ones, from `skipped` bytes on. */
static inline bytes get_bytes(const void *items, const row_selection *selection, size_t skipped)
{
    const bytes plain = {(const unsigned char *)items, NULL, NULL};
    const bytes selected = {(const unsigned char *)items,
                            (const unsigned char *)selection->keep + skipped,
                            (const unsigned char *)selection->other + skipped};
    return selection->is_set ? selected : plain;
}

/* ---- a head's part of a block ------------------------------------------- */

/* The last boundary between lines of memory that is at most this key. */
static inline size_t floor_line(const unsigned char *row, size_t key, size_t itemsize)
{
    return key - (uintptr_t)(row + key * itemsize) % LINE_NBYTES / itemsize;
}

/* Write a block of items, of keys block->first and on, to a head's row. */
static inline void finish_block(const t5b_epilogue *epilogue, const row_block *block, size_t head,
                                const void *items, size_t itemsize, row_selection *selection,
                                int streaming, const t5b_matrix *matrix)
{
    const size_t first = block->first, end = first + block->count;
    unsigned char *row = get_row(matrix, block, head);
    /* A block but the first begins a line early: its first key may have been written. */
    const size_t from = first ? floor_line(row, first + get_line_length(itemsize), itemsize) : 0;
    const size_t to = end < block->key_length ? floor_line(row, end, itemsize) : end;
    const size_t nbytes = (to - from) * itemsize, skipped = (from - first) * itemsize;
    const unsigned char *value = (const unsigned char *)items + skipped;
    unsigned char *target = row + from * itemsize;
    uint64_t scratch[BLOCK_LENGTH];

    if (has_mask(epilogue))
        update_selection(epilogue, block, head, itemsize, epilogue->masked_item, selection);
    if (epilogue && (epilogue->accumulate || epilogue->addend.data)) {
        const int is_in_place = !selection->is_set && !streaming;
        unsigned char *sum = is_in_place ? target : (unsigned char *)scratch;
        const unsigned char *first_term = epilogue->accumulate ? target : value;
        if (sum != first_term)
            memcpy(sum, first_term, nbytes);
        if (epilogue->accumulate)
            epilogue->implementation->add_items(epilogue->type, sum, value, to - from);
        if (epilogue->addend.data)
            epilogue->implementation->add_items(
                epilogue->type, sum,
                get_row(&epilogue->addend, block, head) + from * itemsize, to - from);
        value = sum;
    }
    if (value != target) {
        const bytes written = get_bytes(value, selection, skipped);
        write_row(target, &written, nbytes, streaming);
    }
}

#endif
