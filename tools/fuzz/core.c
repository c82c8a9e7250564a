/* core.c - a libFuzzer target: every kernel of the C core against its plain definition.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes become one valid call: any table, type, layout, mask and split that the contract in
 * t5bucket.h allows. All memory has exactly its size, so that the address sanitizer sees an
 * overrun of one byte; bytes of the output that are nobody's must stay as they are.
 *
 *     python tools/fuzz/run.py 60 core          builds and runs it for a minute
 *     python tools/fuzz/run.py 14400 core       four hours; the corpus stays in build/fuzz/core
 *     build/fuzz/core.fuzzer -help=1            libFuzzer's own options, such as -seed=1
 *     build/fuzz/core.fuzzer CRASH              one input again
 */
#include "t5bucket.h"

#include "definition.h"
#include "input.h"

/* ---- what calls are made of ---- */

typedef struct shape {
    size_t num_batches, num_heads, query_length, key_length;
} shape;

static shape take_shape(void)
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

static t5b_integer take_integer_type(void)
{
    static const t5b_integer types[] = {T5B_INT8,  T5B_INT16,  T5B_INT32,  T5B_INT64,
                                        T5B_UINT8, T5B_UINT16, T5B_UINT32, T5B_UINT64};
    return types[take_below(8)];
}

static size_t take_itemsize(void)
{
    return (size_t)1 << take_below(4);
}

static const t5b_implementation *take_implementation(void)
{
    const t5b_implementation *implementation = t5b_get_implementation(take_below(2));

    return implementation && implementation->is_supported() ? implementation
                                                            : t5b_get_implementation(0);
}

static int64_t clamp(wide value, wide lowest, wide highest)
{
    return (int64_t)(value < lowest ? lowest : value > highest ? highest : value);
}

enum { MAX_START_SHIFT = 62 };

/* Where rules change, or the kernels' ways part. */
static int64_t take_place(void)
{
    static const int8_t shifts[] = {0, 0, 0, 7, 29, 30, 31, 32, 61, MAX_START_SHIFT};
    const wide place = (wide)1 << shifts[take_below(10)];
    const int is_negative = take_below(2) == 1;

    return (int64_t)((is_negative ? -place : place) + (int8_t)take_byte());
}

/* Set a table's ranges. */
static void take_ranges(t5b_table *table)
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
    table->origin = (int64_t)draw(); /* is not read */
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

/* A table whose items are random bytes; `is_by_range` has each range's items in one row. */
static t5b_table take_table(size_t itemsize, size_t num_heads, int is_by_range)
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
static int64_t draw_position(const t5b_table *table)
{
    const size_t way = draw_below(16);

    if (way < 2)
        return way ? INT64_MAX - (int64_t)draw_below(3) : INT64_MIN + (int64_t)draw_below(3);
    if (way < 6 || table->num_ranges == 1)
        return (int64_t)draw() >> draw_below(64);
    return (int64_t)(expected_start(table, 1 + draw_below(table->num_ranges - 1)) +
                     (wide)draw_below(5) - 2);
}

/* Integers of queries and keys: positions for a table, or few different ones for masks, which may
 * differ in their upper bits alone. */
static t5b_pairs take_pairs(const shape *s, const t5b_table *table)
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

/* Strides of any order and sign, with gaps; of 0 where they may be. */
static t5b_matrix take_matrix(const shape *s, size_t itemsize, int may_share, region *memory)
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

/* Floating-point numbers instead of random bits: whose sums have to be rounded, or cancel. */
static void take_floats(region memory, t5b_float type)
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

enum { ACCUMULATE = 1, ADDEND = 2, KEEP = 4, SEGMENTS = 8, CAUSAL = 16 };

static void take_masks(const shape *s, size_t flags, t5b_epilogue *epilogue)
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

/* What becomes of items of a matrix; NULL if nothing. Sets their size. */
static const t5b_epilogue *take_epilogue(const shape *s, t5b_epilogue *epilogue, size_t *itemsize)
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

static int compare_sizes(const void *left, const void *right)
{
    const size_t a = *(const size_t *)left, b = *(const size_t *)right;

    return (a > b) - (a < b);
}

