/* expected_buckets.h - T5's own rule, by its definition, in integers of any length.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Slow, and independent of the kernels: it uses only the types of their interface.
 */
#ifndef FUZZ_EXPECTED_BUCKETS_H
#define FUZZ_EXPECTED_BUCKETS_H

#include "expected_items.h"

enum { NUM_LIMBS = 40 }; /* of 32 bits: n^m e^k of 15 bits each, m + k at most 66 */
typedef struct number {
    uint32_t limbs[NUM_LIMBS];
} number;

static inline void multiply(number *product, uint32_t factor, size_t times)
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

static inline int is_at_least(const number *left, const number *right)
{
    for (size_t i = NUM_LIMBS; i-- > 0;)
        if (left->limbs[i] != right->limbs[i])
            return left->limbs[i] > right->limbs[i];
    return 1;
}

/* n^m e^k >= D^k e^m: whether distance n is in bucket e + k or above. */
static inline int has_passed(uint32_t n, uint32_t e, uint32_t max_distance, size_t m, size_t k)
{
    number left = {{1}}, right = {{1}};

    multiply(&left, n, m);
    multiply(&left, e, k);
    multiply(&right, max_distance, k);
    multiply(&right, e, m);
    return is_at_least(&left, &right);
}

static inline int64_t expected_boundary(uint32_t e, uint32_t max_distance, size_t m, size_t k)
{
    uint32_t below = e, passed = max_distance; /* k >= 1, so n = e has not passed */

    while (passed - below > 1) {
        const uint32_t middle = (below + passed) / 2;
        if (has_passed(middle, e, max_distance, m, k))
            passed = middle;
        else
            below = middle;
    }
    return passed;
}

static inline uint64_t expected_bucket(const t5b_scheme *scheme, int64_t d)
{
    const wide n = d < 0 ? -(wide)d : scheme->bidirectional ? (wide)d : 0;
    wide bucket = n < scheme->max_exact ? n : scheme->max_exact;

    for (size_t i = 0; i < scheme->num_boundaries; i++)
        bucket += scheme->boundaries[i] <= n;
    return (uint64_t)(bucket + (scheme->bidirectional && d > 0 ? scheme->future_base : 0));
}

#endif
