# _t5.py - T5, and families that have T5's attention.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import DynamicCache, EncoderDecoderCache

from t5bucket._buckets import Buckets, encode_scheme
from t5bucket.torch import compute_bias
from t5bucket.torch._attend import SMALL_NBYTES
from t5bucket.transformers._compiled import Parts, with_parts
from t5bucket.transformers._inexact import attend_by_sdpa
from t5bucket.transformers._layer import (
    Layer,
    Method,
    NotCoveredError,
    is_exact,
    make_twin,
    require,
)
from t5bucket.transformers._lazy import LazyBias, make_lazily
from t5bucket.transformers._merge import (
    is_copied_without_gradient,
    mark_heads_last,
    merge,
    no_bias,
)
from t5bucket.transformers._older import for_older, with_cache_position, with_past_key_values
from t5bucket.transformers._rules import find_rule, find_weight, tabulate
from t5bucket.transformers._sdpa import is_plain

RULE = "_relative_position_bucket"


def t5_scheme(layer: Any) -> Buckets:
    """Tabulate the rule of an attention, in an encoder or a decoder."""
    return _tabulate(layer, not layer.is_decoder)


def _pix2struct_scheme(layer: Any) -> Buckets:
    return _tabulate(layer, False)


def _tabulate(layer: Any, bidirectional: bool) -> Buckets:
    rule = find_rule(layer, RULE)
    settings = (bidirectional, *_sizes(layer))
    return tabulate(rule, settings, lambda distances: rule(distances, *settings))


def _umt5_scheme(layer: Any) -> Buckets:
    rule = find_rule(layer, RULE)
    settings = (layer.is_decoder, *_sizes(layer))
    return tabulate(rule, settings, lambda distances: rule(layer, distances))


def _sizes(layer: Any) -> tuple[Any, Any]:
    return layer.relative_attention_num_buckets, layer.relative_attention_max_distance


def _compute_bias_by(find_scheme: Callable[[Any], Buckets]) -> Method:
    def compute(
        original: Method,
        self: Any,
        query_length: Any,
        key_length: Any,
        device: Any = None,
        past_seen_tokens: Any = 0,
    ) -> torch.Tensor:
        lengths = (query_length, key_length, past_seen_tokens)
        require(all(type(length) is int for length in lengths), "lengths that are no integers")
        require(device is None or torch.device(device).type == "cpu", f"device {device}")
        weight = find_weight(self.relative_attention_bias, self.relative_attention_num_buckets)
        buckets = find_scheme(self)
        if weight.dtype == _lazy_dtype.get():
            exact = self.training or is_exact(self)
            return make_lazily(weight, query_length, key_length, buckets, past_seen_tokens, exact)
        bias = compute_bias(
            weight, query_length, key_length, buckets=buckets, query_offset=past_seen_tokens
        )
        mark_heads_last(bias)
        return bias

    def compute_compiled(
        self: Any,
        query_length: Any,
        key_length: Any,
        device: Any = None,
        past_seen_tokens: Any = 0,
    ) -> torch.Tensor | None:
        """Compute the bias in a graph; None if transformers must do it."""
        # Read the settings here, so that the graph depends on them.
        settings = (getattr(self, "is_decoder", None), *_sizes(self))
        scheme = _find_constant_scheme(find_scheme, self, settings)
        if scheme is None or isinstance(past_seen_tokens, torch.Tensor):
            return None
        weight = self.relative_attention_bias.weight
        lengths = (query_length, key_length, past_seen_tokens, 0)
        bias: torch.Tensor = torch.ops.t5bucket.bias(
            weight, None, scheme, *lengths, False, None, False
        )
        is_checkpoint = self.training and getattr(self, "gradient_checkpointing", False)
        if is_checkpoint or bias.numel() * bias.element_size() <= MIN_NBYTES:
            return bias
        exact = self.training or is_exact(self)
        return with_parts(bias, Parts(weight.clone(), scheme, past_seen_tokens, exact))

    compute.compiled = compute_compiled  # type: ignore[attr-defined]
    return for_older(compute, with_cache_position(compute))


@torch._dynamo.assume_constant_result
def _find_constant_scheme(
    find_scheme: Callable[[Any], Buckets], layer: Any, settings: tuple[Any, ...]
) -> list[int] | None:
    """Find a layer's scheme, encoded for operators, while PyTorch compiles; None if not covered."""
    try:
        with unset_fake_temporarily():
            num_buckets = layer.relative_attention_num_buckets
            find_weight(layer.relative_attention_bias, num_buckets, is_compiled=True)
            return list(encode_scheme(find_scheme(layer)))
    except NotCoveredError:
        return None


# ---- attention: the bias is made before the keys are known ----


def _attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    mask: Any = None,
    key_value_states: Any = None,
    position_bias: Any = None,
    cache: Any = None,
    **kwargs: Any,
) -> Any:
    given = {"key_value_states": key_value_states, "cache": cache, **kwargs}
    if position_bias is None:
        position_bias = _make_bias(self, hidden_states, mask, key_value_states, cache, kwargs)
    bias = _add_mask(self, hidden_states, mask, position_bias, kwargs)
    if bias is not None:
        given |= {"position_bias": bias, "is_causal": False}
    else:
        bias = position_bias.look() if type(position_bias) is LazyBias else position_bias
        given |= {"mask": mask, "position_bias": bias}
        if is_copied_without_gradient(bias):
            given["position_bias"] = bias.detach()
    attended, returned, weights = original(self, hidden_states, **given)
    return attended, returned if position_bias is None else position_bias, weights


