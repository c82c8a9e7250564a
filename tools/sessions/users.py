# users.py - run README's two commands, as this user or another.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from .figures import ROOT

LEFTOVERS = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "_core.c")
# Drops root's capabilities. The ordinary user is one without a name.
UNPRIVILEGED = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
USERS = {0: "root without capabilities", 65534: "an ordinary user"}


def become(user: int) -> list[str]:
    """Make the command prefix that runs a command as a user without capabilities."""
    ids = ["--clear-groups", f"--regid={user}", f"--reuid={user}"] if user != os.geteuid() else []
    return [*UNPRIVILEGED, *ids]


def can_become(user: int) -> bool:
    """Whether this process may become a user."""
    return subprocess.run([*become(user), "true"], capture_output=True, check=False).returncode == 0


def read_commands() -> tuple[str, str]:
    """Read the two commands of the quick start; nox itself has no Sybil."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second, *_ = re.findall(r"^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    return first, second


def run_readme(
    command: list[str], owner: int, options: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run README's commands behind this prefix, in a copy that the user owns."""
    first, second = read_commands()
    script = f"exec 2>&1\n{first}test -s bias.npy\nrm -r .venv bias.npy\n{second}"
    # Other users may be unable to read the checkout and the session's temporary files.
    with TemporaryDirectory(prefix="t5bucket-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        source, home, temporary = (Path(folder) / name for name in ("source", "home", "tmp"))
        shutil.copytree(ROOT, source, ignore=LEFTOVERS)
        home.mkdir()
        temporary.mkdir()
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYENV", "PYTHON", "VIRTUAL_ENV", "XDG_"))
        }
        own = {"CI": "true", "PIP_NO_COMPILE": "1", "TMPDIR": str(temporary)}
        if owner != os.geteuid():
            subprocess.run(["chown", "--recursive", f"{owner}:{owner}", folder], check=True)
        if command:  # another user has no cache
            own["HOME"] = str(home)
        if options:
            own["PYTEST_ADDOPTS"] = " ".join(options)
        return subprocess.run(
            [*command, "bash", "-euxc", script],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            cwd=source,
            env={**kept, **own},
        )
