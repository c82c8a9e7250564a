# test_accelerate.py - accelerated models: the same bits, tokens and gradients, and what falls back.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import functools
import io
import logging
import pickle
import random
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder  # noqa: E402
from transformers.models.t5 import modeling_t5  # noqa: E402

from t5bucket.transformers import accelerate, accelerated, restore, supported_models  # noqa: E402
from t5bucket.transformers._registry import FAMILIES  # noqa: E402

LOGGER = "t5bucket.transformers"
pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def tensors_of(output: Any) -> Iterator[Any]:
    """Yield all tensors of an output, in a fixed order."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from tensors_of(value)


def assert_same_bits(found: Any, expected: Any) -> None:
    pairs = list(zip(tensors_of(found), tensors_of(expected), strict=True))
    assert pairs
    for a, b in pairs:
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert torch.equal(a, b)
        assert torch.equal(torch.signbit(a), torch.signbit(b))


def run(case: models.Case, **options: Any) -> Any:
    with torch.no_grad():
        return case.model(**{**case.inputs, **options})


def fell_back(caplog: Any) -> list[str]:
    return [record.message for record in caplog.records if "falls back" in record.message]


CASES = [(family, name) for family in models.FAMILIES for name in models.implementations(family)]


@pytest.mark.parametrize(("family", "implementation"), CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_are_the_same_bits(
    family: str, implementation: str | None, padded: bool, caplog: Any
) -> None:
    case = models.make(family, padded, implementation)
    expected = run(case)
    with caplog.at_level(logging.DEBUG, LOGGER), accelerated(case.model):
        found = run(case)
    assert_same_bits(found, expected)
    assert not fell_back(caplog)


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_biases_are_ours(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def watched(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(function)
            return function(*args, **kwargs)

        return call

    names = {"compute_bias", "compute_bias_at", "fill_bias_at", "tabulate"}
    for module in FAMILIES:
        for name in names & vars(module).keys():
            monkeypatch.setattr(module, name, watched(getattr(module, name)))
    case = models.make(family)
    with accelerated(case.model):
        run(case)
    assert called


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("family", ["t5", "umt5", "mpnet", "layoutlmv3", "udop"])
def test_other_dtypes_are_the_same_bits(family: str, dtype: Any) -> None:
    case = models.make(family, padded=True)
    case.model.to(dtype)
    case = case._replace(inputs=models.converted(case.inputs, dtype))
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)


@pytest.mark.parametrize(
    "family", [name for name in models.FAMILIES if models.FAMILIES[name](False).generates]
)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True}])
def test_generated_tokens_are_the_same(family: str, options: dict[str, Any]) -> None:
    case = models.make(family, padded=family != "prophetnet")
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}

    def generate() -> Any:
        torch.manual_seed(1)
        return case.model.generate(
            **inputs, max_new_tokens=12, output_scores=True, return_dict_in_generate=True, **options
        )

    expected = generate()
    with accelerated(case.model):
        found = generate()
    assert_same_bits([found.sequences, found.scores], [expected.sequences, expected.scores])


def gradients(case: models.Case) -> dict[str, Any]:
    case.model.zero_grad()
    output = case.model(**case.inputs)
    values = output.loss if output.get("loss") is not None else output[0].square().mean()
    values.backward()
    named = case.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize(("family", "implementation"), CASES)
def test_gradients_are_equal_to_rounding(family: str, implementation: str | None) -> None:
    case = models.make(family, family != "prophetnet", implementation)
    if family != "layoutlmv2":  # which computes in float32 whatever it is given
        case.model.double()
        case = case._replace(inputs=models.converted(case.inputs, torch.float64))
    expected = gradients(case)
    with accelerated(case.model):
        found = gradients(case)
    assert found.keys() == expected.keys()
    tables = [name for name in found if "relative" in name or "rel_" in name]
    assert tables or family in ("layoutlmv2", "layoutlmv3")  # which do not train theirs
    for name, gradient in expected.items():
        assert gradient.isfinite().all()
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("checkpointing", [None, True, False])
def test_training_ends_with_the_same_tables(checkpointing: bool | None) -> None:
    trained = []
    for fast in (False, True):
        case = models.make("t5", padded=True)
        case.model.double().train()
        if checkpointing is not None:
            case.model.gradient_checkpointing_enable({"use_reentrant": checkpointing})
        if fast:
            accelerate(case.model)
        optimizer = torch.optim.SGD(case.model.parameters(), lr=0.05)
        for _ in range(4):
            optimizer.zero_grad()
            case.model(**case.inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(case.model.parameters(), 1.0)
            optimizer.step()
        trained.append(
            [
                case.model.get_submodule(f"{stack}.block.0.layer.0.SelfAttention")
                .relative_attention_bias.weight.detach()
                .clone()
                for stack in ("encoder", "decoder")
            ]
        )
    initial = models.make("t5").model.encoder.block[0].layer[0].SelfAttention
    assert not torch.equal(trained[0][0], initial.relative_attention_bias.weight.double())
    for theirs, ours in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", ["t5", "umt5", "mt5"])
def test_steps_of_decoding_go_on_from_a_cache(family: str) -> None:
    case = models.make(family, padded=True)
    target = models.tokens(12)

    def decode() -> Any:
        cache, logits = None, []
        for begin, end in ((0, 5), (5, 6), (6, 11), (11, 12)):  # several queries after a past, too
            output = run(
                case, labels=None, decoder_input_ids=target[:, begin:end], past_key_values=cache
            )
            cache = output.past_key_values
            logits.append(output.logits)
        return logits

    expected = decode()
    with accelerated(case.model):
        assert_same_bits(decode(), expected)


def test_buckets_of_prophetnet_are_the_same_even_where_they_are_masked() -> None:
    decoder = models.make("prophetnet").model.prophetnet.decoder
    position_ids = torch.arange(1, 100).repeat(2, 1)
    expected = decoder.compute_buffered_relative_buckets(position_ids)
    with accelerated(decoder):
        assert_same_bits(decoder.compute_buffered_relative_buckets(position_ids), expected)


def test_one_bias_with_several_masks() -> None:
    case = models.make("t5", implementation="sdpa")
    attention = case.model.encoder.block[1].layer[0].SelfAttention
    states = torch.randn(models.BATCH, models.LENGTH, 32)
    first = case.model.encoder.block[0].layer[0].SelfAttention

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


@pytest.mark.parametrize("with_checkpoints", [(0,), (0, 2), (1, 2)])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_where_some_blocks_have_checkpoints(
    with_checkpoints: tuple[int, ...], reentrant: bool
) -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    case.model.double().train()
    case.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for number, block in enumerate(case.model.encoder.block):
        block.gradient_checkpointing = number in with_checkpoints
    expected = gradients(case)
    with accelerated(case.model):
        found = gradients(case)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


def test_a_bias_used_without_gradients_and_then_with_them() -> None:
    case = models.make("t5", implementation="sdpa")
    first, second = (case.model.encoder.block[i].layer[0].SelfAttention for i in (0, 1))
    states = torch.randn(models.BATCH, models.LENGTH, 32)
    mask = models.lengths_mask().bool()[:, None, None]
    table = first.relative_attention_bias.weight

    def gradient() -> Any:
        bias = first.compute_bias(models.LENGTH, models.LENGTH)
        with torch.no_grad():
            second(states, mask=mask, position_bias=bias)
        total = second(states, mask=mask, position_bias=bias)[0].square().sum()
        return torch.autograd.grad(total, table)[0]

    expected = gradient()
    assert expected.abs().max() > 0
    with accelerated(case.model):
        torch.testing.assert_close(gradient(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["t5", "umt5"])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 12), (33, 40), (6, 3), (64, 17)])
def test_unusual_settings(family: str, num_buckets: int, max_distance: int) -> None:
    case = models.make(family, padded=True)
    for module in case.model.modules():
        if hasattr(module, "relative_attention_num_buckets"):
            module.relative_attention_num_buckets = num_buckets
            module.relative_attention_max_distance = max_distance
        if hasattr(module, "relative_attention_bias"):
            module.relative_attention_bias = torch.nn.Embedding(num_buckets, 4)
    try:
        expected = run(case)
    except IndexError:  # transformers' rule leaves the table
        with accelerated(case.model), pytest.raises(IndexError):
            run(case)
    else:
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


def given_to_sdpa(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> list[Any]:
    """Collect the masks, and whether there is a causal one besides, that sdpa is given."""
    given: list[Any] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def watched(*args: Any, **kwargs: Any) -> Any:
        given.append((kwargs["attn_mask"], torch.tensor(bool(kwargs["is_causal"]))))
        return attend(*args, **kwargs)

    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
        call()
    return given


def mixed_types(case: models.Case) -> models.Case:
    case.model.bfloat16()
    attention_of(case.model).relative_attention_bias.float()
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
        assert_same_bits(given_to_sdpa(monkeypatch, call), expected)


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
        assert_same_bits(given_to_sdpa(monkeypatch, call), expected)


def test_a_causal_bias_of_more_keys_than_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.make("t5", implementation="sdpa")
    attention = case.model.decoder.block[1].layer[0].SelfAttention
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
        assert_same_bits(given_to_sdpa(monkeypatch, call), expected)


def test_a_mask_of_more_keys_than_there_are() -> None:
    case = models.make("pix2struct", implementation="sdpa")  # which cuts it
    attention = case.model.decoder.layer[1].self_attention.attention
    bias, states = torch.randn(1, 4, 6, 6), torch.randn(2, 6, 32)
    mask = torch.rand(2, 1, 6, 11) < 0.5
    with torch.no_grad():
        expected = attention(states, mask=mask, position_bias=bias)[:2]
        with accelerated(case.model):
            assert_same_bits(attention(states, mask=mask, position_bias=bias)[:2], expected)


@pytest.mark.parametrize(
    ("family", "calls"), [("t5", (9, 1 + 1)), ("udop", (9, 1 + 1)), ("layoutlmv3", (2, 0))]
)
def test_masks_are_merged_once(
    family: str, calls: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
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
    assert (before, len(merged)) == calls  # the first layers of a decoder merge by themselves


# ---- what is changed, and undone ----


def classes_of(model: Any) -> list[type]:
    return [type(module) for module in model.modules()]


def test_only_instances_change_and_are_restored() -> None:
    case = models.make("t5")
    other = models.make("t5").model
    before, attributes = classes_of(case.model), dict(vars(modeling_t5.T5Attention))
    assert accelerate(case.model) is case.model
    assert classes_of(case.model) != before
    assert classes_of(other) == before
    assert dict(vars(modeling_t5.T5Attention)) == attributes
    assert repr(case.model) == repr(other)
    for module in case.model.modules():
        assert "forward" not in vars(module)
    assert restore(case.model) is case.model
    assert classes_of(case.model) == before


def test_accelerating_twice_is_accelerating_once() -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    once = classes_of(accelerate(case.model))
    assert classes_of(accelerate(case.model)) == once
    assert_same_bits(run(case), expected)
    with accelerated(case.model):
        pass
    assert classes_of(case.model) == once  # as it was before the block
    restore(case.model)
    assert_same_bits(run(case), expected)


def test_the_block_restores_after_an_error() -> None:
    model = models.make("t5").model
    before = classes_of(model)
    with pytest.raises(RuntimeError, match="inside"), accelerated(model):
        raise RuntimeError("inside")
    assert classes_of(model) == before


def test_restoring_what_is_not_accelerated_does_nothing() -> None:
    model = models.make("t5").model
    before = classes_of(model)
    assert classes_of(restore(model)) == before


def test_a_deep_copy_is_accelerated_and_its_own() -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    twin = copy.deepcopy(accelerate(case.model))
    assert classes_of(twin) == classes_of(case.model)
    for parameter in case.model.parameters():
        torch.nn.init.zeros_(parameter)
    assert_same_bits(run(case._replace(model=twin)), expected)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickled_model_is_transformers_own(protocol: int) -> None:
    case = models.make("t5", padded=True)
    before, expected = classes_of(case.model), run(case)
    data = pickle.dumps(accelerate(case.model), protocol)
    assert b"t5bucket" not in data
    loaded = pickle.loads(data)
    assert classes_of(loaded) == before
    assert_same_bits(run(case._replace(model=loaded)), expected)


def test_a_class_derived_from_an_accelerated_one(log: Any) -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    attention = attention_of(accelerate(case.model))
    attention.__class__ = type("Sharded", (type(attention),), {})
    assert type(copy.copy(attention)).__name__ == "Sharded"
    assert type(copy.deepcopy(attention)).__name__ == "Sharded"
    assert_same_bits(run(case), expected)
    once = classes_of(accelerate(case.model))
    restore(case.model)
    assert type(attention) in once
    assert any("stays accelerated" in record.message for record in log.records)
    assert_same_bits(run(case), expected)


def test_a_class_that_copies_and_pickles_in_its_own_way() -> None:
    attention = attention_of(models.make("t5").model)
    attention.__class__ = Own
    accelerate(attention)
    assert copy.deepcopy(attention) == "its own copy"
    assert pickle.loads(pickle.dumps(attention)) == 7


class Own(modeling_t5.T5Attention):  # type: ignore[misc]
    def __deepcopy__(self, memo: Any) -> Any:
        return "its own copy"

    def __reduce__(self) -> Any:
        return int, (7,)


def test_a_parametrized_layer_can_be_restored_by_pytorch() -> None:
    from torch.nn.utils import parametrize

    case = models.make("wavlm", padded=True)
    attention = case.model.encoder.layers[0].attention
    parametrize.register_parametrization(attention, "gru_rel_pos_const", torch.nn.Identity())
    expected = run(case)
    accelerate(case.model)
    assert_same_bits(run(case), expected)
    parametrize.remove_parametrizations(attention, "gru_rel_pos_const")
    assert_same_bits(run(case), expected)


def test_weights_are_saved_and_loaded_as_before() -> None:
    case = models.make("t5")
    names = list(case.model.state_dict())
    file = io.BytesIO()
    torch.save(accelerate(case.model).state_dict(), file)
    assert list(case.model.state_dict()) == names
    fresh = models.FAMILIES["t5"](False).model
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    assert_same_bits(run(case._replace(model=accelerate(fresh))), run(case))


def test_weights_may_change_at_any_time() -> None:
    case = models.make("t5", padded=True)
    accelerate(case.model)
    run(case)
    table = case.model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    table.weight.data.mul_(3)  # which leaves no trace in the tensor's version
    found = run(case)
    restore(case.model)
    assert_same_bits(found, run(case))


def test_a_part_can_be_accelerated() -> None:
    case = models.make("t5")
    expected = run(case)
    accelerate(case.model.encoder.block[0])
    assert_same_bits(run(case), expected)


def test_supported_models_are_families_of_transformers() -> None:
    assert len(supported_models()) == 14
    for name in supported_models():
        assert name in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    tested = {family.removesuffix("_local").removesuffix("_global") for family in models.FAMILIES}
    assert tested == set(supported_models())


# ---- bad input ----


def test_a_model_without_such_a_layer_is_refused() -> None:
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    message = r"model must have a layer with relative position buckets \(.*T5Attention.*\), got Ber"
    with pytest.raises(ValueError, match=message):
        accelerate(transformers.BertModel(config))
    with pytest.raises(ValueError, match=message), accelerated(transformers.BertModel(config)):
        pass


@pytest.mark.parametrize("function", [accelerate, restore])
def test_what_is_no_module_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        function("t5-small")


# ---- what is not covered goes to transformers ----


@pytest.fixture
def log(caplog: Any) -> Iterator[Any]:
    with caplog.at_level(logging.DEBUG, LOGGER):
        yield caplog


def attention_of(model: Any) -> Any:
    return model.encoder.block[0].layer[0].SelfAttention


@pytest.mark.parametrize("prefix", [1, 5])  # prefilling masks what the cache does not hold yet
def test_offsets_that_are_tensors(prefix: int, log: Any) -> None:
    case = models.make("t5", padded=True)
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}
    inputs["decoder_input_ids"] = models.tokens(prefix)
    options = {"max_new_tokens": 9, "cache_implementation": "static", "disable_compile": True}
    expected = case.model.generate(**inputs, **options)
    with accelerated(case.model):
        assert torch.equal(case.model.generate(**inputs, **options), expected)
    assert any("no integers" in message for message in fell_back(log))


def test_meta_tensors(log: Any) -> None:
    with torch.device("meta"):
        model = models.FAMILIES["t5"](False).model
        token_ids = models.tokens()
    output = accelerate(model)(input_ids=token_ids, labels=token_ids)
    assert output.logits.shape == (models.BATCH, models.LENGTH, 99)
    assert output.logits.device.type == "meta"
    assert fell_back(log)


def test_meta_tensors_and_a_mask() -> None:
    with torch.device("meta"):
        case = models.FAMILIES["t5"](False)
        states, bias = torch.randn(2, 6, 32), torch.randn(1, 4, 6, 6)
        mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    case.model.set_attn_implementation("sdpa")
    attention = accelerate(case.model).encoder.block[1].layer[0].SelfAttention
    attended, returned, _ = attention(states, mask=mask, position_bias=bias)
    assert attended.device.type == returned.device.type == "meta"
    assert attended.shape == (2, 6, 32)


def test_fake_tensors(log: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = models.FAMILIES["t5"](False).model
        token_ids = models.tokens()
        output = accelerate(model)(input_ids=token_ids, labels=token_ids)
    assert output.logits.shape == (models.BATCH, models.LENGTH, 99)
    assert fell_back(log)


def test_a_real_model_under_a_mode_that_watches_its_operators() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    case = models.make("t5")
    counts = []
    for model in (case.model, accelerate(case.model)):
        with FlopCounterMode(display=False) as counter:
            run(case._replace(model=model))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_tracing() -> None:
    encoder = accelerate(transformers.T5EncoderModel(transformers.T5Config(**models.T5)).eval())
    token_ids = models.tokens()
    with torch.no_grad():
        traced = torch.jit.trace(encoder, (token_ids,), strict=False, check_trace=False)
        shorter = token_ids[:, :70]
        expected = restore(encoder)(token_ids).last_hidden_state
        assert torch.equal(traced(token_ids)["last_hidden_state"], expected)
        assert traced(shorter)["last_hidden_state"].shape == (models.BATCH, 70, 32)


@pytest.mark.parametrize("family", ["t5", "umt5", "mpnet"])
def test_compiling_takes_the_whole_graph(family: str) -> None:
    case = models.make(family, padded=True)
    options = {"backend": "eager", "fullgraph": True}
    torch._dynamo.reset()
    expected = torch.compile(case.model, **options)(**case.inputs)
    torch._dynamo.reset()
    found = torch.compile(accelerate(case.model), **options)(**case.inputs)
    assert_same_bits(found.logits, expected.logits)
    torch._dynamo.reset()


def test_exporting() -> None:
    encoder = transformers.T5EncoderModel(transformers.T5Config(**models.T5)).eval()
    token_ids = models.tokens()
    with torch.no_grad():
        program = torch.export.export(accelerate(encoder), (token_ids,), strict=False)
        expected = restore(encoder)(token_ids).last_hidden_state
        assert torch.equal(program.module()(token_ids).last_hidden_state, expected)
    assert not any("t5bucket" in str(node.target) for node in program.graph.nodes)


def test_transforms_of_functions(log: Any) -> None:
    attention = attention_of(accelerate(models.make("t5").model))
    name = "relative_attention_bias.weight"
    weight = attention.get_parameter(name).detach()

    class Bias(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self) -> Any:
            return self.attention.compute_bias(5, 7)

    def total(weight: Any) -> Any:
        named = {f"attention.{name}": weight}
        return torch.func.functional_call(Bias(), named, ()).square().sum()

    tangent = torch.randn_like(weight)
    _, derivative = torch.func.jvp(total, (weight,), (tangent,))
    gradient = torch.func.grad(total)(weight)
    torch.testing.assert_close(derivative, (gradient * tangent).sum())
    stacked = torch.func.vmap(total)(torch.stack([weight, 2 * weight]))
    torch.testing.assert_close(stacked[1], 4 * stacked[0])
    assert fell_back(log)


def test_autocast() -> None:
    case = models.make("t5", padded=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


def test_a_mask_of_floats() -> None:
    case = models.make("t5")
    encoder = models.Case(case.model.encoder, {"input_ids": case.inputs["input_ids"]})
    mask = torch.randn(models.BATCH, 1, models.LENGTH, models.LENGTH)
    expected = run(encoder, attention_mask=mask)
    with accelerated(case.model):
        assert_same_bits(run(encoder, attention_mask=mask), expected)


def test_an_attention_of_the_users_own() -> None:
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


def test_hooks_see_what_they_saw_before() -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    seen: list[Any] = []
    for module in case.model.modules():
        if type(module).__name__ == "T5Attention":
            module.register_forward_hook(lambda m, args, output: seen.append(output[:2]))
    run(case)
    expected, seen[:] = list(seen), []
    with accelerated(case.model):
        run(case)
    assert_same_bits(seen, expected)


def test_an_embedding_with_a_hook(log: Any) -> None:
    case = models.make("t5")
    table = attention_of(case.model).relative_attention_bias
    table.register_forward_hook(lambda module, args, output: output + 1)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("hooks" in message for message in fell_back(log))


@pytest.mark.parametrize(
    ("option", "value"),
    [("padding_idx", 3), ("max_norm", 0.2), ("scale_grad_by_freq", True), ("sparse", True)],
)
def test_an_embedding_with_an_option(option: str, value: Any, log: Any) -> None:
    case = models.make("t5", padded=True)

    def results() -> Any:
        torch.manual_seed(0)
        table = torch.nn.Embedding(32, 4, **{option: value})
        attention_of(case.model).relative_attention_bias = table
        found = gradients(case)
        name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return run(case), found[name].to_dense(), table.weight

    expected = results()
    with accelerated(case.model):
        assert_same_bits(results(), expected)
    assert any("options" in message for message in fell_back(log))


def test_hooks_of_all_modules(log: Any) -> None:
    case = models.make("t5", padded=True)

    def add(module: Any, args: Any, output: Any) -> Any:
        return output + 1 if type(module) is torch.nn.Embedding else output

    handle = torch.nn.modules.module.register_module_forward_hook(add)
    try:
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)
    finally:
        handle.remove()
    assert any("hooks" in message for message in fell_back(log))


def test_bfloat16_without_its_package(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.make("t5", padded=True)
    case.model.bfloat16()
    expected = run(case)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("ml_dtypes" in message for message in fell_back(log))


def test_positions_that_are_augmented_are_drawn_once() -> None:
    case = models.make("udop", padded=True)
    for bias in case.model.encoder.relative_bias.biases:
        bias.augmentation = True
    case.model.train()
    results = []
    for change in (restore, accelerate):
        random.seed(0)
        with torch.no_grad():
            results.append(
                [change(case.model)(**case.inputs).logits, torch.tensor(random.random())]
            )
    assert_same_bits(results[1], results[0])


def test_a_model_none_of_whose_layers_can_be_accelerated_warns(log: Any) -> None:
    class Shifted(MPNetEncoder):  # type: ignore[misc]
        def compute_position_bias(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_position_bias(*args, **kwargs) + 1

    model = models.make("mpnet").model
    model.mpnet.encoder.__class__ = Shifted
    accelerate(model)
    assert [record.levelname for record in log.records if "no layer" in record.message] == [
        "WARNING"
    ]


def test_an_embedding_of_another_kind(log: Any) -> None:
    class Doubled(torch.nn.Embedding):  # type: ignore[misc]
        def forward(self, indices: Any) -> Any:
            return 2 * super().forward(indices)

    case = models.make("t5")
    attention_of(case.model).relative_attention_bias = Doubled(32, 4)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("Doubled" in message for message in fell_back(log))


def test_a_subclass_that_overrides_a_method(log: Any) -> None:
    class Shifted(modeling_t5.T5Attention):  # type: ignore[misc]
        def compute_bias(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_bias(*args, **kwargs) + 1

    case = models.make("t5", padded=True)
    attention_of(case.model).__class__ = Shifted
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("Shifted.compute_bias is left" in record.message for record in log.records)


def test_a_subclass_with_a_rule_of_its_own() -> None:
    class Nearest(modeling_t5.T5Attention):  # type: ignore[misc]
        @staticmethod
        def _relative_position_bucket(relative_position: Any, *settings: Any, **named: Any) -> Any:
            return relative_position.abs().clamp(max=7)

    case = models.make("t5", padded=True)
    attention_of(case.model).__class__ = Nearest
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)


def test_a_rule_of_an_instances_own(log: Any) -> None:
    case = models.make("t5", padded=True)
    attention_of(case.model)._relative_position_bucket = lambda d, **settings: d.abs().clamp(max=7)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("instance's own" in message for message in fell_back(log))


def test_a_rule_that_a_subclass_makes_of_its_state() -> None:
    class Own(MPNetEncoder):  # type: ignore[misc]
        def relative_position_bucket(self, relative_position: Any, num_buckets: int) -> Any:
            return relative_position.abs().clamp(max=self.nearest)

    case = models.make("mpnet", padded=True)
    case.model.mpnet.encoder.__class__ = Own
    for case.model.mpnet.encoder.nearest in (3, 9):
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_method_that_somebody_replaced_in_the_class(
    wrapped: bool, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MPNetEncoder.compute_position_bias

    def compute_position_bias(
        self: Any, x: Any, position_ids: Any = None, num_buckets: int = 32
    ) -> Any:
        return original(self, x, position_ids, num_buckets) + 1

    if wrapped:
        functools.update_wrapper(compute_position_bias, original)
    case = models.make("mpnet")
    restore(accelerate(case.model))  # a class that was looked at before
    monkeypatch.setattr(MPNetEncoder, "compute_position_bias", compute_position_bias)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("somebody has replaced it" in record.message for record in log.records)


def test_two_threads_with_different_masks() -> None:
    case = models.make("t5", padded=True)
    inputs = [case.inputs, {**case.inputs, "attention_mask": case.inputs["attention_mask"].flip(0)}]
    expected = [run(case._replace(inputs=each)) for each in inputs]
    accelerate(case.model)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            found = pool.map(lambda each: run(case._replace(inputs=each)), inputs)
            assert_same_bits(list(found), expected)


OTHER_SIGNATURE = """
class T5Attention(T5Attention):
    def compute_bias(self, query_length, key_length, *, device, past_seen_tokens):
        return super().compute_bias(query_length, key_length, device, past_seen_tokens) + 1
"""


def test_a_method_with_another_signature(log: Any) -> None:
    namespace = dict(vars(modeling_t5))  # as another version of transformers would have it
    exec(OTHER_SIGNATURE, namespace)
    case = models.make("t5")
    attention_of(case.model).__class__ = namespace["T5Attention"]
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("another signature" in record.message for record in log.records)


def test_a_table_of_another_size(log: Any) -> None:
    case = models.make("t5")
    attention_of(case.model).relative_attention_bias = torch.nn.Embedding(40, 4)  # of 32 buckets
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("40 rows for 32 buckets" in message for message in fell_back(log))


def test_settings_without_buckets(log: Any) -> None:
    case = models.make("t5")
    attention_of(case.model).relative_attention_max_distance = 1 << 30
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("max_distance" in message for message in fell_back(log))


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
