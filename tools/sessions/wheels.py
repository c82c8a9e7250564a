# wheels.py - build the wheel twice, audit it, and test it without a compiler.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import nox

from .figures import record

MAX_NBYTES = 1_000_000
MAX_GLIBC_MINOR = 17  # manylinux2014


def build_twice(session: nox.Session, folder: Path) -> Path:
    """Build the sdist, and the wheel from it, twice; the wheel's bytes must be the same."""
    epoch = str(session.run("git", "log", "-1", "--format=%ct", external=True, silent=True)).strip()
    digests = []
    for name in ("first", "second"):
        shutil.rmtree(folder / name, ignore_errors=True)
        session.run(
            "python", "-m", "build", "--outdir", str(folder / name), ".",
            env={"SOURCE_DATE_EPOCH": epoch}, silent=True,
        )  # fmt: skip
        files = sorted((folder / name).iterdir())
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files})
    first, second = digests
    same = {name for name in first if first[name] == second[name]}
    record(session, "Built twice to the same bytes", ", ".join(sorted(same)))
    wheel = next((folder / "first").glob("*.whl"))
    if wheel.name not in same:
        session.error("two builds differ")
    return wheel


def check_symbols(session: nox.Session, wheel: Path, folder: Path) -> list[str]:
    """List the symbols that the extension module exports: only its initialisation is allowed."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.extract(name, folder)
    listed = session.run("nm", "-D", "--defined-only", library, external=True, silent=True)
    symbols = [line.split()[-1] for line in str(listed).strip().splitlines()]
    if not all(symbol.startswith("PyInit_") for symbol in symbols):
        session.error(f"exported: {symbols}")
    return symbols


def repair(session: nox.Session, wheel: Path, folder: Path) -> Path:
    """Make a manylinux wheel; it must be small, and must not need a new system."""
    session.run("auditwheel", "repair", "--wheel-dir", str(folder), str(wheel))
    (repaired,) = folder.glob("*.whl")
    nbytes = repaired.stat().st_size
    record(session, "The wheel", f"{repaired.name}, {nbytes:,} bytes")
    if nbytes >= MAX_NBYTES:
        session.error("the wheel is too large")
    policies = re.findall(r"manylinux_2_(\d+)", repaired.name)
    if not policies or min(map(int, policies)) > MAX_GLIBC_MINOR:
        session.error("the wheel needs a newer system")
    return repaired


def find_python(session: nox.Session, version: str) -> str:
    """Find a Python of pyenv, or on the PATH."""
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = str(own[-1]) if own else shutil.which(f"python{version}")  # pyenv's shim may not start
    if found is None:
        session.error(f"Python {version} is needed")
    return found


def hide_compilers(session: nox.Session, folder: Path) -> str:
    """Make a PATH with the programs that tests may need, but no compiler."""
    folder.mkdir(exist_ok=True)
    for program in ("sh", "env"):
        link = folder / program
        link.unlink(missing_ok=True)
        link.symlink_to(shutil.which(program) or session.error(f"{program} is needed"))
    return str(folder)
