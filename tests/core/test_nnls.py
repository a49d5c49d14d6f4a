"""Non-negative least squares on the Gram matrix against scipy's on the rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_gtp import fitted

from hf_gip.core.nnls import nnls

KINDS = ("plain", "positive", "clustered", "low rank", "copies", "badly scaled")


def problem(t: int, d: int, seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (t, d) and a target (d,)."""
    generator = np.random.default_rng(seed)
    A = generator.normal(size=(t, d))
    if kind == "positive":
        A = np.abs(A)
    elif kind == "clustered":
        A = generator.normal(size=(3, d))[generator.integers(3, size=t)] + 0.05 * A
    elif kind == "low rank":
        A = generator.normal(size=(t, 2)) @ generator.normal(size=(2, d))
    elif kind == "copies":
        A = A[generator.integers(max(1, t // 3), size=t)]
    elif kind == "badly scaled":
        A = A * 10.0 ** generator.uniform(-3, 3, size=(t, 1))
    return A, generator.normal(size=d) + A.mean(0)


@settings(max_examples=400, deadline=None)
@given(t=st.integers(1, 60), d=st.integers(1, 40), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_the_residual_is_scipys(t: int, d: int, seed: int, kind: str) -> None:
    A, b = problem(t, d, seed, kind)
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ b)).numpy()
    assert (weights >= 0).all()
    assert np.linalg.norm(b - A.T @ weights) == pytest.approx(fitted(A, b, list(range(t)))[1], abs=1e-7)


@settings(max_examples=200, deadline=None)
@given(t=st.integers(1, 60), d=st.integers(1, 40), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_no_row_outside_would_help_and_those_inside_are_fitted(t: int, d: int, seed: int, kind: str) -> None:
    A, b = problem(t, d, seed, kind)
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ b)).numpy()
    pull = A @ (b - A.T @ weights) / np.maximum(np.linalg.norm(A, axis=1), 1e-300)
    assert pull.max() <= 1e-6 * np.linalg.norm(b)
    assert np.abs(pull[weights > 0]).max(initial=0) <= 1e-6 * np.linalg.norm(b)


@settings(max_examples=100, deadline=None)
@given(copies=st.integers(2, 31), num_others=st.integers(0, 20), seed=st.integers(0, 10**6))
def test_exactly_one_of_several_copies_has_weight(copies: int, num_others: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    row = generator.normal(size=24)
    A = np.concatenate([np.repeat(row[None], copies, axis=0), generator.normal(size=(num_others, 24))])
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ (2 * row))).numpy()
    assert np.count_nonzero(weights) == 1
    assert weights[:copies].sum() == pytest.approx(2)


@pytest.mark.parametrize(("t", "d"), [(300, 40), (300, 200), (200, 300)])
def test_many_rows_that_point_the_same_way(t: int, d: int) -> None:
    generator = np.random.default_rng(t + d)
    A = generator.normal(size=(t, d)) + 0.3 * generator.normal(size=d)
    b = A.mean(0) + 0.05 * generator.normal(size=d)
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ b)).numpy()
    assert np.linalg.norm(b - A.T @ weights) == pytest.approx(fitted(A, b, list(range(t)))[1], rel=1e-6, abs=1e-6)


def near_duplicates(t: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that differ from each other by 1e-6 to 0.1 of their length, and targets between them."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(max(1, t // 3), d))
    A = rows[generator.integers(len(rows), size=t)]
    A = A + 10.0 ** generator.uniform(-6, -1) * generator.normal(size=(t, d))
    if seed % 2:
        A = A * 10.0 ** generator.uniform(-2, 2, size=(t, 1))
    b = np.maximum(generator.normal(size=t), 0) @ A + A.mean(0)
    if seed % 3:
        b = b + 0.1 * np.linalg.norm(b) / d**0.5 * generator.normal(size=d)
    return A, b


@settings(max_examples=400, deadline=None)
@given(t=st.integers(1, 60), d=st.integers(2, 40), seed=st.integers(0, 10**6))
def test_near_duplicates_reach_scipys_objective(t: int, d: int, seed: int) -> None:
    A, b = near_duplicates(t, d, seed)
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ b)).numpy()
    assert np.linalg.norm(b - A.T @ weights) <= fitted(A, b, list(range(t)))[1] + 2e-6 * np.linalg.norm(b)


@pytest.mark.parametrize("angle", [1e-1, 1e-3, 3e-4, 1e-4, 1e-5])
def test_two_rows_a_small_angle_apart_share_a_target_between_them(angle: float) -> None:
    A = np.array([[1, 0], [1, angle]])
    weights = nnls(torch.from_numpy(A @ A.T), torch.from_numpy(A @ A.mean(0)))
    assert weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


def test_starting_from_other_rows_ends_at_the_same_weights() -> None:
    A, b = problem(50, 30, 4, "positive")
    G, c = torch.from_numpy(A @ A.T), torch.from_numpy(A @ b)
    plain = nnls(G, c)
    for start in ([0, 1, 2], list(range(50)), [49]):
        assert torch.allclose(nnls(G, c, torch.tensor(start)), plain, atol=1e-9)


def test_a_target_that_nothing_points_at_has_no_weights() -> None:
    A = torch.eye(4, dtype=torch.float64)
    assert nnls(A @ A.T, -torch.ones(4, dtype=torch.float64)).tolist() == [0, 0, 0, 0]
