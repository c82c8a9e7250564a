# test_attention_in_training.py - gradients of attention without the matrix.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from torch.utils.checkpoint import checkpoint  # noqa: E402

from t5bucket.torch import (  # noqa: E402
    _attend,
    _attention_gradient,
    _kernels,
    _strips,
    compute_bias,
    compute_bias_at,
    scaled_dot_product_attention,
)

by_pytorch: Any = torch.nn.functional.scaled_dot_product_attention
BUCKETS = tb.Buckets()
Q, K, NUM_HEADS, SIZE = 70, 90, 5, 8


@pytest.fixture(autouse=True)
def everything_goes_by_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small matrices as large ones, and divide them into strips of two and three heads."""
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)
    for module in (_attend, _kernels):  # no rows are computed apart from the others
        monkeypatch.setattr(module, "LEAST_QUERIES", Q + 1)
    monkeypatch.setattr(_strips, "ROWS", 16)
    monkeypatch.setattr(_strips, "LEAST_ROWS", 8)
    monkeypatch.setattr(_strips, "MAX_NBYTES", 16 * K * 4)
    monkeypatch.setattr(_attention_gradient, "STRIP_NBYTES", 16 * K * 4)


def make_inputs(dtype: Any = torch.float64, q: int = Q, k: int = K) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)

    def make(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    query, key, value = (make(3, n, NUM_HEADS, SIZE).transpose(1, 2) for n in (q, k, k))
    inputs = (query, key, value, make(32, NUM_HEADS))
    return tuple(tensor.detach().requires_grad_() for tensor in inputs)


RANDOM = torch.Generator().manual_seed(1)
PADDING = (torch.arange(K) < torch.tensor([[K], [40], [0]]))[:, None, None]
PAIRS = torch.rand(3, 1, Q, K, generator=RANDOM) < 0.5
ADDED = torch.randn(3, NUM_HEADS, Q, K, generator=RANDOM, dtype=torch.float64)
POSITIONS = {
    "query_positions": torch.randint(0, 200, (3, Q), generator=RANDOM),
    "key_positions": torch.randint(0, 200, (1, K), generator=RANDOM),
}
SEGMENTS = {
    "segment_ids": torch.arange(Q).div(25, rounding_mode="floor"),
    "key_segment_ids": torch.arange(K).div(25, rounding_mode="floor")[None],
}
IS_SAME = SEGMENTS["segment_ids"][:, None] == SEGMENTS["key_segment_ids"][..., None, :]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # ours, and those of the bias
    "no mask": ({}, {}),
    "causal": ({"is_causal": True, "query_offset": 9}, {"causal": True, "query_offset": 9}),
    "padding": ({"attn_mask": PADDING}, {"mask": PADDING}),
    "causal padding": (
        {"attn_mask": PADDING, "is_causal": True},
        {"mask": PADDING, "causal": True},
    ),
    "pairs": ({"attn_mask": PAIRS}, {"mask": PAIRS}),
    "added": ({"attn_mask": ADDED}, {"mask": ADDED}),
    "infinity": (
        {"attn_mask": torch.zeros(3, 1, 1, K).masked_fill_(~PADDING, -torch.inf)},
        {"mask": torch.zeros(3, 1, 1, K).masked_fill_(~PADDING, -torch.inf)},
    ),
    "segments": (SEGMENTS, {"mask": IS_SAME}),
    "explicit positions": (POSITIONS, POSITIONS),
}


def compute(case: str, weight: Any) -> Any:
    options = CASES[case][1]
    if "query_positions" in options:
        return compute_bias_at(weight, **options, buckets=BUCKETS)
    return compute_bias(weight, Q, K, buckets=BUCKETS, **options)


def ours(case: str, *inputs: Any, **options: Any) -> Any:
    query, key, value, weight = inputs
    named = {**CASES[case][0], **options}
    return scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS, **named)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [None, 1.0, 0.5])
def test_gradients_are_those_of_the_matrix(case: str, scale: float | None) -> None:
    inputs = make_inputs()
    query, key, value, weight = inputs
    expected = by_pytorch(query, key, value, attn_mask=compute(case, weight), scale=scale)
    found = ours(case, *inputs, scale=scale)
    torch.testing.assert_close(found, expected)
    gradient = torch.randn(found.shape, dtype=torch.float64)
    for ours_of_one, theirs in zip(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(ours_of_one, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_of_small_dtypes_are_close(dtype: Any) -> None:
    found, exact = make_inputs(dtype), make_inputs(dtype)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in exact)
    ours("causal", *found).sum().backward()
    ours("causal", *exact).sum().backward()
    for one, other in zip(found, exact, strict=True):
        assert one.grad.dtype == dtype
        largest = other.grad.abs().max()
        error = (one.grad.double() - other.grad).abs().max()
        assert error <= 16 * torch.finfo(dtype).eps * largest


LARGE = 300 + 50 * torch.rand(3, 1, Q, K, generator=RANDOM)
ROWS = torch.rand(3, 1, Q, 1, generator=RANDOM) < 0.7  # the others see no key


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mask", [LARGE, torch.where(ROWS, 0.0, -1e9), ROWS.expand(-1, -1, -1, K)])
def test_gradients_of_small_dtypes_are_those_of_the_rounded_bias(mask: Any, dtype: Any) -> None:
    query, key, value, weight = inputs = make_inputs(dtype)
    bias = compute_bias(weight, Q, K, buckets=BUCKETS, mask=mask)
    expected = by_pytorch(query, key, value, attn_mask=bias)
    found = scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS, attn_mask=mask)
    gradient = torch.randn(found.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    for one, other in zip(
        torch.autograd.grad(found, inputs, gradient),
        torch.autograd.grad(expected, inputs, gradient),
        strict=True,
    ):
        error = (one - other).abs().max()
        assert error <= max(1e-4, 4 * torch.finfo(dtype).eps) * other.abs().max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "heads after rows"])
def test_outputs_in_training_have_the_bits_of_the_matrix_for_odd_lengths(
    layout: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)
    for q, k in ((513, 1025), (391, 77)):
        query, key, value, weight = make_inputs(dtype, q, k)
        if layout == "contiguous":
            query, key, value = (tensor.contiguous() for tensor in (query, key, value))
        bias = compute_bias(weight, q, k, buckets=BUCKETS)
        found = scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS)
        assert torch.equal(found, by_pytorch(query, key, value, attn_mask=bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_outputs_in_training_have_the_bits_of_the_matrix(
    case: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)
    inputs = make_inputs(dtype)
    expected = by_pytorch(*inputs[:3], attn_mask=compute(case, inputs[3]))
    assert torch.equal(ours(case, *inputs), expected)


@pytest.mark.parametrize("case", ["padding", "pairs", "segments"])
def test_outputs_in_training_have_the_bits_of_the_matrix_by_strips_of_some_heads(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)
    monkeypatch.setattr(_strips, "MAX_NBYTES", 2 * Q * K * 4)
    inputs = make_inputs(torch.float32)
    expected = by_pytorch(*inputs[:3], attn_mask=compute(case, inputs[3]))
    assert torch.equal(ours(case, *inputs), expected)


@pytest.mark.parametrize("case", ["no mask", "causal", "causal padding", "segments"])
def test_derivatives_are_those_of_finite_differences(case: str) -> None:
    inputs = make_inputs()
    assert torch.autograd.gradcheck(lambda *tensors: ours(case, *tensors), inputs, fast_mode=True)


@pytest.mark.parametrize("case", CASES)
def test_second_derivatives_are_those_of_finite_differences(case: str) -> None:
    inputs = make_inputs()
    assert torch.autograd.gradgradcheck(
        lambda *tensors: ours(case, *tensors), inputs, fast_mode=True, atol=1e-4
    )


@pytest.mark.parametrize("twice", [False, True])
def test_inputs_can_be_computed_from_each_other(twice: bool) -> None:
    query, _, _, weight = make_inputs(k=Q)
    key = query * 2 + 1
    value = key.sin()
    bias = compute_bias(weight, Q, Q, buckets=BUCKETS)
    expected = by_pytorch(query, key, value, attn_mask=bias)
    found = scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS)
    torch.testing.assert_close(
        torch.autograd.grad(found.square().sum(), query, create_graph=twice, retain_graph=True),
        torch.autograd.grad(expected.square().sum(), query),
    )


def test_second_derivatives_do_not_need_a_trained_weight() -> None:
    *inputs, weight = make_inputs()
    frozen = weight.detach()
    assert torch.autograd.gradgradcheck(
        lambda *tensors: ours("no mask", *tensors, frozen), inputs, fast_mode=True, atol=1e-4
    )


@pytest.mark.parametrize("frozen", [(3,), (0, 1, 2), (0, 3), (1, 2)])
@pytest.mark.parametrize("twice", [False, True])
def test_some_inputs_can_be_frozen(frozen: tuple[int, ...], twice: bool) -> None:
    inputs = [tensor.detach() for tensor in make_inputs()]
    trained = [tensor for i, tensor in enumerate(inputs) if i not in frozen]
    for tensor in trained:
        tensor.requires_grad_()
    query, key, value, weight = inputs
    found = ours("no mask", *inputs)
    expected = by_pytorch(query, key, value, attn_mask=compute("no mask", weight))
    for one, other in zip(
        torch.autograd.grad(found.sum(), trained, create_graph=twice),
        torch.autograd.grad(expected.sum(), trained),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_keys_of_all_examples_get_the_sum_of_their_gradients() -> None:
    query, key, value, weight = make_inputs()
    key, value = (tensor[:1].detach().requires_grad_() for tensor in (key, value))
    expected = by_pytorch(query, key, value, attn_mask=compute("pairs", weight))
    found = ours("pairs", query, key, value, weight)
    for tensor in (query, key, value, weight):
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), tensor, retain_graph=True),
            torch.autograd.grad(expected.sum(), tensor, retain_graph=True),
        )


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoints_give_the_same_gradients(use_reentrant: bool) -> None:
    inputs = make_inputs(torch.float32)

    def attend(*tensors: Any) -> Any:
        return ours("padding", *tensors).sin()

    expected = torch.autograd.grad(attend(*inputs).sum(), inputs)
    output = checkpoint(attend, *inputs, use_reentrant=use_reentrant)
    output.sum().backward()
    for tensor, gradient in zip(inputs, expected, strict=True):
        assert torch.equal(tensor.grad, gradient)


def test_dropout_equals_pytorchs() -> None:
    inputs = make_inputs(torch.float32)
    torch.manual_seed(3)
    expected = by_pytorch(*inputs[:3], attn_mask=compute("padding", inputs[3]), dropout_p=0.4)
    torch.manual_seed(3)
    found = ours("padding", *inputs, dropout_p=0.4)
    assert torch.equal(found, expected)
    found.sum().backward()
    assert inputs[3].grad.isfinite().all()


def test_autocast_gives_the_same_as_with_the_matrix() -> None:
    inputs = make_inputs(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = by_pytorch(*inputs[:3], attn_mask=compute("padding", inputs[3]))
        assert torch.equal(ours("padding", *inputs), expected)


def test_inputs_that_change_before_the_backward_pass_are_an_error() -> None:
    inputs = make_inputs(torch.float32)
    query = inputs[0] * 1
    output = ours("no mask", query, *inputs[1:])
    query.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize(("q", "k"), [(0, 5), (5, 0)])
def test_no_length_is_special(q: int, k: int) -> None:
    inputs = make_inputs(q=q, k=k)
    query, key, value, weight = inputs
    scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS).sum().backward()
    assert all(not tensor.grad.any() for tensor in inputs)


@pytest.mark.parametrize(("batch", "size"), [(0, SIZE), (2, 0)])
def test_no_batch_and_no_head_size_is_special(batch: int, size: int) -> None:
    query, key = (torch.randn(batch, 2, n, size, requires_grad=True) for n in (Q, K))
    value = torch.randn(batch, 2, K, SIZE, requires_grad=True)
    weight = torch.randn(32, 2, requires_grad=True)
    for mask in (None, torch.ones(batch, 1, 1, K, dtype=torch.bool)):
        bias = compute_bias(weight, Q, K, buckets=BUCKETS)
        expected = by_pytorch(query, key, value, attn_mask=bias)
        found = scaled_dot_product_attention(
            query, key, value, weight, buckets=BUCKETS, attn_mask=mask
        )
        assert torch.equal(found, expected)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), (query, key, value, weight)),
            torch.autograd.grad(
                expected.sum(), (query, key, value, weight), materialize_grads=True
            ),
        )
