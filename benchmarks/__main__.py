# __main__.py - python -m benchmarks: print the report of all tasks, or of whole models.
# SPDX-License-Identifier: BSD-3-Clause
import sys
from pathlib import Path

if __name__ == "__main__":  # asv imports every module
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parents[1]:
        del sys.path[0]  # the checkout, where `-m` looks first: measure the installed package
    from benchmarks._report import main

    main()
