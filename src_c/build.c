/* build.c - name of the compiler that built the core, for bug reports.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include "t5bucket.h"

#define STRING(x) STRING_(x)
#define STRING_(x) #x

const char *t5b_get_compiler(void)
{
#if defined(__clang__)
    return __VERSION__; /* begins with the compiler's name */
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC " STRING(_MSC_FULL_VER);
#else
    return "unknown";
#endif
}
