# emulate.py - build for other processors, and test under qemu-user.
# SPDX-License-Identifier: BSD-3-Clause
"""Build for other processors with Debian's cross compilers, and test under qemu-user.

c PROCESSOR ...        the C core, static: vectors_test.c and every fifth case of epilogues_test.c,
                       built for a plain processor, and for one with more instructions
python PROCESSOR ...   the package: pytest, with Python and NumPy of Debian, or NumPy of PyPI

`python x86_64` runs on x86-64 alone, without qemu: it tests the newest Python of Debian.

Missing Debian packages are installed if this runs as root, and named otherwise. Python for
another processor is unpacked into the cache folder; the system's architectures are not changed.
Arguments after `--` are pytest's, as in `emulate.py python aarch64 -- tests/masks -x`.

Under emulation, tests draw 5 examples each (the profile in tests/conftest.py). Where PyPI has no
wheels, the tests of kernels run, and elsewhere all but those in NOT_EMULATED, for the reasons
given there, and those of kernels once more on the plain processor.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cache import CACHE, make_once
from processors import PROCESSORS, Processor

ROOT = Path(__file__).resolve().parent.parent
C_PROGRAMS = {"epilogues_test": ["5"], "vectors_test": []}  # every fifth case
FLAGS = ["-std=c11", "-O3", "-Wall", "-Wextra", "-Werror"]
# Options for disassembly: as in setup.py, where the compiler may fuse; tables look like code
DISASSEMBLED = ["-std=gnu11", "-O3", "-fno-jump-tables", "-shared", "-fPIC"]
VECTOR_REGISTER = re.compile(r"\b[vz]s?\d+\b")
FUSED = re.compile(  # of ARM, RISC-V, POWER, s390
    r"\t(?:fn?m(?:add|sub|la|ls|ad\b|sb\b)|x[sv]n?m(?:add|sub)|vn?m(?:add|sub)fp"
    r"|[vw]fn?m[as][sd]b|m[as][de]br?\b)"
)
VECTORISED = ["t5b_add_items_portable", "t5b_count_buckets_portable", "t5b_lookup"]

SUITE = "forky"  # Debian's, which has Python and NumPy for each of these processors
PYTHON_VERSION = "3.14"
PYPI_PACKAGES = ["hypothesis", "pytest", "sybil", "tqdm"]
WHEELS = ["numpy", "ml_dtypes", "matplotlib"]  # where PyPI has them
APT_CONFIGURATION = """\
APT::Architecture "{debian}";
APT::Architectures {{ "{debian}"; }};
APT::Sandbox::User "root";
Dir::State "{folder}";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}";
Dir::Etc::sourcelist "{folder}/debian.list";
Dir::Etc::sourceparts "/dev/null";
"""
APT_SOURCES = (
    "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] "
    f"http://deb.debian.org/debian {SUITE} main\n"
)
# This script's name becomes sys.executable, so that child processes of tests run alike.
PYTHON = """#!/bin/sh
root=${{0%/usr/bin/python}}
exec {start} "$root/usr/bin/python{version}" "$@"
"""
BY_QEMU = 'qemu-{name} -L "$root" -0 "$0"'
BY_LOADER = '"$root"/lib64/ld-linux-*.so.* --library-path "$root/usr/lib/{triple}" --argv0 "$0"'

KERNELS = ["tests/bias", "tests/buckets", "tests/gradients", "tests/masks"]

NOT_EMULATED = {  # pytest's node ids in tests/, or their beginnings, and the reason
    "c/test_c_core.py::test_a_c_program": "it would use the host's compiler; see `c`",
    "c/test_c_and_cython.py": "the same",
    "resources/test_memory.py": "qemu ignores limits of memory, and allocators are the host's",
    "cli/test_cli.py": "each test starts Python anew, which takes seconds",
    "docs/test_pages.py::test_the_program_runs": "the same",
    "buckets/test_scheme.py::test_the_usual_scheme_is_built_well": "it tests a processor's speed",
    "resources/test_threads.py::test_children_of_a_fork": "qemu's threads do not outlive a fork",
    "resources/test_threads.py::test_ctrl_c_ends": "it depends on a second of processor time",
}
NOT_UNPACKED = ["cli/test_cli.py::test_the_installed_command"]  # a wheel that is unpacked has none


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


def require_tools(name: str) -> None:
    """Install missing packages, or name them."""
    processor = PROCESSORS[name]
    if not processor.builds:
        return  # as for any build of the package
    headers = Path(f"/usr/{processor.triple}/include/stdio.h")
    has_compiler = shutil.which(processor.compiler) and headers.exists()
    missing = [] if has_compiler else processor.packages
    if not shutil.which(f"qemu-{name}"):
        missing = [*missing, "qemu-user"]
    if missing and os.geteuid() != 0:
        sys.exit(f"these Debian packages are needed: {' '.join(missing)}")
    if missing:
        print("installing", *missing, flush=True)
        run(["apt-get", "update"])
        run(["apt-get", "install", "--yes", *missing], DEBIAN_FRONTEND="noninteractive")


# ---- the C core ----


def build(processor: Processor, program: Path, *options: object) -> None:
    """Compile the C core, with sources and options."""
    core = ROOT / "src_c"
    inputs = [*sorted(core.glob("*.c")), "-I", core]
    run([processor.compiler, *options, *inputs, "-o", program])


def emulate_c(name: str) -> None:
    """Build and run the C programs; exit if an assertion fails."""
    require_tools(name)
    processor = PROCESSORS[name]
    print(f"{name}: {run([processor.compiler, '--version']).splitlines()[0]}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for cpu, option in processor.builds.items():
            for program, arguments in C_PROGRAMS.items():
                path = Path(folder) / program
                source = ROOT / "tests" / "c" / f"{program}.c"
                build(processor, path, *FLAGS, option, "-static", source)
                printed = run([f"qemu-{name}", "-cpu", cpu, path, *arguments]).strip()
                print(f"{name}: {program}, {option}: {printed}", flush=True)
            build(processor, Path(folder) / "core.so", *DISASSEMBLED, option)
            found = check_instructions(processor, Path(folder) / "core.so")
            print(f"{name}: instructions, {option}: {found}", flush=True)
    if f"{processor.byte_order}-endian" not in printed:
        sys.exit(f"{name} should be {processor.byte_order}-endian")


def check_instructions(processor: Processor, library: Path) -> str:
    """Count vector instructions in the kernels; refuse fused multiplications and additions."""
    counts: Counter[str] = Counter()
    fused = []
    function = ""
    disassemble = [f"{processor.triple}-objdump", "-d", "--no-show-raw-insn", library]
    for line in run(disassemble).splitlines():
        if found := re.match(r"[0-9a-f]+ <(\w+)", line):
            function = found[1]
        else:
            counts[function] += bool(VECTOR_REGISTER.search(line))
            fused += [f"{function}: {line}"] if FUSED.search(line) else []
    if fused:
        sys.exit("rounded once instead of twice:\n" + "\n".join(fused))
    missing = [kernel for kernel in VECTORISED if not counts[kernel]]
    if processor.has_vectors and missing:
        sys.exit(f"no vectors in {', '.join(missing)}")
    return f"{counts.total()} of vectors, 0 fused"


# ---- the package ----


def configure_apt(folder: Path, debian: str) -> dict[str, str]:
    """Configure apt for one architecture and suite, apart from the system's; return variables."""
    for name in ["lists/partial", "archives/partial"]:
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    (folder / "debian.list").write_text(APT_SOURCES, encoding="utf-8")
    configuration = folder / "apt.conf"
    text = APT_CONFIGURATION.format(debian=debian, folder=folder)
    configuration.write_text(text, encoding="utf-8")
    return {"APT_CONFIG": str(configuration)}


