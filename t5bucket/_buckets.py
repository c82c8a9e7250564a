# _buckets.py - Buckets: a bucketing scheme, and the bucket indices it gives.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import chain
from os import PathLike
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from t5bucket import _checks
from t5bucket._arrays import allocate
from t5bucket._positions import check_pair
from t5bucket._rule import LIMIT, Range, Rule, t5_rule
from t5bucket._table import RelativeTable
from t5bucket._writing import copy_consecutive, make_block, write_elementwise, write_explicit

Tables = dict[np.dtype[Any], RelativeTable]  # of buckets


class Buckets:
    """A scheme that maps relative positions to buckets, exactly.

    The relative position of a pair is ``d = key position - query position``, in
    tokens. Objects are immutable, hashable and picklable.

    Parameters
    ----------
    num_buckets : int
        Number of buckets, for both directions together. At least 4 if
        `bidirectional`, otherwise at least 2.
    max_distance : int
        Distance (tokens) at which the logarithmic buckets end. Greater than
        `max_exact`, at most 2**62.
    bidirectional : bool
        Whether future keys (``d > 0``) have buckets of their own, as in an
        encoder. Otherwise they all share bucket 0, as in a decoder.

    Raises
    ------
    TypeError, ValueError
        If a setting is of the wrong kind or out of its limits.

    Notes
    -----
    With ``B = num_buckets // 2``, ``n = abs(d)`` and ``base = B if d > 0 else 0``
    if `bidirectional`, and otherwise ``B = num_buckets``, ``n = max(-d, 0)`` and
    ``base = 0``; with ``e = max_exact = B // 2`` and ``m = B - e``::

        bucket = base + n                                                     n < e
        bucket = base + min(B - 1, e + floor(m * log(n/e) / log(max_distance/e)))

    The boundaries are decided by integers, ``n**m * e**k >= max_distance**k *
    e**m``, never by a rounded logarithm; in the common settings they are those
    of the float32 code that models are trained with [1]_ [2]_.

    References
    ----------
    .. [1] C. Raffel et al., "Exploring the Limits of Transfer Learning with a
       Unified Text-to-Text Transformer", JMLR 21 (2020), section 2.1.
    .. [2] T. Xiao and J. Zhu, "Foundations of Large Language Models" (2025),
       chapter 2, on relative positions.

    Examples
    --------
    >>> import t5bucket as tb
    >>> buckets = tb.Buckets(num_buckets=32, max_distance=128)
    >>> buckets([-200, -3, 0, 3, 200])
    array([15,  3,  0, 19, 31])
    >>> buckets.grid(2, 4)
    array([[ 0, 17, 18, 19],
           [ 1,  0, 17, 18]])
    """

    __slots__ = {  # noqa: RUF023 - in the order of the arguments; help() shows the texts
        "num_buckets": "Number of buckets, for both directions together.",
        "max_distance": "Distance (tokens) at which the logarithmic buckets end.",
        "bidirectional": "Whether a future key can get another bucket than ``d = 0``.",
        "max_exact": "Distances below it have a bucket of their own.",
        "_rule": None,
        "_is_t5": None,
        "_tables": None,
        "__weakref__": None,
    }

    num_buckets: int
    max_distance: int
    bidirectional: bool
    max_exact: int
    _rule: Rule
    _is_t5: bool
    _tables: Tables  # made when first needed

    def __init__(
        self, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool = True
    ) -> None:
        bidirectional = _checks.flag("bidirectional", bidirectional)
        num_buckets = _checks.integer("num_buckets", num_buckets, 4 if bidirectional else 2)
        max_exact = num_buckets // 4 if bidirectional else num_buckets // 2
        max_distance = _checks.integer("max_distance", max_distance, maximum=LIMIT)
        if max_distance <= max_exact:
            raise ValueError(
                f"max_distance must be greater than max_exact = {max_exact}, got {max_distance}"
            )
        rule = t5_rule(num_buckets, max_distance, bidirectional)
        self._set(
            num_buckets=num_buckets,
            max_distance=max_distance,
            bidirectional=bidirectional,
            max_exact=max_exact,
            _rule=rule,
            _is_t5=True,
            _tables=_share_tables(num_buckets, max_distance, bidirectional),
        )

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)

    # ---- other ways to make one ----

    @classmethod
    def from_textbook(cls, n_b: int, dist_max: int) -> Buckets:
        """Scheme in the textbook's notation: buckets ``0 .. n_b``, so ``n_b + 1`` of them.

        Parameters
        ----------
        n_b : int
            Number of the last bucket. The scheme has ``n_b + 1`` parameters.
        dist_max : int
            Distance (tokens) at which the logarithmic buckets end.

        Returns
        -------
        Buckets
            Unidirectional, ``num_buckets = n_b + 1``, ``max_distance = dist_max``.

        Raises
        ------
        TypeError, ValueError
            If `n_b` is no integer of at least 1, or `dist_max` is not greater
            than ``(n_b + 1) // 2``.

        Notes
        -----
        The textbook [1]_ counts offsets ``i - j``, query minus key: ``-d`` here.

        References
        ----------
        .. [1] T. Xiao and J. Zhu, "Foundations of Large Language Models" (2025),
           chapter 2, on relative positions.

        Examples
        --------
        >>> import t5bucket as tb
        >>> buckets = tb.Buckets.from_textbook(32, 1024)
        >>> buckets.num_buckets
        33
        >>> query, key = 8, 5
        >>> int(buckets(key - query))
        3
        """
        num_buckets = _checks.integer("n_b", n_b, 1) + 1
        max_exact = num_buckets // 2
        _checks.integer("dist_max", dist_max, max_exact + 1, LIMIT)
        return cls(num_buckets, dist_max, bidirectional=False)

    @classmethod
    def from_function(
        cls,
        function: Callable[[NDArray[np.int64]], ArrayLike],
        *,
        max_distance: int,
        num_buckets: int,
    ) -> Buckets:
        """Scheme that tabulates any other implementation's rule.

        Parameters
        ----------
        function : callable
            Takes relative positions, an int64 array of shape
            ``(2 * max_distance + 1,)``, and returns as many integers in
            ``[0, num_buckets)``. It is called once, with ``-max_distance, ...,
            max_distance``.
        max_distance : int
            Beyond it, the bucket of the nearest tabulated position is used. At
            least 1.
        num_buckets : int
            Number of buckets, at least 1.

        Returns
        -------
        Buckets
            Equal to `Buckets(...)` if the function is T5's rule.

        Raises
        ------
        TypeError, ValueError
            If the function's result is no such array.

        Examples
        --------
        Clipped distances, as in Shaw et al. (2018), and a decoder in which future
        keys count by their distance:

        >>> import numpy as np
        >>> import t5bucket as tb
        >>> shaw = tb.Buckets.from_function(
        ...     lambda d: np.clip(d, -2, 2) + 2, max_distance=2, num_buckets=5)
        >>> shaw([-9, -1, 0, 1, 9])
        array([0, 1, 2, 3, 4])
        >>> decoder = tb.Buckets(32, 128, bidirectional=False)
        >>> mirrored = tb.Buckets.from_function(
        ...     lambda d: decoder(-abs(d)), max_distance=128, num_buckets=32)
        >>> mirrored([-20, 20])
        array([17, 17])
        """
        num_buckets = _checks.integer("num_buckets", num_buckets, 1)
        max_distance = _checks.integer("max_distance", max_distance, 1, LIMIT)
        rule = Rule.from_function(function, max_distance, num_buckets)
        return cls._from_rule(rule, max_distance, num_buckets)

    @classmethod
    def from_ranges(
        cls,
        ranges: Iterable[Range],
        *,
        max_distance: int,
        num_buckets: int,
    ) -> Buckets:
        """Scheme with the given ranges: the inverse of `ranges`.

        Parameters
        ----------
        ranges : iterable of (bucket, first, last)
            Relative positions ``first <= d <= last`` (tokens) of a bucket, None
            for no bound. Together they hold every ``d`` once, in any order.
        max_distance : int
            Beyond it the bucket does not change: no range but those without a
            bound reaches it.
        num_buckets : int
            Number of buckets, at least 1.

        Returns
        -------
        Buckets

        Raises
        ------
        TypeError, ValueError
            If the ranges overlap, leave a gap, or exceed the other two settings.

        Examples
        --------
        >>> import t5bucket as tb
        >>> past_or_future = tb.Buckets.from_ranges(
        ...     [(0, None, 0), (1, 1, None)], max_distance=1, num_buckets=2)
        >>> past_or_future([-5, 0, 5])
        array([0, 0, 1])
        """
        num_buckets = _checks.integer("num_buckets", num_buckets, 1)
        max_distance = _checks.integer("max_distance", max_distance, 1, LIMIT)
        rule = Rule.from_ranges(ranges, max_distance, num_buckets)
        return cls._from_rule(rule, max_distance, num_buckets)

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | str | PathLike[str] | object) -> Buckets:
        """Scheme of a Hugging Face model.

        Parameters
        ----------
        config : object, mapping or path
            A configuration object, its dict, or the path of a ``config.json`` or
            of the folder that holds it. T5 and its relatives (mT5, UMT5, LongT5,
            Switch, Pix2Struct, Pop2Piano, UDOP), MPNet, LayoutLMv2/v3 (the
            sequence axis), WavLM, ProphetNet and CPM-Ant. In that of a composite
            model (MusicGen, a pipeline's parts), the part that has buckets is found.

        Returns
        -------
        Buckets
            Unidirectional if ``is_decoder`` is true. The configuration of an
            encoder-decoder describes its encoder. What the model's code fixes is
            not read: MPNet has 32 buckets up to 128, and the settings of UDOP's
            encoder are in ``relative_bias_args``.

        Raises
        ------
        TypeError, ValueError
            If the configuration has no relative position buckets, or if several
            parts have different ones: the message lists them. If a setting is of
            the wrong kind or out of its limits (at most 4096 buckets).
        OSError
            If the file cannot be read.

        Examples
        --------
        >>> import t5bucket as tb
        >>> tb.Buckets.from_config({"model_type": "wavlm", "num_buckets": 320,
        ...                         "max_bucket_distance": 800})
        Buckets(num_buckets=320, max_distance=800, bidirectional=True)
        """
        from t5bucket._config import read_config  # imports pathlib and json

        return cls(*read_config(config))

    @classmethod
    def _from_rule(cls, rule: Rule, max_distance: int, num_buckets: int) -> Buckets:
        bidirectional, max_exact = rule.distinguishes_future(), rule.max_exact()
        if rule.is_t5(num_buckets, max_distance, bidirectional):
            return cls(num_buckets, max_distance, bidirectional)
        self = cls.__new__(cls)
        self._set(
            num_buckets=num_buckets,
            max_distance=max_distance,
            bidirectional=bidirectional,
            max_exact=max_exact,
            _rule=rule,
            _is_t5=False,
            _tables={},
        )
        return self

    # ---- what it maps ----

    def ranges(self) -> list[Range]:
        """List the relative positions of each bucket that occurs.

        Returns
        -------
        list of (bucket, first, last)
            Relative positions ``first <= d <= last`` (tokens) have this bucket;
            None is no bound. In the order of the buckets; a bucket that is not
            one interval has several entries.

        Examples
        --------
        >>> import t5bucket as tb
        >>> tb.Buckets(4, 4).ranges()
        [(0, 0, 0), (1, None, -1), (3, 1, None)]
        """
        return self._rule.ranges()

    def __call__(
        self,
        relative_position: ArrayLike,
        *,
        dtype: DTypeLike | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> Any:
        """Map relative positions to buckets, element by element.

        Parameters
        ----------
        relative_position : array_like of int, any shape and layout
            ``d = key position - query position`` (tokens), of any integer dtype.
        dtype : dtype, optional
            Any integer type that holds ``num_buckets - 1``; by default that of `out`,
            or int64.
        out : ndarray of `dtype`, shape of `relative_position`, optional
            Where to write; may be `relative_position` itself.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, shape of `relative_position`, or scalar
            `out` if given; a NumPy scalar for a scalar.

        Raises
        ------
        TypeError
            If positions or dtypes are no integers.
        ValueError
            If a position is outside of 64 bits, `dtype` too small, or `out` has
            another shape or is read-only.
        MemoryError
            If the result does not fit in memory.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> buckets = tb.Buckets(32, 128, bidirectional=False)
        >>> int(buckets(-4))
        4
        >>> buckets(np.array([[-16, -19], [3, -1000]]), dtype=np.uint8)
        array([[16, 17],
               [ 0, 31]], dtype=uint8)
        """
        checked = _checks.bucket_dtype(dtype, self.num_buckets, out)
        if num_threads is not None:
            num_threads = _checks.num_threads(num_threads)
        if type(relative_position) is int and out is None and -(2**63) <= relative_position < 2**64:
            return checked.type(self._rule.bucket(relative_position))
        positions = _checks.integers("relative_position", relative_position)
        table = self._table(checked)
        if out is not None:
            target = _checks.output(out, positions.shape, checked)
            write_elementwise(table, target, positions, num_threads)
            return out
        result = allocate(positions.shape, checked, like=positions)
        write_elementwise(table, result, positions, num_threads, is_new=True)
        return result if result.ndim else result[()]

    def grid(
        self,
        query_length: int,
        key_length: int,
        *,
        query_offset: int = 0,
        key_offset: int = 0,
        dtype: DTypeLike | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Buckets of all pairs of consecutive query and key positions.

        Parameters
        ----------
        query_length, key_length : int
            Number of positions (tokens), at least 0.
        query_offset, key_offset : int, optional
            Position of query 0 and of key 0. A decoder's `query_offset` is its
            number of past tokens.
        dtype : dtype, optional
            Any integer type that holds ``num_buckets - 1``; by default that of `out`,
            or int64.
        out : ndarray of `dtype`, shape (query_length, key_length), optional
            Where to write, of any layout.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, shape (query_length, key_length)
            ``[i, j]`` is the bucket of ``(key_offset + j) - (query_offset + i)``;
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of its limits.
        MemoryError
            If the result does not fit in memory.

        Examples
        --------
        >>> import numpy as np
        >>> import t5bucket as tb
        >>> tb.Buckets(32, 128).grid(2, 3, query_offset=10, dtype=np.uint8)
        array([[8, 8, 8],
               [8, 8, 8]], dtype=uint8)
        """
        checked = _checks.bucket_dtype(dtype, self.num_buckets, out)
        q, k, offset = _checks.grid(query_length, key_length, query_offset, key_offset)
        num_threads = _checks.num_threads(num_threads)
        target = _checks.output(out, (q, k), checked)
        is_new = out is None and checked.isnative
        copy_consecutive(self._table(checked), target[None], offset, num_threads, is_new)
        return target if out is None else out

    def grid_at(
        self,
        query_positions: ArrayLike,
        key_positions: ArrayLike | None = None,
        *,
        dtype: DTypeLike | None = None,
        out: NDArray[Any] | None = None,
        num_threads: int | None = None,
    ) -> NDArray[Any]:
        """Buckets of all pairs of given query and key positions.

        Parameters
        ----------
        query_positions : array_like of int, shape (..., q)
            Positions (tokens) of any integer dtype and layout.
        key_positions : array_like of int, shape (..., k), optional
            The query's if None. Leading axes broadcast.
        dtype : dtype, optional
            Any integer type that holds ``num_buckets - 1``; by default that of `out`,
            or int64.
        out : ndarray of `dtype`, shape (..., q, k), optional
            Where to write, of any layout.
        num_threads : int, optional
            At most so many threads; None chooses by size.

        Returns
        -------
        ndarray of `dtype`, shape (..., q, k)
            ``[..., i, j]`` is the bucket of ``key_positions[..., j] -
            query_positions[..., i]``, exact for any pair of 64-bit positions;
            `out` if given.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or shape.
        MemoryError
            If the result does not fit in memory.

        Examples
        --------
        Two sequences packed into one row, each with positions of its own:

        >>> import t5bucket as tb
        >>> tb.Buckets(32, 128).grid_at([0, 1, 0, 1])
        array([[ 0, 17,  0, 17],
               [ 1,  0,  1,  0],
               [ 0, 17,  0, 17],
               [ 1,  0,  1,  0]])
        """
        checked = _checks.bucket_dtype(dtype, self.num_buckets, out)
        query, key, batch_shape = check_pair(
            ("query_positions", "key_positions"), query_positions, key_positions
        )
        num_threads = _checks.num_threads(num_threads)
        shape = (*batch_shape, query.shape[-1], key.shape[-1])
        target = _checks.output(out, shape, checked)
        matrix = target[..., None, :, :]
        write_explicit(self._table(checked), matrix, query, key, num_threads, out is None)
        return target if out is None else out

    def _table(self, dtype: np.dtype[Any]) -> RelativeTable:
        try:
            return self._tables[dtype]
        except KeyError:
            buckets = self._rule.buckets.astype(dtype.newbyteorder("="))
            table = RelativeTable(self._rule, buckets[None], self._rule.counter)
            return self._tables.setdefault(dtype, table)

    # ---- an immutable value ----

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Buckets is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Buckets is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Buckets):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[int, int, Rule]:
        return self.num_buckets, self.max_distance, self._rule

    def __repr__(self) -> str:
        if self._is_t5:
            return (
                f"Buckets(num_buckets={self.num_buckets}, max_distance={self.max_distance}, "
                f"bidirectional={self.bidirectional})"
            )
        return (
            f"Buckets.from_ranges({self.ranges()}, max_distance={self.max_distance}, "
            f"num_buckets={self.num_buckets})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_t5:
            return Buckets, (self.num_buckets, self.max_distance, self.bidirectional)
        return _restore, (self.ranges(), self.max_distance, self.num_buckets)


def relative_position_bucket(
    relative_position: ArrayLike,
    bidirectional: bool = True,
    num_buckets: int = 32,
    max_distance: int = 128,
    *,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
) -> Any:
    """Map relative positions to buckets: the signature known from T5's code.

    Parameters
    ----------
    relative_position : array_like of int, any shape and layout
        ``key position - query position`` (tokens).
    bidirectional : bool
        Whether future keys have buckets of their own.
    num_buckets, max_distance : int
        As in `Buckets`.
    dtype : dtype, optional
        Any integer type that holds ``num_buckets - 1``; by default that of `out`,
        or int64.
    out : ndarray of `dtype`, shape of `relative_position`, optional
        Where to write.

    Returns
    -------
    ndarray of `dtype`, shape of `relative_position`, or scalar

    Raises
    ------
    TypeError, ValueError, MemoryError
        As `Buckets` and its call.

    See Also
    --------
    Buckets : The formula, and everything else that a scheme can do.

    Examples
    --------
    >>> import t5bucket as tb
    >>> tb.relative_position_bucket([-64, -1, 0, 1, 64])
    array([14,  1,  0, 17, 30])
    """
    buckets = Buckets(num_buckets, max_distance, bidirectional)
    return buckets(relative_position, dtype=dtype, out=out)


@lru_cache(maxsize=256)
def _share_tables(num_buckets: int, max_distance: int, bidirectional: bool) -> Tables:
    """Find the tables that equal schemes of T5 share."""
    return {}


def _restore(ranges: list[Range], max_distance: int, num_buckets: int) -> Buckets:
    return Buckets.from_ranges(ranges, max_distance=max_distance, num_buckets=num_buckets)


# ---- seams for frameworks ----


def encode_scheme(buckets: Buckets) -> list[int]:
    """Put a scheme into integers: T5's three settings, or any other's starts and buckets."""
    if buckets._is_t5:
        return [buckets.num_buckets, buckets.max_distance, int(buckets.bidirectional)]
    return [buckets.num_buckets, buckets.max_distance, -1, *chain(*step_function(buckets))]


@lru_cache
def decode_scheme(integers: tuple[int, ...]) -> Buckets:
    """Find the scheme of `encode_scheme`."""
    num_buckets, max_distance, bidirectional, *rest = integers
    if bidirectional >= 0:
        return Buckets(num_buckets, max_distance, bool(bidirectional))
    starts, numbers = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    return Buckets._from_rule(Rule(starts, numbers), max_distance, num_buckets)


def step_function(buckets: Buckets) -> tuple[list[int], list[int]]:
    """Return the first relative position of each range but the first, and the buckets of all."""
    return buckets._rule.start_list, buckets._rule.bucket_list


def make_bucket_block(
    buckets: Buckets, rows: slice, columns: slice, offset: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Make a block of a grid on one thread; its positions may lie beyond what a caller may name."""
    blocks = make_block(buckets._table(dtype), rows, columns, offset, num_threads=1)
    block: NDArray[Any] = blocks[0].astype(dtype, copy=False)
    return block
