/* count.c - T5's buckets by counting boundaries, where there are few of them.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 *     bucket = min(n, max_exact) + (boundaries that n has passed) + base
 *
 * Loops without branches over a block in the first-level cache, which compilers
 * turn into vectors. Nothing changes beyond the last boundary, so positions are
 * saturated to int8 lanes, or to int16, and lose nothing.
 */
#include "t5bucket.h"

#include <assert.h>

#include "implementations.h"
#include "positions.h"
#include "stream.h"

enum { BLOCK_LENGTH = 512 }; /* 7 KiB of scratch on the stack */

#define LANE int8
#define LANE_MAX INT8_MAX
#define NAME(function) function##_int8
#include "count_template.h"

#define LANE int16
#define LANE_MAX INT16_MAX
#define NAME(function) function##_int16
#include "count_template.h"

/* A bucket is at most base + max_exact + num_boundaries, and the latter two are
 * at most the base: twice the largest signed lane, which unsigned lanes hold.
 * Without a base it is at most the largest signed lane and the few boundaries. */
static int fits(const t5b_scheme *scheme, int64_t largest)
{
    const size_t num_boundaries = scheme->num_boundaries;
    return scheme->max_exact <= largest && scheme->future_base <= largest &&
           (num_boundaries == 0 || scheme->boundaries[num_boundaries - 1] <= largest);
}

int t5b_can_count(const t5b_scheme *scheme)
{
    return scheme->num_boundaries <= T5B_MAX_COUNTED_BOUNDARIES && fits(scheme, INT16_MAX);
}

ALWAYS_INLINE void count_buckets(const t5b_scheme *scheme, const void *relative_position,
                                 t5b_integer type, size_t count, size_t itemsize, int streaming,
                                 void *items)
{
    assert(t5b_can_count(scheme));
    if (fits(scheme, INT8_MAX))
        count_int8(scheme, relative_position, type, count, itemsize, streaming, items);
    else
        count_int16(scheme, relative_position, type, count, itemsize, streaming, items);
    finish_stream();
}

void t5b_count_buckets_portable(const t5b_scheme *scheme, const void *relative_position,
                                t5b_integer type, size_t count, size_t itemsize, int streaming,
                                void *items)
{
    count_buckets(scheme, relative_position, type, count, itemsize, streaming, items);
}

#if HAS_AVX2
#include "count_avx2.h"

/* The usual case, in registers; the rest is the loops above with twice their
 * lanes. Together about twice as fast as SSE2. */
AVX2 void t5b_count_buckets_avx2(const t5b_scheme *scheme, const void *relative_position,
                                 t5b_integer type, size_t count, size_t itemsize, int streaming,
                                 void *items)
{
    const unsigned char *source = (const unsigned char *)relative_position;
    unsigned char *target = (unsigned char *)items;

    if (fits(scheme, INT8_MAX) && (type == T5B_INT32 || type == T5B_INT64)) {
        const lane_scheme lanes = make_lane_scheme(scheme);
        int64_t block[BLOCK_LENGTH]; /* items to be streamed */

        while (count >= NUM_LANES) {
            const size_t whole = count - count % NUM_LANES;
            const size_t length = streaming && whole > BLOCK_LENGTH ? BLOCK_LENGTH : whole;
            count_lanes_of_any(&lanes, source, type, length, itemsize,
                               streaming ? (unsigned char *)block : target);
            if (streaming)
                stream_row(target, (const unsigned char *)block, length * itemsize);
            source += length * get_nbytes(type);
            target += length * itemsize;
            count -= length;
        }
    }
    count_buckets(scheme, source, type, count, itemsize, streaming, target);
}
#endif
