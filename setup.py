# setup.py - the one extension module; everything else stands in pyproject.toml.
# SPDX-License-Identifier: BSD-3-Clause
import sysconfig
from glob import glob

from setuptools import Extension, setup

# One wheel for all Pythons from 3.11 on; free-threaded ones have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "t5bucket._core",
            sources=["t5bucket/_core.pyx", *sorted(glob("src_c/*.c"))],
            depends=["t5bucket/capi.pxd", *glob("src_c/*.h")],
            include_dirs=["src_c"],
            define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [],
            py_limited_api=STABLE_ABI,
            # Aligned functions: how fast a loop is must not depend on what stands before it.
            extra_compile_args=["-O3", "-g0", "-fvisibility=hidden", "-falign-functions=64"],
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)
