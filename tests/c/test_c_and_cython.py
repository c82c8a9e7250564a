# test_c_and_cython.py - the core for other compilers: the programs of docs/how_to/c_and_cython.md.
# SPDX-License-Identifier: BSD-3-Clause
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown import ROOT, read_blocks

import t5bucket as tb

BLOCKS = read_blocks("docs/how_to/c_and_cython.md", "c", "cython", "python", "sh")
# Its files by section, from the fenced blocks of each language.
FILES = {"C": {"c": "buckets.c"}, "Cython": {"cython": "far.pyx", "python": "setup.py"}}
RESULTS = dict(
    zip(
        FILES,
        re.findall(
            r"^It prints `(.*)`\.$",
            (ROOT / "docs/how_to/c_and_cython.md").read_text(encoding="utf-8"),
            re.MULTILINE,
        ),
        strict=True,
    )
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform == "win32" or not shutil.which("cc"), reason="needs a C compiler of POSIX"
    ),
]


def run(command: str, folder: Path) -> str:
    python_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The modules that it builds stand in its own folder.
    environment = {**os.environ, "PATH": python_first, "PYTHONSAFEPATH": ""}
    result = subprocess.run(
        ["sh", "-euc", command],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("title", FILES)
def test_the_program_prints_what_the_text_says(title: str, tmp_path: Path) -> None:
    if title == "Cython":
        pytest.importorskip("Cython")
        pytest.importorskip("setuptools")
        if not Path(tb.__file__).with_name("src_c").is_dir():
            pytest.skip("Cython does not find an editable installation's declarations")
    blocks = [block for block in BLOCKS if block.section == title]
    sources = {block.language: block.source for block in blocks}
    assert len(sources) == len(blocks)
    commands = sources.pop("sh")
    assert sources.keys() == FILES[title].keys()
    for language, name in FILES[title].items():
        (tmp_path / name).write_text(sources[language], encoding="utf-8")
    assert run(commands, tmp_path).strip() == RESULTS[title]


def test_the_described_scheme_equals_pythons() -> None:
    row = tb.Buckets(8, 20, bidirectional=False).grid(1, 9, query_offset=7)[0]
    assert " ".join(map(str, row)) == RESULTS["C"]


def test_the_core_compiles_alone_and_exports_what_its_header_declares(tmp_path: Path) -> None:
    for source in tb.get_sources():
        command = ["cc", "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-c", source]
        subprocess.run(command, check=True, cwd=tmp_path)
    header = Path(tb.get_include(), "t5bucket.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^[\w ]+[ *](t5b_\w+)\(", header, re.MULTILINE))
    objects = sorted(map(str, tmp_path.glob("*.o")))
    symbols = subprocess.run(["nm", "-g", *objects], capture_output=True, text=True, check=True)
    defined = set(re.findall(r" [TDBR] _?(\w+)$", symbols.stdout, re.MULTILINE))
    assert len(declared) >= 9
    assert declared <= defined
    assert all(name.startswith("t5b_") for name in defined)


def test_cython_declares_what_the_header_declares() -> None:
    header = Path(tb.get_include(), "t5bucket.h").read_text(encoding="utf-8")
    declarations = Path(tb.__file__).with_name("capi.pxd").read_text(encoding="utf-8")
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    names = set(re.findall(r"\b(?:t5b|T5B)_\w+", code)) - {"T5BUCKET_H"}
    assert names == set(re.findall(r"\b(?:t5b|T5B)_\w+", declarations))
