/* t5bucket.h - relative position buckets and attention biases: the C interface.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * Everything here writes one kind of table out over a grid of (query, key)
 * pairs, sums gradients back into one, or counts T5's buckets without one. The
 * relative position of a pair, in tokens, is
 *
 *     d = key position - query position
 *
 * and a table says, for every head, which item belongs to which d. The items
 * may be bucket numbers or trained weights: only their size matters here.
 *
 * Contract of every function
 *   - It computes and cannot fail: arguments are the caller's to check, and
 *     are asserted where that is cheap.
 *   - It allocates nothing, keeps no state, and may run in any thread that has
 *     96 KiB of stack. Calls that write to disjoint outputs may run at the same
 *     time.
 *   - Inputs and outputs must not overlap, unless the function says otherwise.
 *   - Arrays are aligned to their item and in native byte order.
 *   - Where a function takes `streaming`, nonzero writes past the caches: about
 *     twice as fast for an output that the last-level cache does not hold, and
 *     slower for one that it does.
 *   - Results do not depend on the compiler, the platform or the split of the
 *     work into calls, except for the payload of a NaN that two NaNs add up to,
 *     and for the last bits of sums of gradients.
 */
#ifndef T5BUCKET_H
#define T5BUCKET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A table: a step function of the relative position, one row for each head.
 *
 *     d <  starts[0]                            item 0
 *     starts[r - 1] <= d < starts[r]            item r
 *     starts[num_ranges - 2] <= d               item num_ranges - 1
 *
 * T5's rule for num_buckets = 8, max_distance = 8, bidirectional, is
 *
 *     d         .. -4 | -3 -2 | -1 |  0 |  1 |  2  3 |  4 ..
 *     starts            -3      -1    0    1    2       4
 *     item          3 |   2   |  1 |  0 |  5 |   6   |  7
 *
 * The boundaries of the logarithmic buckets are integers, and this library's
 * users decide them by integers: with e = max_exact, D = max_distance and m
 * logarithmic buckets, the distance n is in bucket e + k or above exactly if
 *
 *     n^m * e^k >= D^k * e^m.
 */
enum { T5B_VECTOR_NBYTES = 16 }; /* what a kernel loads at once */

typedef struct t5b_table {
    const void *items;     /* num_heads x num_ranges items, in one of two orders */
    size_t itemsize;       /* bytes of an item: 1, 2, 4 or 8 */
    size_t num_heads;      /* at least 1 */
    size_t num_ranges;     /* at least 1, at most 2^32 - 1 */
    size_t range_stride;   /* bytes from a range's item to the next range's:
                              itemsize, and each head's items are one row; or a
                              power of two of at least T5B_VECTOR_NBYTES, and
                              each range's items of all heads are one row, the
                              whole below 4 GiB */
    const int64_t *starts; /* num_ranges - 1 relative positions, ascending, each
                              within [-2^62, 2^62]; or NULL: every range but the
                              first and the last is one token wide, and
                              starts[r - 1] would be origin + r */
    int64_t origin;        /* read only if starts is NULL */
} t5b_table;

/* Signed types are the negative of the unsigned type of the same size. */
typedef enum t5b_integer {
    T5B_INT8 = -1,
    T5B_INT16 = -2,
    T5B_INT32 = -4,
    T5B_INT64 = -8,
    T5B_UINT8 = 1,
    T5B_UINT16 = 2,
    T5B_UINT32 = 4,
    T5B_UINT64 = 8
} t5b_integer;

/* Where a matrix of shape (batch, num_heads, query_length, key_length) stands,
 * both lengths at least 1.
 * Keys are adjacent; the other strides are free, in bytes, and 0 where all
 * batches, heads or queries share a row. */
typedef struct t5b_matrix {
    void *data;
    size_t query_length, key_length;
    ptrdiff_t batch_stride, head_stride, query_stride;
} t5b_matrix;

/* An integer for each query and for each key: positions, or segments. */
typedef struct t5b_pairs {
    t5b_integer type;          /* T5B_INT32, if all are within [0, 2^30); or T5B_INT64 */
    const void *query;         /* query_length integers a batch */
    const void *key;           /* key_length integers a batch */
    size_t query_batch_stride; /* integers from one batch to the next; 0: all */
    size_t key_batch_stride;   /* batches share one row */
} t5b_pairs;

/* What the items of a bias are, where they are added. bfloat16 is the upper half
 * of float32. Sums are rounded to nearest, ties to even; those of 16-bit types
 * are computed in float32. */
typedef enum t5b_float { T5B_FLOAT16, T5B_BFLOAT16, T5B_FLOAT32, T5B_FLOAT64 } t5b_float;

/* What becomes of an item on its way into a matrix, in this order:
 *
 *     accumulate   what the matrix holds is added
 *     addend       the addend's item is added
 *     keep         where this has a 0,
 *     segments     or the key's segment is not the query's,
 *     causal       or the key's position is greater than the query's, the masked
 *                  item takes its place
 *
 * Where an epilogue may be NULL, that means: the item is copied.
 */
typedef struct t5b_epilogue {
    /* Read only if something is added: the type of the items, and what adds them. */
    t5b_float type;
    const struct t5b_implementation *implementation;

    int accumulate;          /* 0 or 1 */
    t5b_matrix addend;       /* items; data NULL: none */
    t5b_matrix keep;         /* bytes; data NULL: none */
    t5b_pairs segments;      /* query NULL: none */
    t5b_pairs causal;        /* positions; query NULL: none */
    const void *masked_item; /* one item; read only if something is masked */
} t5b_epilogue;

