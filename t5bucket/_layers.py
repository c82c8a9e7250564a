# _layers.py - what replaces the methods of transformers' layers, family by family.
# SPDX-License-Identifier: BSD-3-Clause
"""A replacement takes the original method, and then what that takes.

One of a bias raises `NotCoveredError`, before it has done anything, when the original has
to run; one of an attention always runs it, with a bias that is cheaper to use.
Rules of buckets are tabulated from the model's own function, so that they are equal
whatever the version of transformers.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.weak import TensorWeakRef, WeakTensorKeyDictionary
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from t5bucket._arrays import bfloat16, view_tensor
from t5bucket._buckets import Buckets
from t5bucket._tensors import (
    FLOATS,
    INTEGERS,
    allocate_tensor,
    fill_bias,
    fill_bias_at,
    is_plain,
    needs_gradient,
)
from t5bucket.torch import compute_bias, compute_bias_at

Method = Callable[..., Any]

LARGEST_DISTANCE = 1 << 20  # of a rule that is tabulated
MAX_SCHEMES = 256


class Layer(NamedTuple):
    """What a layer's methods are replaced by.

    `biases` compute biases or buckets. `attend` is the ``forward`` of an attention that
    is given a bias; `relies_on` are further methods that have to be transformers' own.
    """

    biases: dict[str, Method]
    attend: Method | None = None
    relies_on: tuple[str, ...] = ()


class NotCoveredError(Exception):
    """Why a call goes to transformers' own method."""


def _require(condition: object, reason: str) -> None:
    if not condition:
        raise NotCoveredError(reason)


def _function(method: Method, name: str) -> Method:
    """Find a function of the module that a method of transformers stands in."""
    function: Method | None = inspect.unwrap(method).__globals__.get(name)
    if function is None:
        raise NotCoveredError(f"no function {name}: another version of transformers")
    return function


# ---- tables and rules ----


def _check_weight(weight: Any, rows: int, num_buckets: Any) -> None:
    _require(is_plain(weight), "a weight of another device or kind, or one that is traced")
    _require(weight.dtype in FLOATS, f"a weight of {weight.dtype}")
    if weight.dtype == torch.bfloat16:
        try:
            bfloat16()
        except ImportError as error:
            raise NotCoveredError(str(error)) from None
    _require(rows == num_buckets, f"a weight of {rows} rows for {num_buckets} buckets")


def _table_of(embedding: Any, num_buckets: Any) -> torch.Tensor:
    """Find the weight of an embedding that does nothing else than look up its rows."""
    _require(type(embedding) is nn.Embedding, f"a {type(embedding).__name__} as table")
    hooks = (
        embedding._forward_hooks
        or embedding._forward_pre_hooks
        or embedding._backward_hooks
        or embedding._backward_pre_hooks
        or "forward" in vars(embedding)
        or nn.modules.module._has_any_global_hook()
    )
    options = (
        embedding.max_norm is not None
        or embedding.padding_idx is not None
        or embedding.scale_grad_by_freq
        or embedding.sparse
    )
    _require(not hooks and not options, "an embedding with hooks or options")
    weight: torch.Tensor = embedding.weight
    _check_weight(weight, weight.shape[0], num_buckets)
    return weight


def _rule(layer: Any, name: str) -> Any:
    """Find the function of a layer's class that computes buckets."""
    _require(name not in vars(layer), f"a {name} of the instance's own")
    return getattr(type(layer), name)


_schemes: dict[tuple[Any, ...], Buckets] = {}


def _scheme(rule: Method, settings: tuple[Any, ...], compute: Method) -> Buckets:
    """Tabulate a rule of transformers; the last two of its settings are buckets and distance."""
    key = (rule, *settings)
    buckets = _schemes.get(key)
    if buckets is None:
        num_buckets, max_distance = settings[-2:]
        _require(type(num_buckets) is type(max_distance) is int, "settings that are not integers")
        _require(max_distance <= LARGEST_DISTANCE, f"a max_distance of {max_distance}")

        def rule_of(distances: NDArray[np.int64]) -> NDArray[Any]:
            array: NDArray[Any] = compute(torch.from_numpy(distances)).numpy()
            return array

        try:
            buckets = Buckets.from_function(
                rule_of, max_distance=max_distance, num_buckets=num_buckets
            )
            far = _far_positions(num_buckets, max_distance)
            is_constant = np.array_equal(rule_of(far), buckets(far))
        except Exception as error:
            raise NotCoveredError(f"a rule with the settings {settings}: {error}") from error
        _require(is_constant, f"a rule that still changes beyond a max_distance of {max_distance}")
        if len(_schemes) >= MAX_SCHEMES:
            _schemes.clear()
        _schemes[key] = buckets
    return buckets


