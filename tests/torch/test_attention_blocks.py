# test_attention_blocks.py - attention without blocks of hidden keys has the same bits.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")

from t5bucket.torch import (  # noqa: E402
    _attend,
    _blocks,
    _kernels,
    _known,
    compute_bias,
    scaled_dot_product_attention,
)

by_pytorch: Any = torch.nn.functional.scaled_dot_product_attention
BUCKETS = tb.Buckets()
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
CUT_DTYPES = [dtype for dtype in DTYPES if not _known.has_second_way(dtype)]
NUM_HEADS, SIZE = 2, 64


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat small matrices as large ones."""
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Record the numbers of examples, queries and keys in each call of the kernel."""
    found: list[tuple[int, ...]] = []
    attend = _kernels.attend_by_diagonals

    def record(inputs: Any, *arguments: Any) -> Any:
        found.append((len(inputs.query), inputs.query.shape[2], inputs.key.shape[2]))
        return attend(inputs, *arguments)

    monkeypatch.setattr(_blocks, "attend_by_diagonals", record)
    return found


def make_inputs(q: int, k: int, dtype: Any = torch.float32, batch: int = 3) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(batch, length, NUM_HEADS, SIZE, generator=generator).to(dtype).transpose(1, 2)
        for length in (q, k, k)
    )
    return query, key, value, torch.randn(32, NUM_HEADS, generator=generator).to(dtype)


def right_padding(k: int, *lengths: int) -> Any:
    return (torch.arange(k) < torch.tensor(lengths)[:, None])[:, None, None]


def check(inputs: tuple[Any, ...], mask: Any = None, **options: Any) -> None:
    """Compare with PyTorch's attention with the matrix, bit for bit."""
    query, key, value, weight = inputs
    named = {**options, "causal": options.get("is_causal", False)}
    named.pop("is_causal", None)
    bias = compute_bias(weight, query.shape[2], key.shape[2], buckets=BUCKETS, mask=mask, **named)
    expected = by_pytorch(query, key, value, attn_mask=bias)
    found = scaled_dot_product_attention(
        query, key, value, weight, buckets=BUCKETS, attn_mask=mask, **options
    )
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("dtype", CUT_DTYPES)
def test_padding_of_whole_blocks_is_cut_off_example_by_example(
    dtype: Any, lengths: list[tuple[int, ...]]
) -> None:
    inputs = make_inputs(300, 1601, dtype)
    mask = right_padding(1601, 1, 513, 1601)
    scaled_dot_product_attention(*inputs, buckets=BUCKETS)  # try PyTorch's kernel first
    lengths.clear()
    check(inputs, mask)
    assert lengths == [(1, 300, 512), (1, 300, 1024), (1, 300, 1601)]
    lengths.clear()
    check(inputs, mask.flip(-1))
    assert lengths == [(1, 300, 65), (1, 300, 577), (1, 300, 1601)]


@pytest.mark.parametrize("hole", [slice(0, 600), slice(40, 1100), slice(512, 1601)])
def test_any_padding_has_the_same_bits(hole: slice, lengths: list[tuple[int, ...]]) -> None:
    mask = torch.zeros(3, 1, 1, 1601)
    mask[1:, ..., hole] = torch.finfo(torch.float32).min
    check(make_inputs(300, 1601), mask)
    check(make_inputs(300, 1601), mask == 0, is_causal=True, query_offset=700)


def test_padding_of_a_batch_that_is_everywhere_the_same_is_cut_off_at_once(
    lengths: list[tuple[int, ...]],
) -> None:
    check(make_inputs(300, 1601), right_padding(1601, 512, 512, 512))
    assert lengths[-1] == (3, 300, 512)
    check(make_inputs(300, 1601), right_padding(1601, 700))
    assert lengths[-1] == (3, 300, 1024)


@pytest.mark.parametrize("dtype", CUT_DTYPES)
def test_the_future_is_cut_off_in_causal_order(dtype: Any, lengths: list[tuple[int, ...]]) -> None:
    rows, q = _blocks.ROWS, 2 * _blocks.ROWS + 70
    inputs = make_inputs(q, q, dtype, batch=1)
    check(inputs, is_causal=True)
    assert lengths[-2:] == [(1, rows, 1024), (1, q - rows, q)]


@pytest.mark.parametrize(
    "offsets", [(0, 0), (10, 0), (511, 0), (512, 0), (513, 5), (0, 3), (9999, 0)]
)
def test_causal_order_counts_offsets(
    offsets: tuple[int, int], lengths: list[tuple[int, ...]]
) -> None:
    query_offset, key_offset = offsets
    inputs = make_inputs(100, 1100)
    check(inputs, is_causal=True, query_offset=query_offset, key_offset=key_offset)
    last = query_offset + 100 - key_offset  # the keys that the last query sees
    seen = 1100 if query_offset < key_offset else min(1100, -(-last // 512) * 512)
    assert lengths[-1] == (3, 100, seen)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_hidden_keys_that_are_not_finite_give_the_result_of_pytorch(
    which: int, value: float
) -> None:
    inputs = make_inputs(100, 1100)
    inputs[which][0, 0, -1, 0] = value
    check(inputs, is_causal=True)
    check(inputs, right_padding(1100, 400))


def test_a_query_without_keys_gives_the_result_of_pytorch() -> None:
    inputs = make_inputs(100, 1100)
    check(inputs, right_padding(1100, 0, 400, 1100))
    check(inputs, is_causal=True, key_offset=40)
    check(inputs, right_padding(1100, 500).flip(-1), is_causal=True, query_offset=540)


@pytest.mark.parametrize("dtype", DTYPES)
def test_this_pytorch_leaves_the_bits_alone(dtype: Any) -> None:
    lengths = _known.choose_lengths(dtype, 512)
    assert _known.are_blocks_known(dtype, SIZE, lengths) != _known.has_second_way(dtype)
