# test_falling_back.py - calls that are not covered fall back to transformers; the log says why.
# SPDX-License-Identifier: BSD-3-Clause
import sys
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, gradients_of, run  # noqa: E402
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder  # noqa: E402

from t5bucket.transformers import accelerate, accelerated  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def fell_back(log: Any) -> list[str]:
    return [record.message for record in log.records if "falls back" in record.message]


# ---- embeddings ----


def test_an_embedding_with_a_hook_falls_back(log: Any) -> None:
    case = models.make("t5")
    embedding = models.attention_of(case.model).relative_attention_bias
    embedding.register_forward_hook(lambda module, args, output: output + 1)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("hooks" in message for message in fell_back(log))


def test_hooks_of_all_modules_fall_back(log: Any) -> None:
    case = models.make("t5", padded=True)

    def add(module: Any, args: Any, output: Any) -> Any:
        return output + 1 if type(module) is torch.nn.Embedding else output

    handle = torch.nn.modules.module.register_module_forward_hook(add)
    try:
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)
    finally:
        handle.remove()
    assert any("hooks" in message for message in fell_back(log))


@pytest.mark.parametrize(
    ("option", "value"),
    [("padding_idx", 3), ("max_norm", 0.2), ("scale_grad_by_freq", True), ("sparse", True)],
)
def test_an_embedding_with_an_option_falls_back(option: str, value: Any, log: Any) -> None:
    case = models.make("t5", padded=True)

    def results() -> Any:
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(32, 4, **{option: value})
        models.attention_of(case.model).relative_attention_bias = embedding
        found = gradients_of(case)
        name = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        return run(case), found[name].to_dense(), embedding.weight

    output, gradient, weight = results()
    with accelerated(case.model):
        found = results()
    assert_same_bits((found[0], found[2]), (output, weight))
    torch.testing.assert_close(found[1], gradient)  # through other layers, up to rounding
    assert any("options" in message for message in fell_back(log))


def test_an_embedding_of_another_kind_falls_back(log: Any) -> None:
    class Doubled(torch.nn.Embedding):  # type: ignore[misc]
        def forward(self, indices: Any) -> Any:
            return 2 * super().forward(indices)

    case = models.make("t5")
    models.attention_of(case.model).relative_attention_bias = Doubled(32, 4)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("Doubled" in message for message in fell_back(log))


def test_a_weight_of_another_size_falls_back(log: Any) -> None:
    case = models.make("t5")
    models.attention_of(case.model).relative_attention_bias = torch.nn.Embedding(
        40, 4
    )  # of 32 buckets
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("40 rows for 32 buckets" in message for message in fell_back(log))


def test_bfloat16_without_its_package_falls_back(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = models.make("t5", padded=True)
    case.model.bfloat16()
    expected = run(case)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("ml_dtypes" in message for message in fell_back(log))


# ---- settings and positions ----


def test_settings_that_make_no_scheme_fall_back(log: Any) -> None:
    case = models.make("t5")
    models.attention_of(case.model).relative_attention_max_distance = 1 << 30
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("max_distance" in message for message in fell_back(log))


def test_a_rule_of_an_instances_own_falls_back(log: Any) -> None:
    case = models.make("t5", padded=True)
    models.attention_of(case.model)._relative_position_bucket = lambda d, **settings: d.abs().clamp(
        max=7
    )
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("instance's own" in message for message in fell_back(log))


@pytest.mark.parametrize("prefix", [1, 5])  # prefilling masks keys that the cache does not hold yet
def test_offsets_that_are_tensors_fall_back(prefix: int, log: Any) -> None:
    case = models.make("t5", padded=True)
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}
    inputs["decoder_input_ids"] = models.tokens(prefix)
    options = {"max_new_tokens": 9, "cache_implementation": "static", "disable_compile": True}
    expected = case.model.generate(**inputs, **options)
    with accelerated(case.model):
        assert torch.equal(case.model.generate(**inputs, **options), expected)
    assert any("no integers" in message for message in fell_back(log))


# ---- tensors without items, and transforms ----


def test_models_of_meta_tensors_fall_back(log: Any) -> None:
    with torch.device("meta"):
        model = models.FAMILIES["t5"](False).model
        token_ids = models.tokens()
    output = accelerate(model)(input_ids=token_ids, labels=token_ids)
    assert output.logits.shape == (models.BATCH, models.LENGTH, 99)
    assert output.logits.device.type == "meta"
    assert fell_back(log)


def test_models_of_fake_tensors_fall_back(log: Any) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        model = models.FAMILIES["t5"](False).model
        token_ids = models.tokens()
        output = accelerate(model)(input_ids=token_ids, labels=token_ids)
    assert output.logits.shape == (models.BATCH, models.LENGTH, 99)
    assert fell_back(log)


def test_transforms_of_functions_fall_back(log: Any) -> None:
    attention = models.attention_of(accelerate(models.make("t5").model))
    name = "relative_attention_bias.weight"
    weight = attention.get_parameter(name).detach()

    class Bias(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self) -> Any:
            return self.attention.compute_bias(5, 7)

    def total(weight: Any) -> Any:
        named = {f"attention.{name}": weight}
        return torch.func.functional_call(Bias(), named, ()).square().sum()

    tangent = torch.randn_like(weight)
    _, derivative = torch.func.jvp(total, (weight,), (tangent,))
    gradient = torch.func.grad(total)(weight)
    torch.testing.assert_close(derivative, (gradient * tangent).sum())
    stacked = torch.func.vmap(total)(torch.stack([weight, 2 * weight]))
    torch.testing.assert_close(stacked[1], 4 * stacked[0])
    assert fell_back(log)


# ---- nothing is left ----


def test_a_model_none_of_whose_layers_can_be_accelerated_warns(log: Any) -> None:
    class Shifted(MPNetEncoder):  # type: ignore[misc]
        def compute_position_bias(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_position_bias(*args, **kwargs) + 1

    model = models.make("mpnet").model
    model.mpnet.encoder.__class__ = Shifted
    accelerate(model)
    assert [record.levelname for record in log.records if "no layer" in record.message] == [
        "WARNING"
    ]
