# test_threads_and_memory.py - threads can share accelerated models; nothing is kept or changed.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402

from t5bucket.transformers import _merge, accelerate, accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]


def test_threads_may_run_one_model_with_different_masks() -> None:
    case = models.make("t5", padded=True)
    inputs = [case.inputs, {**case.inputs, "attention_mask": case.inputs["attention_mask"].flip(0)}]
    expected = [run(case._replace(inputs=each)) for each in inputs]
    accelerate(case.model)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            found = pool.map(lambda each: run(case._replace(inputs=each)), inputs)
            assert_same_bits(list(found), expected)


def test_threads_may_share_a_bias() -> None:
    case = training.make("t5", False, "sdpa", None)
    attention = models.attention_of(case.model, "encoder", 1)
    states, bias = torch.randn(2, 6, 32), torch.randn(1, 4, 6, 6)
    masks = [torch.rand(2, 1, 6, 6) < 0.5 for _ in range(4)]

    def attend(mask: Any) -> list[Any]:
        with torch.no_grad():
            return [attention(states, mask=mask, position_bias=bias)[0] for _ in range(50)]

    expected = [attend(mask) for mask in masks]
    with accelerated(case.model), ThreadPoolExecutor(len(masks)) as pool:
        for ours, theirs in zip(pool.map(attend, masks), expected, strict=True):
            assert_same_bits(ours, theirs)


# ---- memory ----


def test_the_model_is_not_kept_alive() -> None:
    import gc
    import weakref

    case = models.make("t5", padded=True)
    run(case._replace(model=accelerate(case.model)))
    alive = weakref.ref(case.model)
    gc.collect()
    gc.disable()
    try:
        case = models.make("mpnet")
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", ["mask", "view", "none"])
def test_a_merged_matrix_goes_with_its_bias(kind: str) -> None:
    case = training.make("t5", False, "sdpa", None)
    accelerate(case.model)
    attention = models.attention_of(case.model, "encoder", 1)
    states = torch.randn(2, 6, 32)
    gc.collect()
    before = len(_merge._kept_by_bias)
    gc.disable()
    try:
        bias = torch.randn(1, 6, 6, 4).permute(0, 3, 1, 2)
        mask = {"mask": torch.rand(2, 1, 6, 6) < 0.5, "view": bias[:, :1], "none": None}[kind]
        with torch.no_grad():
            attention(states, mask=mask, position_bias=bias)
            kept = _merge._kept_by_bias[bias].result
            attention(states, mask=mask, position_bias=bias)
            assert _merge._kept_by_bias[bias].result is kept
        alive = weakref.ref(kept)
        assert len(_merge._kept_by_bias) == before + 1
        del kept, mask, bias
        assert alive() is None
        assert len(_merge._kept_by_bias) == before
    finally:
        gc.enable()


# ---- what is read ----


def properties_of(tensor: Any) -> tuple[Any, ...]:
    return (
        tensor._version,
        tensor.stride(),
        tensor.storage_offset(),
        tensor.data_ptr(),
        tensor.requires_grad,
        tensor.is_leaf,
        tensor.grad_fn,
        tensor.grad,
        dict(vars(tensor)),
        dict(vars(tensor.untyped_storage())),
        tensor.untyped_storage().resizable(),
        tensor.untyped_storage().nbytes(),
        pickle.dumps(tensor),
    )


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("masked", ["not", "bool", "float"])
def test_inputs_of_attention_are_not_changed(gradient: bool, masked: str) -> None:
    case = training.make("t5", False, "sdpa", None)
    accelerate(case.model)
    attention = models.attention_of(case.model, "encoder", 1)
    states, mask = torch.randn(2, 6, 32), torch.rand(2, 1, 6, 6)
    if masked == "bool":
        mask = mask < 0.5
    for layout in (torch.randn(1, 4, 6, 6), torch.randn(1, 6, 6, 4).permute(0, 3, 1, 2)):
        bias = layout.requires_grad_(gradient)
        read = [states, mask, bias]
        before = [properties_of(tensor) for tensor in read]
        with torch.no_grad():
            given = None if masked == "not" else mask
            returned = attention(states, mask=given, position_bias=bias)[1]
        assert returned is bias
        assert [properties_of(tensor) for tensor in read] == before
        assert not vars(copy.deepcopy(bias))


def test_positions_that_are_looked_up_stay_resizable() -> None:
    case = models.make("cpmant")
    positions = torch.arange(-50, 50)[None]
    bias = case.model.cpmant.position_bias
    expected = bias._position_bucket(positions, num_buckets=16, max_distance=64)
    with accelerated(case.model):
        assert torch.equal(
            bias._position_bucket(positions, num_buckets=16, max_distance=64), expected
        )
    assert positions.untyped_storage().resizable()