/* ---- Consecutive positions (diagonals.c) --------------------------------
 *
 * Query i stands at query_offset + i and key j at key_offset + j. All pairs
 * with the same j - i share an item, so the matrix holds query_length +
 * key_length - 1 items a head, and each of its rows is a window of them:
 *
 *     diagonals   a b c d e f        query_length = 3, key_length = 4
 *     row 0           c d e f
 *     row 1         b c d e
 *     row 2       a b c d
 */

/* Write each head's items for d = first, first + 1, ..., first + count - 1.
 *
 * table       each head's items in one row
 * diagonals   OUTPUT, num_heads x count items; heads are head_stride bytes
 *             apart
 */
void t5b_fill_diagonals(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                        ptrdiff_t head_stride);

/* Write rows begin, ..., end - 1 of the matrix that the diagonals span. Row
 * batch * query_length + i is query i of that batch, for all heads.
 *
 * diagonals   num_heads x (query_length + key_length - 1) items, heads adjacent
 * epilogue    or NULL
 * matrix      OUTPUT
 */
void t5b_write_diagonals(const void *diagonals, size_t itemsize, size_t num_heads,
                         const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
                         const t5b_matrix *matrix);

/* ---- Explicit positions (lookup.c, pairs.c) ----------------------------- */

/* Write the first head's item for each of count relative positions.
 *
 * table               each head's items in one row
 * relative_position   count integers of the given type
 * items               OUTPUT, count items; may be relative_position itself if
 *                     the item sizes are equal
 */
void t5b_lookup(const t5b_table *table, const void *relative_position, t5b_integer type,
                size_t count, int streaming, void *items);

/* Write rows begin, ..., end - 1 of the matrix over (query, key) pairs. Row
 * batch * query_length + i is query i of that batch, for all heads.
 * Differences outside of int64 count as its nearest end.
 *
 * table       with more than one head, each range's items in one row
 * epilogue    or NULL
 * matrix      OUTPUT
 */
void t5b_write_pairs(const t5b_table *table, const t5b_pairs *positions,
                     const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
                     const t5b_matrix *matrix);

/* ---- Gradients (gradient.c) ---------------------------------------------
 *
 * The adjoint of writing a matrix: the gradient of an item is the sum of the
 * matrix's gradient over the pairs that took it, in float64. Masked pairs took
 * none. The order of the additions is fixed, so that equal calls give equal
 * results, also on other processors.
 *
 * table       only its ranges and its number of heads are read
 * epilogue    or NULL; accumulate, addend and masked_item are not read
 * gradient    of items of `type`
 * sums        num_ranges x num_heads, added to
 */

/* The part of rows begin, ..., end - 1, for consecutive positions; `first` is the
 * relative position of the last query and key 0.
 *
 * diagonals   scratch, a number for each relative position of the matrix that is
 *             neither in the first range nor in the last one
 */
void t5b_sum_diagonals(const t5b_table *table, int64_t first, t5b_float type,
                       const t5b_epilogue *epilogue, size_t begin, size_t end,
                       const t5b_matrix *gradient, double *diagonals, double *sums);

/* The same for explicit positions. */
void t5b_sum_pairs(const t5b_table *table, const t5b_pairs *positions, t5b_float type,
                   const t5b_epilogue *epilogue, size_t begin, size_t end,
                   const t5b_matrix *gradient, double *sums);

/* ---- T5's own rule, counted (count.c) -----------------------------------
 *
 * Where a scheme has few boundaries, counting those that a distance has passed
 * is several times as fast as looking it up:
 *
 *     n       = bidirectional ? |d| : max(-d, 0)
 *     bucket  = min(n, max_exact) + (number of boundaries <= n)
 *               + (bidirectional && d > 0 ? future_base : 0)
 */
typedef struct t5b_scheme {
    int64_t max_exact;         /* distances below it have a bucket of their own */
    int64_t future_base;       /* first bucket of the future's distances, at least
                                  max_exact + num_boundaries; 0 if not bidirectional */
    int bidirectional;         /* 0 or 1 */
    const int64_t *boundaries; /* first distance of each bucket above max_exact,
                                  ascending (some may be equal), all above
                                  max_exact */
    size_t num_boundaries;
} t5b_scheme;

enum { T5B_MAX_COUNTED_BOUNDARIES = 32 };

/* Whether t5b_implementation.count_buckets can be used: at most that many
 * boundaries, and neither them nor max_exact nor future_base beyond INT16_MAX. */
int t5b_can_count(const t5b_scheme *scheme);

/* What is written for one set of processor features. All give the same results;
 * the caller chooses one, once. */
typedef struct t5b_implementation {
    const char *name;          /* of the feature, or "portable" */
    int (*is_supported)(void); /* by the processor that this runs on: 0 or 1 */

    /* Write the bucket of each of count relative positions.
     *
     * relative_position   count integers of the given type
     * itemsize            bytes of an item: 1, 2, 4 or 8, wide enough
     * items               OUTPUT, count unsigned integers; may be
     *                     relative_position itself if the item sizes are equal
     */
    void (*count_buckets)(const t5b_scheme *scheme, const void *relative_position,
                          t5b_integer type, size_t count, size_t itemsize, int streaming,
                          void *items);

    /* sum += addend, item by item, rounded. The two do not overlap. */
    void (*add_items)(t5b_float type, void *sum, const void *addend, size_t count);
} t5b_implementation;

/* The implementations of this build, the best first and "portable" last; NULL
 * after that. */
const t5b_implementation *t5b_get_implementation(size_t index);

/* ---- What was built (build.c) ------------------------------------------- */

/* The compiler's name and version, for a bug report. A static string. */
const char *t5b_get_compiler(void);

#ifdef __cplusplus
}
#endif

#endif
