/* matrices.h - make any matrices, pairs and epilogues that t5bucket.h allows from bytes.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FUZZ_MATRICES_H
#define FUZZ_MATRICES_H

#include "tables.h"

typedef struct shape {
    size_t num_batches, num_heads, query_length, key_length;
} shape;

static inline shape take_shape(void)
{
    const int is_long = take_below(4) == 0; /* keys of several blocks */
    const size_t num_heads = take_below(8) == 0 ? 20 : 8;
    shape taken;

    taken.num_batches = 1 + take_below(is_long ? 2 : 3);
    taken.num_heads = 1 + take_below(is_long ? 5 : num_heads);
    taken.query_length = 1 + take_below(is_long ? 2 : 12);
    taken.key_length = is_long ? 1000 + take_below(1300) : 1 + take_below(100);
    return taken;
}

/* Integers of queries and keys: positions for a table, or few different integers for masks,
 * some of which differ only in their upper bits. */
static inline t5b_pairs take_pairs(const shape *s, const t5b_table *table)
{
    static const int8_t shifts[] = {0, 0, 8, 28, 32, 40};
    const int8_t shift = table ? 0 : shifts[take_below(6)];
    const int is_narrow = take_below(2) == 1;
    const wide lowest = is_narrow ? 0 : INT64_MIN;
    const wide highest = is_narrow ? ((wide)1 << 30) - 1 : INT64_MAX;
    const size_t itemsize = is_narrow ? 4 : 8, rows = s->num_batches - 1;
    const int64_t middle = clamp(take_place(), lowest, highest);
    t5b_pairs pairs = {is_narrow ? T5B_INT32 : T5B_INT64, NULL, NULL, 0, 0};
    size_t query_count, key_count;
    unsigned char *query, *key;

    if (take_below(2))
        pairs.query_batch_stride = s->query_length + take_below(4);
    if (take_below(2))
        pairs.key_batch_stride = s->key_length + take_below(4);
    query_count = rows * pairs.query_batch_stride + s->query_length;
    key_count = rows * pairs.key_batch_stride + s->key_length;
    allocate_region(query_count * itemsize, itemsize, &query);
    allocate_region(key_count * itemsize, itemsize, &key);
    for (size_t i = 0; i < query_count; i++)
        write_bits(query + i * itemsize, itemsize,
                   (uint64_t)clamp(middle + ((wide)draw_below(6) << shift), lowest, highest));
    for (size_t j = 0; j < key_count; j++) {
        const wide distance = table ? draw_position(table) : (wide)draw_below(6) << shift;
        write_bits(key + j * itemsize, itemsize,
                   (uint64_t)clamp(middle + distance, lowest, highest));
    }
    pairs.query = query;
    pairs.key = key;
    return pairs;
}

