/* vectors_test.c - the C core from C: compare every kernel with the results in vectors.h.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * test_c_core.py builds this; tools/emulate.py builds it for other processors, without Python.
 * All expected values come from record_vectors.py; this program does not compute buckets or
 * floats itself.
 */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bits.h"
#include "t5bucket.h"

typedef struct scheme_vector {
    int can_count;
    int64_t max_exact, future_base;
    int bidirectional;
    size_t num_boundaries, num_ranges, num_positions;
    const int64_t *boundaries, *starts;
    const uint16_t *buckets;
    const int64_t *positions;
    const uint16_t *expected, *far_expected; /* buckets of positions and far_positions */
    const uint64_t (*checksums)[10];         /* for each grid; see check_grid */
} scheme_vector;

/* Query i has position query_offset + query_step * i, key j has key_offset + key_step * j. */
typedef struct grid_vector {
    size_t query_length, key_length;
    int64_t query_offset, key_offset, query_step, key_step;
} grid_vector;

typedef struct sum_vector {
    t5b_float type;
    size_t num_terms;
    const uint64_t *terms, *sums; /* bits; sums of each pair of terms; NaN is all ones */
    uint64_t mixed;               /* checksum of sums of mixed bits */
} sum_vector;

#include "vectors.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static size_t num_compared;
#define EXPECT(found, expected) (assert((found) == (expected)), num_compared++)

static const t5b_integer types[] = {T5B_INT8,  T5B_INT16,  T5B_INT32,  T5B_INT64,
                                    T5B_UINT8, T5B_UINT16, T5B_UINT32, T5B_UINT64};

static void *allocate(size_t count, size_t itemsize)
{
    void *memory = malloc(count * itemsize);
    assert(memory);
    return memory;
}

static uint64_t mix(uint64_t index)
{
    uint64_t mixed = (index + 1) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ mixed >> 32) * 0xd6e8feb86659fd93u;
    return mixed ^ mixed >> 29;
}

/* Different bytes for each bucket, head and place in an item. */
static uint64_t make_item(uint64_t bucket, size_t head, size_t itemsize)
{
    return mix(bucket + 1000 * head) & UINT64_MAX >> (64 - 8 * itemsize);
}

/* ---- Element by element ------------------------------------------------- */

enum { MIN_COUNT = 1100 }; /* more than two blocks of a kernel, and a rest */

/* Repeat the positions that a type can represent, with their buckets; return how many. */
static size_t fill_positions(const scheme_vector *vector, t5b_integer type, void *positions,
                             uint16_t *buckets)
{
    const size_t nbytes = (size_t)abs((int)type), num_bits = 8 * nbytes;
    const int64_t highest = (int64_t)(UINT64_MAX >> (64 - num_bits + (type < 0 || nbytes == 8)));
    const int64_t lowest = type < 0 ? -highest - 1 : 0;
    size_t count = 0;

    while (count < MIN_COUNT) {
        for (size_t i = 0; i < vector->num_positions; i++)
            if (vector->positions[i] >= lowest && vector->positions[i] <= highest) {
                set_item(positions, count, nbytes, (uint64_t)vector->positions[i]);
                buckets[count++] = vector->expected[i];
            }
        for (size_t i = 0; type == T5B_UINT64 && i < LENGTH(far_positions); i++) {
            set_item(positions, count, nbytes, far_positions[i]);
            buckets[count++] = vector->far_expected[i];
        }
    }
    return count;
}

static void check_lookup(const t5b_table *table, const void *positions, t5b_integer type,
                         const uint16_t *buckets, size_t count)
{
    void *found = allocate(count, table->itemsize);

    for (int streaming = 0; streaming < 2; streaming++) {
        t5b_lookup(table, positions, type, count, streaming, found);
        for (size_t i = 0; i < count; i++)
            EXPECT(get_item(found, i, table->itemsize),
                   make_item(buckets[i], 0, table->itemsize));
    }
    free(found);
}

