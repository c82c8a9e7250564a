# _include.py - paths of the C core, for programs that compile it.
# SPDX-License-Identifier: BSD-3-Clause
from __future__ import annotations


def get_include() -> str:
    """Return the folder of the C header, ``t5bucket.h``.

    The folder also has the C core's sources (`get_sources`). There is no library to
    link: a program compiles the sources together with its own files.

    Returns
    -------
    str
        An absolute path.

    Examples
    --------
    >>> import os
    >>> import t5bucket as tb
    >>> os.path.isfile(os.path.join(tb.get_include(), "t5bucket.h"))
    True
    """
    from pathlib import Path  # takes longer to import than all of the package

    package = Path(__file__).resolve().parent
    installed = package / "src_c"
    return str(installed if installed.is_dir() else package.parent / "src_c")


def get_sources() -> list[str]:
    """Return the paths of the C core's sources, which a program compiles with its own.

    They need C11 and nothing else: no Python, no library. A Cython module gets the
    declarations by ``from t5bucket.capi cimport ...``.

    Returns
    -------
    list of str
        Absolute paths, sorted.

    Examples
    --------
    >>> import os
    >>> import t5bucket as tb
    >>> [os.path.basename(path) for path in tb.get_sources()][:3]
    ['build.c', 'count.c', 'diagonals.c']
    """
    from pathlib import Path

    return sorted(map(str, Path(get_include()).glob("*.c")))
