# capi.pxd - the C interface for Cython modules; t5bucket.h is its manual.
# SPDX-License-Identifier: BSD-3-Clause

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t


cdef extern from "t5bucket.h" nogil:
    const size_t T5B_VECTOR_NBYTES
    const size_t T5B_MAX_COUNTED_BOUNDARIES

    ctypedef struct t5b_table:
        const void *items
        size_t itemsize
        size_t num_heads
        size_t num_ranges
        size_t range_stride
        const int64_t *starts
        int64_t origin

    ctypedef enum t5b_integer:
        T5B_INT8
        T5B_INT16
        T5B_INT32
        T5B_INT64
        T5B_UINT8
        T5B_UINT16
        T5B_UINT32
        T5B_UINT64

    ctypedef struct t5b_matrix:
        void *data
        size_t query_length
        size_t key_length
        ptrdiff_t batch_stride
        ptrdiff_t head_stride
        ptrdiff_t query_stride

    ctypedef struct t5b_pairs:
        t5b_integer type
        const void *query
        const void *key
        size_t query_batch_stride
        size_t key_batch_stride

    ctypedef enum t5b_float:
        T5B_FLOAT16
        T5B_BFLOAT16
        T5B_FLOAT32
        T5B_FLOAT64

    ctypedef struct t5b_scheme:
        int64_t max_exact
        int64_t future_base
        int bidirectional
        const int64_t *boundaries
        size_t num_boundaries

    ctypedef struct t5b_implementation:
        const char *name
        int (*is_supported)() noexcept nogil
        void (*count_buckets)(
            const t5b_scheme *scheme, const void *relative_position, t5b_integer type,
            size_t count, size_t itemsize, int streaming, void *items) noexcept nogil
        void (*add_items)(
            t5b_float type, void *sum, const void *addend, size_t count) noexcept nogil

    ctypedef struct t5b_epilogue:
        t5b_float type
        const t5b_implementation *implementation
        int accumulate
        t5b_matrix addend
        t5b_matrix keep
        t5b_pairs segments
        t5b_pairs causal
        const void *masked_item

    void t5b_fill_diagonals(
        const t5b_table *table, int64_t first, size_t count,
        void *diagonals, ptrdiff_t head_stride) noexcept

    void t5b_write_diagonals(
        const void *diagonals, size_t itemsize, size_t num_heads,
        const t5b_epilogue *epilogue, size_t begin, size_t end, int streaming,
        const t5b_matrix *matrix) noexcept

    void t5b_lookup(
        const t5b_table *table, const void *relative_position, t5b_integer type,
        size_t count, int streaming, void *items) noexcept

    void t5b_write_pairs(
        const t5b_table *table, const t5b_pairs *positions, const t5b_epilogue *epilogue,
        size_t begin, size_t end, int streaming, const t5b_matrix *matrix) noexcept

    void t5b_sum_diagonals(
        const t5b_table *table, int64_t first, t5b_float type, const t5b_epilogue *epilogue,
        size_t begin, size_t end, const t5b_matrix *gradient,
        double *diagonals, double *sums) noexcept

    void t5b_sum_pairs(
        const t5b_table *table, const t5b_pairs *positions, t5b_float type,
        const t5b_epilogue *epilogue, size_t begin, size_t end, const t5b_matrix *gradient,
        double *sums) noexcept

    int t5b_can_count(const t5b_scheme *scheme) noexcept

    const t5b_implementation *t5b_get_implementation(size_t index) noexcept

    const char *t5b_get_compiler() noexcept