static void check_count(const scheme_vector *vector, const t5b_implementation *implementation,
                        const void *positions, t5b_integer type, const uint16_t *buckets,
                        size_t count, size_t itemsize)
{
    const t5b_scheme scheme = {vector->max_exact, vector->future_base, vector->bidirectional,
                               vector->boundaries, vector->num_boundaries};
    void *found = allocate(count, itemsize);

    EXPECT(t5b_can_count(&scheme), vector->can_count);
    for (int streaming = 0; vector->can_count && streaming < 2; streaming++) {
        implementation->count_buckets(&scheme, positions, type, count, itemsize, streaming,
                                      found);
        for (size_t i = 0; i < count; i++)
            EXPECT(get_item(found, i, itemsize), buckets[i]);
    }
    free(found);
}

/* ---- Tables ------------------------------------------------------------- */

enum { MAX_INDEXED = 1000 }; /* tables with more positions are not indexed */

static int is_indexed(const scheme_vector *vector)
{
    return -vector->starts[0] <= MAX_INDEXED;
}

/* The range of a scheme that contains range r of a table. */
static size_t get_step(const scheme_vector *vector, const t5b_table *table, size_t r)
{
    size_t step = 0;

    if (table->starts)
        return r;
    while (step + 1 < vector->num_ranges && vector->starts[step] <= table->origin + (int64_t)r)
        step++;
    return step;
}

/* A table of NUM_HEADS heads, searched or indexed, with its items in rows by head or by range. */
static t5b_table make_table(const scheme_vector *vector, int by_position, int by_range,
                            size_t itemsize)
{
    const int64_t nearest = vector->starts[0] - 1,
                  farthest = vector->starts[vector->num_ranges - 2];
    const size_t stride = !by_range ? itemsize : itemsize == 8 ? 32 : T5B_VECTOR_NBYTES;
    const size_t num_ranges = by_position ? (size_t)(farthest - nearest + 1) : vector->num_ranges;
    char *items = allocate(num_ranges * (by_range ? 1 : NUM_HEADS), stride);
    const t5b_table table = {items,      itemsize, NUM_HEADS,
                             num_ranges, stride,   by_position ? NULL : vector->starts,
                             nearest};

    memset(items, 0, num_ranges * (by_range ? 1 : NUM_HEADS) * stride);
    for (size_t r = 0; r < num_ranges; r++)
        for (size_t head = 0; head < NUM_HEADS; head++)
            set_item(by_range ? items + r * stride : items,
                     by_range ? head : head * num_ranges + r, itemsize,
                     make_item(vector->buckets[get_step(vector, &table, r)], head, itemsize));
    return table;
}

static void check_elements(const scheme_vector *vector)
{
    const size_t max_count = MIN_COUNT + vector->num_positions + LENGTH(far_positions);
    void *positions = allocate(max_count, 8);
    uint16_t *buckets = allocate(max_count, sizeof *buckets);
    const t5b_implementation *implementation;

    for (size_t t = 0; t < LENGTH(types); t++) {
        const size_t count = fill_positions(vector, types[t], positions, buckets);
        for (size_t itemsize = 1; itemsize <= 8; itemsize *= 2) {
            for (int by_position = 0; by_position <= is_indexed(vector); by_position++) {
                const t5b_table table = make_table(vector, by_position, 0, itemsize);
                check_lookup(&table, positions, types[t], buckets, count);
                free((void *)table.items);
            }
            for (size_t i = 0; (implementation = t5b_get_implementation(i)) != NULL; i++)
                if (implementation->is_supported())
                    check_count(vector, implementation, positions, types[t], buckets, count,
                                itemsize);
        }
    }
    free(positions);
    free(buckets);
}

/* ---- Grids -------------------------------------------------------------- */

/* Positions of a grid, and its masks. */
typedef struct grid_data {
    t5b_pairs positions, near_positions; /* int64; int32, or query NULL if they do not fit */
    t5b_epilogue epilogue;
} grid_data;

static int64_t step_from(int64_t offset, int64_t step, size_t count)
{
    return (int64_t)((uint64_t)offset + (uint64_t)step * count);
}

/* Integers of queries and of keys, in this memory. */
static t5b_pairs make_pairs(t5b_integer type, const grid_vector *grid)
{
    const size_t nbytes = (size_t)abs((int)type), q = grid->query_length, k = grid->key_length;
    char *query = allocate(q, nbytes), *key = allocate(k, nbytes);
    const t5b_pairs pairs = {type, query, key, 0, 0};

    for (size_t i = 0; i < q; i++)
        set_item(query, i, nbytes, (uint64_t)step_from(grid->query_offset, grid->query_step, i));
    for (size_t j = 0; j < k; j++)
        set_item(key, j, nbytes, (uint64_t)step_from(grid->key_offset, grid->key_step, j));
    return pairs;
}