def _far_positions(num_buckets: int, max_distance: int) -> NDArray[np.int64]:
    """Sample what lies beyond a distance: the next ones, then ever fewer of them."""
    near = np.arange(1, 4 * num_buckets + 2 * max_distance)
    far = max_distance + np.concatenate([near, 1 << np.arange(30)])
    return np.concatenate([-far, far])


# ---- T5, and what is built like it ----


def _t5_scheme(layer: Any) -> Buckets:
    return _tabulate_t5(layer, not layer.is_decoder)


def _pix2struct_scheme(layer: Any) -> Buckets:
    return _tabulate_t5(layer, False)


def _tabulate_t5(layer: Any, bidirectional: bool) -> Buckets:
    rule = _rule(layer, "_relative_position_bucket")
    sizes = (layer.relative_attention_num_buckets, layer.relative_attention_max_distance)
    settings = (bidirectional, *sizes)
    return _scheme(rule, settings, lambda distances: rule(distances, *settings))


def _umt5_scheme(layer: Any) -> Buckets:
    rule = _rule(layer, "_relative_position_bucket")
    sizes = (layer.relative_attention_num_buckets, layer.relative_attention_max_distance)
    return _scheme(rule, (layer.is_decoder, *sizes), lambda distances: rule(layer, distances))


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
        _require(all(type(length) is int for length in lengths), "lengths that are no integers")
        _require(device is None or torch.device(device).type == "cpu", f"device {device}")
        weight = _table_of(self.relative_attention_bias, self.relative_attention_num_buckets)
        bias = _bias(weight, find_scheme(self), query_length, key_length, past_seen_tokens)
        _mark_heads_last(bias)
        return bias

    return compute


def _bias(
    weight: torch.Tensor, buckets: Buckets, query_length: int, key_length: int, offset: int = 0
) -> torch.Tensor:
    """Bias of a checked weight: (1, num_heads, query_length, key_length)."""
    if needs_gradient(weight):
        lengths = (query_length, key_length)
        return compute_bias(weight, *lengths, buckets=buckets, query_offset=offset)
    return fill_bias(weight, None, buckets, query_length, key_length, offset, 0)


