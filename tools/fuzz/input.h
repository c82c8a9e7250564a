/* input.h - a fuzzer's bytes -> numbers, and exactly sized memory: shared by core.c's functions.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes say what a call is like; long contents are drawn from a generator that they seed, so
 * that one byte more or less does not change all of a call. Where bytes run out, they are 0.
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
static char what[256]; /* the call, for a message */

static uint8_t take_byte(void)
{
    if (input_nbytes == 0)
        return 0;
    input_nbytes--;
    return *input++;
}

/* A number in [0, count), of up to two bytes. */
static size_t take_below(size_t count)
{
    const size_t low = take_byte();

    return (count <= 256 ? low : low | (size_t)take_byte() << 8) % count;
}

static uint64_t take_uint64(void)
{
    uint64_t value = 0;

    for (int i = 0; i < 8; i++)
        value = value << 8 | take_byte();
    return value;
}

/* splitmix64 */
static uint64_t draw(void)
{
    uint64_t z = generator += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static size_t draw_below(size_t count)
{
    return (size_t)(draw() % count);
}

/* ---- memory, freed after each input ---- */

typedef struct region {
    unsigned char *begin; /* of what was allocated, exactly */
    size_t nbytes;
} region;

enum { MAX_REGIONS = 64, LINE = 64 };
static void *allocated[MAX_REGIONS];
static size_t num_allocated;

static void *allocate(size_t nbytes)
{
    void *memory = malloc(nbytes);

    if (num_allocated == MAX_REGIONS || !memory)
        abort();
    allocated[num_allocated++] = memory;
    return memory;
}

static void free_all(void)
{
    while (num_allocated > 0)
        free(allocated[--num_allocated]);
}

/* Memory that ends with its last byte, which is `nbytes` after any multiple of the item's size
 * in a line: `*data` is where they begin. Random bytes. */
static region allocate_region(size_t nbytes, size_t itemsize, unsigned char **data)
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

static region copy_region(region memory)
{
    const region copy = {(unsigned char *)allocate(memory.nbytes), memory.nbytes};

    memcpy(copy.begin, memory.begin, memory.nbytes);
    return copy;
}

/* ---- verdicts ---- */

static void check(int condition, const char *claim)
{
    if (!condition) {
        fprintf(stderr, "WRONG: %s: %s\n", what, claim);
        abort();
    }
}

static void check_equal(region found, region expected)
{
    for (size_t i = 0; i < found.nbytes; i++)
        if (found.begin[i] != expected.begin[i]) {
            fprintf(stderr, "WRONG: %s: byte %zu of %zu is %#x, expected %#x\n", what, i,
                    found.nbytes, found.begin[i], expected.begin[i]);
            abort();
        }
}

#endif
