# emulate.py - build for other processors, and test under qemu-user.
# SPDX-License-Identifier: BSD-3-Clause
"""Build for other processors with Debian's cross compilers, and test under qemu-user.

c ARCHITECTURE ...   the C core, static: epilogues_test.c, every fifth case, and vectors_test.c
python aarch64       the package: pytest, with Debian's Python and packages of PyPI for aarch64

Missing Debian packages are installed if this runs as root, and named otherwise. Python for
aarch64 is unpacked into the cache folder; the system's architectures are not changed.
Arguments after `--` are pytest's, as in `emulate.py python aarch64 -- tests/masks -x`.

Under emulation, tests draw 5 examples each (the profile in tests/conftest.py). The tests in
NOT_EMULATED do not run, for the reasons given there, unless pytest's arguments name tests.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "t5bucket" / "emulate"
C_ARCHITECTURES = ["aarch64", "s390x"]
C_PROGRAMS = {"epilogues_test": ["5"], "vectors_test": []}  # every fifth case
BIG_ENDIAN = {"s390x"}
FLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Werror"]
VECTOR_OPERAND = re.compile(r"\bv\d+\.(?:16b|8b|8h|4h|4s|2s|2d)\b")
FUSED = re.compile(r"\t(?:fmadd|fmsub|fnmadd|fnmsub|fmla|fmls)\t")
VECTORISED = ["t5b_add_items_portable", "t5b_count_buckets_portable", "t5b_lookup"]

# Libraries that Python, NumPy and Matplotlib load; libpython3.11-dev has the headers.
DEBIAN_PACKAGES = """
    python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libpython3.11-dev
    libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3 libuuid1
"""
PYPI_PACKAGES = ["numpy", "ml_dtypes", "hypothesis", "pytest", "matplotlib", "sybil", "tqdm"]
PYPI_PLATFORMS = ["manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64"]

# This script's name becomes sys.executable, so that child processes of tests are emulated, too.
PYTHON = """#!/bin/sh
root=${0%/usr/bin/python}
exec qemu-aarch64 -L "$root" -0 "$0" "$root/usr/bin/python3.11" "$@"
"""

NOT_EMULATED = {  # pytest's node ids in tests/, or their beginnings, and the reason
    "c/test_c_core.py::test_a_c_program": "it would use the host's compiler; see `c`",
    "c/test_c_and_cython.py": "the same",
    "resources/test_memory.py": "qemu ignores limits of memory, and allocators are the host's",
    "cli/test_cli.py": "each test starts Python anew, which takes seconds",
    "buckets/test_scheme.py::test_the_usual_scheme_is_built_well": "it tests a processor's speed",
    "resources/test_threads.py::test_children_of_a_fork": "qemu's threads do not outlive a fork",
    "resources/test_threads.py::test_ctrl_c_ends": "it depends on a second of processor time",
}


def run(command: Sequence[object], **environment: str) -> str:
    """Run a command; return its output, or exit and print it if it fails."""
    result = subprocess.run(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    if result.returncode:
        sys.exit(f"{result.stdout}\nfailed: {' '.join(map(str, command))}")
    return result.stdout


def get_compiler(architecture: str) -> str:
    """Name of Debian's cross compiler."""
    return f"{architecture}-linux-gnu-gcc"


def require_tools(architecture: str) -> None:
    """Install missing packages, or name them."""
    debian = {"aarch64": "arm64"}.get(architecture, architecture)
    headers = Path(f"/usr/{architecture}-linux-gnu/include/stdio.h")
    has = {
        f"gcc-{architecture}-linux-gnu": shutil.which(get_compiler(architecture)),
        f"libc6-dev-{debian}-cross": headers.exists(),
        "qemu-user": shutil.which(f"qemu-{architecture}"),
    }
    missing = [package for package, found in has.items() if not found]
    if missing and os.geteuid() != 0:
        sys.exit(f"these Debian packages are needed: {' '.join(missing)}")
    if missing:
        print("installing", *missing, flush=True)
        run(["apt-get", "update"])
        run(["apt-get", "install", "--yes", *missing], DEBIAN_FRONTEND="noninteractive")


def build(architecture: str, sources: Sequence[Path], program: Path, *options: str) -> None:
    """Compile sources together with the C core."""
    core = ROOT / "src_c"
    everything = [*sources, *sorted(core.glob("*.c"))]
    command = [get_compiler(architecture), *FLAGS, *options, "-I", core, *everything]
    run([*command, "-o", program])


def emulate_c(architecture: str) -> None:
    """Build and run the C programs; exit if an assertion fails."""
    require_tools(architecture)
    version = run([get_compiler(architecture), "--version"]).splitlines()[0]
    print(f"{architecture}: {version} {' '.join(FLAGS)}", flush=True)
    printed = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in C_PROGRAMS.items():
            program = Path(folder) / name
            build(architecture, [ROOT / "tests" / "c" / f"{name}.c"], program, "-static")
            begin = time.perf_counter()
            printed[name] = run([f"qemu-{architecture}", program, *arguments]).strip()
            seconds = time.perf_counter() - begin
            print(f"{architecture}: {name}: {printed[name]}, {seconds:.0f} s", flush=True)
        if architecture == "aarch64":
            build(architecture, [], Path(folder) / "core.so", "-shared", "-fPIC")
            check_instructions(Path(folder) / "core.so")
    byte_order = "big" if architecture in BIG_ENDIAN else "little"
    if f"{byte_order}-endian" not in printed["vectors_test"]:
        sys.exit(f"{architecture} should be {byte_order}-endian")


