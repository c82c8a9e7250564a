# test_transforms.py - the PyTorch operators in each transform: values and derivatives.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from torch.autograd import forward_ad, functional  # noqa: E402

from t5bucket._buckets import encode_scheme  # noqa: E402
from t5bucket.torch import compute_bias, compute_bias_at  # noqa: E402

BUCKETS = tb.Buckets(8, 9)
TABULATED = tb.Buckets.from_function(lambda d: abs(d) % 3, max_distance=10, num_buckets=8)
NUM_HEADS, Q, K = 2, 3, 5
QUERY, KEY = torch.tensor([[5, 1, -4], [3, 3, 40]]), torch.arange(K, dtype=torch.int32)
RANDOM = torch.Generator().manual_seed(0)
VISIBLE = torch.rand(2, 1, 1, K, generator=RANDOM) < 0.7
ADDED = torch.randn(NUM_HEADS, Q, K, generator=RANDOM, dtype=torch.float64)
SHAPE = (2, NUM_HEADS, Q, K)

SCHEMES = {  # and what each is by the reference
    BUCKETS: reference.t5(8, 9),
    TABULATED: reference.Scheme(8, 10, lambda d: abs(d) % 3),
}

Function = Callable[[Any], Any]


def gather(
    weight: Any,
    relative: Any,
    buckets: tb.Buckets,
    mask: Any = None,
    causal: bool = False,
    scale: float = 1.0,
) -> Any:
    """Compute the same in the simple way: look up each pair."""
    found = torch.nn.functional.embedding(
        torch.from_numpy(SCHEMES[buckets](relative)), weight * scale
    )
    bias = found.movedim(-1, -3)
    minimum = torch.finfo(weight.dtype).min
    if mask is not None:
        bias = torch.where(mask, bias, minimum) if mask.dtype == torch.bool else bias + mask
    future = torch.from_numpy(relative > 0)[..., None, :, :]
    return torch.where(future, minimum, bias) if causal else bias


def consecutive(
    buckets: tb.Buckets, query_offset: int = 0, q: int = Q, **options: Any
) -> tuple[Function, Function]:
    relative = (np.arange(K)[None] - np.arange(q)[:, None] - query_offset)[None]

    def ours(weight: Any) -> Any:
        return compute_bias(weight, q, K, buckets=buckets, query_offset=query_offset, **options)

    return ours, lambda weight: gather(weight, relative, buckets, **options)


def at(buckets: tb.Buckets, **options: Any) -> tuple[Function, Function]:
    relative = (KEY - QUERY[..., None]).numpy()

    def ours(weight: Any) -> Any:
        return compute_bias_at(weight, QUERY, KEY, buckets=buckets, **options)

    return ours, lambda weight: gather(weight, relative, buckets, **options)


FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "bias": consecutive(BUCKETS),
    "bias, tabulated": consecutive(TABULATED, causal=True),
    "bias, visible, causal, scaled": consecutive(BUCKETS, 1, mask=VISIBLE, causal=True, scale=0.5),
    "bias, added": consecutive(BUCKETS, -2, mask=ADDED, causal=True),
    "bias, one query": consecutive(BUCKETS, K - 1, 1),
    "bias, far away": consecutive(BUCKETS, 1 << 62),
    "bias_at": at(BUCKETS),
    "bias_at, tabulated": at(TABULATED, scale=2.0),
    "bias_at, visible, causal, scaled": at(BUCKETS, mask=VISIBLE, causal=True, scale=0.5),
    "bias_at, added": at(BUCKETS, mask=ADDED, causal=True),
}


def total(function: Function) -> Function:
    """Return a number whose second derivatives with respect to the matrix are not 0."""
    return lambda weight: function(weight).clamp(min=-9).sin().sum()


def tangent_of(weight: Any) -> Any:
    return torch.linspace(-1, 1, weight.numel(), dtype=weight.dtype).reshape(weight.shape)


