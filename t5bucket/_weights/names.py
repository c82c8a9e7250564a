# names.py - find the tensor with the bias by its name, which also tells the family.
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
    """What a tensor's name tells about it."""

    name: str
    heads_first: bool = False
    max_distance: int = 128
    family: Family | None = None  # reads its configuration; T5's depends on the whole name


KINDS = (
    Kind("relative_attention_bias.weight"),  # T5 and its relatives, MPNet
    Kind("attn_rel_b.weight"),  # the same in GGUF
    Kind("pos_embedding.embedding.weight"),  # UMT5 in files of Wan
    Kind("rel_attn_embed.weight", False, 800, WAVLM),
    Kind("rel_pos_bias.weight", True, 128, LAYOUTLM),
)
AXIS_KINDS = (  # biases of page axes, whose settings differ from the sequence's
    Kind("rel_pos_x_bias.weight", True, 256, LAYOUTLM_AXIS),
    Kind("rel_pos_y_bias.weight", True, 256, LAYOUTLM_AXIS),
    Kind("relative_bias.biases.1.relative_attention_bias.weight", max_distance=100),  # UDOP
    Kind("relative_bias.biases.2.relative_attention_bias.weight", max_distance=100),
)
# In the first T5 checkpoints; no model reads it.
UNUSED_KIND = Kind("EncDecAttention.relative_attention_bias.weight")
UNKNOWN_KIND = Kind("")
SUFFIXES = tuple(kind.name for kind in KINDS)
UDOP_BIAS = re.compile(r"\brelative_bias\.biases\.(\d{1,3})\.")
NUM_LISTED = 20
STACKS = {"encoder": False, "decoder": True}
GGUF_STACKS = {"enc": False, "dec": True}
GGUF_WORDS = {"encoder": "enc", "decoder": "dec", "block": "blk"}


class NoTableError(ValueError):
    """A file has no table that is known by its name."""


class AmbiguousTableError(ValueError):
    """Several tables match; `names` are those that may be meant."""

    names: tuple[str, ...] = ()


def kind_of(name: str) -> Kind:
    """Find what a tensor's name tells."""
    for kind in (*AXIS_KINDS, UNUSED_KIND, *KINDS):
        if f".{name}".endswith(f".{kind.name}"):
            return kind
    return UNKNOWN_KIND


def families_of(name: str) -> tuple[Family, ...]:
    """List the families whose settings may be a tensor's, the likeliest first."""
    kind = kind_of(name)
    if kind.family is not None:
        return (kind.family,)
    if bias := UDOP_BIAS.search(name):
        return (udop_family(int(bias[1])),)
    is_decoder = _is_of_decoder(name)
    if kind == UNKNOWN_KIND and is_decoder is None:
        return SEQUENCE_FAMILIES
    # In UDOP's encoder, the first block's bias is the text's.
    udop = () if is_decoder else (udop_family(0),)
    rest = SEQUENCE_FAMILIES[2:] if kind == UNKNOWN_KIND else ()
    return (*udop, t5_family(is_decoder), *rest)


def is_of_decoder(name: str) -> bool:
    """Whether a tensor belongs to a decoder, which has a scheme of its own."""
    return bool(_is_of_decoder(name))


def _is_of_decoder(name: str) -> bool | None:
    """Whether a tensor belongs to a decoder, or None if its name does not say."""
    parts = name.split(".")
    if "relative_bias" in parts:  # UDOP's decoder has a copy of the encoder's biases
        return False
    stacks = GGUF_STACKS if kind_of(name).name == "attn_rel_b.weight" else STACKS
    found = [stacks[word] for part in parts for word in part.split("_") if word in stacks]
    return found[-1] if found else None


def choose(checkpoint: Checkpoint, tensor: str | None, prefers_encoder: bool = False) -> str:
    """Choose a tensor by its name or a part of it, or the only table.

    If `prefers_encoder`, the only table of an encoder is chosen, too.
    """
    names = checkpoint.names
    if tensor is not None and tensor in names:
        return tensor
    # Check the suffix first: there may be a million names.
    tables = [name for name in names if name.endswith(SUFFIXES) and kind_of(name) in KINDS]
    if tensor is not None:
        found = _match(tensor, tables) or _match(_in_gguf(tensor), tables)
        if not found:
            raise ValueError(
                f"tensor must be one of {_list(checkpoint, tables or names)} in {checkpoint.path}, "
                f"got {show(tensor)}"
            )
    else:
        found = tables or (list(names) if len(names) == 1 else [])
    meant = found
    if tensor is None and prefers_encoder:
        meant = [name for name in found if not is_of_decoder(name)] or found
    if len(meant) == 1:
        return meant[0]
    if found:
        error = AmbiguousTableError(
            f"tensor must name one of {_list(checkpoint, found)} in {checkpoint.path}, or a part "
            f"of a name that one alone has, such as tensor={_shorten(found)!r:.300}, "
            f"got {show(tensor)}"
        )
        error.names = tuple(meant)
        raise error
    architecture = checkpoint.architecture
    model = "" if architecture is None else f", a model of architecture {architecture!r:.100},"
    raise NoTableError(
        f"path must hold a tensor named ...{', '.join(kind.name for kind in KINDS)}, "
        f"got {checkpoint.path}{model} with {_list(checkpoint, names)}; name another one by tensor="
    )


def _match(part: str, tables: Iterable[str]) -> list[str]:
    return [name for name in tables if f".{part}." in f".{name}."]


def _in_gguf(part: str) -> str:
    """Translate a part of a name into GGUF's words."""
    return ".".join(GGUF_WORDS.get(word, word) for word in part.split("."))


def _shorten(names: list[str]) -> str:
    """Find the shortest beginning that one name alone has, for an example."""
    name = min(names, key=is_of_decoder)
    words = name.split(".")
    parts = (".".join(words[:end]) for end in range(1, len(words)))
    return next((part for part in parts if len(_match(part, names)) == 1), name)


def _list(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """List names with their shapes."""
    listed = sorted(names)
    rest = f" and {len(listed) - NUM_LISTED} more" if len(listed) > NUM_LISTED else ""
    described = [f"{name!r:.300}{_describe(checkpoint, name)}" for name in listed[:NUM_LISTED]]
    return ", ".join(described) + rest if described else "no tensor"


def _describe(checkpoint: Checkpoint, name: str) -> str:
    """Show a shape; an error in one tensor must not hide the others."""
    try:
        shape = checkpoint.shape(name)
    except Exception:
        return ""
    return "" if shape is None else f" {shape}"
