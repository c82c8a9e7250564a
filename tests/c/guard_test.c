/* guard_test.c - the C core between guard pages: no byte beyond a buffer is read or written.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Each buffer ends where a page begins that must not be touched, or begins where one ends, or
 * stands some bytes from there; bytes between are marked, and must stay. Each kernel runs for
 * all lengths up to MAX_LENGTH, and some around its blocks, and for each length with all
 * alignments of its items in a line of memory. No other test sees a read of one item too many.
 * Results are compared with plain loops. Built by test_c_core.py.
 */
#undef NDEBUG
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#endif
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "bits.h"
#include "pages.h"
#include "t5bucket.h"

enum {
    MAX_LENGTH = 300,
    MAX_BLOCK_LENGTH = 1100,
    LINE_NBYTES = 64,
    MARK = 0xa5,
    NUM_HEADS = 3,
    NUM_RANGES = 7
};

static unsigned long long num_calls;

/* ---- buffers ---- */

typedef struct arena {
    unsigned char *memory; /* between two pages that must not be touched */
    size_t nbytes;
} arena;

typedef struct buffer {
    unsigned char *data;
    size_t nbytes;
    const arena *in;
} buffer;

static arena make_arena(size_t nbytes)
{
    const size_t page = get_page_nbytes();
    arena result;
    unsigned char *all;

    result.nbytes = (nbytes + page - 1) / page * page;
    all = allocate_pages(result.nbytes + 2 * page);
    forbid_page(all, page);
    forbid_page(all + page + result.nbytes, page);
    result.memory = all + page;
    return result;
}

/* How a call's buffers stand: so many bytes from the page before them, or after them. */
typedef struct placement {
    size_t shift;
    int at_end;
} placement;

/* `shift` is rounded down to whole items. */
static buffer place(const arena *in, size_t nbytes, size_t itemsize, placement where)
{
    const size_t shift = where.shift / itemsize * itemsize;
    const buffer result = {
        where.at_end ? in->memory + in->nbytes - nbytes - shift : in->memory + shift, nbytes, in};

    assert(nbytes + shift + LINE_NBYTES <= in->nbytes);
    if (where.at_end)
        memset(result.data - LINE_NBYTES, MARK, nbytes + shift + LINE_NBYTES);
    else
        memset(in->memory, MARK, shift + nbytes + LINE_NBYTES);
    return result;
}

/* What stands around a buffer has not changed. */
static void check_marks(const buffer *of)
{
    const unsigned char *end = of->data + of->nbytes;
    const unsigned char *last = of->in->memory + of->in->nbytes;

    for (size_t i = 1; i <= LINE_NBYTES && of->data - i >= of->in->memory; i++)
        assert(of->data[-(ptrdiff_t)i] == MARK);
    for (size_t i = 0; i < LINE_NBYTES && end + i < last; i++)
        assert(end[i] == MARK);
}

/* ---- a rule: clipped distances, for some heads ---- */

static const int64_t starts[NUM_RANGES - 1] = {-2, -1, 0, 1, 2, 3};

static int expected_item(int64_t d, size_t head)
{
    return (int)(10 * head) + (int)(d < -3 ? -3 : d > 3 ? 3 : d) + 3;
}

typedef struct arenas {
    arena items, starts, diagonals, out, query, key, addend, keep, segments, masked, sums;
} arenas;

static arenas make_arenas(void)
{
    const size_t most = 8 * (MAX_BLOCK_LENGTH + 2) * 2 * NUM_HEADS + 4096;
    const arenas all = {make_arena(most), make_arena(most), make_arena(most), make_arena(most),
                        make_arena(most), make_arena(most), make_arena(most), make_arena(most),
                        make_arena(most), make_arena(most), make_arena(most)};
    return all;
}

/* A table of either kind, in one of its two orders, all of it between guard pages. */
static t5b_table make_table(const arenas *in, size_t itemsize, size_t num_heads, int by_range,
                            int by_starts, placement where)
{
    const size_t vector = itemsize == 8 ? 32 : 16, stride = by_range ? vector : itemsize;
    const size_t nbytes = NUM_RANGES * (by_range ? vector : num_heads * itemsize);
    const buffer items = place(&in->items, nbytes, itemsize, where);
    const buffer firsts = place(&in->starts, sizeof starts, 8, where);
    t5b_table table = {items.data, itemsize, num_heads, NUM_RANGES, stride, NULL, -3};

    memcpy(firsts.data, starts, sizeof starts);
    if (by_starts)
        table.starts = (const int64_t *)(const void *)firsts.data;
    for (size_t head = 0; head < num_heads; head++)
        for (size_t range = 0; range < NUM_RANGES; range++)
            set_item(items.data,
                     by_range ? range * (vector / itemsize) + head : head * NUM_RANGES + range,
                     itemsize, (uint64_t)expected_item((int64_t)range - 3, head));
    return table;
}

