# test_pytorch_files.py - .bin, .pt and .pth: tables out of pickles, none of whose code is run.
# SPDX-License-Identifier: BSD-3-Clause
import io
import os
import pickle
import pickletools
import shutil
import struct
import sys
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import T5, T5_DECODER, make_weight, save_pytorch, tensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
load = tb.RelativeAttentionBias.load


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_dtype_keeps_every_bit(suffix: str, dtype: Any, tmp_path: Path) -> None:
    table = torch.randn(32, 4).to(dtype)
    save_pytorch(tmp_path / f"x{suffix}", OrderedDict({T5: table, "shared.weight": table}))
    bias = load(tmp_path / f"x{suffix}")
    assert bias.dtype.name == str(dtype).removeprefix("torch.")
    assert np.array_equal(bias.weight.astype(np.float64), table.double().numpy())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3, "args": {"lr": 0.1, "seed": 2**62}},
        lambda state: {"model": {"module": state}, "optimizer": {"state": {0: torch.zeros(3)}}},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {name: torch.nn.Parameter(tensor) for name, tensor in state.items()},
        lambda state: {name: tensor.T.contiguous().T for name, tensor in state.items()},
        lambda state: torch.nn.ModuleDict().state_dict() | state | {"sizes": torch.Size([3])},
        lambda state: [None, 3] and {"a": [1, (2, {"x": None})], **state},
    ],
)
def test_state_dicts_are_found_where_training_puts_them(
    wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    save_pytorch(tmp_path / "x.pt", wrap(tensors()))
    assert np.array_equal(load(tmp_path / "x.pt", tensor=T5).weight, make_weight())
    assert not load(tmp_path / "x.pt", tensor="decoder").buckets.bidirectional


def test_the_weight_outlives_its_file(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", {T5: torch.ones(32, 4)})
    bias = load(tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes(bytes((tmp_path / "x.bin").stat().st_size))
    assert bias.weight.min() == 1


def test_a_large_checkpoint_is_mapped_and_not_read(tmp_path: Path) -> None:
    state = {**tensors(), "large": torch.zeros(1 << 22)}
    save_pytorch(tmp_path / "x.bin", state)
    tracemalloc.start()
    load(tmp_path / "x.bin", tensor="encoder")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 21


def test_without_pytorch_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pytorch(tmp_path / "x.bin", tensors())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"x\.bin needs PyTorch: pip install 't5bucket\[torch\]'"):
        load(tmp_path / "x.bin")


# ---- code ----


class Bomb:
    """Unpickling an instance writes a file."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ("function", "argument", "name"),
    [
        (os.system, "touch bomb", "posix.system"),
        (eval, "open('bomb', 'w')", "__builtin__.eval"),
        (torch.load, "bomb", "torch.serialization.load"),
        (bytearray, 1 << 36, "__builtin__.bytearray"),
        (torch.Tensor, 1 << 36, "torch.Tensor"),
        (torch.jit.load, "bomb", "torch.jit._serialization.load"),
    ],
)
def test_a_file_that_holds_code_is_refused_and_none_of_it_runs(
    function: Any, argument: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pytorch(tmp_path / "x.bin", {**tensors(), "args": Bomb(function, argument)})
    with pytest.raises(
        ValueError, match=r"x\.bin .it holds code, .*none of which was run"
    ) as caught:
        load("x.bin", tensor="encoder")
    assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["x.bin"]


def test_what_hides_the_names_that_it_calls_is_refused(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", tensors(), pickle_protocol=4)
    with pytest.raises(ValueError, match=r"it holds code .STACK_GLOBAL., none of which was run"):
        load(tmp_path / "x.bin", tensor="encoder")


def test_what_a_program_has_allowed_is_code_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_pytorch(tmp_path / "x.bin", {**tensors(), "args": Bomb(shutil.copyfile, "x.bin", "bomb")})
    with torch.serialization.safe_globals([shutil.copyfile]):
        torch.load("x.bin", weights_only=True)
        (tmp_path / "bomb").unlink()
        with pytest.raises(ValueError, match=r"shutil\.copyfile"):
            load("x.bin", tensor="encoder")
    assert not (tmp_path / "bomb").exists()


def test_a_whole_model_and_a_program_are_refused(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.pt", torch.nn.Embedding(32, 4))
    with pytest.raises(ValueError, match=r"torch\.nn\.modules\.sparse\.Embedding, none of"):
        load(tmp_path / "x.pt")


def test_old_files_and_plain_pickles_say_what_to_do(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", tensors(), _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match=r"x\.bin .it is of PyTorch before 1\.6, .*save it again"):
        load(tmp_path / "x.bin")
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Bomb(pytest.fail, "unpickled")))
    with pytest.raises(ValueError, match="save it again"):
        load(tmp_path / "x.bin")


# ---- hostile archives ----


def rewrite(path: Path, edit: Callable[[bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write a file again with another pickle."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, edit(content) if name.endswith("/data.pkl") else content)


def pushed(number: int) -> bytes:
    """Opcode that pushes a number."""
    code = pickle.dumps(number, protocol=2)
    return code[2:-1]


def with_number(old: int, new: int) -> Callable[[bytes], bytes]:
    """Replace every such number of a pickle."""

    def edit(content: bytes) -> bytes:
        result, begin = b"", 0
        place: Any
        for opcode, argument, place in [*pickletools.genops(content)]:
            if opcode.name.startswith("BININT") and argument == old:
                result += content[begin:place] + pushed(new)
                begin = place + len(pushed(old))
        return result + content[begin:]

    return edit


def push_text(text: str) -> bytes:
    return pickle.dumps(text, protocol=2)[2:-1]


def push_tensor(size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Instructions that make a tensor of the archive's only storage, as torch.save writes them."""
    storage = push_text("storage") + b"ctorch\nFloatStorage\n" + push_text("0") + push_text("cpu")
    sizes = (b"(" + b"".join(map(pushed, axes)) + b"t" for axes in (size, stride))
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n(("
    tail = b"\x89ccollections\nOrderedDict\n)RtR"
    return rebuild + storage + pushed(256) + b"tQ" + pushed(0) + b"".join(sizes) + tail


def write_archive(path: Path, *extra: bytes, name: str = "data.pkl") -> None:
    """Write a table, and in the same dict what some instructions push."""
    items = b"".join(push_text(f"x{i}") + code for i, code in enumerate(extra))
    content = b"\x80\x02}(" + items + push_text(T5) + push_tensor((32, 8), (8, 1)) + b"u."
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(f"archive/{name}", content)
        if name == "data.pkl":
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/data/0", bytes(1024))
            archive.writestr("archive/version", "3\n")


REPEATED = push_tensor((1 << 20,), (0,))  # one item, read again and again
GREEDY = {
    "set": b"c__builtin__\nset\n(" + REPEATED + b"tR",
    "Counter": b"ccollections\nCounter\n" + REPEATED + b"\x85R",
    "Size": b"ctorch\nSize\n" + REPEATED + b"\x85R",
    "OrderedDict": b"ccollections\nOrderedDict\n" + push_tensor((1 << 20, 2), (0, 1)) + b"\x85R",
    "storage": b"ctorch.storage\nUntypedStorage\n" + pushed(1 << 30) + b"\x85R",
    "storage of a type": b"ctorch\nFloatStorage\n" + pushed(1 << 30) + b"\x85R",
    "nested tuples": b"})" + b"\x85" * 200_000 + b"Ns",
    "nested pairs": b"})" + b"N\x86" * 200_000 + b"Ns",
    "marks": b"(" * 200_000,
    "dicts": b"}" * 200_000,
}


def test_the_instructions_of_these_tests_make_a_table(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.bin", push_tensor((2,), (1,)), b"c__builtin__\nset\n]\x85R")
    assert load(tmp_path / "x.bin").weight.shape == (32, 8)


@pytest.mark.parametrize("name", GREEDY)
def test_instructions_that_would_take_much_are_refused(name: str, tmp_path: Path) -> None:
    write_archive(tmp_path / "x.bin", GREEDY[name])
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x\.bin .it"):
        load(tmp_path / "x.bin")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 << 20


def test_names_that_differ_by_case_are_the_same_to_pytorch(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.bin", b"cos\ngetcwd\n)R", name="DATA.PKL")
    write_archive(tmp_path / "x.bin")
    with pytest.raises(ValueError, match=r"x\.bin \(it has '\w+/data\.pkl' twice\)"):
        load(tmp_path / "x.bin")


@pytest.mark.parametrize("new", [33, 2**31 - 1, 2**40, 2**62, -1])
@pytest.mark.parametrize("old", [64, 32, 2])
def test_sizes_that_the_file_does_not_have_are_refused(old: int, new: int, tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", {T5: torch.ones(32, 2)})
    rewrite(tmp_path / "x.bin", with_number(old, new))
    try:
        weight = load(tmp_path / "x.bin").weight
    except (ValueError, TypeError) as error:
        assert "must" in str(error)  # noqa: PT017
    else:  # a storage may be said to be larger: what is read of it is in the file
        assert old == 64
        assert weight.shape == (32, 2)
        assert weight.min() == 1


def test_an_item_repeated_for_ever_takes_no_memory(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", {T5: torch.ones(1).expand(1 << 20, 1 << 12)})
    with pytest.raises(ValueError, match=r"has \d+ bytes, more than the file"):
        load(tmp_path / "x.bin")


def test_dicts_that_hold_themselves_or_each_other_end(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(tensors())
    state["self"] = state
    for _ in range(4):  # 10^12 paths
        state = {**dict.fromkeys(map(str, range(1000)), state), **tensors()}
    save_pytorch(tmp_path / "x.bin", state)
    begin = time.process_time()
    assert np.array_equal(load(tmp_path / "x.bin", tensor=T5).weight, make_weight())
    assert time.process_time() - begin < 2


def test_a_pickle_of_a_million_tensors_is_refused_before_it_is_read(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", {T5: torch.ones(32, 2)})
    rewrite(tmp_path / "x.bin", lambda content: content[:-1] + b"0N" * (1 << 23) + b".")
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"its data\.pkl has 16777\d+ bytes"):
        load(tmp_path / "x.bin")
    assert time.process_time() - begin < 1


def test_a_compressed_pickle_is_refused(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", tensors())
    rewrite(tmp_path / "x.bin", lambda content: content, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"must be a sound \.bin file"):
        load(tmp_path / "x.bin")


def test_an_archive_that_lies_about_its_pickle_gets_no_memory(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", tensors())
    content = bytearray((tmp_path / "x.bin").read_bytes())
    entry = content.index(b"PK\x01\x02")  # of data.pkl, the first one
    for sizes in ((1 << 30, 286), (286, 1 << 30), (1 << 30, 1 << 30)):
        content[entry + 20 : entry + 28] = struct.pack("<II", *sizes)
        (tmp_path / "x.bin").write_bytes(content)
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"its data\.pkl has \d+ bytes, stored in \d+"):
            load(tmp_path / "x.bin")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 1 << 20


def test_an_archive_with_two_pickles_is_refused(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", tensors())
    with zipfile.ZipFile(tmp_path / "x.bin", "a") as archive:
        archive.writestr("y/data.pkl", b"N.")
    with pytest.raises(ValueError, match=r"it is no archive of torch\.save"):
        load(tmp_path / "x.bin")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_pytorch(tmp_path / "x.bin", {T5: torch.ones(4, 2)})
    content = (tmp_path / "x.bin").read_bytes()
    for length in range(0, len(content), 7):
        (tmp_path / "x.bin").write_bytes(content[:length])
        with pytest.raises(ValueError, match="must be a sound"):
            load(tmp_path / "x.bin")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_changed_bytes_load_or_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    memory = io.BytesIO()
    torch.save({T5: torch.ones(4, 2), T5_DECODER: torch.ones(4, 2)}, memory)
    content = bytearray(memory.getvalue())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.bin").write_bytes(content)
    try:
        load(tmp_path / "x.bin", tensor=T5)
    except (ValueError, TypeError) as error:
        assert "must" in str(error)  # noqa: PT017
