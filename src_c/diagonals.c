/* diagonals.c - consecutive positions: every row is a window of one vector.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#include <assert.h>
#include <string.h>

#include "table.h"

#define FILL(type) \
    for (size_t i = 0; i < count; i++) \
        ((type *)run)[i] = *(const type *)item

static void fill_run(const void *item, size_t itemsize, size_t count, void *run)
{
    switch (itemsize) {
    case 1: FILL(uint8_t); break;
    case 2: FILL(uint16_t); break;
    case 4: FILL(uint32_t); break;
    default: FILL(uint64_t); break;
    }
}

/* How many of the diagonals first, ..., first + count - 1 lie before the end of
 * this range. No overflow: |start| <= 2^62 and |first| <= 2^62 + 2^61. */
static size_t count_until(const t5b_table *table, size_t range, int64_t first, size_t count)
{
    if (range + 1 == table->num_ranges)
        return count;
    const int64_t end = get_start(table, range + 1) - first;
    return end <= 0 ? 0 : (uint64_t)end < count ? (size_t)end : count;
}

void t5b_fill_diagonals(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                        ptrdiff_t head_stride)
{
    const size_t itemsize = table->itemsize;

    assert(table->num_ranges > 0);
    for (size_t head = 0; head < table->num_heads; head++) {
        const unsigned char *items = get_items(table, head);
        unsigned char *run = (unsigned char *)diagonals + (ptrdiff_t)head * head_stride;
        size_t begin = 0;

        for (size_t range = 0; begin < count; range++) {
            const size_t end = count_until(table, range, first, count);
            fill_run(items + range * itemsize, itemsize, end - begin, run + begin * itemsize);
            begin = end;
        }
    }
}

void t5b_copy_diagonals(const void *diagonals, size_t itemsize, size_t begin, size_t end,
                        const t5b_matrix *matrix)
{
    const size_t query_length = matrix->query_length;
    const size_t row_nbytes = matrix->key_length * itemsize;
    const size_t head_nbytes = row_nbytes + (query_length - 1) * itemsize;

    for (size_t row = begin; row < end; row++) {
        const size_t head = row / query_length, query = row % query_length;
        memcpy((unsigned char *)matrix->data + (ptrdiff_t)head * matrix->head_stride +
                   (ptrdiff_t)query * matrix->query_stride,
               (const unsigned char *)diagonals + head * head_nbytes +
                   (query_length - 1 - query) * itemsize,
               row_nbytes);
    }
}
