# setup.py - the one extension module; everything else stands in pyproject.toml.
# SPDX-License-Identifier: BSD-3-Clause
import os
import shlex
import sysconfig
from glob import glob
from tempfile import TemporaryDirectory

from setuptools import Extension, setup

# One wheel for all Pythons from 3.11 on; free-threaded ones have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

# Each build starts from an empty folder: what an earlier one left in build/ would get into wheels.
with TemporaryDirectory(prefix="t5bucket-build-", ignore_cleanup_errors=True) as build:
    setup(
        ext_modules=[
            Extension(
                "t5bucket._core",
                sources=["t5bucket/_core.pyx", *sorted(glob("src_c/*.c"))],
                depends=["t5bucket/capi.pxd", *glob("src_c/*.h")],
                include_dirs=["src_c"],
                define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [],
                py_limited_api=STABLE_ABI,
                extra_compile_args=[
                    *("-O3", "-g0", "-fvisibility=hidden"),
                    "-falign-functions=64",  # a loop's speed must not depend on what precedes it
                    *shlex.split(os.environ.get("CFLAGS", "")),  # the packager's, which win
                ],
            )
        ],
        options={"build": {"build_base": build}}
        | ({"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {}),
    )
