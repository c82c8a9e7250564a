# test_attention.py - attention without the matrix: its bits are those with the matrix.
# SPDX-License-Identifier: BSD-3-Clause
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import t5bucket as tb

torch: Any = pytest.importorskip("torch")

from t5bucket.torch import (  # noqa: E402
    _attend,
    _kernels,
    _known,
    _strips,
    compute_bias,
    compute_bias_at,
    scaled_dot_product_attention,
)

by_pytorch: Any = torch.nn.functional.scaled_dot_product_attention
BUCKETS = tb.Buckets()
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Around the sizes of the kernel's tiles of queries and blocks of keys.
LENGTHS = [31, 32, 33, 63, 191, 192, 193, 511, 512, 513, 767, 768, 1025]
BATCH, NUM_HEADS, SIZE = 2, 2, 64


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices go the way of large ones."""
    monkeypatch.setattr(_attend, "SMALL_NBYTES", 0)


@pytest.fixture
def no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail if the matrix is used."""

    def fail(*_: Any) -> None:
        raise AssertionError("the matrix is used")

    monkeypatch.setattr(_attend, "attend_by_matrix", fail)


def random(seed: int = 0) -> Any:
    return torch.Generator().manual_seed(seed)


def make_inputs(
    q: int,
    k: int,
    dtype: Any = torch.float32,
    batch: int = BATCH,
    size: int = SIZE,
    seed: int = 0,
    num_heads: int = NUM_HEADS,
) -> tuple[Any, ...]:
    """Make query, key, value and weight; the former as layers give them, heads after rows."""
    generator = random(seed)
    query, key, value = (
        torch.randn(batch, length, num_heads, size, generator=generator).to(dtype).transpose(1, 2)
        for length in (q, k, k)
    )
    return query, key, value, torch.randn(32, num_heads, generator=generator).to(dtype)


def minimum(dtype: Any) -> float:
    return float(torch.finfo(dtype).min)


