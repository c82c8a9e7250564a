/* implementations.h - functions that come in several variants: shared by the core, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_IMPLEMENTATIONS_H
#define T5BUCKET_IMPLEMENTATIONS_H

#include "processor.h"
#include "t5bucket.h"

#define DECLARE_COUNT(name) \
    void t5b_count_buckets_##name(const t5b_scheme *scheme, const void *relative_position, \
                                  t5b_integer type, size_t count, size_t itemsize, \
                                  int streaming, void *items);
#define DECLARE_ADD(name) \
    void t5b_add_items_##name(t5b_float type, void *sum, const void *addend, size_t count);

DECLARE_COUNT(portable)
DECLARE_ADD(portable)
#if HAS_AVX2
DECLARE_COUNT(avx2)
DECLARE_ADD(avx2)
#endif
#if HAS_AVX512
DECLARE_COUNT(avx512)
#endif

#undef DECLARE_COUNT
#undef DECLARE_ADD

#endif
