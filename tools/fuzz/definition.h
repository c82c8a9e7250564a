/* definition.h - what the C core has to give, one item at a time: shared by core.c's functions.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Slow, and independent of the kernels: 128-bit integers, linear searches, and sums of floats
 * by their bits. Of the package only the types of its interface are used.
 */
#ifndef FUZZ_DEFINITION_H
#define FUZZ_DEFINITION_H

#include "t5bucket.h"

#include <stdlib.h>
#include <string.h>

__extension__ typedef __int128 wide;
__extension__ typedef unsigned __int128 unsigned_wide;

static uint64_t read_bits(const void *item, size_t itemsize)
{
    uint64_t bits = 0;

    memcpy(&bits, item, itemsize); /* little-endian */
    return bits;
}

static void write_bits(void *item, size_t itemsize, uint64_t bits)
{
    memcpy(item, &bits, itemsize);
}

static size_t get_integer_nbytes(t5b_integer type)
{
    return (size_t)abs((int)type);
}

/* Any integer type's item, saturated to int64. */
static int64_t read_integer(const void *items, t5b_integer type, size_t index)
{
    const size_t itemsize = get_integer_nbytes(type);
    const uint64_t bits = read_bits((const unsigned char *)items + index * itemsize, itemsize);
    const wide range = (wide)1 << 8 * itemsize;

    if (type < 0)
        return (int64_t)((wide)bits >= range / 2 ? (wide)bits - range : (wide)bits);
    return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
}

/* ---- tables and pairs ---- */

static wide expected_start(const t5b_table *table, size_t range)
{
    return table->starts ? table->starts[range - 1] : (wide)table->origin + range;
}

static size_t expected_range(const t5b_table *table, wide d)
{
    size_t range = 0;

    while (range + 1 < table->num_ranges && expected_start(table, range + 1) <= d)
        range++;
    return range;
}

static const void *expected_item(const t5b_table *table, size_t head, wide d)
{
    const unsigned char *items = (const unsigned char *)table->items;
    const size_t range = expected_range(table, d), itemsize = table->itemsize;

    return table->range_stride == itemsize
               ? items + (head * table->num_ranges + range) * itemsize
               : items + range * table->range_stride + head * itemsize;
}

static int64_t get_query(const t5b_pairs *pairs, size_t batch, size_t i)
{
    return read_integer(pairs->query, pairs->type, batch * pairs->query_batch_stride + i);
}

static int64_t get_key(const t5b_pairs *pairs, size_t batch, size_t j)
{
    return read_integer(pairs->key, pairs->type, batch * pairs->key_batch_stride + j);
}

static unsigned char *get_matrix_item(const t5b_matrix *matrix, size_t itemsize, size_t batch,
                                      size_t head, size_t i, size_t j)
{
    return (unsigned char *)matrix->data + (ptrdiff_t)batch * matrix->batch_stride +
           (ptrdiff_t)head * matrix->head_stride + (ptrdiff_t)i * matrix->query_stride +
           (ptrdiff_t)(j * itemsize);
}

static int expected_visible(const t5b_epilogue *epilogue, size_t batch, size_t head, size_t i,
                            size_t j)
{
    const t5b_pairs *segments = &epilogue->segments, *causal = &epilogue->causal;

    if (epilogue->keep.data && !*get_matrix_item(&epilogue->keep, 1, batch, head, i, j))
        return 0;
    if (segments->query && get_query(segments, batch, i) != get_key(segments, batch, j))
        return 0;
    return !causal->query || get_key(causal, batch, j) <= get_query(causal, batch, i);
}

/* ---- floating-point numbers, by their bits ---- */

typedef struct float_format {
    size_t itemsize;
    int fraction_bits, max_exponent; /* the exponent's field, all ones */
} float_format;

static const float_format float_formats[] = {
    [T5B_FLOAT16] = {2, 10, 31},
    [T5B_BFLOAT16] = {2, 7, 255},
    [T5B_FLOAT32] = {4, 23, 255},
    [T5B_FLOAT64] = {8, 52, 2047},
};

static uint64_t get_fraction(float_format format, uint64_t bits)
{
    return bits & (((uint64_t)1 << format.fraction_bits) - 1);
}

static int get_exponent(float_format format, uint64_t bits)
{
    return (int)(bits >> format.fraction_bits) & format.max_exponent;
}

static uint64_t get_sign(float_format format, uint64_t bits)
{
    return bits >> (8 * format.itemsize - 1);
}

static int is_nan(float_format format, uint64_t bits)
{
    return get_exponent(format, bits) == format.max_exponent && get_fraction(format, bits) != 0;
}

static int is_infinite(float_format format, uint64_t bits)
{
    return get_exponent(format, bits) == format.max_exponent && get_fraction(format, bits) == 0;
}

/* mantissa x 2^(exponent - 64), whose last bit says as well whether there was a rest -> bits. */
static uint64_t round_to_even(float_format format, uint64_t sign, unsigned_wide mantissa,
                              int exponent)
{
    const unsigned_wide one = (unsigned_wide)1 << (format.fraction_bits + 64);
    uint64_t whole, rest, bits;

    if (mantissa >= 2 * one) {
        mantissa = mantissa >> 1 | (mantissa & 1);
        exponent++;
    }
    for (; mantissa < one && exponent > 1; exponent--)
        mantissa <<= 1;
    whole = (uint64_t)(mantissa >> 64);
    rest = (uint64_t)mantissa;
    whole += rest > (uint64_t)1 << 63 || (rest == (uint64_t)1 << 63 && whole % 2 == 1);
    /* A whole that rounding carried into the next power of two raises the exponent, too. */
    bits = ((uint64_t)(exponent - 1) << format.fraction_bits) + whole;
    if (bits >> format.fraction_bits >= (uint64_t)format.max_exponent)
        bits = (uint64_t)format.max_exponent << format.fraction_bits;
    return sign << (8 * format.itemsize - 1) | bits;
}

