/* table.h - reading a t5b_table: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_TABLE_H
#define T5BUCKET_TABLE_H

#include "t5bucket.h"

/* The first relative position of a range; range 0 has none. */
static inline int64_t get_start(const t5b_table *table, size_t range)
{
    return table->starts ? table->starts[range - 1] : table->origin + (int64_t)range;
}

/* How many of first, ..., first + count - 1, relative positions, lie before the end of
 * this range. Unsigned, since the difference of two int64 can take 64 bits. */
static inline size_t count_until(const t5b_table *table, size_t range, int64_t first,
                                 size_t count)
{
    if (range + 1 == table->num_ranges)
        return count;
    const int64_t start = get_start(table, range + 1);
    const uint64_t before = start <= first ? 0 : (uint64_t)start - (uint64_t)first;
    return before < count ? (size_t)before : count;
}

/* Whether ranges can be located by index, among relative positions that were
 * saturated to int32: no start is beyond 2^29 tokens. */
static inline int is_narrow(const t5b_table *table)
{
    const int64_t limit = (int64_t)1 << 29;
    return !table->starts && table->origin >= -limit && table->origin <= limit &&
           table->num_ranges <= (size_t)(limit - table->origin);
}

/* How many starts are at most this position: a binary search whose steps are
 * the same for every position, so that nothing is mispredicted. */
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

#define LOCATE(type) \
    const type first = (type)table->origin; \
    const type last = (type)(first + (type)(table->num_ranges - 1)); \
    for (size_t i = 0; i < count; i++) { \
        type position = relative_position[i]; \
        position = position < first ? first : position; \
        position = position > last ? last : position; \
        range[i] = (uint32_t)(position - first); \
    }

/* Relative positions -> ranges, in a table that is_narrow. */
static inline void locate_int32(const t5b_table *table, const int32_t *relative_position,
                                size_t count, uint32_t *range)
{
    LOCATE(int32_t)
}

/* Relative positions -> ranges. */
static inline void locate_int64(const t5b_table *table, const int64_t *relative_position,
                                size_t count, uint32_t *range)
{
    if (table->starts) {
        for (size_t i = 0; i < count; i++)
            range[i] = search_starts(table, relative_position[i]);
    } else {
        LOCATE(int64_t)
    }
}

#undef LOCATE

#endif
