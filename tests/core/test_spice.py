"""SPICE against its definition: determinants, the paper's loop, its windows, its stop."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_spice import greedy_spice, in_units, log_det, score, windowed_spice
from torch import Tensor

from hf_gip.core.spice import TIE_SLACK, Fisher, SpiceOptions, greedy_over_pool, spice

FISHERS = ("full", "diagonal", "diagonal_g4")


def sample(n: int, d: int, seed: int = 0, scale: float = 0.6) -> Tensor:
    """Gradients of uneven size that mostly agree, as those of one model do."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.rand(n, 1, generator=generator, dtype=torch.float64) + 0.2
    shared = torch.randn(1, d, generator=generator, dtype=torch.float64)
    return scale * size * (torch.randn(n, d, generator=generator, dtype=torch.float64) + 0.3 * shared)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (9, 4, 9), (40, 12, 15), (30, 50, 20)])
def test_picks_gains_and_conflicts_are_those_of_the_papers_loop(
    fisher: Fisher, n: int, d: int, k: int, alpha: float, absolute: bool
) -> None:
    G = sample(n, d)
    selection = spice(G, k, alpha=alpha, absolute_alpha=absolute, fisher=fisher)
    rows, gains, conflicts = greedy_spice(G.numpy(), k, alpha, fisher=fisher, absolute=absolute)
    assert selection.indices.tolist() == rows
    assert selection.gains.numpy() == pytest.approx(gains, abs=1e-10)
    assert selection.curves["conflict"].numpy() == pytest.approx(conflicts, abs=1e-10)


def test_every_gain_is_a_difference_of_log_determinants() -> None:
    G = sample(60, 16)
    selection = spice(G, 25, alpha=0.5)
    picks = selection.indices.tolist()
    steps = [log_det(in_units(G.numpy()), picks[:size], 0.5) for size in range(26)]
    assert selection.gains.numpy() == pytest.approx(np.diff(steps), abs=1e-10)
    assert selection.objective == pytest.approx(steps[-1], abs=1e-9)


def test_without_a_penalty_it_is_greedy_d_optimal_design() -> None:
    G = sample(40, 10).numpy()
    chosen: list[int] = []
    for _ in range(14):
        remaining = [i for i in range(len(G)) if i not in chosen]
        chosen.append(max(remaining, key=lambda i: log_det(in_units(G), [*chosen, i], 0.01)))
    assert spice(torch.from_numpy(G), 14, conflict_penalty=0.0).indices.tolist() == chosen


@pytest.mark.parametrize("fisher", FISHERS)
def test_a_short_shortlist_changes_nothing(fisher, monkeypatch: pytest.MonkeyPatch) -> None:
    G = sample(300, 24)
    whole = spice(G, 80, fisher=fisher)
    monkeypatch.setattr("hf_gip.core.spice.SHORTLIST", 2)
    monkeypatch.setattr("hf_gip.core.spice.BLOCK", 5)
    short = spice(G, 80, fisher=fisher)
    assert short.indices.tolist() == whole.indices.tolist()
    assert short.gains.numpy() == pytest.approx(whole.gains.numpy(), abs=1e-10)


@pytest.mark.parametrize("fisher", FISHERS)
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("stop_ratio", [None, 0.5])
@pytest.mark.parametrize(("n", "k", "window"), [(60, 12, 20), (50, 9, 20), (7, 3, 100), (30, 30, 1)])
def test_windows_give_what_the_written_out_algorithm_gives(
    fisher: Fisher, stop_ratio: float | None, n: int, k: int, window: int, absolute: bool
) -> None:
    G = sample(n, 30)
    selection = spice(G, k, window=window, fisher=fisher, stop_ratio=stop_ratio, absolute_alpha=absolute)
    expected = windowed_spice(G.numpy(), k, window, fisher=fisher, stop_ratio=stop_ratio, absolute=absolute)
    assert selection.indices.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 24),
    d=st.integers(1, 8),
    window=st.sampled_from([None, 1, 7]),
    alpha=st.sampled_from([0.01, 1.0, 10.0]),
    penalty=st.sampled_from([0.0, 0.1, 2.0]),
    stop_ratio=st.sampled_from([0.1, 0.5, 0.9]),
    fisher=st.sampled_from(FISHERS),
)
def test_without_k_the_ratio_alone_ends_each_window(
    seed: int,
    n: int,
    d: int,
    window: int | None,
    alpha: float,
    penalty: float,
    stop_ratio: float,
    fisher: Fisher,
) -> None:
    G = sample(n, d, seed)
    options = {"alpha": alpha, "stop_ratio": stop_ratio, "fisher": fisher}
    selection = spice(G, None, window=window, conflict_penalty=penalty, **options)
    assert selection.indices.tolist() == windowed_spice(G.numpy(), None, window or n, penalty=penalty, **options)
    assert selection.record["parameters"]["k"] is None


