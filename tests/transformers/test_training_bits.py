# test_training_bits.py - training accelerated models: the same bits forward, with checkpoints too.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import gc
import pickle
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from t5bucket.transformers import _merge, accelerate, accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]

DROPOUTS = ("dropout", "dropout_rate", "attention_dropout", "activation_dropout")


def parts_with_checkpoints(model: Any) -> list[Any]:
    """Find what can have checkpoints: the model, or its children, as of Pix2Struct."""

    def supports(module: Any) -> bool:
        return getattr(module, "supports_gradient_checkpointing", False)

    return [model] if supports(model) else [child for child in model.children() if supports(child)]


def checkpoints(family: str) -> list[bool | None]:
    """Values of `use_reentrant` that a family can be trained with; None is no checkpoint."""
    model = models.FAMILIES[family](False).model
    return [None, True, False] if parts_with_checkpoints(model) else [None]


CASES = [
    (family, implementation, reentrant)
    for family in models.FAMILIES
    for implementation in models.implementations(family)
    for reentrant in checkpoints(family)
]
# transformers' own WavLM does not come to the end of a backward pass with these.
ENDLESS = ("wavlm", None, True)


def make_training(
    family: str,
    padded: bool,
    implementation: str | None,
    reentrant: bool | None,
    dropout: float = 0.0,
    dtype: Any = None,
) -> models.Case:
    case = models.make(family, padded, implementation)
    for module in case.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        for name in DROPOUTS:
            if isinstance(vars(module).get(name), float):
                setattr(module, name, dropout)
    case.model.to(dtype or torch.float32).train()
    if reentrant is not None:
        for part in parts_with_checkpoints(case.model):
            part.gradient_checkpointing_enable({"use_reentrant": reentrant})
    return case._replace(inputs=models.converted(case.inputs, dtype or torch.float32))


def tensors_of(output: Any) -> Iterator[Any]:
    if isinstance(output, torch.Tensor):
        yield output.detach().clone()
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_of(value)


def loss_of(output: Any) -> Any:
    loss = output.get("loss")
    return output[0].float().square().mean() if loss is None else loss


def steps(case: models.Case, backward: bool = True) -> list[Any]:
    """Train for two steps, then infer: all outputs, and the random state after each pass."""
    case.model.train().zero_grad()
    torch.manual_seed(1)
    seen: list[Any] = []
    for _ in range(2):
        output = case.model(**case.inputs)
        seen += [*tensors_of(output), torch.get_rng_state()]
        if backward:
            loss_of(output).backward()
            seen.append(torch.get_rng_state())
    case.model.eval()
    with torch.no_grad():
        seen += tensors_of(case.model(**case.inputs))
    return seen


