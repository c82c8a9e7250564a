# test_portability.py - the package on a system without POSIX.
# SPDX-License-Identifier: BSD-3-Clause
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from package import FRAMEWORKS, MODULES

# What the Python of Windows lacks, and that of macOS in part; neither has /proc or /sys. The
# standard library's own modules, and NumPy, are imported before: they have chosen their ways by
# then.
SCRIPT = """
import importlib, os, signal, sys
import argparse, builtins, ctypes, multiprocessing
import platform, shutil, subprocess, tempfile, tracemalloc
import numpy
for name in {needed}:
    importlib.import_module(name)
for name in {modules}:
    sys.modules[name] = None
for module, names in ((os, {os_names}), (signal, {signal_names})):
    for name in names:
        vars(module).pop(name, None)
def hide_folders_of_linux(function):
    def hidden(path, *arguments, **options):
        if str(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(path)
        return function(path, *arguments, **options)
    return hidden
builtins.open, os.listdir = map(hide_folders_of_linux, (open, os.listdir))
"""
MODULES_OF_POSIX = [
    "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty",
]  # fmt: skip
OS_NAMES = [
    "chown", "chroot", "confstr", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid",
    "getgid", "getgroups", "getloadavg", "getpgid", "getpriority", "getsid", "getuid", "killpg",
    "lchown", "memfd_create", "mkfifo", "mknod", "nice", "pipe2", "posix_fadvise",
    "posix_fallocate", "posix_spawn", "pread", "preadv", "pwrite", "pwritev", "register_at_fork",
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setegid", "seteuid",
    "setgid", "setpriority", "setsid", "setuid", "statvfs", "sync", "sysconf", "uname", "wait",
    "wait3", "wait4",
]  # fmt: skip
SIGNAL_NAMES = [
    "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT",
    "SIGSTOP", "SIGTSTP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGXFSZ", "alarm", "getitimer", "pause",
    "pthread_kill", "pthread_sigmask", "setitimer", "sigpending", "sigtimedwait", "sigwait",
]  # fmt: skip
# What the package imports of them, which imports what else it needs
USED_OF_FRAMEWORKS = {
    "torch": ["torch"],
    "transformers": ["transformers.modeling_utils"],
    "dask": ["dask.array"],
    "onnxscript": ["onnxscript"],
    "jax": ["jax.numpy"],
}


def run_without_posix(code: str, *arguments: str, needed: list[str], folder: Path) -> str:
    """Run code in a process that has none of it; return what it prints."""
    script = SCRIPT.format(
        needed=needed, modules=MODULES_OF_POSIX, os_names=OS_NAMES, signal_names=SIGNAL_NAMES
    )
    result = subprocess.run(
        [sys.executable, "-c", script + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def installed(*names: str) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name)]


def test_every_module_can_be_imported(tmp_path: Path) -> None:
    frameworks = [
        module for name in installed(*USED_OF_FRAMEWORKS) for module in USED_OF_FRAMEWORKS[name]
    ]
    names = [name for name in MODULES if name not in FRAMEWORKS or installed(FRAMEWORKS[name])]
    assert len(names) > 20
    code = f"for name in {names}: importlib.import_module(name)\nprint(len(sys.modules))"
    run_without_posix(code, needed=frameworks, folder=tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["bias", "--query-length", "300"],
        ["bias", "--query-length", "300", "--out", "x.npy"],
        ["buckets"],
        ["plot", "--out", "x.png"],
        ["bench", "--json", "x.json"],
        ["info"],
    ],
    ids=" ".join,
)
def test_every_command_runs(arguments: list[str], tmp_path: Path) -> None:
    needed = []
    if arguments[0] == "plot":
        pytest.importorskip("matplotlib")
        needed = ["matplotlib.figure", "matplotlib.backends.backend_agg"]
    paths = [word for word in arguments if word.startswith("x.")]
    code = """
from t5bucket.cli import bench, main
bench.ROWS = [row for row in bench.ROWS if row.task == "one scalar"]
sys.exit(main(sys.argv[1:]))
"""
    assert run_without_posix(code, *arguments, needed=needed, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == paths


def test_defaults_serve_where_the_system_tells_nothing(tmp_path: Path) -> None:
    code = """
import numpy as np, t5bucket as tb
from t5bucket import _machine, _writing
assert _machine.available_cpus() == os.cpu_count()
assert _machine.available_memory_nbytes() is None
assert _machine.read_processor_name() == ""
assert _machine.CACHE_NBYTES == 2 * _writing.STREAM_NBYTES == 8 << 20
bias = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())
assert (bias.matrix(800, 800) == 1).all()  # streamed
print(bias.add_to(bias.matrix(800, 800)).sum())
"""
    assert float(run_without_posix(code, needed=[], folder=tmp_path)) == 2 * 12 * 800**2
