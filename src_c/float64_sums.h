/* float64_sums.h - sums of floating-point items, in float64: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_FLOAT64_SUMS_H
#define T5BUCKET_FLOAT64_SUMS_H

#include "floats.h"
#include "items.h"
#include "processor.h"

#define ADD_ITEMS(item_type, WIDEN) \
    { \
        const item_type *RESTRICT from = (const item_type *)items; \
        for (size_t i = 0; i < count; i++) \
            sum[i] += (double)WIDEN(from[i]); \
    }

/* sum += items, in float64. The two do not overlap. */
static inline void add_in_float64(t5b_float type, const void *items, size_t count,
                                  double *RESTRICT sum)
{
    switch (type) {
    case T5B_FLOAT16: ADD_ITEMS(item16, widen_float16) break;
    case T5B_BFLOAT16: ADD_ITEMS(item16, widen_bfloat16) break;
    case T5B_FLOAT32: ADD_ITEMS(item32, as_float) break;
    case T5B_FLOAT64: ADD_ITEMS(item64, as_double) break;
    }
}

/* Independent sums: each addition to a single sum would wait for the one before. */
enum { SUM_LANES = 16 };

#define SUM_ITEMS(item_type, WIDEN) \
    { \
        const item_type *from = (const item_type *)items; \
        for (; count - i >= SUM_LANES; i += SUM_LANES) \
            for (size_t lane = 0; lane < SUM_LANES; lane++) \
                lanes[lane] += (double)WIDEN(from[i + lane]); \
        for (; i < count; i++) \
            lanes[i % SUM_LANES] += (double)WIDEN(from[i]); \
    }

/* The sum of items, in float64. */
static inline double sum_in_float64(t5b_float type, const void *items, size_t count)
{
    double lanes[SUM_LANES] = {0}, sum = 0;
    size_t i = 0;

    switch (type) {
    case T5B_FLOAT16: SUM_ITEMS(item16, widen_float16) break;
    case T5B_BFLOAT16: SUM_ITEMS(item16, widen_bfloat16) break;
    case T5B_FLOAT32: SUM_ITEMS(item32, as_float) break;
    case T5B_FLOAT64: SUM_ITEMS(item64, as_double) break;
    }
    for (size_t lane = 0; lane < SUM_LANES; lane++)
        sum += lanes[lane];
    return sum;
}

#undef ADD_ITEMS
#undef SUM_ITEMS

#endif
