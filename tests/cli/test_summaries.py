# test_summaries.py - summaries of a matrix, a scheme and a system, as text and as JSON.
# SPDX-License-Identifier: BSD-3-Clause
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import t5bucket as tb
from t5bucket import _machine
from t5bucket.cli import bias, main
from t5bucket.cli._options import show_size

BIAS = tb.RelativeAttentionBias(np.ones((32, 12), np.float32), tb.Buckets())


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command that succeeds; return its JSON object, or its lines by name."""

    def run(*arguments: object) -> Any:
        assert main([*map(str, arguments)]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        if "--json" in arguments:
            return json.loads(printed.out)
        return dict(line.split(maxsplit=1) for line in printed.out.splitlines())

    return run


# ---- bias ----


def test_a_machine_is_told_the_same_as_a_person(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    arguments = ["bias", "--query-length", 20, "--key-length", 30, "--out", out]
    shown, found = run(*arguments), run(*arguments, "--json")
    assert found["buckets"] == {"num_buckets": 32, "max_distance": 128, "bidirectional": True}
    assert shown["buckets"] == str(tb.Buckets(**found["buckets"]))
    assert found["shape"] == [12, 20, 30]
    assert shown["shape"] == "(12, 20, 30)"
    assert found["nbytes"] == np.load(out).nbytes == 28800
    assert shown["size"] == "28.8 kB (28800 bytes)"
    assert found["sha256"] == shown["sha256"] == hashlib.sha256(np.load(out)).hexdigest()
    assert found["out"] == shown["out"] == str(out)
    assert found["computing_seconds"] > 0 < found["writing_seconds"]
    assert list(shown) == [
        "weights", "tensor", "buckets", "shape", "dtype", "size", "computing", "writing", "sha256",
        "out",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (10**12, "yes, 1 TB of memory are free"),
        (10**6, "no, 1 MB of memory are free; --out FILE.npy writes it in tiles"),
        (None, "unknown: this system does not tell its memory"),
    ],
)
def test_a_dry_run_says_whether_memory_suffices(
    available: int | None, expected: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bias, "available_memory_nbytes", lambda: available)
    monkeypatch.setattr(bias, "compute", None)
    assert run("bias", "--dry-run")["fits"] == expected
    found = run("bias", "--dry-run", "--json")
    assert found["available_nbytes"] == available
    assert found["fits"] == (None if available is None else available == 10**12)
    assert found["nbytes"] == 12 * 512 * 512 * 4


def test_a_matrix_larger_than_memory_is_refused_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bias, "available_memory_nbytes", lambda: 10**6)
    monkeypatch.setattr(bias, "compute", None)
    assert main(["bias"]) == 1
    printed = capsys.readouterr().err
    assert printed.endswith("12.6 MB: 1 MB of memory are free; --out FILE.npy writes it in tiles\n")


def test_a_dry_run_looks_at_the_disk_and_writes_nothing(run: Any, tmp_path: Path) -> None:
    out = tmp_path / "x.npy"
    assert run("bias", "--dry-run", "--out", out)["fits"].endswith("of the disk are free")
    huge = run("bias", "--dry-run", "--query-length", 10**12, "--out", out)
    assert huge["size"].endswith(" PB (48000000000000000000000000 bytes)")
    assert huge["fits"].startswith("no, ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("out", [False, True])
def test_a_dry_run_of_a_missing_folder_fails(
    out: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bias", "--dry-run", "--out", str(tmp_path / "no" / "x.npy")]) == 1
    message = "[WinError 2]" if sys.platform == "win32" else "No such file"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("nbytes", "expected"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (201_326_592, "201 MB"),
        (480 * 10**9, "480 GB"),
        (5 * 10**15, "5 PB"),
    ],
)
def test_sizes_are_shown_in_units_that_people_read(nbytes: int, expected: str) -> None:
    assert show_size(nbytes) == expected


# ---- the bytes of a matrix ----


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("lengths", [(0, 5), (1, 1), (7, 9)])
def test_matrix_nbytes_equals_the_bytes_of_the_matrix(dtype: Any, lengths: tuple[int, int]) -> None:
    bias = tb.RelativeAttentionBias(np.ones((8, 3), dtype), tb.Buckets(8, 20))
    assert bias.matrix_nbytes(*lengths) == bias.matrix(*lengths).nbytes
    mask = np.ones((2, 5, 1, 1, 1), bool)
    masked = bias.matrix(*lengths, mask=mask)
    assert bias.matrix_nbytes(*lengths, batch_shape=(2, 5)) == masked.nbytes
    assert bias.matrix_nbytes(*lengths, batch_shape=10) == masked.nbytes


def test_matrix_nbytes_may_be_larger_than_any_memory() -> None:
    length = 2**63 - 1
    assert BIAS.matrix_nbytes(length, length, batch_shape=(length,)) == 48 * length**3


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((-1, 5), {}, ValueError, "query_length must be at least 0, got -1"),
        ((5, 1.5), {}, TypeError, "key_length must be an integer, got 1.5"),
        ((5, 5), {"batch_shape": -1}, ValueError, "batch_shape must be at least 0, got -1"),
        ((5, 5), {"batch_shape": (2, "a")}, TypeError, "batch_shape must be an integer, got 'a'"),
        ((5, 5), {"batch_shape": None}, TypeError, "batch_shape must be an integer, got None"),
    ],
)
def test_matrix_nbytes_checks_its_arguments(
    arguments: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        BIAS.matrix_nbytes(*arguments, **options)


# ---- buckets ----


@pytest.mark.parametrize("options", [[], ["--textbook", 8, 20], ["--num-buckets", 33]])
def test_a_scheme_can_be_made_from_its_json(options: list[Any], run: Any) -> None:
    found = run("buckets", *options, "--json")
    sign = {"key - query": 1, "query - key": -1}[found["offset"]]
    if options[:1] == ["--textbook"]:
        scheme = tb.Buckets.from_textbook(8, 20)
    else:
        scheme = tb.Buckets(**{name: found[name] for name in ("num_buckets", "max_distance")})
    offsets = np.arange(-300, 301)
    buckets = np.full(offsets.shape, -1)
    for entry in found["ranges"]:
        first, last = entry["first"], entry["last"]
        inside = (offsets >= (-300 if first is None else first)) & (
            offsets <= (300 if last is None else last)
        )
        assert (buckets[inside] == -1).all()
        buckets[inside] = entry["bucket"]
    assert np.array_equal(buckets, scheme(sign * offsets))
    absent = set(range(scheme.num_buckets)) - set(buckets.tolist())
    assert set(found["never_occurring"]) == absent


def test_a_configuration_alone_answers(run: Any, tmp_path: Path) -> None:
    config = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 77}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for path in (tmp_path, tmp_path / "config.json"):
        found = run("buckets", path, "--json")
        assert (found["max_distance"], found["bidirectional"], found["tensor"]) == (77, True, None)
        assert not run("buckets", path, "--tensor", "decoder", "--json")["bidirectional"]


def test_tables_of_all_layers_have_one_scheme(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "{}.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    stacks = ("encoder", "decoder")
    names = [name.format(stack, block) for stack in stacks for block in range(3)]
    tables: Any = {name: np.ones((32, 2), np.float32) for name in names}
    np.savez(tmp_path / "x.npz", **tables)
    found = run("buckets", tmp_path / "x.npz", "--json")
    assert (found["tensor"], found["bidirectional"]) == (names[0], True)
    found = run("buckets", tmp_path / "x.npz", "--tensor", "decoder", "--json")
    assert (found["tensor"], found["bidirectional"]) == (names[3], False)
    assert main(["bias", str(tmp_path / "x.npz")]) == 1
    assert "such as --tensor encoder.block.0" in capsys.readouterr().err


def test_a_model_without_the_bias_is_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bert.npz"
    np.savez(path, a=np.ones((2, 2)), b=np.ones((2, 2)))
    assert main(["buckets", str(path)]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"t5bucket: {path} has no T5 bias: ")
    assert printed.endswith("; --tensor NAME names another one\n")


# ---- info, and the files that it reads ----


def test_info_shows_variables_that_are_set_and_free_memory(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T5BUCKET_NUM_THREADS", "3")
    found = run("info", "--json")
    assert "T5BUCKET_NUM_THREADS=3" in found["variables"]
    assert found["memory"].endswith(" free")
    assert found["processor"]
    assert found["t5bucket"] == tb.__version__


def test_free_memory_is_that_of_the_system_and_of_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("meminfo", "limit", "used")
    memory, limit, used = (tmp_path / name for name in names)
    monkeypatch.setattr(_machine, "MEMORY", str(memory))
    monkeypatch.setattr(_machine, "MEMORY_LIMIT", (str(limit), str(used)))
    monkeypatch.setattr(_machine, "MEMORY_LIMIT_V1", ("/nowhere", "/nowhere"))
    memory.write_text("MemTotal:  9 kB\nMemAvailable:  5 kB\n", encoding="utf-8")
    assert _machine.available_memory_nbytes() == 5 << 10
    limit.write_text("max\n", encoding="utf-8")
    used.write_text("100\n", encoding="utf-8")
    assert _machine.available_memory_nbytes() == 5 << 10
    limit.write_text("1000\n", encoding="utf-8")
    assert _machine.available_memory_nbytes() == 900
    limit.write_text("10\n", encoding="utf-8")
    assert _machine.available_memory_nbytes() == 0


def test_the_name_of_a_processor_is_found_or_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(_machine, "CPU_NAMES", str(path))
    assert _machine.read_processor_name() == ""
    path.write_text("processor : 0\n", encoding="utf-8")
    assert _machine.read_processor_name() == ""
    path.write_text("processor : 0\nmodel name\t: A: B\nmodel name : C\n", encoding="utf-8")
    assert _machine.read_processor_name() == "A: B"
