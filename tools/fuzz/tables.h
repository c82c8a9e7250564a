/* tables.h - make any types, tables, positions and numbers that t5bucket.h allows from bytes.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FUZZ_TABLES_H
#define FUZZ_TABLES_H

#include "expected_items.h"
#include "expected_sums.h"
#include "input.h"

static inline t5b_integer take_integer_type(void)
{
    static const t5b_integer types[] = {T5B_INT8,  T5B_INT16,  T5B_INT32,  T5B_INT64,
                                        T5B_UINT8, T5B_UINT16, T5B_UINT32, T5B_UINT64};
    return types[take_below(8)];
}

static inline size_t take_itemsize(void)
{
    return (size_t)1 << take_below(4);
}

static inline const t5b_implementation *take_implementation(void)
{
    size_t index = take_below(3);
    const t5b_implementation *found = t5b_get_implementation(index);

    while (!found || !found->is_supported())
        found = t5b_get_implementation(index = found ? index + 1 : 0);
    return found;
}

static inline int64_t clamp(wide value, wide lowest, wide highest)
{
    return (int64_t)(value < lowest ? lowest : value > highest ? highest : value);
}

enum { MAX_START_SHIFT = 62 };

/* A position near a boundary of a rule, or where kernels choose another path. */
static inline int64_t take_place(void)
{
    static const int8_t shifts[] = {0, 0, 0, 7, 29, 30, 31, 32, 61, MAX_START_SHIFT};
    const wide place = (wide)1 << shifts[take_below(10)];
    const int is_negative = take_below(2) == 1;

    return (int64_t)((is_negative ? -place : place) + (int8_t)take_byte());
}

/* Set a table's ranges. */
static inline void take_ranges(t5b_table *table)
{
    static const uint64_t gaps[] = {1, 1, 3, 40, 1 << 20, (uint64_t)1 << 40};
    const wide limit = (wide)1 << MAX_START_SHIFT;
    const int is_indexed = take_below(2) == 1;
    const size_t num_ranges = 1 + (take_below(8) == 0 ? take_below(400) : take_below(40));
    const uint64_t gap = gaps[take_below(6)];
    wide start = clamp(take_place(), -limit, limit);
    int64_t *starts;

    table->num_ranges = num_ranges;
    table->starts = NULL;
    table->origin = clamp(start, -limit, limit - (wide)num_ranges);
    if (is_indexed)
        return;
    table->origin = (int64_t)draw(); /* must not be read */
    starts = (int64_t *)allocate((num_ranges - 1) * sizeof *starts);
    for (size_t r = 0; r + 1 < num_ranges; r++) {
        if (start > limit) {
            table->num_ranges = r + 1;
            break;
        }
        starts[r] = (int64_t)start;
        start += 1 + draw() % gap;
    }
    table->starts = starts;
}

/* A table of random bytes. If `is_by_range`, the items of each range are one row. */
static inline t5b_table take_table(size_t itemsize, size_t num_heads, int is_by_range)
{
    t5b_table table = {NULL, itemsize, num_heads, 0, itemsize, NULL, 0};
    unsigned char *items;
    size_t nbytes;

    take_ranges(&table);
    if (is_by_range) {
        table.range_stride = T5B_VECTOR_NBYTES << take_below(2);
        while (table.range_stride < num_heads * itemsize)
            table.range_stride *= 2;
    }
    nbytes = table.num_ranges * (is_by_range ? table.range_stride : num_heads * itemsize);
    allocate_region(nbytes, itemsize, &items);
    table.items = items;
    return table;
}

/* A relative position: mostly near a start, or small, or at the ends of int64. */
static inline int64_t draw_position(const t5b_table *table)
{
    const size_t way = draw_below(16);

    if (way < 2)
        return way ? INT64_MAX - (int64_t)draw_below(3) : INT64_MIN + (int64_t)draw_below(3);
    if (way < 6 || table->num_ranges == 1)
        return (int64_t)draw() >> draw_below(64);
    return (int64_t)(expected_start(table, 1 + draw_below(table->num_ranges - 1)) +
                     (wide)draw_below(5) - 2);
}

/* Replace random bits by floating-point numbers whose sums must be rounded, or cancel. */
static inline void take_floats(region memory, t5b_float type)
{
    const float_format format = float_formats[type];
    const size_t way = take_below(4), skipped = memory.nbytes % format.itemsize;
    const uint64_t base = draw_below((size_t)format.max_exponent);

    for (size_t i = skipped; way > 0 && i < memory.nbytes; i += format.itemsize) {
        const uint64_t sign = draw_below(2) << (8 * format.itemsize - 1);
        const uint64_t few = draw() & draw() & draw();
        const uint64_t exponent = way == 1 ? draw_below(3) : base + draw_below(14) / 2;
        const uint64_t highest = (uint64_t)format.max_exponent - (way == 3 ? 0 : 1);
        write_bits(memory.begin + i, format.itemsize,
                   sign | (exponent < highest ? exponent : highest) << format.fraction_bits |
                       get_fraction(format, way == 2 ? few : draw()));
    }
}

#endif
