# run.py - build the fuzz targets and run each for some seconds; print one line for each.
# SPDX-License-Identifier: BSD-3-Clause
"""Run the fuzz targets; the exit code is 1 if one of them finds a defect.

    python tools/fuzz/run.py 60                    all for a minute each: the short run
    python tools/fuzz/run.py 14400 core_matrices   one for four hours: the long run
    python tools/fuzz/run.py 60 api --seed 1       the same inputs each time, as far as time allows
    python tools/fuzz/run.py 300 --record          keeps the inputs that replay.py runs, in corpus/

Needs clang and llvm; api and weights also need atheris, coverage, gguf, safetensors, torch and
the packages of the tests. Corpora, logs, and inputs that found something stay in build/fuzz. A
log ends with the path of such an input; a target accepts it instead of a folder.
"""

from __future__ import annotations

import argparse
import bisect
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from replay import C_TARGETS, PYTHON_TARGETS, ROOT, SOURCE, write_corpus

BUILD = ROOT / "build" / "fuzz"
SITE = BUILD / "site"
KERNELS = sorted((ROOT / "src_c").glob("*.c"))
C_FLAGS = ["-std=c11", "-g", "-O1", "-I", str(ROOT / "src_c")]
SANITIZERS = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
PROFILE = ["-fsanitize=fuzzer", "-fprofile-instr-generate", "-fcoverage-mapping"]
ASAN_OPTIONS = "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048"
MAX_LENGTHS = {"api": 1024, "weights": 4096}  # bytes of an input; 256 for C targets
TARGETS = [*C_TARGETS, *PYTHON_TARGETS]
MAX_RECORDED = 40_000  # bytes of the recorded inputs of a target

PUBLIC = (
    "_bias,_buckets,_attention,_writing,_table,_masks,_gradient,_checks,_arrays,_positions,_rule"
)


class Result(NamedTuple):
    """The result of a run."""

    inputs: int
    edges: int
    features: int
    has_failed: bool


def call(command: list[str], **variables: str) -> str:
    """Run a command that must succeed; return its output."""
    environment = {**os.environ, **variables}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)}\n{finished.stdout}{finished.stderr}")
    return finished.stdout


def is_older(target: Path, sources: list[Path]) -> bool:
    """Whether a target must be built again."""
    return not target.exists() or any(
        source.stat().st_mtime > target.stat().st_mtime for source in sources
    )


def build_core(target: str, kind: str, flags: list[str]) -> Path:
    """Compile a target of the C core."""
    program = BUILD / f"{target}.{kind}"
    sources = [*KERNELS, *(ROOT / "src_c").glob("*.h"), *SOURCE.glob("*.[ch]")]
    if is_older(program, sources):
        inputs = [str(SOURCE / f"{target}.c"), *map(str, KERNELS)]
        call(["clang", *C_FLAGS, *flags, *inputs, "-o", str(program)])
    return program


