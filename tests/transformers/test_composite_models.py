# test_composite_models.py - models that hold accelerated ones, and pipelines, which are no modules.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402

from t5bucket.transformers import accelerate, accelerated, restore  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
]

ATTENTIONS = ("T5Attention", "UMT5Attention", "Pix2StructTextAttention", "UdopAttention")


def accelerated_classes(*parts: Any) -> set[str]:
    """Name the classes of layers that t5bucket has replaced."""
    modules = [type(module) for part in parts for module in part.modules()]
    return {cls.__name__ for cls in modules if hasattr(cls, "_t5bucket_base")}


def text_encoder(config_class: str, model_class: str) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, config_class)(**models.T5)
    encoder = getattr(transformers, model_class)(config).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def musicgen() -> tuple[Any, dict[str, Any]]:
    """Make a model of text, whose encoder is T5's, and sound."""
    config = transformers.MusicgenConfig(
        text_encoder=transformers.T5Config(**models.T5).to_dict(),
        audio_encoder=transformers.EncodecConfig(
            num_filters=2, upsampling_ratios=[2], hidden_size=8, codebook_size=16, codebook_dim=8
        ).to_dict(),
        decoder=transformers.MusicgenDecoderConfig(
            vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, ffn_dim=32
        ).to_dict(),
    )
    inputs = {
        "input_ids": models.tokens(),
        "attention_mask": models.lengths_mask(),
        "decoder_input_ids": torch.randint(0, 16, (4 * models.BATCH, 5)),
    }
    return transformers.MusicgenForConditionalGeneration(config).eval(), inputs


def test_the_text_encoder_of_musicgen_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    case = models.Case(*musicgen())
    expected = run(case)
    with accelerated(case.model):
        assert accelerated_classes(case.model) == {"T5Attention"}
        assert_same_bits(run(case), expected)


@pytest.mark.parametrize("family", ["udop", "pix2struct"])
def test_a_module_that_holds_a_model_of_pictures_and_text_gives_the_same_bits(family: str) -> None:
    class Reader(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, part: Any) -> None:
            super().__init__()
            self.parts = torch.nn.ModuleDict({"reader": part})

        def forward(self, **inputs: Any) -> Any:
            return self.parts["reader"](**inputs)

    case = models.make(family, padded=True)
    case = case._replace(model=Reader(case.model))
    expected = run(case)
    with accelerated(case.model):
        assert accelerated_classes(case.model) & set(ATTENTIONS)
        assert_same_bits(run(case), expected)


# ---- pipelines ----


def pipeline() -> Any:
    """Make an object that holds two text encoders, as pipelines of diffusion models do."""
    encoder = text_encoder("T5Config", "T5EncoderModel")
    other = text_encoder("UMT5Config", "UMT5EncoderModel")
    return SimpleNamespace(
        text_encoder=encoder, text_encoder_2=other, text_encoder_3=encoder, tokenizer=None
    )


def encode(pipe: Any) -> list[Any]:
    inputs = {"input_ids": models.tokens(), "attention_mask": models.lengths_mask()}
    with torch.no_grad():
        return [encoder(**inputs)[0] for encoder in (pipe.text_encoder, pipe.text_encoder_2)]


@pytest.mark.parametrize("exact", [True, False])
def test_the_text_encoders_of_a_pipeline_are_accelerated(exact: bool) -> None:
    pipe = pipeline()
    torch.manual_seed(0)
    expected = encode(pipe)
    parts = (pipe.text_encoder, pipe.text_encoder_2)
    assert accelerate(pipe, exact=exact) is pipe
    assert accelerated_classes(*parts) == {"T5Attention", "UMT5Attention"}
    torch.manual_seed(0)
    for ours, theirs in zip(encode(pipe), expected, strict=True):
        if exact:
            assert_same_bits(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert restore(pipe) is pipe
    assert not accelerated_classes(*parts)


def test_an_accelerated_pipeline_is_as_before_after_the_block() -> None:
    pipe = pipeline()
    accelerate(pipe.text_encoder)
    with accelerated(pipe, exact=False) as same:
        assert same is pipe
    assert accelerated_classes(pipe.text_encoder) == {"T5Attention"}
    assert not accelerated_classes(pipe.text_encoder_2)


class Slots:
    """An object without a dictionary, one of whose slots is not set."""

    __slots__ = ("__part", "other")

    def __init__(self, part: Any) -> None:
        self.__part = part


class Secretive(dict[str, Any]):
    """An object that must not be asked for anything."""

    def refuse(self, *arguments: Any) -> Any:
        raise AssertionError("code of a pipeline has run")

    model = property(refuse)
    values = __getattr__ = __iter__ = __eq__ = __bool__ = __len__ = refuse


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "slots": Slots,
    "slots of a base": type("Derived", (Slots,), {}),
    "list": lambda part: [None, part],
    "tuple": lambda part: (1, part),
    "dictionary": lambda part: {"text": part},
    "attribute": lambda part: SimpleNamespace(part=part),
    "secretive": lambda part: Secretive(part=part),
}


@pytest.mark.parametrize("outer", HOLDERS)
def test_models_are_found_in_objects_of_objects(outer: str) -> None:
    layer = models.attention_of(models.make("t5").model)
    for hold in HOLDERS.values():
        pipe = HOLDERS[outer](hold(layer))
        accelerate(SimpleNamespace(pipe=pipe, itself=[pipe]))
        assert accelerated_classes(layer) == {"T5Attention"}
        assert restore(pipe) is pipe
        assert not accelerated_classes(layer)


def test_objects_that_hold_each_other_are_searched_five_deep() -> None:
    layer = models.attention_of(models.make("t5").model)
    deep: Any = SimpleNamespace(part=layer)
    for _ in range(4):
        deep = [deep]
    pipe = SimpleNamespace(owner=None, parts=deep)
    pipe.owner = SimpleNamespace(pipe=pipe)
    with pytest.raises(TypeError, match="hold some"):
        accelerate(pipe)
    accelerate(deep)
    assert accelerated_classes(layer) == {"T5Attention"}


@pytest.mark.parametrize("function", [accelerate, restore])
@pytest.mark.parametrize(
    "model", [SimpleNamespace(name="t5"), torch.nn.Linear, transformers, [[]], "t5", None]
)
def test_what_holds_no_module_is_refused(function: Callable[[Any], Any], model: Any) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, or hold some as attr"):
        function(model)


def test_a_pipeline_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"relative position buckets .* got SimpleNamespace"):
        accelerate(SimpleNamespace(unet=torch.nn.Linear(1, 1)))


def test_a_pipeline_of_diffusers_encodes_prompts_to_the_same_bits() -> None:
    diffusers: Any = pytest.importorskip("diffusers")

    class Pipeline(diffusers.DiffusionPipeline):  # type: ignore[misc]
        def __init__(self, text_encoder: Any, transformer: Any) -> None:
            super().__init__()
            self.register_modules(text_encoder=text_encoder, transformer=transformer)

        def __call__(self, token_ids: Any) -> Any:
            return self.transformer(self.text_encoder(token_ids)[0])

    pipe = Pipeline(text_encoder("T5Config", "T5EncoderModel"), torch.nn.Linear(32, 3))
    token_ids = models.tokens()
    with torch.no_grad():
        expected = pipe(token_ids)
        accelerate(pipe)
        assert accelerated_classes(pipe.text_encoder) == {"T5Attention"}
        assert_same_bits(pipe(token_ids), expected)
