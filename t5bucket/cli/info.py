# info.py - t5bucket info: print what a bug report needs.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations

import argparse
import os
import platform
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from t5bucket import _core
from t5bucket._machine import (
    CACHE_NBYTES,
    available_cpus,
    available_memory_nbytes,
    read_processor_name,
)
from t5bucket._threads import default_num_threads
from t5bucket.cli._options import add_json_option, print_fields, print_json, show_size

OPTIONAL_PACKAGES = (
    "ml_dtypes", "tqdm", "argcomplete", "matplotlib", "torch", "onnxscript", "onnxruntime",
    "transformers", "dask", "jax", "gguf", "huggingface_hub", "safetensors",
)  # fmt: skip
# What changes threads, kernels, connections and colours; none holds a path
VARIABLES = (
    "T5BUCKET_DISABLE_CPU", "T5BUCKET_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "HF_HUB_OFFLINE", "PYTHON_GIL", "LC_ALL", "TERM", "NO_COLOR",
    "FORCE_COLOR",
)  # fmt: skip
EPILOG = """\
instruction set   the best kernels that this processor has ("portable" ones run on any), and its
                  name; T5BUCKET_DISABLE_CPU=avx512 or =avx2 turns some off
processors        those that this process may use
threads           those of a large call; T5BUCKET_NUM_THREADS sets them
last-level cache  outputs larger than half of it are written past the caches
memory            what this process can still take, by its container's limit too
variables         of the environment, that change what t5bucket does"""


def add_parser(subparsers: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "info",
        help="show versions, compiler, instruction set and threads",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show what a bug report needs.",
        epilog=EPILOG,
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print versions and settings."""
    if options.json:
        print_json(describe_system())
    else:
        print_fields(describe_system())


def describe_system() -> dict[str, object]:
    """Versions and settings by name."""
    memory = available_memory_nbytes()
    set_variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    fields: dict[str, object] = {
        "t5bucket": version("t5bucket"),
        "Python": f"{platform.python_version()} ({describe_build()})",
        "NumPy": version("numpy"),
        "platform": platform.platform(),
        "processor": read_processor_name() or platform.machine(),
        "compiler": _core.get_compiler(),
        "instruction set": f"{_core.get_implementation()} on {platform.machine()}",
        "processors": available_cpus(),
        "threads": default_num_threads(),
        "last-level cache": f"{CACHE_NBYTES >> 20} MiB",
        "memory": "unknown" if memory is None else f"{show_size(memory)} free",
        "byte order": sys.byteorder,
        "variables": ", ".join(set_variables) or "none",
    }
    return fields | {name: installed_version(name) for name in OPTIONAL_PACKAGES}


def describe_build() -> str:
    """Say which Python this is, and whether it has a global lock."""
    is_free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return platform.python_implementation() + ", free-threaded" * is_free_threaded


def installed_version(name: str) -> str:
    """Version of a package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
