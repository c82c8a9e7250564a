# test_inexact.py - models that are accelerated with exact=False: equal up to rounding.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import (  # noqa: E402
    assert_same_bits,
    assert_same_gradients,
    gradients_of,
    run,
    tensors_of,
)

from t5bucket.transformers import accelerate, accelerated, restore  # noqa: E402
from t5bucket.transformers._layer import is_exact  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions

WITHOUT_MATRIX = ["mpnet", "wavlm"]
OTHERS = [*WITHOUT_MATRIX, "longt5_local", "switch_transformers"]  # whose attention is another one


def assert_close(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """Compare all tensors, relative to the largest item of each."""
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        largest = b.abs().max().item()
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest)


def fell_back(log: Any) -> bool:
    return any("falls back" in record.message for record in log.records)


@pytest.mark.parametrize("family", models.FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_are_equal_up_to_rounding(family: str, padded: bool, log: Any) -> None:
    case = models.make(family, padded)
    expected = run(case)
    with accelerated(case.model, exact=False):
        assert_close(run(case), expected)
    assert not fell_back(log)
    assert_same_bits(run(case), expected)


@pytest.mark.parametrize("family", [*WITHOUT_MATRIX, "longt5_local"])
def test_outputs_in_bfloat16_are_as_right_as_those_of_transformers(family: str, log: Any) -> None:
    case = models.make(family, padded=True)
    case.model.bfloat16()
    rounded = case._replace(inputs=models.converted(case.inputs, torch.bfloat16))
    expected = run(rounded)
    with accelerated(case.model, exact=False):
        found = run(rounded)
    assert not fell_back(log)
    case.model.float()  # with the rounded weights and inputs
    truth = run(case._replace(inputs=models.converted(rounded.inputs, torch.float32)))
    for ours, theirs, right in zip(*map(tensors_of, (found, expected, truth)), strict=True):
        assert ours.dtype == theirs.dtype
        error, allowed = (ours.float() - right).norm(), (theirs.float() - right).norm()
        assert error <= 1.2 * allowed + 1e-3 * right.norm()


@pytest.mark.parametrize("family", WITHOUT_MATRIX)
def test_no_matrix_is_computed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from t5bucket.transformers import _lazy, _mpnet, _wavlm

    case = models.make(family, padded=True)
    accelerate(case.model, exact=False)
    for module in (_lazy, _mpnet, _wavlm):  # the first computes a bias that is looked at
        monkeypatch.setattr(module, "compute_bias", None)
    run(case)


@pytest.mark.parametrize("family", ["t5", "umt5", "switch_transformers", "longt5_local", "mpnet"])
@pytest.mark.parametrize("exact", [True, False])
def test_attention_is_told_the_mode(
    family: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t5bucket import torch as with_torch
    from t5bucket.transformers import _lazy, _mpnet

    case, told = models.make(family, padded=True), []

    def attend(*args: Any, **kwargs: Any) -> Any:
        told.append(kwargs["exact"])
        return original(*args, **kwargs)

    original = with_torch.scaled_dot_product_attention
    for module in (_lazy, _mpnet):
        monkeypatch.setattr(module, "scaled_dot_product_attention", attend)
    run(case._replace(model=accelerate(case.model, exact=exact)))
    is_eager = family in {"switch_transformers", "longt5_local", "mpnet"}
    assert set(told) == (set() if exact and is_eager else {exact})


@pytest.mark.parametrize("begins", [0, 31])
@pytest.mark.parametrize("family", WITHOUT_MATRIX)
def test_any_keys_may_be_padded(family: str, begins: int) -> None:
    case = models.make(family, padded=True)
    mask = case.inputs["attention_mask"]
    if family == "wavlm":  # the mask of its frames
        case = models.Case(case.model.encoder, {"hidden_states": torch.randn(3, 150, 32)})
        mask = models.lengths_mask()
    mask[:, :begins] = 0
    mask[1, 40:60] = 0
    mask = mask.bool() if family == "wavlm" else mask

    def encode() -> Any:
        inputs = {name: value.clone() for name, value in case.inputs.items()}
        return run(case._replace(inputs=inputs), attention_mask=mask)

    expected = encode()
    with accelerated(case.model, exact=False):
        assert_close(encode(), expected)


@pytest.mark.parametrize("nbytes", [1, 1500, 40_000, 1 << 30])
@pytest.mark.parametrize("tile", [1, 64])
def test_strips_of_any_size_give_the_same(
    nbytes: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t5bucket.transformers import _wavlm

    case = models.make("wavlm", padded=True)
    expected = run(case)
    monkeypatch.setattr(_wavlm, "STRIP_NBYTES", nbytes)
    monkeypatch.setattr(_wavlm, "TILE", tile)
    with accelerated(case.model, exact=False):
        assert_close(run(case), expected)


# ---- what runs as before ----


@pytest.mark.parametrize("family", ["t5", *OTHERS])
@pytest.mark.parametrize("configured", [False, True])
def test_attentions_are_the_same_bits(family: str, configured: bool) -> None:
    case = models.make(family, padded=True)
    options = {}
    if configured or family == "t5":  # whose sdpa has none
        models.choose_attention(case.model, "eager")
    if configured:
        for module in case.model.modules():
            if hasattr(module, "config"):
                module.config.output_attentions = True
    else:
        options["output_attentions"] = True
    expected = run(case, **options)
    with accelerated(case.model, exact=False):
        assert_same_bits(run(case, **options), expected)


def test_hidden_states_need_no_matrix(log: Any) -> None:
    case = models.make("wavlm", padded=True)
    expected = run(case, output_hidden_states=True)
    with accelerated(case.model, exact=False):
        for _ in range(2):  # the recording hooks stay
            assert_close(run(case, output_hidden_states=True), expected)
    assert not fell_back(log)


@pytest.mark.parametrize("family", OTHERS)
def test_training_gives_the_same_bits_and_gradients(family: str) -> None:
    case = models.make(family, padded=True)
    case.model.double()
    case = case._replace(inputs=models.converted(case.inputs, torch.float64))
    expected, gradients = case.model(**case.inputs), gradients_of(case)
    with accelerated(case.model, exact=False):
        assert_same_bits(case.model(**case.inputs), expected)
        assert_same_gradients(gradients_of(case), gradients)


@pytest.mark.parametrize("family", ["t5", "umt5", "longt5_local", "switch_transformers"])
@pytest.mark.parametrize("reentrant", [True, False])
def test_training_with_checkpoints_gives_the_same_bits(family: str, reentrant: bool) -> None:
    case = models.make(family, padded=True)
    case.model.double().train()
    case = case._replace(inputs=models.converted(case.inputs, torch.float64))
    for parameter in case.model.get_encoder().parameters():
        parameter.requires_grad_(False)  # as with adapters
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})

    def train() -> tuple[Any, Any]:
        torch.manual_seed(1)  # of dropout
        logits = case.model(**case.inputs).logits
        torch.manual_seed(1)
        return logits, gradients_of(case)

    expected, gradients = train()
    with accelerated(case.model, exact=False):
        logits, found = train()
    assert_same_bits(logits, expected)
    assert_same_gradients(found, gradients)


@pytest.mark.parametrize("family", WITHOUT_MATRIX)
def test_dropout_gives_the_same_bits(family: str) -> None:
    case = models.make(family, padded=True)
    case.model.train()
    for layer in attentions_of(case.model):
        if family == "mpnet":
            layer.dropout.p = 0.3
        else:
            layer.dropout = 0.3

    def draw() -> Any:
        torch.manual_seed(1)
        return run(case)

    expected = draw()
    with accelerated(case.model, exact=False):
        assert_same_bits(draw(), expected)


def attentions_of(model: Any) -> list[Any]:
    names = {"MPNetSelfAttention", "WavLMAttention"}
    return [module for module in model.modules() if type(module).__name__ in names]


@pytest.mark.parametrize("family", WITHOUT_MATRIX)
@pytest.mark.parametrize("place", ["attention", "before", "instance", "everywhere"])
def test_hooks_see_the_same_bits(family: str, place: str) -> None:
    case = models.make(family, padded=True)
    seen: list[Any] = []

    def see(module: Any, *values: Any) -> None:
        if type(module).__name__ in {"MPNetSelfAttention", "WavLMAttention"}:
            seen.append(values)

    def forward(original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: original(*args, **kwargs)

    handles = []
    if place == "everywhere":
        handles.append(torch.nn.modules.module.register_module_forward_hook(see))
    for layer in attentions_of(case.model):
        if place == "attention":
            layer.register_forward_hook(see, with_kwargs=True)
        elif place == "before":
            layer.register_forward_pre_hook(see, with_kwargs=True)
        elif place == "instance":
            layer.forward = forward(layer.forward)
    try:
        expected, seen_before = run(case), list(seen)
        seen.clear()
        with accelerated(case.model, exact=False):
            assert_same_bits(run(case), expected)
        if seen_before:
            assert_same_bits(seen, seen_before)
    finally:
        for handle in handles:
            handle.remove()


def test_a_hook_of_the_dropout_sees_the_weights() -> None:
    case = models.make("mpnet", padded=True)
    for layer in attentions_of(case.model):
        layer.dropout.register_forward_hook(lambda module, args, output: output * 0.5)
    expected = run(case)
    with accelerated(case.model, exact=False):
        assert_same_bits(run(case), expected)


@pytest.mark.parametrize("family", WITHOUT_MATRIX)
def test_a_layer_that_is_not_accelerated_sees_the_matrix(family: str) -> None:
    case = models.make(family, padded=True)
    expected = run(case)
    accelerate(case.model, exact=False)
    restore(attentions_of(case.model)[1])
    assert_close(run(case), expected)


@pytest.mark.parametrize("family", OTHERS)
def test_autocast_gives_the_same_bits(family: str) -> None:
    case = models.make(family, padded=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(case)
        with accelerated(case.model, exact=False):
            assert_same_bits(run(case), expected)


def test_an_example_without_a_key_gives_what_transformers_gives() -> None:
    case = models.make("wavlm")
    encoder = models.Case(case.model.encoder, {})
    mask = models.lengths_mask().bool()
    mask[1] = False
    states = torch.randn(3, 150, 32)
    expected = run(encoder, hidden_states=states.clone(), attention_mask=mask)
    with accelerated(case.model, exact=False):
        found = run(encoder, hidden_states=states.clone(), attention_mask=mask)
    torch.testing.assert_close(
        found.last_hidden_state, expected.last_hidden_state, rtol=0, atol=0, equal_nan=True
    )


def test_a_model_with_eager_weights_of_several_dtypes_falls_back(log: Any) -> None:
    case = models.make("wavlm")
    for layer in attentions_of(case.model):
        layer.gru_rel_pos_const.data = layer.gru_rel_pos_const.double()
    with pytest.raises(RuntimeError):
        run(case)
    with accelerated(case.model, exact=False), pytest.raises(RuntimeError):
        run(case)
    assert fell_back(log)


# ---- modes ----


@pytest.mark.parametrize("family", ["t5", *OTHERS])
def test_accelerating_again_changes_the_mode(family: str) -> None:
    case = models.make(family, padded=True)
    plain, expected = models.classes_of(case.model), run(case)
    exact = models.classes_of(accelerate(case.model))
    inexact = models.classes_of(accelerate(case.model, exact=False))
    assert inexact != exact
    assert_close(run(case), expected)
    assert models.classes_of(accelerate(case.model, exact=False)) == inexact
    assert models.classes_of(accelerate(case.model)) == exact
    assert_same_bits(run(case), expected)
    accelerate(case.model, exact=False)
    assert models.classes_of(restore(case.model)) == plain


def test_layers_know_their_mode() -> None:
    case = models.make("t5")
    attention = models.attention_of(case.model)
    assert is_exact(attention)
    assert is_exact(models.attention_of(accelerate(case.model)))
    assert not is_exact(models.attention_of(accelerate(case.model, exact=False)))
    assert is_exact(restore(attention))


@pytest.mark.parametrize("outer", [None, True, False])
@pytest.mark.parametrize("inner", [True, False])
def test_a_block_gives_the_mode_back(outer: bool | None, inner: bool) -> None:
    case = models.make("mpnet")
    if outer is not None:
        accelerate(case.model, exact=outer)
    before = models.classes_of(case.model)
    with accelerated(case.model, exact=inner):
        assert (models.classes_of(case.model) == before) is (inner is outer)
    assert models.classes_of(case.model) == before
    with accelerated(case.model, exact=inner):
        restore(case.model)
    assert models.classes_of(case.model) == before


def test_a_class_derived_from_an_accelerated_one_keeps_its_mode(log: Any) -> None:
    case = models.make("t5", padded=True)
    attention = models.attention_of(accelerate(case.model))
    attention.__class__ = type("Sharded", (type(attention),), {})
    accelerate(case.model)
    assert not [record for record in log.records if record.levelname == "WARNING"]
    accelerate(case.model, exact=False)
    assert is_exact(attention)
    assert [record for record in log.records if "Sharded stays accelerated" in record.message]


def test_a_deep_copy_keeps_the_mode_and_a_pickle_does_not() -> None:
    case = models.make("mpnet", padded=True)
    plain, expected = models.classes_of(case.model), run(case)
    accelerate(case.model, exact=False)
    twin = copy.deepcopy(case.model)
    assert models.classes_of(twin) == models.classes_of(case.model)
    assert_close(run(case._replace(model=twin)), expected)
    data = pickle.dumps(case.model)
    assert b"t5bucket" not in data
    loaded = pickle.loads(data)
    assert models.classes_of(loaded) == plain
    assert_same_bits(run(case._replace(model=loaded)), expected)


@pytest.mark.parametrize("exact", [None, 1, 0.0, "no", torch.tensor(True)])
def test_exact_must_be_a_boolean(exact: Any) -> None:
    model = models.make("t5").model
    before = models.classes_of(model)
    with pytest.raises(TypeError, match="exact must be True or False, got"):
        accelerate(model, exact=exact)
    with (
        pytest.raises(TypeError, match="exact must be True or False, got"),
        accelerated(model, exact=exact),
    ):
        pass
    assert models.classes_of(model) == before


# ---- the bias that layers hand on ----


def test_whoever_looks_at_a_bias_sees_the_matrix() -> None:
    case = models.make("mpnet")
    encoder, states = case.model.mpnet.encoder, torch.randn(3, 150, 32)
    with torch.no_grad():
        expected = encoder.compute_position_bias(states)
        accelerate(case.model, exact=False)

        def bias() -> Any:
            return encoder.compute_position_bias(states)

        assert bias().shape == expected.shape
        assert (bias().dtype, bias().device) == (expected.dtype, expected.device)
        assert_same_bits(bias() + 0.0, expected)
        assert_same_bits(torch.cat([bias(), bias()]), torch.cat([expected, expected]))
        assert_same_bits(bias()[:, 1], expected[:, 1])
        assert_same_bits(copy.deepcopy(bias()), expected)
        assert_same_bits(pickle.loads(pickle.dumps(bias())), expected)
        assert (bias().numpy() == expected.numpy()).all()
        assert repr(bias()) == repr(expected)


def test_a_bias_that_somebody_changed_is_what_the_layers_read() -> None:
    case = models.make("wavlm")

    length = case.model._get_feat_extract_output_lengths(4000)
    shifts = torch.randn(length)
    case.model.encoder.layers[0].register_forward_hook(
        lambda module, args, output: (output[0], output[1] + shifts)
    )
    expected = run(case)
    with accelerated(case.model, exact=False):
        assert_close(run(case), expected)


# ---- memory ----


@pytest.mark.usefixtures("one_thread")
def test_wavlm_gates_no_whole_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    from t5bucket.transformers import _wavlm

    monkeypatch.setattr(_wavlm, "STRIP_NBYTES", 1 << 20)
    encoder = models.make("wavlm").model.encoder
    states = torch.randn(1, 1500, 32)
    bias_nbytes = 4 * 1500 * 1500 * 4  # of its heads

    def largest_allocation() -> int:
        with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
            encoder(states)
        return max(int(event.self_cpu_memory_usage) for event in profile.events())

    assert largest_allocation() >= bias_nbytes
    with accelerated(encoder, exact=False):
        assert largest_allocation() < bias_nbytes / 8
