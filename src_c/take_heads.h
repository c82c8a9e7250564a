/* take_heads.h - take items of located pairs, for a vector of heads: for pairs.c, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * In the table, a range's items of all heads are adjacent, so that one load reads a
 * vector of heads. In the matrix, the keys of each head are adjacent. So the vectors
 * are transposed in registers:
 *
 *     range of key 0    a0 b0 c0 d0          head a    a0 a1 a2 a3
 *     range of key 1    a1 b1 c1 d1    ->    head b    b0 b1 b2 b3
 *     range of key 2    a2 b2 c2 d2          head c    c0 c1 c2 c3
 *     range of key 3    a3 b3 c3 d3          head d    d0 d1 d2 d3
 */
#ifndef T5BUCKET_TAKE_HEADS_H
#define T5BUCKET_TAKE_HEADS_H

#include "t5bucket.h"

#include <string.h>

#include "items.h"
#include "processor.h"
#include "rows.h"

/* Length of the rows of a vector's heads. It is not a power of two: if it were, the same items
 * of all heads would map to one set of the first-level cache. */
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

/* Interleave vectors i and i + half into 2 i and 2 i + 1, by items of this many bits. Repeating
 * this once for each time that the number of vectors can be halved transposes them. */
#define INTERLEAVE(bits, half, from, to) \
    for (size_t v = 0; v < (half); v++) { \
        (to)[2 * v] = _mm_unpacklo_epi##bits((from)[v], (from)[v + (half)]); \
        (to)[2 * v + 1] = _mm_unpackhi_epi##bits((from)[v], (from)[v + (half)]); \
    }

/* Define take_vector_<bits>: take the items of a vector of heads. `count` is rounded up to whole
 * vectors; `offset` has valid entries for all of them. */
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

/* Take as many heads as fit in a vector, from `head` on. */
static void take_heads(const t5b_table *table, size_t head, size_t num_heads,
                       const uint32_t *offset, size_t count, unsigned char *rows)
{
    if (CAN_TRANSPOSE && table->num_heads > 1 && table->itemsize > 1)
        take_vector(table, head, offset, count, rows);
    else
        for (size_t h = 0; h < num_heads; h++)
            take_head(table, head + h, offset, count, rows + h * TAKEN_LENGTH * table->itemsize);
}

#endif
