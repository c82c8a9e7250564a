# test_tensors_stay.py - reading PyTorch tensors does not change them.
# SPDX-License-Identifier: BSD-3-Clause
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from t5bucket._arrays import view_tensor  # noqa: E402
from t5bucket.torch import compute_bias, compute_bias_at  # noqa: E402

BUCKETS = tb.Buckets(32, 128)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
NUM_HEADS, Q, K = 2, 3, 4


def state(tensor: Any) -> dict[str, Any]:
    """List everything that PyTorch shows about a tensor, except its items."""
    storage = tensor.untyped_storage()
    return {
        "resizable": storage.resizable(),
        "storage": (storage.data_ptr(), storage.nbytes(), storage.is_shared()),
        "version": None if tensor.is_inference() else tensor._version,
        "layout": (tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.data_ptr()),
        "kind": (type(tensor), tensor.dtype, tensor.device, tensor.layout),
        "gradient": (tensor.requires_grad, tensor.is_leaf, tensor.grad_fn),
        "flags": (tensor.is_neg(), tensor.is_inference(), tensor.is_pinned(), tensor._is_view()),
        "attributes": {name for name in vars(tensor) if not name.startswith("_dynamo")},
        "hooks": tensor._backward_hooks,
    }


def make_tensors(dtype: Any) -> dict[str, Any]:
    mask = torch.rand(5, 1, Q, K) > 0.3
    return {
        "weight": torch.randn(32, NUM_HEADS, dtype=dtype),
        "parameter": torch.nn.Parameter(torch.randn(32, NUM_HEADS, dtype=dtype)),
        "transposed": torch.randn(NUM_HEADS, 32, dtype=dtype).t(),
        "query": torch.arange(Q),
        "key": torch.arange(2 * K, dtype=torch.int32)[::2],
        "keep": mask,
        "addend": torch.randn(5, 1, Q, K).to(dtype),
        "gradient": torch.randn(NUM_HEADS, Q, K).to(dtype),
        "ids": torch.tensor([0, 0, 1]),
        "key_ids": torch.tensor([0, 0, 1, 1], dtype=torch.uint8),
    }


def numpy_bias(given: dict[str, Any]) -> Any:
    return tb.RelativeAttentionBias(given["weight"], BUCKETS)


CALLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "compute_bias": lambda t: compute_bias(t["weight"], Q, K, buckets=BUCKETS),
    "compute_bias, parameter": lambda t: compute_bias(t["parameter"], Q, K, buckets=BUCKETS),
    "compute_bias, transposed": lambda t: compute_bias(t["transposed"], Q, K, buckets=BUCKETS),
    "compute_bias, keep": lambda t: compute_bias(
        t["weight"], Q, K, buckets=BUCKETS, mask=t["keep"]
    ),
    "compute_bias, addend": lambda t: compute_bias(
        t["parameter"], Q, K, buckets=BUCKETS, mask=t["addend"]
    ),
    "compute_bias_at": lambda t: compute_bias_at(
        t["weight"], t["query"], t["key"], buckets=BUCKETS, mask=t["keep"]
    ),
    "compute_bias_at, parameter": lambda t: compute_bias_at(
        t["parameter"], t["query"], t["key"], buckets=BUCKETS, mask=t["addend"]
    ),
    "compiled": lambda t: torch.compile(
        lambda w, q: compute_bias_at(w, q, buckets=BUCKETS), backend="aot_eager"
    )(t["parameter"], t["query"]),
    "transformed": lambda t: torch.func.grad(
        lambda w: compute_bias(w, Q, K, buckets=BUCKETS, mask=t["keep"]).sum()
    )(t["weight"]),
    "backward": lambda t: torch.autograd.grad(
        compute_bias(t["parameter"], Q, K, buckets=BUCKETS),
        t["parameter"],
        t["gradient"][None],
    ),
    "backward at": lambda t: torch.autograd.grad(
        compute_bias_at(t["parameter"], t["query"], t["key"], buckets=BUCKETS),
        t["parameter"],
        t["gradient"][None],
    ),
    "RelativeAttentionBias": lambda t: [
        tb.RelativeAttentionBias(t[name], BUCKETS) for name in ("weight", "parameter", "transposed")
    ],
    "numpy compute_bias": lambda t: tb.compute_bias(t["parameter"], Q, K),
    "matrix": lambda t: numpy_bias(t).matrix(
        Q, K, mask=t["keep"], segment_ids=t["ids"], key_segment_ids=t["key_ids"]
    ),
    "matrix, scalars": lambda t: numpy_bias(t).matrix(Q, K, scale=torch.tensor(0.5)),
    "matrix_at": lambda t: numpy_bias(t).matrix_at(t["query"], t["key"], mask=t["addend"]),
    "weight_gradient": lambda t: numpy_bias(t).weight_gradient(t["gradient"]),
    "weight_gradient_at": lambda t: numpy_bias(t).weight_gradient_at(
        t["gradient"], t["query"], t["key"]
    ),
    "buckets": lambda t: BUCKETS(t["key"]),
    "grid_at": lambda t: BUCKETS.grid_at(t["query"], t["key"]),
    "relative_position_bucket": lambda t: tb.relative_position_bucket(t["key"]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("call", CALLS)
def test_tensors_stay_as_they_are(call: str, dtype: Any, inference: bool) -> None:
    differentiates = call in ("compiled", "transformed", "backward", "backward at")
    with torch.inference_mode(inference and not differentiates):
        given = make_tensors(dtype)
        before = {name: state(tensor) for name, tensor in given.items()}
        items = {name: tensor.detach().clone() for name, tensor in given.items()}
        CALLS[call](given)
        for name, tensor in given.items():
            assert state(tensor) == before[name]
            assert torch.equal(tensor.detach(), items[name])


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool, torch.uint8, torch.int16, torch.int64])
def test_a_view_has_the_tensors_items(dtype: Any) -> None:
    base = torch.randint(0, 2, (4, 5, 6)).to(dtype)
    layouts = {
        "contiguous": base,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1:, ::2, 1:4],
        "expanded": base[:, :1].expand(4, 7, 6),
        "scalar": base[0, 0, 0],
        "empty": base[:, :0],
        "empty and strided": base[::2, ::2, :0].permute(1, 2, 0),
    }
    for tensor in layouts.values():
        array = view_tensor(tensor)
        assert array.shape == tensor.shape
        assert array.dtype.name == str(dtype).removeprefix("torch.")
        assert array.tolist() == tensor.tolist()
        if tensor.numel():
            assert array.ctypes.data == tensor.data_ptr()  # nothing was copied


