# test_onnx.py - biases as graphs of ONNX, in ONNX Runtime; what cannot be exported.
# SPDX-License-Identifier: BSD-3-Clause
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
from onnx_runtime import Function, export, is_standard, start  # noqa: E402

import t5bucket as tb  # noqa: E402
from t5bucket.torch import compute_bias, compute_bias_at, onnx_translations  # noqa: E402

BUCKETS = tb.Buckets(32, 128)
NUM_HEADS, Q, K = 3, 20, 30
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SOME_DTYPES = [*DTYPES[:2], *(pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES[2:])]
SCHEMES = [
    BUCKETS,
    tb.Buckets(8, 9, False),
    tb.Buckets.from_function(lambda d: abs(d) % 3, max_distance=10, num_buckets=4),
    tb.Buckets.from_function(lambda d: 1 * (d > 50), max_distance=60, num_buckets=2),
    tb.Buckets.from_function(lambda d: 1 * (d > -50), max_distance=60, num_buckets=2),
    tb.Buckets.from_function(lambda d: 0 * d + 1, max_distance=3, num_buckets=2),
]

pytestmark = pytest.mark.filterwarnings("ignore")  # of PyTorch's exporter, about its own parts


def weight_of(buckets: tb.Buckets = BUCKETS, dtype: Any = torch.float32) -> Any:
    return torch.randn(buckets.num_buckets, NUM_HEADS).to(dtype)


def make_masks(dtype: Any) -> list[Any]:
    shapes = [(2, 1, 1, K), (Q, K), (5, NUM_HEADS, Q, K)]
    noise = [torch.randn(shape) for shape in shapes]
    return [*(items > 0 for items in noise), *(items.to(dtype) for items in noise)]


def assert_equal_bits(found: Any, expected: Any) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert found.numpy().tobytes() == expected.contiguous().numpy().tobytes()


# ---- biases ----


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
def test_biases_have_the_same_bits_with_every_mask(dtype: Any) -> None:
    masks = make_masks(dtype)

    def compute(weight: Any, *given: Any) -> Any:
        options = [(causal, scale) for causal in (False, True) for scale in (None, 0.3)]
        return [
            compute_bias(
                weight, Q, K, buckets=BUCKETS, query_offset=4, mask=mask, causal=causal, scale=scale
            ).to(wide)
            for mask in (None, *given)
            for causal, scale in options
        ]

    # NumPy has no bfloat16: it goes in and out as float32, which changes no bit.
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    given = [mask if mask.dtype == torch.bool else mask.to(wide) for mask in masks]
    module = Function(
        lambda weight, *given: compute(
            weight, *(mask if mask.dtype == torch.bool else mask.to(dtype) for mask in given)
        ),
        weight_of(dtype=dtype),
    )
    program = export(module, tuple(given))
    assert is_standard(program)
    found, expected = start(program)(*given), module(*given)
    assert len(found) == 28
    for one, other in zip(found, expected, strict=True):
        assert_equal_bits(one, other)


def test_a_mask_of_another_dtype_is_rounded_to_the_weights() -> None:
    def compute(half: Any, single: Any, mask: Any) -> Any:
        masks = [mask.to(dtype) for dtype in DTYPES]
        weights = [weight for weight in (half, single) for _ in masks]
        return [
            compute_bias(weight, Q, K, buckets=BUCKETS, mask=mask)
            for weight, mask in zip(weights, masks * 2, strict=True)
        ]

    module = Function(compute, weight_of(dtype=torch.float16), weight_of())
    mask = torch.randn(2, 1, Q, K).double()
    for found, expected in zip(start(export(module, (mask,)))(mask), module(mask), strict=True):
        assert_equal_bits(found, expected)


def test_lengths_and_offsets_may_be_known_at_run_time_alone() -> None:
    def compute(*tensors: Any) -> Any:
        *weights, new, past = tensors
        lengths = (new.shape[0], past.shape[0] + new.shape[0])
        options: dict[str, Any] = {"query_offset": past.shape[0], "causal": True}
        far: dict[str, Any] = {"query_offset": 2**63 - 1, "key_offset": -(2**63)}
        return [
            *(
                compute_bias(weight, *lengths, buckets=buckets, key_offset=5)
                for weight, buckets in zip(weights, SCHEMES, strict=True)
            ),
            compute_bias(weights[0], *lengths, buckets=BUCKETS, **options),
            compute_bias(weights[0], *lengths, buckets=BUCKETS, **far),
        ]

    module = Function(compute, *map(weight_of, SCHEMES))
    given = (torch.zeros(7), torch.zeros(9))
    program = export(module, given, dynamic_shapes=(({0: "new"}, {0: "past"}),))
    assert is_standard(program)
    run = start(program)
    for new, past in ((7, 9), (1, 300), (300, 100), (200, 0), (0, 5), (0, 0)):
        given = (torch.zeros(new), torch.zeros(past))
        for found, expected in zip(run(*given), module(*given), strict=True):
            assert_equal_bits(found, expected)


