# _config.py - where Hugging Face configurations keep the settings of their buckets.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


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


def read_config(config: object) -> tuple[Any, Any, bool]:
    """Read ``(num_buckets, max_distance, bidirectional)`` out of a configuration."""
    if isinstance(config, str | os.PathLike):
        config = read_json(Path(config))
    settings = find_settings(config)
    if settings is None:
        names = ", ".join(fields.num_buckets for fields in FAMILIES[:-1])
        raise ValueError(
            f"config must have relative position buckets ({names}), got {_describe(config)}"
        )
    return settings


def find_settings(
    config: object, families: tuple[Fields, ...] = FAMILIES
) -> tuple[Any, Any, bool] | None:
    """Find the settings of the buckets, or None if a configuration has none."""
    settings = _find(config, families)
    if settings is None:  # Pix2Struct keeps those of its text model one level down
        settings = _find(_getter(config)("text_config"), families)
    return settings


def _find(config: object, families: tuple[Fields, ...]) -> tuple[Any, Any, bool] | None:
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


def read_json(path: Path) -> dict[str, Any]:
    """Read a ``config.json``, given by its path or its folder."""
    if path.is_dir():
        path = path / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config must be a JSON file, got {path} ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"config must be a JSON object, got {path}")
    return config


def _describe(config: object) -> str:
    if isinstance(config, Mapping):
        return f"a mapping with model_type {config.get('model_type')!r}"
    return f"an object of type {type(config).__name__}"
