# test_cli.py - the command line, as a process: output, files, exit codes.
# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import BFLOAT16, needs_bfloat16

import t5bucket as tb

COMMAND = [sys.executable, "-m", "t5bucket"]
IS_WINDOWS = sys.platform == "win32"
NO_SUCH_FILE = "[WinError 2]" if IS_WINDOWS else "No such file"


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options
    )


def fields(*arguments: object) -> dict[str, str]:
    """Run a command that succeeds, and parse its two columns."""
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return {
        line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in result.stdout.splitlines()
    }


def run_script(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line after a script that changes its environment."""
    script = f"import sys\n{script}\nfrom t5bucket.cli import main\nsys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def refused(code: int, message: str, *arguments: object, **options: Any) -> None:
    """Run a command that fails with a message and without a traceback."""
    result = run(*arguments, **options)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


# ---- bias ----


def test_bias_of_the_embedded_weight_prints_shape_speed_and_checksum() -> None:
    printed = fields("bias", "--query-length", 20, "--key-length", 30, "--query-offset", 10)
    assert printed["shape"] == "(12, 20, 30)"
    assert printed["dtype"] == "float32"
    assert len(printed["sha256"]) == 64


def test_bias_times_computing_and_writing_separately(tmp_path: Path) -> None:
    speed = r"(\S+) s, (\S+) GB/s \((.*)\)"
    arguments = ("bias", "--query-length", 1024)
    for options, where in (
        ([], "into new memory"),
        (["--out", tmp_path / "x.npy"], "into the file"),
    ):
        printed = fields(*arguments, *options)
        for name, expected in (("computing", "into memory, in tiles"), ("writing", where)):
            found = re.fullmatch(speed, printed[name])
            assert found is not None
            seconds, gigabytes, described = found.groups()
            assert described == expected
            assert float(seconds) * float(gigabytes) == pytest.approx(12 * 1024**2 * 4e-9, rel=0.01)
    printed = fields("bias", "--query-length", 0)
    assert printed["computing"] == "0 s, 0 GB/s (into memory, in tiles)"


def test_slow_writing_does_not_count_as_computing(tmp_path: Path) -> None:
    script = """
import time, numpy
copyto = numpy.copyto
numpy.copyto = lambda *arguments: (time.sleep(0.1), copyto(*arguments))
"""
    result = run_script(script, "bias", "--query-length", 4, "--out", tmp_path / "x.npy")
    seconds = dict(re.findall(r"^(\w+) +(\S+) s, ", result.stdout, re.MULTILINE))
    assert float(seconds["writing"]) >= 12 * 0.1
    assert float(seconds["computing"]) < 0.6


@pytest.mark.parametrize(
    "dtype", [None, "float16", pytest.param("bfloat16", marks=needs_bfloat16), "float64"]
)
def test_bias_writes_what_matrix_computes(dtype: str | None, tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((33, 3), np.float32)
    np.save(tmp_path / "table.npy", weight)
    out = tmp_path / "bias.npy"
    options = ["--query-length", 40, "--key-length", 50, "--query-offset", 300, "--key-offset", -7]
    options += ["--max-distance", 200, "--unidirectional", "--num-threads", 2, "--out", out]
    options += ["--dtype", dtype] if dtype else []
    printed = fields("bias", tmp_path / "table.npy", *options)
    converted = weight.astype(BFLOAT16 if dtype == "bfloat16" else dtype or np.float32)
    expected = tb.RelativeAttentionBias(converted, tb.Buckets(33, 200, False)).matrix(
        40, 50, query_offset=300, key_offset=-7
    )
    written = np.load(out)
    if dtype == "bfloat16":
        written = written.view(BFLOAT16)
    assert written.dtype == expected.dtype
    assert np.array_equal(written, expected)
    assert printed["sha256"] == hashlib.sha256(expected.tobytes()).hexdigest()
    assert printed["out"] == str(out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bias.npy", "table.npy"]


def test_bias_in_many_tiles_is_the_whole_matrix(tmp_path: Path) -> None:
    out = tmp_path / "bias.npy"
    fields(
        "bias", "--query-length", 1500, "--key-length", 12_000, "--dtype", "float16", "--out", out
    )
    written = np.load(out, mmap_mode="r")
    assert written.shape == (12, 1500, 12_000)
    (table,) = Path(tb.__file__).parent.glob("data/*.safetensors")
    bias = tb.RelativeAttentionBias.load(table)
    half = tb.RelativeAttentionBias(bias.weight.astype(np.float16), bias.buckets)
    assert np.array_equal(written, half.view(1500, 12_000))


def test_bias_with_and_without_out_has_one_checksum(tmp_path: Path) -> None:
    arguments = ("bias", "--query-length", 300)
    assert fields(*arguments)["sha256"] == fields(*arguments, "--out", tmp_path / "x.npy")["sha256"]


def test_bias_accepts_offsets_at_the_ends_of_int64(tmp_path: Path) -> None:
    arguments = ["bias", "--query-length", 12_000, "--key-length", 3000, "--dtype", "float16"]
    out = tmp_path / "x.npy"
    fields(*arguments, "--query-offset", 2**63 - 1, "--out", out)
    written = np.load(out, mmap_mode="r")
    assert (written == written[:, :1, :1]).all()


def test_bias_of_far_offsets_depends_on_their_difference_alone(tmp_path: Path) -> None:
    digests = set()
    for query_offset, key_offset in ((5, 0), (2**63 - 1, 2**63 - 6), (-(2**63) + 5, -(2**63))):
        offsets = ["--query-offset", query_offset, "--key-offset", key_offset]
        digests.add(fields("bias", "--query-length", 300, *offsets)["sha256"])
    assert len(digests) == 1


@pytest.mark.skipif(IS_WINDOWS, reason="Windows ends a process at once")
def test_a_terminated_process_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    arguments = ["bias", "--query-length", "20000", "--key-length", "20000", "--out", str(out)]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL)
    while not list(tmp_path.iterdir()):
        assert process.poll() is None
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_bias_of_no_queries_is_a_valid_file(tmp_path: Path) -> None:
    fields("bias", "--query-length", 0, "--key-length", 5, "--out", tmp_path / "x.npy")
    assert np.load(tmp_path / "x.npy").shape == (12, 0, 5)


def test_bias_replaces_an_existing_file_only_when_it_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "bias.npy"
    out.write_bytes(b"old")
    refused(1, "must fit on a disk", "bias", "--query-length", 10**15, "--out", out)
    assert out.read_bytes() == b"old"
    fields("bias", "--query-length", 4, "--out", out)
    assert np.load(out).shape == (12, 4, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["bias.npy"]


def test_bias_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    fields("bias", "--query-length", 4, "--out", tmp_path / "x.npy")
    assert (tmp_path / "x.npy").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_bias_writes_through_a_link_and_keeps_its_targets_permissions(tmp_path: Path) -> None:
    target, link = tmp_path / "target.npy", tmp_path / "link.npy"
    target.touch(mode=0o600)
    mode = target.stat().st_mode
    link.symlink_to(target)
    fields("bias", "--query-length", 4, "--out", link)
    assert link.is_symlink()
    assert np.load(target).shape == (12, 4, 4)
    assert target.stat().st_mode == mode


def test_any_name_of_a_file_can_be_printed(tmp_path: Path) -> None:
    out = tmp_path / ("\u00e9" * 100 + ".npy")
    result = run("bias", "--out", out, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert result.returncode == 0
    assert np.load(out).shape == (12, 512, 512)


@pytest.mark.skipif(IS_WINDOWS, reason="needs a POSIX shell")
def test_a_closed_output_prints_no_traceback() -> None:
    command = f"exec '{sys.executable}' -m t5bucket buckets >&-"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert result.stderr == ""


# Commands that write a file; they must leave nothing if that fails.
WRITING = {
    "bias": ("bias", "--query-length", 2048, "--out", "x.npy"),
    "plot": ("plot", "--out", "x.png"),
    "bench": ("bench", "--json", "x.json"),
}
NO_ROWS = "from t5bucket.cli import bench; bench.ROWS = ()\n"
NO_RESERVATION = "import os; vars(os).pop('posix_fallocate', None)\n"
# Python ignores SIGXFSZ: a write beyond the limit is an error, as on a full disk.
FILE_SIZE_LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (99, 99))\n"
FULL_DISK = """
import errno, os
def fail(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
"""
FULL_DISKS = {  # the call that finds the disk full, by command
    "bias": f"{FULL_DISK}os.posix_fallocate = fail\n",
    "plot": f"{FULL_DISK}import matplotlib.figure; matplotlib.figure.Figure.savefig = fail\n",
    "bench": f"{FULL_DISK}import pathlib; pathlib.Path.write_text = fail\n",
}


def fails_and_leaves_nothing(script: str, command: str, message: str, folder: Path) -> None:
    if command == "plot":
        pytest.importorskip("matplotlib")
        script = f"import matplotlib.font_manager\n{script}"  # it caches a list of fonts
    result = run_script(NO_ROWS + script, *WRITING[command], cwd=folder)
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(IS_WINDOWS, reason="Windows has no limit of a file's size")
@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("reserve", ["", NO_RESERVATION], ids=["reserved", "written"])
def test_a_file_size_limit_fails_and_leaves_nothing(
    command: str, reserve: str, tmp_path: Path
) -> None:
    fails_and_leaves_nothing(f"{reserve}{FILE_SIZE_LIMIT}", command, "File too large", tmp_path)


@pytest.mark.parametrize("command", WRITING)
def test_a_full_disk_fails_and_leaves_nothing(command: str, tmp_path: Path) -> None:
    message = "No space left on device"
    fails_and_leaves_nothing(FULL_DISKS[command], command, message, tmp_path)


def test_an_output_path_that_cannot_be_written_fails(tmp_path: Path) -> None:
    refused(1, "No such file or directory", "bias", "--out", tmp_path / "no" / "x.npy")
    (tmp_path / "folder.npy").mkdir()
    refused(1, "out must be a file", "bias", "--out", tmp_path / "folder.npy")
    (tmp_path / "file").touch()
    message = "No such file or directory" if IS_WINDOWS else "Not a directory"
    refused(1, message, "bias", "--out", tmp_path / "file" / "x.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.npy"]


def test_a_matrix_that_does_not_fit_in_memory_fails() -> None:
    refused(1, "must fit in memory", "bias", "--query-length", 10**8)


def test_bad_weight_files_fail(tmp_path: Path) -> None:
    refused(1, NO_SUCH_FILE, "bias", tmp_path / "x.npy")
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 30)
    refused(1, "must be a sound .safetensors file", "bias", tmp_path / "x.safetensors")
    (tmp_path / "x.h5").touch()
    refused(1, "must be a folder, or end in one of", "bias", tmp_path / "x.h5")
    np.save(tmp_path / "x.npy", np.ones((32, 12), int))
    refused(1, "weight must be float16", "bias", tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", a=np.ones((4, 2)), b=np.ones((4, 2)))
    refused(1, "'a' (4, 2), 'b' (4, 2)", "bias", tmp_path / "x.npz")
    assert fields("bias", tmp_path / "x.npz", "--tensor", "b")["shape"] == "(2, 512, 512)"
    printed = fields(
        "bias", tmp_path / "x.npz", "--tensor", "b", "--heads-first", "--unidirectional"
    )
    assert printed["buckets"] == "Buckets(num_buckets=2, max_distance=128, bidirectional=False)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Choose a command"),
        (["bias", "--lenght"], "--lenght; t5bucket bias --help explains"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["bias", "--query-length", "-1"], "--query-length: must be at least 0, got -1"),
        (["bias", "--key-length", "x"], "--key-length: must be an integer, got 'x'"),
        (["bias", "--query-offset", "1.5"], "--query-offset: must be an integer, got '1.5'"),
        (["bias", "--key-offset", str(2**63)], "--key-offset: must be at most"),
        (["bias", "--num-threads", "0"], "--num-threads: must be at least 1, got 0"),
        (["bias", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["bias", "--out", "bias.npz"], "--out must end in .npy, got bias.npz"),
        (["bias", "--max-distance", "8"], "max_distance must be greater than max_exact = 8, got 8"),
        (["bias", "a.npy", "b.npy"], "unrecognized arguments: b.npy"),
        (["buckets", "--num-buckets", "3"], "num_buckets must be at least 4, got 3"),
        (["buckets", "--num-buckets", "1.5"], "--num-buckets: must be an integer, got '1.5'"),
        (["buckets", "--textbook", "32", "16"], "dist_max must be at least 17, got 16"),
        (["buckets", "--textbook", "32"], "expected 2 arguments"),
        (["buckets", "--textbook", "32", "99", "--num-buckets", "8"], "exclude each other"),
        (["buckets", "--config", "x", "--unidirectional"], "exclude each other"),
        (["buckets", "x.npy", "--num-buckets", "8"], "WEIGHTS excludes --config, --textbook and"),
        (["buckets", "--tensor", "encoder"], "--tensor and --heads-first need WEIGHTS"),
        (["info", "more"], "unrecognized arguments: more"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str) -> None:
    refused(2, message, *arguments)


# ---- buckets ----


def rows(*arguments: object) -> dict[int, str]:
    """Run ``buckets`` and parse its table."""
    result = run("buckets", *arguments)
    assert result.returncode == 0, result.stderr
    head, table_lines = re.split(r"^bucket  .*\n", result.stdout, maxsplit=1, flags=re.MULTILINE)
    assert head.startswith("Buckets(")
    lines = [line.split(maxsplit=1) for line in table_lines.splitlines()]
    table = {int(bucket): described for bucket, described in lines}
    assert list(table) == [*range(len(lines))]  # every bucket has a line
    return table


def test_buckets_shows_the_ranges() -> None:
    table = rows()
    assert table[0] == "0"
    assert table[8] == "-11 to -8"
    assert table[15] == "-91 and below"
    assert table[31] == "91 and beyond"
    assert (
        table[16]
        == "never occurs: it would hold distance 0 of later keys, and distance 0 is in bucket 0"
    )
    assert len(table) == 32
    assert rows("--num-buckets", 64, "--max-distance", 256)[63] == "216 and beyond"
    assert rows("--unidirectional")[0] == "0 and beyond"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--num-buckets", 33, "--max-distance", 12],
        ["--num-buckets", 80, "--max-distance", 22],
        ["--num-buckets", 32, "--max-distance", 20, "--unidirectional"],
        ["--num-buckets", 32, "--max-distance", 128, "--unidirectional"],
        ["--textbook", 20, 12],
    ],
)
def test_buckets_says_which_never_occur(arguments: list[Any]) -> None:
    described = rows(*arguments)
    absent = {bucket for bucket, text in described.items() if text.startswith("never occurs: ")}
    if arguments[0] == "--textbook":
        scheme = tb.Buckets.from_textbook(*arguments[1:])
    else:
        scheme = tb.Buckets(arguments[1], arguments[3], "--unidirectional" not in arguments)
    found = set(scheme(np.arange(-200, 201)).tolist())
    assert absent == set(range(scheme.num_buckets)) - found
    if arguments[1] == 33:
        assert (
            described[16]
            == "never occurs: it would hold distance 0 of later keys, and distance 0 is in bucket 0"
        )
        assert (
            described[32] == "never occurs: each direction has 16 buckets, so this one is left over"
        )
        assert described[30] == "11"
        assert described[29] == "never occurs: no whole distance lies between its boundaries"


def test_buckets_accepts_the_textbooks_notation() -> None:
    table = rows("--textbook", 32, 1024)
    assert table[0] == "0 and below"
    assert table[4] == "4"
    assert table[16] == "16 to 20"
    assert table[17] == "21 to 26"
    assert table[18] == "27 to 33"
    assert table[32] == "802 and beyond"
    assert len(table) == 33


def test_buckets_reads_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"num_buckets": 320, "max_bucket_distance": 800}), encoding="utf-8")
    assert len(rows("--config", path)) == 320
    refused(1, NO_SUCH_FILE, "buckets", "--config", tmp_path / "no.json")
    path.write_text("{}", encoding="utf-8")
    refused(1, "config must have relative position buckets", "buckets", "--config", path)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a model whose encoder and decoder have tables."""
    names = [f"{stack}.relative_attention_bias.weight" for stack in ("encoder", "decoder")]
    tables: Any = dict.fromkeys(names, np.arange(64, dtype=np.float32).reshape(32, 2))
    folder = tmp_path / "model"
    folder.mkdir()
    np.savez(folder / "model.npz", **tables)
    config = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 77}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_a_models_folder_is_taken_wherever_weights_are(model: Path, tmp_path: Path) -> None:
    scheme = "Buckets(num_buckets=32, max_distance=77, bidirectional=True)"
    printed = fields("bias", model, "--query-length", 8)
    assert (printed["shape"], printed["buckets"]) == ("(2, 8, 8)", scheme)
    assert run("buckets", model, "--tensor", "encoder").stdout.startswith(f"{scheme}\n")
    assert rows(model, "--tensor", "decoder", "--max-distance", 99)[31] == "-89 and below"
    assert fields("bias", model / "model.npz")["tensor"] == "encoder.relative_attention_bias.weight"
    listed = "--tensor must name one of 'decoder.relative_attention_bias.weight' (32, 2)"
    several = ("--tensor", "relative_attention_bias")
    refused(1, listed, "bias", model / "model.npz", *several)
    refused(1, "such as --tensor encoder, got", "bias", model / "model.npz", *several)
    out = tmp_path / "bias.png"
    if importlib.util.find_spec("matplotlib"):
        assert run("plot", model, "--tensor", "encoder", "--out", out).stdout == f"{out}\n"


def test_a_models_name_is_looked_up_in_the_cache_of_hugging_face(
    model: Path, tmp_path: Path
) -> None:
    cached = tmp_path / "hub" / "models--google-t5--t5-small"
    snapshot = cached / "snapshots" / "0123"
    shutil.copytree(model, snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123", encoding="utf-8")
    entry = {"dtype": "F32", "shape": [32, 2], "data_offsets": [0, 256]}
    header = json.dumps({"encoder.relative_attention_bias.weight": entry}).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(256)
    (snapshot / "model.safetensors").write_bytes(content)
    variables = {**os.environ, "HF_HOME": str(tmp_path)}
    result = run("buckets", "google-t5/t5-small", env=variables)
    assert result.stdout.startswith(
        "Buckets(num_buckets=32, max_distance=77, bidirectional=True)\n"
    )
    script = "sys.modules['huggingface_hub'] = None"
    result = run_script(script, "bias", "google-t5/t5-base", env=variables, cwd=tmp_path)
    assert result.returncode == 1
    assert "pip install 't5bucket[hub]'" in result.stderr
    (snapshot / "config.json").unlink()
    file = ("buckets", "google-t5/t5-small/model.safetensors")
    result = run_script(script, *file, env=variables, cwd=tmp_path)
    assert "--max-distance makes it unnecessary" in result.stderr
    result = run_script(script, *file, "--max-distance", 99, env=variables, cwd=tmp_path)
    assert result.stdout.startswith(
        "Buckets(num_buckets=32, max_distance=99, bidirectional=True)\n"
    )


# ---- plot ----


def test_plot_writes_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "bias.png"
    assert run("plot", "--panel", "grid", "--length", 20, "--out", out).stdout == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")
    refused(1, "'xyz' is not supported", "plot", "--panel", "grid", "--out", tmp_path / "bias.xyz")
    refused(1, "out must be a file", "plot", "--panel", "grid", "--out", tmp_path)
    refused(2, "--length: must be at least 1, got 0", "plot", "--length", 0)
    assert [path.name for path in tmp_path.iterdir()] == ["bias.png"]
    run("plot", "--panel", "grid", "--out", tmp_path / "bias")
    assert (tmp_path / "bias").read_bytes().startswith(b"\x89PNG")


def test_plot_has_room_for_many_heads(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", np.ones((32, 64), np.float32))  # as many heads as T5-XXL
    result = run("plot", tmp_path / "x.npy", "--panel", "bias", "--out", tmp_path / "x.png")
    assert (result.returncode, result.stderr) == (0, "")


def test_plot_without_matplotlib_names_the_extra(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['matplotlib'] = None; sys.modules['matplotlib.figure'] = None;"
    )
    script += "from t5bucket.cli import main; sys.exit(main(['plot']))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "pip install 't5bucket[plot]'" in result.stderr


# ---- info and the rest ----


def test_info_has_what_a_bug_report_needs() -> None:
    printed = fields("info")
    assert printed["t5bucket"] == tb.__version__ == importlib.metadata.version("t5bucket")
    assert printed["NumPy"] == np.__version__
    assert printed["Python"].startswith(".".join(map(str, sys.version_info[:3])))
    assert int(printed["threads"]) >= 1
    assert any(name in printed["compiler"] for name in ("GCC", "lang", "MSVC"))
    assert printed["instruction set"]
    frameworks = ("torch", "onnxscript", "onnxruntime", "transformers", "dask", "jax")
    for name in ("ml_dtypes", "tqdm", "matplotlib", *frameworks):
        try:
            expected = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            expected = "not installed"
        assert printed[name] == expected


def test_an_instruction_set_can_be_disabled_with_those_that_contain_it() -> None:
    def choose(disabled: str) -> str:
        result = run("info", "--json", env=os.environ | {"T5BUCKET_DISABLE_CPU": disabled})
        return str(json.loads(result.stdout)["instruction set"]).partition(" on ")[0]

    assert choose("avx2, portable") == choose("portable,avx2 avx512") == "portable"
    assert choose("avx512") == choose("").replace("avx512", "avx2")


def test_the_installed_command_is_the_module() -> None:
    script = shutil.which("t5bucket", path=sysconfig.get_path("scripts"))
    assert script is not None
    result = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout == run("--version").stdout == f"t5bucket {tb.__version__}\n"


@pytest.mark.parametrize("command", [[], ["bias"], ["buckets"], ["plot"], ["bench"], ["info"]])
def test_help_describes_each_command(command: list[str]) -> None:
    result = run(*command, "--help")
    assert result.returncode == 0
    assert "usage: t5bucket" in result.stdout


def test_a_reader_that_stops_early_sees_no_traceback() -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            "buckets",
            "--num-buckets",
            "9000",
            "--max-distance",
            "9001",
            "--unidirectional",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as stdout, process.stderr as stderr:
        stdout.readline()
        stdout.close()
        assert stderr.read() == ""
        assert process.wait() == 1


def test_it_works_without_the_optional_packages(tmp_path: Path) -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['tqdm', 'ml_dtypes', 'matplotlib']));"
    script = f"{blocked} from t5bucket.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "bias", "--out", str(tmp_path / "x.npy")]
    subprocess.run(command, check=True, capture_output=True)
    assert np.load(tmp_path / "x.npy").shape == (12, 512, 512)
    result = subprocess.run(
        [*command, "--dtype", "bfloat16"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "pip install 't5bucket[bfloat16]'" in result.stderr


def test_importing_the_source_tree_says_what_to_do(tmp_path: Path) -> None:
    shutil.copytree(
        Path(tb.__file__).parent,
        tmp_path / "t5bucket",
        ignore=shutil.ignore_patterns("_core*", "__pycache__"),
    )
    result = subprocess.run(
        [sys.executable, "-S", "-c", "import t5bucket"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert result.returncode == 1
    assert "pip install --editable ." in result.stderr.splitlines()[-1]


def test_importing_the_package_imports_none_of_its_options() -> None:
    script = """
import sys, numpy
before = set(sys.modules)
import t5bucket
new = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"torch", "transformers", "dask", "matplotlib", "tqdm", "ml_dtypes", "multiprocessing",
         "importlib", "argparse", "pathlib", "json", "zipfile"}
print(sorted(new & heavy))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"