def right_padding(k: int) -> Any:
    """Make a boolean mask of keys: all are attended to, and a third."""
    return (torch.arange(k) < torch.tensor([[k], [max(1, k // 3)]]))[:, None, None]


def added(mask: Any, dtype: Any, masked: float | None = None) -> Any:
    value = minimum(dtype) if masked is None else masked
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, value)


def segments(length: int) -> Any:
    return torch.arange(length).div(40, rounding_mode="floor").expand(BATCH, -1)


# Each case: the arguments of ours, and the matrix by the function that computes it.
Case = tuple[dict[str, Any], Callable[[Any], Any]]


def masked(q: int, k: int, mask: Any, **options: Any) -> Case:
    def compute(weight: Any) -> Any:
        named = {**options, "causal": options.get("is_causal", False)}
        named.pop("is_causal", None)
        return compute_bias(weight, q, k, buckets=BUCKETS, mask=mask, **named)

    return {"attn_mask": mask, **options}, compute


def packed(q: int, k: int) -> Case:
    ids, key_ids = segments(q), segments(k)
    is_same = (ids[..., :, None] == key_ids[..., None, :])[:, None]
    _, compute = masked(q, k, is_same)
    return {"segment_ids": ids, "key_segment_ids": key_ids}, compute


def explicit(q: int, k: int) -> Case:
    query = torch.randint(-300, 300, (BATCH, q), generator=random())
    key = torch.randint(0, 300, (BATCH, k), generator=random()).to(torch.int32)

    def compute(weight: Any) -> Any:
        return compute_bias_at(weight, query, key, buckets=BUCKETS, causal=True)

    return {"query_positions": query, "key_positions": key, "is_causal": True}, compute


def any_pairs(k: int, *shape: int) -> Any:
    return torch.rand(*shape, k, generator=random()) < 0.6


CASES: dict[str, Callable[[int, int, Any], Case]] = {
    "no mask": lambda q, k, dtype: masked(q, k, None),
    "causal": lambda q, k, dtype: masked(q, k, None, is_causal=True, query_offset=3, key_offset=1),
    "cache": lambda q, k, dtype: masked(q, k, None, is_causal=True, query_offset=max(0, k - q)),
    "padding": lambda q, k, dtype: masked(q, k, right_padding(k)),
    "left padding": lambda q, k, dtype: masked(q, k, right_padding(k).flip(-1)),
    "padding of all pairs": lambda q, k, dtype: masked(
        q, k, right_padding(k).expand(-1, -1, q, -1).contiguous()
    ),
    "holes": lambda q, k, dtype: masked(q, k, any_pairs(k, BATCH, 1, 1)),
    "causal padding": lambda q, k, dtype: masked(q, k, right_padding(k), is_causal=True),
    "causal left padding": lambda q, k, dtype: masked(
        q, k, right_padding(k).flip(-1), is_causal=True
    ),
    "added padding": lambda q, k, dtype: masked(q, k, added(right_padding(k), dtype)),
    "added infinity": lambda q, k, dtype: masked(q, k, added(right_padding(k), dtype, -torch.inf)),
    "added little": lambda q, k, dtype: masked(q, k, added(right_padding(k), dtype, -3.0)),
    "all padded": lambda q, k, dtype: masked(
        q, k, right_padding(k) & (torch.arange(2) > 0)[:, None, None, None]
    ),
    "pairs": lambda q, k, dtype: masked(q, k, any_pairs(k, BATCH, 1, q)),
    "heads": lambda q, k, dtype: masked(q, k, any_pairs(k, NUM_HEADS, 1)),
    "added pairs": lambda q, k, dtype: masked(
        q, k, torch.randn(BATCH, NUM_HEADS, q, k, generator=random()).to(dtype)
    ),
    "segments": lambda q, k, dtype: packed(q, k),
    "explicit positions": lambda q, k, dtype: explicit(q, k),
}


def check(case: Case, inputs: tuple[Any, ...], scale: float | None = None) -> None:
    """Compare with PyTorch's function and the matrix, bit for bit; NaN is NaN."""
    options, compute = case
    query, key, value, weight = inputs
    with torch.no_grad():
        expected = by_pytorch(query, key, value, attn_mask=compute(weight), scale=scale)
        found = scaled_dot_product_attention(*inputs, buckets=BUCKETS, scale=scale, **options)
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("q", "k"), [(97, 514), (193, 193), (801, 70)])
def test_bits_are_those_with_the_matrix(
    case: str, dtype: Any, q: int, k: int, request: pytest.FixtureRequest
) -> None:
    if not _known.has_second_way(dtype):
        request.getfixturevalue("no_matrix")
    check(CASES[case](q, k, dtype), make_inputs(q, k, dtype))


@pytest.mark.parametrize("case", ["no mask", "causal", "padding", "pairs"])
@pytest.mark.parametrize("q", LENGTHS)
def test_bits_are_equal_around_the_sizes_of_tiles(case: str, q: int) -> None:
    for k in (q, 513):
        check(CASES[case](q, k, torch.float32), make_inputs(q, k))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", LENGTHS)
def test_bits_are_equal_around_the_sizes_of_tiles_in_all_cases(
    case: str, dtype: Any, q: int
) -> None:
    for k in (q, 33, 513):
        check(CASES[case](q, k, dtype), make_inputs(q, k, dtype))


@given(
    case=st.sampled_from(list(CASES)),
    dtype=st.sampled_from(DTYPES),
    q=st.integers(1, 330),
    k=st.integers(1, 600),
    size=st.sampled_from([1, 2, 7, 8, 16, 33, 40, 64, 80, 128]),
    scale=st.sampled_from([None, 1.0, 0.125, 0.0, -1.0]),
    seed=st.integers(0, 9),
)
@settings(deadline=None)  # the first case of a head size tries its kernels
def test_bits_are_equal_for_any_lengths(
    case: str, dtype: Any, q: int, k: int, size: int, scale: float | None, seed: int
) -> None:
    check(CASES[case](q, k, dtype), make_inputs(q, k, dtype, size=size, seed=seed), scale)


def test_strips_smaller_than_a_head_have_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_strips, "MAX_NBYTES", 64 * 300 * 4)
    for case in ("pairs", "segments", "explicit positions"):
        check(CASES[case](515, 300, torch.float32), make_inputs(515, 300))


@pytest.mark.parametrize("case", ["pairs", "heads", "segments", "explicit positions"])
def test_strips_of_some_heads_have_the_same_bits(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_strips, "MAX_NBYTES", 2 * 130 * 300 * 4)  # two heads, then three
    mask = any_pairs(300, 5, 130)
    checked = masked(130, 300, mask) if case == "heads" else CASES[case](130, 300, torch.float32)
    check(checked, make_inputs(130, 300, num_heads=5))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda tensor: tensor.contiguous(),
    "transposed": lambda tensor: tensor.transpose(1, 2).contiguous().transpose(1, 2),
    "expanded": lambda tensor: tensor[:1].expand(3, -1, -1, -1),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=-1)[..., :SIZE],
    "strided": lambda tensor: torch.cat([tensor, tensor], dim=-1)[..., ::2],
    "without a batch of keys": lambda tensor: tensor,
}


