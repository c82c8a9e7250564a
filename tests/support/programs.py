# programs.py - run many programs, each in a fork of a process with their imports.
# SPDX-License-Identifier: BSD-3-Clause
"""Run as a program, it reads folders, one a line, runs program.py there, and prints exit codes.

Programs behave as if each were started alone, but start seconds faster: PyTorch and
transformers are imported once.
"""

import ast
import contextlib
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self

NAME = "program.py"
CONTEXT: Any = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")


class Finished(NamedTuple):
    """How a program ended, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


class Runner:
    """Runs programs; a context manager."""

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Threads that wait for each other are slow where other tests run as well.
            env={**os.environ, "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def run(self, source: str, folder: Path) -> Finished:
        """Run a program in a folder."""
        (folder / NAME).write_text(source, encoding="utf-8")
        assert self._server.stdin
        assert self._server.stdout
        print(folder, file=self._server.stdin, flush=True)
        returncode = int(self._server.stdout.readline())
        return Finished(
            returncode,
            (folder / "stdout").read_text(encoding="utf-8"),
            (folder / "stderr").read_text(encoding="utf-8"),
        )


def find_imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    """Find the imports at the top level of a program."""
    body = ast.parse(source).body
    return [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]


def import_once(source: str) -> None:
    """Make the imports of a program; ignore failures, which the program reports itself."""
    for node in find_imports(source):
        with contextlib.suppress(Exception):
            exec(compile(ast.Module([node], []), NAME, "exec"), {})


def run_here(folder: Path) -> None:
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = [NAME]
    runpy.run_path(str(folder / NAME), run_name="__main__")


def main() -> None:
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        import_once((folder / NAME).read_text(encoding="utf-8"))
        # Such a process ends by `os._exit`: freeing all that was imported takes over a second.
        process = CONTEXT.Process(target=run_here, args=(folder,))
        process.start()
        process.join()
        print(process.exitcode, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
