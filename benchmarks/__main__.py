# __main__.py - python -m benchmarks: print the report of all tasks, of attention or of models.
# SPDX-License-Identifier: BSD-3-Clause
import sys
from pathlib import Path

if __name__ == "__main__":  # asv imports every module
    if Path(sys.path[0]).resolve() == Path(__file__).resolve().parents[1]:
        # `-m` puts the checkout first on the path. Put it last, to measure the installed package.
        sys.path.append(sys.path.pop(0))
    from benchmarks._report import main

    main()
