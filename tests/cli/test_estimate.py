# test_estimate.py - t5bucket estimate and its function: the part that runs, the model afterwards.
# SPDX-License-Identifier: BSD-3-Clause
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402

from t5bucket.cli import main  # noqa: E402
from t5bucket.cli.estimate import find_class, show_ratio  # noqa: E402
from t5bucket.transformers import Estimate, accelerate, estimate  # noqa: E402
from t5bucket.transformers._classes import list_accelerated  # noqa: E402
from t5bucket.transformers._estimate import find_part  # noqa: E402
from t5bucket.transformers._inputs import make_inputs  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
PARTS = {
    "t5": "encoder (T5Stack) of T5ForConditionalGeneration",
    "pix2struct": "decoder (Pix2StructTextModel) of Pix2StructForConditionalGeneration",
    "udop": "encoder (UdopStack) of UdopForConditionalGeneration",
    "mpnet": "MPNetForMaskedLM",
    "layoutlmv3": "LayoutLMv3ForTokenClassification",
    "wavlm": "WavLMModel",
    "prophetnet": "decoder (ProphetNetDecoder) of ProphetNetForConditionalGeneration",
    "cpmant": "CpmAntForCausalLM",
}


@pytest.mark.filterwarnings("ignore:Support for mismatched")  # in PyTorch, of WavLM's masks
@pytest.mark.parametrize("family", PARTS)
def test_each_family_runs_and_has_the_same_bits(family: str) -> None:
    found = estimate(models.make(family).model, 40, batch=2, padding=0.3, repeats=1)
    assert found.part == PARTS[family]
    assert found.same_bits
    assert found.ratio == found.t5bucket / found.transformers > 0


@pytest.mark.parametrize("is_accelerated", [False, True])
def test_the_model_is_as_before(is_accelerated: bool) -> None:
    model = models.make("t5").model
    model.train()
    model.encoder.block[1].eval()
    if is_accelerated:
        accelerate(model, exact=False)
    torch.manual_seed(5)

    def state() -> Any:
        modules = [(type(m), m.training, sorted(vars(m))) for m in model.modules()]
        return modules, torch.random.get_rng_state().tolist(), [*model.state_dict()]

    before = state()
    estimate(model, 40, repeats=1)
    assert state() == before
    with pytest.raises(ValueError, match="model must run on random"):
        fail(model)
    assert state() == before


def fail(model: Any) -> None:
    """Measure a model whose encoder raises an error after it was changed."""
    handle = model.encoder.final_layer_norm.register_forward_hook(lambda *arguments: 1 / 0)
    try:
        estimate(model, 40, repeats=1)
    finally:
        handle.remove()


def test_calls_take_turns_without_and_with_t5bucket() -> None:
    model = accelerate(models.make("mpnet").model)
    seen: list[bool] = []

    def look(module: Any, inputs: Any) -> None:
        seen.append(bool(list_accelerated(module)))

    model.register_forward_pre_hook(look)
    estimate(model, 40, repeats=2)
    assert seen == [False, True] * 3


def test_other_bits_are_seen() -> None:
    model = models.make("mpnet").model
    calls: list[None] = []

    def change(module: Any, inputs: Any, output: Any) -> Any:
        calls.append(None)
        return output + 1e-7 * len(calls)

    model.lm_head.register_forward_hook(change)
    assert not estimate(model, 40, repeats=1).same_bits
    assert len(calls) == 4


def test_an_object_that_holds_a_model_can_be_measured() -> None:
    model = models.make("mpnet").model.mpnet
    held = torch.nn.Sequential(model, torch.nn.Identity())
    assert find_part(held)[1] == "MPNetModel of Sequential"
    assert find_part(held)[0] is model
    for outer in ([model], {"text": [model]}):  # as `accelerate` finds them
        assert find_part(outer) == (model, f"MPNetModel of {type(outer).__name__}")


def test_the_length_of_wavlm_counts_frames() -> None:
    model = models.make("wavlm").model
    inputs = make_inputs(model, 77, 2, 0.0)
    with torch.no_grad():
        assert model(**inputs).last_hidden_state.shape[:2] == (2, 77)


