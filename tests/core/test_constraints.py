"""Quotas, given rows and budgets hold exactly, and each pick is the best row they still allow."""

import re

import numpy as np
import oracles
import pytest
import samples
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from oracles_constraints import feasible, random_constraints

from hf_gip.core.constraints import Constraints
from hf_gip.core.gip import gip

KINDS = ["projection", "information"]


def possible(limits: Constraints, n: int, k: int) -> bool:
    """Whether any selection keeps to the limits: k rows of them, or with a budget at least one row."""
    chosen = limits.initial().tolist()
    if limits.max_tokens is not None:
        return feasible(chosen, limits, k) and any(feasible([*chosen, i], limits, k) for i in range(n)) | bool(chosen)
    room = n
    if limits.max_per_group is not None:
        sizes = torch.bincount(limits.groups, minlength=len(limits.max_per_group))
        room = int(torch.minimum(sizes, limits.max_per_group).sum())
    return feasible(chosen, limits, k) and room >= k


def constrained(value, limits: Constraints, n: int, k: int) -> list[int]:
    """Try every allowed row at every pick; the largest gain (per token) wins, the lowest row of a tie."""
    rows = limits.initial().tolist()
    while len(rows) < k:
        allowed = [i for i in range(n) if i not in rows and feasible([*rows, i], limits, k)]
        if not allowed:
            break
        before = value(rows) if rows else 0.0
        worth = np.array([value([*rows, i]) - before for i in allowed])
        if limits.max_tokens is not None:
            worth /= limits.tokens.numpy()[allowed]  # type: ignore[union-attr]
        rows.append(allowed[int(np.argmax(worth >= worth.max() - 1e-9 * abs(worth.max())))])
    return rows


