/* core_elements.c - a libFuzzer target: the kernels that work element by element.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Bytes become one valid call. input.h says how, and what a run checks.
 */
#include "t5bucket.h"

#include "expected_buckets.h"
#include "tables.h"

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
    snprintf(call_text, sizeof call_text,
             "lookup of %zu, type %d, items of %zu, streaming %d, in place %d", count, type,
             itemsize, streaming, is_in_place);
    expected = copy_region(memory);
    for (size_t i = 0; i < count; i++)
        memcpy(expected.begin + (items - memory.begin) + i * itemsize,
               expected_item(&table, 0, read_integer(positions, type, i)), itemsize);
    t5b_lookup(&table, positions, type, count, streaming, items);
    check_equal(memory, expected);
}

/* T5's rule by its definition, in integers. */
static void take_t5_boundaries(t5b_scheme *scheme, int64_t *boundaries)
{
    const uint32_t max_exact = 1 + (uint32_t)take_below(take_below(2) ? 8 : 128);
    const uint32_t max_distance = max_exact + 1 + (uint32_t)take_below(INT16_MAX - max_exact);
    /* There are as many logarithmic buckets as exact ones, or one more. */
    const size_t num_buckets = max_exact + take_below(2), most = T5B_MAX_COUNTED_BOUNDARIES + 1;
    const size_t num_logarithmic = num_buckets > most ? most : num_buckets;

    scheme->max_exact = max_exact;
    for (size_t k = 1; k < num_logarithmic; k++)
        boundaries[scheme->num_boundaries++] =
            expected_boundary(max_exact, max_distance, num_logarithmic, k);
}

/* Any boundaries: some may be equal, and some schemes cannot be counted. */
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

    snprintf(call_text, sizeof call_text,
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

    snprintf(call_text, sizeof call_text, "add_items %s of %zu, type %d", implementation->name,
             count, type);
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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes)
{
    static const kernel_test tests[] = {fuzz_lookup, fuzz_count_buckets, fuzz_add_items};

    return run_one(tests, sizeof tests / sizeof *tests, data, nbytes);
}
