/* implementations.c - which variants there are, and what they take.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "implementations.h"

/* Every processor with AVX2 converts float16, but an emulator may hide it. */
#if HAS_AVX2 && IS_MSVC_X64
#include <intrin.h>

static int has_avx2(void)
{
    enum { F16C_AVX_OSXSAVE = 7 << 27, AVX2_BIT = 1 << 5, XMM_YMM = 6 };
    int most[4], basic[4], extended[4]; /* of eax, ebx, ecx, edx */

    __cpuid(most, 0);
    if (most[0] < 7)
        return 0;
    __cpuid(basic, 1);
    __cpuidex(extended, 7, 0);
    return (basic[2] & F16C_AVX_OSXSAVE) == F16C_AVX_OSXSAVE && (extended[1] & AVX2_BIT) &&
           (_xgetbv(0) & XMM_YMM) == XMM_YMM; /* which the system saves */
}

#elif HAS_AVX2
#include <cpuid.h>

static int has_avx2(void)
{
    unsigned int eax, ebx, ecx, edx;

    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
           (ecx & bit_F16C);
}
#endif

#if HAS_AVX512
static int has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi");
}
#endif

static int has_anything(void)
{
    return 1;
}

static const t5b_implementation implementations[] = {
#if HAS_AVX512
    {"avx512", has_avx512, t5b_count_buckets_avx512, t5b_add_items_avx2},
#endif
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