def test_a_view_keeps_the_memory_alive() -> None:
    tensor = torch.arange(1000)
    storage = tensor.untyped_storage()
    alive, array = weakref.ref(storage), view_tensor(tensor)
    del storage
    tensor.data = torch.zeros(1000, dtype=torch.int64)  # gives it another storage
    del tensor
    gc.collect()
    assert alive() is not None
    assert array.sum() == 499500
    del array
    gc.collect()
    assert alive() is None


def test_tensors_in_lists_stay_as_they_are() -> None:
    rows = [torch.nn.Parameter(torch.full((NUM_HEADS,), i / 8).bfloat16()) for i in range(32)]
    positions = torch.arange(3)
    before = [state(tensor) for tensor in (*rows, positions)]
    bias = tb.RelativeAttentionBias(rows, BUCKETS)
    assert bias.weight[:, 0].tolist() == [i / 8 for i in range(32)]
    assert np.array_equal(BUCKETS([positions, positions]), BUCKETS([[0, 1, 2]] * 2))
    assert np.array_equal(BUCKETS(list(positions)), BUCKETS([0, 1, 2]))
    assert [state(tensor) for tensor in (*rows, positions)] == before


def test_memory_that_a_lazy_clone_shares_is_not_copied() -> None:
    weight = torch.randn(32, NUM_HEADS)
    clone = torch._lazy_clone(weight)
    assert torch.equal(*(compute_bias(w, Q, K, buckets=BUCKETS) for w in (weight, clone)))
    assert torch._C._is_cow_tensor(weight)
    assert torch._C._is_cow_tensor(clone)


def test_a_tensor_that_is_negative_by_a_flag_is_read_as_it_is() -> None:
    imaginary = torch.randn(32, 2, dtype=torch.complex64).conj().imag
    assert imaginary.is_neg()
    expected = compute_bias(imaginary.clone(), 5, 5, buckets=BUCKETS)
    assert torch.equal(compute_bias(imaginary, 5, 5, buckets=BUCKETS), expected)
    bias = tb.RelativeAttentionBias(imaginary, BUCKETS)
    assert np.array_equal(bias.matrix(5, 5), expected[0].numpy())


@pytest.mark.parametrize("nbytes", [0, 8])
def test_freed_memory_is_not_read(nbytes: int) -> None:
    def free(tensor: Any) -> Any:
        tensor.untyped_storage().resize_(nbytes)
        return tensor

    weight, positions, mask = torch.zeros(32, 2), torch.arange(20), torch.ones(20, 20)
    calls: dict[str, list[Callable[[], Any]]] = {
        "weight": [
            lambda: compute_bias(free(torch.zeros(32, 2)), 3, 3, buckets=BUCKETS),
            lambda: tb.RelativeAttentionBias(free(torch.zeros(32, 2)), BUCKETS),
        ],
        "query_positions": [
            lambda: compute_bias_at(weight, free(torch.arange(20)), positions, buckets=BUCKETS),
            lambda: BUCKETS.grid_at(free(torch.arange(20))),
        ],
        "mask": [
            lambda: compute_bias(weight, 20, 20, buckets=BUCKETS, mask=free(mask.clone())),
            lambda: tb.RelativeAttentionBias(weight, BUCKETS).matrix(
                20, 20, mask=free(mask.clone())
            ),
        ],
        "scale": [
            lambda: tb.RelativeAttentionBias(weight, BUCKETS).matrix(
                2, 2, scale=free(torch.arange(20.0))
            )
        ],
    }
    for name, functions in calls.items():
        for function in functions:
            with pytest.raises((ValueError, TypeError), match=f"{name} must be"):
                function()
