# processors.py - the processors that tools/emulate.py builds and tests for.
# SPDX-License-Identifier: BSD-3-Clause
from typing import NamedTuple


class Processor(NamedTuple):
    """A processor, by qemu's name for it."""

    debian: str  # Debian's name
    triple: str  # of Debian's compiler
    builds: dict[str, str]  # qemu's CPU and the compiler's options: a plain one, and one with more;
    # none for this machine's
    byte_order: str = "little"
    has_vectors: bool = True  # whether compilers use vectors
    has_wheels: bool = False  # whether PyPI has wheels of NumPy

    @property
    def compiler(self) -> str:
        """Name of Debian's cross compiler."""
        return f"{self.triple}-gcc"

    @property
    def packages(self) -> list[str]:
        """Names of the Debian packages with the cross compiler and its headers."""
        return [f"gcc-{self.triple}", f"libc6-dev-{self.debian}-cross"]


PROCESSORS = {
    "aarch64": Processor(
        "arm64",
        "aarch64-linux-gnu",
        {"cortex-a53": "-march=armv8-a", "max,pauth-impdef=on": "-march=armv8.2-a+fp16+sve"},
        has_wheels=True,
    ),
    "riscv64": Processor(
        "riscv64",
        "riscv64-linux-gnu",
        {"rv64,zba=off,zbb=off,zbs=off": "-march=rv64gc", "rv64": "-march=rv64gc_zba_zbb_zbs"},
        has_vectors=False,  # GCC 12 has none of RISC-V
    ),
    "ppc64le": Processor(
        "ppc64el",
        "powerpc64le-linux-gnu",
        {"power8": "-mcpu=power8", "power10": "-mcpu=power10"},
    ),
    "s390x": Processor(
        "s390x",
        "s390x-linux-gnu",
        {"qemu": "-march=z13", "max": "-march=z14"},
        byte_order="big",
    ),
    "x86_64": Processor("amd64", "x86_64-linux-gnu", {}, has_wheels=True),
}