/* ---- element by element ---- */

static const t5b_integer types[] = {T5B_INT8,  T5B_INT16,  T5B_INT32,  T5B_INT64,
                                    T5B_UINT8, T5B_UINT16, T5B_UINT32, T5B_UINT64};

static size_t get_nbytes_of(t5b_integer type)
{
    return (size_t)(type < 0 ? -(int)type : (int)type);
}

/* Distances of -20 .. 20, or 0 .. 40. */
static int64_t get_position(t5b_integer type, size_t i)
{
    return (int64_t)(i * 29 % 41) - (type < 0 ? 20 : 0);
}

static buffer place_positions(const arenas *in, t5b_integer type, size_t count, placement where)
{
    const size_t nbytes = get_nbytes_of(type);
    const buffer positions = place(&in->query, count * nbytes, nbytes, where);

    for (size_t i = 0; i < count; i++)
        set_item(positions.data, i, nbytes, (uint64_t)get_position(type, i));
    return positions;
}

static void test_lookup(const arenas *in, size_t count, size_t itemsize, placement where)
{
    static unsigned turn; /* of tables and ways to write */

    for (int t = 0; t < 8; t++) {
        const t5b_table table = make_table(in, itemsize, 1, 0, turn / 2 % 2, where);
        const buffer positions = place_positions(in, types[t], count, where);
        const buffer out = place(&in->out, count * itemsize, itemsize, where);

        t5b_lookup(&table, positions.data, types[t], count, turn % 2, out.data);
        for (size_t i = 0; i < count; i++)
            assert(get_item(out.data, i, itemsize) ==
                   (uint64_t)expected_item(get_position(types[t], i), 0));
        check_marks(&out);
        num_calls++;
        turn += 3;
    }
}

static const int64_t boundaries[] = {6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 23};

static uint64_t expected_bucket(const t5b_scheme *scheme, int64_t d)
{
    const int64_t n = d < 0 ? -d : scheme->bidirectional ? d : 0;
    int64_t bucket = n < 4 ? n : 4;

    for (size_t i = 0; i < scheme->num_boundaries; i++)
        bucket += boundaries[i] <= n;
    return (uint64_t)(bucket + (d > 0 ? scheme->future_base : 0));
}

static void test_count(const arenas *in, const t5b_implementation *implementation, size_t count,
                       size_t itemsize, placement where)
{
    static unsigned turn;

    for (int t = 0; t < 8; t++) {
        const size_t num_boundaries = 1 + turn % 12;
        const int bidirectional = turn / 12 % 2;
        const buffer bounds = place(&in->starts, num_boundaries * 8, 8, where);
        const t5b_scheme scheme = {4, bidirectional ? 16 : 0, bidirectional,
                                   (const int64_t *)(const void *)bounds.data, num_boundaries};
        const buffer positions = place_positions(in, types[t], count, where);
        const buffer out = place(&in->out, count * itemsize, itemsize, where);

        memcpy(bounds.data, boundaries, bounds.nbytes);
        implementation->count_buckets(&scheme, positions.data, types[t], count, itemsize,
                                      turn++ / 8 % 2 /* streaming */, out.data);
        for (size_t i = 0; i < count; i++)
            assert(get_item(out.data, i, itemsize) ==
                   expected_bucket(&scheme, get_position(types[t], i)));
        check_marks(&out);
        num_calls++;
    }
}

/* ---- sums of floats, of small integers ---- */

static void test_add(const arenas *in, const t5b_implementation *implementation, size_t count,
                     t5b_float type, placement where)
{
    const size_t itemsize = get_itemsize(type);
    const buffer sum = place(&in->out, count * itemsize, itemsize, where);
    const buffer addend = place(&in->addend, count * itemsize, itemsize, where);

    for (size_t i = 0; i < count; i++) {
        set_integer(sum.data, i, type, (int)(i % 17));
        set_integer(addend.data, i, type, -(int)(i % 5));
    }
    implementation->add_items(type, sum.data, addend.data, count);
    for (size_t i = 0; i < count; i++)
        assert(get_item(sum.data, i, itemsize) == encode(type, (int)(i % 17) - (int)(i % 5)));
    check_marks(&sum);
    num_calls++;
}