static unsigned_wide get_mantissa(float_format format, uint64_t bits)
{
    const uint64_t hidden = get_exponent(format, bits) > 0 ? 1 : 0;

    return (unsigned_wide)(get_fraction(format, bits) | hidden << format.fraction_bits) << 64;
}

static uint64_t add_finite(float_format format, uint64_t left, uint64_t right)
{
    const uint64_t all = ~(uint64_t)0 >> (65 - 8 * format.itemsize);
    const uint64_t large = (left & all) >= (right & all) ? left : right;
    const uint64_t small = large == left ? right : left;
    const int large_exponent = get_exponent(format, large) + (get_exponent(format, large) == 0);
    const int small_exponent = get_exponent(format, small) + (get_exponent(format, small) == 0);
    const int shift = large_exponent - small_exponent;
    const unsigned_wide whole = get_mantissa(format, small);
    unsigned_wide aligned = shift < 128 ? whole >> shift : 0, sum;

    aligned |= shift < 128 ? (aligned << shift) != whole : whole != 0;
    sum = get_sign(format, left) == get_sign(format, right)
              ? get_mantissa(format, large) + aligned
              : get_mantissa(format, large) - aligned;
    if (sum == 0)
        return (get_sign(format, left) & get_sign(format, right)) << (8 * format.itemsize - 1);
    return round_to_even(format, get_sign(format, large), sum, large_exponent);
}

/* left + right; `*is_any_nan` is set if the sum is a NaN of whatever payload and sign. */
static uint64_t expected_sum(t5b_float type, uint64_t left, uint64_t right, int *is_any_nan)
{
    const float_format format = float_formats[type];
    const uint64_t quiet = (uint64_t)1 << (format.fraction_bits - 1);
    const int left_nan = is_nan(format, left), right_nan = is_nan(format, right);

    if (left_nan != right_nan)
        return (left_nan ? left : right) | quiet;
    if (left_nan || (is_infinite(format, left) && is_infinite(format, right) && left != right)) {
        *is_any_nan = 1;
        return left | quiet | (uint64_t)format.max_exponent << format.fraction_bits;
    }
    if (is_infinite(format, left) || is_infinite(format, right))
        return is_infinite(format, left) ? left : right;
    return add_finite(format, left, right);
}

/* A small integer, which every type has. */
static uint64_t encode_integer(t5b_float type, int value)
{
    const float_format format = float_formats[type];
    const int one = format.max_exponent / 2 + format.fraction_bits; /* of the last bit's unit */

    if (value == 0)
        return 0;
    return round_to_even(format, value < 0, (unsigned_wide)abs(value) << 64, one);
}

/* ---- T5's own rule ---- */

enum { NUM_LIMBS = 40 }; /* of 32 bits: n^m e^k of 15 bits each, m + k at most 66 */
typedef struct number {
    uint32_t limbs[NUM_LIMBS];
} number;

static void multiply(number *product, uint32_t factor, size_t times)
{
    for (; times > 0; times--) {
        uint64_t carry = 0;
        for (size_t i = 0; i < NUM_LIMBS; i++) {
            carry += (uint64_t)product->limbs[i] * factor;
            product->limbs[i] = (uint32_t)carry;
            carry >>= 32;
        }
    }
}

static int is_at_least(const number *left, const number *right)
{
    for (size_t i = NUM_LIMBS; i-- > 0;)
        if (left->limbs[i] != right->limbs[i])
            return left->limbs[i] > right->limbs[i];
    return 1;
}

/* n^m e^k >= D^k e^m: whether distance n is in bucket e + k or above. */
static int has_passed(uint32_t n, uint32_t e, uint32_t max_distance, size_t m, size_t k)
{
    number left = {{1}}, right = {{1}};

    multiply(&left, n, m);
    multiply(&left, e, k);
    multiply(&right, max_distance, k);
    multiply(&right, e, m);
    return is_at_least(&left, &right);
}

static int64_t expected_boundary(uint32_t e, uint32_t max_distance, size_t m, size_t k)
{
    uint32_t below = e, passed = max_distance; /* k >= 1: n = e has not passed */

    while (passed - below > 1) {
        const uint32_t middle = (below + passed) / 2;
        if (has_passed(middle, e, max_distance, m, k))
            passed = middle;
        else
            below = middle;
    }
    return passed;
}

static uint64_t expected_bucket(const t5b_scheme *scheme, int64_t d)
{
    const wide n = d < 0 ? -(wide)d : scheme->bidirectional ? (wide)d : 0;
    wide bucket = n < scheme->max_exact ? n : scheme->max_exact;

    for (size_t i = 0; i < scheme->num_boundaries; i++)
        bucket += scheme->boundaries[i] <= n;
    return (uint64_t)(bucket + (scheme->bidirectional && d > 0 ? scheme->future_base : 0));
}

#endif
