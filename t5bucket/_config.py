# _config.py - where Hugging Face configurations keep the settings of their buckets.
# SPDX-License-Identifier: BSD-3-Clause
"""Settings are those that a family's code in transformers reads: it fixes some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from t5bucket._buckets import Buckets
from t5bucket._checks import flag, integer, naming, printable, show
from t5bucket._json import as_path, read_json

Settings = tuple[Any, Any, bool]  # num_buckets, max_distance, bidirectional
Getter = Callable[[str], Any]  # of a configuration's values, by name
Family = Callable[[Getter], Settings | None]
MAX_DEPTH = 3  # of parts within parts
MAX_LISTED = 20  # in a message
# A scheme of thousands of buckets up to 2^62 takes seconds to make, which a file may not ask for.
MAX_NUM_BUCKETS = 4096
UDOP_BIASES = [{"type": "1d"}, {"type": "horizontal"}, {"type": "vertical"}]  # unless set
MAX_WRAPPERS = 8
# Before the first word of a tensor's name that says something.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "base_model", "model")


# ---- families ----


def t5_family(is_decoder: bool | None = None) -> Family:
    """T5 and its relatives, MPNet; None leaves it to the configuration whether it is a decoder."""

    def find(get: Getter) -> Settings | None:
        num_buckets = get("relative_attention_num_buckets")
        if get("model_type") == "mpnet":
            return 32, 128, True  # fixed in its code
        if num_buckets is None:
            return None
        max_distance = get("relative_attention_max_distance")
        # Pix2Struct has buckets in its text decoder alone, whatever is_decoder says.
        unidirectional = (
            flag("is_decoder", get("is_decoder") or False) if is_decoder is None else is_decoder
        ) or str(get("model_type")).startswith("pix2struct")
        return num_buckets, 128 if max_distance is None else max_distance, not unidirectional

    return find


def udop_family(index: int | None = None) -> Family:
    """Make the family of a bias of UDOP's encoder, which reads no setting of T5; None is text's."""

    def find(get: Getter) -> Settings | None:
        if get("model_type") != "udop" or (index is None and get("is_decoder")):
            return None
        biases = get("relative_bias_args") or UDOP_BIASES
        if not isinstance(biases, list) or not all(isinstance(bias, Mapping) for bias in biases):
            raise TypeError(f"relative_bias_args must be a list of mappings, got {show(biases)}")
        found = [bias for bias in biases if bias.get("type") == "1d"] if index is None else biases
        if len(found) <= (index or 0):
            missing = "an entry of type '1d'" if index is None else f"{index + 1} entries"
            raise ValueError(f"relative_bias_args must have {missing}, got {show(biases)}")
        bias = found[index or 0]
        max_distance = bias.get("max_distance", 128 if bias.get("type") == "1d" else 100)
        num_buckets = bias.get("relative_attention_num_buckets", 32)
        return num_buckets, max_distance, flag("bidirectional", bias.get("bidirectional", True))

    return find


def _family(
    num_buckets_name: str, max_distance_name: str, default: int, bidirectional: bool = True
) -> Family:
    """Other families: the names of their settings, and the distance where none is set."""

    def find(get: Getter) -> Settings | None:
        num_buckets, max_distance = get(num_buckets_name), get(max_distance_name)
        # "num_buckets" alone could mean anything: it takes its partner to tell.
        if num_buckets is None or (num_buckets_name == "num_buckets" and max_distance is None):
            return None
        return num_buckets, default if max_distance is None else max_distance, bidirectional

    return find


LAYOUTLM = _family("rel_pos_bins", "max_rel_pos", 128)  # LayoutLMv2, v3: the sequence axis
LAYOUTLM_AXIS = _family("rel_2d_pos_bins", "max_rel_2d_pos", 256)  # each axis of the page
CPMANT = _family("position_bias_num_buckets", "position_bias_max_distance", 2048)
PROPHETNET = _family("num_buckets", "relative_max_distance", 128, bidirectional=False)
WAVLM = _family("num_buckets", "max_bucket_distance", 800)
SEQUENCE_FAMILIES = (udop_family(), t5_family(), LAYOUTLM, CPMANT, PROPHETNET, WAVLM)


# ---- configurations ----


def read_config(config: object) -> Settings:
    """Read and check ``(num_buckets, max_distance, bidirectional)`` of a configuration."""
    if not isinstance(config, str | os.PathLike):
        return _find_only(config)
    path = as_path("config", config)
    content = read_json(path)
    with naming(path / "config.json" if path.is_dir() else path):
        return _find_only(content)


def _find_only(config: object) -> Settings:
    parts: dict[str, Settings] = {}
    for name, found in find_parts(config, SEQUENCE_FAMILIES).items():
        if found is not None and not _is_within(name, parts):
            parts[name] = found
    if not parts:
        raise ValueError(
            "config must have relative position buckets (relative_attention_num_buckets, "
            "rel_pos_bins, position_bias_num_buckets, or num_buckets with its distance), "
            f"got {_describe(config)}"
        )
    settings = _only(parts)
    if settings is None:
        raise ValueError(
            f"config must be one of its parts: {_list(parts)}, got {_describe(config)}"
        )
    return check_settings(settings)


def check_settings(settings: Settings) -> Settings:
    """Check settings that a scheme will be made of."""
    integer("num_buckets", settings[0], maximum=MAX_NUM_BUCKETS)
    Buckets(*settings)  # equal ones share their rule
    return settings


def find_settings_of(tensor: str, config: object, families: tuple[Family, ...]) -> Settings | None:
    """Find the settings of a tensor's buckets, or None if a configuration has none.

    They are those of the part whose name the tensor's begins with; or else of the parts in it,
    if they agree, or of what it is a part of.
    """
    parts = find_parts(config, families)
    found = {name: settings for name, settings in parts.items() if settings is not None}
    named = sorted((name for name in parts if _is_of(tensor, name)), key=_depth, reverse=True)
    innermost = [name for name in named if _depth(name) == _depth(named[0])]
    candidates = {name: found[name] for name in innermost if name in found}
    if not candidates:
        candidates = {name: found[name] for name in found if _is_within(name, innermost)}
    if not candidates:
        candidates = {name: found[name] for name in [n for n in named if n in found][:1]}
    settings = _only(candidates)
    if settings is None and found:
        raise ValueError(
            f"config must have one part with the buckets of {show(tensor)}, "
            f"got {_list(candidates or found)}"
        )
    return settings


def _depth(part: str) -> int:
    return len(part.split(".")) if part else 0


def _is_within(part: str, others: Container[str]) -> bool:
    words = part.split(".") if part else []
    return any(".".join(words[:depth]) in others for depth in range(len(words)))


def _is_of(tensor: str, part: str) -> bool:
    """Whether a tensor's name begins with that of a part, behind what wraps models."""
    words = tensor.split(".", MAX_WRAPPERS + MAX_DEPTH)
    part_words = part.split(".") if part else []
    for start in range(len(words)):
        pairs = list(zip(words[start:], part_words, strict=False))
        if len(pairs) == len(part_words) and all(_is_named(*pair) for pair in pairs):
            return True
        if words[start] not in WRAPPERS:
            break
    return False


