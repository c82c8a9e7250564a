/* count.c - compute T5's buckets by counting boundaries, if there are few of them.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 *     bucket = min(n, max_exact) + (boundaries that n has passed) + base
 *
 * Loops without branches process a chunk in the first-level cache, and compilers
 * vectorise them. The bucket does not change beyond the last boundary, so positions
 * can be saturated to int8 or int16 lanes.
 */
#include "t5bucket.h"

#include <assert.h>

#include "implementations.h"
#include "positions.h"
#include "stream.h"

#define LANE int8
#define LANE_MAX INT8_MAX
#define NAME(function) function##_int8
#include "count_template.h"

#define LANE int16
#define LANE_MAX INT16_MAX
#define NAME(function) function##_int16
#include "count_template.h"

/* Whether the scheme fits in lanes whose largest value is `largest`. A bucket is at most
 * base + max_exact + num_boundaries. If there is a base, max_exact + num_boundaries is at most
 * the base, so the sum is at most twice the largest signed lane: it fits in an unsigned lane.
 * Without a base, the sum is at most the largest signed lane plus the few boundaries. */
static int fits_lanes(const t5b_scheme *scheme, int64_t largest)
{
    const size_t num_boundaries = scheme->num_boundaries;
    return scheme->max_exact <= largest && scheme->future_base <= largest &&
           (num_boundaries == 0 || scheme->boundaries[num_boundaries - 1] <= largest);
}

int t5b_can_count(const t5b_scheme *scheme)
{
    return scheme->num_boundaries <= T5B_MAX_COUNTED_BOUNDARIES && fits_lanes(scheme, INT16_MAX);
}

ALWAYS_INLINE void count_buckets(const t5b_scheme *scheme, const void *relative_position,
                                 t5b_integer type, size_t count, size_t itemsize, int streaming,
                                 void *items)
{
    assert(t5b_can_count(scheme));
    if (fits_lanes(scheme, INT8_MAX))
        count_int8(scheme, relative_position, type, count, itemsize, streaming, items);
    else
        count_int16(scheme, relative_position, type, count, itemsize, streaming, items);
    fence_stores();
}

void t5b_count_buckets_portable(const t5b_scheme *scheme, const void *relative_position,
                                t5b_integer type, size_t count, size_t itemsize, int streaming,
                                void *items)
{
    count_buckets(scheme, relative_position, type, count, itemsize, streaming, items);
}

#if HAS_AVX2
#include "count_avx2.h"

/* The usual case is computed in registers; the loops above compute the others, with twice as
 * many lanes as with SSE2. Together they are about twice as fast as SSE2. */
AVX2 void t5b_count_buckets_avx2(const t5b_scheme *scheme, const void *relative_position,
                                 t5b_integer type, size_t count, size_t itemsize, int streaming,
                                 void *items)
{
    const unsigned char *source = (const unsigned char *)relative_position;
    unsigned char *target = (unsigned char *)items;

    if (fits_lanes(scheme, INT8_MAX) && (type == T5B_INT32 || type == T5B_INT64)) {
        const lane_scheme lanes = make_lane_scheme(scheme);
        int64_t chunk[CHUNK_LENGTH]; /* items that will be streamed */

        while (count >= NUM_LANES) {
            const size_t whole = count - count % NUM_LANES;
            const size_t length = streaming && whole > CHUNK_LENGTH ? CHUNK_LENGTH : whole;
            count_whole_vectors(&lanes, source, type, length, itemsize,
                                streaming ? (unsigned char *)chunk : target);
            END_AVX2();
            if (streaming)
                stream_row(target, (const unsigned char *)chunk, length * itemsize);
            source += length * get_nbytes(type);
            target += length * itemsize;
            count -= length;
        }
    }
    count_buckets(scheme, source, type, count, itemsize, streaming, target);
}
#endif