static int is_near(int64_t offset, int64_t step, size_t count)
{
    const int64_t end = step_from(offset, step, count - 1), limit = (int64_t)1 << 30;
    return offset >= 0 && offset < limit && end >= 0 && end < limit;
}

/* The masks of record_vectors.make_grid. Segments differ only in their upper half. */
static grid_data make_grid(const grid_vector *grid)
{
    static const uint64_t masked_item = 0xa5a5a5a5a5a5a5a5u;
    const size_t q = grid->query_length, k = grid->key_length;
    grid_data data = {.positions = make_pairs(T5B_INT64, grid),
                      .epilogue = {.segments = make_pairs(T5B_INT64, grid),
                                   .causal = make_pairs(T5B_INT32, grid),
                                   .masked_item = &masked_item}};
    unsigned char *keep = allocate(q * k, 1);

    if (is_near(grid->query_offset, grid->query_step, q) &&
        is_near(grid->key_offset, grid->key_step, k))
        data.near_positions = make_pairs(T5B_INT32, grid);
    for (size_t i = 0; i < q; i++) {
        set_item((void *)data.epilogue.segments.query, i, 8, (uint64_t)(i / 3 % 2) << 40);
        set_item((void *)data.epilogue.causal.query, i, 4, i + 5);
        for (size_t j = 0; j < k; j++)
            keep[i * k + j] = (unsigned char)((i + j) % 3 != 0 ? 1 + j % 255 : 0);
    }
    for (size_t j = 0; j < k; j++) {
        set_item((void *)data.epilogue.segments.key, j, 8, (uint64_t)(j / 4 % 2) << 40);
        set_item((void *)data.epilogue.causal.key, j, 4, j % 8 == 0 ? 0 : j);
    }
    data.epilogue.keep = (t5b_matrix){keep, q, k, 0, 0, (ptrdiff_t)k};
    return data;
}

static void free_pairs(const t5b_pairs *pairs)
{
    free((void *)pairs->query);
    free((void *)pairs->key);
}

static void free_grid(const grid_data *data)
{
    free_pairs(&data->positions);
    free_pairs(&data->near_positions);
    free_pairs(&data->epilogue.segments);
    free_pairs(&data->epilogue.causal);
    free(data->epilogue.keep.data);
}

static t5b_matrix make_matrix(const grid_vector *grid, size_t itemsize)
{
    const size_t q = grid->query_length, k = grid->key_length;
    const ptrdiff_t row = (ptrdiff_t)(k * itemsize), head = row * (ptrdiff_t)q;
    const t5b_matrix matrix = {allocate(NUM_HEADS * q * k, itemsize), q, k, 0, head, row};
    return matrix;
}

/* The sum of (2 i + 1) value[i]. */
static void expect_matrix(const t5b_matrix *matrix, size_t itemsize, uint64_t checksum)
{
    const size_t count = NUM_HEADS * matrix->query_length * matrix->key_length;
    uint64_t sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += (2 * i + 1) * get_item(matrix->data, i, itemsize);
    assert(sum == checksum);
    num_compared += count;
}

/* Whether the kernels of consecutive positions can be used. */
static int is_consecutive(const grid_vector *grid)
{
    const int64_t limit = INT64_MAX / 2;
    return grid->query_step == 1 && grid->key_step == 1 && grid->query_offset > -limit &&
           grid->query_offset < limit && grid->key_offset > -limit && grid->key_offset < limit;
}

/* The relative position of the last query and the first key. */
static int64_t get_first(const grid_vector *grid)
{
    return grid->key_offset - grid->query_offset - (int64_t)(grid->query_length - 1);
}

static void check_diagonals(const t5b_table *table, const grid_vector *grid,
                            const t5b_epilogue *epilogue, int streaming, uint64_t checksum)
{
    const size_t count = grid->query_length + grid->key_length - 1, itemsize = table->itemsize;
    const t5b_matrix matrix = make_matrix(grid, itemsize);
    void *diagonals = allocate(NUM_HEADS * count, itemsize);

    t5b_fill_diagonals(table, get_first(grid), count, diagonals, (ptrdiff_t)(count * itemsize));
    t5b_write_diagonals(diagonals, itemsize, NUM_HEADS, epilogue, 0, grid->query_length,
                        streaming, &matrix);
    expect_matrix(&matrix, itemsize, checksum);
    free(diagonals);
    free(matrix.data);
}

