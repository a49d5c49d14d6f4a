"""Numbers of numpy count as Python's own, and leave nothing of numpy in the record."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_gip import Selection, gip, gip_dual, gtp, less, rds, spice
from hf_gip.core.validation import check_k, check_number, is_int, is_number

SELECTORS: list[Callable[[Tensor, Any, Any], Selection]] = [
    lambda X, k, number: gip(X, X[:2], k, noise=number, prefilter=k + k),
    lambda X, k, number: gip_dual(X, X[:, :1].abs(), k, noise=number),
    lambda X, k, number: spice(X, k, alpha=number, conflict_penalty=number, stop_ratio=number, window=k + k),
    lambda X, k, number: gtp(X, None, k, learning_rates=[number], ridge=number),
    lambda X, k, number: less(X, X[:2], k, learning_rates=[number]),
    lambda X, k, number: rds(X, X[:2], k),
]


@pytest.mark.usefixtures("without_shape_checks")
@pytest.mark.parametrize("select", SELECTORS)
def test_numbers_of_numpy_select_as_pythons_own(select: Callable[[Tensor, Any, Any], Selection]) -> None:
    X = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, numpy = select(X, 4, 0.5), select(X, np.int64(4), np.float32(0.5))
    assert numpy.indices.equal(plain.indices)
    assert json.dumps(numpy.record) == json.dumps(plain.record)


@pytest.mark.parametrize("value", [np.int8(3), np.uint64(3), 3])
def test_any_whole_number_is_one(value: object) -> None:
    assert is_int(value)
    assert type(check_k(value, 3)) is int


@pytest.mark.parametrize("value", [True, np.bool_(True), 3.0, np.float64(3), "3", None])
def test_nothing_else_is_a_whole_number(value: object) -> None:
    assert not is_int(value)
    with pytest.raises(ValueError, match=r"^`k` must be a whole number between 1 and the number of rows \(3\), got "):
        check_k(value, 3)


@pytest.mark.parametrize("value", [np.nan, np.float32("inf"), True, np.bool_(True), 10**400, "1", 1j])
def test_neither_infinities_nor_truth_values_are_numbers(value: object) -> None:
    assert not is_number(value)
    with pytest.raises(ValueError, match=r"^`noise` must be a number of at least 0, got "):
        check_number("noise", value)
