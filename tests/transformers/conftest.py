# conftest.py - models of tests are small, and go without matrices all the same.
# SPDX-License-Identifier: BSD-3-Clause
import pytest


@pytest.fixture(autouse=True)
def no_matrix_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention do without the matrix at every length."""
    try:
        from t5bucket.transformers import _t5
    except ImportError:
        return  # the test skips itself
    monkeypatch.setattr(_t5, "MIN_NBYTES", 0)
