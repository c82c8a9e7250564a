# __init__.py - the command line: parse, run a command, turn errors into exit codes.
# SPDX-License-Identifier: BSD-3-Clause
# PYTHON_ARGCOMPLETE_OK
"""The ``t5bucket`` command; each module of this package is one of its subcommands."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from t5bucket.cli._options import UsageError
from t5bucket.cli._parser import complete, make_parser, print_first_page

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (failed) or 2 (usage)."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file name may have any character
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:  # --help and others exit
            if sys.stdout is not None:
                sys.stdout.flush()
    except UsageError as error:
        return _fail(error, USAGE)
    except BrokenPipeError:
        return _stop_printing()
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        return _stop_printing() if _has_lost_reader(error) else _fail(error, FAILED)
    except KeyboardInterrupt:
        return INTERRUPTED


def _run(arguments: Sequence[str] | None) -> int:
    parser = make_parser()
    complete(parser)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # the parser of the command knows its options
        options.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.run is None:
        print_first_page()
        return USAGE
    previous = signal.signal(signal.SIGTERM, _terminate)  # exit so that unfinished files go
    try:
        options.run(options)
    finally:
        signal.signal(signal.SIGTERM, previous)
    return OK


def _has_lost_reader(error: Exception) -> bool:
    """Whether this is Windows's error for a broken pipe; an error of a file has its name."""
    return (
        sys.platform == "win32"
        and isinstance(error, OSError)
        and error.errno == errno.EINVAL
        and error.filename is None
    )


def _stop_printing() -> int:
    """Leave: the reader has seen enough. Python would complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _fail(error: Exception, code: int) -> int:
    message = " ".join(str(error).split("\n")) or type(error).__name__
    print(f"t5bucket: {message}", file=sys.stderr)
    return code


def _terminate(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal_number)
