# test_c_core.py - the C core from C: against plain loops and vectors, also with sanitizers.
# SPDX-License-Identifier: BSD-3-Clause
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]

pytestmark = pytest.mark.slow
needs_compiler = pytest.mark.skipif(
    sys.platform == "win32" or not shutil.which("cc"), reason="needs a C compiler of POSIX"
)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "flags", "arguments"),
    [
        ("epilogues_test", ["-O3"], []),
        ("epilogues_test", SANITIZED, ["3"]),  # every third case
        ("vectors_test", ["-O3"], []),
        ("vectors_test", SANITIZED, []),
        ("guard_test", ["-O3"], []),  # the system protects guard pages
    ],
)
def test_a_c_program_finds_every_kernel_right(
    name: str, flags: list[str], arguments: list[str], tmp_path: Path
) -> None:
    program = tmp_path / name
    sources = [ROOT / "tests" / "c" / f"{name}.c", *sorted((ROOT / "src_c").glob("*.c"))]
    command = ["cc", "-std=c11", *flags, "-I", ROOT / "src_c", *sources, "-o", program]
    subprocess.run([*map(str, command)], check=True)
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "portable" in result.stdout


def test_vectors_are_what_the_oracle_and_numpy_give() -> None:
    pytest.importorskip("ml_dtypes")
    import record_vectors

    assert record_vectors.HEADER.read_text(encoding="utf-8") == record_vectors.write_header()
