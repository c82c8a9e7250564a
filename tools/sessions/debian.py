# debian.py - install the Debian packages that sessions need.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import shutil

import nox
from processors import PROCESSORS

PACKAGES = {  # by a program in them
    "clang": "clang",
    "emcc": "emscripten",
    "llvm-cov": "llvm",
    "musl-gcc": "musl-tools",
    "npx": "npm",
    "qemu-aarch64": "qemu-user",
    "setpriv": "util-linux",
    "valgrind": "valgrind",
    "wine": "wine wine64",
    "x86_64-w64-mingw32-gcc": "gcc-mingw-w64-x86-64",
} | {each.compiler: " ".join(each.packages) for each in PROCESSORS.values() if each.builds}


def require(session: nox.Session, *programs: str) -> None:
    """Install the packages of missing programs if this runs as root, or name them."""
    missing = {PACKAGES[program] for program in programs if not shutil.which(program)}
    if not missing:
        return
    packages = " ".join(sorted(missing)).split()
    if os.geteuid() != 0:
        session.error(f"these Debian packages are needed: {' '.join(packages)}")
    session.run("apt-get", "update", "--quiet=2", external=True, silent=True)
    install = ["apt-get", "install", "--yes", "--quiet=2", *packages]
    session.run(*install, external=True, silent=True, env={"DEBIAN_FRONTEND": "noninteractive"})
