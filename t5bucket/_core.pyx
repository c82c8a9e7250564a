# _core.pyx - typed wrappers of the C core: take buffers, release the GIL, call. No checks.
# SPDX-License-Identifier: BSD-3-Clause
# cython: language_level=3, freethreading_compatible=True
# cython: binding=False

import os

from cpython.buffer cimport (
    PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_GetBuffer)
from libc.stdint cimport int64_t

from t5bucket.capi cimport (
    t5b_can_count, t5b_epilogue, t5b_fill_diagonals, t5b_float, t5b_get_compiler,
    t5b_get_implementation, t5b_implementation, t5b_integer, t5b_lookup, t5b_matrix, t5b_pairs,
    t5b_scheme, t5b_sum_diagonals, t5b_sum_pairs, t5b_table, t5b_write_diagonals,
    t5b_write_pairs)


cdef const t5b_implementation *choose_implementation(disabled):
    """Choose the first that is supported, after those that contain a disabled instruction set."""
    cdef size_t index = 0
    cdef const t5b_implementation *candidate = t5b_get_implementation(0)
    cdef const t5b_implementation *chosen = NULL
    while candidate is not NULL:
        if candidate.name.decode() in disabled:
            chosen = NULL
        elif chosen is NULL and candidate.is_supported():
            chosen = candidate
        index += 1
        candidate = t5b_get_implementation(index)
    return chosen


# Chosen once, at import. "portable" runs on all processors and cannot be disabled.
cdef const t5b_implementation *implementation = choose_implementation(
    set(os.environ.get("T5BUCKET_DISABLE_CPU", "").replace(",", " ").split()) - {"portable"})


# A typed memoryview would request the format, which bfloat16 does not have. Copying
# bytes needs no format: this requests only address, shape and strides.
cdef class Buffer:
    cdef Py_buffer view

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


