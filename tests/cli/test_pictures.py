# test_pictures.py - t5bucket plot: panels, colours, axes, and equal bytes for equal calls.
# SPDX-License-Identifier: BSD-3-Clause
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

matplotlib: Any = pytest.importorskip("matplotlib")
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

import t5bucket as tb  # noqa: E402
from t5bucket.cli import main, plot  # noqa: E402
from t5bucket.plot import plot_bias, plot_buckets, plot_grid, plot_head  # noqa: E402


def bias_of(num_heads: int) -> tb.RelativeAttentionBias:
    weight = np.random.default_rng(0).standard_normal((32, num_heads), np.float32)
    return tb.RelativeAttentionBias(weight, tb.Buckets())


def new_axes() -> Any:
    return Figure().subplots()


# ---- the functions ----


def test_lines_show_the_bias_of_each_head() -> None:
    bias, ax = bias_of(12), new_axes()
    assert plot_bias(bias, ax=ax, distance=20) is ax
    assert len(ax.lines) == 12
    for head, line in enumerate(ax.lines):
        assert np.array_equal(line.get_xdata(), np.arange(-20, 21))
        assert np.array_equal(line.get_ydata(), bias.matrix(1, 41, key_offset=-20)[head, 0])
    assert ax.get_xlabel() == "key position - query position (tokens)"
    assert ax.get_ylabel() == "bias"


@pytest.mark.parametrize("num_heads", [1, 12, 16, 17, 64])
def test_heads_can_be_told_apart(num_heads: int) -> None:
    ax = plot_bias(bias_of(num_heads), ax=new_axes())
    looks = {(to_hex(line.get_color()), line.get_linestyle()) for line in ax.lines}
    assert len(looks) == num_heads
    assert (ax.get_legend() is not None) == (num_heads <= 16)
    bars = [other for other in ax.figure.axes if other is not ax]
    assert [bar.get_ylabel() for bar in bars] == ["head"] * (num_heads > 16)


def test_chosen_heads_have_their_own_numbers() -> None:
    ax: Any = plot_bias(bias_of(64), heads=[40, 3], ax=new_axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["head 40", "head 3"]


@pytest.mark.parametrize("scheme", [tb.Buckets(), tb.Buckets(32, 128, False), tb.Buckets(4, 2)])
def test_steps_show_the_bucket_of_each_relative_position(scheme: tb.Buckets) -> None:
    ax: Any = plot_buckets(scheme, distance=30, ax=new_axes())
    positions = np.concatenate([line.get_xdata() for line in ax.lines])
    found = np.concatenate([line.get_ydata() for line in ax.lines])
    assert np.array_equal(positions, np.arange(-30, 31))
    assert np.array_equal(found, scheme(positions))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "earlier keys", "later keys",
    ]  # fmt: skip


def test_a_heat_map_is_the_matrix_of_its_head_and_0_is_in_the_middle() -> None:
    bias = bias_of(3)
    ax: Any = plot_head(bias, 2, 20, 30, ax=new_axes())
    (image,) = ax.images
    assert np.array_equal(image.get_array(), bias.matrix(20, 30)[2])
    low, high = image.get_clim()
    assert low == -high == -np.abs(bias.matrix(20, 30)[2]).max()
    large: Any = plot_head(bias, 2, 5000, 20, ax=new_axes())
    assert large.images[0].get_array().shape == (1000, 20)
    assert np.array_equal(large.images[0].get_array(), bias.view(5000, 20)[2, ::5])
    assert large.get_ylim() == (4999.5, -0.5)
    weight = np.full((32, 1), -np.inf, np.float32)
    weight[:4] = 0
    nothing = tb.RelativeAttentionBias(weight, tb.Buckets())
    assert plot_head(nothing, 0, 9, 9, ax=new_axes()).images[0].get_clim() == (-1, 1)