def backward(function: Function, weight: Any, twice: bool = False) -> Any:
    leaf = weight.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(function)(leaf), leaf, create_graph=twice)
    return torch.autograd.grad(gradient.square().sum(), leaf)[0] if twice else gradient


def with_dual_numbers(function: Function, weight: Any) -> Any:
    with forward_ad.dual_level():
        dual = function(forward_ad.make_dual(weight, tangent_of(weight)))
        return tuple(forward_ad.unpack_dual(dual))


def forward_over_dual_gradient(function: Function, weight: Any) -> Any:
    """Differentiate a backward pass whose graph is older than the dual numbers."""
    leaf = weight.detach().clone().requires_grad_()
    bias = function(leaf)
    with forward_ad.dual_level():
        gradient = forward_ad.make_dual(torch.ones_like(bias), bias.detach().clamp(min=-9))
        return tuple(forward_ad.unpack_dual(torch.autograd.grad(bias, leaf, gradient)[0]))


def batched_gradients(function: Function, weight: Any, twice: bool = False) -> Any:
    leaf = weight.detach().clone().requires_grad_()
    bias = function(leaf)
    if twice:
        (bias,) = torch.autograd.grad(bias.clamp(min=-9).sin().sum(), leaf, create_graph=True)
    gradients = torch.randn(3, *bias.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad(bias, leaf, gradients.to(bias.dtype), is_grads_batched=True)[0]


def mixed(outer: str, inner: str) -> Callable[[Function, Any], Any]:
    return lambda function, weight: getattr(torch.func, outer)(
        getattr(torch.func, inner)(total(function))
    )(weight)


def stacked(weight: Any, dim: int = 0) -> Any:
    return torch.stack([weight, 2 * weight, -weight], dim)


TRANSFORMS: dict[str, Callable[[Function, Any], Any]] = {
    "backward": backward,
    "backward twice": lambda f, w: backward(f, w, twice=True),
    "grad": lambda f, w: torch.func.grad(total(f))(w),
    "vjp": lambda f, w: torch.func.vjp(f, w)[1](torch.ones_like(f(w)))[0],
    "jvp": lambda f, w: torch.func.jvp(f, (w,), (tangent_of(w),)),
    "jacrev": lambda f, w: torch.func.jacrev(f)(w),
    "jacfwd": lambda f, w: torch.func.jacfwd(f)(w),
    "hessian": lambda f, w: torch.func.hessian(total(f))(w),
    "jacrev of jacrev": mixed("jacrev", "jacrev"),
    "jacrev of jacfwd": mixed("jacrev", "jacfwd"),
    "jacfwd of jacfwd": mixed("jacfwd", "jacfwd"),
    "grad of grad": lambda f, w: torch.func.grad(
        lambda w: torch.func.grad(total(f))(w).square().sum()
    )(w),
    "jvp of grad": lambda f, w: torch.func.jvp(torch.func.grad(total(f)), (w,), (tangent_of(w),)),
    "linearize": lambda f, w: torch.func.linearize(f, w)[1](tangent_of(w)),
    "vmap": lambda f, w: torch.vmap(f)(stacked(w)),
    "vmap of another axis": lambda f, w: torch.vmap(f, in_dims=1, out_dims=2)(stacked(w, 1)),
    "vmap of vmap": lambda f, w: torch.vmap(torch.vmap(f))(stacked(stacked(w))),
    "vmap by chunks": lambda f, w: torch.vmap(f, chunk_size=2)(stacked(w)),
    "vmap of grad": lambda f, w: torch.vmap(torch.func.grad(total(f)))(stacked(w)),
    "vmap of jvp": lambda f, w: torch.vmap(lambda a: torch.func.jvp(f, (a,), (a,)))(stacked(w)),
    "grad of vmap": lambda f, w: torch.func.grad(lambda w: torch.vmap(total(f))(stacked(w)).sum())(
        w
    ),
    "functionalize": lambda f, w: torch.func.functionalize(f)(w),
    "dual numbers": with_dual_numbers,
    "dual gradients": forward_over_dual_gradient,
    "batched gradients": batched_gradients,
    "batched gradients of gradients": lambda f, w: batched_gradients(f, w, twice=True),
    "jacobian": lambda f, w: functional.jacobian(f, w),
    "jacobian, vectorized": lambda f, w: functional.jacobian(f, w, vectorize=True),
    "jacobian, forward": lambda f, w: functional.jacobian(
        f, w, vectorize=True, strategy="forward-mode"
    ),
    "hessian of autograd": lambda f, w: functional.hessian(total(f), w),
    "hessian, vectorized": lambda f, w: functional.hessian(
        total(f), w, vectorize=True, outer_jacobian_strategy="forward-mode"
    ),
    "jvp of autograd": lambda f, w: functional.jvp(f, w, tangent_of(w)),
    "hvp of autograd": lambda f, w: functional.hvp(total(f), w, tangent_of(w)),
    "vhp of autograd": lambda f, w: functional.vhp(total(f), w, tangent_of(w)),
}


def make_weight(requires_grad: bool = False, dtype: Any = torch.float64) -> Any:
    weight = torch.randn(8, NUM_HEADS, dtype=dtype, generator=torch.Generator().manual_seed(2))
    return weight.requires_grad_(requires_grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr:UserWarning")  # linearize
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_give_the_same_as_for_a_lookup(
    transform: str, function: str, requires_grad: bool
) -> None:
    ours, lookup = FUNCTIONS[function]
    found = TRANSFORMS[transform](ours, make_weight(requires_grad))
    expected = TRANSFORMS[transform](lookup, make_weight(requires_grad))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values_are_the_same_bits_with_and_without_a_transform(function: str, dtype: Any) -> None:
    ours, _ = FUNCTIONS[function]
    weight = make_weight(dtype=dtype)
    expected = ours(weight)
    (found, _), stack = (
        torch.func.jvp(ours, (weight,), (weight,)),
        torch.vmap(ours)(weight[None])[0],
    )
    for value in (found, stack):
        assert value.dtype == dtype
        assert value.is_contiguous()
        assert torch.equal(value, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [None, 2.0**-10])
def test_gradients_of_16_bits_are_summed_in_more(dtype: Any, scale: float | None) -> None:
    weight = torch.zeros(8, 1, dtype=dtype)
    length = 90 if scale is None else 900  # without the scale, sums overflow float16
    functions: tuple[Function, ...] = (
        lambda w: compute_bias(w, length, length, buckets=BUCKETS, scale=scale),
        lambda w: compute_bias_at(w, torch.arange(length), buckets=BUCKETS, scale=scale),
    )
    counts = np.bincount(
        SCHEMES[BUCKETS](reference.consecutive(length, length)).ravel(), minlength=8
    )
    expected = torch.from_numpy(counts * (scale or 1)).to(dtype)
    for function in functions:
        assert torch.equal(
            torch.func.grad(lambda w, f=function: f(w).sum())(weight)[:, 0], expected
        )


def test_gradients_of_explicit_positions_are_summed_in_float64() -> None:
    keys = torch.full((1001,), 99)

    def bias(weight: Any) -> Any:
        return compute_bias_at(weight, torch.zeros(1, dtype=torch.int64), keys, buckets=BUCKETS)

    gradient = torch.ones(1, 1, 1, 1001)
    gradient[..., 0] = 2.0**24  # float32 would lose each 1 that is added
    (found,) = torch.func.vjp(bias, torch.zeros(8, 1))[1](gradient)
    assert found.max() == 2**24 + 1000


@pytest.mark.parametrize(
    "make", [np.uint8, np.int8, lambda n: torch.tensor(n, dtype=torch.int8)], ids=str
)
def test_narrow_integers_keep_their_values(make: Callable[[int], Any]) -> None:
    weight = make_weight()

    def bias(weight: Any) -> Any:
        lengths = (make(120), make(100))
        return compute_bias(weight, *lengths, buckets=BUCKETS, query_offset=make(90))

    found = torch.vmap(bias)(weight[None])[0]
    assert torch.equal(found, compute_bias(weight, 120, 100, buckets=BUCKETS, query_offset=90))
    assert torch.equal(bias(weight), found)


# ---- what else is batched ----

IDS = torch.tensor([[0, 1, 2, 9], [5, 5, -3, 2], [0, 8, 7, 6]])


@pytest.mark.parametrize("causal", [False, True])
def test_positions_are_mapped(causal: bool) -> None:
    weight = make_weight()

    def bias(query: Any, key: Any = None) -> Any:
        return compute_bias_at(weight, query, key, buckets=BUCKETS, causal=causal)

    together = bias(IDS)
    assert torch.equal(torch.vmap(bias)(IDS)[:, 0], together)
    assert torch.equal(torch.vmap(lambda ids: bias(ids[None]))(IDS)[:, 0], together)
    keys = torch.arange(6)
    assert torch.equal(torch.vmap(bias, (0, None))(IDS, keys)[:, 0], bias(IDS, keys))
    assert torch.equal(torch.vmap(bias, (None, 0))(keys, IDS)[:, 0], bias(keys, IDS))
    narrow = IDS.to(torch.int8)
    assert torch.equal(torch.vmap(bias)(narrow)[:, 0], together)


def test_positions_at_the_ends_of_int64_are_mapped() -> None:
    ends = torch.tensor([[-(2**63), 2**63 - 1, 0], [2**63 - 1, -(2**63), -1]])
    weight = make_weight()
    bias = torch.vmap(lambda ids: compute_bias_at(weight, ids, buckets=BUCKETS))(ends)
    assert torch.equal(bias[:, 0], compute_bias_at(weight, ends, buckets=BUCKETS))


def test_weights_and_positions_are_mapped_together() -> None:
    weights = stacked(make_weight())

    def gradient(weight: Any, ids: Any) -> Any:
        return torch.func.grad(
            lambda w: (
                compute_bias_at(w, ids, buckets=BUCKETS, causal=True).clamp(min=-9).sin().sum()
            )
        )(weight)

    found = torch.vmap(gradient)(weights, IDS)
    for i in range(3):
        torch.testing.assert_close(found[i], gradient(weights[i], IDS[i]))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64])
