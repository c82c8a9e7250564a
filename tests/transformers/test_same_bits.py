# test_same_bits.py - accelerated models give the bits and the tokens that transformers gives.
# SPDX-License-Identifier: BSD-3-Clause
import random
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402

from t5bucket.transformers import accelerated  # noqa: E402
from t5bucket.transformers._registry import FAMILIES  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


CASES = [(family, name) for family in models.FAMILIES for name in models.implementations(family)]


@pytest.mark.parametrize(("family", "implementation"), CASES)
@pytest.mark.parametrize("padded", [False, True])
def test_outputs_are_the_same_bits(
    family: str, implementation: str | None, padded: bool, log: Any
) -> None:
    case = models.make(family, padded, implementation)
    expected = run(case)
    with accelerated(case.model):
        found = run(case)
    assert_same_bits(found, expected)
    assert not [record for record in log.records if "falls back" in record.message]


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


def test_outputs_under_autocast_are_the_same_bits() -> None:
    case = models.make("t5", padded=True)
    with torch.autocast("cpu", torch.bfloat16):
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


def test_outputs_with_a_mask_of_floats_are_the_same_bits() -> None:
    case = models.make("t5")
    encoder = models.Case(case.model.encoder, {"input_ids": case.inputs["input_ids"]})
    mask = torch.randn(models.BATCH, 1, models.LENGTH, models.LENGTH)
    expected = run(encoder, attention_mask=mask)
    with accelerated(case.model):
        assert_same_bits(run(encoder, attention_mask=mask), expected)


GENERATING = [name for name in models.FAMILIES if models.FAMILIES[name](False).generates]
BY_BEAMS, BY_CHANCE = {"num_beams": 3}, {"do_sample": True}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        *((family, {}) for family in GENERATING),
        *(("t5", options) for options in (BY_BEAMS, BY_CHANCE)),
        *(
            pytest.param(family, options, marks=pytest.mark.slow)
            for family in GENERATING
            if family != "t5"
            for options in (BY_BEAMS, BY_CHANCE)
        ),
    ],
)
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


@pytest.mark.parametrize("family", ["t5", "umt5"])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 12), (33, 40), (6, 3), (64, 17)])
def test_unusual_settings_give_the_same_bits_or_the_same_error(
    family: str, num_buckets: int, max_distance: int
) -> None:
    case = models.make(family, padded=True)
    for module in case.model.modules():
        if hasattr(module, "relative_attention_num_buckets"):
            module.relative_attention_num_buckets = num_buckets
            module.relative_attention_max_distance = max_distance
        if hasattr(module, "relative_attention_bias"):
            module.relative_attention_bias = torch.nn.Embedding(num_buckets, 4)
    try:
        expected = run(case)
    except IndexError:  # transformers' rule leaves the weight
        with accelerated(case.model), pytest.raises(IndexError):
            run(case)
    else:
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


def test_augmented_positions_are_drawn_once() -> None:
    case = models.make("udop", padded=True)
    for bias in case.model.encoder.relative_bias.biases:
        bias.augmentation = True
    case.model.train()

    def draw() -> Any:
        random.seed(0)
        return run(case).logits, torch.tensor(random.random())

    expected = draw()
    with accelerated(case.model):
        assert_same_bits(draw(), expected)


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
