# test_attention_documents.py - with exact=False, packed documents attend to themselves alone.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")

from t5bucket.torch import (  # noqa: E402
    _attend,
    _documents,
    compute_bias,
    scaled_dot_product_attention,
)

by_pytorch: Any = torch.nn.functional.scaled_dot_product_attention
BUCKETS = tb.Buckets()
TOLERANCE = {torch.float64: 1e-13, torch.float32: 4e-6, torch.bfloat16: 4e-2, torch.float16: 4e-3}
NUM_HEADS = 2
PIECE_COST = _documents.PIECE_COST


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small matrices as large ones, and calls as if they took no time."""
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)
    monkeypatch.setattr(_documents, "PIECE_COST", 0)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record examples, queries and keys of each document."""
    found: list[tuple[int, ...]] = []

    def recording(attend: Any) -> Any:
        def record(inputs: Any, source: Any) -> Any:
            found.append((len(inputs.query), inputs.query.shape[2], inputs.key.shape[2]))
            return attend(inputs, source)

        return record

    for name in ("attend_by_blocks", "attend_by_matrix"):
        monkeypatch.setattr(_documents, name, recording(getattr(_documents, name)))
    return found


def make_inputs(q: int, k: int, dtype: Any = torch.float32, batch: int = 2) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(batch, NUM_HEADS, length, 64) for length in (q, k, k)] + [(32, NUM_HEADS)]
    query, key, value, weight = (torch.randn(*shape, generator=generator) for shape in shapes)
    return query.to(dtype), key.to(dtype), value.to(dtype), weight.to(dtype)


def lengths_to_ids(*lengths: int) -> Any:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def attend(inputs: tuple[Any, ...], **options: Any) -> Any:
    return scaled_dot_product_attention(*inputs, buckets=BUCKETS, exact=False, **options)


def expect(inputs: tuple[Any, ...], query_ids: Any, key_ids: Any, **options: Any) -> Any:
    """Attend with the matrix in float64."""
    query, key, value, weight = (tensor.double() for tensor in inputs)
    lengths = (query.shape[2], key.shape[2])
    is_same = (query_ids[..., :, None] == key_ids[..., None, :]).reshape(-1, 1, *lengths)
    bias = compute_bias(weight, *lengths, buckets=BUCKETS, mask=is_same, **options)
    return by_pytorch(query, key, value, attn_mask=bias)


ONE = lengths_to_ids(70, 5, 200, 125)
TWO = torch.stack([ONE, lengths_to_ids(100, 100, 100, 100)])
CASES: dict[str, tuple[Any, Any, list[tuple[int, ...]]]] = {
    "shared": (ONE, ONE, [(2, 70, 70), (2, 5, 5), (2, 200, 200), (2, 125, 125)]),
    "each example": (
        TWO,
        TWO,
        [(1, n, n) for n in (70, 5, 200, 125, 100, 100, 100, 100)],
    ),
    "one example goes in strips": (
        TWO,
        torch.stack([ONE, ONE.flip(0).roll(7)]),
        [(1, n, n) for n in (70, 5, 200, 125)],
    ),
    "other keys": (
        ONE[:275],
        lengths_to_ids(9, 300, 91),
        [(2, 70, 9), (2, 5, 300), (2, 200, 91)],
    ),
    "a document twice": (
        torch.tensor([3, 8, 3]).repeat_interleave(100),
        torch.tensor([8, 3]).repeat_interleave(50),
        [(2, 100, 50)] * 3,
    ),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("query_ids", "key_ids", "expected"), CASES.values(), ids=CASES)
def test_documents_are_computed_one_by_one(
    query_ids: Any, key_ids: Any, expected: Any, dtype: Any, sizes: list[tuple[int, ...]]
) -> None:
    inputs = make_inputs(query_ids.shape[-1], key_ids.shape[-1], dtype)
    found = attend(inputs, segment_ids=query_ids, key_segment_ids=key_ids)
    assert sizes == expected
    difference = (found.double() - expect(inputs, query_ids, key_ids)).abs().max()
    assert difference <= TOLERANCE[dtype]


