"""The paper's dual form against its own recursion, and where it must agree with queries."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import samples
import torch
from command_line import hf_gip as command
from datasets import Dataset, config
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles_constraints import feasible, random_constraints

import hf_gip
from hf_gip import gip
from hf_gip.core.constraints import Constraints
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


KINDS = ("any", "duplicates", "zero rows", "unit rows, tied scores", "low rank", "odd scales")


def dual_problem(n: int, d: int, s: int, seed: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and judges' scores, 0 to 5, with what breaks a pursuit."""
    draw = torch.Generator().manual_seed(seed)
    S = torch.randint(0, 6, (n, s), generator=draw).double()
    S[0] += 1
    X = samples.rows(n, d, seed=seed, rank=max(1, d // 2) if kind == "low rank" else d)
    if kind == "duplicates":
        X = X[torch.randint(0, max(1, n // 3), (n,), generator=draw)]
    elif kind == "zero rows":
        X[1::4] = 0
    elif kind == "unit rows, tied scores":
        X, S = torch.nn.functional.normalize(X), S.clamp(max=2)
    elif kind == "odd scales":
        X, S = X * 10.0 ** float(torch.randint(-12, 13, (1,), generator=draw)), S * 1e-9
    return X, S


@settings(max_examples=300, deadline=None)
@given(
    n=st.integers(2, 40), d=st.integers(1, 12), s=st.integers(1, 4), seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS), data=st.data(),
)  # fmt: skip
def test_the_papers_pipeline_is_literal_matching_pursuit_in_the_dual(
    n: int, d: int, s: int, seed: int, kind: str, data: st.DataObject
) -> None:
    X, S = dual_problem(n, d, s, seed, kind)
    k = data.draw(st.integers(1, n))
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-3)):
        selection = gip_dual(X.to(dtype), S.to(dtype), k, pursuit="matching")
        rows = selection.indices.tolist()
        assert len(set(rows)) == k
        is_free, first = np.ones(n, bool), 0.0
        for row, gain, gains in zip(
            rows, selection.gains.tolist(), oracles.dual_pursuit_gains(X.numpy(), S.numpy(), rows), strict=True
        ):
            first = max(first, gains.max())
            assert gain == pytest.approx(gains[row], rel=tolerance, abs=tolerance * first)
            best = gains[is_free].max()
            assert gains[row] >= best - tolerance * first
            if dtype == torch.float64 and (gains[is_free] < best - tolerance * first).sum() == is_free.sum() - 1:
                assert row == np.where(is_free, gains, -1).argmax()
            is_free[row] = False


def test_the_same_scores_as_queries_in_the_primal_give_the_same_picks() -> None:
    X, q = samples.rows(80, 6).abs(), samples.queries(2, 6).abs()
    dual, primal = gip_dual(X, X @ q.T, 60, pursuit="matching"), gip(X, q, 60, pursuit="matching")
    assert dual.indices.tolist() == primal.indices.tolist()
    assert dual.gains.tolist() == pytest.approx(primal.gains.tolist(), rel=1e-6)


@pytest.mark.parametrize("pursuit", ["orthogonal", "matching"])
def test_weights_of_judges_and_constraints_are_kept(pursuit: Any) -> None:
    X, S = dual_problem(60, 8, 2, 3, "any")
    heavy = gip_dual(X, S, 20, pursuit=pursuit, weights=[1e12, 1.0]).indices
    assert heavy.equal(gip_dual(X, S[:, :1], 20, pursuit=pursuit).indices)
    assert not heavy.equal(gip_dual(X, S, 20, pursuit=pursuit).indices)
    groups = torch.arange(60) % 3
    limits = Constraints(torch.tensor([7, 4]), groups=groups, max_per_group=torch.tensor([4, 5, 6]))
    picks = gip_dual(X, S, 15, pursuit=pursuit, constraints=limits).indices
    assert picks[:2].tolist() == [7, 4]
    assert torch.bincount(groups[picks]).tolist() == [4, 5, 6]
    spent = Constraints(tokens=torch.arange(1, 61), max_tokens=50)
    selection = gip_dual(X, S, 60, pursuit=pursuit, constraints=spent)
    assert int(spent.tokens[selection.indices].sum()) <= 50
    assert selection.record["notes"] == [
        f"{len(selection)} rows of at most 60: no other row fits what is left of 50 tokens."
    ]


@settings(max_examples=100, deadline=None)
@given(n=st.integers(4, 30), d=st.integers(1, 6), kinds=st.integers(1, 15), seed=st.integers(0, 10_000))
def test_matching_pursuit_takes_the_best_allowed_row_at_every_pick(n: int, d: int, kinds: int, seed: int) -> None:
    k, X, Q = max(1, n // 2), samples.rows(n, d, seed=seed, duplicates=n // 5), samples.queries(3, d, seed=seed)
    limits = random_constraints(n, k, torch.Generator().manual_seed(seed), kinds)
    try:
        limits.check(n, k)
    except ValueError:
        return
    rows = gip(X, Q, k, pursuit="matching", constraints=limits).indices.tolist()
    initial = limits.initial().tolist()
    assert rows[: len(initial)] == initial
    steps = oracles.dual_pursuit_gains(X.numpy(), (X @ Q.T).numpy(), rows)
    for t in range(len(initial), len(rows)):
        allowed = [i for i in range(n) if i not in rows[:t] and feasible([*rows[:t], i], limits, k)]
        worth = steps[t] if limits.tokens is None else steps[t] / limits.tokens.numpy()
        assert rows[t] in allowed
        assert worth[rows[t]] >= worth[allowed].max() - 1e-9 * steps[0].max()
    if len(rows) < k:
        assert not [i for i in range(n) if i not in rows and feasible([*rows, i], limits, k)]


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
    assert record["parameters"]["pursuit"] == "orthogonal"
    assert record["parameters"]["dual"] is True
    assert record["parameters"]["noise"] == pytest.approx(10 * 9 / 512)
    matrix = hf_gip.embed(rows, "lexical").matrix
    scores = torch.tensor([rows["good"][:], rows["fine"][:]], dtype=torch.float64).T
    assert subset.selection.indices.equal(gip_dual(matrix, scores, 9, noise=10 * 9 / 512).indices)
    hf_gip.save_subset(subset, tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=rows).ok
    assert hf_gip.reproduce(tmp_path / "out", source=rows).verdict == "same picks"


PAPER = {"MP+MA": {"scores": ["good", "fine"]}, "MP+SC": {}}


@pytest.mark.parametrize("variant", PAPER)
def test_the_papers_pipelines_are_one_option_and_reproduce_the_picks(
    rows: Dataset, variant: str, tmp_path: Path
) -> None:
    subset = hf_gip.gip_select(rows, 40, encoder="lexical", pursuit="matching", **PAPER[variant])
    record = subset.selection.record
    assert record["parameters"]["variant"] == variant
    assert record["parameters"]["pursuit"] == "matching"
    assert record["parameters"]["noise"] == 0
    matrix = hf_gip.embed(rows, "lexical").matrix
    scores = torch.tensor([rows["good"][:], rows["fine"][:]], dtype=torch.float64).T
    if variant == "MP+MA":
        assert record["scores"]["as"] == "queries"
        expected = gip_dual(matrix, scores, 40, pursuit="matching")
    else:
        expected = gip(matrix, None, 40, pursuit="matching")
    assert subset.selection.indices.equal(expected.indices)
    hf_gip.save_subset(subset, tmp_path / "out")
    assert f"`{variant}`" in (tmp_path / "out" / "README.md").read_text()
    assert hf_gip.reproduce(tmp_path / "out", source=rows).verdict == "same picks"
    page = subset.selection.report(tmp_path / "page.html").read_text()
    assert variant in page
    if variant == "MP+SC":
        first = int(subset.selection.indices[0])
        assert subset.selection.explain(first).gain == pytest.approx(float(subset.selection.gains[0]), rel=1e-5)


def test_matching_goes_with_a_target_quotas_categories_and_exclusion(rows: Dataset, tmp_path: Path) -> None:
    rows = rows.add_column("kind", ["a", "b", "c"] * 20)
    options: dict[str, Any] = {
        "group_column": "kind",
        "max_per_group": 4,
        "initial_rows": [5],
        "exclude": ["row 8 17"],
    }
    options |= {"exclude_threshold": 0.6, "pursuit": "matching", "encoder": "lexical"}
    for wish in ({"target": ["row 1 4"]}, {"scores": {"good": 2.0, "fine": 1.0}}, {"cover_columns": ["kind"]}):
        subset = hf_gip.gip_select(rows, 10, **options, **wish)
        assert int(subset.selection.indices[0]) == 5
        assert max(subset["kind"][:].count(kind) for kind in "abc") == 4
        assert not {row for row, *_ in subset.selection.record["excluded"]["pairs"]} & {*subset.selection.indices}
        assert "variant" not in subset.selection.record["parameters"] or "target" not in wish
        out = tmp_path / next(iter(wish))
        hf_gip.save_subset(subset, out)
        assert hf_gip.reproduce(out, source=rows).verdict == "same picks"


def test_the_command_line_runs_the_papers_pipeline(rows: Dataset, tmp_path: Path) -> None:
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    words = ["select", str(tmp_path / "rows.parquet"), "--k", "9", "--scores", "good,fine", "--pursuit", "matching"]
    assert command(*words, "--encoder", "lexical", "--out", tmp_path / "out") == 0
    expected = hf_gip.gip_select(rows, 9, scores=["good", "fine"], pursuit="matching", encoder="lexical")
    assert hf_gip.load_subset(str(tmp_path / "out")).selection.indices.equal(expected.selection.indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(
            (
                {"scores": ["good"], **option},
                f'`{name}` must be left out beside `pursuit="matching"`, which has no noise, got {value!r}.',
            )
            for option in (
                {"noise": 0.2}, {"diversity": 0.2}, {"objective": "information"}, {"scores_as": "precision"}
            )
            for name, value in option.items()
        ),
        ({"pursuit": "omp"}, '`pursuit` must be "orthogonal" or "matching", got \'omp\'.'),
    ],
)  # fmt: skip
def test_what_matching_pursuit_has_no_use_for_is_refused(rows: Dataset, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.gip_select(rows, 2, encoder="lexical", **({"pursuit": "matching"} | options))


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
