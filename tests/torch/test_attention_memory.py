# test_attention_memory.py - attention never allocates its matrix, and training neither.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import peak
import pytest

import t5bucket as tb

torch: Any = pytest.importorskip("torch")
from t5bucket.torch import scaled_dot_product_attention  # noqa: E402

LENGTH, NUM_HEADS, SIZE = 2048, 8, 16
MATRIX_NBYTES = NUM_HEADS * LENGTH * LENGTH * 4  # 128 MiB
POSITIONS = torch.randint(0, 3000, (1, LENGTH), generator=torch.Generator().manual_seed(0))
VISIBLE = torch.arange(LENGTH) < LENGTH - 300
CASES: dict[str, dict[str, Any]] = {
    "no mask": {},
    "causal": {"is_causal": True},
    "padding": {"attn_mask": VISIBLE[None, None, None]},
    "pairs": {"attn_mask": VISIBLE[:, None] | VISIBLE.flip(0)},
    "segments": {"segment_ids": torch.arange(LENGTH) // 300},
    "explicit positions": {"query_positions": POSITIONS},
}

pytestmark = pytest.mark.skipif(not peak.RESET.exists(), reason="Linux tells the peak of memory")


def make_inputs(requires_grad: bool) -> list[Any]:
    shapes = [(1, NUM_HEADS, LENGTH, SIZE)] * 3 + [(32, NUM_HEADS)]
    return [torch.randn(shape, requires_grad=requires_grad) for shape in shapes]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("exact", [True, False])
def test_attention_allocates_no_matrix(case: str, exact: bool) -> None:
    query, key, value, weight = make_inputs(False)

    def attend() -> None:
        scaled_dot_product_attention(
            query, key, value, weight, buckets=tb.Buckets(), exact=exact, **CASES[case]
        )

    attend()
    assert peak.growth(attend) < MATRIX_NBYTES / 4


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case in ("causal", "pairs") else [])
        for case in CASES
    ],
)
def test_training_allocates_no_matrix(case: str) -> None:
    query, key, value, weight = make_inputs(True)

    def train() -> None:
        attended = scaled_dot_product_attention(
            query, key, value, weight, buckets=tb.Buckets(), **CASES[case]
        )
        attended.sum().backward()

    train()
    assert peak.growth(train) < MATRIX_NBYTES / 2


def test_training_allocates_no_array_for_all_examples() -> None:
    batch, length = 32, 300
    query, key, value = torch.randn(3, batch, NUM_HEADS, length, SIZE)
    weight = torch.randn(32, NUM_HEADS, requires_grad=True)

    def attend() -> None:
        scaled_dot_product_attention(query, key, value, weight, buckets=tb.Buckets())

    attend()
    assert peak.growth(attend) < batch * NUM_HEADS * length * length * 4 / 2