@pytest.mark.parametrize("case", ["no mask", "padding", "pairs"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bits_are_equal_in_any_layout(layout: str, case: str) -> None:
    *tensors, weight = make_inputs(130, 140)
    query, key, value = (LAYOUTS[layout](tensor) for tensor in tensors)
    if layout == "without a batch of keys":
        key, value = key[:1], value[:1]
    options, compute = CASES[case](130, 140, torch.float32)
    if case == "padding" and layout == "expanded":
        options, compute = masked(130, 140, right_padding(140)[1:])
    if case == "pairs" and layout == "expanded":
        options, compute = masked(130, 140, any_pairs(140, 130))
    expected = by_pytorch(query, key, value, attn_mask=compute(weight))
    found = scaled_dot_product_attention(query, key, value, weight, buckets=BUCKETS, **options)
    assert torch.equal(found, expected)


def test_batches_can_have_any_number_of_axes() -> None:
    query, key, value, weight = make_inputs(130, 140, batch=6)
    several: Any = [tensor.unflatten(0, (2, 3)) for tensor in (query, key, value)]
    mask = right_padding(140)[:, None]  # of the first axis of the batch
    bias = compute_bias(weight, 130, 140, buckets=BUCKETS, mask=mask)
    found = scaled_dot_product_attention(
        several[0], several[1], several[2], weight, buckets=BUCKETS, attn_mask=mask
    )
    assert torch.equal(found, by_pytorch(*several, attn_mask=bias))
    alone = scaled_dot_product_attention(query[0], key[0], value[0], weight, buckets=BUCKETS)
    one = scaled_dot_product_attention(query[:1], key[:1], value[:1], weight, buckets=BUCKETS)
    assert torch.equal(alone, one[0])


@pytest.mark.parametrize("options", [{}, {"dropout_p": 1e-9}], ids=str)
@pytest.mark.parametrize("own", [(), (1,), (3,)], ids=str)
def test_values_and_masks_can_have_batch_axes_that_queries_have_not(own: Any, options: Any) -> None:
    query, key, value, weight = make_inputs(40, 50, batch=1)
    query, key = (tensor[0].expand(*own, *tensor.shape[1:]) for tensor in (query, key))
    value = torch.randn(2, 3, *value.shape[1:])
    for of_mask in ((), (1,), (3,), (2, 3)):
        mask = torch.randn(*of_mask, 1, 40, 50)
        named: Any = {"buckets": BUCKETS, "attn_mask": mask, **options}
        found = scaled_dot_product_attention(query, key, value, weight, **named)
        scores = query @ key.mT / SIZE**0.5 + compute_bias(weight, 40, 50, buckets=BUCKETS)[0]
        torch.testing.assert_close(found, (scores + mask).softmax(-1) @ value)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [2, 8, 64])
def test_keys_can_be_those_of_all_examples(size: int, dtype: Any) -> None:
    query, key, value, weight = make_inputs(192, 210, dtype, batch=3, size=size)
    check(CASES["no mask"](192, 210, dtype), (query, key[:1], value[:1], weight))
    check(CASES["pairs"](192, 210, dtype), (query[:2], key[:1], value[:1], weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_small_heads_have_the_same_bits(dtype: Any) -> None:
    for size in (2, 8, 16):
        for seed in range(3):
            inputs = make_inputs(300, 300, dtype, size=size, seed=seed)
            check(CASES["padding"](300, 300, dtype), inputs, scale=1.0)


def test_offsets_can_be_small_integers_of_numpy() -> None:
    inputs = make_inputs(130, 300)
    options: Any = {"query_offset": np.int8(3), "key_offset": np.uint8(0)}
    found = scaled_dot_product_attention(*inputs, buckets=BUCKETS, **options)
    expected = scaled_dot_product_attention(*inputs, buckets=BUCKETS, query_offset=3)
    assert torch.equal(found, expected)


def test_the_default_device_has_no_effect() -> None:
    _known.are_diagonals_known.cache_clear()
    inputs = make_inputs(130, 140)
    expected = scaled_dot_product_attention(*inputs, buckets=BUCKETS)
    _known.are_diagonals_known.cache_clear()
    with torch.device("meta"):
        found = scaled_dot_product_attention(*inputs, buckets=BUCKETS)
        assert _known.are_diagonals_known(torch.float32, SIZE, _known.LENGTHS)
    assert torch.equal(found, expected)


def test_values_can_have_another_size_than_keys() -> None:
    query, key, value, weight = make_inputs(130, 140)
    check(CASES["no mask"](130, 140, torch.float32), (query, key, value[..., :24], weight))
    check(CASES["pairs"](130, 140, torch.float32), (query, key, value[..., :24], weight))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 700)])