def check_instructions(library: Path) -> None:
    """Count NEON instructions in the kernels; refuse fused multiplications and additions."""
    counts: Counter[str] = Counter()
    fused = []
    function = ""
    disassembled = run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", library])
    for line in disassembled.splitlines():
        if found := re.match(r"[0-9a-f]+ <(\w+)", line):
            function = found[1]
        elif not function.startswith("_"):  # Cython's, C's
            counts[function] += bool(VECTOR_OPERAND.search(line))
            fused += [f"{function}: {line}"] if FUSED.search(line) else []
    vectorised = {name: count for name, count in counts.most_common() if count}
    print(
        f"aarch64: {sum(vectorised.values())} NEON instructions, {len(fused)} fused ones:", end=" "
    )
    print(", ".join(f"{name} {count}" for name, count in vectorised.items()), flush=True)
    if missing := set(VECTORISED) - set(vectorised):
        sys.exit(f"no NEON instructions in {', '.join(missing)}")
    if fused:
        sys.exit("rounded once instead of twice:\n" + "\n".join(fused))


def write_apt_configuration(folder: Path) -> Path:
    """Configure apt for arm64 only, with the system's sources and separate lists."""
    for name in ["lists/partial", "archives/partial"]:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    main = Path("/etc/apt/sources.list.d/debian.sources")
    sources = main if main.exists() else Path("/etc/apt/sources.list")
    configuration = folder / "apt.conf"
    configuration.write_text(
        f"""APT::Architecture "arm64";
        APT::Architectures {{ "arm64"; }};
        APT::Sandbox::User "root";
        Dir::State "{folder}";
        Dir::State::status "{folder}/status";
        Dir::Cache "{folder}";
        Dir::Etc::sourcelist "{sources}";
        Dir::Etc::sourceparts "/dev/null";
        """,
        encoding="utf-8",
    )
    return configuration


def unpack_python(target: Path) -> None:
    """Unpack Debian's Python for aarch64; put a script in its place that starts it under qemu."""
    print("unpacking Python for aarch64", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        configuration = {"APT_CONFIG": str(write_apt_configuration(Path(folder)))}
        run(["apt-get", "update"], **configuration)
        run(["env", "-C", folder, "apt-get", "download", *DEBIAN_PACKAGES.split()], **configuration)
        for package in sorted(Path(folder).glob("*.deb")):
            run(["dpkg", "-x", package, target])
    python = target / "usr/bin/python"
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)


def install_packages(target: Path) -> None:
    """Install packages from PyPI that were built for aarch64, or are pure Python."""
    print("installing", *PYPI_PACKAGES, flush=True)
    platforms = [f"--platform={platform}" for platform in PYPI_PLATFORMS]
    run([sys.executable, "-m", "pip", "install", "--quiet", "--target", target, *platforms,
         "--python-version=3.11", "--only-binary=:all:", *PYPI_PACKAGES])  # fmt: skip


def install_t5bucket(python_root: Path, target: Path) -> None:
    """Cross-build the package from the working tree, and unpack it."""
    include = python_root / "usr/include"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run(
            [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT],
            _PYTHON_HOST_PLATFORM="linux-aarch64",
            CC=get_compiler("aarch64"),
            LDSHARED=f"{get_compiler('aarch64')} -shared",
            CPPFLAGS=f"-I{include}/python3.11 -I{include}",
        )
        (wheel,) = Path(folder).glob("*.whl")
        shutil.unpack_archive(wheel, target, "zip")
    (extension,) = (target / "t5bucket").glob("_core.*.so")
    check_instructions(extension)


def emulate_python(pytest_arguments: list[str]) -> int:
    """Run the tests; return pytest's exit code."""
    require_tools("aarch64")
    python_root, site, own = CACHE / "python", CACHE / "site", CACHE / "t5bucket"
    for folder, make in [(python_root, unpack_python), (site, install_packages)]:
        if not folder.exists():
            unfinished = folder.with_name("unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            make(unfinished)
            unfinished.rename(folder)
    install_t5bucket(python_root, own)
    options = ["--all", "--hypothesis-profile=brief", "-p", "no:cacheprovider"]
    if not pytest_arguments:
        options += [f"--deselect=tests/{test}" for test in NOT_EMULATED]
        for test, reason in NOT_EMULATED.items():
            print(f"aarch64: not emulated: {test}: {reason}", flush=True)
    begin = time.perf_counter()
    code = subprocess.run(
        [python_root / "usr/bin/python", "-P", "-m", "pytest", *options, *pytest_arguments],
        env={**os.environ, "PYTHONPATH": f"{own}:{site}", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        check=False,
    ).returncode
    print(f"aarch64: pytest: {time.perf_counter() - begin:.0f} s")
    return code


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["c", "python"])
    parser.add_argument("architectures", nargs="+", choices=C_ARCHITECTURES)
    own = sys.argv[1:]
    pytest_arguments: list[str] = []
    if "--" in own:
        split = own.index("--")
        own, pytest_arguments = own[:split], own[split + 1 :]
    arguments = parser.parse_args(own)
    if arguments.what == "python":
        if arguments.architectures != ["aarch64"]:
            parser.error("python is emulated only on aarch64")
        return emulate_python(pytest_arguments)
    if pytest_arguments:
        parser.error("only python takes pytest's arguments")
    for architecture in arguments.architectures:
        emulate_c(architecture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