def _attend_umt5(
    original: Method,
    self: Any,
    hidden_states: Any,
    encoder_hidden_states: Any = None,
    cache: Any = None,
    attention_mask: Any = None,
    **kwargs: Any,
) -> Any:
    given = {"encoder_hidden_states": encoder_hidden_states, "cache": cache, **kwargs}
    made = _make_bias(self, hidden_states, attention_mask, encoder_hidden_states, cache, kwargs)
    bias = _add_mask(self, hidden_states, attention_mask, made, kwargs)
    if bias is not None:
        return original(_with_bias(self, bias), hidden_states, is_causal=False, **given)
    layer = self if made is None else _with_bias(self, made)
    return original(layer, hidden_states, attention_mask=attention_mask, **given)


def _with_bias(layer: Any, bias: torch.Tensor) -> Any:
    """Copy an attention for one call, with a bias that was already made."""
    return make_twin(layer, has_relative_attention_bias=True, compute_bias=lambda *_, **__: bias)


def _make_bias(
    layer: Any, hidden_states: Any, mask: Any, states: Any, cache: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Make the bias of a layer that gets none; return None if the layer must make it itself."""
    if "past_key_values" in kwargs:
        return None
    if states is not None:
        if _is_without_bias(layer, cache) and is_plain(layer, hidden_states, mask, kwargs):
            return no_bias(layer, hidden_states, states.shape[1], MIN_NBYTES)
        return None
    past = _count_past(layer, cache)
    if past is None or not layer.has_relative_attention_bias:
        return None
    length = hidden_states.shape[1]
    is_lazy = _is_lazy(layer, hidden_states, mask, length + past, kwargs)
    if cache is not None and not is_lazy:
        return None
    before = _lazy_dtype.set(hidden_states.dtype if is_lazy else None)
    try:
        bias: torch.Tensor = layer.compute_bias(
            length, length + past, device=hidden_states.device, past_seen_tokens=past
        )
    finally:
        _lazy_dtype.reset(before)
    return bias


def _add_mask(
    layer: Any, hidden_states: Any, mask: Any, bias: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Merge a bias and a mask as ``sdpa`` does; return None if ``sdpa`` must do it itself."""
    if type(bias) is not LazyBias:
        return merge(layer, hidden_states, mask, bias, kwargs)
    recipe = bias.recipe
    if (
        bias.find_weight() is not None
        and hidden_states.dtype == recipe.weight.dtype
        and _is_lazy(layer, hidden_states, mask, recipe.key_length, kwargs)
    ):
        return bias.with_mask(mask, causal=mask is None and layer.is_causal)
    return merge(layer, hidden_states, mask, bias.look(), kwargs)


# ---- what is covered ----

MIN_NBYTES = SMALL_NBYTES  # a matrix of at most this size is made once, and stays in the cache
_lazy_dtype: ContextVar[torch.dtype | None] = ContextVar("lazy_dtype", default=None)


def _is_lazy(
    layer: Any, hidden_states: Any, mask: Any, key_length: int, kwargs: dict[str, Any]
) -> bool:
    """Whether attention needs no matrix; with dropout it needs one."""
    batch, length = hidden_states.shape[:2]
    nbytes = layer.n_heads * length * key_length * hidden_states.element_size()
    if mask is None:
        is_fit = length == key_length or not layer.is_causal
    else:
        shape = (batch, layer.n_heads, length, key_length)
        is_fit = (
            mask.ndim == 4
            and mask.shape[-1] == key_length
            and all(size in (1, whole) for size, whole in zip(mask.shape, shape, strict=True))
            and mask.dtype in (torch.bool, hidden_states.dtype)
        )
    return (
        nbytes > MIN_NBYTES
        and is_fit
        and not (layer.training and layer.dropout)
        and is_plain(layer, hidden_states, mask, kwargs)
    )


def _is_without_bias(layer: Any, cache: Any) -> bool:
    """Whether a cross-attention adds zeros without a gradient to all of its keys."""
    is_read = isinstance(cache, EncoderDecoderCache) and cache.is_updated.get(layer.layer_idx)
    is_checkpoint = layer.training and getattr(layer, "gradient_checkpointing", False)
    return not (layer.has_relative_attention_bias or is_read or is_checkpoint)


def _count_past(layer: Any, cache: Any) -> int | None:
    """Count the keys of a cache; None if it may have more than it reports."""
    if cache is None:
        return 0
    kept = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if type(kept) is not DynamicCache or type(layer.layer_idx) is not int:
        return None
    past = kept.get_seq_length(layer.layer_idx)
    return past if type(past) is int else None


for replacement in (_attend, _attend_umt5, attend_by_sdpa):
    for_older(replacement, with_past_key_values(replacement))

T5_ATTENTION = Layer({"compute_bias": _compute_bias_by(t5_scheme)}, attend=_attend)
EAGER_T5_ATTENTION = T5_ATTENTION._replace(inexact={"forward": attend_by_sdpa})

LAYERS = {
    "mt5.MT5Attention": T5_ATTENTION,
    "pix2struct.Pix2StructTextAttention": Layer(
        {"compute_bias": _compute_bias_by(_pix2struct_scheme)}, attend=_attend
    ),
    "pop2piano.Pop2PianoAttention": T5_ATTENTION,
    "switch_transformers.SwitchTransformersAttention": EAGER_T5_ATTENTION,
    "t5.T5Attention": T5_ATTENTION,
    "umt5.UMT5Attention": Layer(
        {"compute_bias": _compute_bias_by(_umt5_scheme)}, attend=_attend_umt5, relies_on=(RULE,)
    ),
}
