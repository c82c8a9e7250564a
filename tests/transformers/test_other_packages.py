# test_other_packages.py - other packages can wrap, change, move and copy accelerated models.
# SPDX-License-Identifier: BSD-3-Clause
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, gradients_of, run  # noqa: E402

from t5bucket.transformers import accelerate, accelerated  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of these packages, about their own versions
]


def slowly(value: Any) -> Any:
    return pytest.param(value, marks=pytest.mark.slow)


SLOW_T5 = slowly("t5")


def assert_unchanged_by_accelerating(case: models.Case, model: Any = None) -> None:
    """Compare outputs of a model with those of an accelerated one, or of a part of it."""
    expected = run(case)
    with accelerated(model or case.model):
        assert_same_bits(run(case), expected)


# ---- sentence-transformers ----


def make_tokenizer() -> Any:
    """Make a tokenizer of single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: index for index, letter in enumerate(["<pad>", "<unk>", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", model_max_length=200
    )


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("family", ["mpnet", SLOW_T5])
def test_sentences_have_the_same_embeddings(family: str, exact: bool, tmp_path: Path) -> None:
    package = pytest.importorskip("sentence_transformers")
    model = models.make(family).model
    (model.mpnet if family == "mpnet" else model).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    encoder = package.SentenceTransformer(str(tmp_path), device="cpu")
    sentences = ["a", "abcabc" * 20, "hgfedcba" * 9]
    expected = encoder.encode(sentences)
    with accelerated(encoder, exact=exact):
        found = encoder.encode(sentences)
    if exact:
        assert np.array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# ---- PEFT ----


@pytest.mark.parametrize("family", [SLOW_T5, "mpnet"])
def test_a_model_with_lora_gives_the_same_bits_and_gradients(family: str) -> None:
    peft = pytest.importorskip("peft")
    case = models.make(family, padded=True)
    config = peft.LoraConfig(r=2, target_modules=["q", "v"], init_lora_weights=False)
    case = case._replace(model=peft.get_peft_model(case.model, config))
    assert_unchanged_by_accelerating(case)
    case.model.train()
    expected = gradients_of(case)
    accelerate(case.model)
    for name, gradient in gradients_of(case).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
    case.model.eval()
    before = run(case)
    assert_same_bits(run(case._replace(model=copy.deepcopy(case.model))), before)
    merged = case.model.merge_and_unload()
    torch.testing.assert_close(run(case._replace(model=merged))[1], before[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["PrefixTuningConfig", slowly("PromptTuningConfig")])
def test_a_model_with_a_prefix_gives_the_same_bits(kind: str) -> None:
    peft = pytest.importorskip("peft")
    case = models.make("t5", padded=True)
    config = getattr(peft, kind)(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=5)
    case = case._replace(model=peft.get_peft_model(case.model, config).eval())
    assert_unchanged_by_accelerating(case)


# ---- quantization ----


@pytest.mark.parametrize("family", [SLOW_T5, "mpnet"])
def test_a_model_of_8_bits_gives_the_same_bits(family: str) -> None:
    case = models.make(family, padded=True)
    quantize = torch.ao.quantization.quantize_dynamic
    case = case._replace(model=quantize(case.model, {torch.nn.Linear}, dtype=torch.qint8))
    assert_unchanged_by_accelerating(case)
    expected = run(case)
    accelerated_first = accelerate(models.make(family, padded=True).model)
    twin = quantize(accelerated_first, {torch.nn.Linear}, dtype=torch.qint8)
    assert_same_bits(run(case._replace(model=twin)), expected)


@pytest.mark.slow
def test_a_model_quantized_by_torchao_gives_the_same_bits() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    case = models.make("t5", padded=True)
    quantization.quantize_(case.model, quantization.Int8WeightOnlyConfig())
    assert_unchanged_by_accelerating(case)


# ---- hooks that move weights, and copies ----


@pytest.mark.parametrize("way", ["cpu_offload", slowly("disk_offload"), slowly("dispatch_model")])
def test_a_model_whose_weights_are_moved_gives_the_same_bits(way: str, tmp_path: Path) -> None:
    package = pytest.importorskip("accelerate")
    case = models.make("t5", padded=True)
    expected = run(case)
    options: dict[str, dict[str, Any]] = {
        "cpu_offload": {"execution_device": "cpu"},
        "disk_offload": {"offload_dir": tmp_path, "execution_device": "cpu"},
        "dispatch_model": {"device_map": {"": "cpu"}, "force_hooks": True},
    }
    getattr(package, way)(case.model, **options[way])
    with accelerated(case.model):
        assert_same_bits(run(case), expected)


def test_weights_can_be_moved_after_accelerating() -> None:
    package = pytest.importorskip("accelerate")
    case = models.make("t5", padded=True)
    expected = run(case)
    package.cpu_offload(accelerate(case.model), execution_device="cpu")
    assert_same_bits(run(case), expected)


def replicate(model: Any) -> Any:
    """Copy a model as DataParallel does, whose own function needs several devices."""
    modules = dict(model.named_modules())
    replicas = {name: module._replicate_for_data_parallel() for name, module in modules.items()}
    for name, replica in replicas.items():
        for key, module in modules[name]._modules.items():
            if module is not None:
                setattr(replica, key, replicas[f"{name}.{key}".lstrip(".")])
        for key, parameter in modules[name]._parameters.items():
            if parameter is None:
                replica._parameters[key] = None
            else:
                setattr(replica, key, parameter * 1)  # no leaf, as a broadcast makes it
    return replicas[""]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, replicate])
@pytest.mark.parametrize("family", ["mpnet", "longt5_local"])
def test_copies_give_the_same_bits(family: str, copied: Callable[[Any], Any]) -> None:
    case = models.make(family, padded=True)
    expected = run(case)
    twin = copied(accelerate(case.model))
    assert models.classes_of(twin)[1:] == models.classes_of(case.model)[1:]
    assert_same_bits(run(case._replace(model=twin)), expected)


# ---- generation ----


def test_assisted_decoding_gives_the_same_tokens() -> None:
    case, assistant = models.make("t5", padded=True), models.make("t5").model
    inputs = {name: value[:1] for name, value in case.inputs.items() if name != "labels"}
    with torch.no_grad():
        for parameter in assistant.parameters():
            parameter.mul_(1.01)
    options = {"assistant_model": assistant, "max_new_tokens": 15, "do_sample": False}
    expected = case.model.generate(**inputs, **options)
    for model in (case.model, assistant):
        accelerate(model)
        assert torch.equal(case.model.generate(**inputs, **options), expected)