def test_masks_are_mapped(dtype: Any) -> None:
    masks = (torch.randn(3, 1, K, generator=RANDOM) > 0).to(dtype)
    weight = make_weight()
    functions: tuple[Function, ...] = (
        lambda mask: compute_bias(weight, Q, K, buckets=BUCKETS, mask=mask),
        lambda mask: compute_bias_at(weight, QUERY[0], KEY, buckets=BUCKETS, mask=mask),
    )
    for function in functions:
        found = torch.vmap(function)(masks)
        assert torch.equal(found, torch.stack([function(mask) for mask in masks]))


def test_a_mask_that_is_differentiated_forwards_has_its_derivative() -> None:
    weight = make_weight()

    def bias(mask: Any) -> Any:
        return compute_bias(weight, Q, K, buckets=BUCKETS, mask=mask)

    _, tangent = torch.func.jvp(bias, (ADDED,), (ADDED,))
    assert torch.equal(tangent[0], ADDED)


@pytest.mark.parametrize(("q", "k"), [(0, 0), (0, 3), (3, 0), (1, 1), (7, 1)])
def test_grids_of_any_size_are_transformed(q: int, k: int) -> None:
    for function in (
        lambda w: compute_bias(w, q, k, buckets=BUCKETS, causal=True),
        lambda w: compute_bias_at(w, torch.arange(q), torch.arange(k), buckets=BUCKETS),
    ):
        value, tangent = torch.func.jvp(function, (make_weight(),), (make_weight(),))
        assert value.shape == tangent.shape == (1, NUM_HEADS, q, k)
        assert torch.func.jacrev(function)(make_weight()).shape == (1, NUM_HEADS, q, k, 8, 2)


