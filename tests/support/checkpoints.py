# checkpoints.py - write weight files by the libraries that people use.
# SPDX-License-Identifier: BSD-3-Clause
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

T5 = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
T5_DECODER = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
CONFIG = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 77}


def make_weight(num_buckets: int = 32, num_heads: int = 2, dtype: Any = np.float32) -> Any:
    """Make a weight whose numbers all differ."""
    return np.arange(num_buckets * num_heads).reshape(num_buckets, num_heads).astype(dtype)


def tensors() -> dict[str, Any]:
    """Make the two tables of a T5 model as PyTorch tensors."""
    torch: Any = pytest.importorskip("torch")
    return {
        T5: torch.from_numpy(make_weight()),
        T5_DECODER: torch.from_numpy(make_weight() + 1),
        "shared.weight": torch.zeros(9, 4),
    }


def save_safetensors(path: Path, state: dict[str, Any]) -> None:
    module: Any = pytest.importorskip("safetensors.torch")
    module.save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, path)


def save_shards(folder: Path, state: dict[str, Any], safe: bool = True) -> None:
    """Write about one shard for each tensor."""
    hub: Any = pytest.importorskip("huggingface_hub")
    copies = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    hub.save_torch_state_dict(copies, folder, max_shard_size=300, safe_serialization=safe)


def save_pytorch(path: Path, content: Any, **options: Any) -> None:
    torch: Any = pytest.importorskip("torch")
    torch.save(content, path, **options)


def save_gguf(
    path: Path,
    arrays: dict[str, Any],
    *,
    architecture: str = "t5",
    types: dict[str, str] | None = None,
    edit: Callable[[Any], None] = lambda writer: None,
    **options: Any,
) -> None:
    """Write arrays; some are quantized to this type."""
    gguf: Any = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, architecture, **options)
    edit(writer)
    for name, array in arrays.items():
        if types and name in types:
            kind = gguf.GGMLQuantizationType[types[name]]
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_config(folder: Path, **settings: Any) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | settings), encoding="utf-8")
