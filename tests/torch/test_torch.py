# test_torch.py - the PyTorch operators: values, gradients, compiling, bad input.
# SPDX-License-Identifier: BSD-3-Clause
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from t5bucket._buckets import encode_scheme  # noqa: E402
from t5bucket.torch import compute_bias, compute_bias_at  # noqa: E402
from t5bucket.torch._tensors import _make_bias  # noqa: E402

BUCKETS = tb.Buckets(32, 128)
TABULATED = tb.Buckets.from_function(lambda d: abs(d) % 3, max_distance=10, num_buckets=4)
SCHEMES = {  # and what each is by the reference
    BUCKETS: reference.t5(),
    TABULATED: reference.Scheme(4, 10, lambda d: abs(d) % 3),
    tb.Buckets(8, 9, False): reference.t5(8, 9, False),
}
DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def as_tensor(array: Any) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def bits(tensor: Any) -> Any:
    return tensor.detach().contiguous().view(torch.uint8).numpy()


def masks(name: str | None) -> tuple[Any, tuple[int, ...]]:
    """Return a mask of a 4 x 6 matrix of 3 heads, and the batch that the result has."""
    random = torch.Generator().manual_seed(0)
    shapes: dict[str | None, tuple[int, ...]] = {
        "padding": (2, 1, 1, 6),
        "pairs": (4, 6),
        "by head": (5, 3, 4, 6),
    }
    if name is None:
        return None, (1,)
    kind, _, shape = name.partition(" ")
    noise = torch.randn(shapes[shape], generator=random)
    batch = shapes[shape][:-3] or (1,)
    return (noise > 0 if kind == "boolean" else noise), batch


MASKS = [None] + [f"{a} {b}" for a in ("boolean", "added") for b in ("padding", "pairs", "by head")]


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("buckets", SCHEMES)
def test_values_are_those_of_the_reference_bit_for_bit(
    name: str, mask: str | None, causal: bool, buckets: tb.Buckets
) -> None:
    weight = reference.normal_weight(buckets.num_buckets, 3, getattr_dtype(name))
    given, batch = masks(mask)
    options: dict[str, Any] = {"causal": causal, "scale": 0.3}
    found = compute_bias(
        as_tensor(weight), 4, 6, buckets=buckets, query_offset=2, mask=given, **options
    )
    options["mask"] = None if given is None else given.numpy()
    relative = reference.consecutive(4, 6, 2)[None]
    expected = reference.matrix(weight, SCHEMES[buckets], relative, **options)
    assert found.shape == (*batch, 3, 4, 6)
    assert found.dtype == DTYPES[name]
    assert found.is_contiguous()
    assert np.array_equal(bits(found).ravel(), expected.view(np.uint8).ravel())
    query, key = torch.tensor([[5, 1, 9, -100]]), torch.arange(6, dtype=torch.int32)
    at = compute_bias_at(
        as_tensor(weight), query, key, buckets=buckets, **{**options, "mask": given}
    )
    relative = reference.differences(query.numpy(), key.numpy())
    expected = reference.matrix(weight, SCHEMES[buckets], relative, **options)
    assert at.shape == (*batch, 3, 4, 6)
    assert np.array_equal(bits(at).ravel(), expected.view(np.uint8).ravel())


def getattr_dtype(name: str) -> Any:
    return pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)


def test_one_row_of_positions_makes_a_batch_of_one() -> None:
    weight = torch.randn(32, 2)
    assert compute_bias_at(weight, torch.arange(5), buckets=BUCKETS).shape == (1, 2, 5, 5)
    positions = torch.arange(24).reshape(2, 3, 4)
    assert compute_bias_at(weight, positions, buckets=BUCKETS).shape == (2, 3, 2, 4, 4)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("buckets", [tb.Buckets(8, 9), TABULATED])
def test_gradients_pass_gradcheck_twice(mask: str | None, buckets: tb.Buckets) -> None:
    given, _ = masks(mask)
    weight = torch.randn(buckets.num_buckets, 3, dtype=torch.float64, requires_grad=True)
    is_boolean = given is not None and given.dtype == torch.bool

    def shown(matrix: Any) -> Any:  # masked pairs have the minimum: no number to differentiate
        return matrix.masked_fill(~given, 0) if is_boolean else matrix

    def consecutive(weight: Any) -> Any:
        return shown(compute_bias(weight, 4, 6, buckets=buckets, mask=given, scale=0.5))

    def at(weight: Any) -> Any:
        query, key = torch.tensor([3, 1, 4, 1]), torch.arange(6)
        return shown(compute_bias_at(weight, query, key, buckets=buckets, mask=given))

    for function in (consecutive, at):
        assert torch.autograd.gradcheck(function, (weight,))
        assert torch.autograd.gradgradcheck(function, (weight,))


