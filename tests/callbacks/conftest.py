"""What the callback's tests share."""

import pytest
from datasets import Dataset
from tiny_trainers import word_rows


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Dataset:
    """The pool of a test file: as many rows of random words as its `ROWS` says."""
    return word_rows(request.module.ROWS)