def test_a_bucket_is_found_for_each_diagonal_not_for_each_pair() -> None:
    module = Function(
        lambda weight, x: compute_bias(weight, x.shape[0], x.shape[0], buckets=BUCKETS), weight_of()
    )
    program = export(module, (torch.zeros(70),), dynamic_shapes=(({0: "n"},),))
    (clip,) = [node for node in program.model.graph if node.op_type == "Clip"]
    assert len(clip.outputs[0].shape) == 1
    rows = [value.shape for value in program.model.graph.initializers.values()]
    assert [183, NUM_HEADS] in rows  # from -91 to 91, where the last buckets begin


EXTREMES = [-(2**63), 2**63 - 1, 2**63 - 5, 7 - 2**63, 2**62, -(2**62), -100, -1, 0, 1, 2, 100]


def test_explicit_positions_have_the_same_bits_however_far_apart() -> None:
    def compute(*tensors: Any) -> Any:
        *weights, far, small, added, boolean = tensors
        one_sequence = [
            compute_bias_at(weight, far, buckets=buckets)
            for weight, buckets in zip(weights, SCHEMES, strict=True)
        ]
        options: dict[str, Any] = {"buckets": BUCKETS, "causal": True, "scale": 0.3}
        return [
            *one_sequence,
            *(compute_bias_at(weights[0], small, far, mask=m, **options) for m in (added, boolean)),
            compute_bias_at(weights[0], far, small, **options),
        ]

    module = Function(compute, *map(weight_of, SCHEMES))
    far, small = torch.tensor(EXTREMES), torch.randint(-100, 100, (2, 5), dtype=torch.int8)
    added = torch.randn(5, 12)
    given = (far, small, added, added > 0)
    shapes = (({0: "far"}, {0: "batch"}, {1: "far"}, {1: "far"}),)
    program = export(module, given, dynamic_shapes=shapes)
    assert is_standard(program)
    fewer = (far[3:], small[:1], added[:, 3:], added[:, 3:] > 0)
    run = start(program)
    for inputs in (given, fewer):
        for found, expected in zip(run(*inputs), module(*inputs), strict=True):
            assert_equal_bits(found, expected)


def test_offsets_known_at_run_time_alone_have_the_same_bits_however_far_apart() -> None:
    def compute(weight: Any, query: Any, key: Any) -> Any:
        offsets = {"query_offset": query.item(), "key_offset": key.item()}
        return [
            compute_bias(weight, 5, 7, buckets=BUCKETS, causal=causal, **{**offsets, **fixed})
            for causal, fixed in (
                (False, {}),
                (True, {"key_offset": 3}),
                (False, {"query_offset": -(2**63)}),
            )
        ]

    module = Function(compute, weight_of())
    run = start(export(module, (torch.tensor(4), torch.tensor(3))))
    ends = [torch.tensor(offset) for offset in EXTREMES]
    for given in itertools.product(ends, ends):
        for found, expected in zip(run(*given), module(*given), strict=True):
            assert_equal_bits(found, expected)


# ---- bad input ----


def refused(compute: Callable[..., Any], *inputs: Any) -> str:
    """Return the message with which a module is refused."""
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        export(Function(compute, weight_of()), inputs or (torch.zeros(1),))
    return str(caught.value)


def test_buckets_of_too_many_relative_positions_are_refused() -> None:
    far = tb.Buckets(32, 2**40)
    message = refused(lambda weight, x: compute_bias(weight, 5, 5, buckets=far))
    assert "buckets must not change beyond a range of 1048576 relative positions" in message


def test_a_mask_that_does_not_broadcast_is_refused() -> None:
    message = refused(
        lambda weight, mask: compute_bias(weight, 5, 6, buckets=BUCKETS, mask=mask),
        torch.zeros(2, 1, 5, 5),
    )
    assert "mask must broadcast to (..., 3, 5, 6), got shape (2, 1, 5, 5)" in message


def test_operators_that_compute_gradients_are_refused() -> None:
    operators, scheme = torch.ops.t5bucket, [32, 128, 1]
    expected = "a gradient of t5bucket's operators cannot be exported to ONNX"
    message = refused(
        lambda weight, gradient: operators.bias_gradient(gradient, None, scheme, 0, 0, False, None),
        torch.zeros(1, NUM_HEADS, 5, 5),
    )
    assert expected in message
    translate = onnx_translations()[operators.bias.default]
    with pytest.raises(NotImplementedError, match=expected):  # the linear part of a bias
        translate(None, None, scheme, 5, 5, 0, 0, False, None, True)


def test_the_table_names_every_operator() -> None:
    names = {name.name() for name in onnx_translations()}
    kinds = ("attention", "bias", "bias_at")
    assert names == {f"t5bucket::{kind}{end}" for kind in kinds for end in ("", "_gradient")}
    assert onnx_translations() is not onnx_translations()


def test_without_onnx_script_the_extra_is_named() -> None:
    script = """
import sys
sys.modules["onnxscript"] = None
import t5bucket.torch
try:
    t5bucket.torch.onnx_translations()
except ImportError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "pip install 't5bucket[onnx]'" in printed
