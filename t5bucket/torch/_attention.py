# _attention.py - attention with a relative position bias, without the bias matrix.
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
    """Attention with a relative position bias, without the bias matrix.

    Like PyTorch's function of this name, with the bias added to the scores:
    ``softmax(scale * query @ key.mT + bias) @ value``.

    Parameters
    ----------
    query : Tensor, shape (..., num_heads, q, size)
        float16, bfloat16, float32 or float64, on the CPU, of any layout.
    key : Tensor, shape (..., num_heads, k, size)
        Leading axes broadcast. Heads do not, as with PyTorch's ``enable_gqa``: repeat them.
    value : Tensor, shape (..., num_heads, k, value_size)
        `query`, `key`, `value` and `weight` have one dtype. Gradients flow into them.
    weight : Tensor, shape (num_buckets, num_heads)
        The weight of T5's ``relative_attention_bias``.
    buckets : Buckets
        The scheme that `weight` was trained with.
    attn_mask : Tensor, optional
        Boolean (true = attend) or floating-point (added); it broadcasts to
        ``(..., num_heads, q, k)``. It must not require a gradient.
    dropout_p : float, optional
        Probability of dropping an attention weight. If it is not 0, PyTorch computes
        the attention, with the matrix.
    is_causal : bool, optional
        Mask keys whose position is greater than the query's. Unlike in PyTorch, offsets
        and positions count, and a mask can be given, too.
    scale : float, optional
        Factor of the scores; ``1 / sqrt(size)`` if None. T5 uses 1.
    query_offset, key_offset : int, optional
        Position of query 0 and of key 0.
    query_positions : Tensor of int, shape (..., q), optional
        Explicit positions, instead of the offsets.
    key_positions : Tensor of int, shape (..., k), optional
        The query's if None.
    segment_ids : Tensor of int, shape (..., q), optional
        Pairs of different segments are masked. Cannot be combined with explicit positions.
    key_segment_ids : Tensor of int, shape (..., k), optional
        The query's if None.
    exact : bool, optional
        Whether the result must be equal to that of the matrix bit for bit. If not, it is
        equal up to rounding. Then padded keys cost nothing, and segments are computed one by one
        if the keys of each are adjacent.

    Returns
    -------
    Tensor of `query`'s dtype, shape (..., num_heads, q, value_size)
        In memory, heads come after queries, as in PyTorch's result.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind, shape or device, or out of its limits.

    See Also
    --------
    compute_bias : The matrix.

    Notes
    -----
    No array of ``num_heads * q * k`` items is allocated, except for small ones: up to 1 MiB, or
    less than 32 queries. For consecutive positions PyTorch's kernel reads the ``q + k - 1``
    diagonals instead of the matrix, and one more feature of each head masks padded keys. Blocks
    of 512 keys are skipped if they are hidden from all queries, or from 1024 queries in causal
    order. For other masks and explicit positions, strips of the matrix that fit in the cache
    are computed.

    The result has the same bits as ``torch.nn.functional.scaled_dot_product_attention`` with
    ``compute_bias(weight, ...)`` as its mask. For each dtype and head size, small cases are
    tried once to see if this version of PyTorch gives equal bits. If it does not, the matrix
    is used, and a message of level DEBUG goes to the logger ``t5bucket.torch``.

    Inputs without a batch are computed as a batch of one. With ``exact=False``, padded keys
    and values have no effect even if they are not finite.

    Gradients are equal up to rounding, and need linear memory. In training with float64, or
    with one head, the forward pass uses the matrix to get equal bits, unless ``exact=False``.
    Second derivatives, transforms of ``torch.func``, forward mode and autocast use the matrix.

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