# Not Buffer.__cinit__: Cython would put its arguments into a tuple and a dictionary.
cdef Buffer open_buffer(array, bint writable=False):
    cdef Buffer buffer = Buffer.__new__(Buffer)
    PyObject_GetBuffer(
        array, &buffer.view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    return buffer


cdef char *BYTE_FORMAT = "B"


cdef class Memory:
    """A writeable buffer of bytes at an address; it keeps their owner alive."""

    cdef object owner
    cdef size_t address
    cdef Py_ssize_t nbytes

    def __cinit__(self, owner, size_t address, Py_ssize_t nbytes):
        self.owner = owner
        self.address = address
        self.nbytes = nbytes

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        # Not PyBuffer_FillInfo: it would lose the reference that Cython has put into `obj`.
        buffer.buf = <void *>self.address
        buffer.obj = self
        buffer.len = self.nbytes
        buffer.itemsize = 1
        buffer.readonly = False
        buffer.format = BYTE_FORMAT if flags & PyBUF_FORMAT else NULL
        buffer.ndim = 1
        buffer.shape = &self.nbytes if flags & PyBUF_ND else NULL
        buffer.strides = &buffer.itemsize if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        buffer.suboffsets = NULL
        buffer.internal = NULL


cdef class Elementwise:
    """Looks up the items of relative positions, one by one."""

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        pass

    def look_up(
        self, relative_position, int type_code, items, bint streaming, Py_ssize_t begin,
        Py_ssize_t end
    ):
        """Write the items of elements begin to end - 1 of a C-contiguous array."""
        cdef Buffer source = open_buffer(relative_position)
        cdef Buffer out = open_buffer(items, True)
        cdef const void *first = source.element(begin)
        cdef void *first_item = out.element(begin)
        with nogil:
            self.write_items(
                first, <t5b_integer>type_code, end - begin, out.view.itemsize, streaming,
                first_item)


cdef class Pairs:
    """An integer for each query (batch, query) and for each key (batch, key).

    Both are C-contiguous, and int32 in [0, 2**30), or int64. All batches can share one row.
    """

    cdef t5b_pairs pairs
    cdef Buffer query, key

    def __init__(self, query, key):
        self.query = open_buffer(query)
        self.key = open_buffer(key)
        self.pairs.type = <t5b_integer>-self.query.view.itemsize
        self.pairs.query = self.query.view.buf
        self.pairs.key = self.key.view.buf
        if self.query.view.shape[0] > 1:
            self.pairs.query_batch_stride = self.query.view.shape[1]
        if self.key.view.shape[0] > 1:
            self.pairs.key_batch_stride = self.key.view.shape[1]

    def part(self, Py_ssize_t batch, Py_ssize_t query, Py_ssize_t key):
        """Return the pairs of the part of the matrix that begins there."""
        cdef Pairs part = Pairs.__new__(Pairs)
        part.query = self.query
        part.key = self.key
        part.pairs = move_pairs(self.pairs, batch, query, key)
        return part


cdef t5b_pairs move_pairs(
    t5b_pairs pairs, Py_ssize_t batch, Py_ssize_t query, Py_ssize_t key
) noexcept:
    if pairs.query != NULL:
        pairs.query = <const char *>pairs.query - <int>pairs.type * (
            batch * <Py_ssize_t>pairs.query_batch_stride + query)
        pairs.key = <const char *>pairs.key - <int>pairs.type * (
            batch * <Py_ssize_t>pairs.key_batch_stride + key)
    return pairs


cdef t5b_matrix move_matrix(
    t5b_matrix matrix, Py_ssize_t batch, Py_ssize_t query, Py_ssize_t key, Py_ssize_t itemsize
) noexcept:
    if matrix.data != NULL:
        matrix.data = (
            <char *>matrix.data + batch * matrix.batch_stride + query * matrix.query_stride
            + key * itemsize)
    return matrix


cdef class Epilogue:
    """A ``t5b_epilogue`` that keeps its arrays alive.

    ``addend`` and ``keep`` are (batch, head, query, key), with contiguous keys;
    ``masked_item`` is one item.
    """

    cdef t5b_epilogue epilogue
    cdef Buffer addend, keep, masked_item
    cdef Pairs segments, causal

    def __init__(
        self, int type_code, bint accumulate, addend, keep, Pairs segments, Pairs causal,
        masked_item
    ):
        self.epilogue.type = <t5b_float>type_code
        self.epilogue.implementation = implementation
        self.epilogue.accumulate = accumulate
        self.masked_item = open_buffer(masked_item)
        self.epilogue.masked_item = self.masked_item.view.buf
        if addend is not None:
            self.addend = open_buffer(addend)
            self.epilogue.addend = self.addend.matrix()
        if keep is not None:
            self.keep = open_buffer(keep)
            self.epilogue.keep = self.keep.matrix()
        if segments is not None:
            self.segments = segments
            self.epilogue.segments = segments.pairs
        self.set_causal(causal)

    cdef void set_causal(self, Pairs causal) noexcept:
        if causal is not None:
            self.causal = causal
            self.epilogue.causal = causal.pairs

    def part(self, Py_ssize_t batch, Py_ssize_t query, Py_ssize_t key, Pairs causal):
        """Return the epilogue of the part of the matrix that begins there, and its ``causal``."""
        cdef Epilogue part = Epilogue.__new__(Epilogue)
        cdef Py_ssize_t itemsize = self.masked_item.view.itemsize
        part.addend, part.keep, part.masked_item = self.addend, self.keep, self.masked_item
        part.segments = self.segments
        part.epilogue = self.epilogue
        part.epilogue.addend = move_matrix(self.epilogue.addend, batch, query, key, itemsize)
        part.epilogue.keep = move_matrix(self.epilogue.keep, batch, query, key, 1)
        part.epilogue.segments = move_pairs(self.epilogue.segments, batch, query, key)
        part.set_causal(causal)
        return part


cdef const t5b_epilogue *get_epilogue(Epilogue epilogue) noexcept:
    return NULL if epilogue is None else &epilogue.epilogue


cdef class Table(Elementwise):
    """A ``t5b_table`` that keeps its arrays alive.

    ``items`` is (num_heads, num_ranges), C-contiguous; or, if ``num_heads`` is given,
    (num_ranges, that many heads or more), for `write_pairs`. ``starts`` is int64
    (num_ranges - 1), or None for ranges of one token after ``origin``.
    """

    cdef t5b_table table
    cdef Buffer items, starts

    def __cinit__(self, items, starts, int64_t origin=0, size_t num_heads=0):
        cdef int ranges = 0 if num_heads else 1
        self.items = open_buffer(items)
        self.table.items = self.items.view.buf
        self.table.itemsize = self.items.view.itemsize
        self.table.num_heads = num_heads or self.items.view.shape[0]
        self.table.num_ranges = self.items.view.shape[ranges]
        self.table.range_stride = self.items.view.strides[ranges]
        self.table.origin = origin
        if starts is not None:
            self.starts = open_buffer(starts)
            self.table.starts = <const int64_t *>self.starts.view.buf

    def fill_diagonals(self, diagonals, int64_t first):
        """Fill ``diagonals`` (num_heads, ..., count) from relative position ``first`` on."""
        cdef Buffer out = open_buffer(diagonals, True)
        cdef size_t count = out.view.shape[out.view.ndim - 1]
        with nogil:
            t5b_fill_diagonals(&self.table, first, count, out.view.buf, out.view.strides[0])

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        t5b_lookup(&self.table, source, type, count, streaming, items)

    def write_pairs(
        self, Pairs positions not None, Epilogue epilogue, matrix, bint streaming, Py_ssize_t begin,
        Py_ssize_t end
    ):
        """Write rows begin to end - 1 of ``matrix`` (batch, num_heads, query, key)."""
        cdef Buffer out = open_buffer(matrix, True)
        cdef t5b_matrix described = out.matrix()
        cdef const t5b_epilogue *finish = get_epilogue(epilogue)
        with nogil:
            t5b_write_pairs(
                &self.table, &positions.pairs, finish, begin, end, streaming, &described)

    def sum_diagonals(
        self, int64_t first, int type_code, Epilogue epilogue, gradient, diagonals, sums,
        Py_ssize_t begin, Py_ssize_t end
    ):
        """Sum rows begin to end - 1 of ``gradient`` (batch, num_heads, query, key).

        ``sums`` is float64 (num_ranges, num_heads), ``diagonals`` float64 scratch.
        """
        cdef Buffer source = open_buffer(gradient)
        cdef Buffer scratch = open_buffer(diagonals, True)
        cdef Buffer out = open_buffer(sums, True)
        cdef t5b_matrix described = source.matrix()
        cdef const t5b_epilogue *masks = get_epilogue(epilogue)
        with nogil:
            t5b_sum_diagonals(
                &self.table, first, <t5b_float>type_code, masks, begin, end, &described,
                <double *>scratch.view.buf, <double *>out.view.buf)

    def sum_pairs(
        self, Pairs positions not None, int type_code, Epilogue epilogue, gradient, sums,
        Py_ssize_t begin, Py_ssize_t end
    ):
        """The same for explicit positions."""
        cdef Buffer source = open_buffer(gradient)
        cdef Buffer out = open_buffer(sums, True)
        cdef t5b_matrix described = source.matrix()
        cdef const t5b_epilogue *masks = get_epilogue(epilogue)
        with nogil:
            t5b_sum_pairs(
                &self.table, &positions.pairs, <t5b_float>type_code, masks, begin, end,
                &described, <double *>out.view.buf)


cdef class BoundaryCounter(Elementwise):
    """A ``t5b_scheme``; the items are its buckets."""

    cdef t5b_scheme scheme
    cdef Buffer boundaries

    def __cinit__(self, int64_t max_exact, int64_t future_base, bint bidirectional, boundaries):
        self.boundaries = open_buffer(boundaries)
        self.scheme.max_exact = max_exact
        self.scheme.future_base = future_base
        self.scheme.bidirectional = bidirectional
        self.scheme.boundaries = <const int64_t *>self.boundaries.view.buf
        self.scheme.num_boundaries = self.boundaries.view.shape[0]

    def can_count(self):
        """Whether `look_up` works for this scheme."""
        return bool(t5b_can_count(&self.scheme))

    cdef void write_items(
        self, const void *source, t5b_integer type, size_t count, size_t itemsize,
        bint streaming, void *items
    ) noexcept nogil:
        implementation.count_buckets(
            &self.scheme, source, type, count, itemsize, streaming, items)


def copy_diagonals(diagonals, matrix, bint streaming, Py_ssize_t begin, Py_ssize_t end):
    """Write rows begin to end - 1 of ``matrix`` (num_heads, query, key): head after head."""
    cdef Buffer source = open_buffer(diagonals)
    cdef Buffer out = open_buffer(matrix, True)
    cdef t5b_matrix described = out.matrix()
    cdef Py_ssize_t query_length = described.query_length
    cdef Py_ssize_t head, first, last
    with nogil:
        while begin < end:
            head = begin // query_length
            first = begin - head * query_length
            last = min(query_length, first + (end - begin))  # the sum fits in 32 bits
            described.data = <char *>out.view.buf + head * described.head_stride
            t5b_write_diagonals(
                <char *>source.view.buf + head * source.view.strides[0], source.view.itemsize,
                1, NULL, first, last, streaming, &described)
            begin += last - first


def write_diagonals(
    diagonals, Epilogue epilogue, matrix, bint streaming, Py_ssize_t begin, Py_ssize_t end
):
    """Write rows begin, ..., end - 1 of ``matrix`` (batch, num_heads, query, key)."""
    cdef Buffer source = open_buffer(diagonals)
    cdef Buffer out = open_buffer(matrix, True)
    cdef t5b_matrix described = out.matrix()
    cdef const t5b_epilogue *finish = get_epilogue(epilogue)
    with nogil:
        t5b_write_diagonals(
            source.view.buf, source.view.itemsize, source.view.shape[0], finish, begin, end,
            streaming, &described)


def get_compiler():
    """Name and version of the compiler that built the C core."""
    return t5b_get_compiler().decode()


def get_implementation():
    """Name of the implementation that counts buckets and adds items."""
    return implementation.name.decode()
