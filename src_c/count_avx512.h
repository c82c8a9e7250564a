/* count_avx512.h - look buckets up in registers, 64 positions at a time.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A position that is saturated to int8 has 256 values. The buckets of the 128 that are negative
 * fill two registers, those of the others two more. An instruction of AVX-512 VBMI looks 64
 * positions up in two registers, by their lower 7 bits.
 */
enum { NUM_WIDE_LANES = 64, LEAST_WIDE_COUNT = 512 /* fewer do not pay for the table */ };

typedef struct wide_table {
    __m512i past[2], future[2]; /* buckets of -128 to -1, and of 0 to 127 */
} wide_table;

AVX512 static wide_table make_wide_table(const t5b_scheme *scheme)
{
    const lane_scheme lanes = make_lane_scheme(scheme);
    uint8_t bucket[UINT8_MAX + 1];
    int8_t position[NUM_LANES];
    wide_table table;

    for (int first = INT8_MIN; first <= INT8_MAX; first += NUM_LANES) {
        /* -128 has no distance in int8; its bucket is -127's. */
        for (int i = 0; i < NUM_LANES; i++)
            position[i] = (int8_t)(first + i < -INT8_MAX ? -INT8_MAX : first + i);
        const __m256i counted = count_vector(&lanes, _mm256_loadu_si256((__m256i *)position));
        _mm256_storeu_si256((__m256i *)(bucket + (first - INT8_MIN)), counted);
    }
    for (size_t i = 0; i < 2; i++) {
        table.past[i] = _mm512_loadu_si512(bucket + i * NUM_WIDE_LANES);
        table.future[i] = _mm512_loadu_si512(bucket + (i + 2) * NUM_WIDE_LANES);
    }
    return table;
}

AVX512 static inline __m128i narrow_sixteen(const void *source, t5b_integer type)
{
    const __m512i *from = (const __m512i *)source;

    if (type == T5B_INT32)
        return _mm512_cvtsepi32_epi8(_mm512_loadu_si512(from));
    return _mm_unpacklo_epi64(_mm512_cvtsepi64_epi8(_mm512_loadu_si512(from)),
                              _mm512_cvtsepi64_epi8(_mm512_loadu_si512(from + 1)));
}

AVX512 static inline __m512i narrow_wide(const unsigned char *source, t5b_integer type)
{
    const size_t step = 16 * get_nbytes(type);
    const __m256i low =
        join_halves(narrow_sixteen(source, type), narrow_sixteen(source + step, type));
    const __m256i high = join_halves(narrow_sixteen(source + 2 * step, type),
                                     narrow_sixteen(source + 3 * step, type));

    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

AVX512 static inline __m512i look_up_wide(const wide_table *table, __m512i position)
{
    const __m512i past = _mm512_permutex2var_epi8(table->past[0], position, table->past[1]);
    const __m512i future = _mm512_permutex2var_epi8(table->future[0], position, table->future[1]);

    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(position), future, past);
}

AVX512 static inline void widen_wide(__m512i bucket, size_t itemsize, void *items)
{
    __m512i *to = (__m512i *)items;
    const __m256i half[2] = {_mm512_castsi512_si256(bucket),
                             _mm512_extracti64x4_epi64(bucket, 1)};

    if (itemsize == 1)
        _mm512_storeu_si512(to, bucket);
    for (size_t i = 0; i < 2 && itemsize > 1; i++, to += itemsize / 2) {
        const __m128i low = _mm256_castsi256_si128(half[i]);
        const __m128i high = _mm256_extracti128_si256(half[i], 1);
        if (itemsize == 2) {
            _mm512_storeu_si512(to, _mm512_cvtepu8_epi16(half[i]));
        } else if (itemsize == 4) {
            _mm512_storeu_si512(to, _mm512_cvtepu8_epi32(low));
            _mm512_storeu_si512(to + 1, _mm512_cvtepu8_epi32(high));
        } else {
            _mm512_storeu_si512(to, _mm512_cvtepu8_epi64(low));
            _mm512_storeu_si512(to + 1, _mm512_cvtepu8_epi64(_mm_srli_si128(low, 8)));
            _mm512_storeu_si512(to + 2, _mm512_cvtepu8_epi64(high));
            _mm512_storeu_si512(to + 3, _mm512_cvtepu8_epi64(_mm_srli_si128(high, 8)));
        }
    }
}

/* count is a multiple of NUM_WIDE_LANES; type is int32 or int64. */
AVX512 ALWAYS_INLINE void look_up_sized(const wide_table *table, const unsigned char *source,
                                        t5b_integer type, size_t count, size_t itemsize,
                                        unsigned char *items)
{
    for (size_t i = 0; i < count; i += NUM_WIDE_LANES) {
        const __m512i position = narrow_wide(source + i * get_nbytes(type), type);
        widen_wide(look_up_wide(table, position), itemsize, items + i * itemsize);
    }
}

#define COUNT(type, itemsize) look_up_sized(table, source, type, count, itemsize, items)

AVX512 static void look_up_whole_vectors(const void *table, const unsigned char *source,
                                         t5b_integer type, size_t count, size_t itemsize,
                                         unsigned char *items)
{
    FOR_COUNTED_SIZES(COUNT)
}

#undef COUNT
