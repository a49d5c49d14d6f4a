"""LESS and RDS+ against their definitions, one cosine at a time."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_gip.core.baselines import less, rds
from hf_gip.features.matrix_files import npy_rows


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 25), m=st.integers(1, 7), checkpoints=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_less_is_weighted_cosine_meaned_over_shots_and_largest_over_subtasks(
    n: int, m: int, checkpoints: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    rows = [generator.normal(size=(n, 5)) for _ in range(checkpoints)]
    goals = [generator.normal(size=(m, 5)) for _ in range(checkpoints)]
    learning_rates = (generator.random(checkpoints) + 0.1).tolist()
    subtasks = generator.integers(3, size=m).tolist()
    influence = np.array(
        [
            [
                sum(w * cosine(R[i], G[j]) for w, R, G in zip(learning_rates, rows, goals, strict=True))
                for j in range(m)
            ]
            for i in range(n)
        ]
    ) / sum(learning_rates)
    scores = np.max([influence[:, np.array(subtasks) == t].mean(1) for t in set(subtasks)], axis=0)
    selection = less(
        [torch.from_numpy(R) for R in rows],
        [torch.from_numpy(G) for G in goals],
        n,
        learning_rates=learning_rates,
        subtasks=subtasks,
    )
    assert selection.gains.numpy() == pytest.approx(np.sort(scores)[::-1], abs=1e-12)
    assert scores[selection.indices.numpy()] == pytest.approx(np.sort(scores)[::-1], abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 25), m=st.integers(1, 9), seed=st.integers(0, 10**6), share=st.floats(0.01, 1))
def test_rds_lets_each_query_take_its_nearest_row_in_turn(n: int, m: int, seed: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    rows, queries, k = generator.normal(size=(n, 4)), generator.normal(size=(m, 4)), max(1, int(share * n))
    expected: list[int] = []
    while len(expected) < k:
        for query in queries:
            remaining = [i for i in range(n) if i not in expected]
            if remaining and len(expected) < k:
                expected.append(max(remaining, key=lambda i, query=query: cosine(rows[i], query)))
    assert rds(torch.from_numpy(rows), torch.from_numpy(queries), k).indices.tolist() == expected


def test_rows_on_disk_give_the_same(tmp_path: Path) -> None:
    rows, goals = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), torch.eye(6)[:2]
    np.save(tmp_path / "rows.npy", rows.numpy())
    stored = npy_rows(tmp_path / "rows.npy")
    assert less(stored, goals, 9).indices.tolist() == less(rows, goals, 9).indices.tolist()
    assert rds(stored, goals, 9).indices.tolist() == rds(rows, goals, 9).indices.tolist()


GOOD = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: less(GOOD, [GOOD, GOOD], 2), "one matrix per checkpoint of `trajectories` (1), got 2"),
        (lambda: less([GOOD, GOOD[:2]], [GOOD, GOOD], 2), "the same rows at every checkpoint, got [4, 2] and [4, 4]"),
        (lambda: less(GOOD, GOOD, 2, learning_rates=[0.0]), "not all 0, got [0.0]"),
        (lambda: less(GOOD, GOOD, 2, subtasks=[0]), "one whole number per target row (4), got [0]"),
        (lambda: less(GOOD, GOOD[:, :2], 2), "`target` must have the features' width 3, got 2"),
        (lambda: less(GOOD, GOOD, 5), "`k` must be a whole number between 1"),
        (lambda: rds(GOOD, GOOD[:, :2], 2), "`queries` must have the features' width 3, got 2"),
        (lambda: rds(GOOD * torch.nan, GOOD, 2), "`features` must be finite"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