/* Rows, in up to three calls: [cuts[0], cuts[1]), ... */
enum { NUM_CUTS = 4 };
static void take_cuts(size_t num_rows, size_t cuts[NUM_CUTS])
{
    const size_t flags = take_below(4);

    cuts[0] = flags & 1 ? take_below(num_rows + 1) : 0;
    cuts[1] = take_below(num_rows + 1);
    cuts[2] = take_below(num_rows + 1);
    cuts[3] = flags & 2 ? take_below(num_rows + 1) : num_rows;
    qsort(cuts, NUM_CUTS, sizeof *cuts, compare_sizes);
}

/* ---- matrices: what they have to hold ---- */

/* Where items come from: diagonals, or a table by positions. */
typedef struct item_source {
    const unsigned char *diagonals;
    const t5b_table *table;
    const t5b_pairs *positions;
} item_source;

static wide get_relative_position(const t5b_pairs *positions, size_t batch, size_t i, size_t j)
{
    return clamp((wide)get_key(positions, batch, j) - get_query(positions, batch, i), INT64_MIN,
                 INT64_MAX);
}

static const void *get_source_item(const item_source *source, const shape *s, size_t itemsize,
                                   size_t batch, size_t head, size_t i, size_t j)
{
    const size_t num_diagonals = s->query_length + s->key_length - 1;

    if (source->diagonals)
        return source->diagonals +
               (head * num_diagonals + s->query_length - 1 - i + j) * itemsize;
    return expected_item(source->table, head,
                         get_relative_position(source->positions, batch, i, j));
}

/* What an item becomes; `*is_any_nan` as in expected_sum. */
static uint64_t finish_item(const t5b_epilogue *epilogue, size_t itemsize, uint64_t item,
                            uint64_t held, size_t batch, size_t head, size_t i, size_t j,
                            int *is_any_nan)
{
    if (!epilogue)
        return item;
    if (!expected_visible(epilogue, batch, head, i, j)) {
        *is_any_nan = 0;
        return read_bits(epilogue->masked_item, itemsize);
    }
    if (epilogue->accumulate)
        item = expected_sum(epilogue->type, held, item, is_any_nan);
    if (epilogue->addend.data)
        item = expected_sum(
            epilogue->type, item,
            read_bits(get_matrix_item(&epilogue->addend, itemsize, batch, head, i, j), itemsize),
            is_any_nan);
    return item;
}

/* Compare an output with what it held before, where rows begin, ..., end - 1 were written. */
static void check_matrix(const t5b_matrix *matrix, region found, region before,
                         const item_source *source, const shape *s, size_t itemsize,
                         const t5b_epilogue *epilogue, size_t begin, size_t end)
{
    for (size_t row = begin; row < end; row++)
        for (size_t head = 0; head < s->num_heads; head++)
            for (size_t j = 0; j < s->key_length; j++) {
                const size_t batch = row / s->query_length, i = row % s->query_length;
                const unsigned char *written =
                    get_matrix_item(matrix, itemsize, batch, head, i, j);
                unsigned char *expected = before.begin + (written - found.begin);
                const uint64_t actual = read_bits(written, itemsize);
                const void *item = get_source_item(source, s, itemsize, batch, head, i, j);
                int is_any_nan = 0;
                uint64_t bits =
                    finish_item(epilogue, itemsize, read_bits(item, itemsize),
                                read_bits(expected, itemsize), batch, head, i, j, &is_any_nan);
                if (is_any_nan && is_nan(float_formats[epilogue->type], actual))
                    bits = actual;
                write_bits(expected, itemsize, bits);
            }
    check_equal(found, before);
}

static void describe_matrix(const char *kernel, const shape *s, size_t itemsize,
                            const t5b_epilogue *epilogue, const size_t *cuts, int streaming)
{
    snprintf(what, sizeof what,
             "%s %zu x %zu x %zu x %zu, items of %zu, rows %zu %zu %zu %zu, streaming %d, "
             "epilogue %d: type %d, accumulate %d, addend %d, keep %d, segments %d, causal %d",
             kernel, s->num_batches, s->num_heads, s->query_length, s->key_length, itemsize,
             cuts[0], cuts[1], cuts[2], cuts[3], streaming, epilogue != NULL,
             epilogue ? (int)epilogue->type : 0, epilogue && epilogue->accumulate,
             epilogue && epilogue->addend.data, epilogue && epilogue->keep.data,
             epilogue && epilogue->segments.query, epilogue && epilogue->causal.query);
}

