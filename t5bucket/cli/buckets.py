# buckets.py - t5bucket buckets: the ranges of a scheme.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from t5bucket import Buckets
from t5bucket._weights.folder import CONFIG_NAME, is_index, is_weights
from t5bucket._weights.names import AmbiguousTableError, is_of_decoder
from t5bucket.cli._options import (
    SETTINGS,
    UsageError,
    add_json_option,
    add_weights_options,
    integer,
    load_bias,
    make_buckets,
    print_json,
)
from t5bucket.cli._terminal import paint

Bounds = tuple[int | None, int | None]
OFFSETS = {1: "key - query", -1: "query - key"}
EPILOG = """\
examples:
  t5bucket buckets google-t5/t5-small      which max_distance has my model?
  t5bucket buckets model/ --tensor decoder
  t5bucket buckets --num-buckets 32 --max-distance 128 --unidirectional
  t5bucket buckets --config config.json    without weights
  t5bucket buckets --textbook 32 1024      the textbook's figure"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "buckets",
        help="show which distances each bucket holds",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show a scheme: its max_distance, and the relative positions (key - query, in\n"
        "tokens) of each bucket. Some buckets never occur; it says which, and why.",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("--num-buckets", type=integer(), metavar="N", help="of the scheme (default: 32)")
    add_weights_options(parser, has_default=False)
    add("--config", metavar="FILE", help="the scheme of a Hugging Face config.json")
    add(
        "--textbook",
        nargs=2,
        type=integer(),
        metavar=("N_B", "DIST_MAX"),
        help="the textbook's scheme and notation: buckets 0 to N_B of the offset query - key",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a scheme's ranges, in the order of its buckets."""
    buckets, tensor = scheme(options)
    sign = 1 if options.textbook is None else -1  # the textbook's offset is query - key
    ranges = list_ranges(buckets, sign)
    if options.json:
        print_json({**make_object(buckets, ranges, sign), "tensor": tensor})
        return
    print(paint(str(buckets), "bold"))
    if tensor is not None:
        print(f"tensor  {tensor}")
    print(f"bucket  {OFFSETS[sign]}")
    for bucket, found in ranges.items():
        for text in map(describe, found):
            print(f"{bucket:6}  {text}")
        if not found:
            reason = f"never occurs: {explain_absence(bucket, buckets)}"
            print(f"{bucket:6}  {paint(reason, 'yellow')}")


def list_ranges(buckets: Buckets, sign: int) -> dict[int, list[Bounds]]:
    """List the offsets of each bucket, from the first to the last; None has no end."""
    ranges: dict[int, list[Bounds]] = {bucket: [] for bucket in range(buckets.num_buckets)}
    for bucket, *bounds in buckets.ranges():
        first, last = (None if bound is None else sign * bound for bound in bounds[::sign])
        ranges[bucket].append((first, last))
    return ranges


def make_object(buckets: Buckets, ranges: dict[int, list[Bounds]], sign: int) -> dict[str, object]:
    """Put a scheme into an object that machines read."""
    return {
        **{name: getattr(buckets, name) for name in SETTINGS},
        "offset": OFFSETS[sign],
        "ranges": [
            {"bucket": bucket, "first": first, "last": last}
            for bucket, found in ranges.items()
            for first, last in found
        ],
        "never_occurring": [bucket for bucket, found in ranges.items() if not found],
    }


def explain_absence(bucket: int, buckets: Buckets) -> str:
    """Say why no relative position has a bucket of T5's scheme."""
    if buckets.bidirectional and bucket == buckets.num_buckets // 2:
        return "it would hold distance 0 of later keys, and distance 0 is in bucket 0"
    if buckets.bidirectional and bucket == buckets.num_buckets // 2 * 2:
        return f"each direction has {buckets.num_buckets // 2} buckets, so this one is left over"
    return "no whole distance lies between its boundaries"


def scheme(options: argparse.Namespace) -> tuple[Buckets, str | None]:
    """Make the scheme of a weight, or the one that the options describe; name the weight."""
    if options.weights is None:
        return scheme_of_options(options), None
    if (options.config, options.textbook, options.num_buckets) != (None,) * 3:
        raise UsageError("WEIGHTS excludes --config, --textbook and --num-buckets")
    config = find_only_config(Path(options.weights))
    return scheme_of_weights(options) if config is None else (configured(config, options), None)


def scheme_of_weights(options: argparse.Namespace) -> tuple[Buckets, str]:
    """Read the scheme of a weight, or of one a layer: then all have the same."""
    try:
        bias, tensor = load_bias(options)
    except AmbiguousTableError as error:
        if len({re.sub(r"\d+", "0", name) for name in error.names}) > 1:
            raise
        bias, tensor = load_bias(argparse.Namespace(**vars(options) | {"tensor": error.names[0]}))
    return bias.buckets, tensor


def find_only_config(path: Path) -> Path | None:
    """Find a configuration, if the path has no weights."""
    if path.is_dir():
        config = path / CONFIG_NAME
        return config if config.exists() and not any(map(is_weights, path.iterdir())) else None
    return path if path.suffix == ".json" and not is_index(path) and path.exists() else None


def configured(config: Path, options: argparse.Namespace) -> Buckets:
    """Make the scheme of a configuration; options override it."""
    buckets = Buckets.from_config(config)
    is_unidirectional = options.unidirectional or is_of_decoder(f"{options.tensor}.")
    return make_buckets(
        buckets.num_buckets,
        buckets.max_distance if options.max_distance is None else options.max_distance,
        buckets.bidirectional and not is_unidirectional,
    )


def scheme_of_options(options: argparse.Namespace) -> Buckets:
    """Make the scheme that the options describe, in one of three ways."""
    settings = (options.num_buckets, options.max_distance, options.unidirectional or None)
    ways = [options.config, options.textbook, None if settings == (None,) * 3 else settings]
    if sum(way is not None for way in ways) > 1:
        raise UsageError("--config, --textbook and single settings exclude each other")
    if options.tensor is not None or options.heads_first:
        raise UsageError("--tensor and --heads-first need WEIGHTS")
    if options.config is not None:
        return Buckets.from_config(options.config)
    if options.textbook is not None:
        try:
            return Buckets.from_textbook(*options.textbook)
        except ValueError as error:
            raise UsageError(error) from None
    return make_buckets(
        32 if options.num_buckets is None else options.num_buckets,
        128 if options.max_distance is None else options.max_distance,
        not options.unidirectional,
    )


def describe(bounds: Bounds) -> str:
    """Describe a range in words."""
    first, last = bounds
    if first is None and last is None:
        return "all"
    if first is None:
        return f"{last} and below"
    if last is None:
        return f"{first} and beyond"
    return str(first) if first == last else f"{first} to {last}"
