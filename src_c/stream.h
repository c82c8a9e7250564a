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

#include "processor.h"

enum { LINE_NBYTES = 64 };

/* What is written, byte by byte: source & keep | other, or the source where keep is NULL. */
typedef struct bytes {
    const unsigned char *source, *keep, *other;
} bytes;

/* The target does not overlap the others. */
static inline void write_bytes(unsigned char *restrict target, const bytes *from, size_t begin,
                               size_t end)
{
    const unsigned char *restrict source = from->source, *restrict keep = from->keep;
    const unsigned char *restrict other = from->other;

    if (!keep)
        memcpy(target + begin, source + begin, end - begin);
    else
        for (size_t i = begin; i < end; i++)
            target[i] = (unsigned char)((source[i] & keep[i]) | other[i]);
}

#if HAS_SSE2

enum { CAN_STREAM = 1 };

static inline __m128i load_vector(const unsigned char *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

ALWAYS_INLINE void stream_line(unsigned char *target, const bytes *from, size_t begin,
                               int is_masked)
{
    for (size_t i = begin; i < begin + LINE_NBYTES; i += 16) {
        __m128i vector = load_vector(from->source + i);
        if (is_masked)
            vector = _mm_or_si128(_mm_and_si128(vector, load_vector(from->keep + i)),
                                  load_vector(from->other + i));
        _mm_stream_si128((__m128i *)(void *)(target + i), vector);
    }
}

/* Whole lines only: a partly written line goes to memory in pieces. */
static inline void stream_bytes(unsigned char *target, const bytes *from, size_t nbytes)
{
    const size_t misaligned = (uintptr_t)target % LINE_NBYTES;
    const size_t first = misaligned ? LINE_NBYTES - misaligned : 0;
    const size_t begin = first < nbytes ? first : nbytes;
    const size_t end = nbytes - (nbytes - begin) % LINE_NBYTES;

    write_bytes(target, from, 0, begin);
    if (from->keep)
        for (size_t i = begin; i < end; i += LINE_NBYTES)
            stream_line(target, from, i, 1);
    else
        for (size_t i = begin; i < end; i += LINE_NBYTES)
            stream_line(target, from, i, 0);
    write_bytes(target, from, end, nbytes);
}

/* Make what was streamed visible to other threads before the caller tells them. */
static inline void finish_stream(void)
{
    _mm_sfence();
}

#else /* what a platform's memcpy does is the best that is known of it */
enum { CAN_STREAM = 0 };

static inline void stream_bytes(unsigned char *target, const bytes *from, size_t nbytes)
{
    write_bytes(target, from, 0, nbytes);
}

static inline void finish_stream(void) {}

#endif

static inline void write_row(unsigned char *target, const bytes *from, size_t nbytes,
                             int streaming)
{
    if (streaming)
        stream_bytes(target, from, nbytes);
    else
        write_bytes(target, from, 0, nbytes);
}

static inline void stream_row(unsigned char *target, const unsigned char *source, size_t nbytes)
{
    const bytes from = {source, NULL, NULL};
    stream_bytes(target, &from, nbytes);
}

#endif
