# _core.pyx - typed wrappers of the C core: take buffers, release the GIL, call. No checks.
# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, freethreading_compatible=True

import os

from cpython.buffer cimport (
    PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from libc.stdint cimport int64_t

from t5bucket.capi cimport (
    t5b_can_count, t5b_copy_diagonals, t5b_fill_diagonals, t5b_get_compiler,
    t5b_get_implementation, t5b_implementation, t5b_integer, t5b_lookup, t5b_lookup_pairs,
    t5b_matrix, t5b_scheme, t5b_table)


# A typed memoryview would ask for the format, which bfloat16 does not have and
# a copy by item size does not need: this asks for address, shape and strides.
cdef class Buffer:
    cdef Py_buffer view

    def __cinit__(self, array, bint writable=False):
        PyObject_GetBuffer(
            array, &self.view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))

    def __dealloc__(self):
        PyBuffer_Release(&self.view)

    cdef void *element(self, size_t index) noexcept:
        return <char *>self.view.buf + index * self.view.itemsize

    cdef t5b_matrix matrix(self) noexcept:  # ([batch,] head, query, key)
        cdef int keys = self.view.ndim - 1
        cdef t5b_matrix matrix
        matrix.data = self.view.buf
        matrix.key_length = self.view.shape[keys]
        matrix.query_length = self.view.shape[keys - 1]
        matrix.query_stride = self.view.strides[keys - 1]
        matrix.head_stride = self.view.strides[keys - 2]
        matrix.batch_stride = self.view.strides[keys - 3] if keys == 3 else 0
        return matrix


cdef class Lookup:
    """A way from relative positions to items, element by element."""

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        pass

    def lookup(
        self, relative_position, int type_code, items, bint streaming, size_t begin, size_t end
    ):
        """Write the items of elements begin, ..., end - 1 of a C-contiguous array."""
        cdef Buffer source = Buffer(relative_position)
        cdef Buffer out = Buffer(items, True)
        cdef const void *first = source.element(begin)
        cdef void *first_item = out.element(begin)
        with nogil:
            self.write_items(
                first, <t5b_integer>type_code, end - begin, out.view.itemsize, streaming,
                first_item)


cdef class Table(Lookup):
    """A ``t5b_table`` that keeps its arrays alive.

    ``items`` is (num_heads, num_ranges); ``starts`` is int64 (num_ranges - 1),
    or None for ranges of one token after ``origin``. Both are C-contiguous.
    """

    cdef t5b_table table
    cdef Buffer items, starts

    def __cinit__(self, items, starts, int64_t origin=0):
        self.items = Buffer(items)
        self.table.items = self.items.view.buf
        self.table.itemsize = self.items.view.itemsize
        self.table.num_heads = self.items.view.shape[0]
        self.table.num_ranges = self.items.view.shape[1]
        self.table.origin = origin
        if starts is not None:
            self.starts = Buffer(starts)
            self.table.starts = <const int64_t *>self.starts.view.buf

    def fill_diagonals(self, diagonals, int64_t first):
        """Fill ``diagonals`` (num_heads, ..., count) from relative position ``first`` on."""
        cdef Buffer out = Buffer(diagonals, True)
        cdef size_t count = out.view.shape[out.view.ndim - 1]
        with nogil:
            t5b_fill_diagonals(&self.table, first, count, out.view.buf, out.view.strides[0])

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        t5b_lookup(&self.table, source, type, count, streaming, items)

    def lookup_pairs(
        self, query_positions, key_positions, matrix, bint streaming, size_t begin, size_t end
    ):
        """Look up rows begin, ..., end - 1 of ``matrix`` (batch, num_heads, query, key).

        Both positions are int64 and two-dimensional, ``query_positions`` is
        C-contiguous, and only the first stride of ``key_positions`` is free.
        """
        cdef Buffer queries = Buffer(query_positions)
        cdef Buffer keys = Buffer(key_positions)
        cdef Buffer out = Buffer(matrix, True)
        cdef t5b_matrix described = out.matrix()
        with nogil:
            t5b_lookup_pairs(
                &self.table, <const int64_t *>queries.view.buf, <const int64_t *>keys.view.buf,
                keys.view.strides[0] // sizeof(int64_t), begin, end, streaming, &described)


cdef class Counter(Lookup):
    """A ``t5b_scheme``, whose items are its buckets."""

    cdef t5b_scheme scheme
    cdef Buffer boundaries

    def __cinit__(self, int64_t max_exact, int64_t future_base, bint bidirectional, boundaries):
        self.boundaries = Buffer(boundaries)
        self.scheme.max_exact = max_exact
        self.scheme.future_base = future_base
        self.scheme.bidirectional = bidirectional
        self.scheme.boundaries = <const int64_t *>self.boundaries.view.buf
        self.scheme.num_boundaries = self.boundaries.view.shape[0]

    def can_count(self):
        """Whether `lookup` works for this scheme."""
        return bool(t5b_can_count(&self.scheme))

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        implementation.count_buckets(
            &self.scheme, source, type, count, itemsize, streaming, items)


def copy_diagonals(diagonals, matrix, bint streaming, size_t begin, size_t end):
    """Copy rows begin, ..., end - 1 of ``matrix`` (num_heads, query, key)."""
    cdef Buffer source = Buffer(diagonals)
    cdef Buffer out = Buffer(matrix, True)
    cdef t5b_matrix described = out.matrix()
    with nogil:
        t5b_copy_diagonals(source.view.buf, source.view.itemsize, begin, end, streaming, &described)


def get_compiler():
    """Name and version of the compiler that built the C core."""
    return t5b_get_compiler().decode()


cdef const t5b_implementation *choose_implementation(disabled):
    cdef size_t index = 0
    cdef const t5b_implementation *candidate = t5b_get_implementation(0)
    while candidate.name.decode() in disabled or not candidate.is_supported():
        index += 1
        candidate = t5b_get_implementation(index)
    return candidate


# Chosen once, at import. "portable" runs everywhere and cannot be disabled.
cdef const t5b_implementation *implementation = choose_implementation(
    set(os.environ.get("T5BUCKET_DISABLE_CPU", "").replace(",", " ").split()) - {"portable"})


def get_implementation():
    """Name of the implementation that counts buckets."""
    return implementation.name.decode()
