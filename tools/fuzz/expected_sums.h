/* expected_sums.h - add two floating-point numbers by their bits.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Slow, and independent of the kernels: it uses only the types of their interface.
 */
#ifndef FUZZ_EXPECTED_SUMS_H
#define FUZZ_EXPECTED_SUMS_H

#include "t5bucket.h"

#include <stdlib.h>

__extension__ typedef unsigned __int128 unsigned_wide;

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

static inline uint64_t get_fraction(float_format format, uint64_t bits)
{
    return bits & (((uint64_t)1 << format.fraction_bits) - 1);
}

static inline int get_exponent(float_format format, uint64_t bits)
{
    return (int)(bits >> format.fraction_bits) & format.max_exponent;
}

static inline uint64_t get_sign(float_format format, uint64_t bits)
{
    return bits >> (8 * format.itemsize - 1);
}

static inline int is_nan(float_format format, uint64_t bits)
{
    return get_exponent(format, bits) == format.max_exponent && get_fraction(format, bits) != 0;
}

static inline int is_infinite(float_format format, uint64_t bits)
{
    return get_exponent(format, bits) == format.max_exponent && get_fraction(format, bits) == 0;
}

/* mantissa x 2^(exponent - 64) -> bits. The mantissa's last bit is also set if there was a rest. */
static inline uint64_t round_to_even(float_format format, uint64_t sign, unsigned_wide mantissa,
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
    /* If rounding carries into the next power of two, this also raises the exponent. */
    bits = ((uint64_t)(exponent - 1) << format.fraction_bits) + whole;
    if (bits >> format.fraction_bits >= (uint64_t)format.max_exponent)
        bits = (uint64_t)format.max_exponent << format.fraction_bits;
    return sign << (8 * format.itemsize - 1) | bits;
}

static inline unsigned_wide get_mantissa(float_format format, uint64_t bits)
{
    const uint64_t hidden = get_exponent(format, bits) > 0 ? 1 : 0;

    return (unsigned_wide)(get_fraction(format, bits) | hidden << format.fraction_bits) << 64;
}

static inline uint64_t add_finite(float_format format, uint64_t left, uint64_t right)
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

/* left + right; `*is_any_nan` is set if the sum may be any NaN, of any payload and sign. */
static inline uint64_t expected_sum(t5b_float type, uint64_t left, uint64_t right,
                                    int *is_any_nan)
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

/* Encode a small integer, which every type can represent. */
static inline uint64_t encode_integer(t5b_float type, int value)
{
    const float_format format = float_formats[type];
    const int one = format.max_exponent / 2 + format.fraction_bits; /* the last bit is worth 1 */

    if (value == 0)
        return 0;
    return round_to_even(format, value < 0, (unsigned_wide)abs(value) << 64, one);
}

#endif
