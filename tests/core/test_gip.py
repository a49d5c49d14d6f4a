"""`gip` against its definition, and against its neighbours where they must agree."""

import math
import re

import numpy as np
import oracles
import pytest
import samples
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from hf_gip import gip
from hf_gip.core.gip import gip_reference

VALUE = {"projection": oracles.captured, "information": oracles.information}
SHAPES = [(1, 1, 1, 1), (12, 3, 8, 5), (14, 1, 16, 3), (18, 20, 5, 5), (16, 2, 4, 10), (20, 6, 3, 20)]


def objective_of(
    X: Tensor, Q: Tensor | None, picks: Tensor, objective: str, noise: float, w: Tensor | None = None
) -> float:
    queries = X if Q is None else Q
    weights = None if w is None else w.double().cpu().numpy()
    return VALUE[objective](X.double().cpu().numpy(), queries.double().cpu().numpy(), picks.tolist(), noise, weights)


@pytest.mark.parametrize("noise", [0.01, 0.1, 3.0])
@pytest.mark.parametrize("objective", ["projection", "information"])
@pytest.mark.parametrize(("n", "m", "d", "k"), SHAPES)
def test_picks_and_gains_are_those_of_the_definition(
    n: int, m: int, d: int, k: int, objective: str, noise: float, device: torch.device
) -> None:
    X, Q = samples.rows(n, d, duplicates=n // 6, zeros=n // 10), samples.queries(m, d)
    value = VALUE[objective]
    _, best = oracles.greedy(lambda rows: value(X.numpy(), Q.numpy(), rows, noise), n, k)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-4)):
        selection = gip(X.to(device, dtype), Q.to(device, dtype), k, objective=objective, noise=noise)
        assert len(set(selection.indices.tolist())) == k
        assert objective_of(X, Q, selection.indices, objective, noise) == pytest.approx(best, rel=tolerance)
        assert selection.objective == pytest.approx(best, rel=tolerance)


