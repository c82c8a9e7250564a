/* bits.h - items of any type as integers of their size: for the programs of this folder.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef TESTS_BITS_H
#define TESTS_BITS_H

#include "t5bucket.h"

#include <stdlib.h>
#include <string.h>

static inline uint64_t get_item(const void *array, size_t index, size_t itemsize)
{
    uint8_t one;
    uint16_t two;
    uint32_t four;
    uint64_t eight;
    const char *item = (const char *)array + index * itemsize;

    switch (itemsize) {
    case 1: memcpy(&one, item, 1); return one;
    case 2: memcpy(&two, item, 2); return two;
    case 4: memcpy(&four, item, 4); return four;
    default: memcpy(&eight, item, 8); return eight;
    }
}

static inline void set_item(void *array, size_t index, size_t itemsize, uint64_t value)
{
    const uint8_t one = (uint8_t)value;
    const uint16_t two = (uint16_t)value;
    const uint32_t four = (uint32_t)value;
    char *item = (char *)array + index * itemsize;

    switch (itemsize) {
    case 1: memcpy(item, &one, 1); break;
    case 2: memcpy(item, &two, 2); break;
    case 4: memcpy(item, &four, 4); break;
    default: memcpy(item, &value, 8); break;
    }
}

static inline size_t get_itemsize(t5b_float type)
{
    return type == T5B_FLOAT64 ? 8 : type == T5B_FLOAT32 ? 4 : 2;
}

/* An integer of few bits, which every type can represent: 8 bits in bfloat16, 11 in float16. */
static inline uint64_t encode(t5b_float type, int value)
{
    const float single = (float)value;
    const double wide = value;
    const uint32_t sign = value < 0 ? 0x8000 : 0, magnitude = (uint32_t)abs(value);
    uint32_t bits, exponent = 0;
    uint64_t wide_bits;

    memcpy(&bits, &single, sizeof bits);
    memcpy(&wide_bits, &wide, sizeof wide_bits);
    switch (type) {
    case T5B_FLOAT64: return wide_bits;
    case T5B_FLOAT32: return bits;
    case T5B_BFLOAT16: return bits >> 16;
    default: break;
    }
    while (magnitude >> exponent > 1)
        exponent++;
    return value == 0 ? 0
                      : sign | (exponent + 15) << 10 | ((magnitude << (10 - exponent)) & 0x3ff);
}

static inline void set_integer(void *array, size_t index, t5b_float type, int value)
{
    set_item(array, index, get_itemsize(type), encode(type, value));
}

#endif
