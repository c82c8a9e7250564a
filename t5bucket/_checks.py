# _checks.py - check every argument that a caller passes, before any work.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import math
import operator
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from t5bucket._arrays import FLOAT_NAMES, allocate, view_tensor

# The usual ways to name an integer type: a lookup makes small calls faster.
INTEGER_DTYPES: dict[Any, np.dtype[Any]] = {
    key: np.dtype(f"{sign}int{bits}")
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
    for key in (np.dtype(f"{sign}int{bits}"), np.dtype(f"{sign}int{bits}").type)
}
INTEGER_DTYPES[None] = np.dtype(np.int64)
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
MAX_SHOWN = 300  # characters of a value in a message
MAX_SHOWN_BITS = 256  # of an integer in a message
FLOAT32_END = 2.0**128 - 2.0**103  # float32 rounds it to infinity; a smaller number stays finite


def integer(name: str, value: Any, minimum: int = INT64_MIN, maximum: int = INT64_MAX) -> int:
    """Check an integer (also a NumPy one, never a bool) within limits."""
    if type(value) is not int:
        if isinstance(value, bool | np.bool_):
            raise TypeError(f"{name} must be an integer, got {show(value)}")
        try:
            value = operator.index(value)
        except (TypeError, ValueError, RuntimeError):  # tensors raise the last two
            raise TypeError(f"{name} must be an integer, got {show(value)}") from None
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {show(value)}")
    if value > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {show(value)}")
    return value  # type: ignore[no-any-return]


def first_line(error: Exception) -> str:
    """Return the first line of another library's error, or its type if it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def show(value: Any) -> str:
    """Show a value in a message, in one short line.

    For a tensor, this is its type: its items may have been freed.
    """
    if hasattr(value, "data_ptr"):
        return type(value).__name__
    if isinstance(value, int) and value.bit_length() > MAX_SHOWN_BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # integers of thousands of digits; lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def printable(text: str) -> str:
    """Shorten text from a file, and escape its control characters."""
    shown = "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:MAX_SHOWN]
    )
    return shown if len(text) <= MAX_SHOWN else f"{shown}..."


@contextmanager
def naming(place: object) -> Iterator[None]:
    """Add to errors about a value which file it is in."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{error} in {place}") from None


def flag(name: str, value: Any) -> bool:
    """Check a boolean."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {show(value)}")
    return bool(value)


def real(name: str, value: Any) -> float:
    """Check a real number, of Python or NumPy."""
    try:
        if type(value) in (int, float):
            return float(value)
        array = as_array(name, value)
        if array.ndim == 0 and (array.dtype.kind in "iuf" or array.dtype.name in FLOAT_NAMES):
            return float(array)
    except OverflowError:
        raise ValueError(f"{name} must fit in float64, got {show(value)}") from None
    except (TypeError, ValueError, RuntimeError):
        pass
    raise TypeError(f"{name} must be a real number, got {show(value)}")


def scale(value: Any, is_double: bool) -> float:
    """Check the factor of the weights; it is rounded to float32 unless they are float64."""
    number = real("scale", value)
    if not abs(number) < (math.inf if is_double else FLOAT32_END):
        dtype = "float64" if is_double else "float32"
        raise ValueError(f"scale must be finite in {dtype}, got {show(number)}")
    return number


def num_threads(value: Any) -> int | None:
    """Check ``num_threads``: None, or at least 1."""
    if value is None or (type(value) is int and value >= 1):
        return value
    return integer("num_threads", value, 1)


def grid(
    query_length: Any, key_length: Any, query_offset: Any, key_offset: Any
) -> tuple[int, int, int]:
    """Check a grid; return its lengths and the relative position of query 0 and key 0."""
    if (  # a shortcut for almost all calls: it makes small ones faster
        type(query_length) is type(key_length) is type(query_offset) is type(key_offset) is int
        and 0 <= query_length <= INT64_MAX
        and 0 <= key_length <= INT64_MAX
        and INT64_MIN <= query_offset <= INT64_MAX
        and INT64_MIN <= key_offset <= INT64_MAX
    ):
        return query_length, key_length, key_offset - query_offset
    query_length = integer("query_length", query_length, 0)
    key_length = integer("key_length", key_length, 0)
    return query_length, key_length, offset(query_offset, key_offset)


def offset(query_offset: Any, key_offset: Any) -> int:
    """Check the positions of query 0 and key 0; return their relative position."""
    query: int = integer("query_offset", query_offset)
    return integer("key_offset", key_offset) - query


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return an array of any dtype; for a PyTorch tensor, its values without the gradient."""
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", ())  # () if it is not imported
    if isinstance(value, tensor_type):
        return view_tensor(value, name)
    if tensor_type and isinstance(value, list | tuple):
        value = _view_tensors(name, value, tensor_type)
    try:
        return np.asarray(value)
    except MemoryError:
        raise
    except ValueError:  # nested lists of different lengths
        raise ValueError(f"{name} must be an array, got {show(value)}") from None
    except Exception as error:  # the value's own conversion may raise anything
        raise TypeError(f"{name} must be an array, got {type(value).__name__} ({error})") from error


