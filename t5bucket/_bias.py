# _bias.py - RelativeAttentionBias: a trained table, and the bias matrices it gives.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _checks
from t5bucket._buckets import Buckets
from t5bucket._table import RelativeTable


class RelativeAttentionBias:
    """A table of weights by bucket and head, and the bias matrices it gives.

    The object keeps a copy of `weight` and never changes; it can be pickled.

    Parameters
    ----------
    weight : array_like, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64. ``(num_heads, num_buckets)`` with
        `heads_first`.
    buckets : Buckets
        The scheme that `weight` was trained with.
    heads_first : bool, optional
        Whether the first axis of `weight` is the heads, as in T5X.

    Attributes
    ----------
    weight : ndarray
        Read-only copy, of the shape that was given.
    buckets : Buckets
    num_heads : int
    dtype : dtype
        Of `weight` and of every result.
    heads_first : bool

    Raises
    ------
    TypeError
        If `weight` has another dtype or `buckets` is no `Buckets`.
    ValueError
        If `weight` is no table with one row for each bucket.

    Notes
    -----
    ``matrix[h, i, j] = weight[bucket(key_j - query_i), h]``, bit for bit. The
    attention of T5 adds it to the scores before the softmax [1]_. For consecutive
    positions it depends on ``j - i`` alone: it is copied from ``query_length +
    key_length - 1`` values a head, without a logarithm.

    References
    ----------
    .. [1] C. Raffel et al., "Exploring the Limits of Transfer Learning with a
       Unified Text-to-Text Transformer", JMLR 21 (2020), section 2.1.

    Examples
    --------
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> weight = np.arange(8, dtype=np.float32).reshape(4, 2)  # 4 buckets, 2 heads
    >>> bias = tb.RelativeAttentionBias(weight, tb.Buckets(4, 2))
    >>> bias.matrix(2, 3)
    array([[[0., 6., 6.],
            [2., 0., 6.]],
    <BLANKLINE>
           [[1., 7., 7.],
            [3., 1., 7.]]], dtype=float32)
    """

    def __init__(self, weight: ArrayLike, buckets: Buckets, *, heads_first: bool = False) -> None:
        if not isinstance(buckets, Buckets):
            raise TypeError(f"buckets must be a Buckets, got {type(buckets).__name__}")
        heads_first = _checks.flag("heads_first", heads_first)
        table = _checks.table(weight)
        _check_length(table.shape, heads_first, buckets.num_buckets)
        native = table.dtype.newbyteorder("=")
        # Out of bytes, so that nobody can make it writeable again.
        table = np.frombuffer(table.astype(native).tobytes(), native).reshape(table.shape)
        self._weight = table
        self._buckets = buckets
        self._heads_first = heads_first
        self._num_heads = int(table.shape[0 if heads_first else 1])
        self._dtype = table.dtype
        by_head = table if heads_first else table.T
        rule = buckets._rule
        self._table = RelativeTable(rule, np.ascontiguousarray(by_head[:, rule.buckets]))

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        tensor: str | None = None,
        buckets: Buckets | None = None,
        heads_first: bool | None = None,
    ) -> RelativeAttentionBias:
        """Load the table out of a weight file.

        Parameters
        ----------
        path : path
            A ``.safetensors``, ``.npy`` or ``.npz`` file. Only the table is read.
        tensor : str, optional
            Name of the tensor. By default the one whose name ends in
            ``relative_attention_bias.weight``, ``rel_pos_bias.weight`` or
            ``rel_attn_embed.weight``, or the only one there is.
        buckets : Buckets, optional
            By default that of a ``config.json`` beside the file, if it describes
            relative position buckets; otherwise as many buckets as the table
            has rows and the family's usual ``max_distance`` (128, WavLM 800).
            The tensor of a decoder is unidirectional.
        heads_first : bool, optional
            By default true for LayoutLM's ``rel_pos*_bias.weight``, which is the
            weight of a linear layer, and false otherwise.

        Returns
        -------
        RelativeAttentionBias

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged or holds no table, or if several tensors match: the
            message lists them.
        ImportError
            If a bfloat16 table needs ``ml_dtypes``.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "table.npy")
        ...     np.save(path, np.zeros((32, 12), np.float32))
        ...     bias = tb.RelativeAttentionBias.load(path)
        >>> bias.num_heads, bias.buckets
        (12, Buckets(num_buckets=32, max_distance=128, bidirectional=True))
        """
        from t5bucket._weight_files import load_table  # imports pathlib, json and zipfile

        table = load_table(path, tensor, heads_first)
        buckets = Buckets(*table.find_settings()) if buckets is None else buckets
        return cls(table.weight, buckets, heads_first=table.heads_first)

    @property
    def weight(self) -> NDArray[Any]:
        """Read-only copy of the table."""
        return self._weight

    @property
    def buckets(self) -> Buckets:
        """The scheme."""
        return self._buckets

    @property
    def heads_first(self) -> bool:
        """Whether `weight` is (num_heads, num_buckets)."""
        return self._heads_first

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self._num_heads

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the weights and of every result."""
        return self._dtype

    def matrix(
        self,
        query_length: int,
        key_length: int,
        *,
        query_offset: int = 0,
        key_offset: int = 0,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Bias of all pairs of consecutive query and key positions.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0. A decoder's `query_offset` is its
            number of past tokens.
        out : ndarray of `dtype`, shape (num_heads, query_length, key_length), optional
            Where to write, of any layout. A large result is written several
            times faster into memory that was used before.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, shape (num_heads, query_length, key_length)
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of its limits.
        MemoryError
            If the result does not fit in memory.

        See Also
        --------
        view : The same without a copy.

        Examples
        --------
        One decoding step: a single query after three past tokens.

        >>> import numpy as np
        >>> import t5bucket as tb
        >>> weight = np.array([[0.5], [1.5], [2.5], [3.5]])
        >>> bias = tb.RelativeAttentionBias(weight, tb.Buckets(4, 8, bidirectional=False))
        >>> bias.matrix(1, 4, query_offset=3)
        array([[[2.5, 2.5, 1.5, 0.5]]])
        """
        q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
        if num_threads is not None:
            num_threads = _checks.num_threads(num_threads)
        shape = (self._num_heads, q, k)
        if out is None:
            out = _checks.allocate(shape, self._dtype)
            self._table.fill_matrix(out, offset, num_threads, is_new=True)
        else:
            self._table.fill_matrix(_checks.output(out, shape, self._dtype), offset, num_threads)
        return out

    def view(
        self, query_length: int, key_length: int, *, query_offset: int = 0, key_offset: int = 0
    ) -> NDArray[Any]:
        """Bias of consecutive positions as a read-only view, without a copy.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0.

        Returns
        -------
        ndarray of `dtype`, shape (num_heads, query_length, key_length)
            Read-only; its rows overlap in ``num_heads x (query_length +
            key_length - 1)`` items of memory.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of its limits.
        MemoryError
            If those items do not fit in memory.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.ones((32, 12)), tb.Buckets())
        >>> view = bias.view(100_000, 100_000)  # 960 GB, if it were a matrix
        >>> view.base.nbytes
        19199904
        """
        return self._table.view(*_checks.grid(query_length, key_length, query_offset, key_offset))

    def __repr__(self) -> str:
        return f"<RelativeAttentionBias: {self.num_heads} heads of {self.dtype}, {self.buckets!r}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.weight, self.buckets, self.heads_first)


