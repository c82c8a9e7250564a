/* t5bucket.h - relative position buckets and attention biases: the C interface.
 *
 * SPDX-License-Identifier: BSD-3-Clause
 *
 * The functions write the items of a table for a grid of (query, key) pairs, sum
 * gradients of such grids by range of the table, or count T5's buckets without a
 * table. The relative position of a pair, in tokens, is
 *
 *     d = key position - query position
 *
 * and a table has, for each head, an item for every d. Items may be bucket numbers
 * or trained weights: only their size matters here.
 *
 * Contract of every function
 *   - It cannot fail. The caller must check the arguments; cheap checks are
 *     asserted.
 *   - It allocates nothing, keeps no state, and may run in any thread that has
 *     96 KiB of stack. Calls that write to disjoint outputs may run at the same
 *     time.
 *   - Inputs and outputs must not overlap, unless the function says otherwise.
 *   - Arrays are aligned to their items and in native byte order.
 *   - If a function has a parameter `streaming`, a nonzero value writes past the
 *     caches. This is about twice as fast if the output is not in the last-level
 *     cache, and slower if it is.
 *   - Results do not depend on the compiler, the platform or the division of the
 *     work into calls. There are two exceptions: the payload of a NaN that is the
 *     sum of two NaNs, and the last bits of sums of gradients.
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
 * The boundaries of the logarithmic buckets are integers. Compute them in integer
 * arithmetic: with e = max_exact, D = max_distance and m logarithmic buckets, the
 * distance n is in bucket e + k or above if and only if
 *
 *     n^m * e^k >= D^k * e^m.
 */
enum { T5B_VECTOR_NBYTES = 16 }; /* bytes that a kernel loads at once */

typedef struct t5b_table {
    const void *items;     /* num_heads x num_ranges items, in one of two orders */
    size_t itemsize;       /* bytes of an item: 1, 2, 4 or 8 */
    size_t num_heads;      /* at least 1 */
    size_t num_ranges;     /* at least 1, at most 2^32 - 1 */
    size_t range_stride;   /* bytes from a range's item to the next range's.
                              itemsize: each head's items are one row. A power of
                              two of at least T5B_VECTOR_NBYTES: each range's
                              items of all heads are one row, and all items take
                              less than 4 GiB */
    const int64_t *starts; /* num_ranges - 1 relative positions, ascending, each
                              within [-2^62, 2^62]. NULL: every range but the
                              first and the last is one token wide, and
                              starts[r - 1] is taken to be origin + r */
    int64_t origin;        /* read only if starts is NULL */
} t5b_table;

/* Signed types have the negated value of the unsigned type of the same size. */
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

/* A matrix of shape (batch, num_heads, query_length, key_length) in memory. Both
 * lengths are at least 1. Keys are contiguous. The other strides, in bytes, may have
 * any value; 0 means that all batches, heads or queries share a row. */
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
    size_t query_batch_stride; /* integers from one batch to the next; */
    size_t key_batch_stride;   /* 0: all batches share one row */
} t5b_pairs;

/* The type of items that are added. bfloat16 is the upper half of float32. Sums are
 * rounded to nearest, ties to even; 16-bit types are added in float32. */
typedef enum t5b_float { T5B_FLOAT16, T5B_BFLOAT16, T5B_FLOAT32, T5B_FLOAT64 } t5b_float;

/* What happens to an item before it is written into a matrix, in this order:
 *
 *     accumulate   add the item that the matrix holds
 *     addend       add the addend's item
 *     keep         if this is 0,
 *     segments     or the key's segment differs from the query's,
 *     causal       or the key's position is greater than the query's,
 *                  write the masked item instead
 *
 * If an epilogue may be NULL, NULL means that items are copied.
 */
typedef struct t5b_epilogue {
    /* Read only if something is added: the type of the items, and the function to add them. */
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
 * Query i has position query_offset + i, and key j has key_offset + j. All pairs
 * with the same j - i share an item. So each head of a matrix has query_length +
 * key_length - 1 items, its diagonals, and each row is a window of them:
 *
 *     diagonals   a b c d e f        query_length = 3, key_length = 4
 *     row 0           c d e f
 *     row 1         b c d e
 *     row 2       a b c d
 */

/* Write each head's items for d = first to first + count - 1.
 *
 * table       each head's items in one row
 * diagonals   OUTPUT, num_heads x count items; heads are head_stride bytes
 *             apart
 */
void t5b_fill_diagonals(const t5b_table *table, int64_t first, size_t count, void *diagonals,
                        ptrdiff_t head_stride);

/* Write rows begin to end - 1 of the matrix with these diagonals. Row
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

/* Write rows begin to end - 1 of the matrix of (query, key) pairs. Row
 * batch * query_length + i is query i of that batch, for all heads.
 * Differences that exceed int64 are saturated.
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
 * The adjoint of writing a matrix: the gradient of an item is the sum, in float64,
 * of the matrix's gradient over the pairs that have this item. Masked pairs have
 * none. The order of additions is fixed, so equal calls give equal results, on any
 * processor.
 *
 * table       only its ranges and its number of heads are read
 * epilogue    or NULL; accumulate, addend and masked_item are not read
 * gradient    of items of `type`
 * sums        num_ranges x num_heads; the call adds to them
 */

/* Sum rows begin to end - 1, for consecutive positions; `first` is the relative
 * position of the last query and key 0.
 *
 * diagonals   scratch: one number for each relative position of the matrix between
 *             the first and the last range
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
 * If a scheme has few boundaries, counting those that a distance has passed is
 * several times as fast as a lookup:
 *
 *     n       = bidirectional ? |d| : max(-d, 0)
 *     bucket  = min(n, max_exact) + (number of boundaries <= n)
 *               + (bidirectional && d > 0 ? future_base : 0)
 */
typedef struct t5b_scheme {
    int64_t max_exact;         /* each smaller distance has a bucket of its own */
    int64_t future_base;       /* first bucket of the future's distances, at least
                                  max_exact + num_boundaries; 0 if not bidirectional */
    int bidirectional;         /* 0 or 1 */
    const int64_t *boundaries; /* first distance of each bucket above max_exact,
                                  ascending (some may be equal), all above
                                  max_exact */
    size_t num_boundaries;
} t5b_scheme;

enum { T5B_MAX_COUNTED_BOUNDARIES = 32 };

/* Whether count_buckets works for a scheme: it has at most that many boundaries,
 * and these, max_exact and future_base are at most INT16_MAX. */
int t5b_can_count(const t5b_scheme *scheme);

/* Functions for one set of processor features. All implementations give the same
 * results; the caller chooses one, once. */
typedef struct t5b_implementation {
    const char *name;          /* of the feature, or "portable" */
    int (*is_supported)(void); /* whether this processor has the feature: 0 or 1 */

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

    /* sum += addend, item by item, rounded. The two must not overlap. */
    void (*add_items)(t5b_float type, void *sum, const void *addend, size_t count);
} t5b_implementation;

/* The implementations of this build, the best first and "portable" last; NULL
 * after that. */
const t5b_implementation *t5b_get_implementation(size_t index);

/* ---- What was built (build.c) ------------------------------------------- */

/* The compiler's name and version, for bug reports. A static string. */
const char *t5b_get_compiler(void);

#ifdef __cplusplus
}
#endif

#endif