def _is_named(word: str, part: str) -> bool:
    """Whether a module has the name of a part; that of ``text_config`` may be ``text_model``."""
    return word == part or (
        part.endswith("_config") and f"{word}_".startswith(part.removesuffix("config"))
    )


def find_parts(config: object, families: tuple[Family, ...]) -> dict[str, Settings | None]:
    """Find the settings of a configuration and of its parts, by their names; its own is empty.

    Composite models (MusicGen, Pix2Struct, encoder and decoder) have a configuration for each part.
    """
    parts: dict[str, Settings | None] = {}
    waiting: list[tuple[str, object]] = [("", config)]
    seen = {id(config)}  # a configuration may hold itself
    for name, value in waiting:
        get = value.get if isinstance(value, Mapping) else _getter(value)
        parts[name] = next((found for family in families if (found := family(get))), None)
        if _depth(name) < MAX_DEPTH:
            for key, part in _list_parts(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    waiting.append((f"{name}.{key}" if name else key, part))
    return parts


def _list_parts(config: object) -> Iterator[tuple[str, object]]:
    """List what may be configurations within one."""
    values = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    for key, value in values.items():
        # Pix2Struct's vision_config has settings that its model does not read.
        is_name = isinstance(key, str) and "." not in key and key != "vision_config"
        is_read = is_name and not isinstance(value, type)
        is_config = isinstance(value, Mapping | SimpleNamespace) or hasattr(value, "to_dict")
        if is_read and is_config:
            yield key, value


def _getter(config: object) -> Getter:
    return lambda name: getattr(config, name, None)


def _only(parts: dict[str, Settings]) -> Settings | None:
    """Return the settings that all parts have, if they do."""
    found = iter(parts.values())
    first = next(found, None)
    return first if all(settings == first for settings in found) else None


def _list(parts: dict[str, Settings]) -> str:
    """List parts with their settings."""
    listed = [
        f"{printable(name)} ({', '.join(map(show, settings))})"
        for name, settings in [*parts.items()][:MAX_LISTED]
    ]
    rest = f" and {len(parts) - MAX_LISTED} more" if len(parts) > MAX_LISTED else ""
    return ", ".join(listed) + rest


def _describe(config: object) -> str:
    if isinstance(config, Mapping):
        return f"a mapping with model_type {show(config.get('model_type'))}"
    return f"an object of type {type(config).__name__}"
