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
/* Write the buckets of `count` positions, which are whole vectors. */
typedef void write_vectors(const void *scheme, const unsigned char *source, t5b_integer type,
                           size_t count, size_t itemsize, unsigned char *items);

static int fits_vectors(const t5b_scheme *scheme, t5b_integer type)
{
    return fits_lanes(scheme, INT8_MAX) && (type == T5B_INT32 || type == T5B_INT64);
}

/* Write as many vectors as there are; return how many buckets that are. */
static size_t count_vectors(write_vectors *write, const void *scheme, size_t num_lanes,
                            const void *relative_position, t5b_integer type, size_t count,
                            size_t itemsize, int streaming, void *items)
{
    const unsigned char *source = (const unsigned char *)relative_position;
    unsigned char *target = (unsigned char *)items;
    const size_t whole = count - count % num_lanes;
    const size_t most = streaming ? CHUNK_LENGTH : whole;
    int64_t chunk[CHUNK_LENGTH]; /* items that will be streamed */

    for (size_t begin = 0; begin < whole; begin += most) {
        const size_t length = whole - begin < most ? whole - begin : most;
        unsigned char *to = target + begin * itemsize;
        write(scheme, source + begin * get_nbytes(type), type, length, itemsize,
              streaming ? (unsigned char *)chunk : to);
        if (streaming)
            stream_row(to, (const unsigned char *)chunk, length * itemsize);
    }
    return whole;
}

#include "count_avx2.h"

/* The usual case is computed in registers; the loops above compute the others, with twice as
 * many lanes as with SSE2. Together they are about twice as fast as SSE2. */
AVX2 void t5b_count_buckets_avx2(const t5b_scheme *scheme, const void *relative_position,
                                 t5b_integer type, size_t count, size_t itemsize, int streaming,
                                 void *items)
{
    size_t done = 0;

    if (fits_vectors(scheme, type) && count >= NUM_LANES) {
        const lane_scheme lanes = make_lane_scheme(scheme);
        done = count_vectors(count_whole_vectors, &lanes, NUM_LANES, relative_position, type,
                             count, itemsize, streaming, items);
    }
    count_buckets(scheme, (const unsigned char *)relative_position + done * get_nbytes(type),
                  type, count - done, itemsize, streaming,
                  (unsigned char *)items + done * itemsize);
}
#endif

#if HAS_AVX512
#include "count_avx512.h"

/* Twice as fast as AVX2 in the cache. */
AVX512 void t5b_count_buckets_avx512(const t5b_scheme *scheme, const void *relative_position,
                                     t5b_integer type, size_t count, size_t itemsize,
                                     int streaming, void *items)
{
    size_t done = 0;

    if (fits_vectors(scheme, type) && count >= LEAST_WIDE_COUNT) {
        const wide_table table = make_wide_table(scheme);
        done = count_vectors(look_up_whole_vectors, &table, NUM_WIDE_LANES, relative_position,
                             type, count, itemsize, streaming, items);
    }
    t5b_count_buckets_avx2(
        scheme, (const unsigned char *)relative_position + done * get_nbytes(type), type,
        count - done, itemsize, streaming, (unsigned char *)items + done * itemsize);
}
#endif
