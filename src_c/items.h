/* items.h - items as unsigned integers of their size: shared by the core, not installed.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * A caller's items may be floats, and a kernel's scratch memory holds items of any size.
 * So compilers must assume that these types may alias any other type.
 */
#ifndef T5BUCKET_ITEMS_H
#define T5BUCKET_ITEMS_H

#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define MAY_ALIAS __attribute__((may_alias))
#else
#define MAY_ALIAS /* compilers without type-based alias analysis */
#endif

typedef uint8_t item8;
typedef uint16_t MAY_ALIAS item16;
typedef uint32_t MAY_ALIAS item32;
typedef uint64_t MAY_ALIAS item64;

/* Expand DO(type) for the unsigned type of this many bytes. */
#define FOR_ITEMSIZE(itemsize, DO) \
    switch (itemsize) { \
    case 1: DO(item8) break; \
    case 2: DO(item16) break; \
    case 4: DO(item32) break; \
    default: DO(item64) break; \
    }

#endif
