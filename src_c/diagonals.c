/* diagonals.c - consecutive positions: each row of a head is a window of one vector.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#include <assert.h>
#include <string.h>

#include "epilogue.h"
#include "items.h"
#include "locate.h"

/* How many heads are written together, so that they share masks. If a head takes a power of
 * two of bytes, the same rows of all heads map to one set of the first-level cache. A set has
 * eight ways: more heads would evict each other. */
enum { MASKED_HEADS = 4 };

static const unsigned char *get_items(const t5b_table *table, size_t head)
{
    return (const unsigned char *)table->items + head * table->num_ranges * table->itemsize;
}

#define FILL(item) \
    for (size_t i = begin; i < end; i++) \
        ((item *)diagonal)[i] = ((const item *)items)[range];

/* Write one item to diagonals begin to end - 1 of a head. */
static inline void fill_run(const void *items, size_t range, size_t itemsize, size_t begin,
                            size_t end, void *diagonal)
{
    FOR_ITEMSIZE(itemsize, FILL)
}

/* For an indexed table: the ranges between the first and the last have one token each, and are
 * copied together. */
static void fill_from_index(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                            ptrdiff_t head_stride)
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

    assert(table->num_ranges > 0 && table->range_stride == table->itemsize);
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

/* Finds where the window of a head's row begins. */
typedef struct window_rows {
    const unsigned char *diagonals;
    size_t itemsize, head_nbytes, last_query;
} window_rows;

static const unsigned char *get_window(const window_rows *windows, size_t head, size_t query)
{
    return windows->diagonals + head * windows->head_nbytes +
           (windows->last_query - query) * windows->itemsize;
}

/* Copy whole rows; there is no epilogue. */
static void copy_rows(const window_rows *windows, size_t num_heads, size_t begin, size_t end,
                      int streaming, const t5b_matrix *matrix)
{
    row_block block = first_block(matrix->key_length, matrix->key_length);

    for (size_t head = 0; head < num_heads; head++) {
        move_to_row(&block, begin, matrix->query_length);
        for (; block.row < end; move_to_next_row(&block, matrix->query_length)) {
            const row_source window = {get_window(windows, head, block.query), NULL, NULL};
            write_row(get_row(matrix, &block, head), &window,
                      matrix->key_length * windows->itemsize, streaming);
        }
    }
}

/* Write heads first_head to end_head - 1, which share masks if the masks are the same. */
static void write_heads(const window_rows *windows, const t5b_epilogue *epilogue,
                        size_t first_head, size_t end_head, size_t begin, size_t end,
                        int streaming, const t5b_matrix *matrix)
{
    const size_t itemsize = windows->itemsize;
    const int is_in_place = !has_mask(epilogue) && !streaming;
    row_block block =
        first_block(matrix->key_length, is_in_place ? matrix->key_length : BLOCK_LENGTH);
    block_mask mask;

    mask.is_filled = 0;
    do {
        move_to_row(&block, begin, matrix->query_length);
        for (; block.row < end; move_to_next_row(&block, matrix->query_length))
            for (size_t head = first_head; head < end_head; head++)
                write_block(epilogue, &block, head,
                            get_window(windows, head, block.query) + block.first * itemsize,
                            itemsize, &mask, streaming, matrix);
    } while (next_block(&block, get_line_length(itemsize)));
}

void t5b_write_diagonals(const void *diagonals, size_t itemsize, size_t num_heads,
                         const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
                         const t5b_matrix *matrix)
{
    const size_t last_query = matrix->query_length - 1;
    const window_rows windows = {diagonals, itemsize,
                                 (last_query + matrix->key_length) * itemsize, last_query};
    const size_t group_length = has_mask(epilogue) ? MASKED_HEADS : 1;

    assert(matrix->query_length > 0 && matrix->key_length > 0);
    if (!epilogue)
        copy_rows(&windows, num_heads, begin, end, streaming, matrix);
    else
        for (size_t head = 0; head < num_heads; head += group_length) {
            const size_t rest = num_heads - head;
            write_heads(&windows, epilogue, head,
                        head + (rest < group_length ? rest : group_length), begin, end, streaming,
                        matrix);
        }
    fence_stores();
}
