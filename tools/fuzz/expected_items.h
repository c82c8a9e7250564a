/* expected_items.h - find the item of one pair, and whether it is masked.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Slow, and independent of the kernels: it uses only the types of their interface.
 * Positions are 128-bit integers, and searches are linear.
 */
#ifndef FUZZ_EXPECTED_ITEMS_H
#define FUZZ_EXPECTED_ITEMS_H

#include "t5bucket.h"

#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 wide;

static inline uint64_t read_bits(const void *item, size_t itemsize)
{
    uint64_t bits = 0;

    memcpy(&bits, item, itemsize); /* little-endian */
    return bits;
}

static inline void write_bits(void *item, size_t itemsize, uint64_t bits)
{
    memcpy(item, &bits, itemsize);
}

static inline size_t get_integer_nbytes(t5b_integer type)
{
    return (size_t)abs((int)type);
}

/* Read an integer of any type, saturated to int64. */
static inline int64_t read_integer(const void *items, t5b_integer type, size_t index)
{
    const size_t itemsize = get_integer_nbytes(type);
    const uint64_t bits = read_bits((const unsigned char *)items + index * itemsize, itemsize);
    const wide range = (wide)1 << 8 * itemsize;

    if (type < 0)
        return (int64_t)((wide)bits >= range / 2 ? (wide)bits - range : (wide)bits);
    return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
}

static inline wide expected_start(const t5b_table *table, size_t range)
{
    return table->starts ? table->starts[range - 1] : (wide)table->origin + range;
}

static inline size_t expected_range(const t5b_table *table, wide d)
{
    size_t range = 0;

    while (range + 1 < table->num_ranges && expected_start(table, range + 1) <= d)
        range++;
    return range;
}

static inline const void *expected_item(const t5b_table *table, size_t head, wide d)
{
    const unsigned char *items = (const unsigned char *)table->items;
    const size_t range = expected_range(table, d), itemsize = table->itemsize;

    return table->range_stride == itemsize
               ? items + (head * table->num_ranges + range) * itemsize
               : items + range * table->range_stride + head * itemsize;
}

static inline int64_t get_query(const t5b_pairs *pairs, size_t batch, size_t i)
{
    return read_integer(pairs->query, pairs->type, batch * pairs->query_batch_stride + i);
}

static inline int64_t get_key(const t5b_pairs *pairs, size_t batch, size_t j)
{
    return read_integer(pairs->key, pairs->type, batch * pairs->key_batch_stride + j);
}

static inline unsigned char *get_matrix_item(const t5b_matrix *matrix, size_t itemsize,
                                             size_t batch, size_t head, size_t i, size_t j)
{
    return (unsigned char *)matrix->data + (ptrdiff_t)batch * matrix->batch_stride +
           (ptrdiff_t)head * matrix->head_stride + (ptrdiff_t)i * matrix->query_stride +
           (ptrdiff_t)(j * itemsize);
}

static inline int expected_visible(const t5b_epilogue *epilogue, size_t batch, size_t head,
                                   size_t i, size_t j)
{
    const t5b_pairs *segments = &epilogue->segments, *causal = &epilogue->causal;

    if (epilogue->keep.data && !*get_matrix_item(&epilogue->keep, 1, batch, head, i, j))
        return 0;
    if (segments->query && get_query(segments, batch, i) != get_key(segments, batch, j))
        return 0;
    return !causal->query || get_key(causal, batch, j) <= get_query(causal, batch, i);
}

#endif