@pytest.mark.parametrize("name", DTYPES)
def test_gradients_are_those_of_an_embedding(name: str) -> None:
    initial = torch.randn(32, 4).to(DTYPES[name])
    embedding = torch.nn.Embedding.from_pretrained(initial.clone(), freeze=False)
    grid = torch.from_numpy(reference.t5()(reference.consecutive(20, 30)))
    gradient = torch.randn(1, 4, 20, 30).to(DTYPES[name])
    value: Any = embedding(grid).permute(2, 0, 1)[None]
    value.backward(gradient)
    weight = initial.clone().requires_grad_()
    found: Any = compute_bias(weight, 20, 30, buckets=BUCKETS)
    found.backward(gradient)
    assert weight.grad is not None
    assert weight.grad.dtype == DTYPES[name]
    tolerance = {"float16": 2e-2, "bfloat16": 2e-1, "float32": 1e-5, "float64": 1e-12}[name]
    wanted = embedding.weight.grad
    torch.testing.assert_close(weight.grad, wanted, rtol=tolerance, atol=tolerance * 10)


def test_backward_passes_do_not_fill_the_cache_of_weights() -> None:
    weight = torch.ones(32, 4, requires_grad=True)
    _make_bias.cache_clear()
    for number in range(8):
        positions = torch.arange(8)
        matrices = (
            compute_bias(weight, 8, 8, buckets=BUCKETS),
            compute_bias_at(weight, positions, buckets=BUCKETS),
        )
        for bias in matrices:
            (bias * number).sum().backward()
        weight.grad = None
    assert _make_bias.cache_info().currsize <= 2  # the weight, and zeros


def test_weights_of_any_layout_are_read() -> None:
    weight = torch.randn(3, 32)  # of a linear layer: heads first
    found = compute_bias(weight.t(), 5, 5, buckets=BUCKETS)
    assert torch.equal(found, compute_bias(weight.t().contiguous(), 5, 5, buckets=BUCKETS))
    wide = torch.randn(32, 6)[:, ::2]
    assert torch.equal(
        compute_bias(wide, 5, 5, buckets=BUCKETS),
        compute_bias(wide.contiguous(), 5, 5, buckets=BUCKETS),
    )


def test_nothing_is_recorded_where_no_gradient_is_wanted() -> None:
    weight = torch.randn(32, 2, requires_grad=True)
    assert compute_bias(weight, 3, 3, buckets=BUCKETS).requires_grad
    with torch.no_grad():
        assert not compute_bias(weight, 3, 3, buckets=BUCKETS).requires_grad
    with torch.inference_mode():
        compute_bias(weight, 3, 3, buckets=BUCKETS)
    assert not compute_bias(weight.detach(), 3, 3, buckets=BUCKETS).requires_grad


# ---- operators ----

GIVEN = torch.arange(12).reshape(2, 1, 1, 6) % 5 > 0
POSITIONS = torch.arange(14).reshape(2, 7) % 5
OPERATORS: list[tuple[str, tuple[Any, ...]]] = [
    ("bias", (torch.randn(32, 4, requires_grad=True), GIVEN, 5, 6, 1, 0, True, None, False)),
    ("bias", (torch.randn(32, 4, requires_grad=True), None, 5, 6, 0, 0, False, 0.5, False)),
    ("bias_at", (torch.randn(32, 4, requires_grad=True), POSITIONS, POSITIONS, None)),
    ("bias_gradient", (torch.randn(2, 4, 5, 6, requires_grad=True), GIVEN)),
    ("bias_at_gradient", (torch.randn(2, 4, 7, 7, requires_grad=True), POSITIONS, POSITIONS, None)),
]


@pytest.mark.parametrize(("name", "arguments"), OPERATORS)
def test_operators_pass_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    scheme = encode_scheme(BUCKETS)
    rest: dict[str, tuple[Any, ...]] = {
        "bias_at": (scheme, True, 0.5, False),
        "bias_gradient": (scheme, 0, 1, False, None),
        "bias_at_gradient": (scheme, False, 0.5),
    }
    if name == "bias":
        arguments = (*arguments[:2], scheme, *arguments[2:])
    operator = getattr(torch.ops.t5bucket, name)
    results = torch.library.opcheck(operator, (*arguments, *rest.get(name, ())))
    assert set(results.values()) == {"SUCCESS"}


class Layer(torch.nn.Module):  # type: ignore[misc]
    """Biases of consecutive and of explicit positions."""

    def __init__(self, buckets: tb.Buckets) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(buckets.num_buckets, 2))
        self.buckets = buckets

    def forward(self, scores: Any, positions: Any) -> Any:
        length = scores.shape[-1]
        options: dict[str, Any] = {"buckets": self.buckets, "scale": 0.5, "mask": positions > 0}
        first = compute_bias(self.weight, length, length, causal=True, **options)
        return scores + first + compute_bias_at(self.weight, positions, **options)