@settings(max_examples=200, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(KINDS),
    st.integers(4, 13),
    st.integers(1, 6),
    st.integers(1, 15),
    st.integers(0, 10_000),
    st.data(),
)
def test_picks_are_those_of_a_brute_force_under_the_same_limits(
    kind: str, n: int, d: int, kinds: int, seed: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, n))
    limits = random_constraints(n, k, torch.Generator().manual_seed(seed), kinds)
    try:
        limits.check(n, k)
    except ValueError:
        assert not possible(limits, n, k)
        return
    assert possible(limits, n, k)
    X, Q = samples.rows(n, d, seed=seed, duplicates=n // 5), samples.queries(3, d, seed=seed)
    weights = 0.3 + torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    selection = gip(X, Q, k, objective=kind, noise=0.2, precision=weights, constraints=limits)
    rows = selection.indices.tolist()

    def value(chosen: list[int]) -> float:
        judge = oracles.captured if kind == "projection" else oracles.information
        return judge(X.numpy(), Q.numpy(), chosen, 0.2, weights.numpy())

    expected = constrained(value, limits, n, k)
    assert rows[: len(limits.initial())] == limits.initial().tolist()
    assert len(set(rows)) == len(rows)
    assert len(rows) == k or limits.max_tokens is not None
    assert feasible(rows, limits, max(k, len(rows)))
    if limits.min_per_group is not None:
        assert (
            torch.bincount(limits.groups[selection.indices], minlength=len(limits.min_per_group))
            >= limits.min_per_group
        ).all()
    if rows != expected:  # a tie broken by rounding: from there on the runs may part, each as good at that pick
        at = next(t for t, (one, other) in enumerate(zip(rows, expected, strict=False)) if one != other)
        before = value(expected[:at]) if at else 0.0
        cost = (
            [1, 1] if limits.max_tokens is None else [int(limits.tokens[rows[at]]), int(limits.tokens[expected[at]])]
        )
        mine, best = (value([*expected[:at], row]) - before for row in (rows[at], expected[at]))
        assert feasible(rows[: at + 1], limits, k)
        assert mine / cost[0] == pytest.approx(best / cost[1], rel=1e-6, abs=1e-9)
    else:
        assert selection.objective == pytest.approx(value(rows), rel=1e-6)


def test_a_full_size_pool_in_float32_keeps_its_quotas_block_by_block() -> None:
    n, k = 5_000, 400
    X, Q = samples.rows(n, 24).float(), samples.queries(4, 24).float()
    groups = torch.arange(n) % 40
    limits = Constraints(groups=groups, max_per_group=torch.full((40,), 12), min_per_group=torch.full((40,), 8))
    passes: list[int] = []
    selection = gip(X, Q, k, constraints=limits, progress=lambda _, done: passes.append(done))
    counts = torch.bincount(groups[selection.indices])
    assert len(selection) == k
    assert 8 <= int(counts.min()) <= int(counts.max()) <= 12
    assert passes[-1] < k
    free = gip(X, Q, k)
    assert selection.objective <= free.objective * (1 + 1e-6)
    assert gip(X, Q, k, constraints=Constraints(groups=groups, max_per_group=torch.full((40,), n))).indices.equal(
        free.indices
    )


def test_initial_rows_condition_the_other_picks() -> None:
    X = torch.eye(6, dtype=torch.float64)[[0, 0, 1, 2, 3, 4]]
    selection = gip(X, None, 3, noise=0.01, constraints=Constraints(initial_rows=torch.tensor([1])))
    assert selection.indices.tolist() == [1, 2, 3]  # row 0 is a copy of what is given
    assert selection.gains[0] > 0


A = torch.tensor([0, 0, 0, 1, 1, 2])
COST = torch.tensor([5, 7, 9, 5, 5, 5])


@pytest.mark.parametrize(
    ("limits", "k", "message"),
    [
        (
            {"min_per_group": [4, 0, 0]},
            5,
            "`min_per_group` must not exceed the rows there are, got 4 for group 'a' of 3: 1 too many.",
        ),
        (
            {"min_per_group": [2, 2, 1]},
            3,
            "`min_per_group` must fit into k=3, got 5 rows over 3 group(s): 2 too many; raise `k` or lower the "
            "quotas.",
        ),
        (
            {"min_per_group": [2, 0, 0], "initial_rows": [3, 5]},
            3,
            "`min_per_group` must fit into k=3 beside `initial_rows`, got 4 rows over 3 group(s): 1 too many; raise "
            "`k` or "
            "lower the quotas.",
        ),
        (
            {"max_per_group": [1, 1, 1]},
            5,
            "`max_per_group` must leave room for k=5 rows, got 3 over 3 group(s): 2 too few; raise the quotas or "
            "lower `k`.",
        ),
        (
            {"max_per_group": [1, 1, 1], "min_per_group": [2, 0, 0]},
            2,
            "`min_per_group` must not exceed `max_per_group`, got 2 and 1 for group 'a'.",
        ),
        (
            {"max_per_group": [1, 3, 3], "initial_rows": [0, 2]},
            3,
            "`initial_rows` must keep to `max_per_group`, got 2 rows of group 'a' where 1 are allowed: 1 too many.",
        ),
        ({"initial_rows": [0, 1, 2]}, 2, "`initial_rows` must hold at most k=2 rows, got 3, 1 too many: raise `k`."),
        (
            {"initial_rows": [0, 6]},
            2,
            "`initial_rows` must hold distinct rows of the pool (0 to 5), got 2 from 0 to 6.",
        ),
        (
            {"initial_rows": [1, 1]},
            2,
            "`initial_rows` must hold distinct rows of the pool (0 to 5), got 2 from 1 to 1.",
        ),
        (
            {"max_tokens": 4, "tokens": COST},
            2,
            "`max_tokens` must pay for the shortest row, 5 tokens at least, got 4: 1 too few.",
        ),
        (
            {"max_tokens": 20, "tokens": COST, "initial_rows": [2], "min_per_group": [2, 2, 0]},
            5,
            "`max_tokens` must pay for `initial_rows` and `min_per_group`, 24 tokens at least, got 20: 4 too few.",
        ),
    ],
)
def test_limits_that_cannot_be_met_say_by_how_much(limits: dict, k: int, message: str) -> None:
    whole = {name: torch.tensor(value) if isinstance(value, list) else value for name, value in limits.items()}
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        gip(torch.eye(6), None, k, constraints=Constraints(groups=A, group_names=["a", "b", "c"], **whole))


def test_limits_refuse_what_could_break_them() -> None:
    message = (
        "`constraints` needs `noise` above 0 and no `prefilter`, which could leave out what a quota asks for: leave "
        "one of them out."
    )
    for options in ({"noise": 0.0}, {"pursuit": "matching", "prefilter": 6}, {"prefilter": 6}):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            gip(torch.eye(6), None, 2, constraints=Constraints(groups=A), **options)