# ---- compiled ----

COMPILED = ["grad", "jvp", "jacfwd", "vmap", "vmap of grad", "hessian", "dual numbers"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("function", ["bias, visible, causal, scaled", "bias_at, added"])
@pytest.mark.parametrize("transform", COMPILED)
def test_transforms_are_compiled_without_a_graph_break(transform: str, function: str) -> None:
    ours, _ = FUNCTIONS[function]
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda weight: TRANSFORMS[transform](ours, weight), fullgraph=True, backend="aot_eager"
    )
    found = compiled(make_weight())
    torch.testing.assert_close(found, TRANSFORMS[transform](ours, make_weight()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_a_transform_is_compiled_for_any_length() -> None:
    def gradients(weights: Any, positions: Any) -> Any:
        def total(weight: Any, ids: Any) -> Any:
            bias = compute_bias(weight, len(ids), len(ids), buckets=BUCKETS, scale=2)
            return (bias * compute_bias_at(weight, ids, buckets=BUCKETS)).sum()

        return torch.vmap(torch.func.grad(total))(weights, positions)

    torch._dynamo.reset()
    compiled = torch.compile(gradients, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (4, 7, 9):
        inputs = (stacked(make_weight()), torch.arange(3 * length).reshape(3, length) % 11)
        torch.testing.assert_close(compiled(*inputs), gradients(*inputs))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_backward_pass_runs_next_to_dual_numbers_of_others() -> None:
    compiled = torch.compile(lambda w: compute_bias(w, Q, K, buckets=BUCKETS), backend="aot_eager")
    weight = make_weight(requires_grad=True)
    bias = compiled(weight)
    with forward_ad.dual_level():
        (found,) = torch.autograd.grad(bias.sum(), weight)
    assert found.sum() == bias.numel()


# ---- refused calls ----


def test_errors_in_a_transform_name_the_argument() -> None:
    weight = make_weight()

    def jvp(function: Function) -> Any:
        return torch.func.jvp(function, (make_weight(),), (make_weight(),))

    with pytest.raises(
        ValueError, match=r"mask must broadcast to \(\.\.\., 2, 3, 5\), got shape \(3,\)"
    ):
        jvp(lambda w: compute_bias(w, Q, K, buckets=BUCKETS, mask=torch.ones(3)))
    with pytest.raises(TypeError, match="scale must be a real number, got Tensor"):
        torch.vmap(lambda s: compute_bias(weight, Q, K, buckets=BUCKETS, scale=s))(torch.ones(3))
    with pytest.raises(ValueError, match="scale must not require a gradient"):
        compute_bias(make_weight(), Q, K, buckets=BUCKETS, scale=torch.ones((), requires_grad=True))
    with pytest.raises(ValueError, match="scale must be finite in float64, got inf"):
        jvp(lambda w: compute_bias(w, Q, K, buckets=BUCKETS, scale=float("inf")))
    with pytest.raises(ValueError, match="mask and positions must broadcast on their batch axes"):
        jvp(lambda w: compute_bias_at(w, QUERY, KEY, buckets=BUCKETS, mask=torch.ones(3, 1, 1, K)))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_operators_themselves_are_never_differentiated_to_zero(requires_grad: bool) -> None:
    weight, gradient = make_weight(requires_grad), torch.ones(SHAPE, dtype=torch.float64)
    scheme = encode_scheme(BUCKETS)
    operators = torch.ops.t5bucket
    calls: list[tuple[Function, Any]] = [
        (lambda w: operators.bias(w, None, scheme, Q, K, 0, 0, False, None, False), weight),
        (lambda w: operators.bias_at(w, QUERY, KEY, None, scheme, False, None, False), weight),
        (lambda g: operators.bias_gradient(g, None, scheme, 0, 0, False, None), gradient),
        (
            lambda g: operators.bias_at_gradient(g, QUERY, KEY, None, scheme, False, None),
            gradient,
        ),
    ]
    for call, primal in calls:
        with pytest.raises(NotImplementedError):
            torch.func.jvp(call, (primal,), (primal,))
        with pytest.raises(NotImplementedError):
            with_dual_numbers(call, primal)
        with pytest.raises(NotImplementedError):
            torch.func.jacfwd(call)(primal)