def test_a_grid_shows_the_buckets_in_colours_of_the_whole_scheme() -> None:
    image: Any = plot_grid(tb.Buckets(), 5, 7, ax=new_axes()).images[0]
    assert np.array_equal(image.get_array(), tb.Buckets().grid(5, 7))
    assert image.get_clim() == (0, 31)


@pytest.mark.parametrize(
    "scheme",
    [
        tb.Buckets(2, 5, False),
        tb.Buckets(320, 800),
        tb.Buckets(32, 10**9),
        tb.Buckets.from_textbook(20, 12),
    ],
)
@pytest.mark.parametrize("distance", [1, None])
def test_numbers_of_an_axis_do_not_overlap(scheme: tb.Buckets, distance: int | None) -> None:
    ax = new_axes()
    if scheme.max_distance > 10**6:
        distance = distance or 1000
    plot_buckets(scheme, distance=distance, ax=ax)
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
    assert len(boxes) >= 3
    for left, right in pairwise(boxes):
        assert left.x1 < right.x0


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plot_head(bias_of(2), 2, 5, 5), ValueError, "head must be at most 1, got 2"),
        (lambda: plot_head(bias_of(2), 0, 0, 5), ValueError, "query_length must be at least 1"),
        (lambda: plot_head(tb.Buckets(), 0, 5, 5), TypeError, "bias must be a RelativeAttention"),  # type: ignore[arg-type]
        (lambda: plot_buckets(bias_of(2)), TypeError, "buckets must be a Buckets"),  # type: ignore[arg-type]
        (lambda: plot_buckets(tb.Buckets(), distance=0), ValueError, "distance must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# ---- the command ----


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_options_give_the_same_bytes(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plot, "DPI", 20)
    pictures = []
    for second in ("1", "2"):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", second)
        out = tmp_path / f"{second}.{suffix}"
        assert main(["plot", "--panel", "bias", "--out", str(out)]) == 0
        pictures.append(out.read_bytes())
    assert pictures[0] == pictures[1]
    assert b"<dc:date>" not in pictures[0]


def test_panels_are_drawn_once_each_in_the_order_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr(plot, "save", lambda figure, path: figures.append(figure))
    for options in (["--panel", "head", "--panel", "bias", "--panel", "head", "--head", "7"], []):
        assert main(["plot", *options, "--out", str(tmp_path / "x.png")]) == 0
    chosen, whole = ([ax.get_title() for ax in figure.axes if ax.get_title()] for figure in figures)
    assert chosen == ["bias of each pair, head 7", "bias by relative position"]
    tensor = "encoder.relative_attention_bias.weight"
    titles = [figure.get_suptitle() for figure in figures]
    assert titles == [f"all-mpnet-base-v2 (embedded): {tensor}"] * 2
    model, hub = (plot.make_title(name, "t") for name in (str(tmp_path), "google-t5/t5-small"))
    assert (model, hub) == (f"{tmp_path.name}: t", "google-t5/t5-small: t")
    assert whole == [
        "bucket by relative position",
        "bias by relative position",
        "bucket of each pair",
        "bias of each pair, head 0",
    ]


def test_a_head_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "--head", "12"]) == 2
    assert "--head must be at most 11, got 12" in capsys.readouterr().err


def test_a_window_is_shown_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib import pyplot

    monkeypatch.chdir(tmp_path)
    pyplot.switch_backend("agg")
    assert main(["plot", "--panel", "bias", "--show"]) == 1
    assert "--show needs a screen and a toolkit" in capsys.readouterr().err
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.append(pyplot.gcf()))
    canvas = matplotlib.backends.backend_agg.FigureCanvasAgg
    monkeypatch.setattr(canvas, "required_interactive_framework", "qt", raising=False)
    assert main(["plot", "--panel", "bias", "--show"]) == 0
    assert len(shown) == 1
    assert list(tmp_path.iterdir()) == []
    pyplot.close("all")


def test_without_matplotlib_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot"]) == 1
    assert "pip install 't5bucket[plot]'" in capsys.readouterr().err
