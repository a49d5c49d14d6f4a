"""Scores become precision and budgets become ridges, by the documented rules."""

import math
import re

import pytest
import torch

from hf_gip.core.queries import PURE_SPAN, TOP_K, default_ridge, precision_from_scores, whiten


def test_the_ridge_follows_the_documented_rule() -> None:
    assert default_ridge(100, 384, towards_target=False) == pytest.approx(100 / 384)
    assert default_ridge(10, 384, towards_target=False) == pytest.approx(0.1)
    assert default_ridge(1_000, 384, towards_target=True) == pytest.approx(10_000 / 384)


def test_diversity_moves_the_ridge_from_top_k_to_the_pure_span() -> None:
    ridges = [default_ridge(1_000, 384, towards_target=True, diversity=step / 10) for step in range(11)]
    assert ridges == sorted(ridges, reverse=True)
    assert (ridges[0], ridges[-1]) == (TOP_K, PURE_SPAN)
    with pytest.raises(
        ValueError, match=r"^`diversity` must be between 0 \(relevance alone\) and 1 \(span alone\), got 1\.5\.$"
    ):
        default_ridge(1, 1, towards_target=True, diversity=1.5)


def test_ranks_make_judges_with_other_scales_agree() -> None:
    scores = torch.tensor([[1.0, 100.0], [2.0, 200.0], [3.0, 900.0], [3.0, 900.0]])
    assert precision_from_scores(scores).tolist() == pytest.approx([1 / 8, 3 / 8, 3 / 4, 3 / 4])
    assert torch.equal(precision_from_scores(scores), precision_from_scores(scores[:, :1]))


def test_a_missing_score_leaves_the_row_to_the_other_judges() -> None:
    nan = math.nan
    weights = precision_from_scores(torch.tensor([[1.0, 5.0], [2.0, nan], [nan, 9.0], [nan, nan], [3.0, 7.0]]))
    assert weights[1] == pytest.approx(0.5)
    assert weights[2] == pytest.approx(5 / 6)
    assert weights[3] == pytest.approx(float(weights[[0, 1, 2, 4]].median()))


def test_quality_goes_from_ignoring_scores_to_top_k() -> None:
    scores = torch.arange(5.0)[:, None]
    assert precision_from_scores(scores, quality=0.0).tolist() == [1.0] * 5
    sharp = precision_from_scores(scores, quality=50.0)
    assert sharp[4] > 1e4 * sharp[3]
    with pytest.raises(
        ValueError, match=f"^{re.escape('`quality` must be 0 (ignore the scores) or larger, got -1.0.')}$"
    ):
        precision_from_scores(scores, quality=-1.0)


def test_whitened_queries_have_the_same_energy_in_every_direction_they_span() -> None:
    queries = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([[100.0], [1.0], [0.1]])
    white = whiten(torch.cat([queries, queries[:1]]))
    assert white.shape == (3, 8)
    assert torch.allclose(white @ white.T, torch.eye(3), atol=1e-5)
    assert torch.linalg.matrix_rank(torch.cat([queries, white])) == 3