def test_tokens_are_none_of_padding_but_at_the_end() -> None:
    model = models.make("mpnet").model
    inputs = make_inputs(model, 50, 30, 0.5)  # many, so that a padding token would occur
    pad = model.config.pad_token_id
    assert ((inputs["input_ids"] != pad) == inputs["attention_mask"].bool()).all()
    assert inputs["attention_mask"].sum() == 30 * 25


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: 5, {}, TypeError, "model must be a torch.nn.Module, or hold some"),
        (lambda: torch.nn.Linear(1, 1), {}, ValueError, "must have a layer with relative position"),
        (lambda: models.make("layoutlmv2").model, {}, ValueError, "transformers.PreTrainedModel"),
        (lambda: models.make("t5").model.to("meta"), {}, ValueError, "on the CPU, .* device meta"),
        (lambda: models.make("mpnet").model, {"length": 900}, ValueError, "embeddings is 512, so"),
        (lambda: models.make("t5").model, {"length": 0}, ValueError, "length must be at least 1"),
        (lambda: models.make("t5").model, {"batch": 1.5}, TypeError, "batch must be an integer"),
        (lambda: models.make("t5").model, {"padding": 1}, ValueError, "padding must be at least 0"),
        (lambda: models.make("t5").model, {"repeats": 0}, ValueError, "repeats must be at least 1"),
        (lambda: models.make("t5").model, {"exact": 1}, TypeError, "exact must be True or False"),
    ],
)
def test_a_model_that_cannot_be_measured_is_refused(
    make: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        estimate(make(), **{"length": 20, **options})


# ---- the command ----


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with warnings.catch_warnings(action="ignore"):
        models.make("t5").model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_command_measures_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["estimate", str(folder), "--length", "30", "--repeats", "1", "--padding", "0.25"]
    assert main(arguments) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed["model"] == f"{folder}: encoder (T5Stack) of T5ForConditionalGeneration, float32"
    assert printed["input"] == "1 x 30 tokens, 25% of them padding"
    assert printed["outputs"] == "have the same bits"
    assert main([*arguments, "--json", "--dtype", "bfloat16", "--inexact"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["length"], found["exact"], found["dtype"]) == (30, False, "bfloat16")
    assert found["ratio"] == found["t5bucket_seconds"] / found["transformers_seconds"]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("T5EncoderModel", "T5EncoderModel"),
        ("UMT5EncoderModel", "encoder (UMT5Stack) of UMT5EncoderModel"),
        ("MPNetForMaskedLM", "MPNetForMaskedLM"),
        ("MPNetModel", "MPNetModel"),
    ],
)
def test_the_command_loads_the_class_that_the_configuration_names(
    name: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cls = getattr(transformers, name)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    cls(cls.config_class(vocab_size=50, **sizes)).save_pretrained(tmp_path)
    capsys.readouterr()
    assert main(["estimate", str(tmp_path), "--length", "9", "--repeats", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["part"] == part


def test_an_unknown_class_is_loaded_as_automodel_does() -> None:
    for names in (None, ["NoSuchModel"], ["pipeline"]):
        config = transformers.T5Config(architectures=names)
        assert find_class(config) is transformers.AutoModel


@pytest.mark.parametrize("command", ["bias", "buckets", "estimate"])
def test_a_mistyped_folder_is_said_to_be_looked_for_on_the_hub(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")

    def disconnected(url: str) -> None:
        raise OSError("no route")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "get_hf_file_metadata", disconnected)
    assert main([command, "nosuch"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == ("t5bucket: no file or folder 'nosuch'; looking for it on Hugging Face's hub")
    name = "MODEL" if command == "estimate" else "WEIGHTS"
    assert second.startswith(f"t5bucket: {name} must be a file, a folder, or a model in Hugging")
    assert "(no answer from the hub: no route)" in second


def test_errors_of_memory_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for length in (10**14, 2**62):
        assert main(["estimate", str(folder), "--length", str(length), "--repeats", "1"]) == 1
        printed = capsys.readouterr().err
        assert f"a call with 1 x {length} tokens must fit in memory: " in printed
        assert printed.count("\n") == 1


def test_ranges_that_overlap_show_no_difference() -> None:
    found = Estimate("MPNetModel", 2.0, 1.0, True)
    assert not found.is_within_noise
    assert show_ratio(found) == "2 x faster"
    assert not found._replace(transformers_range=(1.6, 3), t5bucket_range=(1, 1.5)).is_within_noise
    found = found._replace(transformers_range=(1.4, 3), t5bucket_range=(1, 1.5))
    assert show_ratio(found) == "no difference beyond noise: the ranges overlap"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["x.safetensors"], 1, "MODEL must be a folder or the name of a model"),
        (["../nowhere"], 1, "MODEL must be a folder or the name of a model"),
        (["."], 1, "MODEL must be a folder or a name that transformers loads, got ."),
        ([".", "--padding", "1"], 2, "--padding must be at least 0 and less than 1, got 1.0"),
    ],
)
def test_the_command_says_what_it_cannot_load(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["estimate", *arguments]) == code
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