/* ---- matrices: two queries, as many keys as the length says, some heads ---- */

enum { QUERY_LENGTH = 2, NO_MODULUS = 1 << 20 };

/* What a matrix is made of in one case: bits of `options`. */
enum { ADDEND = 1, KEEP = 2, SEGMENTS = 4, CAUSAL = 8, ACCUMULATE = 16, BY_STARTS = 32 };

typedef struct matrix_case {
    size_t key_length;
    t5b_float type;
    int options, streaming, narrow;
    placement where;
} matrix_case;

static int is_shown(int options, size_t q, size_t k)
{
    return (!(options & KEEP) || (q + k) % 3 != 0) && (!(options & SEGMENTS) || q % 2 == k % 2) &&
           (!(options & CAUSAL) || k <= q);
}

/* The integers of queries 0, 1 and keys 0, 1, ..., or these modulo two. */
static t5b_pairs make_pairs(const arena *query, const arena *key, const matrix_case *of,
                            uint64_t modulus)
{
    const size_t nbytes = of->narrow ? 4 : 8;
    const buffer queries = place(query, QUERY_LENGTH * nbytes, nbytes, of->where);
    const buffer keys = place(key, of->key_length * nbytes, nbytes, of->where);
    const t5b_pairs pairs = {of->narrow ? T5B_INT32 : T5B_INT64, queries.data, keys.data, 0, 0};

    for (size_t i = 0; i < QUERY_LENGTH; i++)
        set_item(queries.data, i, nbytes, i % modulus);
    for (size_t i = 0; i < of->key_length; i++)
        set_item(keys.data, i, nbytes, i % modulus);
    return pairs;
}

static t5b_matrix describe(buffer of, const matrix_case *in, size_t itemsize)
{
    const ptrdiff_t row = (ptrdiff_t)(in->key_length * itemsize);
    const t5b_matrix matrix = {of.data, QUERY_LENGTH, in->key_length, 0, QUERY_LENGTH * row, row};
    return matrix;
}

static t5b_epilogue make_epilogue(const arenas *in, const arenas *of_masks,
                                  const t5b_implementation *implementation, const matrix_case *of)
{
    const size_t itemsize = get_itemsize(of->type), k = of->key_length;
    const buffer addend = place(&in->addend, k * itemsize, itemsize, of->where);
    const buffer keep = place(&in->keep, QUERY_LENGTH * k, 1, of->where);
    const buffer masked = place(&in->masked, itemsize, itemsize, of->where);
    t5b_epilogue epilogue = {.type = of->type, .implementation = implementation};

    epilogue.accumulate = (of->options & ACCUMULATE) != 0;
    epilogue.masked_item = masked.data;
    set_integer(masked.data, 0, of->type, -1000);
    for (size_t i = 0; i < k; i++)
        set_integer(addend.data, i, of->type, (int)(i % 5));
    for (size_t i = 0; i < QUERY_LENGTH * k; i++)
        keep.data[i] = (i / k + i % k) % 3 != 0;
    if (of->options & ADDEND)
        epilogue.addend = (t5b_matrix){addend.data, QUERY_LENGTH, k, 0, 0, 0};
    if (of->options & KEEP)
        epilogue.keep = (t5b_matrix){keep.data, QUERY_LENGTH, k, 0, 0, (ptrdiff_t)k};
    if (of->options & SEGMENTS)
        epilogue.segments = make_pairs(&of_masks->query, &of_masks->key, of, 2);
    if (of->options & CAUSAL)
        epilogue.causal = make_pairs(&of_masks->segments, &of_masks->addend, of, NO_MODULUS);
    return epilogue;
}