def test_without_k_something_must_end_the_run() -> None:
    message = "`k` must be a number of rows where `stop_ratio` ends no window, got None: set either."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spice(torch.eye(3), None)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    exponent=st.sampled_from([-6, -4, -2, -1, 1, 2, 4, 6]),
    window=st.sampled_from([None, 7]),
    alpha=st.sampled_from([0.01, 1.0]),
    fisher=st.sampled_from(FISHERS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_the_scale_of_the_gradients_changes_nothing(
    seed: int, exponent: int, window: int | None, alpha: float, fisher: Fisher, dtype: torch.dtype
) -> None:
    G = sample(24, 6, seed).to(dtype)
    one, other = (spice(g, 9, window=window, alpha=alpha, fisher=fisher) for g in (G, G * 10.0**exponent))
    assert one.indices.tolist() == other.indices.tolist()
    assert one.gains.tolist() == pytest.approx(other.gains.tolist(), rel=1e-4)
    for name in ("conflict", "overlap"):
        assert one.curves[name].tolist() == pytest.approx(other.curves[name].tolist(), abs=1e-5)
    derived = ("greedy_guarantee", "fisher_norm")
    for name in derived:
        assert one.record[name] == pytest.approx(other.record[name], rel=1e-4)
    assert {**one.record, **dict.fromkeys(derived)} == {**other.record, **dict.fromkeys(derived)}


def test_windows_in_several_batches_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    G = sample(230, 12)
    whole = spice(G, 40, window=20)
    monkeypatch.setattr("hf_gip.core.spice.WINDOW_BYTES", 1)
    assert spice(G, 40, window=20).indices.tolist() == whole.indices.tolist()


@pytest.mark.parametrize("fisher", FISHERS)
def test_it_stops_where_the_information_gain_has_halved(fisher) -> None:
    G = sample(80, 8, scale=2.0)
    selection = spice(G, 60, alpha=1.0, stop_ratio=0.5, fisher=fisher)
    rows, gains, _ = greedy_spice(G.numpy(), 60, 1.0, stop_ratio=0.5, fisher=fisher)
    assert selection.indices.tolist() == rows
    assert len(rows) < 60
    assert selection.record["stopped_early"]
    assert selection.gains.numpy() == pytest.approx(gains, abs=1e-10)


def test_overlap_is_what_the_chosen_rows_took_away() -> None:
    G = sample(30, 6)
    selection = spice(G, 12)
    alone = [log_det(in_units(G.numpy()), [row], 0.01) for row in selection.indices.tolist()]
    assert selection.curves["overlap"].numpy() == pytest.approx(selection.gains.numpy() - alone, abs=1e-10)
    assert selection.curves["overlap"][0] == pytest.approx(0, abs=1e-10)
    assert bool((selection.curves["overlap"][1:] < 0).all())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(2, 20), fisher=st.sampled_from(FISHERS))
def test_fewer_picks_are_the_first_of_more(seed: int, k: int, fisher) -> None:
    G = sample(24, 7, seed)
    assert spice(G, k - 1, fisher=fisher).indices.tolist() == spice(G, k, fisher=fisher).indices.tolist()[:-1]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_order_of_the_rows_does_not_matter(seed: int) -> None:
    G = sample(24, 7, seed)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    assert order[spice(G[order], 10).indices].tolist() == spice(G, 10).indices.tolist()


def test_of_equal_rows_the_lowest_goes_first() -> None:
    assert spice(torch.eye(3, dtype=torch.float64).repeat(2, 1), 4).indices.tolist() == [0, 1, 2, 3]
    assert spice(torch.eye(3, dtype=torch.float64).repeat(2, 1), 6, window=6).indices.tolist()[:3] == [0, 1, 2]


