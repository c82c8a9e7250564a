# test_own_classes.py - classes and methods of users are respected, or left as they are.
# SPDX-License-Identifier: BSD-3-Clause
import copy
import functools
import pickle
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, run  # noqa: E402
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder  # noqa: E402
from transformers.models.t5 import modeling_t5  # noqa: E402

from t5bucket.transformers import accelerate, accelerated, restore  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about its own versions


def test_a_method_that_a_subclass_overrides_is_left(log: Any) -> None:
    class Shifted(modeling_t5.T5Attention):  # type: ignore[misc]
        def compute_bias(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_bias(*args, **kwargs) + 1

    case = models.make("t5", padded=True)
    models.attention_of(case.model).__class__ = Shifted
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("Shifted.compute_bias is left" in record.message for record in log.records)


def test_a_rule_that_a_subclass_overrides_is_followed() -> None:
    class Nearest(modeling_t5.T5Attention):  # type: ignore[misc]
        @staticmethod
        def _relative_position_bucket(relative_position: Any, *settings: Any, **named: Any) -> Any:
            return relative_position.abs().clamp(max=7)

    case = models.make("t5", padded=True)
    models.attention_of(case.model).__class__ = Nearest
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)


def test_a_rule_that_depends_on_state_is_followed() -> None:
    class Own(MPNetEncoder):  # type: ignore[misc]
        def relative_position_bucket(self, relative_position: Any, num_buckets: int) -> Any:
            return relative_position.abs().clamp(max=self.nearest)

    case = models.make("mpnet", padded=True)
    case.model.mpnet.encoder.__class__ = Own
    for case.model.mpnet.encoder.nearest in (3, 9):
        expected = run(case)
        with accelerated(case.model):
            assert_same_bits(run(case), expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_method_that_somebody_replaced_in_the_class_is_left(
    wrapped: bool, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = MPNetEncoder.compute_position_bias

    def compute_position_bias(
        self: Any, x: Any, position_ids: Any = None, num_buckets: int = 32
    ) -> Any:
        return original(self, x, position_ids, num_buckets) + 1

    if wrapped:
        functools.update_wrapper(compute_position_bias, original)
    case = models.make("mpnet")
    restore(accelerate(case.model))  # a class that was looked at before
    monkeypatch.setattr(MPNetEncoder, "compute_position_bias", compute_position_bias)
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("somebody has replaced it" in record.message for record in log.records)


OTHER_SIGNATURE = """
class T5Attention(T5Attention):
    def compute_bias(self, query_length, key_length, *, device, past_seen_tokens):
        return super().compute_bias(query_length, key_length, device, past_seen_tokens) + 1
"""


def test_a_method_with_another_signature_is_left(log: Any) -> None:
    namespace = dict(vars(modeling_t5))  # as another version of transformers would have it
    exec(OTHER_SIGNATURE, namespace)
    case = models.make("t5")
    models.attention_of(case.model).__class__ = namespace["T5Attention"]
    expected = run(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
    assert any("another signature" in record.message for record in log.records)


def test_a_class_derived_from_an_accelerated_one_stays_accelerated(log: Any) -> None:
    case = models.make("t5", padded=True)
    expected = run(case)
    attention = models.attention_of(accelerate(case.model))
    attention.__class__ = type("Sharded", (type(attention),), {})
    assert type(copy.copy(attention)).__name__ == "Sharded"
    assert type(copy.deepcopy(attention)).__name__ == "Sharded"
    assert_same_bits(run(case), expected)
    once = models.classes_of(accelerate(case.model))
    restore(case.model)
    assert type(attention) in once
    assert any("stays accelerated" in record.message for record in log.records)
    assert_same_bits(run(case), expected)


def test_a_class_keeps_its_own_ways_to_copy_and_pickle() -> None:
    attention = models.attention_of(models.make("t5").model)
    attention.__class__ = Own
    accelerate(attention)
    assert copy.deepcopy(attention) == "its own copy"
    assert pickle.loads(pickle.dumps(attention)) == 7


class Own(modeling_t5.T5Attention):  # type: ignore[misc]
    def __deepcopy__(self, memo: Any) -> Any:
        return "its own copy"

    def __reduce__(self) -> Any:
        return int, (7,)
