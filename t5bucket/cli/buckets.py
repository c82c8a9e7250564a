# buckets.py - t5bucket buckets: the ranges of a scheme.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
from typing import Any

from t5bucket import Buckets
from t5bucket._rule import Range
from t5bucket.cli._options import (
    UsageError,
    add_weights_options,
    integer,
    load_bias,
    make_buckets,
)


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "buckets",
        help="show which distances each bucket holds",
        description="Show the relative positions (key - query, in tokens) of each bucket, and say "
        "which buckets never occur.",
    )
    add = parser.add_argument
    add("--num-buckets", type=integer(), metavar="N", help="(default: 32)")
    add_weights_options(parser, has_default=False)
    add("--config", metavar="FILE", help="the scheme of a Hugging Face config.json")
    add(
        "--textbook",
        nargs=2,
        type=integer(),
        metavar=("N_B", "DIST_MAX"),
        help="the textbook's scheme and notation: buckets 0 to N_B of the offset query - key",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print a scheme's ranges, in the order of its buckets."""
    buckets = scheme(options)
    textbook = options.textbook is not None
    print(buckets)
    print("bucket  query - key" if textbook else "bucket  key - query")
    described: dict[int, list[str]] = {bucket: [] for bucket in range(buckets.num_buckets)}
    for bucket, first, last in buckets.ranges():
        if textbook:
            first, last = negated(last), negated(first)
        described[bucket].append(describe((bucket, first, last)))
    for bucket, ranges in described.items():
        for text in ranges or [f"never occurs: {explain_absence(bucket, buckets)}"]:
            print(f"{bucket:6}  {text}")


def explain_absence(bucket: int, buckets: Buckets) -> str:
    """Say why no relative position has a bucket of T5's scheme."""
    if buckets.bidirectional and bucket == buckets.num_buckets // 2:
        return "it would hold distance 0 of later keys, and distance 0 is in bucket 0"
    if buckets.bidirectional and bucket == buckets.num_buckets // 2 * 2:
        return f"each direction has {buckets.num_buckets // 2} buckets, so this one is left over"
    return "no whole distance lies between its boundaries"


def scheme(options: argparse.Namespace) -> Buckets:
    """Make the scheme that the options describe, in one of four ways."""
    if options.weights is not None:
        if (options.config, options.textbook, options.num_buckets) != (None,) * 3:
            raise UsageError("WEIGHTS excludes --config, --textbook and --num-buckets")
        return load_bias(options).buckets
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


def negated(bound: int | None) -> int | None:
    """Bound of the opposite offset."""
    return None if bound is None else -bound


def describe(entry: Range) -> str:
    """Describe a range in words."""
    _, first, last = entry
    if first is None and last is None:
        return "all"
    if first is None:
        return f"{last} and below"
    if last is None:
        return f"{first} and beyond"
    return str(first) if first == last else f"{first} to {last}"
