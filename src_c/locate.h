/* locate.h - a block of (query, key) pairs -> ranges of a table: shared, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_LOCATE_H
#define T5BUCKET_LOCATE_H

#include "t5bucket.h"

#include "rows.h"
#include "table.h"

/* key - query, saturated. */
static inline void subtract_int64(const int64_t *key, int64_t query, size_t count,
                                  int64_t *relative_position)
{
    for (size_t i = 0; i < count; i++) {
        const int64_t wrapped = (int64_t)((uint64_t)key[i] - (uint64_t)query);
        const int64_t saturated = key[i] < query ? INT64_MIN : INT64_MAX;
        /* Operands of different signs whose difference lost the key's sign. */
        const int overflow = ((key[i] ^ query) & (key[i] ^ wrapped)) < 0;
        relative_position[i] = overflow ? saturated : wrapped;
    }
}

/* Ranges of pairs in a table that is_narrow. */
static inline void locate_near(const t5b_table *table, const int32_t *key, int32_t query,
                               size_t count, uint32_t *range)
{
    const int32_t first = query + (int32_t)table->origin;
    const int32_t last = (int32_t)(table->num_ranges - 1);

    for (size_t i = 0; i < count; i++) {
        const int32_t index = key[i] - first;
        const int32_t above = index & ~(index >> 31); /* 0 if negative */
        const int32_t room = last - above;
        range[i] = (uint32_t)(last - (room & ~(room >> 31)));
    }
}

/* Ranges of a block's pairs; as many as a vector has items are valid after them. */
static inline void locate_block(const t5b_table *table, const t5b_pairs *positions,
                                const row_block *block, uint32_t *range)
{
    const size_t keys = block->batch * positions->key_batch_stride + block->first;
    const size_t query_index = block->batch * positions->query_batch_stride + block->query;
    const size_t count = block->count;
    int64_t relative_position[BLOCK_LENGTH];

    if (positions->type == T5B_INT32) {
        const int32_t *key = (const int32_t *)positions->key + keys;
        const int32_t query = ((const int32_t *)positions->query)[query_index];
        if (is_narrow(table)) {
            locate_near(table, key, query, count, range);
        } else {
            for (size_t i = 0; i < count; i++)
                relative_position[i] = key[i] - query;
            locate_int64(table, relative_position, count, range);
        }
    } else {
        subtract_int64((const int64_t *)positions->key + keys,
                       ((const int64_t *)positions->query)[query_index], count,
                       relative_position);
        locate_int64(table, relative_position, count, range);
    }
    for (size_t i = count; i % T5B_VECTOR_NBYTES != 0; i++)
        range[i] = 0;
}

#endif
