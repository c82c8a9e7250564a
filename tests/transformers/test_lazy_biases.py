# test_lazy_biases.py - a bias without its matrix has the matrix's values whenever it is read.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
import training  # noqa: E402
from outputs import assert_same_bits, gradients_of, run  # noqa: E402

import t5bucket as tb  # noqa: E402
from t5bucket.torch import compute_bias, scaled_dot_product_attention  # noqa: E402
from t5bucket.transformers import _lazy, _t5, accelerate, accelerated  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
    pytest.mark.usefixtures("one_thread"),
]

BUCKETS = tb.Buckets()
HEADS, LENGTH = 4, 37


def make_pair(requires_grad: bool = False) -> tuple[Any, Any, Any]:
    """Make a bias, its matrix, and their weight."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(32, HEADS, generator=generator, requires_grad=requires_grad)
    lazy = _lazy.make_lazily(weight, LENGTH, LENGTH, BUCKETS, 0, exact=True)
    return lazy, compute_bias(weight, LENGTH, LENGTH, buckets=BUCKETS), weight


def save(tensor: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    buffer.seek(0)
    return torch.load(buffer)


LOOKS: list[Callable[[Any], Any]] = [
    lambda x: x + 1,
    lambda x: 1 - x,
    lambda x: x.sum(),
    lambda x: torch.where(x > 0, x, 0.0),
    lambda x: torch.cat([x, x]),
    lambda x: torch.stack([x[0], x[0]]),
    lambda x: x[:, 1, 3:, -1],
    lambda x: x.permute(0, 2, 3, 1).contiguous(),
    lambda x: x.contiguous(memory_format=torch.channels_last),
    lambda x: x.to(torch.float64),
    lambda x: x.to("cpu"),
    lambda x: x.view(-1),
    lambda x: x.unbind(1),
    lambda x: x.clone(),
    lambda x: x.detach(),
    lambda x: x.data,
    lambda x: torch.equal(x, x.clone()),
    lambda x: x.softmax(-1) @ torch.ones(LENGTH, 2),
    lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x, attn_mask=x),
    lambda x: torch.from_numpy(np.array(x.detach())),
    lambda x: torch.from_numpy(x.detach().numpy()),
    lambda x: torch.tensor(x.tolist()),
    lambda x: x.mul_(2),
    lambda x: x.detach().zero_(),
    lambda x: torch.add(x.detach(), 1, out=x.detach()),
    lambda x: repr(x.detach()),
    lambda x: f"{x.sum():.3f}",
    lambda x: copy.copy(x.detach()),
    lambda x: copy.deepcopy(x.detach()),
    lambda x: pickle.loads(pickle.dumps(x.detach())),
    lambda x: save(x.detach()),
    lambda x: (x.shape, x.dtype, x.device, x.stride(), x.is_contiguous(), len(x), x.requires_grad),
    lambda x: (x.size(1), x.dim(), x.ndim, x.numel(), x.element_size(), x.nbytes, x.is_leaf),
    lambda x: torch.utils._pytree.tree_map(lambda y: y * 2, {"x": [x]}),
    lambda x: torch._C._nn.gelu(x),
    lambda x: torch.ops.aten.mul.Tensor(x, 2),
    lambda x: [row.sum() for row in x],
]


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("number", range(len(LOOKS)))
def test_functions_are_given_the_matrix(number: int, requires_grad: bool) -> None:
    look = LOOKS[number]
    lazy, matrix, _ = make_pair(requires_grad)
    if requires_grad:
        matrix = matrix.clone()  # which may be written
        lazy.look()
    with torch.set_grad_enabled(requires_grad):
        try:
            expected = look(matrix)
        except RuntimeError as error:
            with pytest.raises(RuntimeError, match=str(error)[:20]):
                look(lazy)
            return
        found = look(lazy)
    assert type(found) is type(expected) or isinstance(found, torch.Tensor)
    leaves, wanted = (torch.utils._pytree.tree_leaves(x) for x in (found, expected))
    for ours, theirs in zip(leaves, wanted, strict=True):
        if isinstance(theirs, torch.Tensor):
            assert torch.equal(ours, theirs)
            assert ours.requires_grad == theirs.requires_grad
        elif not requires_grad:
            assert ours == theirs
    assert torch.equal(lazy, matrix)  # functions may have written to both


@pytest.mark.parametrize("requires_grad", [False, True])
def test_functions_in_c_are_given_the_matrix(requires_grad: bool) -> None:
    lazy, matrix, weight = make_pair(requires_grad)
    with torch._C.DisableTorchFunctionSubclass():
        found = torch.tanh(lazy)
    assert type(found) is torch.Tensor
    assert torch.equal(found, matrix.tanh())
    if requires_grad:
        (expected,) = torch.autograd.grad(matrix.tanh().square().sum(), weight)
        (gradient,) = torch.autograd.grad(found.square().sum(), weight)
        torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("masked", ["not", "bool", "float", "causal"])
def test_gradients_flow_through_the_matrix_and_through_attention(masked: str) -> None:
    lazy, matrix, weight = make_pair(True)
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 2, HEADS, LENGTH, 8, generator=generator)
    mask: Any = torch.rand(2, 1, LENGTH, LENGTH, generator=generator)
    mask = {"bool": mask < 0.7, "float": mask}.get(masked)
    causal = masked == "causal"
    merged = compute_bias(weight, LENGTH, LENGTH, buckets=BUCKETS, mask=mask, causal=causal)
    attend = torch.nn.functional.scaled_dot_product_attention
    expected = attend(query, key, value, attn_mask=merged)
    masked_bias = lazy.with_mask(mask, causal)
    found = attend(query, key, value, attn_mask=masked_bias)
    assert torch.equal(found, expected)
    assert masked_bias.recipe.matrix is None
    ours = torch.autograd.grad(found.sum() + masked_bias.tanh().sum() + lazy.sum(), weight)
    theirs = torch.autograd.grad(expected.sum() + merged.tanh().sum() + matrix.sum(), weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.mul_(2),
        lambda x: x[:, 1].zero_(),
        lambda x: x.detach().numpy().fill(3),
        lambda x: x.data.zero_(),
        lambda x: next(iter(x.split(2, dim=1))).zero_(),
        lambda x: torch.zeros(x.shape, out=x.detach()),
    ],
)
def test_attention_reads_later_writes_to_the_matrix(write: Callable[[Any], Any]) -> None:
    lazy, matrix, _ = make_pair()
    query, key, value = torch.randn(3, 1, HEADS, LENGTH, 8)
    attend = torch.nn.functional.scaled_dot_product_attention
    write(lazy)
    write(matrix)
    assert torch.equal(attend(query, key, value, lazy), attend(query, key, value, matrix))


def test_looking_leaves_attention_as_it_is() -> None:
    lazy, matrix, _ = make_pair()
    assert torch.equal(lazy, matrix)
    assert lazy.abs().max() == matrix.abs().max()
    assert lazy.find_weight() is not None
    assert lazy[0] is not None  # a view, which may be written
    assert lazy.find_weight() is None


@pytest.mark.parametrize("reentrant", [None, True, False])
def test_a_hook_may_look_at_each_bias_in_training(reentrant: bool | None) -> None:
    case = training.make("t5", True, "sdpa", reentrant, 0.0, torch.float64)
    expected = gradients_of(case)
    seen: list[Any] = []
    with accelerated(case.model):
        for module in case.model.modules():
            if type(module).__name__ == "T5Attention":
                module.register_forward_hook(lambda m, a, output: seen.append(output[1].sum()))
        found = gradients_of(case)
    assert len(seen) >= 9
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-11)


# ---- which calls need no matrix ----


def count(monkeypatch: pytest.MonkeyPatch, call: Callable[[], Any]) -> tuple[int, int]:
    """Count calls of t5bucket's attention, and matrices that are made of lazy biases."""
    attended: list[Any] = []
    made: list[Any] = []

    def watched(function: Any, calls: list[Any]) -> Any:
        def call_and_count(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            return function(*args, **kwargs)

        return call_and_count

    with monkeypatch.context() as patch:
        attend = watched(scaled_dot_product_attention, attended)
        patch.setattr(_lazy, "scaled_dot_product_attention", attend)
        patch.setattr(_lazy, "compute_bias", watched(compute_bias, made))
        call()
    return len(attended), len(made)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    ("family", "calls"),
    [("t5", 6), ("mt5", 6), ("umt5", 6), ("pop2piano", 6), ("pix2struct", 2), ("udop", 3)],
)
def test_every_self_attention_goes_without_a_matrix(
    family: str, calls: int, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = models.make(family, padded, "sdpa")
    accelerate(case.model)
    assert count(monkeypatch, lambda: run(case)) == (calls, 0)
    case.model.train()
    assert count(monkeypatch, lambda: gradients_of(case)) == (calls, 0)


def test_dropout_uses_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    case = training.make("t5", True, "sdpa", None, dropout=0.1)
    accelerate(case.model)
    assert count(monkeypatch, lambda: case.model(**case.inputs)) == (0, 0)


def test_short_texts_take_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(_t5, "MIN_NBYTES", 1 << 20)
    case = models.make("t5", padded=True, implementation="sdpa")
    expected = run(case)
    accelerate(case.model)
    assert count(monkeypatch, lambda: assert_same_bits(run(case), expected)) == (0, 0)


def test_steps_of_decoding_take_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    accelerate(case.model)
    step = {"decoder_input_ids": models.tokens(1), "labels": None}
    assert count(monkeypatch, lambda: run(case, **step)) == (3, 0)  # those of the encoder


@pytest.mark.parametrize("length", [31, 33, 193, 513])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_lengths_around_the_blocks_of_kernels_give_the_same_bits(
    family: str, padded: bool, length: int
) -> None:
    case = models.make(family, implementation="sdpa")
    inputs = {"input_ids": models.tokens(length), "decoder_input_ids": models.tokens(length)}
    if padded:
        inputs["attention_mask"] = models.lengths_mask(length)
        inputs["decoder_attention_mask"] = models.lengths_mask(length)
    case = case._replace(inputs=inputs)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)


