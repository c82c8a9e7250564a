# __init__.py - the command line: parse, run a command, turn errors into exit codes.
# SPDX-License-Identifier: BSD-3-Clause
"""The ``t5bucket`` command; each module of this package is one of its subcommands."""

from __future__ import annotations

import argparse
import errno
import io
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import t5bucket
from t5bucket.cli import bench, bias, buckets, info, plot
from t5bucket.cli._options import UsageError

COMMANDS = (bias, buckets, plot, bench, info)
OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 (failed) or 2 (usage)."""
    parser = argparse.ArgumentParser(
        prog="t5bucket",
        description="T5 relative position buckets and attention-bias matrices: fast and exact.",
    )
    parser.add_argument("--version", action="version", version=f"t5bucket {t5bucket.__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name may have any character
        sys.stdout.reconfigure(errors="backslashreplace")
    parsed = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)  # unfinished files are removed on the way out
    try:
        parsed.run(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UsageError as error:
        print(f"t5bucket: {error}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:  # the reader has seen enough; Python would complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (OSError, ValueError, TypeError, ImportError, MemoryError) as error:
        if sys.platform == "win32" and _has_lost_reader(error):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return FAILED
        print(f"t5bucket: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("t5bucket: interrupted", file=sys.stderr)
        return INTERRUPTED
    return OK


def _has_lost_reader(error: Exception) -> bool:
    """Whether this is what Windows calls a broken pipe; errors of files have a name."""
    return isinstance(error, OSError) and error.errno == errno.EINVAL and error.filename is None


def _terminate(signal_number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signal_number)
