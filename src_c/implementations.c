/* implementations.c - which variants there are, and what they take.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "implementations.h"

#if HAS_AVX2
#include <cpuid.h>

/* Every processor with AVX2 converts float16, but an emulator may hide it. */
static int has_avx2(void)
{
    unsigned int eax, ebx, ecx, edx;

    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C);
}
#endif

static int has_anything(void)
{
    return 1;
}

static const t5b_implementation implementations[] = {
#if HAS_AVX2
    {"avx2", has_avx2, t5b_count_buckets_avx2, t5b_add_items_avx2},
#endif
    {"portable", has_anything, t5b_count_buckets_portable, t5b_add_items_portable},
};

const t5b_implementation *t5b_get_implementation(size_t index)
{
    const size_t count = sizeof implementations / sizeof implementations[0];
    return index < count ? &implementations[index] : NULL;
}