/* ---- one function for each kernel ---- */

static void fuzz_fill_diagonals(void)
{
    const size_t itemsize = take_itemsize(), num_heads = 1 + take_below(6);
    const t5b_table table = take_table(itemsize, num_heads, 0);
    const size_t count = take_below(4) ? take_below(200) : take_below(3000);
    const int64_t first =
        clamp(draw_position(&table) - (wide)take_below(300), INT64_MIN, INT64_MAX - (wide)count);
    const shape s = {1, num_heads, 1, count};
    region memory, expected;
    const t5b_matrix diagonals = take_matrix(&s, itemsize, 0, &memory);

    snprintf(what, sizeof what, "fill_diagonals from %lld, %zu, %zu ranges, starts %d",
             (long long)first, count, table.num_ranges, table.starts != NULL);
    expected = copy_region(memory);
    for (size_t head = 0; head < num_heads; head++)
        for (size_t i = 0; i < count; i++) {
            const unsigned char *item = get_matrix_item(&diagonals, itemsize, 0, head, 0, i);
            memcpy(expected.begin + (item - memory.begin),
                   expected_item(&table, head, (wide)first + i), itemsize);
        }
    t5b_fill_diagonals(&table, first, count, diagonals.data, diagonals.head_stride);
    check_equal(memory, expected);
}

static void fuzz_write_diagonals(void)
{
    const shape s = take_shape();
    const int streaming = take_below(2) == 1;
    const size_t num_diagonals = s.query_length + s.key_length - 1;
    t5b_epilogue memory_of_epilogue;
    size_t itemsize, cuts[NUM_CUTS];
    const t5b_epilogue *epilogue = take_epilogue(&s, &memory_of_epilogue, &itemsize);
    unsigned char *diagonals;
    const region items =
        allocate_region(s.num_heads * num_diagonals * itemsize, itemsize, &diagonals);
    const item_source source = {diagonals, NULL, NULL};
    region memory, before;
    const t5b_matrix matrix = take_matrix(&s, itemsize, 0, &memory);

    if (epilogue && (epilogue->accumulate || epilogue->addend.data)) {
        take_floats(items, epilogue->type);
        take_floats(memory, epilogue->type);
    }
    before = copy_region(memory);
    take_cuts(s.num_batches * s.query_length, cuts);
    describe_matrix("write_diagonals", &s, itemsize, epilogue, cuts, streaming);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        t5b_write_diagonals(diagonals, itemsize, s.num_heads, epilogue, cuts[call],
                            cuts[call + 1], streaming, &matrix);
    check_matrix(&matrix, memory, before, &source, &s, itemsize, epilogue, cuts[0], cuts[3]);
}

static void fuzz_write_pairs(void)
{
    const shape s = take_shape();
    const int streaming = take_below(2) == 1;
    t5b_epilogue memory_of_epilogue;
    size_t itemsize, cuts[NUM_CUTS];
    const t5b_epilogue *epilogue = take_epilogue(&s, &memory_of_epilogue, &itemsize);
    const t5b_table table = take_table(itemsize, s.num_heads, s.num_heads > 1 || take_below(2));
    const t5b_pairs positions = take_pairs(&s, &table);
    const item_source source = {NULL, &table, &positions};
    region memory, before;
    const t5b_matrix matrix = take_matrix(&s, itemsize, 0, &memory);

    if (epilogue && (epilogue->accumulate || epilogue->addend.data))
        take_floats(memory, epilogue->type);
    before = copy_region(memory);
    take_cuts(s.num_batches * s.query_length, cuts);
    describe_matrix("write_pairs", &s, itemsize, epilogue, cuts, streaming);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        t5b_write_pairs(&table, &positions, epilogue, cuts[call], cuts[call + 1], streaming,
                        &matrix);
    check_matrix(&matrix, memory, before, &source, &s, itemsize, epilogue, cuts[0], cuts[3]);
}

