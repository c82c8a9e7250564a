/* processor.h - what compiler and processor have: shared by the core, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_PROCESSOR_H
#define T5BUCKET_PROCESSOR_H

#if defined(__GNUC__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#define ALWAYS_INLINE static inline
#endif

#if defined(__SSE2__) /* of every x86-64 */
#include <emmintrin.h>
#define HAS_SSE2 1
#else
#define HAS_SSE2 0
#endif

/* For functions that run only where the processor has it. */
#if defined(__GNUC__) && defined(__x86_64__)
#include <immintrin.h>
#define HAS_AVX2 1
#define AVX2 __attribute__((target("avx2,f16c")))
#else
#define HAS_AVX2 0
#endif

#endif
