# models.py - a tiny model of each family of transformers, with inputs.
# SPDX-License-Identifier: BSD-3-Clause
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")

BATCH, LENGTH, TARGET_LENGTH = 3, 150, 21  # longer than the usual max_distance
T5 = {
    "vocab_size": 99,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 3,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "decoder_start_token_id": 0,
}
LAYOUT = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "coordinate_size": 8,
    "shape_size": 8,
    "max_position_embeddings": 200,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def converted(inputs: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Convert the inputs that are floats."""
    return {
        name: value.to(dtype) if value.is_floating_point() else value
        for name, value in inputs.items()
    }


class Case(NamedTuple):
    """A model in its initial state, keyword arguments of its forward, and whether it generates."""

    model: Any
    inputs: dict[str, Any]
    generates: bool = False


def lengths_mask(length: int = LENGTH) -> Any:
    """Attention mask of sequences of three lengths."""
    lengths = torch.tensor([length, length // 2, length - 7])
    return (torch.arange(length) < lengths[:, None]).long()


def tokens(length: int = LENGTH) -> Any:
    return torch.randint(1, 99, (BATCH, length))


def boxes(length: int = LENGTH, largest: int = 400) -> Any:
    corners = torch.randint(0, largest, (BATCH, length, 2))
    return torch.cat([corners, corners + torch.randint(1, 99, (BATCH, length, 2))], dim=-1)


def classes_of(model: Any) -> list[type]:
    """List the class of each module."""
    return [type(module) for module in model.modules()]


def attention_of(model: Any, stack: str = "encoder", block: int = 0) -> Any:
    """Find the self-attention of a block of T5; the first one of a stack has the weight."""
    return getattr(model, stack).block[block].layer[0].SelfAttention


def text_to_text(model: Any, padded: bool) -> Case:
    inputs = {"input_ids": tokens(), "labels": tokens(TARGET_LENGTH)}
    if padded:
        inputs["attention_mask"] = lengths_mask()
    return Case(model, inputs, generates=True)


def t5(padded: bool) -> Case:
    config = transformers.T5Config(**T5)
    return text_to_text(transformers.T5ForConditionalGeneration(config), padded)


def mt5(padded: bool) -> Case:
    config = transformers.MT5Config(**T5)
    return text_to_text(transformers.MT5ForConditionalGeneration(config), padded)


def umt5(padded: bool) -> Case:
    config = transformers.UMT5Config(**T5)
    return text_to_text(transformers.UMT5ForConditionalGeneration(config), padded)


def switch_transformers(padded: bool) -> Case:
    options = {"num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_experts": 2}
    options["num_decoder_layers"] = 3
    config = transformers.SwitchTransformersConfig(**T5, **options)
    return text_to_text(transformers.SwitchTransformersForConditionalGeneration(config), padded)


def longt5_local(padded: bool) -> Case:
    config = transformers.LongT5Config(**T5, local_radius=29)
    return text_to_text(transformers.LongT5ForConditionalGeneration(config), padded)


def longt5_global(padded: bool) -> Case:
    options = {"local_radius": 29, "global_block_size": 8}
    config = transformers.LongT5Config(**T5, **options, encoder_attention_type="transient-global")
    return text_to_text(transformers.LongT5ForConditionalGeneration(config), padded)


def pop2piano(padded: bool) -> Case:
    config = transformers.Pop2PianoConfig(**T5)
    model = transformers.Pop2PianoForConditionalGeneration(config)
    inputs = {"inputs_embeds": torch.randn(BATCH, LENGTH, 32), "labels": tokens(TARGET_LENGTH)}
    if padded:
        inputs["attention_mask"] = lengths_mask()
    return Case(model, inputs)


def pix2struct(padded: bool) -> Case:
    sizes = {"hidden_size": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "dropout_rate": 0.0}
    config = transformers.Pix2StructConfig(
        text_config={**sizes, "vocab_size": 99, "num_heads": 4, "decoder_start_token_id": 0},
        vision_config={
            **sizes,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_embed_hidden_size": 768,
            "attention_dropout": 0.0,
        },
    )
    model = transformers.Pix2StructForConditionalGeneration(config)
    patches = torch.rand(BATCH, 20, 2 + 16 * 16 * 3)
    patches[:, :, :2] = torch.randint(1, 9, (BATCH, 20, 2))
    inputs = {"flattened_patches": patches, "labels": tokens(TARGET_LENGTH)}
    if padded:
        inputs["attention_mask"] = lengths_mask(20)
    return Case(model, inputs)


def udop(padded: bool) -> Case:
    config = transformers.UdopConfig(**T5, image_size=32, patch_size=16, hidden_size=32)
    model = transformers.UdopForConditionalGeneration(config)
    inputs = {
        "input_ids": tokens(),
        "bbox": boxes() / 500.0,
        "pixel_values": torch.rand(BATCH, 3, 32, 32),
        "labels": tokens(TARGET_LENGTH),
        "attention_mask": lengths_mask() if padded else torch.ones(BATCH, LENGTH).long(),
    }
    return Case(model, inputs)


def mpnet(padded: bool) -> Case:
    config = transformers.MPNetConfig(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    inputs = {"input_ids": tokens(), "labels": tokens()}
    if padded:
        inputs["attention_mask"] = lengths_mask()
    return Case(transformers.MPNetForMaskedLM(config), inputs)


def layoutlmv3(padded: bool) -> Case:
    config = transformers.LayoutLMv3Config(**LAYOUT, input_size=32, patch_size=16, num_labels=5)
    inputs = {
        "input_ids": tokens(),
        "bbox": boxes(),
        "pixel_values": torch.rand(BATCH, 3, 32, 32),
        "labels": tokens() % 5,
        "attention_mask": lengths_mask() if padded else torch.ones(BATCH, LENGTH).long(),
    }
    return Case(transformers.LayoutLMv3ForTokenClassification(config), inputs)


def layoutlmv2(padded: bool) -> Case:
    """Make its encoder alone: the model needs a package that PyPI does not have."""
    from transformers.models.layoutlmv2.modeling_layoutlmv2 import LayoutLMv2Encoder

    config = transformers.LayoutLMv2Config(**LAYOUT)
    masked = 1 - lengths_mask()[:, None, None] if padded else torch.zeros(BATCH, 1, 1, LENGTH)
    inputs = {
        "hidden_states": torch.randn(BATCH, LENGTH, 48),
        "attention_mask": masked,
        "bbox": boxes(),
        "position_ids": torch.arange(LENGTH).repeat(BATCH, 1),
    }
    return Case(LayoutLMv2Encoder(config), inputs)


def wavlm(padded: bool) -> Case:
    config = transformers.WavLMConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16, 16),
        conv_kernel=(10, 5),
        conv_stride=(5, 4),
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
    )
    inputs = {"input_values": torch.randn(BATCH, 4000)}
    if padded:
        inputs["attention_mask"] = lengths_mask(4000)
    return Case(transformers.WavLMModel(config), inputs)


def prophetnet(padded: bool) -> Case:
    config = transformers.ProphetNetConfig(
        vocab_size=99,
        hidden_size=32,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
        max_position_embeddings=200,
        relative_max_distance=40,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
    )
    inputs = {"input_ids": tokens(60), "labels": tokens(50)}
    if padded:
        inputs["attention_mask"] = lengths_mask(60)
    return Case(transformers.ProphetNetForConditionalGeneration(config), inputs, generates=True)


def cpmant(padded: bool) -> Case:
    config = transformers.CpmAntConfig(
        vocab_size=99,
        hidden_size=32,
        num_attention_heads=4,
        dim_head=8,
        dim_ff=64,
        num_hidden_layers=2,
        prompt_length=4,
        dropout_p=0.0,
        position_bias_num_buckets=16,
        position_bias_max_distance=64,
    )
    input_ids = tokens()
    if padded:  # on the left
        input_ids = input_ids * lengths_mask().flip(1)
    inputs = {"input_ids": input_ids, "labels": tokens()}
    return Case(transformers.CpmAntForCausalLM(config), inputs, generates=True)


FAMILIES: dict[str, Callable[[bool], Case]] = {
    function.__name__: function
    for function in (
        t5,
        mt5,
        umt5,
        switch_transformers,
        longt5_local,
        longt5_global,
        pop2piano,
        pix2struct,
        udop,
        mpnet,
        layoutlmv3,
        layoutlmv2,
        wavlm,
        prophetnet,
        cpmant,
    )
}


def implementations(family: str) -> list[str | None]:
    """List the attentions that a family can choose from; None where there is no choice."""
    model = FAMILIES[family](False).model
    return ["sdpa", "eager"] if getattr(model, "_supports_sdpa", False) else [None]


def choose_attention(model: Any, implementation: str) -> None:
    """Choose an attention for all modules; not every version tells the stacks of T5."""
    for module in model.modules():
        if hasattr(module, "config"):
            module.config._attn_implementation = implementation


def make(family: str, padded: bool = False, implementation: str | None = None) -> Case:
    """Make a model whose biases matter, ready for inference."""
    torch.manual_seed(0)
    case = FAMILIES[family](padded)
    if implementation is not None:
        choose_attention(case.model, implementation)
    for parameter in case.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    case.model.eval()
    return case