/* The matrix, item by item, and the sums by range of what was shown. */
static void check_matrix(const matrix_case *of, const buffer *out, double *sums)
{
    const size_t itemsize = get_itemsize(of->type), k = of->key_length;

    memset(sums, 0, NUM_RANGES * NUM_HEADS * sizeof *sums);
    for (size_t i = 0; i < NUM_HEADS * QUERY_LENGTH * k; i++) {
        const size_t key = i % k, query = i / k % QUERY_LENGTH, head = i / k / QUERY_LENGTH;
        const int64_t d = (int64_t)key - (int64_t)query;
        const int item = expected_item(d, head) + (of->options & ADDEND ? (int)(key % 5) : 0) +
                         (of->options & ACCUMULATE ? (int)(i % 11) : 0);
        const int shown = is_shown(of->options, query, key);

        assert(get_item(out->data, i, itemsize) == encode(of->type, shown ? item : -1000));
        if (shown)
            sums[(size_t)((d > 3 ? 3 : d) + 3) * NUM_HEADS + head] += item;
    }
    check_marks(out);
}

static buffer place_matrix(const arenas *in, const matrix_case *of)
{
    const size_t itemsize = get_itemsize(of->type);
    const size_t count = NUM_HEADS * QUERY_LENGTH * of->key_length;
    const buffer out = place(&in->out, count * itemsize, itemsize, of->where);

    for (size_t i = 0; i < count; i++)
        set_integer(out.data, i, of->type, (int)(i % 11));
    return out;
}

/* Items of the table as floats of the case's type. */
static void encode_table(const t5b_table *table, t5b_float type)
{
    const int by_range = table->range_stride != table->itemsize;

    for (size_t head = 0; head < table->num_heads; head++)
        for (size_t range = 0; range < NUM_RANGES; range++)
            set_integer((void *)(uintptr_t)table->items,
                        by_range ? range * (table->range_stride / table->itemsize) + head
                                 : head * NUM_RANGES + range,
                        type, expected_item((int64_t)range - 3, head));
}

static void check_sums(const buffer *sums, const double *expected)
{
    assert(memcmp(sums->data, expected, sums->nbytes) == 0);
    check_marks(sums);
}

static buffer place_sums(const arenas *in, placement where)
{
    const buffer sums = place(&in->sums, NUM_RANGES * NUM_HEADS * 8, 8, where);

    memset(sums.data, 0, sums.nbytes);
    return sums;
}

static void test_diagonals(const arenas *in, const arenas *of_masks,
                           const t5b_implementation *implementation, const matrix_case *of)
{
    const size_t itemsize = get_itemsize(of->type), k = of->key_length;
    const size_t num_diagonals = QUERY_LENGTH + k - 1;
    const int64_t first = 1 - QUERY_LENGTH;
    const t5b_table table =
        make_table(in, itemsize, NUM_HEADS, 0, of->options & BY_STARTS, of->where);
    const buffer diagonals =
        place(&in->diagonals, NUM_HEADS * num_diagonals * itemsize, itemsize, of->where);
    const buffer out = place_matrix(in, of);
    const t5b_matrix matrix = describe(out, of, itemsize);
    const t5b_epilogue epilogue = make_epilogue(in, of_masks, implementation, of);
    const buffer sums = place_sums(in, of->where);
    double expected[NUM_RANGES * NUM_HEADS];
    buffer scratch;

    encode_table(&table, of->type);
    t5b_fill_diagonals(&table, first, num_diagonals, diagonals.data,
                       (ptrdiff_t)(num_diagonals * itemsize));
    check_marks(&diagonals);
    for (size_t i = 0; i < NUM_HEADS * num_diagonals; i++)
        assert(get_item(diagonals.data, i, itemsize) ==
               encode(of->type,
                      expected_item(first + (int64_t)(i % num_diagonals), i / num_diagonals)));
    t5b_write_diagonals(diagonals.data, itemsize, NUM_HEADS, of->options & 31 ? &epilogue : NULL,
                        0, QUERY_LENGTH, of->streaming, &matrix);
    check_matrix(of, &out, expected);
    /* A number for each relative position from -2 to 2 that the matrix has. */
    scratch = place(&in->diagonals, (k < 3 ? k + 1 : 4) * 8, 8, of->where);
    t5b_sum_diagonals(&table, first, of->type, of->options & 31 ? &epilogue : NULL, 0,
                      QUERY_LENGTH, &matrix, (double *)(void *)scratch.data,
                      (double *)(void *)sums.data);
    check_sums(&sums, expected);
    check_marks(&scratch);
    num_calls += 3;
}