/* Strides of any order and sign, with gaps, or 0 if allowed. */
static inline t5b_matrix take_matrix(const shape *s, size_t itemsize, int may_share,
                                     region *memory)
{
    static const unsigned char orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                               {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const unsigned char *order = orders[take_below(6)];
    const size_t lengths[3] = {s->query_length, s->num_heads, s->num_batches};
    const size_t flags = take_below(256);
    size_t extent = s->key_length * itemsize, last = 0, first = 0;
    ptrdiff_t strides[3];
    unsigned char *data;

    for (size_t turn = 0; turn < 3; turn++) {
        const size_t axis = order[turn], last_index = lengths[axis] - 1;
        const int is_shared = may_share && (flags >> axis & 1);
        const int is_negative = (flags >> (3 + axis) & 1) && flags >= 128;
        const size_t stride =
            is_shared ? 0 : extent + (flags & 64 ? take_below(40) * itemsize : 0);
        strides[axis] = is_negative ? -(ptrdiff_t)stride : (ptrdiff_t)stride;
        last += last_index * stride;
        first += is_negative ? last_index * stride : 0;
        if (!is_shared)
            extent = last + s->key_length * itemsize;
    }
    *memory = allocate_region(extent, itemsize, &data);
    return (t5b_matrix){data + first, s->query_length, s->key_length,
                        strides[2],   strides[1],      strides[0]};
}

enum { ACCUMULATE = 1, ADDEND = 2, KEEP = 4, SEGMENTS = 8, CAUSAL = 16 };

static inline void take_masks(const shape *s, size_t flags, t5b_epilogue *epilogue)
{
    region memory;

    if (flags & KEEP) {
        const size_t num_kept = take_below(4);
        epilogue->keep = take_matrix(s, 1, 1, &memory);
        for (size_t i = 0; i < memory.nbytes; i++) /* any byte but 0 keeps */
            memory.begin[i] = draw_below(4) <= num_kept ? memory.begin[i] : 0;
    }
    if (flags & SEGMENTS)
        epilogue->segments = take_pairs(s, NULL);
    if (flags & CAUSAL)
        epilogue->causal = take_pairs(s, NULL);
}

/* An epilogue, or NULL. Sets the size of items. */
static inline const t5b_epilogue *take_epilogue(const shape *s, t5b_epilogue *epilogue,
                                                size_t *itemsize)
{
    const size_t flags = take_below(32);
    unsigned char *masked_item;
    region memory;

    memset(epilogue, 0, sizeof *epilogue);
    epilogue->type = (t5b_float)take_below(4);
    *itemsize =
        flags & (ACCUMULATE | ADDEND) ? float_formats[epilogue->type].itemsize : take_itemsize();
    if (flags == 0 && take_below(2))
        return NULL;
    if (flags & (ACCUMULATE | ADDEND))
        epilogue->implementation = take_implementation();
    epilogue->accumulate = (flags & ACCUMULATE) != 0;
    if (flags & ADDEND) {
        epilogue->addend = take_matrix(s, *itemsize, 1, &memory);
        take_floats(memory, epilogue->type);
    }
    take_masks(s, flags, epilogue);
    if (flags & (KEEP | SEGMENTS | CAUSAL)) {
        allocate_region(*itemsize, *itemsize, &masked_item);
        epilogue->masked_item = masked_item;
    }
    return epilogue;
}

static inline int compare_sizes(const void *left, const void *right)
{
    const size_t a = *(const size_t *)left, b = *(const size_t *)right;

    return (a > b) - (a < b);
}

/* Rows, in up to three calls: [cuts[0], cuts[1]), ... */
enum { NUM_CUTS = 4 };
static inline void take_cuts(size_t num_rows, size_t cuts[NUM_CUTS])
{
    const size_t flags = take_below(4);

    cuts[0] = flags & 1 ? take_below(num_rows + 1) : 0;
    cuts[1] = take_below(num_rows + 1);
    cuts[2] = take_below(num_rows + 1);
    cuts[3] = flags & 2 ? take_below(num_rows + 1) : num_rows;
    qsort(cuts, NUM_CUTS, sizeof *cuts, compare_sizes);
}

static inline wide get_relative_position(const t5b_pairs *positions, size_t batch, size_t i,
                                         size_t j)
{
    return clamp((wide)get_key(positions, batch, j) - get_query(positions, batch, i), INT64_MIN,
                 INT64_MAX);
}

static inline void describe_matrix(const char *kernel, const shape *s, size_t itemsize,
                                   const t5b_epilogue *epilogue, const size_t *cuts,
                                   int streaming)
{
    snprintf(call_text, sizeof call_text,
             "%s %zu x %zu x %zu x %zu, items of %zu, rows %zu %zu %zu %zu, streaming %d, "
             "epilogue %d: type %d, accumulate %d, addend %d, keep %d, segments %d, causal %d",
             kernel, s->num_batches, s->num_heads, s->query_length, s->key_length, itemsize,
             cuts[0], cuts[1], cuts[2], cuts[3], streaming, epilogue != NULL,
             epilogue ? (int)epilogue->type : 0, epilogue && epilogue->accumulate,
             epilogue && epilogue->addend.data, epilogue && epilogue->keep.data,
             epilogue && epilogue->segments.query, epilogue && epilogue->causal.query);
}

#endif