def test_a_row_that_pulls_against_the_chosen_ones_is_passed_over() -> None:
    G = torch.tensor([[2.0, 0.0], [-1.0, 1.0], [1.0, 0.99]])
    assert spice(G, 2, conflict_penalty=0.0).indices.tolist() == [0, 1]
    selection = spice(G, 2, conflict_penalty=0.1)
    assert selection.indices.tolist() == [0, 2]
    assert selection.curves["conflict"].tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_reaches_the_same_information(dtype: torch.dtype, device: torch.device) -> None:
    G = sample(400, 32).to(dtype)
    selection = spice(G.to(device), 80)
    rows, gains, _ = greedy_spice(G.double().numpy(), 10)
    assert selection.indices[:10].tolist() == rows
    assert selection.gains[:10].numpy() == pytest.approx(gains, rel=1e-5)
    information = log_det(in_units(G.double().numpy()), selection.indices.tolist(), 0.01)
    assert selection.objective == pytest.approx(information, rel=1e-6)


def test_rows_without_a_gradient_come_last_and_add_nothing() -> None:
    G = torch.cat([torch.zeros(2, 3), torch.eye(3)])
    selection = spice(G, 5)
    assert selection.indices.tolist() == [2, 3, 4, 0, 1]
    assert selection.gains[3:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "`alpha` must be a positive number, got 0.0."),
        ({"conflict_penalty": -0.1}, "`conflict_penalty` must be zero or a positive number, got -0.1."),
        ({"stop_ratio": 1.5}, "`stop_ratio` must be between 0 and 1, or None never to stop, got 1.5."),
        ({"window": 0}, "`window` must be a whole number of rows, or None for the whole pool, got 0."),
    ],
)
def test_an_option_out_of_range_is_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spice(torch.eye(3), 2, **options)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    G = torch.eye(3)
    G[1, 2] = torch.nan
    message = "`gradients` must be finite, got NaN or infinity in 1 row(s), first in row 1: drop or recompute them."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        spice(G, 2)


@pytest.mark.parametrize("penalty", [0.0, 0.1])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("fisher", ["full", "diagonal"])
@pytest.mark.parametrize("seed", range(4))
def test_rounding_changes_a_pick_only_where_a_row_lies_at_the_edge_of_the_tie(
    fisher: Fisher, window: int | None, penalty: float, seed: int
) -> None:
    """Gradients of unit length all tie for the first pick; float32 and a jitter of 1e-7 must not break that tie.

    A row whose score lies below the best by the tolerance itself may count as tied or not, whatever the tolerance is.
    """
    draw = torch.Generator().manual_seed(seed)
    G = torch.nn.functional.normalize(torch.randn(1000, 24, generator=draw, dtype=torch.float64))
    jitter = 1 + 1e-7 * (2 * torch.rand(1000, 1, generator=draw, dtype=torch.float64) - 1)
    options = {"alpha": 1.0, "fisher": fisher, "window": window, "conflict_penalty": penalty}
    picks = spice(G, 57, **options).indices
    for other in (spice(G.float(), 57, **options).indices, spice(G * jitter, 57, **options).indices):
        assert int(other[0]) == int(picks[0]) == 0
        if len(differ := (other != picks).nonzero()):
            first = int(differ[0])
            size = window or len(G)
            rows = range(start := int(picks[first]) // size * size, start + size)
            chosen = [row for row in picks[:first].tolist() if row in rows]
            scores = {row: score(G.numpy(), row, chosen, penalty, fisher) for row in rows if row not in chosen}
            gap = max(scores.values()) - min(scores[int(picks[first])], scores[int(other[first])])
            assert gap == pytest.approx(TIE_SLACK * math.log(2), rel=0.5)


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("exponent", range(-6, 7))
def test_gains_hold_at_any_scale(exponent: int, window: int | None) -> None:
    """Copies of one row: pick t adds log(1 + tE) − log(1 + (t − 1)E), E = α‖g‖²."""
    G = torch.full((8, 1), 10.0**exponent)
    energy = float(G[0].double().square())
    expected = [math.log1p(t * energy) - math.log1p((t - 1) * energy) for t in range(1, 5)]
    selection = spice(G, 4, window=window, alpha=1.0, absolute_alpha=True)
    assert selection.gains.tolist() == pytest.approx(expected, rel=1e-3)


def test_gradients_too_long_for_float64_are_refused() -> None:
    with pytest.raises(ValueError, match=r"length of a gradient must be at most 1e\+12, got 1e\+13: lower"):
        spice(torch.full((8, 10), 1e6), 4, alpha=1.0, absolute_alpha=True)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 8),
    d=st.integers(1, 6),
    k=st.integers(1, 4),
    window=st.sampled_from([None, 3]),
    penalty=st.sampled_from([0.0, 0.1, 2.0]),
    fisher=st.sampled_from(FISHERS),
    alpha=st.sampled_from([0.1, 1.0, 100.0]),
)
def test_the_recorded_guarantee_is_never_above_the_true_ratio(
    seed: int, n: int, d: int, k: int, window: int | None, penalty: float, fisher: Fisher, alpha: float
) -> None:
    k, G = min(k, n), sample(n, d, seed)
    selection = spice(G, k, window=window, conflict_penalty=penalty, fisher=fisher, alpha=alpha)
    picks, size = selection.indices.tolist(), window or n
    reached = best = 0.0
    for start in range(0, n, size):
        rows = range(start, min(start + size, n))
        chosen = [row for row in picks if row in rows]
        part = np.zeros((n, d))
        part[list(rows)] = in_units(G.numpy()[list(rows)])
        reached += log_det(part, chosen, alpha)
        best += max(log_det(part, list(subset), alpha) for subset in combinations(rows, len(chosen)))
    assert 0 < selection.record["greedy_guarantee"] <= reached / best + 1e-9


