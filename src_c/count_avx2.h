/* count_avx2.h - count boundaries in 32 int8 lanes that stay in registers.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * The loops of count_template.h go through the first-level cache three times. Even
 * compiled for AVX2 they take longer than this.
 */
enum { NUM_LANES = 32 };

typedef struct lane_scheme {
    __m256i max_exact, future_base, future_mask;
    __m256i limit[T5B_MAX_COUNTED_BOUNDARIES]; /* the distance before each boundary */
    size_t num_limits;                         /* a multiple of 8 */
} lane_scheme;

AVX2 static lane_scheme make_lane_scheme(const t5b_scheme *scheme)
{
    lane_scheme lanes;
    size_t i = 0;

    lanes.max_exact = _mm256_set1_epi8((char)scheme->max_exact);
    lanes.future_base = _mm256_set1_epi8((char)scheme->future_base);
    lanes.future_mask = _mm256_set1_epi8(scheme->bidirectional ? -1 : 0);
    for (; i < scheme->num_boundaries; i++)
        lanes.limit[i] = _mm256_set1_epi8((char)(scheme->boundaries[i] - 1));
    for (; i == 0 || i % 8; i++)
        lanes.limit[i] = _mm256_set1_epi8(INT8_MAX); /* never passed */
    lanes.num_limits = i;
    return lanes;
}

AVX2 static inline __m256i join_halves(__m128i low, __m128i high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* Eight int64 -> int32, saturated as by narrow_four_int64, in the order 0 1 4 5 2 3 6 7. */
AVX2 static inline __m256i narrow_eight_apart(const __m256i *from)
{
    const __m256 first = _mm256_castsi256_ps(_mm256_loadu_si256(from));
    const __m256 second = _mm256_castsi256_ps(_mm256_loadu_si256(from + 1));
    const __m256 lower = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(2, 0, 2, 0));
    const __m256 upper = _mm256_shuffle_ps(first, second, _MM_SHUFFLE(3, 1, 3, 1));
    const __m256i low = _mm256_castps_si256(lower), high = _mm256_castps_si256(upper);
    const __m256i fits = _mm256_cmpeq_epi32(high, _mm256_srai_epi32(low, 31));
    const __m256i end =
        _mm256_xor_si256(_mm256_srai_epi32(high, 31), _mm256_set1_epi32(INT32_MAX));

    return _mm256_blendv_epi8(end, low, fits);
}

/* Relative positions, saturated to [-INT8_MAX, INT8_MAX]. */
AVX2 static inline __m256i narrow_vector(const void *source, t5b_integer type)
{
    const __m256i *from = (const __m256i *)source, low = _mm256_set1_epi16(-INT8_MAX);
    __m256i first, second;

    if (type == T5B_INT32) {
        first = _mm256_packs_epi32(_mm256_loadu_si256(from), _mm256_loadu_si256(from + 1));
        second = _mm256_packs_epi32(_mm256_loadu_si256(from + 2), _mm256_loadu_si256(from + 3));
    } else {
        first = _mm256_packs_epi32(narrow_eight_apart(from), narrow_eight_apart(from + 2));
        second = _mm256_packs_epi32(narrow_eight_apart(from + 4), narrow_eight_apart(from + 6));
    }
    first = _mm256_max_epi16(first, low);
    second = _mm256_max_epi16(second, low);
    const __m256i packed = _mm256_packs_epi16(first, second);
    /* Packing works within halves of 128 bits: put the groups of four int32 back in order, or the
     * pairs of int64, which alternate between the halves. */
    if (type == T5B_INT32)
        return _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    const __m128i even = _mm256_castsi256_si128(packed),
                  odd = _mm256_extracti128_si256(packed, 1);
    return join_halves(_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd));
}

AVX2 static inline __m256i count_vector(const lane_scheme *lanes, __m256i position)
{
    const __m256i zero = _mm256_setzero_si256();
    const __m256i past_mask = _mm256_cmpgt_epi8(zero, position);
    const __m256i counted = _mm256_or_si256(past_mask, lanes->future_mask);
    const __m256i n = _mm256_and_si256(_mm256_abs_epi8(position), counted);
    const __m256i future = _mm256_cmpgt_epi8(position, zero);
    __m256i bucket = _mm256_add_epi8(_mm256_min_epi8(n, lanes->max_exact),
                                     _mm256_and_si256(future, lanes->future_base));

    for (size_t i = 0; i < lanes->num_limits; i += 8)
        for (size_t j = i; j < i + 8; j++) /* a passed limit is -1 */
            bucket = _mm256_sub_epi8(bucket, _mm256_cmpgt_epi8(n, lanes->limit[j]));
    return bucket;
}

AVX2 static inline void widen_vector(__m256i bucket, size_t itemsize, void *items)
{
    __m256i *to = (__m256i *)items;
    const __m128i half[2] = {_mm256_castsi256_si128(bucket), _mm256_extracti128_si256(bucket, 1)};

    if (itemsize == 1)
        _mm256_storeu_si256(to, bucket);
    for (size_t i = 0; i < 2 && itemsize > 1; i++, to += itemsize / 2) {
        if (itemsize == 2) {
            _mm256_storeu_si256(to, _mm256_cvtepu8_epi16(half[i]));
        } else if (itemsize == 4) {
            _mm256_storeu_si256(to, _mm256_cvtepu8_epi32(half[i]));
            _mm256_storeu_si256(to + 1, _mm256_cvtepu8_epi32(_mm_srli_si128(half[i], 8)));
        } else {
            _mm256_storeu_si256(to, _mm256_cvtepu8_epi64(half[i]));
            _mm256_storeu_si256(to + 1, _mm256_cvtepu8_epi64(_mm_srli_si128(half[i], 4)));
            _mm256_storeu_si256(to + 2, _mm256_cvtepu8_epi64(_mm_srli_si128(half[i], 8)));
            _mm256_storeu_si256(to + 3, _mm256_cvtepu8_epi64(_mm_srli_si128(half[i], 12)));
        }
    }
}

/* count is a multiple of NUM_LANES; type is int32 or int64. */
AVX2 ALWAYS_INLINE void count_sized(const lane_scheme *lanes, const unsigned char *source,
                                    t5b_integer type, size_t count, size_t itemsize,
                                    unsigned char *items)
{
    for (size_t i = 0; i < count; i += NUM_LANES) {
        const __m256i position = narrow_vector(source + i * get_nbytes(type), type);
        widen_vector(count_vector(lanes, position), itemsize, items + i * itemsize);
    }
}

/* Compiled for each pair of sizes: a constant size leaves no branch. */
#define FOR_COUNTED_SIZES(COUNT) \
    switch (itemsize) { \
    case 1: type == T5B_INT32 ? COUNT(T5B_INT32, 1) : COUNT(T5B_INT64, 1); break; \
    case 2: type == T5B_INT32 ? COUNT(T5B_INT32, 2) : COUNT(T5B_INT64, 2); break; \
    case 4: type == T5B_INT32 ? COUNT(T5B_INT32, 4) : COUNT(T5B_INT64, 4); break; \
    default: type == T5B_INT32 ? COUNT(T5B_INT32, 8) : COUNT(T5B_INT64, 8); break; \
    }

#define COUNT(type, itemsize) count_sized(lanes, source, type, count, itemsize, items)

AVX2 static void count_whole_vectors(const void *lanes, const unsigned char *source,
                                     t5b_integer type, size_t count, size_t itemsize,
                                     unsigned char *items)
{
    FOR_COUNTED_SIZES(COUNT)
    END_AVX2();
}

#undef COUNT