def unpack_python(name: str, target: Path) -> None:
    """Unpack Debian's Python; put a script in its place that starts it under qemu."""
    print(f"{name}: unpacking Python", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        variables = configure_apt(Path(folder), PROCESSORS[name].debian)
        run(["apt-get", "update"], **variables)
        options = ["--yes", "--download-only", "--no-install-recommends"]
        run(["apt-get", "install", *options, "python3-numpy"], **variables)
        for package in sorted(Path(folder).glob("archives/*.deb")):
            run(["dpkg", "-x", package, target])
    for link in ["lib", "lib64"]:  # as Debian's base-files has them
        (target / link).symlink_to(f"usr/{link}")
    for library in target.glob("usr/lib/*/*/lib*.so.3"):  # BLAS and LAPACK, as their scripts do
        (library.parents[1] / library.name).symlink_to(f"{library.parent.name}/{library.name}")
    python = target / "usr/bin/python"
    processor = PROCESSORS[name]
    start = (BY_QEMU if processor.builds else BY_LOADER).format(name=name, triple=processor.triple)
    python.write_text(PYTHON.format(start=start, version=PYTHON_VERSION), encoding="utf-8")
    python.chmod(0o755)


def install_packages(name: str, target: Path) -> None:
    """Install packages from PyPI that were built for the processor, or are pure Python."""
    packages = [*PYPI_PACKAGES, *(WHEELS if PROCESSORS[name].has_wheels else [])]
    print(f"{name}: installing", *packages, flush=True)
    platforms = [f"--platform=manylinux_2_{minor}_{name}" for minor in (17, 27, 28)]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", target, *platforms]
    run([*pip, f"--python-version={PYTHON_VERSION}", "--only-binary=:all:", *packages])


def install_t5bucket(name: str, target: Path) -> None:
    """Cross-build the package from the working tree, and unpack it.

    This Python's headers serve: the stable ABI is the same on all 64-bit Linuxes.
    """
    compiler = PROCESSORS[name].compiler
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        run(
            [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT],
            _PYTHON_HOST_PLATFORM=f"linux-{name}",
            CC=compiler,
            LDSHARED=f"{compiler} -shared",
        )
        (wheel,) = Path(folder).glob("*.whl")
        shutil.unpack_archive(wheel, target, "zip")


def make_python(name: str) -> tuple[Path, dict[str, str]]:
    """Install Python the first time, and t5bucket; return the program, and variables for it."""
    python_root, site, own = (
        CACHE / "emulate" / name / part for part in ("python", "site", "t5bucket")
    )
    for folder, make in [(python_root, unpack_python), (site, install_packages)]:
        make_once(folder, partial(make, name))
    install_t5bucket(name, own)
    variables = {"PYTHONPATH": f"{own}:{site}", "PYTHONDONTWRITEBYTECODE": "1"}
    return python_root / "usr/bin/python", variables


def emulate_python(name: str, pytest_arguments: Sequence[str]) -> None:
    """Run the tests; exit if one fails."""
    require_tools(name)
    python, variables = make_python(name)
    print(f"{name}: info: {run([python, '-P', '-m', 't5bucket', 'info', '--json'], **variables)}")
    processor = PROCESSORS[name]
    plain, capable = processor.builds or ("", "")
    chosen = NOT_EMULATED if processor.builds else NOT_UNPACKED
    deselected = [f"--deselect=tests/{test}" for test in chosen]
    suites: dict[str, tuple[str, Sequence[str]]] = {}
    if pytest_arguments:
        suites["chosen tests"] = (capable, pytest_arguments)
    else:
        if plain:
            suites[f"kernels on {plain}"] = (plain, [*KERNELS, *deselected])
        if processor.has_wheels:
            suites["the suite"] = (capable, ["--all", *deselected])
    options = ["--hypothesis-profile=brief", "-q", "--color=no", "-p", "no:cacheprovider"]
    for suite, (cpu, arguments) in suites.items():
        print(f"{name}: running {suite}", flush=True)
        command = [str(python), "-P", "-m", "pytest", *options, *arguments]
        environment = {**os.environ, **variables, "QEMU_CPU": cpu}
        if code := subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode:
            sys.exit(code)


def main() -> None:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["c", "python"])
    parser.add_argument(
        "processors", nargs="+", choices=PROCESSORS, metavar="PROCESSOR", help=", ".join(PROCESSORS)
    )
    own = sys.argv[1:]
    pytest_arguments: list[str] = []
    if "--" in own:
        split = own.index("--")
        own, pytest_arguments = own[:split], own[split + 1 :]
    arguments = parser.parse_args(own)
    if arguments.what == "c" and pytest_arguments:
        parser.error("only python takes pytest's arguments")
    for name in arguments.processors:
        if arguments.what == "c":
            if not PROCESSORS[name].builds:
                parser.error(f"c emulates; `nox -s core` tests {name}")
            emulate_c(name)
        else:
            emulate_python(name, pytest_arguments)


if __name__ == "__main__":
    main()
