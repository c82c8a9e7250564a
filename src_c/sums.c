/* sums.c - sum += addend, item by item, in the four floating-point types.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "floats.h"
#include "implementations.h"
#include "items.h"
#include "processor.h"

/* Without it, the loop counter limits a loop of two loads, a sum and a store. */
#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 4")
#else
#define UNROLL /* other compilers unroll by themselves */
#endif

#define ADD(item_type, WIDEN, NARROW) \
    { \
        item_type *RESTRICT to = (item_type *)sum; \
        const item_type *RESTRICT from = (const item_type *)addend; \
        UNROLL \
        for (size_t i = 0; i < count; i++) \
            to[i] = NARROW(WIDEN(to[i]) + WIDEN(from[i])); \
    }

ALWAYS_INLINE void add_items(t5b_float type, void *sum, const void *addend, size_t count)
{
    switch (type) {
    case T5B_FLOAT16: ADD(item16, widen_float16, narrow_float16) break;
    case T5B_BFLOAT16: ADD(item16, widen_bfloat16, narrow_bfloat16) break;
    case T5B_FLOAT32: ADD(item32, as_float, as_bits) break;
    case T5B_FLOAT64: ADD(item64, as_double, as_bits64) break;
    }
}

void t5b_add_items_portable(t5b_float type, void *sum, const void *addend, size_t count)
{
    add_items(type, sum, addend, count);
}

#if HAS_AVX2

enum { VECTOR_LENGTH = 8 };

/* Uses the processor's conversion of float16: 20 times as fast as the loop. */
AVX2 static inline __m128i add_float16(__m128i left, __m128i right)
{
    const __m256 sum = _mm256_add_ps(_mm256_cvtph_ps(left), _mm256_cvtph_ps(right));
    return _mm256_cvtps_ph(sum, _MM_FROUND_TO_NEAREST_INT);
}

AVX2 static inline __m256 widen_eight_bfloat16(__m128i bits)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

/* Uses the instruction that packs, which compilers do not: 3 times as fast as the loop. */
AVX2 static inline __m128i add_bfloat16(__m128i left, __m128i right)
{
    const __m256 sum = _mm256_add_ps(widen_eight_bfloat16(left), widen_eight_bfloat16(right));
    const __m256i bits = _mm256_castps_si256(sum), upper = _mm256_srli_epi32(bits, 16);
    const __m256i is_odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded),
                            _mm256_extracti128_si256(rounded, 1));
}

#define ADD_VECTORS(add_vector) \
    for (; count - i >= VECTOR_LENGTH; i += VECTOR_LENGTH) { \
        __m128i *to = (__m128i *)(void *)((uint16_t *)sum + i); \
        const __m128i *from = (const __m128i *)(const void *)((const uint16_t *)addend + i); \
        _mm_storeu_si128(to, add_vector(_mm_loadu_si128(to), _mm_loadu_si128(from))); \
    }

AVX2 void t5b_add_items_avx2(t5b_float type, void *sum, const void *addend, size_t count)
{
    size_t i = 0;

    if (type == T5B_FLOAT16)
        ADD_VECTORS(add_float16)
    else if (type == T5B_BFLOAT16)
        ADD_VECTORS(add_bfloat16)
    END_AVX2();
    add_items(type, (unsigned char *)sum + i * get_float_nbytes(type),
              (const unsigned char *)addend + i * get_float_nbytes(type), count - i);
}

#endif
