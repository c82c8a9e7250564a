/* items.h - items as unsigned integers of their size: shared by the core, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A caller's items may be floats, and a kernel's scratch holds items of any size, so
 * that a compiler must not conclude from these types what else is read or written.
 */
#ifndef T5BUCKET_ITEMS_H
#define T5BUCKET_ITEMS_H

#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define MAY_ALIAS __attribute__((may_alias))
#else
#define MAY_ALIAS /* compilers that do not conclude from types */
#endif

typedef uint8_t item8;
typedef uint16_t MAY_ALIAS item16;
typedef uint32_t MAY_ALIAS item32;
typedef uint64_t MAY_ALIAS item64;

/* Do a thing for the type of an item of this many bytes. */
#define FOR_ITEMSIZE(itemsize, DO) \
    switch (itemsize) { \
    case 1: DO(item8) break; \
    case 2: DO(item16) break; \
    case 4: DO(item32) break; \
    default: DO(item64) break; \
    }

#endif