static void fuzz_lookup(void)
{
    const size_t itemsize = take_itemsize();
    const t5b_table table = take_table(itemsize, 1, 0);
    const t5b_integer type = take_integer_type();
    const size_t nbytes = get_integer_nbytes(type);
    const size_t count = take_below(3) ? take_below(100) : take_below(2000);
    const int streaming = take_below(2) == 1, is_in_place = nbytes == itemsize && take_below(2);
    unsigned char *positions, *items;
    region source = allocate_region(count * nbytes, nbytes, &positions), memory, expected;

    memory = allocate_region(count * itemsize, itemsize, &items);
    for (size_t i = 0; i < count; i++)
        write_bits(positions + i * nbytes, nbytes, (uint64_t)draw_position(&table));
    if (is_in_place) {
        memory = source;
        items = positions;
    }
    snprintf(what, sizeof what, "lookup of %zu, type %d, items of %zu, streaming %d, in place %d",
             count, type, itemsize, streaming, is_in_place);
    expected = copy_region(memory);
    for (size_t i = 0; i < count; i++)
        memcpy(expected.begin + (items - memory.begin) + i * itemsize,
               expected_item(&table, 0, read_integer(positions, type, i)), itemsize);
    t5b_lookup(&table, positions, type, count, streaming, items);
    check_equal(memory, expected);
}

/* Sums of small integers are exact, in any order; what is masked may be anything. */
static void encode_gradient(const shape *s, const t5b_epilogue *epilogue, t5b_float type,
                            const t5b_matrix *gradient, const size_t *cuts,
                            const item_source *source, int64_t first, double *expected)
{
    const size_t itemsize = float_formats[type].itemsize;

    for (size_t row = 0; row < s->num_batches * s->query_length; row++)
        for (size_t head = 0; head < s->num_heads; head++)
            for (size_t j = 0; j < s->key_length; j++) {
                const size_t batch = row / s->query_length, i = row % s->query_length;
                const wide d = source->positions
                                   ? get_relative_position(source->positions, batch, i, j)
                                   : (wide)first + (s->query_length - 1 - i + j);
                const int value = (int)draw_below(65) - 32;
                if (row < cuts[0] || row >= cuts[3] ||
                    (epilogue && !expected_visible(epilogue, batch, head, i, j)))
                    continue; /* random bits stay */
                write_bits(get_matrix_item(gradient, itemsize, batch, head, i, j), itemsize,
                           encode_integer(type, value));
                expected[expected_range(source->table, d) * s->num_heads + head] += value;
            }
}

static size_t count_middle(const t5b_table *table, int64_t first, size_t count)
{
    size_t found = 0;

    for (size_t i = 0; i < count; i++) {
        const size_t range = expected_range(table, (wide)first + i);
        found += range > 0 && range + 1 < table->num_ranges;
    }
    return found;
}

/* Neither items nor what would be added may be read. */
static const t5b_epilogue *take_masks_alone(const shape *s, t5b_epilogue *epilogue)
{
    const size_t flags = take_below(8) * KEEP;

    memset(epilogue, 0, sizeof *epilogue);
    if (flags == 0 && take_below(2))
        return NULL;
    epilogue->accumulate = 1;
    epilogue->addend.data = allocate(0);
    take_masks(s, flags, epilogue);
    return epilogue;
}

static void fuzz_sums(int has_positions)
{
    const shape s = take_shape();
    const size_t num_diagonals = s.query_length + s.key_length - 1;
    const t5b_float type = (t5b_float)take_below(4);
    const size_t itemsize = float_formats[type].itemsize;
    t5b_epilogue memory_of_epilogue;
    const t5b_epilogue *epilogue = take_masks_alone(&s, &memory_of_epilogue);
    t5b_table table = {NULL, 0, s.num_heads, 0, 0, NULL, 0};
    t5b_pairs positions;
    size_t cuts[NUM_CUTS];
    region memory;
    const t5b_matrix gradient = take_matrix(&s, itemsize, 0, &memory);
    double *sums, *expected, *scratch;
    int64_t first;

    take_ranges(&table);
    positions = take_pairs(&s, &table);
    first = clamp(draw_position(&table) - (wide)take_below(200), INT64_MIN,
                  INT64_MAX - (wide)num_diagonals);
    take_cuts(s.num_batches * s.query_length, cuts);
    sums = (double *)allocate(table.num_ranges * s.num_heads * sizeof *sums);
    expected = (double *)allocate(table.num_ranges * s.num_heads * sizeof *sums);
    for (size_t i = 0; i < table.num_ranges * s.num_heads; i++)
        sums[i] = expected[i] = (double)draw_below(1000);
    encode_gradient(&s, epilogue, type, &gradient, cuts,
                    &(item_source){NULL, &table, has_positions ? &positions : NULL}, first,
                    expected);
    scratch = (double *)allocate(count_middle(&table, first, num_diagonals) * sizeof *scratch);
    describe_matrix(has_positions ? "sum_pairs" : "sum_diagonals", &s, itemsize, epilogue, cuts,
                    0);
    for (size_t call = 0; call + 1 < NUM_CUTS; call++)
        if (has_positions)
            t5b_sum_pairs(&table, &positions, type, epilogue, cuts[call], cuts[call + 1],
                          &gradient, sums);
        else
            t5b_sum_diagonals(&table, first, type, epilogue, cuts[call], cuts[call + 1],
                              &gradient, scratch, sums);
    for (size_t i = 0; i < table.num_ranges * s.num_heads; i++)
        check(sums[i] == expected[i], "a sum is wrong");
}

