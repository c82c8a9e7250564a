/* pairs.c - positions that are data, over a grid: locate each pair once, for all heads.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A range's items of all heads stand side by side, so that one load brings a
 * vector of heads; the matrix has each head's keys side by side. Between them
 * lies a transposition in registers:
 *
 *     range of key 0    a0 b0 c0 d0          head a    a0 a1 a2 a3
 *     range of key 1    a1 b1 c1 d1    ->    head b    b0 b1 b2 b3
 *     range of key 2    a2 b2 c2 d2          head c    c0 c1 c2 c3
 *     range of key 3    a3 b3 c3 d3          head d    d0 d1 d2 d3
 */
#include "t5bucket.h"

#include <assert.h>

#include "epilogue.h"
#include "items.h"
#include "locate.h"

enum { STRIP_LENGTH = 8 }; /* rows that are located at once: 16 KiB */

/* Rows of a vector's heads, not a power of two of bytes apart: the same items of all
 * would share a set of the first-level cache. */
enum { TAKEN_LENGTH = BLOCK_LENGTH + 16 };
typedef struct vector_rows {
    uint64_t items[T5B_VECTOR_NBYTES / sizeof(uint64_t) * TAKEN_LENGTH];
} vector_rows;

#define TAKE(item) \
    for (size_t i = 0; i < count; i++) \
        ((item *)row)[i] = *(const item *)(items + offset[i]);

static void take_head(const t5b_table *table, size_t head, const uint32_t *offset, size_t count,
                      void *row)
{
    const unsigned char *items = (const unsigned char *)table->items + head * table->itemsize;

    FOR_ITEMSIZE(table->itemsize, TAKE)
}

#if HAS_SSE2

enum { CAN_TRANSPOSE = 1 };

/* Interleave vectors i and i + half into 2 i and 2 i + 1, by items of this many bits: in as many
 * steps as `half` has halves, this transposes. */
#define INTERLEAVE(bits, half, from, to) \
    for (size_t v = 0; v < (half); v++) { \
        (to)[2 * v] = _mm_unpacklo_epi##bits((from)[v], (from)[v + (half)]); \
        (to)[2 * v + 1] = _mm_unpackhi_epi##bits((from)[v], (from)[v + (half)]); \
    }

/* Define take_vector_<bits>: the items of a vector of heads. `count` is rounded up to whole
 * vectors, for which `offset` has valid ones. */
#define DEFINE_TAKE_VECTOR(bits, num_items, TRANSPOSE) \
    static void take_vector_##bits(const unsigned char *items, const uint32_t *offset, \
                                   size_t count, unsigned char *rows) \
    { \
        for (size_t i = 0; i < count; i += num_items) { \
            __m128i a[num_items], b[num_items]; \
            for (size_t v = 0; v < num_items; v++) \
                a[v] = _mm_loadu_si128((const __m128i *)(const void *)(items + offset[i + v])); \
            TRANSPOSE \
            for (size_t v = 0; v < num_items; v++) \
                _mm_storeu_si128( \
                    (__m128i *)(void *)(rows + (v * TAKEN_LENGTH + i) * (bits / 8)), b[v]); \
        } \
    }

DEFINE_TAKE_VECTOR(64, 2, INTERLEAVE(64, 1, a, b))
DEFINE_TAKE_VECTOR(32, 4, INTERLEAVE(32, 2, a, b) INTERLEAVE(32, 2, b, a) memcpy(b, a, sizeof b);)
DEFINE_TAKE_VECTOR(16, 8, INTERLEAVE(16, 4, a, b) INTERLEAVE(16, 4, b, a) INTERLEAVE(16, 4, a, b))

static void take_vector(const t5b_table *table, size_t head, const uint32_t *offset, size_t count,
                        unsigned char *rows)
{
    const unsigned char *items = (const unsigned char *)table->items + head * table->itemsize;

    switch (table->itemsize) {
    case 2: take_vector_16(items, offset, count, rows); break;
    case 4: take_vector_32(items, offset, count, rows); break;
    default: take_vector_64(items, offset, count, rows); break;
    }
}