def _t5_attend(
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
    if (
        position_bias is key_value_states is cache is None
        and "past_key_values" not in kwargs
        and self.has_relative_attention_bias
    ):
        length = hidden_states.shape[1]
        position_bias = self.compute_bias(
            length, length, device=hidden_states.device, past_seen_tokens=0
        )
    merged = _merge(self, hidden_states, mask, position_bias, kwargs)
    if merged is not None:
        attended, _, weights = original(
            self, hidden_states, position_bias=merged, is_causal=False, **given
        )
        return attended, position_bias, weights
    if _is_copied_without_gradient(position_bias):
        attended, _, weights = original(
            self, hidden_states, mask=mask, position_bias=position_bias.detach(), **given
        )
        return attended, position_bias, weights
    return original(self, hidden_states, mask=mask, position_bias=position_bias, **given)


# ---- PyTorch's kernel of sdpa: another one as soon as the mask requires a gradient ----


def _mark_heads_last(bias: torch.Tensor) -> None:
    """Note in a bias's storage that transformers' own has its heads last in memory.

    ``sdpa`` makes a contiguous copy of that, which requires no gradient under
    ``no_grad``. This bias is contiguous already. The views that a checkpoint makes
    of it have the same storage.
    """
    _, num_heads, query_length, key_length = bias.shape
    if num_heads > 1 and (query_length, key_length) != (1, 1):  # else it is contiguous, too
        storage: Any = bias.untyped_storage()
        storage._t5bucket_heads_last = True


def _is_copied_without_gradient(bias: Any) -> bool:
    """Whether transformers' own bias would lose its requirement of a gradient in ``sdpa``."""
    return (
        bias is not None
        and bias.requires_grad
        and not torch.is_grad_enabled()
        and is_plain(bias)
        and hasattr(bias.untyped_storage(), "_t5bucket_heads_last")
    )


# ---- bias and mask, merged once ----

_create_position_bias_mask: Any = getattr(sdpa_attention, "create_position_bias_mask", None)


def _sdpa_is_known() -> bool:
    """Whether sdpa is transformers' own, and makes of bias and mask what `_merge` makes."""
    own = sdpa_attention.sdpa_attention_forward
    return ALL_ATTENTION_FUNCTIONS.get("sdpa") is own and _merging_is_known()


@cache
def _merging_is_known() -> bool:
    names = ["position_bias", "attention_mask", "is_causal", "query", "key"]
    if _create_position_bias_mask is None:
        return False
    if [*inspect.signature(_create_position_bias_mask).parameters] != names:
        return False
    bias = torch.arange(4.0, device="cpu").view(1, 1, 2, 2)
    mask = torch.tensor([True, False], device="cpu").view(1, 1, 1, 2)
    return bool(torch.equal(_merge_by_sdpa(bias, mask, False, 2), _merge_masked(bias, mask)))


def _merge_by_sdpa(bias: torch.Tensor, mask: Any, causal: bool, length: int) -> torch.Tensor:
    kind = {"device": bias.device, "dtype": bias.dtype}
    merged: torch.Tensor = _create_position_bias_mask(
        bias,
        mask,
        causal,
        query=SimpleNamespace(shape=(1, 1, length, 1), **kind),
        key=SimpleNamespace(shape=(1, 1, bias.shape[-1], 1), **kind),
    )
    return merged


def _merge_masked(bias: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Do the same for a boolean mask, into memory that is faster to write."""
    merged = allocate_tensor(torch.broadcast_shapes(bias.shape, mask.shape), bias.dtype)
    minimum = torch.tensor(torch.finfo(bias.dtype).min, dtype=bias.dtype, device=bias.device)
    return torch.where(mask, bias, minimum, out=merged)


class _Merged:
    """A merged matrix, and what it was made from; the mask may be a view of the bias itself."""

    def __init__(
        self, mask: torch.Tensor | None, made_from: tuple[Any, ...], merged: torch.Tensor
    ) -> None:
        self.mask = None if mask is None else TensorWeakRef(mask)
        self.made_from = made_from
        self.merged = merged

    def is_of(self, mask: torch.Tensor | None) -> bool:
        return (None if self.mask is None else self.mask()) is mask


_merged = WeakTensorKeyDictionary()  # of biases, which stay as they are


def _merge(
    layer: Any, hidden_states: Any, mask: Any, position_bias: Any, kwargs: dict[str, Any]
) -> torch.Tensor | None:
    """Make once what ``sdpa`` makes of bias and mask in each layer; None if it is left to it.

    It is kept as long as the bias, which the model hands from layer to layer.
    """
    if position_bias is None:
        return None
    length, key_length = hidden_states.shape[1], position_bias.shape[-1]
    causal = mask is None and length > 1 and layer.is_causal
    if mask is None and not causal and position_bias.is_contiguous():
        return None  # sdpa takes it as it is
    if "is_causal" in kwargs or layer.config._attn_implementation != "sdpa":
        return None
    if (
        not _sdpa_is_known()
        or torch.is_autocast_enabled("cpu")
        or needs_gradient(position_bias)  # checkpoints compare what is saved for it
        or (mask is not None and needs_gradient(mask))
        or not is_plain(hidden_states, mask, position_bias)
        or hidden_states.dtype != position_bias.dtype
        or (length if causal else key_length) != key_length
        or (mask is not None and mask.shape[-1] != key_length)
    ):
        return None
    made_from = (causal, _version(mask), _version(position_bias))
    kept: _Merged | None = _merged.get(position_bias)
    if kept is not None and kept.made_from == made_from and kept.is_of(mask):
        return kept.merged
    if mask is not None and mask.dtype == torch.bool:
        merged = _merge_masked(position_bias, mask)
    else:
        merged = _merge_by_sdpa(position_bias, mask, causal, length)
    _merged[position_bias] = _Merged(mask, made_from, merged)
    return merged


def _version(tensor: torch.Tensor | None) -> int | None:
    """How often a tensor was written, which inference tensors do not count."""
    return None if tensor is None or tensor.is_inference() else tensor._version


# ---- LongT5: blocks of keys, and the sums of blocks ----


def _longt5_compute_bias(original: Method, self: Any, block_length: Any) -> torch.Tensor:
    _require(type(block_length) is int, "a length that is no integer")
    weight = _table_of(self.relative_attention_bias, self.relative_attention_num_buckets)
    buckets = _t5_scheme(self)
    return _bias(weight, buckets, block_length, 3 * block_length, block_length)[None]


def _longt5_compute_side_bias(
    original: Method, self: Any, mask: Any, global_segment_ids: Any
) -> torch.Tensor:
    _require(is_plain(mask, global_segment_ids), "another device, or tracing")
    find_blocks = _function(original, "_make_global_fixed_block_ids")
    weight = _table_of(self.global_relative_attention_bias, self.relative_attention_num_buckets)
    buckets = _t5_scheme(self)
    block_ids, _ = find_blocks(mask, self.global_block_size)
    positions = torch.arange(global_segment_ids.shape[-1], device=block_ids.device)
    bias = compute_bias_at(weight, block_ids, positions, buckets=buckets)
    attended = (mask[..., None] == global_segment_ids[:, None, :])[:, None]
    return torch.where(attended, 0.0, -1e10) + bias


# ---- MPNet, WavLM ----


def _mpnet_compute_position_bias(
    original: Method, self: Any, x: Any, position_ids: Any = None, num_buckets: Any = 32
) -> torch.Tensor:
    _require(position_ids is None and is_plain(x), "given positions, another device, or tracing")
    weight = _table_of(self.relative_attention_bias, num_buckets)
    rule = _rule(self, "relative_position_bucket")
    settings = (num_buckets, rule.__defaults__[-1])
    buckets = _scheme(rule, settings, lambda distances: rule(distances, *settings))
    batch, length = x.shape[:2]
    # The copies of all examples are equal: they are one, seen `batch` times.
    return _bias(weight, buckets, length, length).expand(batch, -1, -1, -1)


def _wavlm_compute_bias(
    original: Method, self: Any, query_length: Any, key_length: Any
) -> torch.Tensor:
    _require(type(query_length) is type(key_length) is int, "lengths that are no integers")
    weight = _table_of(self.rel_attn_embed, self.num_buckets)
    rule = _rule(self, "_relative_positions_bucket")
    settings = (self.num_buckets, self.max_distance)
    buckets = _scheme(rule, settings, lambda distances: rule(self, distances))
    return _bias(weight, buckets, query_length, key_length)[0]


# ---- LayoutLMv2, LayoutLMv3: positions that are data; their tables are not trained ----


def _compute_at(
    projection: Any, positions: Any, buckets: Buckets, onto: torch.Tensor | None = None
) -> torch.Tensor:
    """Bias of a table (num_heads, num_buckets) at positions; added to another one if given."""
    _require(is_plain(positions), "positions of another device, or traced ones")
    _require(positions.dtype in INTEGERS and positions.ndim == 2, "positions of another kind")
    weight = projection.weight
    _check_weight(weight, weight.shape[1], buckets.num_buckets)
    return fill_bias_at(weight.t(), positions, positions, None, buckets, onto=onto)


def _compute_1d(layer: Any, position_ids: Any, find_scheme: Method, **onto: Any) -> torch.Tensor:
    buckets = find_scheme(layer, layer.rel_pos_bins, layer.max_rel_pos)
    return _compute_at(layer.rel_pos_bias, position_ids, buckets, **onto)


def _compute_2d(layer: Any, bbox: Any, find_scheme: Method) -> torch.Tensor:
    """Bias of the left edges plus that of the lower edges."""
    buckets = find_scheme(layer, layer.rel_2d_pos_bins, layer.max_rel_2d_pos)
    left, lower = bbox[:, :, 0], bbox[:, :, 3]
    return _compute_at(
        layer.rel_pos_y_bias, lower, buckets, onto=_compute_at(layer.rel_pos_x_bias, left, buckets)
    )


def _layoutlmv2_scheme(original: Method) -> Method:
    def find(layer: Any, num_buckets: Any, max_distance: Any) -> Buckets:
        rule = _function(original, "relative_position_bucket")
        settings = (True, num_buckets, max_distance)
        return _scheme(rule, settings, lambda distances: rule(distances, *settings))

    return find


def _layoutlmv3_scheme(layer: Any, num_buckets: Any, max_distance: Any) -> Buckets:
    rule = _rule(layer, "relative_position_bucket")
    settings = (True, num_buckets, max_distance)
    return _scheme(rule, settings, lambda distances: rule(layer, distances, *settings))


def _layoutlmv2_1d(original: Method, self: Any, position_ids: Any) -> torch.Tensor:
    return _compute_1d(self, position_ids, _layoutlmv2_scheme(original))


def _layoutlmv2_2d(original: Method, self: Any, bbox: Any) -> torch.Tensor:
    return _compute_2d(self, bbox, _layoutlmv2_scheme(original))


def _layoutlmv3_1d(original: Method, self: Any, position_ids: Any) -> torch.Tensor:
    return _compute_1d(self, position_ids, _layoutlmv3_scheme)


def _layoutlmv3_2d(original: Method, self: Any, bbox: Any) -> torch.Tensor:
    return _compute_2d(self, bbox, _layoutlmv3_scheme)


def _layoutlmv3_bias(original: Method, self: Any, position_ids: Any, bbox: Any) -> torch.Tensor:
    _require(self.has_relative_attention_bias and self.has_spatial_attention_bias, "one bias")
    page = _compute_2d(self, bbox, _layoutlmv3_scheme)
    bias = _compute_1d(self, position_ids, _layoutlmv3_scheme, onto=page)
    head_size = int(self.config.hidden_size / self.config.num_attention_heads)
    return bias.div_(math.sqrt(head_size))


def _layoutlmv3_attend(
    original: Method,
    self: Any,
    hidden_states: Any,
    attention_mask: Any = None,
    position_bias: Any = None,
    **kwargs: Any,
) -> Any:
    merged = _merge(self, hidden_states, attention_mask, position_bias, kwargs)
    if merged is None:
        return original(self, hidden_states, attention_mask, position_bias=position_bias, **kwargs)
    return original(self, hidden_states, None, position_bias=merged, **kwargs)


# ---- UDOP, ProphetNet, CPM-Ant: buckets ----


def _look_up(buckets: Buckets, relative_positions: Any) -> torch.Tensor:
    array = view_tensor(relative_positions)
    return torch.from_numpy(np.asarray(buckets(array, dtype=array.dtype)))


def _udop_scheme(original: Method, layer: Any) -> Buckets:
    rule = _function(original, "get_relative_position_bucket")
    settings = (layer.bidirectional, layer.relative_attention_num_buckets, layer.max_distance)
    return _scheme(rule, settings, lambda distances: rule(distances, *settings))


def _udop_get_bucket(
    original: Method, self: Any, attention_mask: Any = None, bbox: Any = None
) -> torch.Tensor:
    _require(is_plain(attention_mask, bbox), "another device, or tracing")
    buckets = _udop_scheme(original, self)
    return _look_up(buckets, self.prepare_input(attention_mask, bbox))


def _udop_sequence_bias(
    original: Method, self: Any, attention_mask: Any = None, bbox: Any = None
) -> torch.Tensor:
    simple = self.scaling_factor == 1 and not (self.prefix_bucket or self.augmentation)
    _require(simple and is_plain(attention_mask), "positions that are scaled, or traced")
    weight = _table_of(self.relative_attention_bias, self.relative_attention_num_buckets)
    length = attention_mask.shape[1]
    bias = _bias(weight, _udop_scheme(original, self), length, length)
    if weight.requires_grad and (self.training or torch.is_grad_enabled()):
        # The sum with other biases then has the strides that it has in transformers.
        return bias.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return bias


def _prophetnet_compute_buckets(
    original: Method, self: Any, position_ids: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    _require(is_plain(position_ids), "another device, or tracing")
    batch, length = position_ids.shape
    _require(length + 2 <= self.max_target_positions, "more positions than there are")
    rule = _function(original, "compute_relative_buckets")
    sizes = (self.num_buckets, self.relative_max_distance)
    buckets = _scheme(rule, sizes, lambda distances: rule(*sizes, distances, False))
    # The predicting stream's keys: each position's predecessor, then its successor.
    main, before, after = (
        torch.from_numpy(buckets.grid(length, length, key_offset=offset, dtype=np.int32))
        for offset in (0, -1, 1)
    )
    predicting = torch.cat([before, after], dim=1)
    return main.repeat(batch, 1, 1), predicting.repeat(batch, 1, 1)


def _cpmant_position_bucket(
    original: Method,
    self: Any,
    relative_position: Any,
    num_buckets: Any = 32,
    max_distance: Any = 128,
) -> torch.Tensor:
    _require(is_plain(relative_position), "another device, or tracing")
    settings = (num_buckets, max_distance)
    buckets = _scheme(original, settings, lambda d: original(self, d, *settings))
    return _look_up(buckets, relative_position)


# ---- which class has what ----

T5_ATTENTION = Layer({"compute_bias": _compute_bias_by(_t5_scheme)}, attend=_t5_attend)
LONGT5_LOCAL = Layer({"compute_bias": _longt5_compute_bias})
UDOP_PAGE = Layer({"get_bucket": _udop_get_bucket})

LAYERS = {
    "cpmant.CpmAntSegmentPositionEmbedding": Layer({"_position_bucket": _cpmant_position_bucket}),
    "layoutlmv2.LayoutLMv2Encoder": Layer(
        {
            "_calculate_1d_position_embeddings": _layoutlmv2_1d,
            "_calculate_2d_position_embeddings": _layoutlmv2_2d,
        }
    ),
    "layoutlmv3.LayoutLMv3Encoder": Layer(
        {
            "_cal_1d_pos_emb": _layoutlmv3_1d,
            "_cal_2d_pos_emb": _layoutlmv3_2d,
            "_compute_position_bias": _layoutlmv3_bias,
        },
        relies_on=(
            "_cal_1d_pos_emb",
            "_cal_2d_pos_emb",
            "_relative_position_lookup",
            "relative_position_bucket",
        ),
    ),
    "layoutlmv3.LayoutLMv3SelfAttention": Layer({}, attend=_layoutlmv3_attend),
    "longt5.LongT5Attention": T5_ATTENTION,
    "longt5.LongT5LocalAttention": LONGT5_LOCAL,
    "longt5.LongT5TransientGlobalAttention": Layer(
        {**LONGT5_LOCAL.biases, "compute_side_bias": _longt5_compute_side_bias}
    ),
    "mpnet.MPNetEncoder": Layer(
        {"compute_position_bias": _mpnet_compute_position_bias},
        relies_on=("relative_position_bucket",),
    ),
    "mt5.MT5Attention": T5_ATTENTION,
    "pix2struct.Pix2StructTextAttention": Layer(
        {"compute_bias": _compute_bias_by(_pix2struct_scheme)}, attend=_t5_attend
    ),
    "pop2piano.Pop2PianoAttention": T5_ATTENTION,
    "prophetnet.ProphetNetDecoder": Layer(
        {"compute_buffered_relative_buckets": _prophetnet_compute_buckets}
    ),
    "switch_transformers.SwitchTransformersAttention": T5_ATTENTION,
    "t5.T5Attention": T5_ATTENTION,
    "udop.RelativePositionBias1D": Layer(
        {"forward": _udop_sequence_bias},
        relies_on=("prepare_input", "get_relative_position", "get_bucket"),
    ),
    "udop.RelativePositionBiasHorizontal": UDOP_PAGE,
    "udop.RelativePositionBiasVertical": UDOP_PAGE,
    "udop.UdopAttention": T5_ATTENTION,
    "umt5.UMT5Attention": Layer(
        {"compute_bias": _compute_bias_by(_umt5_scheme)}, relies_on=("_relative_position_bucket",)
    ),
    "wavlm.WavLMAttention": Layer(
        {"compute_bias": _wavlm_compute_bias}, relies_on=("_relative_positions_bucket",)
    ),
}
