"""The paper's dual form against its own recursion, and where it must agree with queries."""

import re
from pathlib import Path

import numpy as np
import pytest
import samples
import torch
from datasets import Dataset, config
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_gip
from hf_gip import gip
from hf_gip.core.gip import gip_dual


def objective_by_definition(X: np.ndarray, S: np.ndarray, k: int, noise: float) -> float:
    """Greedy on C and D with the whole Gram matrix, the row tried that gains most; the objective reached."""
    X = X / np.sqrt((X**2).sum(1).mean())
    C, K, total = S / np.sqrt((S**2).mean(0)), X @ X.T, 0.0
    is_free = np.ones(len(X), bool)
    for _ in range(k):
        gains = np.where(is_free, (C**2).sum(1) / (np.diag(K) + noise), -1)
        j = int(gains.argmax())
        total, is_free[j] = total + gains[j], False
        C = C - np.outer(K[:, j], C[j]) / (K[j, j] + noise)
        K = K - np.outer(K[:, j], K[j]) / (K[j, j] + noise)
    return total


@settings(max_examples=150, deadline=None)
@given(
    st.integers(2, 30), st.integers(1, 8), st.integers(1, 4), st.floats(0.01, 30), st.integers(0, 10_000), st.data()
)
def test_gains_are_those_of_the_recursion(
    n: int, d: int, s: int, noise: float, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    X = samples.rows(n, d, seed=seed, duplicates=n // 4)
    S = torch.rand(n, s, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    selection = gip_dual(X, S, k, noise=noise)
    assert len(set(selection.indices.tolist())) == k
    assert selection.objective == pytest.approx(objective_by_definition(X.numpy(), S.numpy(), k, noise), rel=1e-6)


def test_scores_that_a_query_would_give_choose_as_that_query() -> None:
    X = samples.rows(80, 6).abs()  # no score is negative, and one query leaves no question of weights
    q = samples.queries(1, 6).abs()
    assert gip_dual(X, X @ q.T, 20, noise=0.5).indices.equal(gip(X, q, 20, noise=0.5).indices)


def test_neither_scale_nor_a_missing_score_at_the_mean_changes_a_pick() -> None:
    X = samples.rows(60, 8)
    S = torch.randint(0, 6, (60, 2), generator=torch.Generator().manual_seed(1)).double()
    expected = gip_dual(X, S, 15, noise=0.3)
    assert gip_dual(1e3 * X, S * torch.tensor([1e-3, 7.0]), 15, noise=0.3).indices.equal(expected.indices)
    S[5, 0] = S[torch.arange(60) != 5, 0].mean()
    holes = S.clone()
    holes[5, 0] = torch.nan
    assert gip_dual(X, holes, 15, noise=0.3).indices.equal(gip_dual(X, S, 15, noise=0.3).indices)


def test_negative_scores_are_refused() -> None:
    message = (
        "`scores` must be at least 0 as queries, got -1: the projection does not see signs, so add a constant, or use "
        "them as precision."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gip_dual(torch.eye(3), torch.tensor([[1.0], [-1.0], [2.0]]), 1)
    with pytest.raises(ValueError, match=r"^`noise` must be a finite number above 0 for the dual form, got 0\.0\.$"):
        gip_dual(torch.eye(3), torch.ones(3, 1), 1, noise=0.0)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    good = [float(i % 6) for i in range(60)]
    texts = [f"row {i % 9} {i * i % 23} {i}" for i in range(60)]
    return Dataset.from_dict({"text": texts, "good": good, "fine": good[::-1]})


def test_gip_select_takes_scores_as_queries_and_reproduces_the_picks(rows: Dataset, tmp_path: Path) -> None:
    subset = hf_gip.gip_select(rows, 9, scores=["good", "fine"], scores_as="queries", encoder="lexical")
    record = subset.selection.record
    assert record["scores"]["as"] == "queries"
    assert record["parameters"]["pursuit"] == "dual"
    assert record["parameters"]["noise"] == pytest.approx(10 * 9 / 512)
    matrix = hf_gip.embed(rows, "lexical").matrix
    scores = torch.tensor([rows["good"][:], rows["fine"][:]], dtype=torch.float64).T
    assert subset.selection.indices.equal(gip_dual(matrix, scores, 9, noise=10 * 9 / 512).indices)
    hf_gip.save_subset(subset, tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=rows).ok
    assert hf_gip.reproduce(tmp_path / "out", source=rows).verdict == "same picks"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"scores_as": "wishes", "scores": ["good"]},
            '`scores_as` must be "precision" or "queries", got \'wishes\'.',
        ),
        ({}, '`scores_as="queries"` needs scores, got no `scores`: name the score columns too.'),
        *(
            (
                {"scores": ["good"], **option},
                f'`{next(iter(option))}` has no meaning beside `scores_as="queries"`, where the scores are what is '
                "wanted: leave one of them out.",
            )
            for option in ({"target": ["a"]}, {"quality": 2.0}, {"objective": "information"})
        ),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(rows: Dataset, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.gip_select(rows, 2, encoder="lexical", **({"scores_as": "queries"} | options))