static void check_pairs(const t5b_table *by_range, const grid_vector *grid,
                        const t5b_pairs *positions, const t5b_epilogue *epilogue, int streaming,
                        uint64_t checksum)
{
    const t5b_matrix matrix = make_matrix(grid, by_range->itemsize);

    t5b_write_pairs(by_range, positions, epilogue, 0, grid->query_length, streaming, &matrix);
    expect_matrix(&matrix, by_range->itemsize, checksum);
    free(matrix.data);
}

/* Join the sums of a table's ranges to those of the scheme's; all are small integers. */
static void expect_sums(const scheme_vector *vector, const t5b_table *table, const double *sums,
                        uint64_t checksum)
{
    uint64_t sum = 0;

    for (size_t r = 0; r < table->num_ranges; r++) {
        const size_t step = get_step(vector, table, r);
        for (size_t head = 0; head < NUM_HEADS; head++) {
            const double value = sums[r * NUM_HEADS + head];
            assert(value == (double)(int64_t)value);
            sum += (2 * (step * NUM_HEADS + head) + 1) * (uint64_t)(int64_t)value;
        }
    }
    assert(sum == checksum);
    num_compared += table->num_ranges * NUM_HEADS;
}

static void check_gradient(const scheme_vector *vector, const t5b_table *table,
                           const grid_vector *grid, const t5b_pairs *positions, t5b_float type,
                           const t5b_epilogue *epilogue, uint64_t checksum)
{
    const size_t itemsize = get_itemsize(type), q = grid->query_length, k = grid->key_length;
    const t5b_matrix gradient = make_matrix(grid, itemsize);
    double *diagonals = allocate(q + k, sizeof *diagonals);
    double *sums = calloc(table->num_ranges * NUM_HEADS, sizeof *sums);

    assert(sums);
    for (size_t i = 0; i < NUM_HEADS * q * k; i++)
        set_item(gradient.data, i, itemsize, encode(type, (int)(i % 11) - 5));
    if (positions)
        t5b_sum_pairs(table, positions, type, epilogue, 0, q, &gradient, sums);
    else
        t5b_sum_diagonals(table, get_first(grid), type, epilogue, 0, q, &gradient, diagonals,
                          sums);
    expect_sums(vector, table, sums, checksum);
    free(gradient.data);
    free(diagonals);
    free(sums);
}

static void check_gradients(const scheme_vector *vector, const t5b_table *table,
                            const grid_vector *grid, const grid_data *data,
                            const t5b_epilogue *epilogue, uint64_t checksum)
{
    for (int type = T5B_FLOAT16; type <= T5B_FLOAT64; type++) {
        check_gradient(vector, table, grid, &data->positions, (t5b_float)type, epilogue,
                       checksum);
        if (data->near_positions.query)
            check_gradient(vector, table, grid, &data->near_positions, (t5b_float)type, epilogue,
                           checksum);
        if (is_consecutive(grid))
            check_gradient(vector, table, grid, NULL, (t5b_float)type, epilogue, checksum);
    }
}

static void check_matrices(const t5b_table *table, const t5b_table *by_range,
                           const grid_vector *grid, const grid_data *data,
                           const t5b_epilogue *epilogue, uint64_t checksum)
{
    for (int streaming = 0; streaming < 2; streaming++) {
        check_pairs(by_range, grid, &data->positions, epilogue, streaming, checksum);
        if (data->near_positions.query)
            check_pairs(by_range, grid, &data->near_positions, epilogue, streaming, checksum);
        if (is_consecutive(grid))
            check_diagonals(table, grid, epilogue, streaming, checksum);
    }
}

/* Five checksums without masks, five with them: of matrices of 1, 2, 4 and 8 bytes an item, and
 * of the sums of a gradient. */
