# replay.py - run the recorded inputs of every fuzz target, without clang and atheris.
# SPDX-License-Identifier: BSD-3-Clause
"""Replay tools/fuzz/corpus, which `run.py --record` wrote; print one line for each target.

C targets are compiled by cc with sanitizers, and with a driver that replaces libFuzzer. Python
targets run with the installed package.
"""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tools" / "fuzz"
CORPUS = SOURCE / "corpus"
C_TARGETS = sorted(path.stem for path in SOURCE.glob("core*.c"))
PYTHON_TARGETS = ["api", "weights"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def read_corpus(target: str) -> list[bytes]:
    """Read a target's inputs: lines of Base64, compressed."""
    with gzip.open(CORPUS / f"{target}.gz", "rb") as file:
        return [base64.b64decode(line) for line in file]


def write_corpus(target: str, inputs: list[bytes]) -> None:
    """Record a target's inputs."""
    lines = b"\n".join(sorted(map(base64.b64encode, inputs)))
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{target}.gz").write_bytes(gzip.compress(lines, mtime=0))


def compile_target(target: str, folder: Path) -> Path:
    """Compile a C target with a driver that runs the inputs in its arguments."""
    program = folder / target
    kernels = sorted((ROOT / "src_c").glob("*.c"))
    sources = [SOURCE / f"{target}.c", SOURCE / "replay.c", *kernels]
    command = ["cc", "-std=c11", *SANITIZED, "-I", ROOT / "src_c", *sources, "-o", program]
    subprocess.run([*map(str, command)], check=True)
    return program


def replay(target: str, folder: Path) -> None:
    """Run all inputs of a target; exit if one of them fails."""
    inputs = read_corpus(target)
    corpus = folder / f"{target}-inputs"
    corpus.mkdir()
    for number, content in enumerate(inputs):
        (corpus / f"{number:04}").write_bytes(content)
    if target in C_TARGETS:
        command = [str(compile_target(target, folder)), *map(str, sorted(corpus.iterdir()))]
    else:
        command = [sys.executable, str(SOURCE / f"{target}.py"), "--replay", str(corpus)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        sys.exit(f"{target}: FAILED\n{finished.stdout}{finished.stderr}")
    print(f"{target}: {len(inputs)} inputs, no defect", flush=True)


def main() -> None:
    """Replay every target; each must have inputs."""
    with TemporaryDirectory() as folder:
        for target in [*C_TARGETS, *PYTHON_TARGETS]:
            replay(target, Path(folder))


if __name__ == "__main__":
    main()
