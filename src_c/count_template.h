/* count_template.h - count boundaries with one type of lane: the loops of count.c.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Parameters, undefined at the end:
 *   LANE            int8 or int16; holds every boundary
 *   LANE_MAX        its largest value
 *   NAME(function)  name of a function for these lanes
 */
#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define SIGNED JOIN(LANE, _t)
#define UNSIGNED JOIN(u, JOIN(LANE, _t))

/* A lane of ones if the condition holds, or of zeros, like the result of a vector comparison. */
#define MASK(condition) ((SIGNED)((condition) ? -1 : 0))

/* How many of eight limits n exceeds. A limit is the distance just before a boundary. */
#define COUNT_PASSED(n) \
    (-MASK((n) > a) - MASK((n) > b) - MASK((n) > c) - MASK((n) > d) - MASK((n) > e) - \
     MASK((n) > f) - MASK((n) > g) - MASK((n) > h))

/* Turn positions into distances, and count buckets up to the eighth limit. A position is
 * at least -LANE_MAX, so it can be negated: (p ^ -1) + 1 = -p. */
ALWAYS_INLINE void NAME(count_first_limits)(const t5b_scheme *scheme, const SIGNED *limit,
                                            size_t count, SIGNED *lane, UNSIGNED *bucket)
{
    const SIGNED a = limit[0], b = limit[1], c = limit[2], d = limit[3];
    const SIGNED e = limit[4], f = limit[5], g = limit[6], h = limit[7];
    const SIGNED max_exact = (SIGNED)scheme->max_exact;
    const SIGNED future_base = (SIGNED)scheme->future_base;
    const SIGNED future_mask = scheme->bidirectional ? -1 : 0;

    for (size_t i = 0; i < count; i++) {
        const SIGNED position = lane[i];
        const SIGNED past_mask = (SIGNED)(position >> (8 * sizeof(SIGNED) - 1));
        const SIGNED n =
            (SIGNED)(((position & (past_mask | future_mask)) ^ past_mask) - past_mask);
        const SIGNED exact = n < max_exact ? n : max_exact;
        const SIGNED base = MASK(position > 0) & future_base;
        lane[i] = n;
        bucket[i] = (UNSIGNED)(base + exact + COUNT_PASSED(n));
    }
}

/* Add the next eight limits to the counts. */
ALWAYS_INLINE void NAME(count_more_limits)(const SIGNED *limit, size_t count,
                                           const SIGNED *distance, UNSIGNED *bucket)
{
    const SIGNED a = limit[0], b = limit[1], c = limit[2], d = limit[3];
    const SIGNED e = limit[4], f = limit[5], g = limit[6], h = limit[7];

    for (size_t i = 0; i < count; i++)
        bucket[i] = (UNSIGNED)(bucket[i] + COUNT_PASSED(distance[i]));
}

#define STORE(type) \
    for (size_t i = 0; i < count; i++) { \
        ((type *)items)[i] = (type)bucket[i]; \
    }

ALWAYS_INLINE void NAME(store)(const UNSIGNED *bucket, size_t itemsize, size_t count, void *items)
{
    switch (itemsize) {
    case 1: STORE(uint8_t) break;
    case 2: STORE(uint16_t) break;
    case 4: STORE(uint32_t) break;
    default: STORE(uint64_t) break;
    }
}

ALWAYS_INLINE void NAME(count)(const t5b_scheme *scheme, const void *relative_position,
                               t5b_integer type, size_t count, size_t itemsize, int streaming,
                               void *items)
{
    SIGNED limit[T5B_MAX_COUNTED_BOUNDARIES], lane[CHUNK_LENGTH];
    UNSIGNED bucket[CHUNK_LENGTH];
    int64_t chunk[CHUNK_LENGTH]; /* positions of a rare type; items that will be streamed */
    size_t num_limits = 0;

    streaming = streaming && CAN_STREAM;
    for (; num_limits < scheme->num_boundaries; num_limits++)
        limit[num_limits] = (SIGNED)(scheme->boundaries[num_limits] - 1);
    for (; num_limits == 0 || num_limits % 8; num_limits++)
        limit[num_limits] = LANE_MAX; /* never passed */

    for (size_t begin = 0; begin < count; begin += CHUNK_LENGTH) {
        const size_t length = count - begin < CHUNK_LENGTH ? count - begin : CHUNK_LENGTH;
        const unsigned char *source =
            (const unsigned char *)relative_position + begin * get_nbytes(type);
        unsigned char *target = (unsigned char *)items + begin * itemsize;

        if (type == T5B_INT32) {
            JOIN(narrow_int32_to_, LANE)((const int32_t *)source, length, lane);
        } else if (type == T5B_INT64) {
            JOIN(narrow_int64_to_, LANE)((const int64_t *)source, length, lane);
        } else {
            load_int64(source, type, length, chunk);
            JOIN(narrow_int64_to_, LANE)(chunk, length, lane);
        }
        NAME(count_first_limits)(scheme, limit, length, lane, bucket);
        for (size_t i = 8; i < num_limits; i += 8)
            NAME(count_more_limits)(limit + i, length, lane, bucket);
        NAME(store)(bucket, itemsize, length, streaming ? (void *)chunk : target);
        if (streaming)
            stream_row(target, (const unsigned char *)chunk, length * itemsize);
    }
}

#undef JOIN_
#undef JOIN
#undef SIGNED
#undef UNSIGNED
#undef MASK
#undef COUNT_PASSED
#undef STORE
#undef LANE
#undef LANE_MAX
#undef NAME