@pytest.mark.parametrize("buckets", [BUCKETS, TABULATED])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_operators_compile_without_a_graph_break_and_for_any_length(buckets: tb.Buckets) -> None:
    layer = Layer(buckets)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for length in (5, 6, 9):
        scores, positions = torch.randn(1, 2, length, length), torch.arange(length) * 3
        found, expected = compiled(scores, positions), layer(scores, positions)
        assert torch.equal(found, expected)
        gradients = [
            torch.autograd.grad(result.cos().sum(), layer.weight)[0] for result in (found, expected)
        ]
        torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_program_gives_the_same_values() -> None:
    layer = Layer(BUCKETS)
    inputs = (torch.randn(1, 2, 7, 7), torch.arange(7))
    exported = torch.export.export(layer, inputs)
    names = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert "t5bucket.bias.default" in names
    assert torch.equal(exported.module()(*inputs), layer(*inputs))


# ---- bad input ----

WEIGHT = torch.randn(32, 2)
half: Any = 4.5
Case = tuple[Callable[[], Any], type[Exception], str]


def bad(call: Callable[..., Any]) -> list[Case]:
    return [
        (lambda: call(WEIGHT.numpy()), TypeError, "weight must be a tensor, got ndarray"),
        (
            lambda: call(WEIGHT.to("meta")),
            ValueError,
            "weight must be on the CPU, got device meta",
        ),
        (
            lambda: call(WEIGHT.to_sparse()),
            TypeError,
            "weight must be a dense tensor, got torch.sparse_coo",
        ),
        (
            lambda: call(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])),
            TypeError,
            "weight must be a dense tensor, got a nested one",
        ),
        (
            lambda: call(WEIGHT, mask=torch.ones(4, 4).to_sparse()),
            TypeError,
            "mask must be a dense tensor, got torch.sparse_coo",
        ),
        (
            lambda: call(WEIGHT.long()),
            TypeError,
            "weight must be float16, bfloat16, float32 or float64, got torch.int64",
        ),
        (lambda: call(WEIGHT[0]), ValueError, "weight must have two axes, buckets and heads, got"),
        (
            lambda: call(WEIGHT[:9]),
            ValueError,
            "weight must have one row for each of the 32 buckets, got 9 rows",
        ),
        (
            lambda: call(WEIGHT, buckets=32),
            TypeError,
            "buckets must be a Buckets, got int",
        ),
        (lambda: call(WEIGHT, mask=[True]), TypeError, "mask must be a tensor, got list"),
        (
            lambda: call(WEIGHT, mask=torch.ones(4, dtype=torch.long)),
            TypeError,
            "mask must be boolean or floating-point, got torch.int64",
        ),
        (
            lambda: call(WEIGHT, mask=torch.ones(4, device="meta")),
            ValueError,
            "mask must be on the CPU, got device meta",
        ),
        (
            lambda: call(WEIGHT, mask=torch.ones(4, requires_grad=True)),
            ValueError,
            "mask must not require a gradient",
        ),
        (
            lambda: call(WEIGHT, mask=torch.ones(3)),
            ValueError,
            "mask must broadcast to (..., 2, 4, 4), got shape (3,)",
        ),
        (
            lambda: call(WEIGHT, scale=float("inf")),
            ValueError,
            "scale must be finite in float32, got inf",
        ),
    ]


CASES: list[Case] = [
    *bad(lambda weight, buckets=BUCKETS, **o: compute_bias(weight, 4, 4, buckets=buckets, **o)),
    *bad(
        lambda weight, buckets=BUCKETS, **o: compute_bias_at(
            weight, torch.arange(4), buckets=buckets, **o
        )
    ),
    (
        lambda: compute_bias(WEIGHT, -1, 4, buckets=BUCKETS),
        ValueError,
        "query_length must be at least 0, got -1",
    ),
    (
        lambda: compute_bias(WEIGHT, 4, half, buckets=BUCKETS),
        TypeError,
        "key_length must be an integer, got 4.5",
    ),
    (
        lambda: compute_bias_at(WEIGHT, torch.ones(3), buckets=BUCKETS),
        TypeError,
        "query_positions must be integers, got torch.float32",
    ),
    (
        lambda: compute_bias_at(
            WEIGHT, torch.ones(2, 4).int(), buckets=BUCKETS, mask=torch.ones(3, 1, 1, 4)
        ),
        ValueError,
        "mask and positions must broadcast on their batch axes, got (2,), (2,), (3,)",
    ),
    (
        lambda: compute_bias_at(WEIGHT, torch.tensor(3), buckets=BUCKETS),
        ValueError,
        "query_positions must have at least one axis, got shape ()",
    ),
    (
        lambda: compute_bias_at(WEIGHT, torch.arange(3), [0, 1], buckets=BUCKETS),
        TypeError,
        "key_positions must be a tensor, got list",
    ),
]


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning")
@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_bad_input_is_refused_with_a_message_that_names_it(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        call()
