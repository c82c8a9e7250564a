/* positions.h - load relative positions of any integer type: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_POSITIONS_H
#define T5BUCKET_POSITIONS_H

#include "processor.h"
#include "t5bucket.h"

/* Positions that lookup.c and count.c process at a time: 10 KiB of scratch on the stack. */
enum { CHUNK_LENGTH = 512 };

static inline size_t get_nbytes(t5b_integer type)
{
    return (size_t)(type < 0 ? -(int)type : (int)type);
}

#if HAS_SSE2

/* Eight int32 -> int16, saturated. Compilers do not use the instruction for it by themselves;
 * with it, a loop takes a fifth of the time. */
static inline __m128i narrow_eight_int32(const int32_t *source)
{
    const __m128i *from = (const __m128i *)(const void *)source;
    return _mm_packs_epi32(_mm_loadu_si128(from), _mm_loadu_si128(from + 1));
}

/* Four int64 -> int32, saturated. A number fits if all bits of its high half equal the sign of
 * its low half. Otherwise the sign of the high half says which end is nearest. */
static inline __m128i narrow_four_int64(const int64_t *source)
{
    const __m128i *from = (const __m128i *)(const void *)source;
    const __m128 first = _mm_castsi128_ps(_mm_loadu_si128(from));
    const __m128 second = _mm_castsi128_ps(_mm_loadu_si128(from + 1));
    const __m128i low = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i high = _mm_castps_si128(_mm_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1)));
    const __m128i fits = _mm_cmpeq_epi32(high, _mm_srai_epi32(low, 31));
    const __m128i end = _mm_xor_si128(_mm_srai_epi32(high, 31), _mm_set1_epi32(INT32_MAX));
    return _mm_or_si128(_mm_and_si128(fits, low), _mm_andnot_si128(fits, end));
}

static inline __m128i narrow_eight_int64(const int64_t *source)
{
    return _mm_packs_epi32(narrow_four_int64(source), narrow_four_int64(source + 4));
}

#define NARROW_INT8(type) \
    for (; count - i >= 16; i += 16) { \
        const __m128i low = _mm_set1_epi16(-INT8_MAX); \
        const __m128i first = _mm_max_epi16(narrow_eight_##type(source + i), low); \
        const __m128i second = _mm_max_epi16(narrow_eight_##type(source + i + 8), low); \
        _mm_storeu_si128((__m128i *)(void *)(lane + i), _mm_packs_epi16(first, second)); \
    }

#define NARROW_INT16(type) \
    for (; count - i >= 8; i += 8) { \
        const __m128i low = _mm_set1_epi16(-INT16_MAX); \
        const __m128i narrowed = _mm_max_epi16(narrow_eight_##type(source + i), low); \
        _mm_storeu_si128((__m128i *)(void *)(lane + i), narrowed); \
    }

#define NARROW_INT32(type) \
    for (; count - i >= 4; i += 4) \
        _mm_storeu_si128((__m128i *)(void *)(lane + i), narrow_four_##type(source + i));

#else
#define NARROW_INT8(type)
#define NARROW_INT16(type)
#define NARROW_INT32(type)
#endif

/* Define narrow_<type>_to_<lane>: saturate to [-MAX, MAX], or to the limits of the lane. */
#define DEFINE_NARROW(type, lane_type, MAX, VECTORS) \
    static inline void narrow_##type##_to_##lane_type(const type##_t *source, size_t count, \
                                                      lane_type##_t *lane) \
    { \
        size_t i = 0; \
        VECTORS(type) \
        for (; i < count; i++) { \
            const type##_t low = source[i] < -MAX ? -MAX : source[i]; \
            lane[i] = (lane_type##_t)(low > MAX ? MAX : low); \
        } \
    }

DEFINE_NARROW(int32, int8, INT8_MAX, NARROW_INT8)
DEFINE_NARROW(int64, int8, INT8_MAX, NARROW_INT8)
DEFINE_NARROW(int32, int16, INT16_MAX, NARROW_INT16)
DEFINE_NARROW(int64, int16, INT16_MAX, NARROW_INT16)
DEFINE_NARROW(int64, int32, INT32_MAX, NARROW_INT32)

#undef NARROW_INT8
#undef NARROW_INT16
#undef NARROW_INT32
#undef DEFINE_NARROW

#define LOAD(type, lane, MAX) \
    for (size_t i = 0; i < count; i++) { \
        const type value = ((const type *)source)[i]; \
        position[i] = value > MAX ? MAX : (lane)value; \
    }
#define COPY(type) \
    for (size_t i = 0; i < count; i++) { \
        position[i] = ((const type *)source)[i]; \
    }

/* Any integer type -> int64, saturated. */
static inline void load_int64(const void *source, t5b_integer type, size_t count,
                              int64_t *position)
{
    switch (type) {
    case T5B_INT8: COPY(int8_t) break;
    case T5B_INT16: COPY(int16_t) break;
    case T5B_INT32: COPY(int32_t) break;
    case T5B_INT64: COPY(int64_t) break;
    case T5B_UINT8: COPY(uint8_t) break;
    case T5B_UINT16: COPY(uint16_t) break;
    case T5B_UINT32: COPY(uint32_t) break;
    case T5B_UINT64: LOAD(uint64_t, int64_t, INT64_MAX) break;
    }
}

/* Any integer type -> int32, saturated. */
static inline void load_int32(const void *source, t5b_integer type, size_t count,
                              int32_t *position)
{
    switch (type) {
    case T5B_INT8: COPY(int8_t) break;
    case T5B_INT16: COPY(int16_t) break;
    case T5B_INT32: COPY(int32_t) break;
    case T5B_INT64: narrow_int64_to_int32((const int64_t *)source, count, position); break;
    case T5B_UINT8: COPY(uint8_t) break;
    case T5B_UINT16: COPY(uint16_t) break;
    case T5B_UINT32: LOAD(uint32_t, int32_t, INT32_MAX) break;
    case T5B_UINT64: LOAD(uint64_t, int32_t, INT32_MAX) break;
    }
}

#undef LOAD
#undef COPY

#endif
