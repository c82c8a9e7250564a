# test_attention_operator.py - attention can be compiled, exported and transformed.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from t5bucket._buckets import encode_scheme  # noqa: E402
from t5bucket.torch import (  # noqa: E402
    _attend,
    compute_bias,
    scaled_dot_product_attention,
)

by_pytorch: Any = torch.nn.functional.scaled_dot_product_attention
BUCKETS = tb.Buckets()
Q, K, NUM_HEADS, SIZE = 70, 90, 2, 8
MASK = (torch.arange(K) < torch.tensor([[K], [40], [30]]))[:, None, None]


# Forward mode compiles some derivatives in a way that this PyTorch itself calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)


def make_inputs(trained: bool = False, dtype: Any = torch.float32) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(3, n, NUM_HEADS, SIZE, generator=generator).to(dtype).transpose(1, 2)
        for n in (Q, K, K)
    )
    inputs = (query, key, value, torch.randn(32, NUM_HEADS, generator=generator).to(dtype))
    return tuple(tensor.detach().requires_grad_(trained) for tensor in inputs)


def attend(query: Any, key: Any, value: Any, weight: Any, mask: Any = MASK) -> Any:
    return scaled_dot_product_attention(
        query, key, value, weight, buckets=BUCKETS, attn_mask=mask, is_causal=True, query_offset=20
    )


def with_matrix(query: Any, key: Any, value: Any, weight: Any, mask: Any = MASK) -> Any:
    options: dict[str, Any] = {"buckets": BUCKETS, "causal": True, "query_offset": 20}
    bias = compute_bias(weight, query.shape[-2], key.shape[-2], mask=mask, **options)
    return by_pytorch(query, key, value, attn_mask=bias)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_the_operator_is_a_proper_one(trained: bool, positions: bool) -> None:
    query, key, value, weight = make_inputs(trained)
    pair = (torch.arange(Q), torch.arange(K)) if positions else (None, None)
    tensors = (query, key, value, weight, None if positions else MASK, *pair, None, None)
    options = (list(encode_scheme(BUCKETS)), 0, 0, False, None, True, trained)
    torch.library.opcheck(torch.ops.t5bucket.attention.default, (*tensors, *options))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_it_is_compiled_without_a_graph_break(trained: bool, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(attend, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    inputs = make_inputs(trained)
    assert torch.equal(compiled(*inputs), attend(*inputs))
    query = inputs[0][:, :, :50].detach().requires_grad_(trained)
    shorter = (query, *inputs[1:])
    assert torch.equal(compiled(*shorter), attend(*shorter))
    if trained:
        found = torch.autograd.grad(compiled(*inputs).sum(), inputs)
        expected = torch.autograd.grad(attend(*inputs).sum(), inputs)
        assert all(map(torch.equal, found, expected))


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_it_is_compiled_by_the_inductor(trained: bool) -> None:
    torch._dynamo.reset()
    inputs = make_inputs(trained)
    compiled = torch.compile(lambda *tensors: attend(*tensors).sin(), fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), attend(*inputs).sin())
    if trained:
        compiled(*inputs).sum().backward()
        assert inputs[3].grad.isfinite().all()


def test_it_is_exported_for_any_length() -> None:
    class Module(torch.nn.Module):  # type: ignore[misc]
        def forward(self, query: Any, key: Any, value: Any, weight: Any) -> Any:
            return scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS)

    inputs = make_inputs()
    q, k = torch.export.Dim("q", min=2), torch.export.Dim("k", min=2)
    program = torch.export.export(Module(), inputs, dynamic_shapes=({2: q}, {2: k}, {2: k}, None))
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.t5bucket.attention.default in targets
    other = (inputs[0][:, :, :33], inputs[1][:, :, :44], inputs[2][:, :, :44], inputs[3])
    for arguments in (inputs, other):
        assert torch.equal(program.module()(*arguments), Module()(*arguments))


# ---- transforms ----

Function = Callable[..., Any]
TRANSFORMS: dict[str, Callable[[Function], Function]] = {
    "grad": lambda f: torch.func.grad(lambda *inputs: f(*inputs).sin().sum(), (0, 1, 2, 3)),
    "vjp": lambda f: (
        lambda *inputs: torch.func.vjp(f, *inputs)[1](
            torch.ones(3, 2, Q, SIZE, dtype=torch.float64)
        )
    ),
    "jvp": lambda f: (
        lambda *inputs: torch.func.jvp(
            f, inputs, tuple(torch.ones_like(tensor) for tensor in inputs)
        )[1]
    ),
    "jacrev": lambda f: (
        lambda *inputs: torch.func.jacrev(lambda weight: f(*inputs[:3], weight).sum((0, 1, 3)))(
            inputs[3]
        )
    ),
    "jacfwd": lambda f: (
        lambda *inputs: torch.func.jacfwd(lambda weight: f(*inputs[:3], weight).sum((0, 1, 3)))(
            inputs[3]
        )
    ),
    "vmap of weights": lambda f: (
        lambda *inputs: torch.func.vmap(lambda weight: f(*inputs[:3], weight))(
            torch.stack([inputs[3], inputs[3] * 2])
        )
    ),
    "grad of grad": lambda f: torch.func.grad(
        lambda *inputs: torch.func.grad(lambda weight: f(*inputs[:3], weight).sin().sum())(
            inputs[3]
        ).sum(),
        (0, 3),
    ),
    "functionalize": lambda f: torch.func.functionalize(f),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_give_the_same_as_with_the_matrix(name: str) -> None:
    inputs = make_inputs(dtype=torch.float64)
    transform = TRANSFORMS[name]
    kernel = torch.nn.attention.SDPBackend.MATH  # the other one has no forward mode
    with torch.nn.attention.sdpa_kernel(kernel):
        expected = transform(with_matrix)(*inputs)
    found = transform(attend)(*inputs)
    torch.testing.assert_close(found, expected)


def test_examples_are_mapped() -> None:
    query, key, value, weight = make_inputs()
    mapped = torch.func.vmap(attend, in_dims=(0, 0, 0, None, 0))
    found = mapped(query, key, value, weight, MASK[:, 0])
    torch.testing.assert_close(found, attend(query, key, value, weight))


def test_dual_numbers_have_their_tangent() -> None:
    query, key, value, weight = make_inputs(dtype=torch.float64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(weight, torch.ones_like(weight))
        output = attend(query, key, value, dual)
        tangent = torch.autograd.forward_ad.unpack_dual(output).tangent
    _, expected = torch.func.jvp(
        lambda weight: attend(query, key, value, weight), (weight,), (torch.ones_like(weight),)
    )
    torch.testing.assert_close(tangent, expected)


def test_the_operator_itself_is_never_differentiated_to_zero() -> None:
    query, key, value, weight = make_inputs()
    arguments = (None, None, None, None, None, list(encode_scheme(BUCKETS)), 0, 0, False, None)

    def call(weight: Any) -> Any:
        operator = torch.ops.t5bucket.attention
        return operator(query, key, value, weight, *arguments, True, False)

    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(call, (weight,), (torch.ones_like(weight),))
