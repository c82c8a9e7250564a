# plot.py - t5bucket plot: pictures of a weight and its scheme.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t5bucket import RelativeAttentionBias
from t5bucket.cli._files import whole_file
from t5bucket.cli._options import (
    EMBEDDED_MODEL,
    UsageError,
    add_weights_options,
    integer,
    load_bias,
)
from t5bucket.cli._terminal import progress
from t5bucket.plot import plot_bias, plot_buckets, plot_grid, plot_head

DEFAULT_PATH = Path("bias.png")
PANEL_SIZE = 5.0, 4.2  # inches
DPI = 150
# Settings that make equal pictures equal files
FIXED: Any = {"svg.hashsalt": "t5bucket"}
DATES = {"svg": "Date", "pdf": "CreationDate", "ps": "CreationDate", "eps": "CreationDate"}
EPILOG = """\
The suffix of FILE says the format: .png, .svg, .pdf and others of Matplotlib. The same options
give the same .svg file.

panels:
  buckets   the bucket of each relative position
  grid      the bucket of each pair of positions
  bias      the bias of all heads by relative position
  head      the bias matrix of one head

examples:
  t5bucket plot --out bias.svg
  t5bucket plot google-t5/t5-small --tensor decoder --panel bias --show
  t5bucket plot model/ --panel head --head 3 --length 256 --out head.png"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "plot",
        help="draw the buckets and the bias of a weight",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Draw the buckets of a weight's scheme, the bias of all heads by\n"
        "relative position, and a heat map of one head.",
        epilog=EPILOG,
    )
    add_weights_options(parser)
    add = parser.add_argument
    add(
        "--panel",
        action="append",
        choices=tuple(PANELS),
        help="draw this one; may be repeated (default: all four)",
    )
    add("--head", type=integer(0), default=0, metavar="N", help="of the heat map (default: 0)")
    add("--length", type=integer(1), default=64, metavar="N", help="tokens of a grid (default: 64)")
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="picture to write; its suffix says the format (default: bias.png, without --show)",
    )
    add("--show", action="store_true", help="open a window")
    parser.set_defaults(run=run)


def draw_buckets(bias: RelativeAttentionBias, options: argparse.Namespace, ax: Any) -> None:
    """Draw the bucket of each relative position."""
    plot_buckets(bias.buckets, ax=ax)
    ax.set_title("bucket by relative position")


def draw_grid(bias: RelativeAttentionBias, options: argparse.Namespace, ax: Any) -> None:
    """Draw the bucket of each pair."""
    plot_grid(bias.buckets, options.length, options.length, ax=ax)
    ax.set_title("bucket of each pair")


def draw_bias(bias: RelativeAttentionBias, options: argparse.Namespace, ax: Any) -> None:
    """Draw the bias of all heads."""
    plot_bias(bias, ax=ax)
    ax.set_title("bias by relative position")


def draw_head(bias: RelativeAttentionBias, options: argparse.Namespace, ax: Any) -> None:
    """Draw the matrix of one head."""
    plot_head(bias, options.head, options.length, options.length, ax=ax)
    ax.set_title(f"bias of each pair, head {options.head}")


PANELS: dict[str, Callable[[RelativeAttentionBias, argparse.Namespace, Any], None]] = {
    "buckets": draw_buckets,
    "bias": draw_bias,
    "grid": draw_grid,
    "head": draw_head,
}


def run(options: argparse.Namespace) -> None:
    """Draw panels side by side; save them, or show them, or both."""
    bias, tensor = load_bias(options)
    if options.head >= bias.num_heads:
        raise UsageError(f"--head must be at most {bias.num_heads - 1}, got {options.head}")
    if options.out is None and not options.show:
        options.out = DEFAULT_PATH
    panels = [PANELS[name] for name in dict.fromkeys(options.panel or PANELS)]
    rows = 2 if len(panels) > 2 else 1
    columns = -(-len(panels) // rows)
    figure = make_figure(options.show, (PANEL_SIZE[0] * columns, PANEL_SIZE[1] * rows))
    figure.set_layout_engine("constrained")
    figure.suptitle(make_title(options.weights, tensor), fontsize="medium", parse_math=False)
    parts = figure.subfigures(rows, columns, squeeze=False).flat  # each has its own layout
    with progress(len(panels) + 1, "drawing", "panel") as report:
        for part, draw in zip(parts, panels, strict=False):
            draw(bias, options, part.subplots())
            report(1)
        if options.out is not None:
            save(figure, options.out)
    if options.out is not None:
        print(options.out)
    if options.show:
        show(figure)


def make_title(weights: str | None, tensor: str) -> str:
    """Name a model and its tensor; of a path, the last part alone."""
    if weights is None:
        return f"{EMBEDDED_MODEL}: {tensor}"
    path = Path(weights)
    return f"{path.resolve().name if path.exists() else weights}: {tensor}"


def make_figure(in_window: bool, size: tuple[float, float]) -> Any:
    """Make a figure, with a window if it will be shown."""
    try:
        if in_window:
            from matplotlib import pyplot

            return pyplot.figure(figsize=size)
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError("plots need Matplotlib: pip install 't5bucket[plot]'") from None
    return Figure(figsize=size)


def save(figure: Any, path: Path) -> None:
    """Write a picture, which has the same bytes each time."""
    from matplotlib import rc_context

    suffix = path.suffix[1:].lower() or "png"
    metadata = {DATES[suffix]: None} if suffix in DATES else {}
    with rc_context(FIXED), whole_file(path) as partial_path:
        figure.savefig(partial_path, format=suffix, dpi=DPI, metadata=metadata)


def show(figure: Any) -> None:
    """Open a window, and wait until it is closed."""
    from matplotlib import get_backend, pyplot

    if figure.canvas.required_interactive_framework is None:
        raise OSError(
            f"--show needs a screen and a toolkit for windows, such as PyQt6, got Matplotlib's "
            f"backend {get_backend()}; --out FILE writes the picture"
        )
    pyplot.show()
