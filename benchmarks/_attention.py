# _attention.py - prepare attention with a bias, by t5bucket and by its peers.
# SPDX-License-Identifier: BSD-3-Clause
"""Each implementation prepares a call. PyTorch uses two threads if there are two processors."""

from __future__ import annotations

from typing import Any, NamedTuple

import t5bucket as tb
from benchmarks import _methods
from benchmarks._peers import import_torch, t5_attention
from t5bucket._machine import available_cpus
from t5bucket.cli._measure import Call
from t5bucket.cli.bench import MAX_DISTANCE, NUM_BUCKETS

NUM_THREADS = min(2, available_cpus())
NUM_HEADS, HEAD_SIZE = 8, 64  # of t5-small
BUCKETS = tb.Buckets(NUM_BUCKETS, MAX_DISTANCE)
DOCUMENTS = 8  # of equal length, packed into one row
CASES = [
    "no mask", "causal", "padding", "padding, exact=False", "documents, exact=False", "full mask",
    "training",
]  # fmt: skip


class Inputs(NamedTuple):
    """The inputs of attention."""

    tensors: tuple[Any, Any, Any]  # query, key, value
    weight: Any
    mask: Any
    segment_ids: Any  # instead of the mask, where they can be given
    is_causal: bool
    exact: bool


def attention(implementation: str, case: str, length: int, batch: int = 1) -> Call:
    """Attend, with 8 heads of 64 features; *training* is a forward and a backward pass."""
    torch = import_torch(NUM_THREADS)
    training = case == "training"
    attend = IMPLEMENTATIONS[implementation](make_inputs(case, length, batch), training)
    if not training:
        return attend
    gradient = torch.ones(batch, NUM_HEADS, length, HEAD_SIZE)
    return lambda: attend().backward(gradient)


def make_inputs(case: str, length: int, batch: int) -> Inputs:
    """Make tensors in the layout of models: in memory, heads come after positions."""
    torch = import_torch(NUM_THREADS)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Any:
        drawn = torch.randn(*shape, generator=generator)
        return drawn.requires_grad_(case == "training")

    tensors = [draw(batch, length, NUM_HEADS, HEAD_SIZE).transpose(1, 2) for _ in range(3)]
    mask = segment_ids = None
    if case.startswith("padding"):
        mask = make_padding(length, batch)
    if case.startswith("documents"):
        segment_ids = torch.arange(length) * DOCUMENTS // length
        mask = segment_ids[:, None] == segment_ids
    if case == "full mask":
        mask = torch.rand(batch, 1, length, length, generator=generator) < 0.9
    return Inputs(
        tensors=(tensors[0], tensors[1], tensors[2]),
        weight=draw(NUM_BUCKETS, NUM_HEADS),
        mask=mask,
        segment_ids=segment_ids,
        is_causal=case == "causal",
        exact="exact=False" not in case,
    )


def make_padding(length: int, batch: int) -> Any:
    """Make a padding mask; on average, a quarter of each sequence is padding."""
    torch = import_torch(NUM_THREADS)
    ends = torch.linspace(length, length / 2, batch) if batch > 1 else torch.tensor([0.75 * length])
    return (torch.arange(length) < ends.long()[:, None])[:, None, None]


# ---- implementations ----


def attend_by_t5bucket(inputs: Inputs, training: bool) -> Call:
    """Attend without the matrix."""
    from t5bucket.torch import scaled_dot_product_attention

    options = {"is_causal": inputs.is_causal, "exact": inputs.exact}
    if inputs.segment_ids is not None:
        options["segment_ids"] = inputs.segment_ids
    else:
        options["attn_mask"] = inputs.mask
    return lambda: scaled_dot_product_attention(
        *inputs.tensors, inputs.weight, buckets=BUCKETS, **options
    )


def attend_by_ready_matrix(inputs: Inputs, training: bool) -> Call:
    """Attend with a matrix that was made in advance; in training each call makes its own."""
    from t5bucket.torch import compute_bias

    torch = import_torch(NUM_THREADS)
    length = inputs.tensors[0].shape[-2]
    options = {"buckets": BUCKETS, "mask": inputs.mask, "causal": inputs.is_causal}

    def make_matrix() -> Any:
        return compute_bias(inputs.weight, length, length, **options)

    ready = None if training else make_matrix()
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        *inputs.tensors, attn_mask=make_matrix() if training else ready
    )


def attend_by_no_bias(inputs: Inputs, training: bool) -> Call:
    """Attend with the mask, without a bias."""
    torch = import_torch(NUM_THREADS)
    return lambda: torch.nn.functional.scaled_dot_product_attention(
        *inputs.tensors, attn_mask=inputs.mask, is_causal=inputs.is_causal
    )


def attend_by_transformers(inputs: Inputs, training: bool) -> Call:
    """Compute the bias and merge it with the mask as transformers does, then attend."""
    torch = import_torch(NUM_THREADS)
    layer = t5_attention(inputs.weight.detach().numpy())
    import_torch(NUM_THREADS)  # t5_attention has set one thread
    layer.relative_attention_bias.weight.requires_grad_(training)
    try:
        from transformers.integrations.sdpa_attention import create_position_bias_mask
    except ImportError as error:
        raise NotImplementedError("transformers 5.24 is the first that merges so") from error
    query, key, value = inputs.tensors
    length = query.shape[-2]

    def attend() -> Any:
        bias = layer.compute_bias(length, length)
        merged = create_position_bias_mask(bias, inputs.mask, inputs.is_causal, query, key)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=merged)

    return attend


def attend_by_flex_attention(inputs: Inputs, training: bool) -> Call:
    """Attend with compiled FlexAttention, which looks up the bias by diagonal."""
    torch = import_torch(NUM_THREADS)
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    if training:
        raise NotImplementedError("FlexAttention has no backward on a CPU")
    batch, _, length, _ = inputs.tensors[0].shape
    bias = tb.RelativeAttentionBias(inputs.weight, BUCKETS)
    view = bias.view(1, 2 * length - 1, key_offset=1 - length)
    diagonals = torch.from_numpy(view[:, 0].copy())
    mask = inputs.mask

    def add_bias(score: Any, b: Any, head: Any, i: Any, j: Any) -> Any:
        return score + diagonals[head, j - i + length - 1]

    def is_shown(b: Any, head: Any, i: Any, j: Any) -> Any:
        return i >= j if mask is None else mask[b, 0, i % mask.shape[-2], j]

    block_mask = None
    if inputs.is_causal or mask is not None:
        block_mask = create_block_mask(is_shown, batch, None, length, length, device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend() -> Any:
        return compiled(*inputs.tensors, score_mod=add_bias, block_mask=block_mask)

    try:
        attend()
    except RuntimeError as error:  # no C++ compiler, or an unsupported processor
        raise NotImplementedError(f"FlexAttention: {str(error).splitlines()[0]}") from error
    return attend


IMPLEMENTATIONS = {
    "t5bucket": attend_by_t5bucket,
    "ready matrix": attend_by_ready_matrix,
    "no bias": attend_by_no_bias,
    "transformers": attend_by_transformers,
    "flex attention": attend_by_flex_attention,
}


def measure_growth(implementation: str, case: str, length: int) -> float:
    """Measure by how many bytes a call increases the peak memory of a process."""
    import_torch(NUM_THREADS)
    small = (implementation, case, _methods.SMALL_LENGTH)
    return _methods.measure_growth(attention, (implementation, case, length), small)
