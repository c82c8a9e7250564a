# _attention.py - attention with the bias of relative positions, without its matrix.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import torch

from t5bucket._buckets import Buckets, encode_scheme
from t5bucket.torch._attend import attend
from t5bucket.torch._attention_by_pytorch import attend_by_pytorch
from t5bucket.torch._attention_checks import (
    check_options,
    check_positions,
    check_segments,
    check_tensors,
)
from t5bucket.torch._attention_operator import attention
from t5bucket.torch._kernels import Inputs
from t5bucket.torch._strips import Source
from t5bucket.torch._tensors import is_eager, is_transformed, needs_gradient


def scaled_dot_product_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    weight: torch.Tensor,
    *,
    buckets: Buckets,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    query_offset: int = 0,
    key_offset: int = 0,
    query_positions: torch.Tensor | None = None,
    key_positions: torch.Tensor | None = None,
    segment_ids: torch.Tensor | None = None,
    key_segment_ids: torch.Tensor | None = None,
    exact: bool = True,
) -> torch.Tensor:
    """Attention with the bias of relative positions, without its matrix.

    It is PyTorch's function of this name, and adds the bias to the scores:
    ``softmax(scale * query @ key.mT + bias) @ value``.

    Parameters
    ----------
    query : Tensor, shape (..., num_heads, q, size)
        float16, bfloat16, float32 or float64, on the CPU, of any layout.
    key : Tensor, shape (..., num_heads, k, size)
        Leading axes broadcast. Heads do not, as with PyTorch's ``enable_gqa``: repeat them.
    value : Tensor, shape (..., num_heads, k, value_size)
        All four tensors have one dtype. Gradients flow into them.
    weight : Tensor, shape (num_buckets, num_heads)
        The weight of T5's ``relative_attention_bias``.
    buckets : Buckets
        The scheme that `weight` was trained with.
    attn_mask : Tensor, optional
        Boolean (true = attend) or floating-point (added); it broadcasts to
        ``(..., num_heads, q, k)``. It must not require a gradient.
    dropout_p : float, optional
        Probability with which a weight of attention is dropped. If it is not 0,
        PyTorch computes the attention, with the matrix.
    is_causal : bool, optional
        Mask keys whose position is greater than the query's. Unlike PyTorch's, it
        counts offsets and positions, and can be combined with a mask.
    scale : float, optional
        Factor of the scores; ``1 / sqrt(size)`` if None. T5 has 1.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.
    query_positions : Tensor of int, shape (..., q), optional
        Explicit positions, in place of the offsets.
    key_positions : Tensor of int, shape (..., k), optional
        The query's if None.
    segment_ids : Tensor of int, shape (..., q), optional
        Pairs of different segments are masked. Not with explicit positions.
    key_segment_ids : Tensor of int, shape (..., k), optional
        The query's if None.
    exact : bool, optional
        Whether the result has to have the bits that it has with the matrix. If not, it
        is equal up to rounding, and padded keys cost nothing.

    Returns
    -------
    Tensor of `query`'s dtype, shape (..., num_heads, q, value_size)
        Heads come after queries in memory, as in PyTorch's result.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device, or out of its limits.

    See Also
    --------
    compute_bias : The matrix.

    Notes
    -----
    No array of ``num_heads * q * k`` items is allocated, unless it is small: 1 MiB, or less
    than 32 queries. For consecutive positions PyTorch's kernel reads the ``q + k - 1``
    diagonals in place of the matrix; one more feature of each head masks padded keys. Blocks of
    512 keys that are hidden from all queries, or from 1024 of them in causal order, are left
    out. Other masks and explicit positions go by strips of the matrix that fit the cache.

    The bits are those of ``torch.nn.functional.scaled_dot_product_attention`` with
    ``compute_bias(weight, ...)`` as its mask. Whether this PyTorch's kernels give equal bits
    is tried once on small cases for each dtype and head size. If they do not, the matrix
    is used, and a message of level DEBUG goes to the logger ``t5bucket.torch``.

    Inputs without a batch give what a batch of one gives. With ``exact=False``, padded keys
    and values that are not finite have no effect.

    Gradients are equal up to rounding, in linear memory. With float64, or one head, the
    forward pass of training needs the matrix for its bits, unless ``exact=False``. The second
    derivative takes the matrix, and so do transforms of ``torch.func``, forward mode and
    autocast.

    Examples
    --------
    >>> import torch
    >>> import t5bucket as tb
    >>> from t5bucket.torch import scaled_dot_product_attention
    >>> query, key, value = torch.randn(3, 1, 12, 1000, 64)
    >>> weight = torch.randn(32, 12)
    >>> attended = scaled_dot_product_attention(query, key, value, weight, buckets=tb.Buckets())
    >>> attended.shape
    torch.Size([1, 12, 1000, 64])
    """
    check_tensors(query, key, value, weight, buckets, attn_mask)
    dropout_p, scale = check_options(dropout_p, is_causal, scale, exact)
    offsets, positions = check_positions(
        query, key, query_offset, key_offset, query_positions, key_positions
    )
    segments = check_segments(query, key, segment_ids, key_segment_ids, query_positions)
    tensors = (weight, attn_mask, *positions, *segments)
    inputs = Inputs(query, key, value, scale)
    is_trained = needs_gradient(weight)
    if is_transformed() or dropout_p or torch.is_autocast_enabled("cpu"):
        source = Source(*tensors, buckets, *offsets, is_causal)
        return attend_by_pytorch(inputs, source, dropout_p)
    if is_eager(query, key, value, *tensors) and not any(
        map(needs_gradient, (query, key, value, weight))
    ):
        source = Source(*tensors, buckets, *offsets, is_causal)
        return attend(inputs, source, exact, is_trained=False)
    return attention(
        query,
        key,
        value,
        *tensors,
        encode_scheme(buckets),
        *offsets,
        is_causal,
        scale,
        exact,
        is_trained,
    )
