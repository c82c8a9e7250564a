/* pages.h - pages of memory, some of which must not be touched: of POSIX and of Windows.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef T5BUCKET_TESTS_PAGES_H
#define T5BUCKET_TESTS_PAGES_H

#include <assert.h>
#include <stddef.h>

#if defined(_WIN32)
#include <windows.h>

static size_t get_page_nbytes(void)
{
    SYSTEM_INFO system;

    GetSystemInfo(&system);
    return system.dwPageSize;
}

static unsigned char *allocate_pages(size_t nbytes)
{
    unsigned char *pages = VirtualAlloc(NULL, nbytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);

    assert(pages);
    return pages;
}

static void forbid_page(unsigned char *page, size_t nbytes)
{
    DWORD before;

    assert(VirtualProtect(page, nbytes, PAGE_NOACCESS, &before));
}

#else
#include <sys/mman.h>
#include <unistd.h>

static size_t get_page_nbytes(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static unsigned char *allocate_pages(size_t nbytes)
{
    unsigned char *pages =
        mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert(pages != MAP_FAILED);
    return pages;
}

static void forbid_page(unsigned char *page, size_t nbytes)
{
    assert(mprotect(page, nbytes, PROT_NONE) == 0);
}
#endif

#endif