def assert_same_bits(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def assert_trains_the_same(case: models.Case, backward: bool = True) -> None:
    expected = steps(case, backward)
    with accelerated(case.model):
        assert_same_bits(steps(case, backward), expected)


# ---- outputs ----


@pytest.mark.parametrize(("family", "implementation", "reentrant"), CASES)
@pytest.mark.parametrize(("padded", "dropout"), [(False, 0.0), (True, 0.1)])
def test_outputs_in_training_are_the_same_bits(
    family: str, implementation: str | None, reentrant: bool | None, padded: bool, dropout: float
) -> None:
    case = make_training(family, padded, implementation, reentrant, dropout)
    assert_trains_the_same(case, (family, implementation, reentrant) != ENDLESS)


@pytest.mark.parametrize(
    ("family", "reentrant"),
    [
        *((f, r) for f in ("t5", "umt5", "udop", "pix2struct") for r in (None, True, False)),
        ("layoutlmv3", None),
    ],
)
@pytest.mark.parametrize("change", ["bfloat16", "autocast", "one_head"])
def test_outputs_in_training_are_the_same_bits_when(
    family: str, reentrant: bool | None, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == "one_head":
        monkeypatch.setitem(models.T5, "num_heads", 1)
        monkeypatch.setitem(models.LAYOUT, "num_attention_heads", 1)
    dtype = torch.bfloat16 if change == "bfloat16" else None
    case = make_training(family, False, "sdpa", reentrant, 0.0, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        assert_trains_the_same(case)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("whole", [True, False])
def test_checkpoints_by_hand_give_the_same_bits(reentrant: bool, padded: bool, whole: bool) -> None:
    case = make_training("t5", padded, "sdpa", None)
    encoder = case.model.encoder
    attention_mask = case.inputs.get("attention_mask")
    states = encoder.embed_tokens(case.inputs["input_ids"]).detach().requires_grad_()

    def run_blocks() -> Any:
        mask = None if attention_mask is None else attention_mask.bool()[:, None, None]
        x, bias = states, None
        for block in encoder.block:
            x, bias, _ = checkpoint(block, x, mask, bias, use_reentrant=reentrant)
        return x

    def run_whole() -> Any:
        def call(embeds: Any) -> Any:
            return encoder(inputs_embeds=embeds, attention_mask=attention_mask)[0]

        return checkpoint(call, states, use_reentrant=reentrant)

    def train() -> tuple[list[Any], list[Any]]:
        outputs, states.grad = [], None
        encoder.zero_grad()
        for _ in range(2):
            output = (run_whole if whole else run_blocks)()
            output.square().mean().backward()
            outputs.append(output.detach())
        named = [*encoder.block.parameters(), states]
        return outputs, [parameter.grad.clone() for parameter in named]

    expected, expected_gradients = train()
    with accelerated(case.model):
        found, found_gradients = train()
    assert_same_bits(found, expected)
    for ours, theirs in zip(found_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_generating_after_training_gives_the_same_tokens() -> None:
    case = make_training("t5", True, "sdpa", True, 0.1)
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}

    def run() -> list[Any]:
        steps(case)
        for train in (True, False):
            case.model.train(train)
            with torch.no_grad():
                found = case.model.generate(
                    **inputs, max_new_tokens=6, output_scores=True, return_dict_in_generate=True
                )
        return [found.sequences, *found.scores, torch.get_rng_state()]

    expected = run()
    with accelerated(case.model):
        assert_same_bits(run(), expected)


# ---- what sdpa is given ----


def given_to_sdpa(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[Any]:
    """Collect what decides on sdpa's kernel, and the masks."""
    flags: list[Any] = []
    masks: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(query: Any, *args: Any, **kwargs: Any) -> Any:
        mask = kwargs["attn_mask"]
        if mask is not None:
            flags.append((mask.requires_grad, mask.is_contiguous(), torch.is_grad_enabled()))
            masks.append(mask.detach().clone())
        return attend(query, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        call()
    return [torch.tensor(flags), *masks]


def with_prefix(case: models.Case) -> models.Case:
    """Give the model one token to read, or one to write."""
    inputs = {"input_ids": models.tokens(1), "labels": models.tokens(1)}
    return case._replace(inputs=inputs)


def with_biases(*kinds: str) -> Callable[[models.Case], models.Case]:
    def change(case: models.Case) -> models.Case:
        biases = case.model.encoder.relative_bias.biases
        order = {"1d": 0, "horizontal": 1, "vertical": 2}
        kept = [biases[order[kind]] for kind in kinds]
        case.model.encoder.relative_bias.biases = torch.nn.ModuleList(kept)
        # Without pictures nothing is masked, and sdpa takes the bias alone.
        read = {name: case.inputs[name] for name in ("input_ids", "bbox")}
        return models.Case(case.model.encoder, read)

    return change


def frozen(case: models.Case) -> models.Case:
    case.model.requires_grad_(False)
    case.model.get_input_embeddings().requires_grad_(True)
    return case


@pytest.mark.parametrize("reentrant", [None, True, False])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("t5", lambda case: case),
        ("t5", with_prefix),
        ("t5", frozen),
        ("udop", lambda case: case),
        ("udop", with_biases("1d")),
        ("udop", with_biases("horizontal", "1d")),
        ("udop", with_biases("1d", "horizontal", "vertical")),
        ("pix2struct", lambda case: case),
    ],
)
def test_sdpa_is_given_masks_that_require_the_same(
    family: str,
    change: Callable[[models.Case], models.Case],
    num_heads: int,
    padded: bool,
    reentrant: bool | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(models.T5, "num_heads", num_heads)
    case = change(make_training(family, padded, "sdpa", reentrant))

    def call() -> None:
        loss_of(case.model(**case.inputs)).backward()

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_bits(given_to_sdpa(monkeypatch, call), expected)


@pytest.mark.parametrize("length", [1, 6])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_bias_that_requires_a_gradient_is_read_without(
    length: int, own: bool, with_mask: bool, stack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_training("t5", False, "sdpa", None)
    first, second = (getattr(case.model, stack).block[i].layer[0].SelfAttention for i in (0, 1))
    states, past = torch.randn(2, length, 32), 9 - length
    mask = torch.rand(2, 1, length, 9) < 0.7 if with_mask or length == 6 else None

    class Longer:  # a cache that holds what was before
        def get_seq_length(self, layer: int) -> int:
            return past

        def update(self, keys: Any, values: Any, *args: Any, **kwargs: Any) -> Any:
            return [torch.nn.functional.pad(x, (0, 0, past, 0)) for x in (keys, values)]

    def call() -> None:
        bias = first.compute_bias(length, 9, past_seen_tokens=past)
        if not own:
            bias = torch.empty(bias.shape).copy_(bias.detach()).requires_grad_()
        for _ in range(2):
            with torch.no_grad():
                second(states, mask=mask, position_bias=bias, cache=Longer())
        second(states, mask=mask, position_bias=bias, cache=Longer())

    expected = given_to_sdpa(monkeypatch, call)
    with accelerated(case.model):
        assert_same_bits(given_to_sdpa(monkeypatch, call), expected)


# ---- gradients ----


@pytest.mark.parametrize(
    ("family", "implementation", "reentrant"),
    [case for case in CASES if case[2] is not None and case != ENDLESS],
)
def test_gradients_with_checkpoints_are_equal_to_rounding(
    family: str, implementation: str | None, reentrant: bool
) -> None:
    padded = family != "prophetnet"  # whose gradients are NaN then
    case = make_training(family, padded, implementation, reentrant, 0.0, torch.float64)

    def gradients() -> dict[str, Any]:
        case.model.zero_grad()
        torch.manual_seed(1)  # of the noise in the routers of Switch Transformers
        loss_of(case.model(**case.inputs)).backward()
        named = case.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    expected = gradients()
    with accelerated(case.model):
        found = gradients()
    assert found.keys() == expected.keys()
    assert any("relative" in name or "rel_attn" in name for name in found)
    for name, gradient in expected.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


def test_a_mask_that_is_trained_gets_its_gradient_after_a_pass_without() -> None:
    case = make_training("t5", False, "sdpa", None)
    case.model.requires_grad_(False)
    first, second = (case.model.encoder.block[i].layer[0].SelfAttention for i in (0, 1))
    states = torch.randn(2, 6, 32)
    mask = torch.randn(2, 1, 6, 6, requires_grad=True)

    def gradient() -> Any:
        bias = first.compute_bias(6, 6)
        with torch.no_grad():
            second(states, mask=mask, position_bias=bias)
        total = second(states, mask=mask, position_bias=bias)[0].square().sum()
        return torch.autograd.grad(total, mask)[0]

    expected = gradient()
    assert expected.abs().max() > 0
    with accelerated(case.model):
        torch.testing.assert_close(gradient(), expected)


# ---- what is read stays as it is ----


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
def test_what_an_attention_reads_stays_as_it_is(gradient: bool, masked: str) -> None:
    case = make_training("t5", False, "sdpa", None)
    accelerate(case.model)
    attention = case.model.encoder.block[1].layer[0].SelfAttention
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


@pytest.mark.parametrize("kind", ["mask", "view", "none"])
def test_a_merged_matrix_goes_with_its_bias(kind: str) -> None:
    case = make_training("t5", False, "sdpa", None)
    accelerate(case.model)
    attention = case.model.encoder.block[1].layer[0].SelfAttention
    states = torch.randn(2, 6, 32)
    gc.collect()
    before = len(_merge._merged_by_bias)
    gc.disable()
    try:
        bias = torch.randn(1, 6, 6, 4).permute(0, 3, 1, 2)
        mask = {"mask": torch.rand(2, 1, 6, 6) < 0.5, "view": bias[:, :1], "none": None}[kind]
        with torch.no_grad():
            attention(states, mask=mask, position_bias=bias)
            kept = _merge._merged_by_bias[bias].matrix
            attention(states, mask=mask, position_bias=bias)
            assert _merge._merged_by_bias[bias].matrix is kept
        alive = weakref.ref(kept)
        assert len(_merge._merged_by_bias) == before + 1
        del kept, mask, bias
        assert alive() is None
        assert len(_merge._merged_by_bias) == before
    finally:
        gc.enable()


def test_a_mask_in_the_place_of_another_is_merged_anew() -> None:
    case = make_training("t5", False, "sdpa", None)
    attention = case.model.encoder.block[1].layer[0].SelfAttention
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


def test_threads_may_share_a_bias() -> None:
    case = make_training("t5", False, "sdpa", None)
    attention = case.model.encoder.block[1].layer[0].SelfAttention
    states, bias = torch.randn(2, 6, 32), torch.randn(1, 4, 6, 6)
    masks = [torch.rand(2, 1, 6, 6) < 0.5 for _ in range(4)]

    def attend(mask: Any) -> list[Any]:
        with torch.no_grad():
            return [attention(states, mask=mask, position_bias=bias)[0] for _ in range(50)]

    expected = [attend(mask) for mask in masks]
    with accelerated(case.model), ThreadPoolExecutor(len(masks)) as pool:
        for ours, theirs in zip(pool.map(attend, masks), expected, strict=True):
            assert_same_bits(ours, theirs)