def _view_tensors(name: str, value: Any, tensor_type: Any) -> Any:
    """View the tensors in nested lists: NumPy would call each tensor's own conversion."""
    if isinstance(value, tensor_type):
        return view_tensor(value, name)
    if isinstance(value, list | tuple):
        return [_view_tensors(name, item, tensor_type) for item in value]
    return value


def integers(name: str, value: ArrayLike) -> NDArray[np.integer]:
    """Check integers of any dtype and shape and return them as an array."""
    if type(value) is np.ndarray and value.dtype.kind in "iu":
        return value
    array = as_array(name, value)
    if array.dtype.kind in "iu":
        return array
    if isinstance(value, list | tuple):
        if array.size == 0:
            return array.astype(np.int64)  # an empty list has no dtype of its own
        if array.dtype.kind == "f":  # NumPy makes floats of [-1, 2**63]
            return _python_integers(name, np.asarray(value, object), array.dtype)
    elif isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    return _python_integers(name, array, array.dtype)


def _python_integers(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.integer]:
    """Convert an array of Python integers, which pandas makes from some of its types."""
    items = array.ravel().tolist()
    if array.dtype != object or not all(type(item) is int for item in items):
        raise TypeError(f"{name} must be integers, got dtype {dtype}")
    if all(INT64_MIN <= item <= INT64_MAX for item in items):
        return array.astype(np.int64)
    raise ValueError(f"{name} must fit in int64, got {show(max(items, key=abs))}")


def bucket_dtype(dtype: DTypeLike | None, num_buckets: int, out: Any = None) -> np.dtype[Any]:
    """Check a dtype for bucket numbers; None means the dtype of ``out``, or int64."""
    if dtype is None and out is not None:
        dtype = base_array("out", out).dtype
        if dtype.kind not in "iu":
            raise TypeError(f"out must have an integer dtype, got {dtype}")
        if not _holds(dtype, num_buckets):
            raise ValueError(f"out must have a dtype that holds {num_buckets - 1}, got {dtype}")
        return dtype
    try:
        checked = INTEGER_DTYPES[dtype]
    except (KeyError, TypeError):
        try:
            checked = np.dtype(dtype)
        except (TypeError, ValueError):
            raise TypeError(f"dtype must be an integer type, got {show(dtype)}") from None
        if checked.kind not in "iu":
            raise TypeError(f"dtype must be an integer type, got {checked}") from None
    if not _holds(checked, num_buckets):
        raise ValueError(f"dtype must hold bucket {num_buckets - 1}, got {checked}")
    return checked


def _holds(dtype: np.dtype[Any], num_buckets: int) -> bool:
    return num_buckets <= 128 or num_buckets <= 1 << 8 * dtype.itemsize - (dtype.kind == "i")


