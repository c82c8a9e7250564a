/* fail_allocation.c - a preloaded library that makes chosen allocations of a thread fail.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#include <errno.h>
#include <stddef.h>

typedef struct _object PyObject; /* Python's headers are not needed for two names */
__attribute__((weak)) PyObject *PyObject_CallObject(PyObject *callable, PyObject *arguments);

void *__libc_malloc(size_t nbytes);
void *__libc_calloc(size_t count, size_t nbytes);
void *__libc_realloc(void *block, size_t nbytes);

/* Thread-local, in static storage: lazily made storage would be allocated by the functions here. */
#define OF_THREAD static _Thread_local __attribute__((tls_model("initial-exec")))
OF_THREAD int armed;
OF_THREAD size_t allocations;       /* since it was armed */
OF_THREAD size_t first, after_last; /* the numbers, from 1, of those that fail */
OF_THREAD size_t failures;

/* Call a function without arguments while allocations begin to end - 1 of this thread fail,
 * counted from 1. In C, because Python would allocate while it arms and disarms. */
PyObject *call_failing(PyObject *callable, size_t begin, size_t end)
{
    first = begin;
    after_last = end;
    allocations = failures = 0;
    armed = 1;
    PyObject *result = PyObject_CallObject(callable, NULL);
    armed = 0;
    return result;
}

/* Call a function without arguments while no allocation fails. */
PyObject *call_unfailing(PyObject *callable)
{
    int was_armed = armed;
    armed = 0;
    PyObject *result = PyObject_CallObject(callable, NULL);
    armed = was_armed;
    return result;
}

/* How many allocations failed in this thread's last call. */
size_t count_failures(void)
{
    return failures;
}

static int fails(void)
{
    if (!armed)
        return 0;
    ++allocations;
    if (allocations < first || allocations >= after_last)
        return 0;
    ++failures;
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t nbytes)
{
    return fails() ? NULL : __libc_malloc(nbytes);
}

void *calloc(size_t count, size_t nbytes)
{
    return fails() ? NULL : __libc_calloc(count, nbytes);
}

void *realloc(void *block, size_t nbytes)
{
    return fails() ? NULL : __libc_realloc(block, nbytes);
}
