# test_gguf_files.py - .gguf: tables with llama.cpp's names, also quantized; hostile files.
# SPDX-License-Identifier: BSD-3-Clause
import io
import struct
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import T5, make_weight, save_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import BFLOAT16, needs_bfloat16

import t5bucket as tb

gguf: Any = pytest.importorskip("gguf")
load = tb.RelativeAttentionBias.load
from_pretrained = tb.RelativeAttentionBias.from_pretrained
ENCODER, DECODER = "enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight"
DEQUANTIZED = [
    kind.name
    for kind in gguf.quants._type_traits  # the types that the package can dequantize
    if kind.name not in ("F32", "F16", "BF16")
]
QUANTIZED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]  # those that it writes too


def weight(num_heads: int = 64) -> Any:
    return np.random.default_rng(0).standard_normal((32, num_heads)).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("order", ["LITTLE", "BIG"])
def test_each_dtype_keeps_every_bit_in_either_byte_order(
    dtype: Any, order: str, tmp_path: Path
) -> None:
    options: Any = {"endianess": gguf.GGUFEndian[order]}
    save_gguf(tmp_path / "x.gguf", {ENCODER: weight(6).astype(dtype)}, **options)
    bias = load(tmp_path / "x.gguf")
    assert bias.dtype == dtype
    assert bias.dtype.isnative
    assert np.array_equal(bias.weight, weight(6).astype(dtype))


@needs_bfloat16
def test_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    save_gguf(tmp_path / "x.gguf", {ENCODER: weight()}, types={ENCODER: "BF16"})
    bias = load(tmp_path / "x.gguf")
    assert bias.dtype == BFLOAT16
    assert np.array_equal(bias.weight, weight().astype(BFLOAT16))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tables_are_dequantized_by_the_package_gguf(kind: str, tmp_path: Path) -> None:
    save_gguf(tmp_path / "x.gguf", {ENCODER: weight()}, types={ENCODER: kind})
    bias = load(tmp_path / "x.gguf")
    (tensor,) = gguf.GGUFReader(tmp_path / "x.gguf").tensors
    assert bias.dtype == np.float32
    assert np.array_equal(bias.weight, gguf.dequantize(tensor.data, tensor.tensor_type))
    assert np.abs(bias.weight - weight()).max() < 0.5