def build_package() -> None:
    """Build the package with an instrumented core, from a copy of its sources."""
    sources = [*(ROOT / "src_c").iterdir(), *(ROOT / "t5bucket").rglob("*.py*"), ROOT / "setup.py"]
    sources = [
        path for path in sources if path.suffix != ".pyc" and "__pycache__" not in path.parts
    ]
    done = BUILD / "site.done"
    if not is_older(done, [path for path in sources if path.is_file()]):
        return
    copy = BUILD / "source"
    for folder in (copy, SITE):
        shutil.rmtree(folder, ignore_errors=True)
    for name in ("t5bucket", "src_c"):
        ignored = shutil.ignore_patterns("*.so", "_core.c", "__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(SITE)]
    flags = "-g -fsanitize=address,fuzzer-no-link"
    call([*pip, str(copy)], CC="clang", LDSHARED="clang -shared", CFLAGS=flags)
    done.touch()


def python_command(target: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a Python target, and its environment variables."""
    atheris: Any = importlib.import_module("atheris")  # has no types

    variables = {
        "LD_PRELOAD": str(Path(atheris.path()) / "asan_with_fuzzer.so"),
        "ASAN_OPTIONS": ASAN_OPTIONS,
        "PYTHONPATH": str(SITE),
    }
    memory = ["-rss_limit_mb=0", "-detect_leaks=0"]  # too large arrays are part of the test
    return [sys.executable, str(SOURCE / f"{target}.py"), *memory], variables


def make_command(target: str) -> tuple[list[str], dict[str, str]]:
    """Build a target; return its command, and its environment variables."""
    if target in C_TARGETS:
        return [str(build_core(target, "fuzzer", SANITIZERS))], {}
    build_package()
    return python_command(target)


def record(target: str) -> None:
    """Keep inputs, the shortest first; for C, the fewest that take every branch."""
    command, variables = make_command(target)
    with TemporaryDirectory() as folder:
        corpus = BUILD / target
        if target in C_TARGETS:  # when merging, atheris ignores Python's branches
            call([*command, "-set_cover_merge=1", folder, str(corpus)], **variables)
            corpus = Path(folder)
        inputs = sorted((path.read_bytes() for path in corpus.iterdir()), key=len)
    total = list(itertools.accumulate(map(len, inputs)))
    write_corpus(target, inputs[: bisect.bisect_right(total, MAX_RECORDED)])


def fuzz(target: str, seconds: int, seed: int | None) -> Result:
    """Run a target; its output goes to a log."""
    corpus = BUILD / target
    corpus.mkdir(parents=True, exist_ok=True)
    command, variables = make_command(target)
    command += [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_LENGTHS.get(target, 256)}",
        f"-artifact_prefix={BUILD / target}-",
        *([] if seed is None else [f"-seed={seed}"]),
        *("-len_control=0", "-timeout=60", "-print_final_stats=1", str(corpus)),
    ]
    log = BUILD / f"{target}.log"
    with log.open("w") as file:
        environment = {**os.environ, **variables}
        code = subprocess.run(
            command, env=environment, stdout=file, stderr=file, check=False
        ).returncode
    return read_log(log, code != 0)


def read_log(path: Path, has_failed: bool) -> Result:
    """Find the last numbers of libFuzzer's output."""
    text = path.read_text(encoding="utf-8", errors="replace")
    inputs, edges, features = (
        max(map(int, re.findall(pattern, text, re.MULTILINE)), default=0)
        for pattern in (r"^#(\d+)\s", r"\bcov: (\d+)", r"\bft: (\d+)")
    )
    return Result(inputs, edges, features, has_failed)


def measure_core(target: str) -> str:
    """Measure which lines and branches of the C core a corpus covers."""
    program = build_core(target, "profile", PROFILE)
    raw, merged = BUILD / f"{target}.profraw", BUILD / f"{target}.profdata"
    call([str(program), "-runs=0", str(BUILD / target)], LLVM_PROFILE_FILE=str(raw))
    call(["llvm-profdata", "merge", "-sparse", str(raw), "-o", str(merged)])
    report = ["llvm-cov", "report", str(program), f"-instr-profile={merged}"]
    total = call([*report, str(ROOT / "src_c")]).splitlines()[-1]
    percents = re.findall(r"([\d.]+%|-)(?:\s|$)", total)  # regions, functions, lines, branches
    return f"{percents[2]} of lines and {percents[3]} of branches of src_c"


def measure_package(target: str) -> str:
    """Measure which lines a corpus covers in the modules that its target tests."""
    _, variables = python_command(target)
    data = str(BUILD / f"{target}.coverage")
    modules = "_weights/*,_config,_json" if target == "weights" else PUBLIC
    included = ",".join(f"*/t5bucket/{name}.py" for name in modules.split(","))
    coverage = [sys.executable, "-m", "coverage"]
    script = [str(SOURCE / f"{target}.py"), "--replay", str(BUILD / target)]
    call(
        [*coverage, "run", f"--data-file={data}", f"--source={SITE / 't5bucket'}", *script],
        **variables,
    )
    report = ["report", f"--data-file={data}", f"--include={included}", "--format=total"]
    return f"{call([*coverage, *report]).strip()}% of lines of {modules}"


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seconds", type=int)
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seed", type=int, help="of libFuzzer's generator")
    parser.add_argument("--record", action="store_true", help="keep inputs in tools/fuzz/corpus")
    options = parser.parse_args()
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"target must be one of {', '.join(TARGETS)}, got {', '.join(unknown)}")
    failed = False
    for target in options.targets or TARGETS:
        result = fuzz(target, options.seconds, options.seed)
        covered = ""
        if not result.has_failed:
            if options.record:
                record(target)
            covered = (
                f", {measure_core(target) if target in C_TARGETS else measure_package(target)}"
            )
        verdict = f"FAILED, see {BUILD / target}.log" if result.has_failed else "no defect"
        print(
            f"{target}: {result.inputs} inputs, {result.edges} edges, {result.features} features"
            f"{covered}: {verdict}",
            flush=True,
        )
        failed |= result.has_failed
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
