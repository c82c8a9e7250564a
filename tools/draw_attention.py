# draw_attention.py - draw a bias, its reverse and its diagonals, for the page on attention.
# SPDX-License-Identifier: BSD-3-Clause
"""Write docs/explanation/attention.svg.

python tools/draw_attention.py
"""

from __future__ import annotations

from collections.abc import Iterator
from colorsys import hls_to_rgb
from pathlib import Path

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "attention.svg"
QUERIES, KEYS = 5, 6
CELL = 30  # pixels
TITLE = "A bias, with its queries in reverse order, is made of windows of its diagonals"
DESCRIPTION = """\
On the left, the bias of 5 queries and 6 keys: each cell has the relative position, key minus
query, and cells of one diagonal are equal. On the right, the same with the queries from last to
first: now equal cells lie on rising diagonals. Below, the 10 different items in a row, from -4 to
5: row 0 of the right matrix is their first 6, row 1 begins one item later, and so on."""


def draw() -> str:
    """Draw the picture as SVG."""
    left, right, top = 80, 400, 50
    bottom = top + QUERIES * CELL + 60
    parts = [
        *draw_matrix(left, top, "the bias, a Toeplitz matrix", [*range(QUERIES)]),
        *draw_matrix(
            right, top, "queries in reverse: a Hankel matrix", [*reversed(range(QUERIES))]
        ),
        f'<path d="M{left + KEYS * CELL + 15} {top + 75}h40" marker-end="url(#head)"/>',
        draw_text(left + KEYS * CELL + 35, top + 65, "flip"),
        *draw_diagonals(left, bottom),
    ]
    width, height = right + KEYS * CELL + 40, bottom + CELL + 20 + 14 * QUERIES
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"',
        ' font-family="sans-serif" font-size="12" text-anchor="middle" stroke-width="1.5">',
        f"\n<title>{TITLE}</title>\n<desc>{DESCRIPTION}</desc>\n",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6"',
        ' markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>\n',
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n<g stroke="#000">\n',
    )
    return "".join(head) + "\n".join(parts) + "\n</g>\n</svg>\n"


def draw_matrix(x: int, y: int, title: str, queries: list[int]) -> Iterator[str]:
    """Draw the cells of all pairs, one row for each of these queries."""
    yield draw_text(x + KEYS * CELL // 2, y - 28, title)
    for key in range(KEYS):
        yield draw_text(x + key * CELL + CELL // 2, y - 6, f"k{key}")
    for row, query in enumerate(queries):
        yield draw_text(x - 16, y + row * CELL + 19, f"q{query}")
        for key in range(KEYS):
            yield draw_cell(x + key * CELL, y + row * CELL, key - query)


def draw_diagonals(x: int, y: int) -> Iterator[str]:
    """Draw the different items in a row, and below them the window of each row."""
    count = QUERIES + KEYS - 1
    yield draw_text(x + count * CELL // 2, y - 10, f"its {count} diagonals, all that is stored")
    for item in range(count):
        yield draw_cell(x + item * CELL, y, item - QUERIES + 1)
    for row in range(QUERIES):
        begin, level = x + row * CELL, y + CELL + 12 + 14 * row
        yield f'<path d="M{begin + 2} {level}h{KEYS * CELL - 4}"/>'
        middle = begin + KEYS * CELL + 70
        yield draw_text(middle, level + 4, f"row {row} begins at {row}")


def draw_cell(x: int, y: int, relative_position: int) -> str:
    """Draw a square with a relative position, which also decides its colour."""
    hue, lightness = 0.6 if relative_position < 0 else 0.1, 0.97 - 0.07 * abs(relative_position)
    colour = "".join(f"{round(255 * part):02x}" for part in hls_to_rgb(hue, lightness, 0.8))
    square = f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="#{colour}"'
    text = draw_text(x + CELL // 2, y + 19, str(relative_position).replace("-", "\N{MINUS SIGN}"))
    return f'{square} stroke="#999"/>{text}'


def draw_text(x: int, y: int, text: str) -> str:
    """Draw centred text."""
    return f'<text x="{x}" y="{y}" stroke="none">{text}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
