# names.py - which tensor is a table of biases: its name says the family, and what else is known.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from t5bucket._checks import show
from t5bucket._config import (
    LAYOUTLM,
    LAYOUTLM_AXIS,
    SEQUENCE_FAMILIES,
    WAVLM,
    Family,
    t5_family,
    udop_family,
)
from t5bucket._weights.checkpoint import Checkpoint


class Kind(NamedTuple):
    """What the name of a model's tensor says about it."""

    name: str
    heads_first: bool = False
    max_distance: int = 128
    family: Family | None = None  # of the configuration; T5's are told by the rest of the name


KINDS = (
    Kind("relative_attention_bias.weight"),  # T5 and its relatives, MPNet
    Kind("attn_rel_b.weight"),  # the same in GGUF
    Kind("pos_embedding.embedding.weight"),  # UMT5 in files of Wan
    Kind("rel_attn_embed.weight", False, 800, WAVLM),
    Kind("rel_pos_bias.weight", True, 128, LAYOUTLM),
)
AXIS_KINDS = (  # whose settings are not those of the sequence
    Kind("rel_pos_x_bias.weight", True, 256, LAYOUTLM_AXIS),
    Kind("rel_pos_y_bias.weight", True, 256, LAYOUTLM_AXIS),
    Kind("relative_bias.biases.1.relative_attention_bias.weight", max_distance=100),  # UDOP
    Kind("relative_bias.biases.2.relative_attention_bias.weight", max_distance=100),
)
# The first T5 checkpoints have it, and no model reads it.
UNUSED_KIND = Kind("EncDecAttention.relative_attention_bias.weight")
UNKNOWN_KIND = Kind("")
SUFFIXES = tuple(kind.name for kind in KINDS)
UDOP_BIAS = re.compile(r"\brelative_bias\.biases\.(\d{1,3})\.")
NUM_LISTED = 20
STACKS = {"encoder": False, "decoder": True}
GGUF_STACKS = {"enc": False, "dec": True}


def kind_of(name: str) -> Kind:
    """Say what a tensor's name tells."""
    for kind in (*AXIS_KINDS, UNUSED_KIND, *KINDS):
        if f".{name}".endswith(f".{kind.name}"):
            return kind
    return UNKNOWN_KIND


def families_of(name: str) -> tuple[Family, ...]:
    """Say which settings of a configuration are those of a tensor, the likeliest first."""
    kind = kind_of(name)
    if kind.family is not None:
        return (kind.family,)
    if bias := UDOP_BIAS.search(name):
        return (udop_family(int(bias[1])),)
    is_decoder = _is_of_decoder(name)
    if kind == UNKNOWN_KIND and is_decoder is None:
        return SEQUENCE_FAMILIES
    # The text's bias in UDOP's encoder is that of its first block.
    udop = () if is_decoder else (udop_family(0),)
    rest = SEQUENCE_FAMILIES[2:] if kind == UNKNOWN_KIND else ()
    return (*udop, t5_family(is_decoder), *rest)


def is_of_decoder(name: str) -> bool:
    """Whether a tensor belongs to a decoder, which has a scheme of its own."""
    return bool(_is_of_decoder(name))


def _is_of_decoder(name: str) -> bool | None:
    """Whether a tensor belongs to a decoder, or None if its name does not tell."""
    parts = name.split(".")
    if "relative_bias" in parts:  # UDOP's decoder has a copy of its encoder's
        return False
    stacks = GGUF_STACKS if kind_of(name).name == "attn_rel_b.weight" else STACKS
    found = [stacks[word] for part in parts for word in part.split("_") if word in stacks]
    return found[-1] if found else None


def choose(checkpoint: Checkpoint, tensor: str | None, prefers_encoder: bool = False) -> str:
    """Choose the tensor of a name, of a part of a name, or the only table there is.

    The only one of the encoder, if that is preferred.
    """
    names = checkpoint.names
    if tensor is not None and tensor in names:
        return tensor
    # The suffix first: there may be a million names.
    tables = [name for name in names if name.endswith(SUFFIXES) and kind_of(name) in KINDS]
    if tensor is not None:
        found = [name for name in tables if f".{tensor}." in f".{name}."]
        if not found:
            raise ValueError(
                f"tensor must be one of {_list(checkpoint, tables or names)} in {checkpoint.path}, "
                f"got {show(tensor)}"
            )
    else:
        found = tables or (list(names) if len(names) == 1 else [])
    if tensor is None and prefers_encoder:
        encoders = [name for name in found if not is_of_decoder(name)]
        found = encoders if len(encoders) == 1 else found
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(
            f"tensor must name one of {_list(checkpoint, found)} in {checkpoint.path}, or a part "
            f"of a name that one alone has, got {show(tensor)}"
        )
    architecture = checkpoint.architecture
    model = "" if architecture is None else f", a model of architecture {architecture!r:.100},"
    raise ValueError(
        f"path must hold a tensor named ...{', '.join(kind.name for kind in KINDS)}, "
        f"got {checkpoint.path}{model} with {_list(checkpoint, names)}; name another one by tensor="
    )


def _list(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """List names with their shapes."""
    listed = sorted(names)
    rest = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
    described = [f"{name!r:.300}{_describe(checkpoint, name)}" for name in listed[:NUM_LISTED]]
    return ", ".join(described) + rest if described else "no tensor"


def _describe(checkpoint: Checkpoint, name: str) -> str:
    """Show a shape; what is wrong with one tensor does not matter to the others."""
    try:
        shape = checkpoint.shape(name)
    except Exception:
        return ""
    return "" if shape is None else f" {shape}"
