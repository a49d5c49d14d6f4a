"""Information, conflict and curvature of a set against their definitions."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles_spice import conflict, log_det

from hf_gip.core.metrics import curvature, curvature_factor, log_det_guarantee, random_sets, set_quality
from hf_gip.core.spice import spice


@example(seed=2048, k=4, d=1, alpha=0.1)  # the mean of the earlier rows nearly vanishes
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), k=st.integers(1, 12), d=st.integers(1, 15), alpha=st.sampled_from([0.1, 1.0, 20.0])
)
def test_quality_is_the_determinant_and_the_conflict_along_the_way(seed: int, k: int, d: int, alpha: float) -> None:
    G = torch.randn(k, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    quality = set_quality(G, alpha)
    rows = list(range(k))
    assert quality.log_det == pytest.approx(log_det(G.numpy(), rows, alpha), abs=1e-9)
    assert quality.conflict == pytest.approx(sum(conflict(G.numpy(), row, rows[:row]) for row in rows), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 12), d=st.integers(1, 15), alpha=st.sampled_from([0.1, 1.0, 20.0])
)
def test_curvature_is_the_largest_share_that_all_others_take(seed: int, n: int, d: int, alpha: float) -> None:
    G = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = list(range(n))
    remaining_shares = []
    for row in rows:
        rest = [other for other in rows if other != row]
        beside = log_det(G.numpy(), rows, alpha) - log_det(G.numpy(), rest, alpha)
        remaining_shares.append(beside / log_det(G.numpy(), [row], alpha))
    assert curvature(G, alpha) == pytest.approx(1 - min(remaining_shares), abs=1e-7)


def test_greedy_keeps_its_guarantee() -> None:
    G = 0.4 * torch.randn(9, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    best = max(log_det(G.numpy(), list(subset), 1.0) for subset in combinations(range(9), 4))
    reached = spice(G, 4, alpha=1.0, absolute_alpha=True, conflict_penalty=0.0).objective
    assert curvature_factor(curvature(G, 1.0)) * best <= reached <= best + 1e-9


def test_rows_that_do_not_overlap_have_no_curvature_and_repeated_ones_have_much() -> None:
    assert curvature(torch.eye(4), 1.0) == pytest.approx(0.0, abs=1e-12)
    assert curvature_factor(0.0) == 1.0
    assert curvature(100 * torch.ones(6, 2), 1.0) > 0.95
    assert curvature(torch.zeros(3, 2), 1.0) == 0.0
    assert curvature_factor(1.0) == pytest.approx(1 - 1 / np.e)


def test_random_sets_are_seeded_and_differ() -> None:
    one, repeated = (random_sets(50, 10, 3, seed=5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, repeated, strict=True))
    assert not torch.equal(one[0], one[1])
    assert all(len(set(subset.tolist())) == 10 for subset in one)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 8),
    d=st.integers(1, 6),
    k=st.integers(1, 3),
    alpha=st.sampled_from([0.1, 1.0, 20.0]),
)
def test_the_guarantee_of_any_rows_is_never_above_their_true_ratio(
    seed: int, n: int, d: int, k: int, alpha: float
) -> None:
    k = min(k, n)
    G = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = {rows: log_det(G.numpy(), list(rows), alpha) for rows in combinations(range(n), k)}
    best = max(values.values())
    for rows, value in values.items():
        guarantee = log_det_guarantee(G, torch.tensor(rows), torch.tensor([alpha])).share
        assert 0 < guarantee <= value / best + 1e-9
    assert log_det_guarantee(G, torch.arange(n), torch.tensor([alpha])).share == pytest.approx(1.0)
