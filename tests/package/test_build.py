# test_build.py - setup.py: the compiler's arguments, and the files in a wheel.
# SPDX-License-Identifier: BSD-3-Clause
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77")
pytest.importorskip("Cython", minversion="3.1")

ROOT = Path(__file__).parents[2]
OWN_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-falign-functions=64"]
# Logs its arguments, and makes an empty output file.
COMPILER = """\
#!/bin/sh
echo "$@" >> "$COMPILER_LOG"
while [ $# -gt 1 ]; do
    if [ "$1" = -o ]; then : > "$2"; fi
    shift
done
"""
# Where setuptools builds by default
STALE_FOLDERS = [
    "build/lib",
    f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}",
    f"build/bdist.{sysconfig.get_platform()}/wheel",
]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("sh"), reason="needs a POSIX shell"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the package's source, with files that an earlier build left behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("t5bucket", "src_c"):
        ignored = shutil.ignore_patterns("*.so", "_core.c", "__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in STALE_FOLDERS:
        (copy / folder / "t5bucket").mkdir(parents=True)
        (copy / folder / "t5bucket" / "stale.py").touch()
    compiler = copy / "compiler"
    compiler.write_text(COMPILER, encoding="utf-8")
    compiler.chmod(0o755)
    return copy


def build_wheel(source: Path, folder: Path, **variables: str) -> tuple[list[str], list[list[str]]]:
    """Build a wheel; return its files, and the arguments of each compilation."""
    own = {"CC": f"{source}/compiler", "COMPILER_LOG": f"{folder}/log", "TMPDIR": str(folder)}
    others = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED")
    }
    script = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    result = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=source,
        env={**others, **own, **variables},
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".whl"]  # no temporary files
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    calls = [
        shlex.split(line) for line in (folder / "log").read_text(encoding="utf-8").splitlines()
    ]
    return names, [call for call in calls if "-c" in call]


@pytest.mark.parametrize("flags", ["", "-O0 -g", "-O2 -g3 '-DNAME=two words'"])
def test_the_packagers_flags_come_last(flags: str, source: Path, tmp_path: Path) -> None:
    variables = {"CFLAGS": flags} if flags else {}
    _, compilations = build_wheel(source, tmp_path, **variables)
    assert len(compilations) == 1 + len([*source.glob("src_c/*.c")])
    # `echo` has removed the quotes.
    expected = [*OWN_FLAGS, *shlex.split(" ".join(shlex.split(flags)))]
    for arguments in compilations:
        assert arguments[-len(expected) :] == expected


def test_a_wheel_has_no_module_that_an_earlier_build_left(source: Path, tmp_path: Path) -> None:
    names, _ = build_wheel(source, tmp_path)
    modules = {f"t5bucket/{path.name}" for path in source.glob("t5bucket/*.py")}
    assert modules <= set(names)
    assert not [name for name in names if "stale" in name]
