/* stream.h - write a row, optionally past the caches: shared by the kernels, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * An ordinary store reads a line of memory before it changes the line. A non-temporal
 * store does not. If the output is not in the last-level cache, it is twice as fast, and
 * reaches the speed of memset (27 instead of 12 GB/s on a Zen 4 core). If the output is
 * in the cache, it is slower. So the caller decides.
 */
#ifndef T5BUCKET_STREAM_H
#define T5BUCKET_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "processor.h"

/* Of x86-64, which alone streams. Lines of 128 bytes, as Apple's, are two of these: where stores go
 * through the caches, it costs nothing to write a line in two pieces. */
enum { LINE_NBYTES = 64 };

/* What to write, byte by byte: (items & keep) | other, or the items if keep is NULL. */
typedef struct row_source {
    const unsigned char *items, *keep, *other;
} row_source;

/* The target does not overlap the others. */
static inline void write_bytes(unsigned char *RESTRICT target, const row_source *from,
                               size_t begin, size_t end)
{
    const unsigned char *RESTRICT items = from->items, *RESTRICT keep = from->keep;
    const unsigned char *RESTRICT other = from->other;

    if (!keep)
        memcpy(target + begin, items + begin, end - begin);
    else
        for (size_t i = begin; i < end; i++)
            target[i] = (unsigned char)((items[i] & keep[i]) | other[i]);
}

#if HAS_SSE2

enum { CAN_STREAM = 1 };

static inline __m128i load_vector(const unsigned char *from)
{
    return _mm_loadu_si128((const __m128i *)(const void *)from);
}

ALWAYS_INLINE void stream_line(unsigned char *target, const row_source *from, size_t begin,
                               int is_masked)
{
    for (size_t i = begin; i < begin + LINE_NBYTES; i += 16) {
        __m128i vector = load_vector(from->items + i);
        if (is_masked)
            vector = _mm_or_si128(_mm_and_si128(vector, load_vector(from->keep + i)),
                                  load_vector(from->other + i));
        _mm_stream_si128((__m128i *)(void *)(target + i), vector);
    }
}

/* Stream only whole lines: a line that is written in part goes to memory in pieces. */
static inline void stream_bytes(unsigned char *target, const row_source *from, size_t nbytes)
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

/* Make streamed stores visible to other threads before any later store of the caller. */
static inline void fence_stores(void)
{
    _mm_sfence();
}

#else /* no faster way than memcpy is known on other platforms */
enum { CAN_STREAM = 0 };

static inline void stream_bytes(unsigned char *target, const row_source *from, size_t nbytes)
{
    write_bytes(target, from, 0, nbytes);
}

static inline void fence_stores(void) {}

#endif

static inline void write_row(unsigned char *target, const row_source *from, size_t nbytes,
                             int streaming)
{
    if (streaming)
        stream_bytes(target, from, nbytes);
    else
        write_bytes(target, from, 0, nbytes);
}

/* Write a row without a mask. */
static inline void stream_row(unsigned char *target, const unsigned char *items, size_t nbytes)
{
    const row_source from = {items, NULL, NULL};
    stream_bytes(target, &from, nbytes);
}

#endif