def test_the_zeros_of_cross_attention_take_no_memory() -> None:
    case = models.make("t5", padded=True, implementation="sdpa")
    accelerate(case.model)
    seen: list[Any] = []
    for block in case.model.decoder.block:
        attention = block.layer[1].EncDecAttention
        attention.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    run(case)
    assert len(seen) == 3
    for bias in seen:
        assert bias.shape == (1, 4, models.TARGET_LENGTH, models.LENGTH)
        assert not bias.any()
        assert bias.untyped_storage().nbytes() == bias.element_size()


@pytest.mark.parametrize("family", ["t5", "umt5"])
def test_padded_batches_allocate_no_matrix_for_each_example(family: str) -> None:
    length = 400
    case = models.make(family, implementation="sdpa")
    texts = {"input_ids": models.tokens(length), "decoder_input_ids": models.tokens(length)}
    case = case._replace(inputs={**texts, "attention_mask": models.lengths_mask(length)})
    nbytes = models.BATCH * HEADS * length * length * 4

    def largest() -> int:
        """Find the largest allocation of an operator of PyTorch, in bytes."""
        with torch.profiler.profile(profile_memory=True) as profile:
            run(case)
        return int(max(event.self_cpu_memory_usage for event in profile.events()))

    assert largest() >= nbytes
    with accelerated(case.model):
        assert largest() < nbytes / 2


