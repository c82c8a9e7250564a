/* processor.h - what compiler and processor have: shared by the core, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_PROCESSOR_H
#define T5BUCKET_PROCESSOR_H

#if defined(__GNUC__) || defined(__clang__)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define RESTRICT restrict
#elif defined(_MSC_VER)
#define ALWAYS_INLINE static __forceinline
#define RESTRICT __restrict /* also without /std:c11 */
#else
#define ALWAYS_INLINE static inline
#define RESTRICT restrict
#endif

/* MSVC, or Clang in its place */
#if defined(_MSC_VER) && defined(_M_X64) && !defined(_M_ARM64EC)
#define IS_MSVC_X64 1
#else
#define IS_MSVC_X64 0
#endif

#if defined(__SSE2__) || IS_MSVC_X64 /* every x86-64 */
#include <emmintrin.h>
#define HAS_SSE2 1
#else
#define HAS_SSE2 0
#endif

/* AVX2 marks functions that run only where the processor has it. END_AVX2 clears the upper halves
 * of the registers, which would slow SSE2 down; GCC and Clang do so by themselves. */
#if (defined(__GNUC__) && defined(__x86_64__)) || (defined(__clang__) && IS_MSVC_X64)
#include <immintrin.h>
#define HAS_AVX2 1
#define AVX2 __attribute__((target("avx2,f16c")))
#define END_AVX2()
#elif IS_MSVC_X64
#include <immintrin.h>
#define HAS_AVX2 1
#define AVX2 /* MSVC compiles intrinsics of every instruction set */
#define END_AVX2() _mm256_zeroupper()
#else
#define HAS_AVX2 0
#endif

/* AVX512 marks the same with AVX-512 up to VBMI, as Ice Lake and Zen 4 have it. GCC for Windows does
 * not align the stack for its registers, and MSVC is left out with it. */
#if HAS_AVX2 && defined(__GNUC__) && !defined(_WIN32)
#define HAS_AVX512 1
#define AVX512 __attribute__((target("avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")))
#else
#define HAS_AVX512 0
#endif

/* Clang's immintrin.h leaves these out where Clang takes MSVC's place. Their order matters. */
#if defined(__clang__) && IS_MSVC_X64
/* clang-format off */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
/* clang-format on */
#endif

#endif
