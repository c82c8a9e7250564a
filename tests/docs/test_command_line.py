# test_command_line.py - the page of the command line is true: its options, examples and keys.
# SPDX-License-Identifier: BSD-3-Clause
import json
import re
import shlex
from pathlib import Path

import command_line
import pytest
from markdown import read_blocks

from t5bucket.cli import bench, main

PAGE = "docs/reference/command_line.md"
TEXT = command_line.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_the_options_of_the_parser() -> None:
    assert re.findall(r"^## `t5bucket (\w+)`$", TEXT, re.MULTILINE) == [*command_line.commands()]
    assert re.findall(r"^<!-- options of (\w+): begin", TEXT, re.MULTILINE) == [
        *command_line.commands()
    ]
    assert command_line.fill(TEXT) == TEXT  # or run tests/support/command_line.py


@pytest.mark.parametrize(
    "example",
    [line for block in read_blocks(PAGE, "sh") for line in block.source.splitlines()],
)
def test_each_example_works(
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program, *arguments = shlex.split(example)
    assert program == "t5bucket"
    if arguments[0] == "plot":
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "ROWS", ())
    assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    if "--out" in arguments:
        assert [path.name for path in tmp_path.iterdir()] == [
            arguments[arguments.index("--out") + 1]
        ]


@pytest.mark.parametrize("arguments", [["bias"], ["bias", "--dry-run"], ["buckets"]], ids=" ".join)
def test_the_keys_of_json_are_those_of_the_page(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 0
    (section,) = re.findall(
        rf"^## `t5bucket {arguments[0]}`$.*?(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL
    )
    keys = json.loads(capsys.readouterr().out)
    assert keys
    described = section.partition("The object of `--json`")[2]
    assert [key for key in keys if f"`{key}`" not in described] == []
