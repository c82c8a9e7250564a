/* lookup.c - look up the item of each relative position.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Three loops over a chunk that stays in the first-level cache:
 *
 *     load        any integer type   ->  int32, or int64 if the table needs it
 *     locate      relative positions ->  ranges of the table
 *     take        ranges             ->  items of any size
 *
 * Eight input types and four item sizes need 8 + 4 loops, not 8 x 4.
 */
#include "t5bucket.h"

#include <assert.h>

#include "items.h"
#include "locate.h"
#include "positions.h"
#include "stream.h"

/* Relative positions of any type -> ranges. */
static void locate_chunk(const t5b_table *table, const void *relative_position, t5b_integer type,
                         size_t count, uint32_t *range)
{
    if (fits_int32(table)) {
        int32_t position[CHUNK_LENGTH];
        load_int32(relative_position, type, count, position);
        locate_int32(table, position, count, range);
    } else {
        int64_t position[CHUNK_LENGTH];
        load_int64(relative_position, type, count, position);
        locate_int64(table, position, count, range);
    }
}

#define TAKE(item) \
    for (size_t i = 0; i < count; i++) \
        ((item *)taken)[i] = ((const item *)items)[range[i]];

static void take_chunk(const void *items, size_t itemsize, const uint32_t *range, size_t count,
                       void *taken)
{
    FOR_ITEMSIZE(itemsize, TAKE)
}

void t5b_lookup(const t5b_table *table, const void *relative_position, t5b_integer type,
                size_t count, int streaming, void *items)
{
    const size_t itemsize = table->itemsize;
    uint32_t range[CHUNK_LENGTH];
    uint64_t taken[CHUNK_LENGTH];

    assert(table->num_ranges > 0 && table->num_ranges - 1 <= UINT32_MAX);
    assert(table->range_stride == itemsize);
    for (size_t begin = 0; begin < count; begin += CHUNK_LENGTH) {
        const size_t length = count - begin < CHUNK_LENGTH ? count - begin : CHUNK_LENGTH;
        unsigned char *target = (unsigned char *)items + begin * itemsize;
        locate_chunk(table, (const unsigned char *)relative_position + begin * get_nbytes(type),
                     type, length, range);
        if (streaming && CAN_STREAM) {
            take_chunk(table->items, itemsize, range, length, taken);
            stream_row(target, (const unsigned char *)taken, length * itemsize);
        } else {
            take_chunk(table->items, itemsize, range, length, target);
        }
    }
    fence_stores();
}