def test_no_length_is_special(shape: tuple[int, int]) -> None:
    for case in ("no mask", "causal", "padding"):
        check(CASES[case](*shape, torch.float32), make_inputs(*shape))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e19])
@pytest.mark.parametrize("which", ["query", "key", "value", "weight"])
@pytest.mark.parametrize("case", ["no mask", "padding", "left padding", "pairs"])
def test_values_that_are_not_finite_give_what_pytorch_gives(
    value: float, which: str, case: str
) -> None:
    inputs = make_inputs(130, 140)
    tensor = inputs[("query", "key", "value", "weight").index(which)]
    tensor[..., 3, 1] = value
    check(CASES[case](130, 140, torch.float32), inputs)


def test_the_chosen_kernel_of_pytorch_is_respected() -> None:
    inputs = make_inputs(130, 140)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, compute = CASES["no mask"](130, 140, torch.float32)
        found = scaled_dot_product_attention(*inputs, buckets=BUCKETS)
        assert torch.equal(found, by_pytorch(*inputs[:3], attn_mask=compute(inputs[3])))


# ---- exact=False ----


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_inexact_results_are_equal_up_to_rounding(case: str, dtype: Any) -> None:
    inputs: Any = make_inputs(201, 300, dtype)
    options, compute = CASES[case](201, 300, dtype)
    expected = by_pytorch(*inputs[:3], attn_mask=compute(inputs[3]))
    found = scaled_dot_product_attention(*inputs, buckets=BUCKETS, exact=False, **options)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def test_padded_keys_are_cut_off_if_bits_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def attend(query: Any, key: Any, *arguments: Any, **options: Any) -> Any:
        lengths.append(key.shape[2])
        return by_pytorch(query, key, *arguments, **options)

    monkeypatch.setattr(_attend, "scaled_dot_product_attention", attend)
    inputs: Any = make_inputs(201, 300)
    mask = right_padding(300)
    scaled_dot_product_attention(*inputs, buckets=BUCKETS, attn_mask=mask, exact=False)
    assert lengths == [300, 100]


# ---- which kernels are known ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_this_pytorch_gives_equal_bits(dtype: Any) -> None:
    for q in (512, 513):
        lengths = _known.choose_lengths(dtype, q)
        assert (lengths is None) == (q == 513 and _known.has_second_way(dtype))
        assert _known.are_diagonals_known(dtype, SIZE, lengths) == (lengths is not None)
        if not _known.has_second_way(dtype):
            assert _known.count_features(dtype, SIZE, lengths)
    for is_shared in (True, False):
        is_known = _known.are_strips_known(dtype, SIZE, by_pytorch, is_shared)
        assert is_known != _known.has_second_way(dtype)