static void fuzz_sum_diagonals(void)
{
    fuzz_sums(0);
}

static void fuzz_sum_pairs(void)
{
    fuzz_sums(1);
}

/* T5's rule by its definition, in integers. */
static void take_t5_boundaries(t5b_scheme *scheme, int64_t *boundaries)
{
    const uint32_t max_exact = 1 + (uint32_t)take_below(take_below(2) ? 8 : 128);
    const uint32_t max_distance = max_exact + 1 + (uint32_t)take_below(INT16_MAX - max_exact);
    /* As many logarithmic buckets as exact ones, or one more. */
    const size_t num_buckets = max_exact + take_below(2), most = T5B_MAX_COUNTED_BOUNDARIES + 1;
    const size_t num_logarithmic = num_buckets > most ? most : num_buckets;

    scheme->max_exact = max_exact;
    for (size_t k = 1; k < num_logarithmic; k++)
        boundaries[scheme->num_boundaries++] =
            expected_boundary(max_exact, max_distance, num_logarithmic, k);
}

/* Any boundaries, also equal ones, and such as cannot be counted. */
static void take_boundaries(t5b_scheme *scheme, int64_t *boundaries)
{
    const size_t gap = 1 + take_below(take_below(2) ? 20 : 1500);
    int64_t last;

    scheme->max_exact = (int64_t)take_below(take_below(2) ? 130 : INT16_MAX + 2);
    scheme->num_boundaries = take_below(T5B_MAX_COUNTED_BOUNDARIES + 3);
    last = scheme->max_exact + 1;
    for (size_t i = 0; i < scheme->num_boundaries; i++)
        boundaries[i] = last += (int64_t)draw_below(gap);
    if (scheme->num_boundaries > 0 && take_below(2)) { /* the ends of lanes */
        const int64_t end = (take_below(2) ? INT16_MAX : INT8_MAX) + (int64_t)take_below(2);
        boundaries[scheme->num_boundaries - 1] = end > last ? end : last;
    }
}

static t5b_scheme take_scheme(void)
{
    int64_t boundaries[T5B_MAX_COUNTED_BOUNDARIES + 3], *exact;
    t5b_scheme scheme = {0, 0, take_below(2) == 1, NULL, 0};

    if (take_below(2))
        take_t5_boundaries(&scheme, boundaries);
    else
        take_boundaries(&scheme, boundaries);
    exact = (int64_t *)allocate(scheme.num_boundaries * sizeof *exact);
    memcpy(exact, boundaries, scheme.num_boundaries * sizeof *exact);
    scheme.boundaries = exact;
    if (scheme.bidirectional)
        scheme.future_base = scheme.max_exact + (int64_t)scheme.num_boundaries +
                             (int64_t)(take_below(2) ? take_below(3) : take_below(INT16_MAX));
    return scheme;
}

static int expected_can_count(const t5b_scheme *scheme)
{
    int fits = scheme->num_boundaries <= 32 && scheme->max_exact <= 32767 &&
               scheme->future_base <= 32767;

    for (size_t i = 0; i < scheme->num_boundaries; i++)
        fits = fits && scheme->boundaries[i] <= 32767;
    return fits;
}

