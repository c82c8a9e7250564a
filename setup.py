# setup.py - the one extension module; everything else stands in pyproject.toml.
# SPDX-License-Identifier: BSD-3-Clause
import os
import shlex
import sysconfig
from glob import glob
from tempfile import TemporaryDirectory

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# One wheel for all Pythons from 3.11 on; free-threaded ones have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

GNU_FLAGS = [  # of GCC and Clang
    *("-O3", "-g0", "-fvisibility=hidden"),
    "-falign-functions=64",  # a loop's speed must not depend on what precedes it
]
MSVC_FLAGS = ["/O2", "/std:c11"]


class BuildExtension(build_ext):
    """Chooses flags when the compiler is known."""

    def build_extensions(self):
        """Compile with our flags, then the packager's, which win."""
        flags = MSVC_FLAGS if self.compiler.compiler_type == "msvc" else GNU_FLAGS
        own = shlex.split(os.environ.get("CFLAGS", ""), posix=os.name == "posix")
        for extension in self.extensions:
            extension.extra_compile_args = [*flags, *own]
        super().build_extensions()


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
            )
        ],
        cmdclass={"build_ext": BuildExtension},
        options={"build": {"build_base": build}}
        | ({"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {}),
    )
