# test_c_core.py - the C core from C, also with sanitizers.
# SPDX-License-Identifier: BSD-3-Clause
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src_c").glob("*.c"))

pytestmark = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")


@pytest.mark.parametrize(
    "flags", [["-O3"], ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover"]]
)
def test_a_c_program_finds_every_kernel_right(flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / "core_test"
    sources = [ROOT / "tests" / "core_test.c", *SOURCES]
    command = ["cc", "-std=c11", *flags, "-I", ROOT / "src_c", *sources, "-o", program]
    subprocess.run([*map(str, command)], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "portable" in result.stdout
