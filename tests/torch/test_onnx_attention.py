# test_onnx_attention.py - attention exported to ONNX and run in ONNX Runtime.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from onnx_runtime import Function, count_operators, export, is_standard, start  # noqa: E402

import t5bucket as tb  # noqa: E402
from t5bucket.torch import scaled_dot_product_attention  # noqa: E402

BUCKETS = tb.Buckets(32, 128)
NUM_HEADS, Q, K = 3, 20, 30
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SOME_DTYPES = [*DTYPES[:2], *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[2:])]

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about its own parts


def inputs_of(q: int = Q, k: int = K, size: int = 8, batch: int = 2) -> tuple[Any, ...]:
    return tuple(torch.randn(batch, NUM_HEADS, length, size) for length in (q, k, k))


def attend_in_every_way(weight: Any, *tensors: Any) -> list[Any]:
    """Attend with masks, segments, positions, and inputs of few axes."""
    query, key, value, padding, added, empty, positions, segments = tensors
    segments = {"segment_ids": segments, "key_segment_ids": segments[:1].expand(1, Q)}
    ways: list[dict[str, Any]] = [
        {},
        {"is_causal": True, "query_offset": 3, "scale": 1.0},
        {"attn_mask": padding},
        {"attn_mask": padding, "is_causal": True},
        {"attn_mask": added},
        {"attn_mask": added, "is_causal": True, "key_offset": 3},
        {"attn_mask": empty},
        {"attn_mask": empty, "is_causal": True},
        {"query_positions": positions, "is_causal": True},
        {**segments, "is_causal": True},
        {**segments, "attn_mask": added},
    ]
    results = [
        scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS, **way)
        for way in ways
    ]
    few = (query[0], key[0], value[0])
    return [
        *results,
        scaled_dot_product_attention(*few, weight, buckets=BUCKETS),
        scaled_dot_product_attention(query, *few[1:], weight, buckets=BUCKETS),
        scaled_dot_product_attention(few[0], key[:1], value, weight, buckets=BUCKETS),
    ]


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
def test_attention_is_equal_up_to_rounding(dtype: Any) -> None:
    empty = torch.where(torch.rand(2, NUM_HEADS, Q, Q) > 0.95, 0, -torch.inf)  # many rows
    padding = torch.rand(2, 1, 1, Q) > 0.4
    padding[1] = False
    given = (
        *inputs_of(Q, Q),
        padding,
        torch.randn(2, 1, Q, Q),
        empty,
        torch.randint(0, 99, (2, Q)),
        torch.randint(0, 3, (2, Q)),
    )
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def attend(weight: Any, *tensors: Any) -> list[Any]:
        cast = [item.to(dtype) if item.is_floating_point() else item for item in tensors]
        return [result.to(wide) for result in attend_in_every_way(weight, *cast)]

    module = Function(attend, torch.randn(32, NUM_HEADS).to(dtype))
    program = export(module, given)
    assert is_standard(program)
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3, torch.float32: 3e-6}.get(dtype, 1e-12)
    found = start(program)(*given)
    assert len(found) == 14
    for one, other in zip(found, module(*given), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("opset_version", [24, pytest.param(18, marks=pytest.mark.slow)])
def test_attention_of_any_length_and_head_size(opset_version: int) -> None:
    def attend(weight: Any, query: Any, key: Any, value: Any) -> Any:
        return scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS)

    module = Function(attend, torch.randn(32, NUM_HEADS))
    of_query, of_key = ({0: "batch", 2: length, 3: "size"} for length in ("q", "k"))
    shapes = ((of_query, of_key, of_key),)
    options: dict[str, Any] = {"dynamic_shapes": shapes, "opset_version": opset_version}
    program = export(module, inputs_of(), **options)
    run = start(program)
    assert program.model.opset_imports[""] == opset_version
    for q, k, size in ((Q, K, 8), (1, 1, 4), (150, 170, 8), (5, 0, 8), (0, 5, 8)):
        given = inputs_of(q, k, size)
        (found,) = run(*given)
        torch.testing.assert_close(found, module(*given), rtol=3e-6, atol=3e-6)


class Layer(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.embedding = embedding
        self.project = torch.nn.Linear(8 * NUM_HEADS, 8 * NUM_HEADS)

    def forward(self, hidden_states: Any, padding: Any) -> Any:
        heads = self.project(hidden_states).unflatten(-1, (NUM_HEADS, 8)).transpose(1, 2)
        weight = self.embedding.weight
        attended = scaled_dot_product_attention(
            heads, heads, heads, weight, buckets=BUCKETS, attn_mask=padding
        )
        return hidden_states + attended.transpose(1, 2).flatten(2)


class Encoder(torch.nn.Module):  # type: ignore[misc]
    """Layers that share a weight; one is in a branch, which is a separate graph."""

    def __init__(self) -> None:
        super().__init__()
        embedding = torch.nn.Embedding(32, NUM_HEADS)
        self.layers = torch.nn.ModuleList(Layer(embedding) for _ in range(4))

    def forward(self, states: Any, padding: Any) -> Any:
        padding = padding[:, None, None, :]
        for layer in self.layers[:3]:
            states = layer(states, padding)
        return torch.cond(
            states.sum() > 0, lambda x: self.layers[3](x, padding), lambda x: x - 1, (states,)
        )


def test_layers_that_share_a_weight_share_one_bias() -> None:
    def make(batch: int, length: int, sign: int) -> tuple[Any, Any]:
        states = torch.randn(batch, length, 8 * NUM_HEADS) + sign
        return states, torch.rand(batch, length) > 0.3

    module = Encoder()
    axes = {0: "batch", 1: "length"}
    program = export(module, make(2, 20, 1), dynamic_shapes=(axes, axes))
    assert count_operators(program, "Softmax") == 3
    assert count_operators(program, "Clip") == 1
    run = start(program)
    for sign in (1, -1):
        given = make(3, 50, sign)
        torch.testing.assert_close(run(*given)[0], module(*given), rtol=1e-5, atol=1e-5)


def test_a_query_whose_biases_are_all_infinite_gets_zeros() -> None:
    def attend(weight: Any, query: Any, key: Any, value: Any) -> Any:
        return scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS)

    weight = torch.randn(32, NUM_HEADS)
    weight[:16] = -torch.inf  # keys that do not come after the query
    module, given = Function(attend, weight), inputs_of(3, 3)
    (found,) = start(export(module, given))(*given)
    assert not found[:, :, 2].any()
    torch.testing.assert_close(found, module(*given), rtol=3e-6, atol=3e-6)
