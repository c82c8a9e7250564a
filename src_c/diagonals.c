/* diagonals.c - consecutive positions: every row is a window of one vector.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#include <assert.h>
#include <string.h>

#include "stream.h"
#include "table.h"

/* How many of the diagonals first, ..., first + count - 1 lie before the end of
 * this range. Unsigned, since the difference of two int64 can take 64 bits. */
static size_t count_until(const t5b_table *table, size_t range, int64_t first, size_t count)
{
    if (range + 1 == table->num_ranges)
        return count;
    const int64_t start = get_start(table, range + 1);
    const uint64_t before = start <= first ? 0 : (uint64_t)start - (uint64_t)first;
    return before < count ? (size_t)before : count;
}

#define FILL(type) \
    for (size_t i = begin; i < end; i++) \
        ((type *)diagonal)[i] = ((const type *)items)[range]

/* Write one item to diagonals begin, ..., end - 1 of a head. */
static inline void fill_run(const void *items, size_t range, size_t itemsize, size_t begin,
                            size_t end, void *diagonal)
{
    switch (itemsize) {
    case 1: FILL(uint8_t); break;
    case 2: FILL(uint16_t); break;
    case 4: FILL(uint32_t); break;
    default: FILL(uint64_t); break;
    }
}

/* Ranges of one token are copied in one go, between the two unbounded ones. */
static void fill_from_index(const t5b_table *table, int64_t first, size_t count,
                            void *diagonals, ptrdiff_t head_stride)
{
    const size_t itemsize = table->itemsize, last = table->num_ranges - 1;
    const size_t begin = count_until(table, 0, first, count);
    const size_t end = last > 0 ? count_until(table, last - 1, first, count) : begin;
    const size_t range = (size_t)((uint64_t)first + begin - (uint64_t)table->origin);

    for (size_t head = 0; head < table->num_heads; head++) {
        const unsigned char *items = get_items(table, head);
        unsigned char *diagonal = (unsigned char *)diagonals + (ptrdiff_t)head * head_stride;
        fill_run(items, 0, itemsize, 0, begin, diagonal);
        if (end > begin)
            memcpy(diagonal + begin * itemsize, items + range * itemsize,
                   (end - begin) * itemsize);
        fill_run(items, last, itemsize, end, count, diagonal);
    }
}

void t5b_fill_diagonals(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                        ptrdiff_t head_stride)
{
    size_t begin = 0;

    assert(table->num_ranges > 0);
    if (!table->starts) {
        fill_from_index(table, first, count, diagonals, head_stride);
        return;
    }
    for (size_t range = 0; begin < count; range++) {
        const size_t end = count_until(table, range, first, count);
        for (size_t head = 0; head < table->num_heads; head++)
            fill_run(get_items(table, head), range, table->itemsize, begin, end,
                     (unsigned char *)diagonals + (ptrdiff_t)head * head_stride);
        begin = end;
    }
}

void t5b_copy_diagonals(const void *diagonals, size_t itemsize, size_t begin, size_t end,
                        int streaming, const t5b_matrix *matrix)
{
    const size_t query_length = matrix->query_length;
    const size_t row_nbytes = matrix->key_length * itemsize;
    const size_t head_nbytes = row_nbytes + (query_length - 1) * itemsize;

    for (size_t row = begin; row < end; row++) {
        const size_t head = row / query_length, query = row % query_length;
        unsigned char *target = (unsigned char *)matrix->data +
                                (ptrdiff_t)head * matrix->head_stride +
                                (ptrdiff_t)query * matrix->query_stride;
        const unsigned char *source = (const unsigned char *)diagonals + head * head_nbytes +
                                      (query_length - 1 - query) * itemsize;
        if (streaming)
            stream_row(target, source, row_nbytes);
        else
            memcpy(target, source, row_nbytes);
    }
    finish_stream();
}
