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
    for (size_t head = 0; head < table->num_heads; head++) { \
        const type item = ((const type *)get_items(table, head))[range]; \
        type *diagonal = (type *)((unsigned char *)diagonals + (ptrdiff_t)head * head_stride); \
        for (size_t i = begin; i < end; i++) \
            diagonal[i] = item; \
    }

void t5b_fill_diagonals(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                        ptrdiff_t head_stride)
{
    size_t begin = 0;

    assert(table->num_ranges > 0);
    for (size_t range = 0; begin < count; range++) {
        const size_t end = count_until(table, range, first, count);
        switch (table->itemsize) {
        case 1: FILL(uint8_t) break;
        case 2: FILL(uint16_t) break;
        case 4: FILL(uint32_t) break;
        default: FILL(uint64_t) break;
        }
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
