# test_families.py - load each family's table in each format and dtype; write the docs' table.
# SPDX-License-Identifier: BSD-3-Clause
"""With T5BUCKET_WRITE_DOCS set, docs/how_to/weight_files.md gets the table that is found."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from checkpoints import save_gguf, save_pytorch, save_safetensors
from markdown import ROOT

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("ml_dtypes")
gguf: Any = pytest.importorskip("gguf")
hub: Any = pytest.importorskip("huggingface_hub")
models: Any = pytest.importorskip("models")

load = tb.RelativeAttentionBias.load
DOCUMENT = ROOT / "docs" / "how_to" / "weight_files.md"
BEGIN, END = "<!-- families: begin -->\n", "<!-- families: end -->"


class Family(NamedTuple):
    """The name of a family's table, and its scheme."""

    title: str
    model: str  # of tests/support/models.py
    tensor: str  # as a user would give it
    settings: tuple[int, int, bool]


FAMILIES = [
    Family("T5, encoder", "t5", "encoder", (32, 128, True)),
    Family("T5, decoder", "t5", "decoder", (32, 128, False)),
    Family("mT5", "mt5", "encoder", (32, 128, True)),
    Family("UMT5, layer 1", "umt5", "encoder.block.1", (32, 128, True)),
    Family("Switch Transformers", "switch_transformers", "encoder", (32, 128, True)),
    Family("LongT5, local", "longt5_local", "encoder", (32, 128, True)),
    Family("LongT5, global", "longt5_global", "encoder", (32, 128, True)),
    Family("Pop2Piano", "pop2piano", "decoder", (32, 128, False)),
    Family("Pix2Struct", "pix2struct", "decoder", (32, 128, False)),
    Family("UDOP, text", "udop", "encoder.block", (32, 128, True)),
    Family("MPNet", "mpnet", "encoder", (32, 128, True)),
    Family("LayoutLMv2", "layoutlmv2", "rel_pos_bias", (32, 128, True)),
    Family("LayoutLMv3", "layoutlmv3", "rel_pos_bias", (32, 128, True)),
    Family("WavLM", "wavlm", "rel_attn_embed", (320, 800, True)),
]
# The dtypes of PyTorch, by their names in safetensors.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def save_folder(folder: Path, state: dict[str, Any]) -> None:
    save_safetensors(folder / "model.safetensors", state)


def save_sharded(folder: Path, state: dict[str, Any]) -> None:
    copies = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    hub.save_torch_state_dict(copies, folder, max_shard_size=400)
    assert (folder / "model.safetensors.index.json").exists()


def save_bin(folder: Path, state: dict[str, Any]) -> None:
    save_pytorch(folder / "pytorch_model.bin", state)


FORMATS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "`model.safetensors`": save_folder,
    "shards with an index": save_sharded,
    "`pytorch_model.bin`": save_bin,
}
GGUF_FAMILIES = ("t5", "mt5", "umt5")  # that llama.cpp converts
GGUF_TYPES = ("F32", "F16", "BF16", "Q8_0")


def find_table(state: dict[str, Any], tensor: str) -> str:
    """Find the parameter of the model that a user means, by its module's name."""
    (name,) = (
        name
        for name in state
        if re.search(
            r"\.(relative_attention_bias|rel_attn_embed|rel_pos_bias)\.weight$", f".{name}"
        )
        and f".{tensor}." in f".{name}"
        and not re.search(r"EncDec|biases\.[12]|global_", name)
    )
    return name


@pytest.fixture(scope="module")
def states() -> dict[str, Any]:
    """Configurations and parameters of all models, by family."""
    return {
        name: (case.model.config, case.model.state_dict())
        for name in {family.model for family in FAMILIES}
        for case in [models.make(name)]
    }


def loads_all_bits(folder: Path, family: Family, expected: Any) -> bool:
    """Load a folder's table and compare it, its dtype and its scheme."""
    bias = load(folder, tensor=family.tensor)
    is_float8 = str(expected.dtype).startswith("torch.float8")
    dtype = "float32" if is_float8 else str(expected.dtype).removeprefix("torch.")
    exact = np.array_equal(bias.weight.astype(np.float64), expected.double().numpy())
    return exact and bias.dtype.name == dtype and bias.buckets == tb.Buckets(*family.settings)


def gguf_names(num_layers: int) -> Any:
    """Names that llama.cpp gives to the tensors of T5."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.T5, num_layers)
    return lambda name: names.get_name(name, try_suffixes=(".weight",))


def try_gguf(folder: Path, family: Family, state: dict[str, Any], kind: str) -> bool:
    """Write the table as llama.cpp's converter names it, and load it."""
    name = find_table(state, family.tensor)
    table = np.repeat(state[name].numpy(), 8, axis=1)  # Q8_0 has blocks of 32
    new_name = gguf_names(3)(name)
    save_gguf(folder / "model.gguf", {new_name: table, "x": table}, types={new_name: kind})
    bias = load(folder / "model.gguf")
    number = gguf.GGMLQuantizationType[kind]
    expected = gguf.dequantize(gguf.quantize(table, number), number)
    exact = np.array_equal(bias.weight.astype(np.float32), expected)
    return exact and bias.buckets == tb.Buckets(*family.settings)


@pytest.fixture(scope="module")
def rows(states: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Rows of the table: a family, and the dtypes of each format that load, every bit of them."""
    found = []
    for family in FAMILIES:
        config, state = states[family.model]
        name = find_table(state, family.tensor)
        # Other tables, and a few others of the real checkpoint; nothing changes by the rest.
        chosen = [other for other in state if "rel" in other] + [*state][:6]
        cells = []
        for save in FORMATS.values():
            loaded = []
            for dtype_name, dtype in DTYPES.items():
                folder = tmp_path_factory.mktemp("model")
                config.save_pretrained(folder)
                converted = {other: state[other].to(dtype) for other in chosen}
                save(folder, converted)
                loaded += [dtype_name] * loads_all_bits(folder, family, converted[name])
            cells.append(" ".join(loaded))
        folder = tmp_path_factory.mktemp("gguf")
        kinds = GGUF_TYPES if family.model in GGUF_FAMILIES else ()
        cells.append(
            " ".join(kind for kind in kinds if try_gguf(folder, family, state, kind)) or "-"
        )
        found.append(f"| {family.title} | `{family.tensor}` | {' | '.join(cells)} |\n")
    return found


def test_every_dtype_of_every_format_loads_for_every_family(rows: list[str]) -> None:
    every = " ".join(DTYPES)
    for family, row in zip(FAMILIES, rows, strict=True):
        types = " ".join(GGUF_TYPES) if family.model in GGUF_FAMILIES else "-"
        assert row.endswith(f" | {every} | {every} | {every} | {types} |\n"), family


def test_the_documentation_shows_which_tables_load(rows: list[str]) -> None:
    header = (
        f"| family | `tensor=` | {' | '.join(FORMATS)} | `.gguf` |\n|---|---|---|---|---|---|\n"
    )
    table = header + "".join(rows)
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    if os.environ.get("T5BUCKET_WRITE_DOCS"):
        text = text[:begin] + table + text[end:]
        DOCUMENT.write_text(text, encoding="utf-8")
        end = text.index(END)
    assert text[begin:end] == table, "write it with T5BUCKET_WRITE_DOCS=1"