@pytest.mark.parametrize("objective", ["projection", "information"])
@pytest.mark.parametrize(("n", "m", "d", "k"), SHAPES)
def test_the_reference_loop_is_the_definition_and_gip_picks_as_it(
    n: int, m: int, d: int, k: int, objective: str
) -> None:
    X, Q, noise = samples.rows(n, d, duplicates=n // 6), samples.queries(m, d), 0.1
    sigma2, tau2 = (noise * float(each.square().sum(1).mean()) for each in (X, Q))
    picks, gains = gip_reference(X, Q, k, sigma2=sigma2, tau2=tau2 if objective == "information" else None)
    value = VALUE[objective]
    for size in range(1, k + 1):
        assert sum(gains[:size]) == pytest.approx(value(X.numpy(), Q.numpy(), picks[:size], noise), rel=1e-9)
    selection = gip(X, Q, k, objective=objective, noise=noise)
    assert selection.gains.tolist() == pytest.approx(gains, rel=1e-6, abs=1e-9 * sum(gains))
    assert selection.objective == pytest.approx(sum(gains), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 14), st.integers(1, 5), st.integers(1, 6), st.floats(0.005, 20), st.integers(0, 10_000), st.data()
)
def test_any_small_problem_is_solved_as_by_trying_every_row(
    n: int, m: int, d: int, noise: float, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    objective = data.draw(st.sampled_from(["projection", "information"]))
    X = samples.rows(n, d, seed=seed, rank=data.draw(st.integers(1, d)), duplicates=n // 3)
    Q = samples.queries(m, d, seed=seed + 1)
    w = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.05
    value = VALUE[objective]
    _, best = oracles.greedy(lambda rows: value(X.numpy(), Q.numpy(), rows, noise, w.numpy()), n, k)
    selection = gip(X, Q, k, objective=objective, noise=noise, precision=w)
    assert selection.objective == pytest.approx(best, rel=1e-6)
    assert objective_of(X, Q, selection.indices, objective, noise, w) == pytest.approx(best, rel=1e-6)


def information_of_shares(X: Tensor, Q: Tensor, picks: list[int], noise: float) -> float:
    """I(z_S; y) = −½ Σ log(1 − ρ²) over the canonical correlations, which much noise does not drown."""
    (sigma2, tau2), F = oracles.noise_levels(X.numpy(), Q.numpy(), noise), X[picks].numpy()
    Kz, Ky, C = F @ F.T + sigma2 * np.eye(len(F)), Q.numpy() @ Q.numpy().T + tau2 * np.eye(len(Q)), F @ Q.numpy().T
    half = np.linalg.solve(np.linalg.cholesky(Ky), C.T)
    correlations = np.linalg.svd(np.linalg.solve(np.linalg.cholesky(Kz), half.T), compute_uv=False)
    return float(-0.5 * np.log1p(-(correlations**2)).sum())


@pytest.mark.parametrize("noise", [1e-2, 1e2, 1e4, 1e6, 1e8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_informations_under_much_noise_keep_their_digits(noise: float, dtype: torch.dtype) -> None:
    X, Q = samples.rows(40, 8), samples.queries(3, 8)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-7
    for queries in (Q, None):
        asked = X if queries is None else Q
        narrow = None if queries is None else queries.to(dtype)
        selection = gip(X.to(dtype), narrow, 10, objective="information", noise=noise)
        picks = selection.indices.tolist()
        steps = [information_of_shares(X, asked, picks[:t], noise) for t in range(1, 11)]
        assert selection.gains.cumsum(0).tolist() == pytest.approx(steps, rel=tolerance)
        assert selection.total == pytest.approx(information_of_shares(X, asked, list(range(40)), noise), rel=tolerance)
        sigma2, tau2 = oracles.noise_levels(X.numpy(), asked.numpy(), noise)
        assert gip_reference(X, asked, 10, sigma2=sigma2, tau2=tau2)[1] == pytest.approx(
            selection.gains.tolist(), rel=1e-4 if dtype == torch.float32 else 1e-6
        )


def test_the_gains_are_the_steps_of_the_objective() -> None:
    X, Q = samples.rows(40, 10), samples.queries(4, 10)
    for objective in VALUE:
        selection = gip(X, Q, 15, objective=objective)
        steps = [objective_of(X, Q, selection.indices[:t], objective, 0.1) for t in range(1, 16)]
        assert selection.gains.cumsum(0).tolist() == pytest.approx(steps, rel=1e-9)


@pytest.mark.parametrize("objective", ["projection", "information"])
def test_without_queries_the_pool_itself_is_the_target(objective: str) -> None:
    X = samples.rows(30, 6)
    implicit, explicit = gip(X, None, 12, objective=objective), gip(X, X, 12, objective=objective)
    assert implicit.indices.tolist() == explicit.indices.tolist()
    assert implicit.objective == pytest.approx(explicit.objective, rel=1e-9)
    assert implicit.objective == pytest.approx(objective_of(X, None, implicit.indices, objective, 0.1), rel=1e-6)


@pytest.mark.parametrize("objective", ["projection", "information"])
def test_the_total_is_what_the_queries_hold_and_what_all_rows_tell(objective: str) -> None:
    X, Q = samples.rows(30, 6), samples.queries(3, 6)
    selection = gip(X, Q, 30, objective=objective)
    ends = {"projection": float(Q.square().sum()), "information": objective_of(X, Q, torch.arange(30), objective, 0.1)}
    assert selection.total == pytest.approx(ends[objective], rel=1e-9)
    assert selection.captured is not None
    assert selection.captured <= 1 + 1e-12
    if objective == "information":
        assert selection.captured == pytest.approx(1, rel=1e-9)
        assert gip(X, Q, 3, objective=objective).total is None  # k < d: it would cost more than the picks


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6, 1e18, 1e-18])
@pytest.mark.parametrize("objective", ["projection", "information"])
def test_scale_changes_neither_picks_nor_share(objective: str, scale: float) -> None:
    X, Q = samples.rows(60, 12).float(), samples.queries(5, 12).float()
    plain, scaled = gip(X, Q, 20, objective=objective), gip(X * scale, Q / scale, 20, objective=objective)
    assert scaled.indices.tolist() == plain.indices.tolist()
    unit = plain.total if objective == "projection" else 1.0
    unit_scaled = scaled.total if objective == "projection" else 1.0
    assert unit is not None
    assert unit_scaled is not None
    assert scaled.objective / unit_scaled == pytest.approx(plain.objective / unit, rel=1e-4)


def test_ties_go_to_the_lowest_row_and_the_first_picks_do_not_depend_on_k() -> None:
    X, Q = samples.rows(50, 8), samples.queries(4, 8)
    twice = torch.cat([X, X])
    for objective in VALUE:
        selection = gip(twice, Q, 30, objective=objective).indices.tolist()
        for position, row in enumerate(selection):
            assert row < 50 or row - 50 in selection[:position]
        assert gip(twice, Q, 12, objective=objective).indices.tolist() == selection[:12]


def test_the_order_of_the_rows_does_not_matter() -> None:
    X, Q = samples.rows(50, 8), samples.queries(4, 8)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    for objective in VALUE:
        assert order[gip(X[order], Q, 12, objective=objective).indices].equal(
            gip(X, Q, 12, objective=objective).indices
        )


def test_half_precision_features_are_taken_as_the_data_they_are() -> None:
    X, Q = samples.rows(80, 10), samples.queries(4, 10)
    for dtype in (torch.float16, torch.bfloat16):
        rounded = X.to(dtype)
        selection, expected = gip(rounded, Q.to(dtype), 12), gip(rounded.double(), Q.to(dtype).double(), 12)
        assert selection.indices.tolist() == expected.indices.tolist()
        assert selection.objective == pytest.approx(expected.objective, rel=1e-4)


def test_precision_is_noise_per_row() -> None:
    X, Q = samples.rows(40, 8), samples.queries(3, 8)
    trusted = torch.ones(40, dtype=torch.float64)
    assert gip(X, Q, 9, precision=trusted).indices.equal(gip(X, Q, 9).indices)
    distrusted = trusted.clone()
    first = gip(X, Q, 9).indices[:3]
    distrusted[first] = 0.0  # infinitely noisy: such a row tells nothing
    selection = gip(X, Q, 30, precision=distrusted).indices
    assert not set(selection.tolist()) & set(first.tolist())


def test_without_noise_the_picks_end_with_the_rank_and_the_record_says_so() -> None:
    X, Q = samples.rows(30, 8, rank=4), samples.queries(6, 8)
    for dtype in (torch.float32, torch.float64):
        selection = gip(X.to(dtype), Q.to(dtype), 10, noise=0.0)
        assert len(selection) == 4
        assert selection.record["notes"] == [
            "4 of 10 picks hold all that this pool can tell about the queries without noise; none was added."
        ]
        assert selection.objective == pytest.approx(objective_of(X, Q, torch.arange(30), "projection", 0), rel=1e-4)


def test_one_query_without_noise_is_orthogonal_least_squares_and_its_first_pick_that_of_scikit_learn() -> None:
    X, q = samples.rows(40, 12), samples.queries(1, 12)
    unit = X / X.norm(dim=1, keepdim=True)
    selection = gip(unit, q, 8, noise=0.0)
    ours = objective_of(unit, q, selection.indices, "projection", 0)
    theirs = np.flatnonzero(orthogonal_mp(unit.T.numpy(), q[0].numpy(), n_nonzero_coefs=8))
    assert int(selection.indices[0]) in theirs
    assert ours >= oracles.captured(unit.numpy(), q.numpy(), theirs.tolist(), 0) * (1 - 1e-12)


def test_on_orthogonal_rows_one_query_gives_the_atoms_of_scikit_learn() -> None:
    rotation = torch.linalg.qr(samples.rows(12, 12))[0]
    q = samples.queries(1, 12)
    theirs = np.flatnonzero(orthogonal_mp(rotation.T.numpy(), q[0].numpy(), n_nonzero_coefs=5))
    assert sorted(gip(rotation, q, 5, noise=0.0).indices.tolist()) == theirs.tolist()
    assert sorted(gip(rotation, q, 5, noise=1e-8).indices.tolist()) == theirs.tolist()


def test_one_query_makes_information_and_projection_the_same_choice() -> None:
    X, q = samples.rows(60, 10), samples.queries(1, 10)
    for noise in (0.01, 0.1, 1.0):
        assert gip(X, q, 15, noise=noise).indices.equal(gip(X, q, 15, noise=noise, objective="information").indices)


def test_queries_that_determine_everything_make_the_information_a_greedy_dpp() -> None:
    X = samples.rows(30, 6)
    Q = torch.eye(6, dtype=torch.float64) * 1e5  # τ² = noise·mean‖q‖² must vanish beside every direction of QᵀQ
    noise = 1e-7
    sigma2, _ = oracles.noise_levels(X.numpy(), Q.numpy(), noise)
    selection = gip(X, Q, 6, objective="information", noise=noise).indices.tolist()
    assert selection == oracles.greedy_dpp(X.numpy(), sigma2, 6)


def test_matching_is_the_textbook_pursuit() -> None:
    X, Q = samples.rows(60, 8, zeros=2), samples.queries(3, 8)
    rows, removed = oracles.matching_pursuit(X.numpy(), Q.numpy(), 20)
    selection = gip(X, Q, 20, pursuit="matching")
    assert selection.indices.tolist() == rows
    assert selection.gains.tolist() == pytest.approx(removed, rel=1e-6)


def test_matching_goes_on_above_the_rank_without_underflow() -> None:
    X, Q = samples.rows(30_000, 2), samples.queries(2, 2)
    single = gip(X.float(), Q.float(), 700, pursuit="matching")
    assert len(single) == 700
    assert bool(((single.gains > 0) & (single.gains < 1e-60)).any())  # float32 ends at 1e-45
    assert single.objective == pytest.approx(float(Q.square().sum()), rel=1e-4)


def test_the_record_holds_the_parameters_and_when_the_span_was_full() -> None:
    X, Q = samples.rows(200, 10), samples.queries(30, 10)
    selection = gip(X, Q, 40, noise=0.5)
    parameters = selection.record["parameters"]
    sigma2, tau2 = oracles.noise_levels(X.numpy(), Q.numpy(), 0.5)
    assert parameters == {
        "k": 40, "objective": "projection", "noise": 0.5, "pursuit": "orthogonal", "precision": False,
        "sigma2": pytest.approx(sigma2), "tau2": pytest.approx(tau2), "query_rank": 10, "dtype": "float64",
    }  # fmt: skip
    full = selection.record["span_full_at"]
    share = [
        objective_of(X, Q, selection.indices[:t], "projection", 0) / float(Q.square().sum()) for t in (full - 1, full)
    ]
    assert share[0] < 0.999 <= share[1]
    assert selection.record["notes"] == [f"{full} of 40 picks filled the span; the rest refine it."]


X, Q = torch.ones(4, 3), torch.ones(2, 3)
BAD = [
    ({"k": 0}, ValueError, "`k` must be a whole number between 1 and the number of rows (4), got 0."),
    ({"k": 5}, ValueError, "`k` must be a whole number between 1 and the number of rows (4), got 5."),
    ({"objective": "trace"}, ValueError, '`objective` must be "projection" or "information", got \'trace\'.'),
    ({"pursuit": "omp"}, ValueError, '`pursuit` must be "orthogonal" or "matching", got \'omp\'.'),
    ({"noise": -1.0}, ValueError, "`noise` must be a number of at least 0, got -1.0."),
    ({"noise": math.nan}, ValueError, "`noise` must be a number of at least 0, got nan."),
    (
        {"noise": 0.0, "objective": "information"},
        ValueError,
        "`noise` must be above 0 for the information, which is infinite without noise, got 0.",
    ),
    (
        {"pursuit": "matching", "objective": "information"},
        ValueError,
        "`pursuit=\"matching\"` must go with the projection and without `precision`, got objective='information', "
        'precision not given: use `pursuit="orthogonal"`.',
    ),
    (
        {"precision": torch.tensor([1.0, -1.0, 1.0, 1.0])},
        ValueError,
        "`precision` must be finite, at least 0 and not all 0: rescale the weights to (0, 1].",
    ),
    ({"precision": torch.ones(3)}, ValueError, "`precision` must hold one weight per row (4), got shape (3,)."),
    (
        {"features": torch.zeros(4, 3)},
        ValueError,
        "`features` must hold at least one row that is not zero, got 4 zero row(s).",
    ),
    (
        {"queries": torch.ones(2, 5)},
        ValueError,
        "`queries` must have the features' width 3, got 5: embed both with the same encoder.",
    ),
    (
        {"features": torch.tensor([[1.0, math.inf, 0], [1, 1, 1]]), "k": 1},
        ValueError,
        "`features` must be finite, got NaN or infinity in 1 row(s), first in row 0: drop or recompute them.",
    ),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD)
@pytest.mark.usefixtures("without_shape_checks")
def test_bad_input_is_refused_in_one_sentence(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"features": X, "queries": Q, "k": 2, **change}
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        gip(**arguments)
