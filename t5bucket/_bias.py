# _bias.py - RelativeAttentionBias: bias matrices from a trained weight.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from t5bucket import _checks
from t5bucket._arrays import Examples, allocate, cut, round_floats
from t5bucket._attention import (
    Part,
    attend,
    check_inputs,
    check_positions,
    computing_dtype,
)
from t5bucket._buckets import Buckets
from t5bucket._gradient import sum_consecutive, sum_explicit
from t5bucket._masks import Masks
from t5bucket._positions import check_pair
from t5bucket._table import RelativeTable
from t5bucket._writing import (
    copy_consecutive,
    make_block,
    view_consecutive,
    write_consecutive,
    write_explicit,
)

if TYPE_CHECKING:
    from t5bucket._weights import LoadedWeight


class RelativeAttentionBias:
    """Bias matrices from a trained weight, which has a value for each bucket and head.

    The object keeps a copy of `weight` and never changes; it can be pickled.

    Parameters
    ----------
    weight : array_like, shape (num_buckets, num_heads)
        float16, bfloat16, float32 or float64. ``(num_heads, num_buckets)`` with
        `heads_first`. The values of a PyTorch parameter are read, not its gradient.
    buckets : Buckets
        The scheme that `weight` was trained with.
    heads_first : bool, optional
        Whether the first axis of `weight` is the heads, as in T5X.

    Raises
    ------
    TypeError
        If `weight` has another dtype or `buckets` is not a `Buckets`.
    ValueError
        If `weight` does not have one row for each bucket.

    Notes
    -----
    ``matrix[h, i, j] = weight[bucket(key_j - query_i), h]``, bit for bit. The
    attention of T5 adds it to the scores before the softmax [1]_. For consecutive
    positions the bias depends on ``j - i`` alone. Each head has ``query_length +
    key_length - 1`` values, which are copied into the matrix; no logarithm is computed.

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
        array = _checks.weight(weight)
        _checks.weight_length(array.shape, heads_first, buckets.num_buckets)
        self._buckets = buckets
        self._heads_first = heads_first
        self._num_heads = int(array.shape[0 if heads_first else 1])
        self._dtype = array.dtype.newbyteorder("=")
        try:
            self._copy(array)
        except MemoryError:
            raise MemoryError(
                f"copies of weight must fit in memory, got shape {array.shape} of {array.dtype}"
            ) from None

    def _copy(self, array: NDArray[Any]) -> None:
        # Memory of a bytes object: nobody can make the array writeable again.
        items = array.astype(self._dtype).tobytes()
        self._weight = np.frombuffer(items, self._dtype).reshape(array.shape)
        by_head = self._weight if self._heads_first else self._weight.T
        rule = self._buckets._rule
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
        """Load a weight from a file, or from the folder of a model.

        Parameters
        ----------
        path : path
            A ``.safetensors``, ``.npy``, ``.npz``, ``.gguf``, ``.bin``, ``.pt`` or ``.pth`` file,
            an index of shards (``.index.json``), or a folder that holds one of them. Only the
            weight is read, and no code is run. The page docs/how_to/weight_files.md lists what
            each format needs.
        tensor : str, optional
            Name of the tensor, or a part of its name that no other table has, such as
            ``"encoder"``. By default the tensor whose name ends in
            ``relative_attention_bias.weight``, ``attn_rel_b.weight`` (GGUF),
            ``pos_embedding.embedding.weight`` (Wan), ``rel_pos_bias.weight`` or
            ``rel_attn_embed.weight``, or the only tensor in the file.
        buckets : Buckets, optional
            By default the scheme of a ``config.json`` next to the file, if it describes
            relative position buckets (at most 4096). Otherwise one bucket for each row of
            the weight, and the family's usual ``max_distance`` (128; WavLM 800; the page
            axes of LayoutLM 256, of UDOP 100). For a decoder's tensor, the default is
            unidirectional.
        heads_first : bool, optional
            By default true for LayoutLM's ``rel_pos*_bias.weight``, which is the
            weight of a linear layer, and false otherwise.

        Returns
        -------
        RelativeAttentionBias

        Raises
        ------
        OSError
            If the file, or a shard of it, cannot be read.
        TypeError
            If `path` is not a path, or the tensor does not have a floating-point dtype.
        ValueError
            If the file is not a regular file, is damaged, holds code or holds no weight.
            If several tensors match: the message lists them. If a link leads out of the
            folder, or a file has the same name twice.
        ImportError
            If the format or dtype needs a package that is missing: the message names the extra.

        Notes
        -----
        float8 tables become float32, exactly. If a scale is stored next to a table, the table
        is multiplied by it. Quantized GGUF tables become float32, too. All other tables keep
        their dtype and every bit.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "weight.npy")
        ...     np.save(path, np.zeros((32, 12), np.float32))
        ...     bias = tb.RelativeAttentionBias.load(path)
        >>> bias.num_heads, bias.buckets
        (12, Buckets(num_buckets=32, max_distance=128, bidirectional=True))
        """
        from t5bucket._weights import load_weight  # imports pathlib, json and zipfile

        return cls._of(load_weight(path, tensor, heads_first), buckets)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | PathLike[str],
        *,
        tensor: str | None = None,
        buckets: Buckets | None = None,
    ) -> RelativeAttentionBias:
        """Load the weight of a model on Hugging Face's hub, given the model's name.

        Parameters
        ----------
        name_or_path : str or path
            A name such as ``"google-t5/t5-small"``, or any path that `load` accepts. Write
            ``"owner/name/text_encoder_2"`` for a part of a model, and
            ``"owner/name/file.safetensors"`` for one of its files.
        tensor : str, optional
            As in `load`. If a model has an encoder and a decoder, the default is the
            encoder's tensor; ``"decoder"`` selects the other.
        buckets : Buckets, optional
            By default the scheme of the model's ``config.json``.

        Returns
        -------
        RelativeAttentionBias

        Raises
        ------
        OSError
            If the model does not exist, or is not in the cache and cannot be downloaded.
        TypeError, ValueError
            As `load`.
        ImportError
            As `load`, and if the model is not in the cache and ``huggingface_hub`` is not
            installed.

        Notes
        -----
        Files in Hugging Face's cache are read without a connection. ``huggingface_hub`` (the
        extra ``hub``) downloads the files that are missing: the configuration, and the file or
        the shard with the weight.

        Examples
        --------
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias.from_pretrained("google-t5/t5-small")  # doctest: +SKIP
        """
        from t5bucket._weights import load_pretrained

        return cls._of(load_pretrained(name_or_path, tensor), buckets)

    @classmethod
    def _of(cls, loaded: LoadedWeight, buckets: Buckets | None) -> RelativeAttentionBias:
        if buckets is None:
            buckets = Buckets(*loaded.find_settings())
        elif isinstance(buckets, Buckets):
            with _checks.naming(loaded.place):
                shape = loaded.weight.shape
                _checks.weight_length(shape, loaded.heads_first, buckets.num_buckets)
        return cls(loaded.weight, buckets, heads_first=loaded.heads_first)

    @property
    def weight(self) -> NDArray[Any]:
        """Read-only copy of the weight, in the given shape."""
        return self._weight

    @property
    def buckets(self) -> Buckets:
        """The scheme that the weight was trained with."""
        return self._buckets

    @property
    def heads_first(self) -> bool:
        """Whether `weight` has the shape (num_heads, num_buckets)."""
        return self._heads_first

    @property
    def num_heads(self) -> int:
        """Number of heads."""
        return self._num_heads

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the weight and of every result."""
        return self._dtype

    def matrix(
        self,
        query_length: int,
        key_length: int,
        *,
        query_offset: int = 0,
        key_offset: int = 0,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        masked_value: float | None = None,
        scale: float | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
        accumulate: bool = False,
    ) -> NDArray[Any]:
        """Bias of all pairs of consecutive query and key positions, with masks.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0. A decoder's `query_offset` is its
            number of past tokens.
        causal : bool, optional
            Mask keys whose position is greater than the query's.
        mask : array_like, optional
            Broadcasts to ``(..., num_heads, query_length, key_length)``; a padding
            mask is ``(batch, 1, 1, key_length)``. Boolean: true = attend, false = masked.
            Floating-point: converted to `dtype` and added to the bias.
        segment_ids : array_like of int, shape (..., query_length), optional
            Mask pairs of different segments: sequences that are packed into one row.
        key_segment_ids : array_like of int, shape (..., key_length), optional
            `segment_ids` if None.
        masked_value : float, optional
            Value of masked pairs, whatever else is added. By default the finite minimum
            of `dtype`; ``-inf`` is allowed.
        scale : float, optional
            Factor of every weight. The products are computed in float32 (float64
            for float64 weights) and rounded to `dtype`, before anything is added.
        out : ndarray of `dtype`, of the result's shape, optional
            Where to write; any layout. Masked calls use a temporary copy if keys are
            not contiguous. Writing a large result into memory that was used before is
            several times faster.
        num_threads : int, optional
            At most so many threads; None chooses by size.
        accumulate : bool, optional
            Add to what `out` holds, before the masks; `out` may have more batch axes.

        Returns
        -------
        ndarray of `dtype`, shape (num_heads, query_length, key_length)
            With the batch axes of `mask`, `segment_ids` and `key_segment_ids`
            before it, if they have any; `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.
        MemoryError
            If the result does not fit in memory.

        See Also
        --------
        matrix_at : The same for explicit positions.
        matrix_nbytes : How many bytes the matrix takes.
        view : The same without a copy.
        add_to : Add to scores, without masks.

        Examples
        --------
        One decoding step: a single query after three past tokens.

        >>> import numpy as np
        >>> import t5bucket as tb
        >>> weight = np.array([[0.5], [1.5], [2.5], [3.5]])
        >>> bias = tb.RelativeAttentionBias(weight, tb.Buckets(4, 8, bidirectional=False))
        >>> bias.matrix(1, 4, query_offset=3)
        array([[[2.5, 2.5, 1.5, 0.5]]])

        Two sequences of two tokens each, packed into one row:

        >>> bias.matrix(4, 4, segment_ids=[0, 0, 1, 1], causal=True, masked_value=-np.inf)
        array([[[ 0.5, -inf, -inf, -inf],
                [ 1.5,  0.5, -inf, -inf],
                [-inf, -inf,  0.5, -inf],
                [-inf, -inf,  1.5,  0.5]]])
        """
        q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
        if num_threads is not None:
            num_threads = _checks.num_threads(num_threads)
        shape = (self._num_heads, q, k)
        if causal is False is accumulate and (  # a shortcut for one decoding step
            mask is segment_ids is key_segment_ids is masked_value is scale is None
        ):
            if out is None:
                out = allocate(shape, self._dtype)
                copy_consecutive(self._table, out, offset, num_threads, True)
            else:
                target = _checks.output(out, shape, self._dtype)
                copy_consecutive(self._table, target, offset, num_threads)
            return out
        masks = Masks(
            shape,
            self._dtype,
            causal=causal,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            masked_value=masked_value,
        )
        table = self._times(scale)
        target, accumulate = self._check_output(out, accumulate, masks)
        write_consecutive(table, target, offset, num_threads, out is None, masks, accumulate)
        return target if out is None else out

    def _check_output(self, out: Any, accumulate: bool, masks: Masks) -> tuple[NDArray[Any], bool]:
        """Check ``out`` and ``accumulate``, which allows ``out`` to have more batch axes."""
        accumulate = _checks.flag("accumulate", accumulate)
        if accumulate and out is None:
            raise ValueError("out must be given to accumulate, got None")
        if accumulate and isinstance(out, np.ndarray):
            masks.broadcast_to(out.shape[:-3], "out")
        target = _checks.output(out, (*masks.batch_shape, *masks.shape), self._dtype)
        if out is not None:
            masks.copy_if_shared(target)
        return target, accumulate

    def matrix_nbytes(
        self, query_length: int, key_length: int, *, batch_shape: int | tuple[int, ...] = ()
    ) -> int:
        """Return how many bytes a bias matrix takes, without computing it.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        batch_shape : int or tuple of int, optional
            Batch axes that masks or explicit positions add. Without them the
            matrix is the same for the whole batch, and has no batch axis.

        Returns
        -------
        int
            Bytes of `matrix` or `matrix_at`; may exceed the memory.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of its limits.

        See Also
        --------
        view : Takes memory for ``query_length + key_length`` positions only.
        tiles : Takes memory for one tile at a time.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
        >>> bias.matrix_nbytes(4096, 4096)
        805306368
        >>> bias.matrix_nbytes(512, 512, batch_shape=8) == 8 * bias.matrix_nbytes(512, 512)
        True
        >>> bias.matrix_nbytes(100_000, 100_000) // 10**9
        480
        """
        q, k, _ = _checks.grid(query_length, key_length, 0, 0)
        batch_shape = _checks.shape("batch_shape", batch_shape)
        return math.prod(batch_shape) * self._num_heads * q * k * self._dtype.itemsize

    def matrix_at(
        self,
        query_positions: ArrayLike,
        key_positions: ArrayLike | None = None,
        *,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        masked_value: float | None = None,
        scale: float | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
        accumulate: bool = False,
    ) -> NDArray[Any]:
        """Bias of all pairs of given query and key positions, with masks.

        Parameters
        ----------
        query_positions : array_like of int, shape (..., q)
            Positions (tokens, or any other unit) of any integer dtype and layout.
        key_positions : array_like of int, shape (..., k), optional
            The query's if None. Leading axes broadcast.
        causal, mask, segment_ids, key_segment_ids, masked_value, scale : optional
            As in `matrix`; batch axes broadcast with those of the positions.
        out : ndarray of `dtype`, of the result's shape, optional
            Where to write, of any layout.
        num_threads : int, optional
            At most so many threads; None chooses by size.
        accumulate : bool, optional
            Add to what `out` holds, before the masks; `out` may have more batch
            axes. This sums the biases of several axes without a temporary array, if
            the keys of `out` are contiguous.

        Returns
        -------
        ndarray of `dtype`, shape (..., num_heads, q, k)
            ``[..., h, i, j]`` is the bias of ``key_positions[..., j] -
            query_positions[..., i]``, exact for any pair of 64-bit positions;
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.
        MemoryError
            If the result does not fit in memory.

        Examples
        --------
        Boxes on a page: the bias of their left edges plus the bias of their tops.

        >>> import numpy as np
        >>> import t5bucket as tb
        >>> buckets = tb.Buckets(4, 8)
        >>> by_left = tb.RelativeAttentionBias(np.array([[0.0], [1.0], [2.0], [3.0]]), buckets)
        >>> by_top = tb.RelativeAttentionBias(np.array([[0.0], [10.0], [20.0], [30.0]]), buckets)
        >>> left, top = [5, 5, 90], [7, 300, 300]
        >>> out = by_left.matrix_at(left)
        >>> by_top.matrix_at(top, out=out, accumulate=True)
        array([[[ 0., 30., 33.],
                [10.,  0.,  3.],
                [11.,  1.,  0.]]])
        """
        names = ("query_positions", "key_positions")
        query, key, batch_shape = check_pair(names, query_positions, key_positions)
        num_threads = _checks.num_threads(num_threads)
        masks = Masks(
            (self._num_heads, query.shape[-1], key.shape[-1]),
            self._dtype,
            batch_shape,
            causal=causal,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
            masked_value=masked_value,
        )
        table = self._times(scale)
        target, accumulate = self._check_output(out, accumulate, masks)
        write_explicit(table, target, query, key, num_threads, out is None, masks, accumulate)
        return target if out is None else out

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
        >>> bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
        >>> view = bias.view(100_000, 100_000)  # 480 GB, if it were a matrix
        >>> view.base.nbytes
        9599952
        """
        q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
        return view_consecutive(self._table, q, k, offset)

    def tiles(
        self,
        query_length: int,
        key_length: int,
        *,
        tile: int | tuple[int, int],
        query_offset: int = 0,
        key_offset: int = 0,
        num_threads: int | None = None,
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
        """Bias of consecutive positions tile by tile, for grids larger than memory.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        tile : int or (int, int)
            Rows and columns of a tile, at least 1. The last tiles are smaller if the
            lengths are not multiples of these.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0.
        num_threads : int, optional
            At most so many threads for a tile; None chooses by size.

        Yields
        ------
        (rows, columns) : pair of slice
            The tile's place in the matrix. Tiles come row by row.
        block : ndarray of `dtype`, shape (num_heads, rows, columns)
            Equal to ``matrix(...)[:, rows, columns]``; a new array each time.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of its limits.
        MemoryError
            If a tile does not fit in memory.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.ones((32, 2), np.float32), tb.Buckets())
        >>> for (rows, columns), block in bias.tiles(5, 4, tile=(3, 4)):
        ...     print(rows, columns, block.shape)
        slice(0, 3, None) slice(0, 4, None) (2, 3, 4)
        slice(3, 5, None) slice(0, 4, None) (2, 2, 4)
        """
        q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
        num_threads = _checks.num_threads(num_threads)
        return self._make_tiles(q, k, offset, *_checks.tile(tile), num_threads)

    def _make_tiles(
        self,
        query_length: int,
        key_length: int,
        offset: int,
        num_rows: int,
        num_columns: int,
        num_threads: int | None,
    ) -> Iterator[tuple[tuple[slice, slice], NDArray[Any]]]:
        heads = slice(0, self._num_heads)
        for row in range(0, query_length, num_rows):
            rows = slice(row, min(row + num_rows, query_length))
            for column in range(0, key_length, num_columns):
                columns = slice(column, min(column + num_columns, key_length))
                block = make_bias_block(self, heads, rows, columns, offset, num_threads)
                yield (rows, columns), block

    def add_to(
        self,
        scores: NDArray[Any],
        *,
        query_offset: int = 0,
        key_offset: int = 0,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Add the bias of consecutive positions to attention scores, in place.

        With masks or a scale, it is ``matrix(..., out=scores, accumulate=True)``.

        Parameters
        ----------
        scores : ndarray of `dtype`, shape (..., num_heads, query_length, key_length)
            Any layout; a temporary copy is used if keys are not contiguous. Each
            addition rounds once.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray
            `scores`.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.arange(8.0).reshape(8, 1), tb.Buckets(8, 8))
        >>> scores = np.full((2, 1, 2, 2), 100.0)  # a batch of two
        >>> bias.add_to(scores)[1, 0]
        array([[100., 105.],
               [101., 100.]])
        """
        target = _checks.matrices("scores", scores, self._num_heads)
        offset = _checks.offset(query_offset, key_offset)
        num_threads = _checks.num_threads(num_threads)
        target = _checks.output(target, target.shape, self._dtype, "scores")
        masks = Masks(target.shape[-3:], self._dtype, target.shape[:-3])
        write_consecutive(self._table, target, offset, num_threads, False, masks, True)
        return scores

    def attend(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        *,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        query_offset: int = 0,
        key_offset: int = 0,
        scale: float = 1.0,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Attention with this bias, without its matrix: ``softmax(scale * q @ k.T + bias) @ v``.

        Parameters
        ----------
        query : array_like of `dtype`, shape (..., num_heads, query_length, size)
            Of any layout.
        key : array_like of `dtype`, shape (..., num_heads, key_length, size)
            Leading axes broadcast.
        value : array_like of `dtype`, shape (..., num_heads, key_length, value_size)
            One vector for each key.
        causal, mask, segment_ids, key_segment_ids : optional
            As in `matrix`; their batch axes broadcast with those of `query`.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0.
        scale : float, optional
            Factor of the products of queries and keys, not of the bias. T5 uses 1, most other
            models ``size ** -0.5``.
        out : ndarray of `dtype`, of the result's shape, optional
            Where to write, of any layout.
        num_threads : int, optional
            At most so many threads for exponentials and biases, besides those of NumPy's BLAS,
            which multiplies the matrices. None: one, since BLAS's threads wait actively.

        Returns
        -------
        ndarray of `dtype`, shape (..., num_heads, query_length, value_size)
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.
        MemoryError
            If the result does not fit in memory.

        See Also
        --------
        attend_at : The same for explicit positions.
        t5bucket.torch.scaled_dot_product_attention : For PyTorch: faster, with gradients.

        Notes
        -----
        The scores of up to 512 queries at a time are computed, up to 8 MiB, or those of 16
        queries and one head. Keys that `causal`, padding or segments hide from all of them
        are skipped, unless small examples of a batch are computed together. 16-bit types are
        computed in float32. The result is equal to that of the formula up to rounding; its
        last bits depend on NumPy's BLAS.

        A query whose keys are all masked gets the mean of all values, and zeros if an
        additive mask is ``-inf`` for all keys. A masked value that is NaN or infinite makes the
        result NaN, unless its key is skipped.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> weight = np.zeros((32, 8), np.float32)
        >>> bias = tb.RelativeAttentionBias(weight, tb.Buckets())
        >>> query, key, value = np.ones((3, 8, 1000, 64), np.float32)
        >>> bias.attend(query, key, value, causal=True).shape
        (8, 1000, 64)
        """
        inputs = check_inputs(query, key, value, self._num_heads, self._dtype)
        offset = _checks.offset(query_offset, key_offset)
        threads = _checks.num_threads(num_threads) or 1
        masks = Masks(
            inputs.shape,
            self._dtype,
            inputs.batch_shape or (),
            causal=causal,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
        )
        tables = self._widened_by_heads()

        def add_bias(part: Part, scores: NDArray[Any]) -> None:
            own = masks.cut(*part, scores.dtype)
            distance = offset + part.keys.start - part.rows.start
            write_consecutive(tables(part.heads), scores, distance, threads, False, own, True)

        find_keys = partial(masks.find_keys, offset=offset)
        return attend(inputs, masks, (), add_bias, find_keys, scale, out, threads)

    def attend_at(
        self,
        query: ArrayLike,
        key: ArrayLike,
        value: ArrayLike,
        query_positions: ArrayLike,
        key_positions: ArrayLike | None = None,
        *,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        scale: float = 1.0,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Attention with the bias of given positions, without its matrix.

        Parameters
        ----------
        query, key, value : array_like of `dtype`
            As in `attend`.
        query_positions : array_like of int, shape (..., query_length)
            Positions (tokens, or any other unit) of any integer dtype and layout.
        key_positions : array_like of int, shape (..., key_length), optional
            The query's if None.
        causal, mask, segment_ids, key_segment_ids : optional
            As in `matrix_at`; all batch axes broadcast with those of `query`.
        scale, out, num_threads : optional
            As in `attend`.

        Returns
        -------
        ndarray of `dtype`, shape (..., num_heads, query_length, value_size)
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.
        MemoryError
            If the result does not fit in memory.

        Notes
        -----
        As in `attend`, but hidden keys are not skipped if `causal` is true.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.zeros((32, 2), np.float32), tb.Buckets())
        >>> query, key, value = np.ones((3, 2, 4, 8), np.float32)
        >>> bias.attend_at(query, key, value, [5, 90, 90, 300]).shape
        (2, 4, 8)
        """
        inputs = check_inputs(query, key, value, self._num_heads, self._dtype)
        names = ("query_positions", "key_positions")
        positions = check_pair(names, query_positions, key_positions)
        batch_shape = check_positions(inputs, *positions)
        threads = _checks.num_threads(num_threads) or 1
        masks = Masks(
            inputs.shape,
            self._dtype,
            batch_shape,
            causal=causal,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
        )
        tables = self._widened_by_heads()

        def add_bias(part: Part, scores: NDArray[Any]) -> None:
            own = masks.cut(*part, scores.dtype)
            of_query = cut(positions[0], *part.examples, part.rows)
            of_key = cut(positions[1], *part.examples, part.keys)
            table = tables(part.heads)
            write_explicit(table, scores, of_query, of_key, threads, False, own, True)

        def find_keys(example: Examples, rows: slice) -> slice:
            if masks.causal:  # positions decide which keys each query sees
                return slice(0, inputs.shape[2])
            return masks.find_keys(example, rows, 0)

        return attend(inputs, masks, positions[:2], add_bias, find_keys, scale, out, threads)

    def _widened_by_heads(self) -> Callable[[slice], RelativeTable]:
        """Return a function that makes the table of some heads, in the dtype to compute in."""
        dtype = computing_dtype(self._dtype)

        @cache
        def make_table(start: int, stop: int) -> RelativeTable:
            if (start, stop) == (0, self._num_heads) and dtype == self._dtype:
                return self._table
            return self._table.map_items(lambda items: items[start:stop].astype(dtype))

        return lambda heads: make_table(heads.start, heads.stop)

    def weight_gradient(
        self,
        gradient: ArrayLike,
        *,
        query_offset: int = 0,
        key_offset: int = 0,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        scale: float | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Gradient of the weight, given the gradient of `matrix`.

        Parameters
        ----------
        gradient : array_like of `dtype`, shape (..., num_heads, query_length, key_length)
            Of any layout.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0.
        causal, mask, segment_ids, key_segment_ids, scale : optional
            The arguments of `matrix`. Masked pairs have no gradient; an additive mask
            changes nothing.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, of `weight`'s shape
            0 for buckets that do not occur.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.

        Notes
        -----
        This is the adjoint of `matrix`: ``weight_gradient[b, h]`` is the sum of
        ``gradient[..., h, i, j]`` over the pairs of bucket ``b``, in float64, times
        `scale`, rounded once. The result does not depend on the number of threads.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.zeros((4, 1)), tb.Buckets(4, 8))
        >>> bias.weight_gradient(np.ones((1, 3, 3))).T  # pairs by bucket
        array([[3., 3., 0., 3.]])
        """
        array = self._check_gradient(gradient)
        masks = self._check_masks_of(array, (), causal, mask, segment_ids, key_segment_ids)
        offset = _checks.offset(query_offset, key_offset)
        num_threads = _checks.num_threads(num_threads)
        factor = self._factor(scale)
        sums = sum_consecutive(self._table, array, offset, num_threads, masks)
        return self._join_buckets(sums, factor)

    def weight_gradient_at(
        self,
        gradient: ArrayLike,
        query_positions: ArrayLike,
        key_positions: ArrayLike | None = None,
        *,
        causal: bool = False,
        mask: ArrayLike | None = None,
        segment_ids: ArrayLike | None = None,
        key_segment_ids: ArrayLike | None = None,
        scale: float | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Gradient of the weight, given the gradient of `matrix_at`.

        Parameters
        ----------
        gradient : array_like of `dtype`, shape (..., num_heads, q, k)
            Of any layout.
        query_positions : array_like of int, shape (..., q)
            The argument of `matrix_at`.
        key_positions : array_like of int, shape (..., k), optional
            The query's if None.
        causal, mask, segment_ids, key_segment_ids, scale : optional
            As in `weight_gradient`.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, of `weight`'s shape
            0 for buckets that do not occur.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape, or out of its limits.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> bias = tb.RelativeAttentionBias(np.zeros((4, 1)), tb.Buckets(4, 8))
        >>> bias.weight_gradient_at(np.ones((1, 3, 3)), [0, 1, 0], causal=True).T
        array([[5., 2., 0., 0.]])
        """
        names = ("query_positions", "key_positions")
        query, key, batch_shape = check_pair(names, query_positions, key_positions)
        lengths = (query.shape[-1], key.shape[-1])
        array = self._check_gradient(gradient, lengths)
        masks = self._check_masks_of(array, batch_shape, causal, mask, segment_ids, key_segment_ids)
        num_threads = _checks.num_threads(num_threads)
        factor = self._factor(scale)
        sums = sum_explicit(self._table, array, query, key, num_threads, masks)
        return self._join_buckets(sums, factor)

    def _check_gradient(
        self, gradient: ArrayLike, lengths: tuple[int, int] | None = None
    ) -> NDArray[Any]:
        array = _checks.as_array("gradient", gradient)
        array = _checks.same_dtype("gradient", array, self._dtype)
        return _checks.matrices("gradient", array, self._num_heads, lengths)

    def _check_masks_of(
        self,
        gradient: NDArray[Any],
        batch_shape: tuple[int, ...],
        causal: bool,
        mask: ArrayLike | None,
        segment_ids: ArrayLike | None,
        key_segment_ids: ArrayLike | None,
    ) -> Masks:
        """Check masks and positions against the shape of a gradient."""
        masks = Masks(
            gradient.shape[-3:],
            self._dtype,
            batch_shape,
            causal=causal,
            mask=mask,
            segment_ids=segment_ids,
            key_segment_ids=key_segment_ids,
        )
        masks.broadcast_to(gradient.shape[:-3], "gradient")
        return masks

    def _factor(self, scale: float | None) -> Any:
        """Check a scale; return None if it changes nothing."""
        if scale is None:
            return None
        is_double = self._dtype == np.float64
        return (np.float64 if is_double else np.float32)(_checks.scale(scale, is_double))

    def _times(self, scale: float | None) -> RelativeTable:
        """Return the table of the weights times a scale."""
        factor = self._factor(scale)
        if factor is None:
            return self._table
        with np.errstate(all="ignore"):
            return self._table.map_items(
                lambda items: (items.astype(factor.dtype) * factor).astype(self._dtype)
            )

    def _join_buckets(self, sums: NDArray[np.float64], factor: Any) -> NDArray[Any]:
        """Turn sums by range, (num_ranges, num_heads), into the gradient of the weight."""
        gradient = np.zeros((self._buckets.num_buckets, self._num_heads))
        np.add.at(gradient, self._buckets._rule.buckets, sums)
        if factor is not None:
            with np.errstate(all="ignore"):
                gradient *= factor
        gradient = round_floats(gradient, self._dtype)
        return np.ascontiguousarray(gradient.T) if self._heads_first else gradient

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
    """Bias matrix of a weight in one call.

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
    weight = _checks.weight(weight)
    bidirectional = _checks.flag("bidirectional", bidirectional)
    num_buckets = _checks.num_rows(weight, False, bidirectional)
    buckets = Buckets(num_buckets, max_distance, bidirectional)
    bias = RelativeAttentionBias(weight, buckets)
    return bias.matrix(query_length, key_length, query_offset=query_offset, out=out)


def _restore(weight: NDArray[Any], buckets: Buckets, heads_first: bool) -> RelativeAttentionBias:
    return RelativeAttentionBias(weight, buckets, heads_first=heads_first)


# ---- for frameworks ----


def make_bias_block(
    bias: RelativeAttentionBias,
    heads: slice,
    rows: slice,
    columns: slice,
    offset: int,
    num_threads: int | None,
) -> NDArray[Any]:
    """Make a block of a matrix; its positions may exceed the limits of the public functions."""
    table = bias._table
    if heads != slice(0, bias.num_heads):
        table = table.map_items(lambda items: items[heads])
    return make_block(table, rows, columns, offset, num_threads)
