/* floats.h - the bits of the four floating-point types: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Here, too, items are integers of their size, so that a buffer has one type. 16-bit
 * numbers are widened and narrowed without branches, so that compilers vectorise loops.
 */
#ifndef T5BUCKET_FLOATS_H
#define T5BUCKET_FLOATS_H

#include "t5bucket.h"

#include <string.h>

static inline float as_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline double as_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint64_t as_bits64(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* condition ? yes : no, without a branch. Compilers make a branch of that expression if a side
 * computes with floats, and then do not vectorise. */
static inline uint32_t choose(int condition, uint32_t yes, uint32_t no)
{
    const uint32_t bits = (uint32_t)-condition;
    return (yes & bits) | (no & ~bits);
}

static inline float widen_bfloat16(uint16_t bits)
{
    return as_float((uint32_t)bits << 16);
}

/* For the sum of two bfloat16: if it is a NaN, its lower half is 0, so that rounding does not
 * carry into the upper half. */
static inline uint16_t narrow_bfloat16(float value)
{
    const uint32_t bits = as_bits(value);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* float16 has 5 bits of exponent with a bias of 15, float32 8 with a bias of 127. */
enum { EXPONENT_SHIFT = (127 - 15) << 23 };

static inline float widen_float16(uint16_t bits)
{
    const uint32_t magnitude = bits & 0x7fff, sign = (uint32_t)(bits & 0x8000) << 16;
    const uint32_t normal = (magnitude << 13) + EXPONENT_SHIFT;
    const uint32_t denormal = as_bits((float)(int32_t)magnitude * 0x1p-24f);
    const uint32_t finite = choose(magnitude < 0x0400, denormal, normal);
    return as_float(sign | choose(magnitude >= 0x7c00, normal + EXPONENT_SHIFT, finite));
}

static inline uint16_t narrow_float16(float value)
{
    const uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffff;
    const uint32_t sign = bits >> 16 & 0x8000;
    /* Add half of the last bit that is kept; one less if that bit is 0: ties to even. */
    const uint32_t normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - EXPONENT_SHIFT) >> 13;
    /* The last bit of 0.5f is worth 2^-24, like the last bit of a denormal float16. */
    const uint32_t denormal = as_bits(as_float(magnitude) + 0.5f) - as_bits(0.5f);
    const uint32_t finite = choose(magnitude < 0x38800000, denormal, normal);
    const uint32_t rounded = choose(magnitude >= 0x477ff000, 0x7c00, finite);
    const uint32_t quiet_nan = 0x7e00 | (magnitude >> 13 & 0x3ff);
    return (uint16_t)(sign | choose(magnitude > 0x7f800000, quiet_nan, rounded));
}

static inline size_t get_float_nbytes(t5b_float type)
{
    return type == T5B_FLOAT64 ? 8 : type == T5B_FLOAT32 ? 4 : 2;
}

#endif