static int64_t draw_distance(const t5b_scheme *scheme)
{
    const size_t way = draw_below(16);
    const int64_t sign = draw_below(2) ? 1 : -1;

    if (way < 5 || scheme->num_boundaries == 0)
        return (int64_t)draw() >> draw_below(64);
    if (way < 8)
        return sign * (scheme->max_exact + (int64_t)draw_below(3) - 1);
    return sign *
           (scheme->boundaries[draw_below(scheme->num_boundaries)] + (int64_t)draw_below(3) - 1);
}

static void fuzz_count_buckets(void)
{
    const t5b_scheme scheme = take_scheme();
    const t5b_implementation *implementation = take_implementation();
    const t5b_integer type = take_integer_type();
    const uint64_t most =
        (uint64_t)(scheme.future_base + scheme.max_exact) + scheme.num_boundaries;
    const size_t nbytes = get_integer_nbytes(type), least = most > 0xffff ? 4
                                                            : most > 0xff ? 2
                                                                          : 1;
    const size_t taken = take_itemsize(), itemsize = taken < least ? least : taken;
    const size_t count = take_below(3) ? take_below(100) : take_below(2000);
    const int streaming = take_below(2) == 1, is_in_place = nbytes == itemsize && take_below(2);
    unsigned char *positions, *items;
    region source = allocate_region(count * nbytes, nbytes, &positions), memory, expected;

    snprintf(what, sizeof what,
             "count_buckets %s of %zu, type %d, items of %zu, max_exact %lld, base %lld, "
             "%zu boundaries, bidirectional %d, streaming %d, in place %d",
             implementation->name, count, type, itemsize, (long long)scheme.max_exact,
             (long long)scheme.future_base, scheme.num_boundaries, scheme.bidirectional,
             streaming, is_in_place);
    check(t5b_can_count(&scheme) == expected_can_count(&scheme), "can_count is wrong");
    if (!expected_can_count(&scheme))
        return;
    memory = allocate_region(count * itemsize, itemsize, &items);
    for (size_t i = 0; i < count; i++)
        write_bits(positions + i * nbytes, nbytes, (uint64_t)draw_distance(&scheme));
    if (is_in_place) {
        memory = source;
        items = positions;
    }
    expected = copy_region(memory);
    for (size_t i = 0; i < count; i++)
        write_bits(expected.begin + (items - memory.begin) + i * itemsize, itemsize,
                   expected_bucket(&scheme, read_integer(positions, type, i)));
    implementation->count_buckets(&scheme, positions, type, count, itemsize, streaming, items);
    check_equal(memory, expected);
}

static void fuzz_add_items(void)
{
    const t5b_implementation *implementation = take_implementation();
    const t5b_float type = (t5b_float)take_below(4);
    const size_t itemsize = float_formats[type].itemsize, count = take_below(300);
    unsigned char *sum, *addend;
    const region memory = allocate_region(count * itemsize, itemsize, &sum);
    const region added = allocate_region(count * itemsize, itemsize, &addend);
    region expected;

    snprintf(what, sizeof what, "add_items %s of %zu, type %d", implementation->name, count,
             type);
    take_floats(memory, type);
    take_floats(added, type);
    expected = copy_region(memory);
    implementation->add_items(type, sum, addend, count);
    for (size_t i = 0; i < count; i++) {
        unsigned char *item = expected.begin + (sum - memory.begin) + i * itemsize;
        const uint64_t found = read_bits(sum + i * itemsize, itemsize);
        int is_any_nan = 0;
        const uint64_t bits =
            expected_sum(type, read_bits(item, itemsize),
                         read_bits(addend + i * itemsize, itemsize), &is_any_nan);
        write_bits(item, itemsize,
                   is_any_nan && is_nan(float_formats[type], found) ? found : bits);
    }
    check_equal(memory, expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const kernels[])(void) = {
        fuzz_fill_diagonals, fuzz_write_diagonals, fuzz_write_pairs,   fuzz_lookup,
        fuzz_sum_diagonals,  fuzz_sum_pairs,       fuzz_count_buckets, fuzz_add_items};

    input = data;
    input_nbytes = size;
    generator = 0;
    {
        const size_t kernel = take_below(sizeof kernels / sizeof kernels[0]);
        generator = take_uint64();
        kernels[kernel]();
    }
    free_all();
    return 0;
}