static void check_grid(const scheme_vector *vector, int by_position, const grid_vector *grid,
                       const uint64_t *checksums)
{
    const grid_data data = make_grid(grid);

    for (int masked = 0; masked < 2; masked++) {
        const t5b_epilogue *epilogue = masked ? &data.epilogue : NULL;
        for (size_t itemsize = 1; itemsize <= 8; itemsize *= 2) {
            const t5b_table table = make_table(vector, by_position, 0, itemsize);
            const t5b_table by_range = make_table(vector, by_position, 1, itemsize);
            check_matrices(&table, &by_range, grid, &data, epilogue, *checksums++);
            if (itemsize == 8)
                check_gradients(vector, &table, grid, &data, epilogue, *checksums++);
            free((void *)table.items);
            free((void *)by_range.items);
        }
    }
    free_grid(&data);
}

/* ---- Sums --------------------------------------------------------------- */

static int is_nan(t5b_float type, uint64_t bits)
{
    switch (type) {
    case T5B_FLOAT16: return (bits & 0x7fff) > 0x7c00;
    case T5B_BFLOAT16: return (bits & 0x7fff) > 0x7f80;
    case T5B_FLOAT32: return (bits & 0x7fffffff) > 0x7f800000;
    default: return (bits & INT64_MAX) > 0x7ff0000000000000;
    }
}

static uint64_t get_sum(t5b_float type, const void *sums, size_t index)
{
    const size_t itemsize = get_itemsize(type);
    const uint64_t bits = get_item(sums, index, itemsize);
    return is_nan(type, bits) ? UINT64_MAX >> (64 - 8 * itemsize) : bits;
}

/* Sums of every two terms, in calls with 1, 2, ... of them. */
static void check_terms(const sum_vector *vector, const t5b_implementation *implementation)
{
    const size_t itemsize = get_itemsize(vector->type), count = vector->num_terms;
    void *sum = allocate(count * count, itemsize), *addend = allocate(count * count, itemsize);
    size_t length = 1;

    for (size_t i = 0; i < count * count; i++) {
        set_item(sum, i, itemsize, vector->terms[i / count]);
        set_item(addend, i, itemsize, vector->terms[i % count]);
    }
    for (size_t begin = 0; begin < count * count; begin += length++) {
        const size_t rest = count * count - begin;
        implementation->add_items(vector->type, (char *)sum + begin * itemsize,
                                  (char *)addend + begin * itemsize,
                                  rest < length ? rest : length);
    }
    for (size_t i = 0; i < count * count; i++)
        EXPECT(get_sum(vector->type, sum, i), vector->sums[i]);
    free(sum);
    free(addend);
}

/* For 16-bit types, each number is one of the terms. */
static void check_mixed(const sum_vector *vector, const t5b_implementation *implementation)
{
    const size_t itemsize = get_itemsize(vector->type);
    void *sum = allocate(NUM_MIXED, itemsize), *addend = allocate(NUM_MIXED, itemsize);
    uint64_t checksum = 0;

    for (size_t i = 0; i < NUM_MIXED; i++) {
        set_item(sum, i, itemsize, itemsize == 2 ? i : mix(i));
        set_item(addend, i, itemsize, mix(NUM_MIXED + i));
    }
    implementation->add_items(vector->type, sum, addend, NUM_MIXED);
    for (size_t i = 0; i < NUM_MIXED; i++)
        checksum += (2 * i + 1) * get_sum(vector->type, sum, i);
    assert(checksum == vector->mixed);
    num_compared += NUM_MIXED;
    free(sum);
    free(addend);
}

static int is_big_endian(void)
{
    const uint16_t one = 1;
    unsigned char first;

    memcpy(&first, &one, 1);
    return first == 0;
}

int main(void)
{
    const t5b_implementation *implementation;

    for (size_t s = 0; s < LENGTH(schemes); s++) {
        check_elements(&schemes[s]);
        for (size_t g = 0; g < LENGTH(grids); g++)
            for (int by_position = 0; by_position <= is_indexed(&schemes[s]); by_position++)
                check_grid(&schemes[s], by_position, &grids[g], schemes[s].checksums[g]);
    }
    for (size_t i = 0; (implementation = t5b_get_implementation(i)) != NULL; i++)
        if (implementation->is_supported()) {
            for (size_t type = 0; type < LENGTH(sums); type++) {
                check_terms(&sums[type], implementation);
                check_mixed(&sums[type], implementation);
            }
            printf("%s ", implementation->name);
        }
    printf("%s, %s-endian, %zu values compared\n", t5b_get_compiler(),
           is_big_endian() ? "big" : "little", num_compared);
    return 0;
}
