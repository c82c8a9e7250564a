# _peers.py - functions and layers of PyTorch, transformers and JAX to compare with.
# SPDX-License-Identifier: BSD-3-Clause
"""If a package is not installed, functions raise NotImplementedError."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from t5bucket.cli._measure import Call
from t5bucket.cli.bench import MAX_DISTANCE, NUM_BUCKETS, make_weight


def import_torch(num_threads: int = 1) -> Any:
    """Import PyTorch, and set the number of its threads."""
    try:
        import torch
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    torch.set_num_threads(num_threads)
    return torch


def as_tensor(array: NDArray[Any]) -> Any:
    """Make a tensor that shares an array's memory."""
    torch = import_torch()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def t5_attention(weight: NDArray[Any]) -> Any:
    """Make transformers' T5 attention with this weight."""
    torch = import_torch()
    try:
        import transformers
        from transformers import T5Config
        from transformers.models.t5.modeling_t5 import T5Attention
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise NotImplementedError(f"transformers 5 is the peer, not {transformers.__version__}")
    num_heads = weight.shape[1]
    config = T5Config(num_heads=num_heads, d_model=num_heads, d_kv=1)
    attention = T5Attention(config, has_relative_attention_bias=True)
    parameter = torch.nn.Parameter(as_tensor(weight), requires_grad=False)
    attention.relative_attention_bias.weight = parameter
    return attention


def layoutlmv3_encoder(weight: NDArray[Any]) -> tuple[Any, Any]:
    """Make transformers' LayoutLMv3 encoder with this weight; return torch with it."""
    torch = import_torch()
    try:
        from transformers import LayoutLMv3Config
        from transformers.models.layoutlmv3.modeling_layoutlmv3 import LayoutLMv3Encoder
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    encoder: Any = LayoutLMv3Encoder(LayoutLMv3Config(num_hidden_layers=1))
    by_head = torch.from_numpy(np.ascontiguousarray(weight.T))
    encoder.rel_pos_bias.weight = torch.nn.Parameter(by_head, requires_grad=False)
    return encoder, torch


def t5_bucket_function() -> tuple[Any, Any]:
    """Find transformers' function of relative positions; return torch with it."""
    return t5_attention(make_weight())._relative_position_bucket, import_torch()


def import_jax() -> tuple[Any, Any]:
    """Import JAX, and jax.numpy."""
    try:
        import jax
        import jax.numpy as jnp
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    return jax, jnp


def t5x_buckets(relative_position: Any, numpy: Any) -> Any:
    """Compute buckets by T5X's formula, with the functions of NumPy or of JAX."""
    half, exact = NUM_BUCKETS // 2, NUM_BUCKETS // 4
    scale = exact / np.log(MAX_DISTANCE / exact)
    distance = numpy.abs(relative_position)
    ratio = distance.astype(np.float32) / exact + np.finfo(np.float32).eps
    large = exact + (numpy.log(ratio) * scale).astype(np.int32)
    numbers = numpy.where(distance < exact, distance, numpy.minimum(large, half - 1))
    return numbers + (relative_position > 0) * half


def jax_buckets(source: NDArray[Any]) -> Call:
    """Compile T5X's function of relative positions for these positions."""
    jax, jnp = import_jax()
    compiled = jax.jit(lambda relative_position: t5x_buckets(relative_position, jnp))
    positions = jnp.asarray(source)
    return lambda: compiled(positions).block_until_ready()
