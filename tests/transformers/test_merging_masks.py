# test_merging_masks.py - masks merged into biases: what sdpa is given, and how often it is made.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_bits, assert_same_masks, run, watch_sdpa  # noqa: E402

from t5bucket.transformers import _t5, accelerate, accelerated  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def given_to_sdpa(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[Any]:
    """Collect the masks that sdpa is given, and whether it adds a causal one."""
    with torch.no_grad():
        return watch_sdpa(
            monkeypatch, call, lambda mask, is_causal: (mask, torch.tensor(is_causal))
        )


def mixed_types(case: models.Case) -> models.Case:
    case.model.bfloat16()
    models.attention_of(case.model).relative_attention_bias.float()
    return case


def with_prefix(case: models.Case) -> models.Case:
    prefix = {"decoder_input_ids": models.tokens(9), "labels": None}
    return case._replace(inputs={**case.inputs, **prefix})


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("t5", lambda case: case),
        ("t5", mixed_types),
        ("t5", with_prefix),
        ("udop", lambda case: case),
        ("layoutlmv3", lambda case: case),
    ],
)
def test_sdpa_is_given_the_same_masks(
    family: str,
    padded: bool,
    change: Callable[[models.Case], models.Case],
    autocast: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = change(models.make(family, padded, "sdpa"))

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            case.model(**case.inputs)

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_masks(given_to_sdpa(monkeypatch, call), expected)


def test_prefilling_a_static_cache_gives_sdpa_the_same_masks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    inputs = {**case.inputs, "decoder_input_ids": models.tokens(5)}
    del inputs["labels"]
    options = {"max_new_tokens": 3, "cache_implementation": "static", "disable_compile": True}

    def call() -> None:
        case.model.generate(**inputs, **options)

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_masks(given_to_sdpa(monkeypatch, call), expected)


def test_sdpa_is_given_the_same_causal_bias_when_keys_outnumber_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = models.make("t5", implementation="sdpa")
    attention = models.attention_of(case.model, "decoder", 1)
    bias = torch.randn(1, 4, 6, 9)
    states = torch.randn(2, 6, 32)

    class Longer:  # a cache that was allocated for more
        def get_seq_length(self, layer: int) -> int:
            return 0

        def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            return [torch.nn.functional.pad(x, (0, 0, 0, 3)) for x in (keys, values)]

    def call() -> Any:
        return attention(states, position_bias=bias, cache=Longer())

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_masks(given_to_sdpa(monkeypatch, call), expected)


def test_a_mask_of_more_keys_than_the_bias_is_cut() -> None:
    case = models.make("pix2struct", implementation="sdpa")  # which cuts it
    attention = case.model.decoder.layer[1].self_attention.attention
    bias, states = torch.randn(1, 4, 6, 6), torch.randn(2, 6, 32)
    mask = torch.rand(2, 1, 6, 11) < 0.5
    with torch.no_grad():
        expected = attention(states, mask=mask, position_bias=bias)[:2]
        with accelerated(case.model):
            assert_same_bits(attention(states, mask=mask, position_bias=bias)[:2], expected)


def test_one_bias_takes_several_masks() -> None:
    case = models.make("t5", implementation="sdpa")
    attention = models.attention_of(case.model, "encoder", 1)
    states = torch.randn(models.BATCH, models.LENGTH, 32)
    first = models.attention_of(case.model)

    def attend() -> Any:
        bias = first.compute_bias(models.LENGTH, models.LENGTH)
        padding = models.lengths_mask().bool()[:, None, None]
        masks = [padding, padding.flip(0), None, torch.zeros_like(padding), padding]
        attended = [attention(states, mask=mask, position_bias=bias)[0] for mask in masks]
        padding[..., 7:] = False
        attended.append(attention(states, mask=padding, position_bias=bias)[0])
        bias.mul_(2)
        attended.append(attention(states, mask=padding, position_bias=bias)[0])
        return attended

    with torch.no_grad():
        expected = attend()
        with accelerated(case.model):
            assert_same_bits(attend(), expected)


@pytest.mark.parametrize(
    ("family", "calls"), [("t5", 9), ("umt5", 9), ("udop", 9), ("layoutlmv3", 2)]
)
def test_sdpa_merges_no_masks(family: str, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import sdpa_attention

    case = models.make(family, padded=True, implementation="sdpa")
    merged = []
    merge = sdpa_attention.create_position_bias_mask

    def watched(position_bias: Any, mask: Any, causal: bool, query: Any, key: Any) -> Any:
        if mask is not None or causal or not position_bias.is_contiguous():
            merged.append(position_bias.shape)
        return merge(position_bias, mask, causal, query, key)

    monkeypatch.setattr(sdpa_attention, "create_position_bias_mask", watched)
    run(case)
    before, merged[:] = len(merged), []
    with accelerated(case.model):
        run(case)
    assert (before, len(merged)) == (calls, 0)


def test_a_mask_in_the_place_of_another_is_merged_anew() -> None:
    case = training.make("t5", False, "sdpa", None)
    attention = models.attention_of(case.model, "encoder", 1)
    states, bias = torch.randn(2, 6, 32), torch.randn(1, 4, 6, 6)

    def attend() -> list[Any]:
        generator = torch.Generator().manual_seed(0)
        attended = []
        for _ in range(20):  # each dies before the next is made, often in the same memory
            mask = torch.rand(2, 1, 6, 6, generator=generator) < 0.5
            attended.append(attention(states, mask=mask, position_bias=bias)[0])
            del mask
        return attended

    with torch.no_grad():
        expected = attend()
        with accelerated(case.model):
            assert_same_bits(attend(), expected)


@pytest.mark.parametrize("nbytes", [0, 1 << 20])
@pytest.mark.parametrize("what", ["mask", "position_bias"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_a_hook_writes_between_layers_is_merged(
    mode: Any, what: str, nbytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_t5, "MIN_NBYTES", nbytes)
    case = models.make("t5", padded=True, implementation="sdpa")
    ends = iter(range(6, 60, 3))

    def write(module: Any, args: Any, kwargs: Any) -> None:
        tensor = kwargs[what]
        if what == "mask":
            tensor[..., : next(ends)] = False
        elif tensor is not None:
            tensor.mul_(1.5)

    for block in case.model.encoder.block:
        attention = block.layer[0].SelfAttention
        attention.register_forward_pre_hook(write, with_kwargs=True)

    def encode() -> Any:
        nonlocal ends
        ends = iter(range(6, 60, 3))
        with mode():
            mask = case.inputs["attention_mask"].clone()
            return case.model.encoder(case.inputs["input_ids"], mask).last_hidden_state

    expected = encode()
    with accelerated(case.model):
        assert_same_bits(encode(), expected)


def test_an_attention_function_of_the_users_own_is_given_biases_alone() -> None:
    from transformers import AttentionInterface
    from transformers.integrations import sdpa_attention

    seen = []

    def watched(module: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["position_bias"].shape[0])
        return sdpa_attention.sdpa_attention_forward(module, *args, **kwargs)

    case = models.make("t5", padded=True, implementation="sdpa")
    own = sdpa_attention.sdpa_attention_forward
    AttentionInterface.register("sdpa", watched)
    try:
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)
    finally:
        AttentionInterface.register("sdpa", own)
    assert set(seen) == {1}  # biases alone: what that function makes of masks is its own matter


def test_masks_of_meta_tensors_give_outputs_of_the_right_shape() -> None:
    with torch.device("meta"):
        case = models.FAMILIES["t5"](False)
        states, bias = torch.randn(2, 6, 32), torch.randn(1, 4, 6, 6)
        mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    models.choose_attention(case.model, "sdpa")
    attention = accelerate(case.model).encoder.block[1].layer[0].SelfAttention
    attended, returned, _ = attention(states, mask=mask, position_bias=bias)
    assert attended.device.type == returned.device.type == "meta"
    assert attended.shape == (2, 6, 32)
