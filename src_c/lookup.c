/* lookup.c - positions that are data: each pair looks its item up.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Three plain loops over a block that stays in the first-level cache:
 *
 *     load or subtract   any integer type  ->  int64 relative positions
 *     locate             relative positions -> ranges of the table
 *     take               ranges            ->  items of any size
 *
 * so eight input types and four item sizes need 8 + 4 loops, not 8 x 4.
 */
#include "t5bucket.h"

#include <assert.h>
#include <string.h>

#include "positions.h"
#include "stream.h"
#include "table.h"

enum { BLOCK_LENGTH = 512 }; /* 10 KiB of scratch on the stack */

static void subtract_block(const int64_t *key_positions, int64_t query_position, size_t count,
                           int64_t *relative_position)
{
    for (size_t i = 0; i < count; i++) {
        const int64_t key_position = key_positions[i];
        const int64_t wrapped = (int64_t)((uint64_t)key_position - (uint64_t)query_position);
        const int64_t saturated = key_position < query_position ? INT64_MIN : INT64_MAX;
        /* Operands of different signs whose difference lost the key's sign. */
        const int overflow = ((key_position ^ query_position) & (key_position ^ wrapped)) < 0;
        relative_position[i] = overflow ? saturated : wrapped;
    }
}

/* How many starts are at most this position: a binary search whose steps are
 * the same for every position, so that nothing is mispredicted. */
static uint32_t search_starts(const t5b_table *table, int64_t position)
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

static void locate_block(const t5b_table *table, const int64_t *relative_position, size_t count,
                         uint32_t *range)
{
    if (table->starts) {
        for (size_t i = 0; i < count; i++)
            range[i] = search_starts(table, relative_position[i]);
    } else {
        const int64_t first = table->origin;
        const int64_t last = first + (int64_t)(table->num_ranges - 1);
        for (size_t i = 0; i < count; i++) {
            int64_t position = relative_position[i];
            position = position < first ? first : position;
            position = position > last ? last : position;
            range[i] = (uint32_t)(position - first);
        }
    }
}

#define TAKE(type) \
    for (size_t i = 0; i < count; i++) \
        ((type *)taken)[i] = ((const type *)items)[range[i]]

static void take_block(const void *items, size_t itemsize, const uint32_t *range, size_t count,
                       void *taken)
{
    switch (itemsize) {
    case 1: TAKE(uint8_t); break;
    case 2: TAKE(uint16_t); break;
    case 4: TAKE(uint32_t); break;
    default: TAKE(uint64_t); break;
    }
}

static void write_block(const void *items, size_t itemsize, const uint32_t *range, size_t count,
                        int streaming, unsigned char *target)
{
    uint64_t taken[BLOCK_LENGTH];

    if (streaming && CAN_STREAM) {
        take_block(items, itemsize, range, count, taken);
        stream_row(target, (const unsigned char *)taken, count * itemsize);
    } else {
        take_block(items, itemsize, range, count, target);
    }
}

void t5b_lookup(const t5b_table *table, const void *relative_position, t5b_integer type,
                size_t count, int streaming, void *items)
{
    int64_t block[BLOCK_LENGTH];
    uint32_t range[BLOCK_LENGTH];

    assert(table->num_ranges > 0 && table->num_ranges - 1 <= UINT32_MAX);
    for (size_t begin = 0; begin < count; begin += BLOCK_LENGTH) {
        const size_t length = count - begin < BLOCK_LENGTH ? count - begin : BLOCK_LENGTH;
        load_positions((const unsigned char *)relative_position + begin * get_nbytes(type), type,
                       length, block);
        locate_block(table, block, length, range);
        write_block(table->items, table->itemsize, range, length, streaming,
                    (unsigned char *)items + begin * table->itemsize);
    }
    finish_stream();
}

static void lookup_row(const t5b_table *table, int64_t query_position,
                       const int64_t *key_positions, size_t key_length, int streaming,
                       unsigned char *row, ptrdiff_t head_stride)
{
    int64_t block[BLOCK_LENGTH];
    uint32_t range[BLOCK_LENGTH];

    for (size_t begin = 0; begin < key_length; begin += BLOCK_LENGTH) {
        const size_t rest = key_length - begin;
        const size_t length = rest < BLOCK_LENGTH ? rest : BLOCK_LENGTH;
        subtract_block(key_positions + begin, query_position, length, block);
        locate_block(table, block, length, range);
        for (size_t head = 0; head < table->num_heads; head++)
            write_block(get_items(table, head), table->itemsize, range, length, streaming,
                        row + (ptrdiff_t)head * head_stride + begin * table->itemsize);
    }
}

void t5b_lookup_pairs(const t5b_table *table, const int64_t *query_positions,
                      const int64_t *key_positions, size_t key_batch_stride, size_t begin,
                      size_t end, int streaming, const t5b_matrix *matrix)
{
    assert(table->num_ranges > 0 && table->num_ranges - 1 <= UINT32_MAX);
    for (size_t row = begin; row < end; row++) {
        const size_t batch = row / matrix->query_length, query = row % matrix->query_length;
        lookup_row(table, query_positions[row], key_positions + batch * key_batch_stride,
                   matrix->key_length, streaming,
                   (unsigned char *)matrix->data + (ptrdiff_t)batch * matrix->batch_stride +
                       (ptrdiff_t)query * matrix->query_stride,
                   matrix->head_stride);
    }
    finish_stream();
}
