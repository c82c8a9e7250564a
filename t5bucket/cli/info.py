# info.py - t5bucket info: what a bug report needs.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from t5bucket import _core
from t5bucket._machine import CACHE_NBYTES, available_cpus
from t5bucket._threads import default_num_threads
from t5bucket.cli._options import print_fields

OPTIONAL_PACKAGES = (
    "ml_dtypes", "tqdm", "matplotlib", "torch", "onnxscript", "onnxruntime", "transformers", "dask",
    "jax", "gguf", "huggingface_hub",
)  # fmt: skip
EPILOG = """\
instruction set   the best kernels that this processor has ("portable" ones run on any), and its
                  name; T5BUCKET_DISABLE_CPU=avx2 turns the AVX2 ones off
processors        those that this process may use
threads           those of a large call; T5BUCKET_NUM_THREADS sets them
last-level cache  outputs larger than half of it are written past the caches"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="show versions, compiler, instruction set and threads",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show what a bug report needs.",
        epilog=EPILOG,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print versions and settings."""
    print_fields(describe_system())


def describe_system() -> dict[str, object]:
    """Versions and settings by name."""
    fields: dict[str, object] = {
        "t5bucket": version("t5bucket"),
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "NumPy": version("numpy"),
        "platform": platform.platform(),
        "compiler": _core.get_compiler(),
        "instruction set": f"{_core.get_implementation()} on {platform.machine()}",
        "processors": available_cpus(),
        "threads": default_num_threads(),
        "last-level cache": f"{CACHE_NBYTES >> 20} MiB",
        "byte order": sys.byteorder,
    }
    return fields | {name: installed_version(name) for name in OPTIONAL_PACKAGES}


def installed_version(name: str) -> str:
    """Version of a package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
