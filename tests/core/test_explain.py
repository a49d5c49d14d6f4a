"""An explanation is a recomputation: its figures are those of the objective itself, with and without the row."""

import numpy as np
import oracles
import pytest
import samples
import torch

from hf_gip.core.explain import explain, summarize_picks
from hf_gip.core.gip import gip, gip_dual

SHAPES = [(20, 6, 3, 5), (30, 8, 12, 10), (25, 4, 2, 9)]


@pytest.mark.parametrize("objective", ["projection", "information"])
@pytest.mark.parametrize(("n", "d", "m", "k"), SHAPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gains_are_differences_of_the_objective(
    n: int, d: int, m: int, k: int, objective: str, weighted: bool
) -> None:
    X, Q = samples.rows(n, d, seed=n), samples.queries(m, d)
    w = torch.linspace(0.2, 1, n, dtype=torch.float64) if weighted else None
    selection = gip(X, Q, k, objective=objective, noise=0.2, precision=w)
    value = oracles.captured if objective == "projection" else oracles.information
    picks = selection.indices.tolist()
    left_out = next(i for i in range(n) if i not in picks)
    weights = None if w is None else w.numpy()

    def reached(rows: list[int]) -> float:
        return value(X.numpy(), Q.numpy(), rows, 0.2, weights) if rows else 0.0

    for rank in (1, k // 2, k):
        explanation = explain(selection, picks[rank - 1], X, Q, precision=w)
        assert explanation.rank == rank
        assert explanation.gain == pytest.approx(reached(picks[:rank]) - reached(picks[: rank - 1]), rel=1e-7)
        assert explanation.gain == pytest.approx(float(selection.gains[rank - 1]), rel=1e-7)
    outside = explain(selection, left_out, X, Q, precision=w)
    assert outside.rank is None
    assert outside.gain == pytest.approx(reached([*picks, left_out]) - reached(picks), rel=1e-6, abs=1e-12)
    assert outside.first_gain == pytest.approx(reached([left_out]), rel=1e-7)
    for row, lost in outside.covered_by:
        t = picks.index(row)
        before = reached([*picks[:t], left_out]) - reached(picks[:t])
        after = reached([*picks[: t + 1], left_out]) - reached(picks[: t + 1])
        assert lost == pytest.approx(before - after, rel=1e-5, abs=1e-10)


def test_a_copy_of_a_pick_is_covered_by_it() -> None:
    X, Q = samples.rows(20, 6), samples.queries(3, 6)
    first = int(gip(X, Q, 1, noise=1e-3).indices[0])
    X = torch.cat([X, X[first : first + 1]])
    selection = gip(X, Q, 4, noise=1e-3)
    explanation = explain(selection, 20, X, Q)
    assert explanation.rank is None
    assert explanation.covered_by[0][0] == first
    assert explanation.novelty < 0.01
    assert str(explanation).startswith("Row 20 was left out: after the last pick it would add")


def test_the_query_a_row_answers_is_named_first() -> None:
    Q = torch.eye(4, 6, dtype=torch.float64)
    X = torch.cat([torch.eye(4, 6, dtype=torch.float64) + 0.01, samples.rows(10, 6) * 0.01])
    explanation = explain(gip(X, Q, 4, noise=0.01), 2, X, Q)
    assert explanation.served[0][0] == 2
    assert sum(share for _, share in explanation.served) == pytest.approx(1.0)


def test_without_queries_the_pool_is_what_is_served() -> None:
    X = samples.rows(20, 6)
    selection = gip(X, None, 5, noise=0.1)
    explanation = explain(selection, int(selection.indices[3]), X)
    assert explanation.gain == pytest.approx(float(selection.gains[3]), rel=1e-6)
    assert explanation.served == ()


def test_wrong_rows_and_selections_are_refused() -> None:
    X, Q = samples.rows(10, 4), samples.queries(2, 4)
    with pytest.raises(ValueError, match=r"^`row` must be a row of the pool, 0 to 9, got 10\.$"):
        explain(gip(X, Q, 2), 10, X, Q)
    with pytest.raises(ValueError, match=r"^`selection` must come from `gip`, got one by the dual, which has no"):
        explain(gip_dual(X, X[:, :1].abs(), 2), 1, X, Q)


@pytest.mark.parametrize(("n", "d", "m", "k"), [*SHAPES, (300, 8, 3, 200)])
def test_picks_of_matching_pursuit_are_explained_by_what_they_took_from_the_residual(
    n: int, d: int, m: int, k: int
) -> None:
    X, Q = samples.rows(n, d, seed=n, duplicates=3), samples.queries(m, d)
    selection = gip(X, Q, k, pursuit="matching")
    left_out = next(row for row in range(n) if row not in selection.indices.tolist())
    R = Q.clone()
    for rank, row in enumerate(selection.indices.tolist(), start=1):
        explanation, share = explain(selection, row, X, Q), (R @ X[row]).square()
        assert explanation.rank == rank
        assert explanation.gain == pytest.approx(float(share.sum() / X[row].square().sum()), rel=1e-6, abs=1e-12)
        served = dict(explanation.served)
        assert served[int(share.argmax())] == pytest.approx(float(share.max() / share.sum()), rel=1e-6)
        summary = summarize_picks(selection.at(rank), X, Q).served[-1]
        assert summary[0] == pytest.approx((int(share.argmax()), float(share.max() / share.sum())))
        R -= torch.outer(R @ X[row], X[row]) / X[row].square().sum()
    outside = explain(selection, left_out, X, Q)
    assert outside.gain == pytest.approx(
        float((R @ X[left_out]).square().sum() / X[left_out].square().sum()), rel=1e-5, abs=1e-12
    )
    assert 0 <= outside.novelty <= 1 + 1e-6


def test_one_of_many_rows_is_explained_at_float32(device: torch.device) -> None:
    X, Q = samples.rows(3_000, 32).float().to(device), samples.queries(8, 32).float().to(device)
    selection = gip(X, Q, 100, noise=0.3)
    for rank in (0, 50, 99):
        explanation = explain(selection, int(selection.indices[rank]), X, Q)
        assert explanation.gain == pytest.approx(float(selection.gains[rank]), rel=1e-3)
    assert np.isfinite(explanation.novelty)