def weight(value: ArrayLike) -> NDArray[Any]:
    """Check floating-point weights of two axes, buckets and heads."""
    try:
        array = as_array("weight", value)
    except ValueError:
        if isinstance(value, list | tuple):  # lists of different lengths
            raise ValueError(f"weight must have two axes, got {show(value)}") from None
        raise
    weight_form(array)
    return array


def weight_form(array: Any) -> None:
    """Check the dtype and the shape of weights, in an array of any framework."""
    if array.dtype.name not in FLOAT_NAMES:
        raise TypeError(f"weight must be float16, bfloat16, float32 or float64, got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"weight must have two axes, buckets and heads, got shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"weight must not be empty, got shape {array.shape}")


def weight_length(shape: tuple[int, ...], heads_first: bool, num_buckets: int) -> None:
    """Check that a weight has a row, or a column, for each bucket."""
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


def num_rows(array: NDArray[Any], heads_first: bool, bidirectional: bool) -> int:
    """Check that a weight has enough rows to be a scheme with one bucket for each."""
    axis, name = (1, "columns") if heads_first else (0, "rows")
    count = int(array.shape[axis])
    least = 4 if bidirectional else 2
    if count < least:
        raise ValueError(f"weight must have at least {least} {name}, one a bucket, got {count}")
    return count


def tile(value: Any) -> tuple[int, int]:
    """Check the rows and columns of a tile; one number is both."""
    if not isinstance(value, tuple | list):
        rows = columns = value
    elif len(value) == 2:
        rows, columns = value
    else:
        raise ValueError(f"tile must be an integer or (rows, columns), got {show(value)}")
    return integer("tile", rows, 1), integer("tile", columns, 1)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """Check the length of an axis, or those of several."""
    if isinstance(value, tuple | list):
        return tuple(integer(name, length, 0) for length in value)
    return (integer(name, value, 0),)


def base_array(name: str, value: Any) -> NDArray[Any]:
    """View an array as a plain ndarray: a subclass may override any attribute."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    array: NDArray[Any] = np.ndarray.view(value, np.ndarray)
    return array


def matrices(
    name: str, value: Any, num_heads: int, lengths: tuple[int, int] | None = None
) -> NDArray[Any]:
    """Check the shape ``(..., num_heads, query_length, key_length)`` of an array."""
    array: NDArray[Any] = value if type(value) is np.ndarray else base_array(name, value)
    is_matrix = array.ndim >= 3 and array.shape[-3] == num_heads
    if not is_matrix or lengths not in (None, array.shape[-2:]):
        query_length, key_length = lengths or ("query_length", "key_length")
        raise ValueError(
            f"{name} must have shape (..., {num_heads}, {query_length}, {key_length}), "
            f"got {array.shape}"
        )
    return array


def mask_shape(shape: Sequence[int], matrix_shape: Sequence[int]) -> None:
    """Check that a mask broadcasts to ``(..., num_heads, q, k)``."""
    sizes = zip(reversed(shape), reversed(matrix_shape), strict=False)
    if any(size not in (1, length) for size, length in sizes):
        lengths = ", ".join(map(str, matrix_shape))
        raise ValueError(f"mask must broadcast to (..., {lengths}), got shape {tuple(shape)}")


def output(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "out"
) -> NDArray[Any]:
    """Check ``out`` and return it as a base array, or allocate it if it is None."""
    if out is None:
        return allocate(shape, dtype)
    array: NDArray[Any] = out if type(out) is np.ndarray else base_array(name, out)
    if array.dtype is not dtype and array.dtype != dtype:
        raise TypeError(f"{name} must have dtype {dtype}, got {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if not array.flags.writeable:
        raise ValueError(f"{name} must be writeable, got a read-only array")
    return array


def same_dtype(name: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Check that an array has this dtype, in any byte order."""
    if array.dtype != dtype and array.dtype.name != dtype.name:  # names are slow
        raise TypeError(f"{name} must have dtype {dtype}, got {array.dtype}")
    return array
