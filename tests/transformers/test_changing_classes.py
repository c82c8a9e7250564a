# test_changing_classes.py - accelerate and restore: classes, refused models, copies, pickles.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import io
import itertools
import pickle
from collections.abc import Callable, Generator
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402
from transformers.models.t5 import modeling_t5  # noqa: E402

from t5bucket.transformers import accelerate, accelerated, restore, supported_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def test_only_instances_change_and_are_restored() -> None:
    case = models.make("t5")
    other = models.make("t5").model
    before, attributes = models.classes_of(case.model), dict(vars(modeling_t5.T5Attention))
    assert accelerate(case.model) is case.model
    assert models.classes_of(case.model) != before
    assert models.classes_of(other) == before
    assert dict(vars(modeling_t5.T5Attention)) == attributes
    assert repr(case.model) == repr(other)
    for module in case.model.modules():
        assert "forward" not in vars(module)
    assert restore(case.model) is case.model
    assert models.classes_of(case.model) == before


def test_accelerating_twice_is_accelerating_once() -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    once = models.classes_of(accelerate(case.model))
    assert models.classes_of(accelerate(case.model)) == once
    assert_same_bits(run(case), expected)
    with accelerated(case.model):
        pass
    assert models.classes_of(case.model) == once  # as it was before the block
    restore(case.model)
    assert_same_bits(run(case), expected)


def test_the_block_restores_after_an_error() -> None:
    model = models.make("t5").model
    before = models.classes_of(model)
    with pytest.raises(RuntimeError, match="inside"), accelerated(model):
        raise RuntimeError("inside")
    assert models.classes_of(model) == before


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))], ids=str)
def test_blocks_that_overlap_are_left_in_any_order(order: tuple[int, ...]) -> None:
    model = models.make("t5").model
    parts = (model, model.encoder, model)
    blocks: list[Any] = [accelerated(part, exact=i != 2) for i, part in enumerate(parts)]
    plain = models.classes_of(model)
    for block in blocks:
        block.__enter__()
    of_the_last = models.classes_of(model)
    for i, number in enumerate(order):
        found = models.classes_of(model)
        assert found == of_the_last if 2 in order[i:] else found not in (of_the_last, plain)
        blocks[number].__exit__(None, None, None)
    assert models.classes_of(model) == plain


def test_blocks_may_end_in_any_order() -> None:
    model = accelerate(models.make("t5").model, exact=False)
    before = models.classes_of(model)

    def generate() -> Generator[Any, None, None]:
        with accelerated(model):
            yield models.classes_of(model)

    generator = generate()
    exact = next(generator)
    with accelerated(model, exact=False):
        generator.close()
        assert models.classes_of(model) == before != exact
    assert models.classes_of(model) == before


def test_restoring_a_model_that_is_not_accelerated_does_nothing() -> None:
    model = models.make("t5").model
    before = models.classes_of(model)
    assert models.classes_of(restore(model)) == before


def test_a_part_can_be_accelerated() -> None:
    case = models.make("t5")
    expected = run(case)
    accelerate(case.model.encoder.block[0])
    assert_same_bits(run(case), expected)


def test_supported_models_are_families_of_transformers() -> None:
    assert len(supported_models()) == 14
    for name in supported_models():
        assert name in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    tested = {family.removesuffix("_local").removesuffix("_global") for family in models.FAMILIES}
    assert tested == set(supported_models())


# ---- copies and files ----


def test_a_deep_copy_is_accelerated_and_its_own() -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    twin = copy.deepcopy(accelerate(case.model))
    assert models.classes_of(twin) == models.classes_of(case.model)
    for parameter in case.model.parameters():
        torch.nn.init.zeros_(parameter)
    assert_same_bits(run(case._replace(model=twin)), expected)


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickled_model_is_transformers_own(protocol: int) -> None:
    case = models.make("t5", padded=True)
    before, expected = models.classes_of(case.model), run(case)
    data = pickle.dumps(accelerate(case.model), protocol)
    assert b"t5bucket" not in data
    loaded = pickle.loads(data)
    assert models.classes_of(loaded) == before
    assert_same_bits(run(case._replace(model=loaded)), expected)


def test_weights_are_saved_and_loaded_as_before() -> None:
    case = models.make("t5")
    names, expected = list(case.model.state_dict()), run(case)
    file = io.BytesIO()
    torch.save(accelerate(case.model).state_dict(), file)
    assert list(case.model.state_dict()) == names
    fresh = models.FAMILIES["t5"](False).model
    fresh.load_state_dict(torch.load(io.BytesIO(file.getvalue())))
    for model in (case.model, accelerate(fresh)):
        assert_same_bits(run(case._replace(model=model)), expected)


def test_weights_may_change_at_any_time() -> None:
    case = models.make("t5", padded=True)
    twin = copy.deepcopy(case.model)
    run(case._replace(model=accelerate(twin)))
    for model in (case.model, twin):
        embedding = models.attention_of(model).relative_attention_bias
        embedding.weight.data.mul_(3)  # which leaves no trace in the tensor's version
    found = run(case._replace(model=twin))
    assert_same_bits(found, run(case))
    restore(twin)
    assert_same_bits(found, run(case._replace(model=twin)))


def test_a_parametrized_layer_can_be_restored_by_pytorch() -> None:
    from torch.nn.utils import parametrize

    case = models.make("wavlm", padded=True)
    attention = case.model.encoder.layers[0].attention
    parametrize.register_parametrization(attention, "gru_rel_pos_const", torch.nn.Identity())
    expected = run(case)
    accelerate(case.model)
    assert_same_bits(run(case), expected)
    parametrize.remove_parametrizations(attention, "gru_rel_pos_const")
    assert_same_bits(run(case), expected)


# ---- bad input ----


def test_a_model_without_such_a_layer_is_refused() -> None:
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    message = r"model must have a layer with relative position buckets \(of .* t5, .*\), got Ber"
    with pytest.raises(ValueError, match=message):
        accelerate(transformers.BertModel(config))
    with pytest.raises(ValueError, match=message), accelerated(transformers.BertModel(config)):
        pass


@pytest.mark.parametrize("function", [accelerate, restore])
def test_an_object_that_is_no_module_is_refused(function: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, or .* got str"):
        function("t5-small")
