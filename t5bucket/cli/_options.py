# _options.py - options that several commands share.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from t5bucket import Buckets, RelativeAttentionBias
from t5bucket._weights import LoadedWeight, load_pretrained
from t5bucket._weights.hub import CachedModel, parse_name
from t5bucket._weights.names import NoTableError
from t5bucket.cli._terminal import paint

SETTINGS = ("num_buckets", "max_distance", "bidirectional")  # settings of a scheme
# The library's words in messages, and the command line's.
WORDS = (
    (r"^tensor must", "--tensor must"),
    (r"^(path|name_or_path) must", "WEIGHTS must"),
    (r"tensor='([^']*)'", r"--tensor \1"),
    (r"name another one by tensor=", "--tensor NAME names another one"),
    (r", got None$", ""),
    (r"buckets= or --max-distance", "--max-distance"),
)
EMBEDDED_MODEL = "all-mpnet-base-v2 (embedded)"
EMBEDDED_WEIGHT = "all-mpnet-base-v2.relative_attention_bias.safetensors"


class UsageError(Exception):
    """Options that do not fit: exit code 2."""


def integer(minimum: int = -(2**63)) -> Callable[[str], int]:
    """Argument type of an integer that is at least `minimum`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
        if value < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}, got {text}")
        if value >= 2**63:
            raise argparse.ArgumentTypeError(f"must be at most {2**63 - 1}, got {text}")
        return value

    return parse


def add_scheme_options(parser: argparse.ArgumentParser) -> None:
    """Add what describes a scheme, apart from its number of buckets."""
    parser.add_argument(
        "--max-distance",
        type=integer(),
        metavar="D",
        help="distance at which the logarithmic buckets end (default: the model's, usually 128)",
    )
    parser.add_argument(
        "--unidirectional",
        action="store_true",
        help="a decoder's scheme: future keys share bucket 0",
    )


def add_weights_options(parser: argparse.ArgumentParser, has_default: bool = True) -> None:
    """Add what names a weight and its scheme."""
    parser.add_argument(
        "weights",
        nargs="?",
        metavar="WEIGHTS",
        help="a file (.safetensors, .bin, .pt, .gguf, .npy, .npz, .index.json), the folder of a "
        "model, or its name on Hugging Face's hub"
        + (" (default: the trained weight of all-mpnet-base-v2)" if has_default else ""),
    )
    parser.add_argument(
        "--tensor",
        metavar="NAME",
        help="the tensor, or a part of its name, where there are several: encoder, decoder",
    )
    parser.add_argument(
        "--heads-first", action="store_true", default=None, help="the weight is (heads, buckets)"
    )
    add_scheme_options(parser)


def load_bias(options: argparse.Namespace) -> tuple[RelativeAttentionBias, str]:
    """Load the weight that the options of `add_weights_options` name; return its name, too."""
    with speaking_options(options.weights):
        loaded = load(options)
        settings = loaded.find_settings(options.unidirectional, options.max_distance)
    buckets = make_buckets(*settings)
    bias = RelativeAttentionBias(loaded.weight, buckets, heads_first=loaded.heads_first)
    return bias, loaded.name


@contextmanager
def speaking_options(weights: str | None) -> Iterator[None]:
    """Put errors of loading into the command line's words."""
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1:  # otherwise it is the system's
            message = str(error)
            for pattern, words in WORDS:
                message = re.sub(pattern, words, message)
            about = f"{weights} has no T5 bias: " if isinstance(error, NoTableError) else ""
            error.args = (about + message,)
        raise


def load(options: argparse.Namespace) -> LoadedWeight:
    """Load the weight that the options name."""
    if options.weights is not None:
        announce_hub(options.weights)
        return load_pretrained(options.weights, options.tensor, options.heads_first)
    with as_file(files("t5bucket") / "data" / EMBEDDED_WEIGHT) as path:
        return load_pretrained(path, options.tensor, options.heads_first)


def announce_hub(weights: str) -> None:
    """Say that a name will be looked for on the hub, whose library then logs errors alone."""
    name = parse_name(weights)
    if name is None or Path(weights).exists():
        return
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if not CachedModel(name.repository, name.part).path.is_dir():
        print(
            f"t5bucket: no file or folder {weights!r}; looking for it on Hugging Face's hub",
            file=sys.stderr,
            flush=True,
        )


def make_buckets(*settings: Any) -> Buckets:
    """Make a scheme out of option values; what does not fit is a usage error."""
    try:
        return Buckets(*settings)
    except ValueError as error:
        raise UsageError(error) from None


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the choice of what machines read."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")


def print_fields(fields: dict[str, object]) -> None:
    """Print names and values in two columns."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{paint(name, 'bold')}{'':{width - len(name)}}  {value}")


def print_json(values: dict[str, object]) -> None:
    """Print an object that machines read."""
    print(json.dumps(values, default=_encode))


def _encode(value: object) -> object:
    if isinstance(value, Buckets):
        return {name: getattr(value, name) for name in SETTINGS}
    return str(value)


def show_size(nbytes: float) -> str:
    """Show bytes in a unit that a person reads: 201 MB."""
    unit = "PB"
    for smaller in ("bytes", "kB", "MB", "GB", "TB"):
        if nbytes < 999.5:  # otherwise it would be shown as 1e+03 of this unit
            unit = smaller
            break
        nbytes /= 1000
    return f"{nbytes:.3g} {unit}"
