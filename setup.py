# setup.py - the one extension module; everything else stands in pyproject.toml.
# SPDX-License-Identifier: BSD-3-Clause
from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "t5bucket._core",
            sources=["t5bucket/_core.pyx", *sorted(glob("src_c/*.c"))],
            depends=["t5bucket/capi.pxd", *glob("src_c/*.h")],
            include_dirs=["src_c"],
            extra_compile_args=["-O3", "-fvisibility=hidden"],
        )
    ]
)
