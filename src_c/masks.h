/* masks.h - join the masks of a block into bits of items: shared by the kernels, not installed.
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

/* The joined masks of a block: what is written is (item & keep) | other. */
typedef struct block_mask {
    uint64_t keep[BLOCK_LENGTH], other[BLOCK_LENGTH]; /* bits of items */
    int is_filled;           /* 0 before the first block, and if nothing is masked */
    size_t row, first, head; /* the block that filled it */
} block_mask;

static inline int has_mask(const t5b_epilogue *epilogue)
{
    return epilogue &&
           (epilogue->keep.data || epilogue->segments.query || epilogue->causal.query);
}

#define HIDE_KEYS(type) \
    { \
        const type query = ((const type *)pairs->query)[query_index]; \
        const type *key = (const type *)pairs->key + key_index; \
        for (size_t i = 0; i < block->count; i++) \
            visible[i] &= is_causal ? key[i] <= query : key[i] == query; \
    }

/* Hide future keys if is_causal, otherwise keys of other segments. */
ALWAYS_INLINE void hide_keys(const t5b_pairs *pairs, const row_block *block, int is_causal,
                             unsigned char *visible)
{
    const size_t query_index = block->batch * pairs->query_batch_stride + block->query;
    const size_t key_index = block->batch * pairs->key_batch_stride + block->first;

    if (pairs->type == T5B_INT32)
        HIDE_KEYS(int32_t)
    else
        HIDE_KEYS(int64_t)
}

#undef HIDE_KEYS

#define EXPAND(item) \
    { \
        const item masked = masked_item ? *(const item *)masked_item : 0; \
        item *RESTRICT keep = (item *)mask->keep; \
        item *RESTRICT other = (item *)mask->other; \
        for (size_t i = 0; i < count; i++) { \
            keep[i] = (item)(0 - (item)visible[i]); \
            other[i] = (item)~keep[i] & masked; \
        } \
    }

static inline void expand_to_items(const unsigned char *visible, size_t count, size_t itemsize,
                                   const void *masked_item, block_mask *mask)
{
    FOR_ITEMSIZE(itemsize, EXPAND)
}

#undef EXPAND

/* Join the masks of a block. */
static inline void fill_mask(const t5b_epilogue *epilogue, const row_block *block, size_t head,
                             size_t itemsize, const void *masked_item, block_mask *mask)
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
        hide_keys(&epilogue->segments, block, 0, visible);
    if (epilogue->causal.query)
        hide_keys(&epilogue->causal, block, 1, visible);
    expand_to_items(visible, block->count, itemsize, masked_item, mask);
}

/* Join the masks of a block, unless `mask` already holds them. If masked_item is NULL, masked
 * items are 0. */
static inline void join_masks(const t5b_epilogue *epilogue, const row_block *block, size_t head,
                              size_t itemsize, const void *masked_item, block_mask *mask)
{
    const int is_by_query =
        epilogue->keep.query_stride != 0 || epilogue->segments.query || epilogue->causal.query;
    const size_t row = is_by_query ? block->row : block->batch;
    const size_t own_head = epilogue->keep.head_stride != 0 ? head : 0;

    if (mask->is_filled && mask->row == row && mask->first == block->first &&
        mask->head == own_head)
        return;
    fill_mask(epilogue, block, own_head, itemsize, masked_item, mask);
    mask->is_filled = 1;
    mask->row = row;
    mask->first = block->first;
    mask->head = own_head;
}

/* Describe what to write for a block's items, from `skipped` bytes on. */
static inline row_source mask_items(const void *items, const block_mask *mask, size_t skipped)
{
    row_source source = {(const unsigned char *)items, NULL, NULL};

    if (mask->is_filled) {
        source.keep = (const unsigned char *)mask->keep + skipped;
        source.other = (const unsigned char *)mask->other + skipped;
    }
    return source;
}

#endif
