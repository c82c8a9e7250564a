# test_terminal.py - colours, bars, progress, completion, and how the command line ends.
# SPDX-License-Identifier: BSD-3-Clause
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5bucket.cli import _bars, _parser, _terminal, bench, bias, main
from t5bucket.cli._measure import Result, Row

ESCAPE = "\033["


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment variables that decide about colours."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")


def open_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make standard output a terminal; call it in the test, after pytest replaced the stream."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    return stream


# ---- the first page ----


def test_alone_it_shows_five_things_and_says_that_a_command_is_required(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(_parser.EXAMPLES) == 5
    for task, examples in _parser.EXAMPLES.items():
        assert f"\n{task}\n" in printed.err
        for example in examples:
            assert f"  {example}\n" in printed.err
    assert "Choose a command, such as bias" in printed.err


def test_each_command_has_an_example_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "ROWS", ())
    examples = [shlex.split(line)[1:] for lines in _parser.EXAMPLES.values() for line in lines]
    assert {words[0] for words in examples} == {
        module.__name__.rpartition(".")[2] for module in _parser.COMMANDS
    }
    for words in examples:
        if words[0] == "plot":
            pytest.importorskip("matplotlib")
        if words[0] != "estimate":  # its model is missing here; see test_estimate.py
            assert main(words) == 0
    assert (tmp_path / "bias.npy").exists()
    assert (tmp_path / "bias.png").exists()


# ---- colours ----


@pytest.mark.parametrize(
    ("variables", "in_pipe", "on_terminal"),
    [
        ({}, False, True),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, False, True),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, True),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
    ],
)
def test_colours_are_for_terminals_and_variables_decide(
    variables: dict[str, str], in_pipe: bool, on_terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _terminal.has_colors(io.StringIO()) is in_pipe
    assert _terminal.has_colors(Terminal()) is on_terminal
    assert _terminal.has_colors(None) is in_pipe


def test_summaries_are_coloured_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    assert main(["bias", "--query-length", "4"]) == 0
    colored = terminal.getvalue()
    assert f"{ESCAPE}1mshape{ESCAPE}0m" in colored
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["buckets"]) == 0
    plain = terminal.getvalue().removeprefix(colored)
    assert ESCAPE not in plain
    assert "never occurs" in plain


# ---- progress ----


def test_progress_is_shown_on_a_terminal_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tqdm")
    monkeypatch.setattr(_terminal, "PROGRESS_DELAY", 0)
    shown = {}
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert main(["bias", "--query-length", "4"]) == 0
        shown[type(stream)] = stream.getvalue()
    assert "bias: " in shown[Terminal]
    assert shown[Terminal].endswith("\r")
    assert shown[io.StringIO] == ""


def test_fast_commands_show_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["bias", "--query-length", "4"]) == 0
    assert "%" not in stream.getvalue()


# ---- bench ----


ROWS = tuple(
    Row(task, "peer", 1.2, lambda ours=ours: Result(ours, 1.0))  # type: ignore[misc]
    for task, ours in (("fast", 0.25), ("equal", 1.0), ("slow", 5.0))
)


def test_bench_draws_ratios_as_bars_with_a_mark_at_one(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = open_terminal(monkeypatch)
    monkeypatch.setattr(bench, "ROWS", ROWS)
    assert main(["bench"]) == 0
    header, fast, equal, slow, *_ = terminal.getvalue().splitlines()
    assert f"{ESCAPE}32m" in fast
    assert f"{ESCAPE}33m" in slow
    header, fast, equal, slow = (
        re.sub(r"\033\[\d*m", "", line) for line in (header, fast, equal, slow)
    )
    one = header.index("1", header.index("ratio"))
    assert fast[one] == equal[one] == "│"
    assert equal[one - 1] == "█"
    assert fast[one - 1] == " "
    assert fast.count("█") == pytest.approx(equal.count("█") / 4, abs=1)
    assert "▶  peer  above" in slow
    assert max(map(len, (header, fast, equal, slow))) <= 100


@pytest.mark.parametrize("cells", [12, 13, 40])
@pytest.mark.parametrize("ratio", [0.0, 0.01, 0.999, 1.0, 1.5, 2.0, 2.01, 99.0, float("inf")])
def test_a_bar_has_the_width_that_it_is_given(ratio: float, cells: int) -> None:
    assert len(_bars.make_bar(ratio, cells)) == cells


def test_bars_are_ascii_where_nothing_else_can_be_printed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    open_terminal(monkeypatch)
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert _bars.make_bar(5.0, 12) == "######|####>"


def test_bench_prints_its_json_alone_without_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "ROWS", ROWS)
    assert main(["bench", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["ratio"] for row in printed["rows"]] == [0.25, 1.0, 5.0]
    assert main(["bench"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["fast", "equal", "slow"]
    assert "│" not in "".join(lines)


# ---- how it ends ----


def test_ctrl_c_ends_quietly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupt(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bias, "fill", interrupt)
    assert main(["bias", "--out", str(tmp_path / "x.npy")]) == 130
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_handled_during_a_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def fail(*arguments: Any) -> Any:
        during.append(signal.getsignal(signal.SIGTERM))
        raise MemoryError

    monkeypatch.setattr(bias, "fill", fail)
    assert main(["bias", "--query-length", "4"]) == 1
    assert during != [before]
    assert signal.getsignal(signal.SIGTERM) is before


def test_errors_are_one_line_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("two.npz", a=np.ones((4, 2)), b=np.ones((4, 2)))
    for arguments, code in (
        (["bias", "two.npz"], 1),
        (["bias", "no.npy"], 1),
        (["bias", "--query-length", "-1"], 2),
        (["bias", "--out", "x.txt"], 2),
        (["bais"], 2),
        (["plot", "--head", "12"], 2),
    ):
        if arguments[0] == "plot":
            pytest.importorskip("matplotlib")
        assert end(arguments) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("t5bucket")
        assert printed.err.count("\n") == 1


def end(arguments: list[str]) -> object:
    """Return the exit code, even if the parser exits."""
    try:
        return main(arguments)
    except SystemExit as exit_:
        return exit_.code


def test_help_into_a_closed_pipe_ends_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "t5bucket", "bias", "--help"]
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode in (0, 1)


# ---- completion ----


def complete(line: str) -> list[str]:
    """Request completions as a shell does."""
    pytest.importorskip("argcomplete")
    # Descriptor 8 gets the answer, and 9 the debugging output.
    command = f"exec '{sys.executable}' -m t5bucket 8>&1 9>/dev/null >/dev/null"
    variables = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    result = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | variables,
    )
    return result.stdout.split()


def test_a_shell_completes_commands_options_and_choices() -> None:
    assert complete("t5bucket b") == ["bias", "buckets", "bench"]
    assert complete("t5bucket bias --dr") == ["--dry-run"]
    assert complete("t5bucket plot --panel h") == ["head"]


def test_the_marker_of_argcomplete_stands_at_the_top_of_the_program() -> None:
    package = Path(_parser.__file__).parent
    for path in (package / "__init__.py", package.parent / "__main__.py"):
        assert "# PYTHON_ARGCOMPLETE_OK\n" in path.read_text(encoding="utf-8")[:1024]


def test_without_argcomplete_a_shell_gets_no_answer_and_the_program_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    _parser.complete(_parser.make_parser())
