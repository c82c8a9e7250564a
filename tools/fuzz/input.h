/* input.h - turn the fuzzer's bytes into numbers and memory of exact size: shared by core_*.c.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes become one valid call: any table, type, layout, mask and division that the contract in
 * t5bucket.h allows. Bytes choose what the call is like. Long contents come from a generator
 * that the bytes seed, so that one byte more or less does not change the whole call. Missing
 * bytes are 0.
 *
 * Results are compared with the definition, in expected_*.h. All memory is allocated in its
 * exact size, so that the address sanitizer finds an overrun of one byte. Bytes of the output
 * that the call must not write are checked, too.
 *
 *     python tools/fuzz/run.py 60 core_matrices      builds and runs a target for a minute
 *     python tools/fuzz/run.py 14400 core_matrices   four hours; the corpus stays in build/fuzz
 *     build/fuzz/core_matrices.fuzzer -help=1        libFuzzer's own options, such as -seed=1
 *     build/fuzz/core_matrices.fuzzer CRASH          one input again
 */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t *input;
static size_t input_nbytes;
static uint64_t generator;
static char call_text[256]; /* describes the call, for a message */

static inline uint8_t take_byte(void)
{
    if (input_nbytes == 0)
        return 0;
    input_nbytes--;
    return *input++;
}

/* A number in [0, count), of up to two bytes. */
static inline size_t take_below(size_t count)
{
    const size_t low = take_byte();

    return (count <= 256 ? low : low | (size_t)take_byte() << 8) % count;
}

static inline uint64_t take_uint64(void)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | take_byte();
    return value;
}

/* splitmix64 */
static inline uint64_t draw(void)
{
    uint64_t z = generator += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline size_t draw_below(size_t count)
{
    return (size_t)(draw() % count);
}

/* ---- memory, freed after each input ---- */

typedef struct region {
    unsigned char *begin; /* begin of the allocated memory */
    size_t nbytes;
} region;

enum { MAX_REGIONS = 64, LINE = 64 };
static void *allocated[MAX_REGIONS];
static size_t num_allocated;

static inline void *allocate(size_t nbytes)
{
    void *memory = malloc(nbytes);

    if (num_allocated == MAX_REGIONS || !memory)
        abort();
    allocated[num_allocated++] = memory;
    return memory;
}

static inline void free_all(void)
{
    while (num_allocated > 0)
        free(allocated[--num_allocated]);
}

/* Allocate memory with random bytes. `*data` is where its `nbytes` begin, at any multiple of the
 * item's size within a line. They end where the allocation ends. */
static inline region allocate_region(size_t nbytes, size_t itemsize, unsigned char **data)
{
    const size_t shift = take_below(LINE / itemsize) * itemsize;
    const region memory = {(unsigned char *)allocate(shift + nbytes), shift + nbytes};

    for (size_t i = 0; i < memory.nbytes; i += sizeof(uint64_t)) {
        const uint64_t bits = draw();
        const size_t rest = memory.nbytes - i;
        memcpy(memory.begin + i, &bits, rest < sizeof bits ? rest : sizeof bits);
    }
    *data = memory.begin + shift;
    return memory;
}

static inline region copy_region(region memory)
{
    const region copy = {(unsigned char *)allocate(memory.nbytes), memory.nbytes};

    memcpy(copy.begin, memory.begin, memory.nbytes);
    return copy;
}

/* ---- verdicts ---- */

static inline void check(int condition, const char *claim)
{
    if (!condition) {
        fprintf(stderr, "WRONG: %s: %s\n", call_text, claim);
        abort();
    }
}

static inline void check_equal(region found, region expected)
{
    for (size_t i = 0; i < found.nbytes; i++)
        if (found.begin[i] != expected.begin[i]) {
            fprintf(stderr, "WRONG: %s: byte %zu of %zu is %#x, expected %#x\n", call_text, i,
                    found.nbytes, found.begin[i], expected.begin[i]);
            abort();
        }
}

/* ---- one input ---- */

typedef void (*kernel_test)(void);

/* Run the test of the kernel that the first byte chooses. */
static inline int run_one(const kernel_test *tests, size_t count, const uint8_t *data,
                          size_t nbytes)
{
    input = data;
    input_nbytes = nbytes;
    generator = 0;
    const size_t chosen = take_below(count);
    generator = take_uint64();
    tests[chosen]();
    free_all();
    return 0;
}

#endif
