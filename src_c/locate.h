/* locate.h - relative positions -> ranges of a table: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Consecutive positions are counted range by range. Explicit positions are located one by
 * one: by index if ranges are one token wide, otherwise by searching the starts.
 */
#ifndef T5BUCKET_LOCATE_H
#define T5BUCKET_LOCATE_H

#include "t5bucket.h"

#include "rows.h"

/* ---- Consecutive positions ---------------------------------------------- */

/* The first relative position of a range. Range 0 has none. */
static inline int64_t get_start(const t5b_table *table, size_t range)
{
    return table->starts ? table->starts[range - 1] : table->origin + (int64_t)range;
}

/* How many of the relative positions first to first + count - 1 are before the end of this
 * range. Computed unsigned, because the difference of two int64 may need 64 bits. */
static inline size_t count_until(const t5b_table *table, size_t range, int64_t first,
                                 size_t count)
{
    if (range + 1 == table->num_ranges)
        return count;
    const int64_t start = get_start(table, range + 1);
    const uint64_t before = start <= first ? 0 : (uint64_t)start - (uint64_t)first;
    return before < count ? (size_t)before : count;
}

/* ---- Explicit positions ------------------------------------------------- */

/* Whether positions can be located in int32: by index, and no start is beyond 2^29 tokens. */
static inline int fits_int32(const t5b_table *table)
{
    const int64_t limit = (int64_t)1 << 29;
    return !table->starts && table->origin >= -limit && table->origin <= limit &&
           table->num_ranges <= (size_t)(limit - table->origin);
}

/* How many starts are at or before this position. The binary search takes the same steps for
 * every position, so the processor predicts its branches. */
static inline uint32_t search_starts(const t5b_table *table, int64_t position)
{
    const int64_t *base = table->starts;
    size_t length = table->num_ranges - 1;

    if (length == 0)
        return 0;
    while (length > 1) {
        const size_t half = length / 2;
        base += base[half - 1] <= position ? half : 0;
        length -= half;
    }
    return (uint32_t)(base - table->starts) + (*base <= position);
}

#define LOCATE_BY_INDEX(type) \
    const type first = (type)table->origin; \
    const type last = (type)(first + (type)(table->num_ranges - 1)); \
    for (size_t i = 0; i < count; i++) { \
        type position = relative_position[i]; \
        position = position < first ? first : position; \
        position = position > last ? last : position; \
        range[i] = (uint32_t)(position - first); \
    }

/* For tables with fits_int32; positions are saturated. */
static inline void locate_int32(const t5b_table *table, const int32_t *relative_position,
                                size_t count, uint32_t *range)
{
    LOCATE_BY_INDEX(int32_t)
}

static inline void locate_int64(const t5b_table *table, const int64_t *relative_position,
                                size_t count, uint32_t *range)
{
    if (table->starts) {
        for (size_t i = 0; i < count; i++)
            range[i] = search_starts(table, relative_position[i]);
    } else {
        LOCATE_BY_INDEX(int64_t)
    }
}

#undef LOCATE_BY_INDEX

/* ---- Pairs of explicit positions ---------------------------------------- */

/* The same as locate_int32 for key - query, which cannot overflow. Clips by arithmetic, because
 * SSE2 has no minimum and maximum of int32. */
static inline void locate_int32_pairs(const t5b_table *table, const int32_t *key, int32_t query,
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

/* key - query, saturated. */
static inline void subtract_int64(const int64_t *key, int64_t query, size_t count,
                                  int64_t *relative_position)
{
    for (size_t i = 0; i < count; i++) {
        const int64_t wrapped = (int64_t)((uint64_t)key[i] - (uint64_t)query);
        const int64_t saturated = key[i] < query ? INT64_MIN : INT64_MAX;
        /* Overflow: the operands' signs differ, and the difference does not have the key's. */
        const int overflow = ((key[i] ^ query) & (key[i] ^ wrapped)) < 0;
        relative_position[i] = overflow ? saturated : wrapped;
    }
}

/* Find the ranges of a block's pairs. Entries after them, up to a whole vector, are set to 0. */
static inline void locate_block(const t5b_table *table, const t5b_pairs *positions,
                                const row_block *block, uint32_t *range)
{
    const size_t first_key = block->batch * positions->key_batch_stride + block->first;
    const size_t query_index = block->batch * positions->query_batch_stride + block->query;
    const size_t count = block->count;
    int64_t relative_position[BLOCK_LENGTH];

    if (positions->type == T5B_INT32) {
        const int32_t *key = (const int32_t *)positions->key + first_key;
        const int32_t query = ((const int32_t *)positions->query)[query_index];
        if (fits_int32(table)) {
            locate_int32_pairs(table, key, query, count, range);
        } else {
            for (size_t i = 0; i < count; i++)
                relative_position[i] = key[i] - query;
            locate_int64(table, relative_position, count, range);
        }
    } else {
        subtract_int64((const int64_t *)positions->key + first_key,
                       ((const int64_t *)positions->query)[query_index], count,
                       relative_position);
        locate_int64(table, relative_position, count, range);
    }
    for (size_t i = count; i % T5B_VECTOR_NBYTES != 0; i++)
        range[i] = 0;
}

#endif
