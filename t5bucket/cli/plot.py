# plot.py - t5bucket plot: a picture of a weight and its scheme.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from t5bucket.cli._files import whole_file
from t5bucket.cli._options import add_weights_options, integer, load_bias
from t5bucket.plot import plot_bias, plot_grid


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plot",
        help="draw the bias of a weight and its buckets",
        description="Draw the bias of each head by distance, and the buckets of all pairs.",
    )
    add_weights_options(parser)
    add = parser.add_argument
    add("--length", type=integer(1), default=64, metavar="N", help="of the grid (default: 64)")
    add(
        "--out",
        type=Path,
        default=Path("bias.png"),
        metavar="FILE",
        help="picture to write; its suffix says the format (default: bias.png)",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw both pictures side by side and save them."""
    bias = load_bias(options)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need Matplotlib: pip install 't5bucket[plot]'") from None
    figure = Figure(figsize=(12, 5))
    figure.set_layout_engine("constrained", wspace=0.1)
    left, right = figure.subplots(1, 2)
    plot_bias(bias, ax=left)
    plot_grid(bias.buckets, options.length, options.length, ax=right)
    with whole_file(options.out) as partial_path:
        figure.savefig(partial_path, format=options.out.suffix[1:] or "png")
    print(options.out)
