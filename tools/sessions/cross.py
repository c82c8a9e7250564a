# cross.py - the extension module and the package for another system's Python.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import nox

from .figures import last_line

ROOT = Path(__file__).resolve().parents[2]


def translate_extension(session: nox.Session, folder: Path, pyconfig: str) -> list[str]:
    """Translate the extension module to C; return a compiler's arguments for it.

    Python's headers are the same on all systems but for pyconfig.h. The stable ABI needs
    little of it.
    """
    include = folder / "include"
    shutil.rmtree(include, ignore_errors=True)
    shutil.copytree(sysconfig.get_path("include"), include)
    (include / "pyconfig.h").write_text(pyconfig, encoding="utf-8")
    source = folder / "_core.c"
    session.run("cython", "t5bucket/_core.pyx", "-o", str(source))
    flags = ["-DPy_LIMITED_API=0x030B0000", "-DNDEBUG", "-O3", "-Isrc_c", f"-I{include}"]
    return [*flags, str(source), *sorted(map(str, ROOT.glob("src_c/*.c")))]


def copy_package(session: nox.Session, site: Path) -> Path:
    """Copy what this session has installed, the module aside; return the package's folder."""
    printed = session.run(
        "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True
    )
    for old in site.glob("t5bucket*"):
        shutil.rmtree(old)
    for path in Path(last_line(printed)).glob("t5bucket*"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(path, site / path.name, ignore=ignored)
    return site / "t5bucket"
