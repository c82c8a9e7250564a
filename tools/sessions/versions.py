# versions.py - test with other versions of transformers, for the table in reference/support.md.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import re
from pathlib import Path

import nox

OLDEST = "4.57"
TESTS = [
    f"tests/transformers/test_{name}.py"
    for name in ("versions", "same_bits", "training_outputs", "changing_classes")
]
# Tests of features that older versions of transformers do not have.
NOT_OF_OLDER = ["cpmant and generated", "mask_of_floats", "augmented_positions", "by_hand"]


def make_layer(session: nox.Session) -> str:
    """Make an environment that sees the session's packages; return its Python."""
    folder = Path(session.create_tmp()).resolve() / "layer"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(folder))
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    below = session.run("python", "-c", find, silent=True)
    (above,) = folder.glob("lib/python*/site-packages")
    (above / "below.pth").write_text(str(below), encoding="utf-8")
    return str(folder / "bin/python")


def install_version(session: nox.Session, python: str, version: str) -> None:
    """Install a minor version of transformers, and the versions of packages that it needs."""
    pip = ["python", "-m", "pip", "--python", python, "install", "--quiet"]
    session.run(*pip, f"transformers=={version}.*")


def list_versions(session: nox.Session) -> list[str]:
    """List the oldest supported version, and all minor versions from 5.0 to the newest."""
    find = "from importlib.metadata import version; print(version('transformers'))"
    newest = session.run("python", "-c", find, silent=True)
    found = re.match(r"5\.(\d+)", str(newest))
    if found is None:
        session.error(f"these are versions of transformers 5, not of {newest}")
    return [OLDEST, *(f"5.{minor}" for minor in range(int(found[1]) + 1))]
