# test_command_line.py - the page of the command line is true: its options and keys.
# SPDX-License-Identifier: BSD-3-Clause
import json
import re

import command_line
import pytest

from t5bucket.cli import main

TEXT = command_line.PAGE.read_text(encoding="utf-8")


def test_the_tables_are_the_options_of_the_parser() -> None:
    assert re.findall(r"^## `t5bucket (\w+)`$", TEXT, re.MULTILINE) == [*command_line.commands()]
    assert re.findall(r"^<!-- options of (\w+): begin", TEXT, re.MULTILINE) == [
        *command_line.commands()
    ]
    assert command_line.fill(TEXT) == TEXT  # or run tests/support/command_line.py


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