@pytest.mark.parametrize("offset", [0, 30, -(2**63), 2**63 - 1])
def test_causal_documents_keep_their_positions(offset: int, sizes: list[tuple[int, ...]]) -> None:
    inputs = make_inputs(400, 400)
    options = {"query_offset": offset, "key_offset": offset - (offset > 0)}
    found = attend(inputs, segment_ids=ONE, is_causal=True, **options)
    assert len(sizes) == 4
    expected = expect(inputs, ONE, ONE, causal=True, **options)
    assert (found.double() - expected).abs().max() <= TOLERANCE[torch.float32]


def test_documents_do_not_read_each_other() -> None:
    query, key, value, weight = make_inputs(400, 400)
    value[:, :, 70:] = torch.inf
    assert attend((query, key, value, weight), segment_ids=ONE)[:, :, :70].isfinite().all()


SPLIT = torch.tensor([1, 2, 1]).repeat_interleave(100)
OTHERS: dict[str, dict[str, Any]] = {
    "keys in two places": {"segment_ids": SPLIT},
    "queries without keys": {"segment_ids": SPLIT, "key_segment_ids": torch.ones_like(SPLIT)},
    "queries before their keys": {
        "segment_ids": torch.arange(300) // 100,
        "is_causal": True,
        "key_offset": 1,
    },
    "a mask, too": {"segment_ids": torch.arange(300) // 100, "attn_mask": torch.ones(300, 1)},
    "one document": {"segment_ids": torch.ones_like(SPLIT)},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_what_documents_cannot_do_goes_in_strips(
    options: dict[str, Any], sizes: list[tuple[int, ...]]
) -> None:
    inputs = make_inputs(300, 300)
    found = attend(inputs, **options)
    assert not sizes
    expected = scaled_dot_product_attention(*inputs, buckets=BUCKETS, **options)
    assert torch.equal(found, expected)


def test_exact_attention_computes_no_documents(sizes: list[tuple[int, ...]]) -> None:
    scaled_dot_product_attention(*make_inputs(400, 400), buckets=BUCKETS, segment_ids=ONE)
    assert not sizes


def test_short_documents_go_in_strips(
    sizes: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_documents, "PIECE_COST", PIECE_COST)
    inputs = make_inputs(1024, 1024)
    ids = torch.arange(1024)
    attend(inputs, segment_ids=ids // 8)
    assert not sizes
    attend(inputs, segment_ids=ids // 256)
    assert len(sizes) == 4


def test_a_mask_that_shows_all_keys_is_no_mask(sizes: list[tuple[int, ...]]) -> None:
    inputs = make_inputs(400, 400)
    mask = torch.ones(2, 1, 1, 400, dtype=torch.bool)
    found = attend(inputs, segment_ids=ONE, attn_mask=mask)
    assert len(sizes) == 4
    assert torch.equal(found, attend(inputs, segment_ids=ONE))


@pytest.mark.parametrize("exact", [True, False])
def test_positions_at_the_ends_of_their_type_do_not_overflow(exact: bool) -> None:
    query, key, value, weight = make_inputs(400, 400)
    inputs = {"query": query, "key": key, "value": value, "weight": weight}
    for ids in (None, ONE):
        options: dict[str, Any] = {"segment_ids": ids, "buckets": BUCKETS, "exact": exact}
        near = scaled_dot_product_attention(**inputs, **options)
        last: dict[str, Any] = {"query_offset": 2**63 - 1, "key_offset": 2**63 - 1}
        assert torch.equal(scaled_dot_product_attention(**inputs, **options, **last), near)
        far: dict[str, Any] = {"query_offset": -(2**63), "key_offset": 2**63 - 1}
        expected = scaled_dot_product_attention(**inputs, **options, key_offset=2**40)
        assert torch.equal(scaled_dot_product_attention(**inputs, **options, **far), expected)
