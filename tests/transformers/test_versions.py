# test_versions.py - every family works with the installed transformers as the support table says.
# SPDX-License-Identifier: BSD-3-Clause
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
transformers: Any = pytest.importorskip("transformers")
import models  # noqa: E402
from outputs import assert_same_bits, gradients_of, run, tensors_of  # noqa: E402
from versions import SUPPORT, find_cell, read_column, write_table  # noqa: E402

from t5bucket.transformers import accelerated  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),  # of transformers, about its own versions
]


@pytest.mark.parametrize("family", models.FAMILIES)
def test_the_table_of_versions_is_true_for_this_one(family: str) -> None:
    column = read_column(SUPPORT.read_text(encoding="utf-8"), transformers.__version__)
    assert find_cell(family) == column[family]


@pytest.mark.slow  # the newest version has these tests elsewhere
@pytest.mark.parametrize("family", models.FAMILIES)
def test_outputs_and_gradients_are_the_same_in_this_version(family: str, log: Any) -> None:
    case = models.make(family, padded=True)
    expected, gradients = run(case), gradients_of(case)
    with accelerated(case.model):
        assert_same_bits(run(case), expected)
        for name, gradient in gradients_of(case).items():
            largest = gradients[name].abs().max().item()
            torch.testing.assert_close(gradient, gradients[name], rtol=0, atol=1e-4 * largest)
    with accelerated(case.model, exact=False):
        for found, right in zip(tensors_of(run(case)), tensors_of(expected), strict=True):
            torch.testing.assert_close(found, right, rtol=0, atol=1e-5 * right.abs().max().item())
    assert not [record for record in log.records if "falls back" in record.message]


@pytest.mark.slow  # the newest version has these tests elsewhere
@pytest.mark.parametrize("family", ["t5", "umt5", "longt5_local"])
def test_steps_of_decoding_give_the_same_tokens_in_this_version(family: str, log: Any) -> None:
    case = models.make(family, padded=True)
    inputs = {name: value for name, value in case.inputs.items() if name != "labels"}
    options = {"max_new_tokens": 30, "output_scores": True, "return_dict_in_generate": True}
    expected = case.model.generate(**inputs, **options)
    with accelerated(case.model):
        found = case.model.generate(**inputs, **options)
    assert_same_bits([found.sequences, found.scores], [expected.sequences, expected.scores])
    assert not [record for record in log.records if "falls back" in record.message]


def test_versions_with_equal_cells_share_a_column() -> None:
    columns = {"4.57": {"t5": "bias"}, "5.0": {"t5": "bias"}, "5.10": {"t5": "bias, attention"}}
    table = write_table(columns)
    assert table.splitlines()[0] == "| family | 4.57 to 5.0 | from 5.10 |"
    text = f"<!-- versions: begin -->\n{table}<!-- versions: end -->"
    assert read_column(text, "5.0.1") == read_column(text, "5.9.0") == columns["5.0"]
    assert read_column(text, "5.10.4") == read_column(text, "6.1.0") == columns["5.10"]
