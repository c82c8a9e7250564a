# _config.py - where Hugging Face configurations keep the settings of their buckets.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

Settings = tuple[Any, Any, bool]  # num_buckets, max_distance, bidirectional
MAX_DEPTH = 3  # of parts within parts
MAX_LISTED = 20  # in a message
MAX_NBYTES = 100_000_000  # of a JSON file; the index of the largest models has a tenth


class Fields(NamedTuple):
    """Names of a family's settings, and what its code uses where one is absent."""

    num_buckets: str
    max_distance: str
    default_max_distance: int
    always_unidirectional: bool = False


FAMILIES = (
    # T5, mT5, UMT5, LongT5, Switch, Pop2Piano, UDOP; MPNet, whose code fixes 128
    Fields("relative_attention_num_buckets", "relative_attention_max_distance", 128),
    Fields("rel_pos_bins", "max_rel_pos", 128),  # LayoutLMv2, LayoutLMv3: the sequence axis
    Fields("position_bias_num_buckets", "position_bias_max_distance", 2048),  # CPM-Ant
    Fields("num_buckets", "relative_max_distance", 128, always_unidirectional=True),  # ProphetNet
    Fields("num_buckets", "max_bucket_distance", 800),  # WavLM
)
# LayoutLMv2, LayoutLMv3: each axis of the page
AXIS_FAMILIES = (Fields("rel_2d_pos_bins", "max_rel_2d_pos", 256),)


def read_config(config: object) -> Settings:
    """Read ``(num_buckets, max_distance, bidirectional)`` out of a configuration."""
    if isinstance(config, str | os.PathLike):
        config = read_json(Path(config))
    parts = find_parts(config)
    if not parts:
        names = ", ".join(fields.num_buckets for fields in FAMILIES[:-1])
        raise ValueError(
            f"config must have relative position buckets ({names}), got {_describe(config)}"
        )
    settings = _only(parts)
    if settings is None:
        raise ValueError(
            f"config must be one of its parts: {_list(parts)}, got {_describe(config)}"
        )
    return settings


def find_settings_of(
    tensor: str, config: object, families: tuple[Fields, ...] = FAMILIES
) -> Settings | None:
    """Find the settings of a tensor's buckets, or None if a configuration has none."""
    parts = find_parts(config, families)
    named = [name for name in parts if f".{name}." in f".{tensor}."]
    if named:
        return parts[max(named, key=len)]
    settings = _only(parts)
    if settings is None and parts:
        raise ValueError(
            f"config must have one part with the buckets of {tensor}, got {_list(parts)}; "
            "name the scheme by buckets="
        )
    return settings


def find_parts(config: object, families: tuple[Fields, ...] = FAMILIES) -> dict[str, Settings]:
    """Find the settings of a configuration, or else of its parts, by their names.

    Composite models (MusicGen, Pix2Struct, encoder and decoder) have a configuration for each part.
    """
    parts = {}
    waiting: list[tuple[str, object]] = [("", config)]
    seen = {id(config)}  # a configuration may hold itself
    for name, value in waiting:
        settings = _find(value, families)
        if settings is not None:
            parts[name] = settings
        elif name.count(".") < MAX_DEPTH - 1:
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
        is_read = isinstance(key, str) and key != "vision_config" and not isinstance(value, type)
        is_config = isinstance(value, Mapping | SimpleNamespace) or hasattr(value, "to_dict")
        if is_read and is_config:
            yield key, value


def _only(parts: dict[str, Settings]) -> Settings | None:
    """Return the settings that all parts have, if they do."""
    found = iter(parts.values())
    first = next(found, None)
    return first if all(settings == first for settings in found) else None


def _list(parts: dict[str, Settings]) -> str:
    """List parts with their settings."""
    listed = [f"{name:.100} {settings!s:.100}" for name, settings in [*parts.items()][:MAX_LISTED]]
    rest = f" and {len(parts) - MAX_LISTED} more" if len(parts) > MAX_LISTED else ""
    return ", ".join(listed) + rest


def _find(config: object, families: tuple[Fields, ...]) -> Settings | None:
    get = _getter(config)
    for fields in families:
        num_buckets = get(fields.num_buckets)
        max_distance = get(fields.max_distance)
        # "num_buckets" alone could mean anything: it takes its partner to tell.
        if num_buckets is None or (fields.num_buckets == "num_buckets" and max_distance is None):
            continue
        if max_distance is None:
            max_distance = fields.default_max_distance
        model_type = str(get("model_type") or "")
        # Pix2Struct has buckets in its text decoder alone, whatever is_decoder says.
        unidirectional = (
            bool(get("is_decoder"))
            or fields.always_unidirectional
            or model_type.startswith("pix2struct")
        )
        return num_buckets, max_distance, not unidirectional
    return None


def _getter(config: object) -> Callable[[str], Any]:
    if isinstance(config, Mapping):
        return config.get
    return lambda name: getattr(config, name, None)


def read_json(path: Path, name: str = "config") -> dict[str, Any]:
    """Read a JSON object; that of a folder is its ``config.json``."""
    if path.is_dir():
        path = path / "config.json"
    check_regular(name, path)
    if path.stat().st_size > MAX_NBYTES:
        raise ValueError(f"{name} must have at most {MAX_NBYTES} bytes, got {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be a JSON file, got {path} ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} must be a JSON object, got {path}")
    return content


def check_regular(name: str, path: Path) -> None:
    """Refuse a pipe, which waits for ever, and a device, which has no end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{name} must be a regular file, got {path}")


def _describe(config: object) -> str:
    if isinstance(config, Mapping):
        return f"a mapping with model_type {config.get('model_type')!r}"
    return f"an object of type {type(config).__name__}"