def compute_bias(
    weight: ArrayLike,
    query_length: int,
    key_length: int,
    *,
    bidirectional: bool = True,
    max_distance: int = 128,
    query_offset: int = 0,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Bias matrix of a table in one call.

    Parameters
    ----------
    weight : array_like, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64.
    query_length, key_length : int
        Number of positions (tokens), at least 0.
    bidirectional : bool, optional
        Whether future keys have buckets of their own.
    max_distance : int, optional
        Distance (tokens) at which the logarithmic buckets end.
    query_offset : int, optional
        Position of query 0: a decoder's number of past tokens.
    out : ndarray, shape (num_heads, query_length, key_length), optional
        Where to write, of `weight`'s dtype.

    Returns
    -------
    ndarray of `weight`'s dtype, shape (num_heads, query_length, key_length)
        `out` if given.

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `RelativeAttentionBias`, its `matrix`, and `Buckets`.

    Examples
    --------
    >>> import numpy as np
    >>> import t5bucket as tb
    >>> tb.compute_bias(np.zeros((32, 12), np.float32), 512, 512).shape
    (12, 512, 512)
    """
    weight = _checks.table(weight)
    bidirectional = _checks.flag("bidirectional", bidirectional)
    num_buckets = _checks.num_rows(weight, False, bidirectional)
    buckets = Buckets(num_buckets, max_distance, bidirectional)
    bias = RelativeAttentionBias(weight, buckets)
    return bias.matrix(query_length, key_length, query_offset=query_offset, out=out)


def _check_length(shape: tuple[int, ...], heads_first: bool, num_buckets: int) -> None:
    length = shape[1 if heads_first else 0]
    if length == num_buckets:
        return
    axis = "column" if heads_first else "row"
    reason = ""
    if length == num_buckets - 1:
        reason = f": buckets 0 to n_b = {length} make n_b + 1 = {num_buckets} parameters, not n_b"
    raise ValueError(
        f"weight must have one {axis} for each of the {num_buckets} buckets, "
        f"got {length} {axis}s{reason}"
    )


def _restore(weight: NDArray[Any], buckets: Buckets, heads_first: bool) -> RelativeAttentionBias:
    return RelativeAttentionBias(weight, buckets, heads_first=heads_first)
