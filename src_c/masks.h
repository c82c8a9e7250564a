/* masks.h - the masks of a block, joined, as bits of items: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_MASKS_H
#define T5BUCKET_MASKS_H

#include "t5bucket.h"

#include <string.h>

#include "items.h"
#include "processor.h"
#include "rows.h"
#include "stream.h"

/* A block's masks, as bits of items: written = (item & keep) | other. */
typedef struct row_selection {
    uint64_t keep[BLOCK_LENGTH], other[BLOCK_LENGTH];
    int is_set;
    size_t row, first, head; /* it is that of */
} row_selection;

static inline int has_mask(const t5b_epilogue *epilogue)
{
    return epilogue &&
           (epilogue->keep.data || epilogue->segments.query || epilogue->causal.query);
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

#define EXPAND(item) \
    { \
        const item masked = masked_item ? *(const item *)masked_item : 0; \
        item *restrict keep = (item *)selection->keep; \
        item *restrict other = (item *)selection->other; \
        for (size_t i = 0; i < count; i++) { \
            keep[i] = (item)(0 - (item)visible[i]); \
            other[i] = (item)~keep[i] & masked; \
        } \
    }

static inline void expand_visible(const unsigned char *visible, size_t count, size_t itemsize,
                                  const void *masked_item, row_selection *selection)
{
    FOR_ITEMSIZE(itemsize, EXPAND)
}

#undef EXPAND

static inline void select_block(const t5b_epilogue *epilogue, const row_block *block, size_t head,
                                size_t itemsize, const void *masked_item,
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

#endif