# ---- hooks that write ----


def write_item(bias: Any) -> None:
    bias[..., 0] = -5.0


def write_data(bias: Any) -> None:
    bias.data[..., 0] = -5.0


def replace_data(bias: Any) -> None:
    bias.data = torch.zeros(bias.shape)


def write_array(bias: Any) -> None:
    bias.detach().numpy()[...] *= 3


def write_mask(bias: Any) -> None:
    bias.masked_fill_(torch.arange(bias.shape[-1]) < 9, -9.0)


WRITES = [write_item, write_data, replace_data, write_array, write_mask]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("least_nbytes", [0, 1 << 20])  # without a matrix, or with a small one
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_hook_may_write_to_the_bias_in_any_way(
    context: Any,
    least_nbytes: int,
    write: Callable[[Any], None],
    padded: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_t5, "MIN_NBYTES", least_nbytes)
    case = models.make("t5", padded=padded)

    def hook(module: Any, arguments: Any, output: Any) -> None:
        write(output[1])

    attention = case.model.get_encoder().block[0].layer[0].SelfAttention
    attention.register_forward_hook(hook)
    with context():
        expected = case.model(**case.inputs)
        with accelerated(case.model):
            assert_same_bits(case.model(**case.inputs), expected)


@pytest.mark.parametrize("write", [write_item, write_mask, write_data])
def test_a_hook_may_write_to_the_zeros_of_cross_attention(
    write: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_t5, "MIN_NBYTES", 1 << 20)
    case = models.make("t5")

    def hook(module: Any, arguments: Any, output: Any) -> None:
        write(output[1])

    case.model.decoder.block[0].layer[1].EncDecAttention.register_forward_hook(hook)
    with torch.no_grad():
        expected = case.model(**case.inputs)
        with accelerated(case.model):
            assert_same_bits(case.model(**case.inputs), expected)


@pytest.mark.parametrize("padded", [False, True])
def test_a_detached_bias_does_not_train_the_weight(padded: bool) -> None:
    case = models.make("t5", padded=padded)

    def detach(module: Any, arguments: Any, output: Any) -> Any:
        return (output[0], output[1].detach(), *output[2:])

    encoder = case.model.get_encoder()
    encoder.block[0].layer[0].SelfAttention.register_forward_hook(detach)
    weight = encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight

    def train() -> Any:
        case.model.zero_grad()
        case.model(**case.inputs).loss.backward()
        return weight.grad.clone()

    expected = train()
    with accelerated(case.model):
        torch.testing.assert_close(train(), expected)
