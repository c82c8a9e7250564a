/* stream.h - write a row, past the caches where that pays: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * An ordinary store reads a line of memory before it changes it. A row that is
 * written once, and is part of more than the last-level cache holds, is written
 * twice as fast by non-temporal stores, which do not: 27 instead of 12 GB/s on
 * a Zen 4 core, the speed of memset. While the output still fits the cache they
 * lose that again, so that the caller decides.
 */
#ifndef T5BUCKET_STREAM_H
#define T5BUCKET_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { LINE_NBYTES = 64 };

/* written = (source & keep) | other, byte by byte. The four do not overlap. */
static inline void select_row(unsigned char *restrict target, const unsigned char *restrict source,
                              const unsigned char *restrict keep,
                              const unsigned char *restrict other, size_t nbytes)
{
    for (size_t i = 0; i < nbytes; i++)
        target[i] = (unsigned char)((source[i] & keep[i]) | other[i]);
}

#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>

enum { CAN_STREAM = 1 };

static inline __m128i select_vector(const unsigned char *source, const unsigned char *keep,
                                    const unsigned char *other)
{
    const __m128i item = _mm_loadu_si128((const __m128i *)(const void *)source);
    const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)keep);
    const __m128i masked = _mm_loadu_si128((const __m128i *)(const void *)other);
    return _mm_or_si128(_mm_and_si128(item, bits), masked);
}

/* Whole lines only: a partly written line goes to memory in pieces. */
static inline void stream_row(unsigned char *target, const unsigned char *source, size_t nbytes)
{
    const size_t misaligned = (uintptr_t)target % LINE_NBYTES;
    size_t head = misaligned ? LINE_NBYTES - misaligned : 0;

    head = head < nbytes ? head : nbytes;
    memcpy(target, source, head);
    for (; nbytes - head >= LINE_NBYTES; head += LINE_NBYTES) {
        const __m128i *from = (const __m128i *)(const void *)(source + head);
        __m128i *to = (__m128i *)(void *)(target + head);
        const __m128i a = _mm_loadu_si128(from), b = _mm_loadu_si128(from + 1);
        const __m128i c = _mm_loadu_si128(from + 2), d = _mm_loadu_si128(from + 3);
        _mm_stream_si128(to, a);
        _mm_stream_si128(to + 1, b);
        _mm_stream_si128(to + 2, c);
        _mm_stream_si128(to + 3, d);
    }
    memcpy(target + head, source + head, nbytes - head);
}

/* written = (source & keep) | other, as `stream_row`. */
static inline void stream_selected_row(unsigned char *target, const unsigned char *source,
                                       const unsigned char *keep, const unsigned char *other,
                                       size_t nbytes)
{
    const size_t misaligned = (uintptr_t)target % LINE_NBYTES;
    size_t head = misaligned ? LINE_NBYTES - misaligned : 0;

    head = head < nbytes ? head : nbytes;
    select_row(target, source, keep, other, head);
    for (; nbytes - head >= LINE_NBYTES; head += LINE_NBYTES)
        for (size_t i = head; i < head + LINE_NBYTES; i += 16)
            _mm_stream_si128((__m128i *)(void *)(target + i),
                             select_vector(source + i, keep + i, other + i));
    select_row(target + head, source + head, keep + head, other + head, nbytes - head);
}

/* Make what was streamed visible to other threads before the caller tells them. */
static inline void finish_stream(void)
{
    _mm_sfence();
}

#else /* what a platform's memcpy does is the best that is known of it */
enum { CAN_STREAM = 0 };

static inline void stream_row(unsigned char *target, const unsigned char *source, size_t nbytes)
{
    memcpy(target, source, nbytes);
}

static inline void stream_selected_row(unsigned char *target, const unsigned char *source,
                                       const unsigned char *keep, const unsigned char *other,
                                       size_t nbytes)
{
    select_row(target, source, keep, other, nbytes);
}

static inline void finish_stream(void) {}

#endif

static inline void write_row(unsigned char *target, const unsigned char *source, size_t nbytes,
                             int streaming)
{
    if (streaming)
        stream_row(target, source, nbytes);
    else
        memcpy(target, source, nbytes);
}

static inline void write_selected_row(unsigned char *target, const unsigned char *source,
                                      const unsigned char *keep, const unsigned char *other,
                                      size_t nbytes, int streaming)
{
    if (streaming)
        stream_selected_row(target, source, keep, other, nbytes);
    else
        select_row(target, source, keep, other, nbytes);
}

#endif