#else
enum { CAN_TRANSPOSE = 0 };

static void take_vector(const t5b_table *table, size_t head, const uint32_t *offset, size_t count,
                        unsigned char *rows)
{
    (void)table, (void)head, (void)offset, (void)count, (void)rows;
}

#endif

/* Heads `head` and on, as many as a vector holds. */
static void take_heads(const t5b_table *table, size_t head, size_t num_heads,
                       const uint32_t *offset, size_t count, unsigned char *rows)
{
    if (CAN_TRANSPOSE && table->num_heads > 1 && table->itemsize > 1)
        take_vector(table, head, offset, count, rows);
    else
        for (size_t h = 0; h < num_heads; h++)
            take_head(table, head + h, offset, count, rows + h * TAKEN_LENGTH * table->itemsize);
}

/* Write heads first_head, ..., first_head + num_heads - 1 of located rows: at most as many heads
 * as a vector holds. */
static void write_heads(const t5b_table *table, uint32_t (*offset)[BLOCK_LENGTH],
                        const t5b_epilogue *epilogue, row_block block, size_t first_head,
                        size_t num_heads, size_t begin, size_t end, int streaming,
                        const t5b_matrix *matrix)
{
    const size_t itemsize = table->itemsize;
    vector_rows taken;
    row_selection selection;

    selection.is_set = 0;
    for (size_t row = begin; row < end; row++) {
        const unsigned char *rows = (const unsigned char *)taken.items;
        move_to_row(&block, row, matrix->query_length);
        take_heads(table, first_head, num_heads, offset[row - begin], block.count,
                   (unsigned char *)taken.items);
        for (size_t h = 0; h < num_heads; h++)
            finish_block(epilogue, &block, first_head + h, rows + h * TAKEN_LENGTH * itemsize,
                         itemsize, &selection, streaming, matrix);
    }
}

/* The logarithm of a power of two. */
static uint32_t get_shift(size_t stride)
{
    uint32_t shift = 0;

    while (stride >> shift > 1)
        shift++;
    return shift;
}

/* Write a block of some rows: locate its pairs, then take each vector of heads. */
static void write_strip(const t5b_table *table, const t5b_pairs *positions,
                        const t5b_epilogue *epilogue, row_block block, size_t begin, size_t end,
                        int streaming, const t5b_matrix *matrix)
{
    const size_t group_length = T5B_VECTOR_NBYTES / table->itemsize;
    const uint32_t shift = get_shift(table->range_stride);
    uint32_t offset[STRIP_LENGTH][BLOCK_LENGTH]; /* bytes from items to the range's, for all */

    for (size_t row = begin; row < end; row++) {
        move_to_row(&block, row, matrix->query_length);
        locate_block(table, positions, &block, offset[row - begin]);
        for (size_t i = 0; i < block.count; i++)
            offset[row - begin][i] <<= shift;
    }
    for (size_t head = 0; head < table->num_heads; head += group_length) {
        const size_t rest = table->num_heads - head;
        write_heads(table, offset, epilogue, block, head,
                    rest < group_length ? rest : group_length, begin, end, streaming, matrix);
    }
}

void t5b_write_pairs(const t5b_table *table, const t5b_pairs *positions,
                     const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
                     const t5b_matrix *matrix)
{
    row_block block = first_block(matrix->key_length, BLOCK_LENGTH);

    assert(table->num_ranges > 0 && table->num_ranges <= UINT32_MAX / table->range_stride);
    assert(matrix->query_length > 0 && matrix->key_length > 0);
    assert((table->range_stride & (table->range_stride - 1)) == 0);
    assert(table->num_heads == 1 || table->range_stride % T5B_VECTOR_NBYTES == 0);
    do
        for (size_t row = begin; row < end; row += STRIP_LENGTH)
            write_strip(table, positions, epilogue, block, row,
                        end - row < STRIP_LENGTH ? end : row + STRIP_LENGTH, streaming, matrix);
    while (next_block(&block, get_line_length(table->itemsize)));
    finish_stream();
}