def test_a_penalty_costs_information_and_the_recorded_guarantee_knows_it() -> None:
    """The example in which (1 − e⁻ᶜ)/c, true without a penalty, promised .923."""
    G = torch.tensor(
        [
            [0.3, 0, 0],
            [0, 0.29, 0],
            [-0.28, 0.05, 0],
            [-0.27, 0, 0.05],
            [0.1, 0.1, 0.02],
            [0.1, 0, 0.05],
            [0.08, 0.02, 0.1],
        ]
    )
    selection = spice(G, 4, alpha=1.0, absolute_alpha=True)
    best = max(log_det(G.double().numpy(), list(subset), 1.0) for subset in combinations(range(7), 4))
    assert selection.objective / best == pytest.approx(0.669, abs=1e-3)
    assert 0.5 < selection.record["greedy_guarantee"] < 0.669


def test_the_record_tells_the_norm_that_the_bound_on_the_overlap_asks_for() -> None:
    G = sample(30, 6)
    selection = spice(G, 8, alpha=0.3, absolute_alpha=True)
    norm = np.linalg.norm(G.numpy()[selection.indices.tolist()], 2)
    assert selection.record["fisher_norm"] == pytest.approx(0.3 * norm**2, rel=1e-9)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    begun=st.integers(0, 8),
    fisher=st.sampled_from(FISHERS),
    alpha=st.sampled_from([0.01, 1.0]),
    stop_ratio=st.sampled_from([None, 0.5, 0.9]),
)
def test_a_run_that_has_begun_goes_on_as_it_would_have(
    seed: int, begun: int, fisher: Fisher, alpha: float, stop_ratio: float | None
) -> None:
    G, ones = sample(24, 5, seed), torch.ones(24, dtype=torch.float64)
    options = SpiceOptions(alpha, 0.1, stop_ratio, fisher)
    whole = greedy_over_pool(G, ones, 12, options, torch.float64)
    first = whole.rows[:begun]
    free = [row for row in range(24) if row not in first]
    rest = greedy_over_pool(
        G[free], ones[free], 12 - len(first), options, torch.float64, G[first], whole.gains[0] if first else None
    )
    assert [*first, *(free[row] for row in rest.rows)] == whole.rows
    assert rest.gains == pytest.approx(whole.gains[begun:], rel=1e-9)
    assert rest.conflicts == pytest.approx(whole.conflicts[begun:], abs=1e-9)
    assert rest.stopped == whole.stopped