@pytest.fixture
def other_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let PyTorch have a flash kernel whose bits depend on the place of a row."""
    flash = _known._flash

    def attend(query: Any, *arguments: Any) -> Any:
        place = torch.arange(query.shape[2])[:, None] % 3
        return tuple(tensor + place * 1e-3 for tensor in flash(query, *arguments)[:1]) * 2

    monkeypatch.setattr(_known, "_flash", attend)
    names = ("are_diagonals_known", "are_strips_known", "are_blocks_known", "count_features")
    caches = [getattr(_known, name) for name in names]
    for function in caches:
        function.cache_clear()
    yield
    for function in caches:
        function.cache_clear()


@pytest.mark.parametrize("case", ["no mask", "padding", "pairs"])
def test_another_kernel_gets_the_matrix_and_a_message_says_so(
    case: str, other_kernel: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    def attend(*arguments: Any) -> Any:
        calls.append(arguments)
        return _kernels.attend_by_matrix(*arguments)

    monkeypatch.setattr(_attend, "attend_by_matrix", attend)
    with caplog.at_level(logging.DEBUG, "t5bucket.torch"):
        check(CASES[case](130, 140, torch.float32), make_inputs(130, 140))
    assert calls
    assert "attention takes the matrix, not strips" in caplog.text


# ---- bad input ----

BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "list": ({"query": [1.0]}, TypeError, "query must be a tensor, got list"),
    "integers": (
        {"key": torch.zeros(1, 2, 5, 8, dtype=torch.int64)},
        TypeError,
        "key must be float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "other dtype": (
        {"value": torch.zeros(1, 2, 5, 8, dtype=torch.float64)},
        TypeError,
        "value must have weight's dtype torch.float32, got torch.float64",
    ),
    "device": (
        {"query": torch.zeros(1, 2, 4, 8, device="meta")},
        ValueError,
        "query must be on the CPU, got device meta",
    ),
    "heads": (
        {"key": torch.zeros(1, 3, 5, 8)},
        ValueError,
        "key must have shape (..., 2, length, size), got (1, 3, 5, 8)",
    ),
    "axes": (
        {"query": torch.zeros(4, 8)},
        ValueError,
        "query must have shape (..., 2, length, size), got (4, 8)",
    ),
    "size": (
        {"key": torch.zeros(1, 2, 5, 9)},
        ValueError,
        "key must have query's size, 8, got shape (1, 2, 5, 9)",
    ),
    "length": (
        {"value": torch.zeros(1, 2, 6, 8)},
        ValueError,
        "value must have key's length, 5, got shape (1, 2, 6, 8)",
    ),
    "batch": (
        {"query": torch.zeros(2, 2, 4, 8), "key": torch.zeros(3, 2, 5, 8)},
        ValueError,
        "query, key and value must broadcast on their batch axes, got (2,), (3,), (1,)",
    ),
    "rows": (
        {"weight": torch.zeros(31, 2)},
        ValueError,
        "weight must have one row for each of the 32 buckets, got 31 rows",
    ),
    "mask": (
        {"attn_mask": torch.ones(7, dtype=torch.bool)},
        ValueError,
        "attn_mask must broadcast to (1, 2, 4, 5), got shape (7,)",
    ),
    "batch of masks": (
        {"attn_mask": torch.ones(3, 1, 1, 5, dtype=torch.bool)},
        ValueError,
        "attn_mask must broadcast to (1, 2, 4, 5), got shape (3, 1, 1, 5)",
    ),
    "kind of mask": (
        {"attn_mask": torch.ones(5, dtype=torch.int64)},
        TypeError,
        "attn_mask must be boolean or floating-point, got torch.int64",
    ),
    "mask with a gradient": (
        {"attn_mask": torch.ones(5, requires_grad=True)},
        ValueError,
        "attn_mask must not require a gradient, got one that does",
    ),
    "dropout": ({"dropout_p": 2}, ValueError, "dropout_p must be between 0 and 1, got 2"),
    "causal": ({"is_causal": 1}, TypeError, "is_causal must be True or False, got 1"),
    "exact": ({"exact": None}, TypeError, "exact must be True or False, got None"),
    "scale": ({"scale": "1"}, TypeError, "scale must be a real number, got '1'"),
    "offset": ({"query_offset": 1.5}, TypeError, "query_offset must be an integer, got 1.5"),
    "buckets": ({"buckets": 32}, TypeError, "buckets must be a Buckets, got int"),
    "positions": (
        {"query_positions": torch.zeros(4, dtype=torch.int64)},
        ValueError,
        "query_positions must have shape (..., 5), got (4,)",
    ),
    "positions of keys alone": (
        {"key_positions": torch.zeros(5, dtype=torch.int64)},
        ValueError,
        "query_positions must come with key_positions, got None",
    ),
    "positions and an offset": (
        {
            "query_positions": torch.zeros(4, dtype=torch.int64),
            "key_positions": torch.zeros(5, dtype=torch.int64),
            "key_offset": 3,
        },
        ValueError,
        "key_offset must be 0 with explicit positions, got 3",
    ),
    "segments and positions": (
        {
            "query_positions": torch.zeros(4, dtype=torch.int64),
            "key_positions": torch.zeros(5, dtype=torch.int64),
            "segment_ids": torch.zeros(4, dtype=torch.int64),
        },
        ValueError,
        "segment_ids must not come with explicit positions, got both",
    ),
    "segments of keys alone": (
        {"key_segment_ids": torch.zeros(5, dtype=torch.int64)},
        ValueError,
        "segment_ids must come with key_segment_ids, got None",
    ),
    "floating-point segments": (
        {"segment_ids": torch.zeros(4), "key_segment_ids": torch.zeros(5)},
        TypeError,
        "segment_ids must be integers, got torch.float32",
    ),
    "batch of segments": (
        {
            "segment_ids": torch.zeros(2, 4, dtype=torch.int64),
            "key_segment_ids": torch.zeros(5, dtype=torch.int64),
        },
        ValueError,
        "segment_ids must broadcast to (1, 4), got shape (2, 4)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name: str) -> None:
    changed, error, message = BAD[name]
    arguments = {
        "query": torch.zeros(1, 2, 4, 8),
        "key": torch.zeros(1, 2, 5, 8),
        "value": torch.zeros(1, 2, 5, 8),
        "weight": torch.zeros(32, 2),
        "buckets": BUCKETS,
        **changed,
    }
    with pytest.raises(error, match="^" + re.escape(message) + "$"):
        scaled_dot_product_attention(**arguments)