@pytest.mark.parametrize("kind", DEQUANTIZED)
def test_every_type_of_the_package_is_dequantized(kind: str, tmp_path: Path) -> None:
    number = gguf.GGMLQuantizationType[kind]
    block_length, block_nbytes = gguf.GGML_QUANT_SIZES[number]
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 60, (32, 256 // block_length * block_nbytes), np.uint8)
    save_gguf(
        tmp_path / "x.gguf",
        {},
        edit=lambda writer: writer.add_tensor(ENCODER, blocks, raw_dtype=number),
    )
    expected = gguf.dequantize(blocks, number)
    assert np.array_equal(load(tmp_path / "x.gguf").weight, expected, equal_nan=True)


def test_encoder_and_decoder_are_told_apart(tmp_path: Path) -> None:
    tables = {ENCODER: weight(), DECODER: weight() + 1, "dec.blk.0.attn_q.weight": weight()}
    save_gguf(tmp_path / "x.gguf", tables)
    with pytest.raises(ValueError, match=r"'dec\.blk.* \(32, 64\), 'enc\.blk.* \(32, 64\) in"):
        load(tmp_path / "x.gguf")
    assert load(tmp_path / "x.gguf", tensor="enc").buckets == tb.Buckets(32, 128)
    decoder = load(tmp_path / "x.gguf", tensor="dec")
    assert decoder.buckets == tb.Buckets(32, 128, False)
    assert np.array_equal(decoder.weight, weight() + 1)
    for part, added in (("encoder", 0), ("decoder", 1), ("decoder.block.0", 1)):
        found = load(tmp_path / "x.gguf", tensor=part)
        assert np.array_equal(found.weight, weight() + added)
    assert from_pretrained(tmp_path / "x.gguf").weight[0, 0] == weight()[0, 0]
    assert from_pretrained(tmp_path).buckets.bidirectional


def test_names_of_other_programs_are_found(tmp_path: Path) -> None:
    save_gguf(tmp_path / "x.gguf", {f"text_encoders.t5xxl.transformer.{T5}": weight()})
    assert load(tmp_path / "x.gguf").num_heads == 64


def test_the_metadata_and_a_large_vocabulary_are_passed_by(tmp_path: Path) -> None:
    def edit(writer: Any) -> None:
        writer.add_relative_attn_buckets_count(32)
        writer.add_token_list([f"token {i}" for i in range(50_000)])
        writer.add_token_scores([0.5] * 50_000)
        writer.add_array("tokenizer.ggml.precompiled_charsmap", bytes(5000))
        writer.add_bool("a.bool", True)
        writer.add_custom_alignment(64)
        writer.add_string("long", "x" * 70_000)

    save_gguf(tmp_path / "x.gguf", {"other": weight(5), ENCODER: weight()}, edit=edit)
    begin = time.process_time()
    assert np.array_equal(load(tmp_path / "x.gguf").weight, weight())
    assert time.process_time() - begin < 2


def test_another_number_of_buckets_than_the_metadata_say_is_refused(tmp_path: Path) -> None:
    save_gguf(
        tmp_path / "x.gguf",
        {ENCODER: weight()},
        edit=lambda writer: writer.add_relative_attn_buckets_count(64),
    )
    with pytest.raises(ValueError, match=r"as many buckets as the model of .*x\.gguf, 64, got 32"):
        load(tmp_path / "x.gguf")


def test_another_architecture_is_named(tmp_path: Path) -> None:
    tables = {"token_embd.weight": weight(), "output.weight": weight()}
    save_gguf(tmp_path / "x.gguf", tables, architecture="llama")
    with pytest.raises(ValueError, match=r"x\.gguf, a model of architecture 'llama', with 'out"):
        load(tmp_path / "x.gguf")


def test_without_the_package_plain_tables_are_read_and_quantized_ones_name_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gguf(tmp_path / "x.gguf", {ENCODER: weight(), DECODER: weight()}, types={DECODER: "Q8_0"})
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert np.array_equal(load(tmp_path / "x.gguf", tensor="enc").weight, weight())
    with pytest.raises(ImportError, match=r"x\.gguf is quantized: pip install 't5bucket\[gguf\]'"):
        load(tmp_path / "x.gguf", tensor="dec")


# ---- hostile files ----


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def field(name: bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def entry(name: bytes, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def file(fields: list[bytes], entries: list[bytes], version: int = 3, **counts: int) -> bytes:
    numbers = counts.get("num_tensors", len(entries)), counts.get("num_fields", len(fields))
    head = b"GGUF" + struct.pack("<IQQ", version, *numbers) + b"".join(fields + entries)
    return head + bytes(-len(head) % 32 + 256)


NAME = ENCODER.encode()
GOOD = entry(NAME, (2, 32), 0, 0)


def test_a_file_written_by_hand_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(file([], [GOOD]))
    assert load(tmp_path / "x.gguf").weight.shape == (32, 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GGUF",
        b"GGML" + file([], [GOOD])[4:],
        file([], [GOOD], version=1),
        file([], [GOOD], version=1 << 24),
        file([], [GOOD], num_tensors=2**63),
        file([], [GOOD], num_tensors=2**17),
        file([], [GOOD], num_fields=2**63),
        file([struct.pack("<Q", 2**62)], [GOOD]),
        file([struct.pack("<Q", 2**63) + b"x"], [GOOD]),
        file([field(b"x", 8, struct.pack("<Q", 2**62))], [GOOD]),
        file([field(b"x", 9, struct.pack("<IQ", 0, 2**63))], [GOOD]),
        file([field(b"x", 9, struct.pack("<IQ", 8, 2**63))], [GOOD]),
        file([field(b"x", 9, struct.pack("<IQ", 9, 1)) * 50], [GOOD]),
        file([field(b"x", 77, b"")], [GOOD]),
        file([field(b"x", 0, b"1")] * 2, [GOOD]),
        file([], [GOOD, GOOD]),
        file([field(b"\xff", 0, b"1")], [GOOD]),
        file([field(b"general.alignment", 4, struct.pack("<I", 0))], [GOOD]),
        file([field(b"general.alignment", 4, struct.pack("<I", 3))], [GOOD]),
        file([field(b"general.alignment", 4, struct.pack("<I", 1 << 31))], [GOOD]),
        file([field(b"general.architecture", 8, string(b"x" * 70_000))], [GOOD]),
        file([], [entry(NAME, (2, 32), 0, 2**63)]),
        file([], [entry(NAME, (2, 32), 0, 1)]),
        file([], [entry(NAME, (2**62, 2**62), 0, 0)]),
        file([], [entry(NAME, (2, 33), 0, 0)]),
        file([], [entry(NAME, (2,) * 9, 0, 0)]),
        file([], [string(NAME) + struct.pack("<I", 2**31)]),
        file([], [entry(NAME, (2, 32), 12345, 0)]),
        file([], [entry(NAME, (2, 32), 8, 0)]),  # Q8_0 has blocks of 32
        file([], [entry(NAME, (), 8, 0)]),
        file([], [entry(NAME, (32, 2**40), 8, 0)]),
    ],
)
def test_hostile_files_are_refused_at_once_and_take_no_memory(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    begin = time.process_time()
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"path must be a sound \.gguf file, got "):
        load(tmp_path / "x.gguf")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22
    assert time.process_time() - begin < 2


def test_a_million_tensors_are_refused_before_they_are_read(tmp_path: Path) -> None:
    entries = io.BytesIO()
    for number in range(1000):
        entries.write(entry(b"%d" % number, (2, 32), 0, 0))
    content = file([], [GOOD, entries.getvalue() * 1000], num_tensors=1_000_001)
    (tmp_path / "x.gguf").write_bytes(content)
    begin = time.process_time()
    with pytest.raises(ValueError, match="it says that it has 1000001 tensors"):
        load(tmp_path / "x.gguf")
    assert time.process_time() - begin < 1


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "x.gguf", {ENCODER: make_weight(4, 2)})
    content = (tmp_path / "x.gguf").read_bytes()
    used = content.rindex(make_weight(4, 2).tobytes()) + 32  # what follows is padding
    for length in range(used):
        (tmp_path / "x.gguf").write_bytes(content[:length])
        with pytest.raises(ValueError, match="must be a sound"):
            load(tmp_path / "x.gguf")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_changed_bytes_load_or_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(file([field(b"x", 9, struct.pack("<IQ", 0, 0))], [GOOD]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "x.gguf").write_bytes(content)
    try:
        load(tmp_path / "x.gguf")
    except (ValueError, TypeError) as error:
        assert "must" in str(error)  # noqa: PT017
