# draw_front.py - draw the picture of the README: buckets, a bias, and what is gained.
# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/t5bucket.svg; needs the package. Its figures are those of docs/reference/speed.md.

python -P tools/draw_front.py
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import t5bucket
from t5bucket import RelativeAttentionBias

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "t5bucket.svg"
SPEED = ROOT / "docs" / "reference" / "speed.md"
DATA = Path(t5bucket.__file__).parent / "data"
WEIGHT = DATA / "all-mpnet-base-v2.relative_attention_bias.safetensors"
HEAD = 4  # it prefers tokens before the query
LENGTH = 128  # tokens of the matrix
LENGTHS = (1024, 2048, 4096)
WIDTH, HEIGHT = 800, 424
LEFT, MIDDLE, RIGHT = 24, 432, 776
CELL, SIDE = 22, 172
COLOURS = ("#3b0f6f", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf")  # of the smallest to the largest
OURS, THEIRS = "#d6456a", "#8b949e"
TITLE = "The buckets and the bias of T5, and the time and memory of a T5 encoder with t5bucket"
DESCRIPTION = """\
On the left: 16 buckets for keys at and before the query, and 15 for keys after it. Small distances
have a bucket each; from distance 8 on, buckets get wider, and the last begins at 91. Each bucket
has a learned number, shown as a colour. Below, the bias matrix of 128 queries and 128 keys, in
these colours: each diagonal has one colour. On the right, bars for 1,024, 2,048 and 4,096 tokens:
{times}. {growths}."""


def draw() -> str:
    """Draw the picture as SVG."""
    bias = RelativeAttentionBias.load(WEIGHT)
    times = {n: read_row(f"t5-small, 1 x {n}") for n in LENGTHS}
    growths = {n: read_row(f"growth of peak memory, t5-small, 1 x {n}") for n in LENGTHS}
    description = DESCRIPTION.format(
        times="time " + describe(times, 2, "s"),
        growths="Added memory " + describe(growths, 0, "MB"),
    )
    parts = [
        *draw_buckets(bias, LEFT, 64),
        *draw_matrix(bias, LEFT + 20, 212),
        *draw_legend(MIDDLE, 46),
        *draw_bars("Time of a T5 encoder, in seconds", times, MIDDLE, 82, 2),
        *draw_bars("Memory that it adds, in MB", growths, MIDDLE, 234, 0),
        draw_text(
            MIDDLE, 390, "t5-small, float32, one sequence; equal outputs, bit for bit.", "small"
        ),
        draw_text(MIDDLE, 406, "Two cores of an AMD EPYC (Zen 4); transformers 5.24.", "small"),
    ]
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" fill="#1f2328"
 font-family="system-ui, 'Segoe UI', 'DejaVu Sans', Helvetica, Arial, sans-serif" font-size="12">
<title>{TITLE}</title>
<desc>{description}</desc>
<style>.middle {{ text-anchor: middle }} .end {{ text-anchor: end }} .small {{ font-size: 11px }}
.head {{ font-size: 14px; font-weight: 600 }} .light {{ fill: #fff }}</style>
<rect x=".5" y=".5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="8" fill="#fff" stroke="#d0d7de"/>
{chr(10).join(parts)}
</svg>
"""


def read_row(task: str) -> tuple[float, float]:
    """Read the two figures of a task, in seconds or MB."""
    row = rf"^\| {re.escape(task)} \| ([\d.]+) (\w+) \| ([\d.]+) (\w+) \|"
    found = re.search(row, SPEED.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"{SPEED.name} must have a row of {task!r}, got none")
    ours, unit, theirs, their_unit = found.groups()
    units = {"ms": 1e-3, "s": 1.0, "MB": 1.0}
    return float(ours) * units[unit], float(theirs) * units[their_unit]


def describe(figures: dict[int, tuple[float, float]], digits: int, unit: str) -> str:
    """Say the figures of bars."""
    ours, theirs = (
        ", ".join(f"{pair[which]:,.{digits}f}" for pair in figures.values()) for which in (0, 1)
    )
    return f"with transformers {theirs} {unit}, with t5bucket {ours} {unit}"


# ---- left: what it computes ----


def draw_buckets(bias: RelativeAttentionBias, x: int, y: int) -> Iterator[str]:
    """Draw the buckets of both directions, each in the colour of its number."""
    yield draw_text(x, 32, "Distances have buckets, buckets have a bias", "head")
    later_base = bias.buckets.num_buckets // 2
    rows = {"keys before the query": range(later_base), "keys after it": range(later_base + 1, 32)}
    for row, (title, numbers) in enumerate(rows.items()):
        top = y + row * 52
        yield draw_text(x, top - 6, f"buckets of {title}")
        for bucket in numbers:
            left = x + bucket % later_base * CELL
            colour = find_colour(bias, bucket)
            light = " light" if is_dark(colour) else ""
            yield draw_box(left, top, CELL, CELL, colour)
            yield draw_text(left + CELL // 2, top + 15, str(bucket), f"middle small{light}")
    yield draw_text(x, y + 94, "They begin at these distances, in tokens:")
    for bucket, _, last in bias.buckets.ranges():
        if bucket < later_base and last is not None:
            place = x + bucket * CELL + CELL // 2
            yield draw_text(place, y + 112, str(-last), "middle small")


def draw_matrix(bias: RelativeAttentionBias, x: int, y: int) -> Iterator[str]:
    """Draw a bias matrix: from the lower left corner on, each range covers what lies beyond it."""
    yield f'<svg x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" viewBox="0 0 {LENGTH} {LENGTH}">'
    for bucket, first, _ in sorted(bias.buckets.ranges(), key=lambda found: found[1] or -LENGTH):
        start = -LENGTH if first is None else first
        corners = f"{start},0 {LENGTH},0 {LENGTH},{LENGTH} {start + LENGTH},{LENGTH}"
        yield f'<polygon points="{corners}" fill="{find_colour(bias, bucket)}"/>'
    yield "</svg>"
    yield draw_text(x + SIDE // 2, y + SIDE + 16, f"{LENGTH} keys", "middle")
    middle = y + SIDE // 2
    turned = f'transform="rotate(-90 {x - 8} {middle})"'
    yield draw_text(x - 8, middle, f"{LENGTH} queries", "middle").replace(
        "<text", f"<text {turned}"
    )
    lines = (
        "The bias of a trained model,",
        "which attention adds to its",
        "scores: bright is high. Each",
        "diagonal has one number, so",
        "no pair needs a logarithm.",
        "Integers decide where a",
        "bucket begins.",
    )
    for number, line in enumerate(lines):
        yield draw_text(x + SIDE + 14, y + 38 + 18 * number, line)


def find_colour(bias: RelativeAttentionBias, bucket: int) -> str:
    """Mix the colour of a bucket's number, between those of the smallest and the largest."""
    numbers = bias.weight[:, HEAD].astype(float)
    place = (numbers[bucket] - numbers.min()) / (numbers.max() - numbers.min())
    below = min(int(place * (len(COLOURS) - 1)), len(COLOURS) - 2)
    part = place * (len(COLOURS) - 1) - below
    ends = zip(read_colour(COLOURS[below]), read_colour(COLOURS[below + 1]), strict=True)
    return "#" + "".join(f"{round(first + part * (last - first)):02x}" for first, last in ends)


def read_colour(colour: str) -> tuple[int, int, int]:
    """Read red, green and blue."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


def is_dark(colour: str) -> bool:
    """Whether white text is easier to read on a colour than black text."""
    red, green, blue = read_colour(colour)
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140


# ---- right: what is gained ----


def draw_legend(x: int, y: int) -> Iterator[str]:
    """Draw which colour is whose."""
    yield draw_text(x, 32, "The same model, the same bits", "head")
    for left, colour, name in ((x, THEIRS, "transformers"), (x + 120, OURS, "with t5bucket")):
        yield draw_box(left, y, 12, 12, colour)
        yield draw_text(left + 18, y + 10, name)


def draw_bars(
    title: str, figures: dict[int, tuple[float, float]], x: int, y: int, digits: int
) -> Iterator[str]:
    """Draw two bars for each length."""
    yield draw_text(x, y + 10, title)
    left, longest = x + 88, max(theirs for _, theirs in figures.values())
    scale = (RIGHT - left - 44) / longest
    for number, (length, (ours, theirs)) in enumerate(figures.items()):
        top = y + 22 + 40 * number
        yield draw_text(left - 8, top + 19, f"{length:,} tokens", "end")
        for row, (figure, colour) in enumerate(((theirs, THEIRS), (ours, OURS))):
            width = round(scale * figure, 1)
            yield draw_box(left, top + 15 * row, width, 13, colour)
            yield draw_text(left + width + 6, top + 15 * row + 11, f"{figure:,.{digits}f}")


# ---- both ----


def draw_box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Draw a filled rectangle."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" fill="{colour}"/>'


def draw_text(x: float, y: float, text: str, style: str = "") -> str:
    """Draw text; `style` has the names of classes."""
    style = style and f' class="{style}"'
    return f'<text x="{x:g}" y="{y:g}"{style}>{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
