"""Rows shared over ranks: the picks of one process, disagreement refused everywhere, a dead rank no hang."""

from pathlib import Path

import pytest
import samples
import torch
from launched_ranks import launched

from hf_gip import gip

pytestmark = pytest.mark.ddp


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_that_share_the_rows_pick_as_one_process(tmp_path: Path, ranks: int) -> None:
    X, Q = samples.rows(700, 24, duplicates=60), samples.queries(5, 24)
    ended, (first, *rest) = launched(tmp_path, "picks", ranks)
    assert ended == 0
    assert len(rest) == ranks - 1
    assert all(other == first for other in rest)
    for name, (picks, objective, total) in first.items():
        kind, queries, dtype = name.split(" ")
        work = getattr(torch, dtype.removeprefix("torch."))
        expected = gip(X.to(work), Q.to(work) if queries == "queries" else None, 150, objective=kind)
        if work == torch.float64:
            assert X[picks].equal(X[expected.indices])  # of two equal rows rounding may choose either
        assert objective == pytest.approx(expected.objective, rel=1e-4)
        assert total == pytest.approx(expected.total, rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("k", "`k` must be the same on every rank, got 300 on rank 0 and 301 on rank 1: start all ranks"),
        ("queries", "`queries` must be the same on every rank, got "),
        ("nan", "rank 1: `features` must be finite, got NaN or infinity in 1 row(s), first in row 3"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_every_rank(tmp_path: Path, mode: str, message: str) -> None:
    _, results = launched(tmp_path, mode, 2)
    assert len(results) == 2
    assert all(result["error"].startswith(message) for result in results)


def test_a_rank_that_dies_ends_the_job(tmp_path: Path) -> None:
    ended, results = launched(tmp_path, "dies", 2)
    assert ended != 0
    assert all("error" in result for result in results)  # nobody returns a selection