static void test_pairs(const arenas *in, const arenas *of_masks,
                       const t5b_implementation *implementation, const matrix_case *of)
{
    const size_t itemsize = get_itemsize(of->type);
    const t5b_table table =
        make_table(in, itemsize, NUM_HEADS, 1, of->options & BY_STARTS, of->where);
    const buffer out = place_matrix(in, of);
    const t5b_matrix matrix = describe(out, of, itemsize);
    const t5b_pairs positions = make_pairs(&in->query, &in->key, of, NO_MODULUS);
    const t5b_epilogue epilogue = make_epilogue(in, of_masks, implementation, of);
    const buffer sums = place_sums(in, of->where);
    double expected[NUM_RANGES * NUM_HEADS];

    encode_table(&table, of->type);
    t5b_write_pairs(&table, &positions, of->options & 31 ? &epilogue : NULL, 0, QUERY_LENGTH,
                    of->streaming, &matrix);
    check_matrix(of, &out, expected);
    t5b_sum_pairs(&table, &positions, of->type, of->options & 31 ? &epilogue : NULL, 0,
                  QUERY_LENGTH, &matrix, (double *)(void *)sums.data);
    check_sums(&sums, expected);
    num_calls += 2;
}

/* Integers of one head: also items of one byte, which no float has. */
static void test_grid(const arenas *in, size_t k, size_t itemsize, int streaming, placement where)
{
    const matrix_case of = {k, T5B_FLOAT32, 0, streaming, (int)(k % 2), where};
    const t5b_table table = make_table(in, itemsize, 1, 0, (int)(k % 3) == 0, where);
    const t5b_pairs positions = make_pairs(&in->query, &in->key, &of, NO_MODULUS);
    const buffer out = place(&in->out, QUERY_LENGTH * k * itemsize, itemsize, where);
    const t5b_matrix matrix = describe(out, &of, itemsize);

    t5b_write_pairs(&table, &positions, NULL, 0, QUERY_LENGTH, streaming, &matrix);
    for (size_t i = 0; i < QUERY_LENGTH * k; i++)
        assert(get_item(out.data, i, itemsize) ==
               (uint64_t)expected_item((int64_t)(i % k) - (int64_t)(i / k), 0));
    check_marks(&out);
    num_calls++;
}

static void test_length(const arenas *in, const arenas *of_masks,
                        const t5b_implementation *implementation, size_t length, placement where)
{
    static unsigned turn;

    for (size_t itemsize = 1; itemsize <= 8; itemsize *= 2) {
        if (where.shift % itemsize)
            continue;
        test_lookup(in, length, itemsize, where);
        test_count(in, implementation, length, itemsize, where);
        if (length > 0)
            test_grid(in, length, itemsize, (int)(turn++ % 2), where);
    }
    for (int type = T5B_FLOAT16; type <= T5B_FLOAT64; type++) {
        if (where.shift % get_itemsize((t5b_float)type))
            continue;
        test_add(in, implementation, length, (t5b_float)type, where);
        /* Options and ways in turn, 2^8 of them, to which the step is coprime. */
        for (int i = 0; length > 0 && i < 2; i++) {
            const matrix_case of = {length,
                                    (t5b_float)type,
                                    (int)(turn % 64),
                                    (int)(turn / 64 % 2),
                                    (int)(turn / 128 % 2),
                                    where};
            test_diagonals(in, of_masks, implementation, &of);
            test_pairs(in, of_masks, implementation, &of);
            turn += 3;
        }
    }
}

/* All lengths up to MAX_LENGTH, then those on both sides of each multiple of 512. */
static size_t get_step(size_t length)
{
    if (length < MAX_LENGTH)
        return 1;
    if (length == MAX_LENGTH)
        return 511 - MAX_LENGTH;
    return length % 512 == 1 ? 510 : 1;
}

int main(void)
{
    const arenas in = make_arenas(), of_masks = make_arenas();
    const t5b_implementation *implementation;

    for (size_t index = 0; (implementation = t5b_get_implementation(index)); index++) {
        if (!implementation->is_supported())
            continue;
        for (size_t length = 0; length <= MAX_BLOCK_LENGTH; length += get_step(length))
            for (size_t shift = 0; shift < LINE_NBYTES; shift++)
                for (int at_end = 0; at_end < 2; at_end++) {
                    const placement where = {shift, at_end};
                    test_length(&in, &of_masks, implementation, length, where);
                }
        printf("%s ", implementation->name);
    }
    printf("%llu calls\n", num_calls);
    return 0;
}
