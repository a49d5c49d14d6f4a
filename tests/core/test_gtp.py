"""GTP against its definition: planted rows, non-negative least squares, copies, several targets, rows on disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import samples
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_gtp import fitted, omp, top_k, written_out_pursuit
from torch import Tensor

from hf_gip.core.gtp import gtp
from hf_gip.features.matrix_files import npy_rows


def planted(seed: int, n: int = 2000, d: int = 128, k: int = 12) -> tuple[Tensor, Tensor, list[int], Tensor]:
    """Rows, a positive combination of `k` of them, which and how much of each."""
    rows = samples.normal_rows(n, d, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    chosen = torch.randperm(n, generator=generator)[:k]
    weights = torch.rand(k, generator=generator, dtype=torch.float64) + 0.5
    return rows, weights @ rows[chosen], chosen.tolist(), weights


def test_planted_combinations_are_recovered_with_their_weights() -> None:
    for seed in range(40):
        rows, target, chosen, weights = planted(seed)
        selection = gtp(rows.float(), target.float(), len(chosen))
        assert selection.weights is not None
        weight_of_row = dict(zip(selection.indices.tolist(), selection.weights.tolist(), strict=True))
        assert weight_of_row == pytest.approx(dict(zip(chosen, weights.tolist(), strict=True)), abs=1e-4)
        assert selection.captured == pytest.approx(1.0)


@settings(max_examples=200, deadline=None)
@given(
    n=st.integers(1, 80),
    d=st.integers(1, 30),
    k=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    clusters=st.sampled_from([0, 3]),
    of_pool=st.booleans(),
)
def test_weights_are_the_best_for_the_rows_and_gains_add_up(
    n: int, d: int, k: int, seed: int, clusters: int, of_pool: bool
) -> None:
    A, k = samples.normal_rows(n, d, seed, clusters), min(k, n)
    b = A.mean(0) if of_pool else samples.normal_rows(1, d, seed + 7)[0]
    selection = gtp(A, None if of_pool else b, k, ridge=0.0)
    assert selection.weights is not None
    assert selection.total is not None
    assert len(set(selection.indices.tolist())) == k
    assert bool((selection.weights >= 0).all())
    residual = float((b - selection.weights @ A[selection.indices]).norm())
    assert residual == pytest.approx(fitted(A.numpy(), b.numpy(), selection.indices.tolist())[1], abs=1e-6)
    assert selection.objective == pytest.approx(0.5 * float(b @ b) - 0.5 * residual**2, abs=1e-8)
    assert selection.total == pytest.approx(0.5 * float(b @ b))
    assert selection.record["residual"] == pytest.approx(residual / float(b.norm()), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 12), seed=st.integers(0, 10**6), k=st.integers(1, 40))
def test_gains_add_up_to_what_a_ridge_leaves(n: int, d: int, seed: int, k: int) -> None:
    A, b, k = samples.normal_rows(n, d, seed), samples.normal_rows(1, d, seed + 3)[0], min(k, n)
    selection = gtp(A, b, k, ridge=0.05)
    assert selection.weights is not None
    assert selection.total is not None
    penalty = 0.05 * float(A.square().sum(1).mean())
    loss = 0.5 * float(
        (b - selection.weights @ A[selection.indices]).square().sum() + penalty * selection.weights.square().sum()
    )
    assert selection.objective == pytest.approx(selection.total - loss, abs=1e-8)


@pytest.mark.parametrize("clusters", [0, 8])
@pytest.mark.parametrize("k", [8, 24])
def test_on_targets_that_are_no_sparse_combination_it_is_as_good_as_omp(clusters: int, k: int) -> None:
    ratios = {"omp": [], "top": [], "written out": []}
    for seed in range(8):
        A = samples.normal_rows(600, 48, seed, clusters).numpy()
        b = A[:60].mean(0)
        residual = gtp(torch.from_numpy(A), torch.from_numpy(b), k).record["residual"] * np.linalg.norm(b)
        ratios["omp"].append(residual / omp(A, b, k)[1])
        ratios["top"].append(residual / top_k(A, b, k))
        ratios["written out"].append(residual / written_out_pursuit(A, b, k)[1])
    assert np.mean(ratios["omp"]) <= (1.3 if (k, clusters) == (24, 0) else 1.05)  # 3k rows exceed the width there
    assert np.mean(ratios["top"]) < 0.8
    assert np.mean(ratios["written out"]) < 1


@pytest.mark.parametrize("copies", [2, 7, 31])
def test_exactly_one_of_several_copies_is_chosen(copies: int) -> None:
    rows, target, chosen, _ = planted(3, n=500, d=64, k=6)
    shuffled = torch.randperm(500 + len(chosen) * copies, generator=torch.Generator().manual_seed(0))
    crowd = torch.cat([rows, *[rows[chosen]] * copies])[shuffled]
    selection = gtp(crowd, target, 6)
    assert selection.captured == pytest.approx(1.0)
    origin = [int((rows == crowd[row]).all(1).nonzero()[0]) for row in selection.indices.tolist()]
    assert sorted(origin) == sorted(chosen)


def test_copies_fill_up_last() -> None:
    rows = torch.eye(6, dtype=torch.float64)
    crowd = torch.cat([rows[:2], rows[:2], rows[:2], rows])
    selection = gtp(crowd, rows[:2].sum(0), 6)
    assert selection.indices[:2].tolist() == [0, 1]
    assert selection.weights is not None
    assert selection.weights.tolist() == [1, 1, 0, 0, 0, 0]
    assert sorted(selection.indices[2:].tolist()) == [8, 9, 10, 11]
    assert "4 were added" in selection.record["notes"][0]
    every = gtp(crowd, rows[:2].sum(0), len(crowd), ridge=0.0)
    assert sorted(every.indices.tolist()) == list(range(len(crowd)))


@pytest.mark.parametrize("k", [13, 40, 100])
def test_more_rows_than_dimensions_take_a_ridge_and_say_so(k: int) -> None:
    A = samples.normal_rows(100, 12, 1)
    selection = gtp(A, samples.normal_rows(1, 12, 2)[0], k)
    assert len(set(selection.indices.tolist())) == k
    assert selection.weights is not None
    assert bool((selection.weights >= 0).all())
    assert selection.record["parameters"]["ridge"] == 1e-3
    assert "ridge" in selection.record["notes"][0]
    assert selection.record["residual"] < 0.05


def test_copies_do_not_share_a_ridge() -> None:
    A = samples.normal_rows(40, 6, 5)
    selection = gtp(torch.cat([A, A, A]), A.mean(0), 30)
    assert selection.weights is not None
    weighted = selection.indices[selection.weights > 0] % 40
    assert len(weighted.unique()) == len(weighted)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("target_scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scaling_rows_or_target_changes_no_pick(scale: float, target_scale: float, dtype: torch.dtype) -> None:
    A, b = samples.normal_rows(300, 20, 8), samples.normal_rows(1, 20, 9)[0]
    plain = gtp(A.to(dtype), b.to(dtype), 12)
    selection = gtp((A * scale).to(dtype), (b * target_scale).to(dtype), 12)
    assert plain.weights is not None
    assert selection.weights is not None
    assert selection.indices.tolist() == plain.indices.tolist()
    assert (selection.weights * scale / target_scale).tolist() == pytest.approx(plain.weights.tolist(), rel=1e-4)
    assert selection.objective / target_scale**2 == pytest.approx(plain.objective, rel=1e-5)


def test_several_targets_share_the_rows_and_each_has_the_best_weights() -> None:
    A = samples.normal_rows(400, 40, 2)
    targets = torch.stack([A[:5].sum(0), A[3:9].sum(0), 2 * A[20:22].sum(0)])
    selection = gtp(A, targets, 11)
    assert selection.weights is not None
    assert sorted(selection.indices.tolist()) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 21]
    assert selection.captured == pytest.approx(1.0)
    total = sum(selection.curves[f"weight_{j}"] for j in range(3))
    assert torch.allclose(torch.as_tensor(total), selection.weights)
    fewer = gtp(A, targets, 6)
    for j, b in enumerate(targets):
        remaining = float((b - fewer.curves[f"weight_{j}"] @ A[fewer.indices]).norm())
        assert remaining == pytest.approx(fitted(A.numpy(), b.numpy(), fewer.indices.tolist())[1], abs=1e-8)


def test_checkpoints_side_by_side_are_one_matrix_scaled_by_their_rates() -> None:
    A, B = samples.normal_rows(200, 10, 1), samples.normal_rows(200, 14, 2)
    a, b = samples.normal_rows(1, 10, 3)[0], samples.normal_rows(1, 14, 4)[0]
    learning_rates = [4e-2, 1e-2]
    selection = gtp([A, B], [a, b], 9, learning_rates=learning_rates)
    whole = gtp(torch.cat([0.2 * A, 0.1 * B], 1), torch.cat([0.2 * a, 0.1 * b]), 9)
    assert selection.indices.tolist() == whole.indices.tolist()
    assert torch.allclose(selection.gains, whole.gains)
    joined = gtp([A, B], torch.cat([a, b]), 9, learning_rates=learning_rates)
    assert joined.indices.tolist() == whole.indices.tolist()


def test_without_a_target_it_matches_the_mean_of_all_rows() -> None:
    A = samples.normal_rows(500, 30, 6, clusters=5)
    selection = gtp(A, None, 20)
    assert selection.indices.tolist() == gtp(A, A.mean(0), 20).indices.tolist()
    assert (selection.captured or 0) > 0.95


def test_rows_on_disk_and_short_blocks_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    A, b = samples.normal_rows(300, 24, 4).float(), samples.normal_rows(1, 24, 5)[0].float()
    plain = gtp(A, b, 15)
    np.save(tmp_path / "rows.npy", A.numpy())
    assert gtp(npy_rows(tmp_path / "rows.npy"), b, 15).indices.tolist() == plain.indices.tolist()
    monkeypatch.setattr("hf_gip.core.matrix.BLOCK_BYTES", 1000)
    assert gtp(A, b, 15).indices.tolist() == plain.indices.tolist()
    half = A.bfloat16()  # taken as the data they are
    assert gtp(half, b, 15).indices.tolist() == gtp(half.float(), b, 15).indices.tolist()


def test_without_a_row_towards_the_target_all_weights_are_zero() -> None:
    A = torch.eye(5, dtype=torch.float64)
    selection = gtp(A, -torch.ones(5, dtype=torch.float64), 3)
    assert selection.weights is not None
    assert selection.weights.tolist() == [0, 0, 0]
    assert selection.objective == 0
    assert selection.record["residual"] == 1


def test_passes_are_counted_and_bounded() -> None:
    A = samples.normal_rows(800, 60, 3, clusters=6)
    assert gtp(A, None, 30, max_passes=1).record["passes"] == 1
    selection = gtp(A, None, 30)
    assert selection.record["passes"] <= 20
    assert selection.record["residuals"] == sorted(selection.record["residuals"], reverse=True)


GOOD = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gtp(torch.zeros(4, 3), None, 2), "`trajectories` must hold at least one row that is not zero"),
        (lambda: gtp(GOOD, torch.zeros(3), 2), "`target` must not be zero"),
        (lambda: gtp(GOOD, torch.ones(5), 2), "`target` must have the features' width 3, got 5"),
        (lambda: gtp(GOOD, None, 5), "`k` must be a whole number between 1 and the number of rows (4), got 5"),
        (lambda: gtp(GOOD, None, 2, learning_rates=[1.0, 2.0]), "one learning rate per checkpoint (1), got 2"),
        (
            lambda: gtp(GOOD, None, 2, learning_rates=[-1.0]),
            "`learning_rates` must be finite numbers of at least 0, not all 0",
        ),
        (lambda: gtp(GOOD, None, 2, ridge=-1.0), "`ridge` must be a number of at least 0"),
        (lambda: gtp(GOOD, None, 2, max_passes=0), "`max_passes` must be a whole number of at least 1, got 0"),
        (lambda: gtp([GOOD, GOOD[:2]], None, 2), "must hold the same rows at every checkpoint, got [4, 2]"),
        (lambda: gtp([GOOD, GOOD], [torch.ones(3)], 2), "`target` must have one tensor per checkpoint (2), got 1"),
        (lambda: gtp(GOOD * torch.nan, None, 2), "`trajectories` must be finite"),
        (lambda: gtp([], None, 2), "`trajectories` must hold at least one checkpoint"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
