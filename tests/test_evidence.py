"""The parts of the quality benchmark: baselines against plain loops, intervals against scipy."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

from benchmarks.evidence.ablations import dual_greedy
from benchmarks.evidence.baselines import facility_location, k_center
from benchmarks.evidence.findings import Comparison, evaluate_comparison, verdict
from benchmarks.evidence.jobs import run_jobs
from benchmarks.evidence.measures import measure
from benchmarks.evidence.perturbations import information_nats
from benchmarks.evidence.pools import Pool
from benchmarks.evidence.probe import RIDGES, ridge
from benchmarks.evidence.tables import pivot, summarize
from hf_gip import gip


def unit_rows(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("seed", range(5))
def test_lazy_facility_location_reaches_what_the_plain_greedy_reaches(seed: int) -> None:
    rows = unit_rows(60, 8, seed)
    similarity = (rows @ rows.T).clamp(min=0).double()

    def value(picks: list[int]) -> float:
        return float(similarity[:, picks].amax(dim=1).sum())

    plain: list[int] = []
    for _ in range(12):
        plain.append(max((row for row in range(60) if row not in plain), key=lambda row: value([*plain, row])))
    lazy = facility_location(rows, 12).tolist()
    assert len(set(lazy)) == 12
    assert value(lazy) == pytest.approx(value(plain), rel=1e-5)


def test_k_center_takes_the_row_farthest_from_all_chosen() -> None:
    rows = unit_rows(50, 6, 3)
    picks = k_center(rows, 10, seed=1).tolist()
    for step in range(1, 10):
        nearest = (rows @ rows[picks[:step]].T).amax(dim=1)
        nearest[picks[:step]] = 2
        assert float(nearest[picks[step]]) == pytest.approx(float(nearest.min()))


def test_a_paired_difference_is_that_of_a_paired_t_test() -> None:
    random = np.random.default_rng(0)
    units = []
    for seed in range(8):
        level = random.normal()
        units += [{"pool": "p", "method": "random", "seed": seed, "draw": d, "loss": level + d} for d in (0, 1)]
        units.append({"pool": "p", "method": "ours", "seed": seed, "draw": 0, "loss": level - random.uniform(0, 1)})
    lines = {line["method"]: line for line in summarize(units, ("pool",))}
    base = np.array([[u["loss"] for u in units if u["method"] == "random" and u["seed"] == s] for s in range(8)])
    ours = np.array([u["loss"] for u in units if u["method"] == "ours"])
    low, high = ttest_rel(ours, base.mean(axis=1)).confidence_interval()
    figures = lines["ours"]
    assert figures["difference"] == pytest.approx((low + high) / 2)
    assert figures["difference_half_width"] == pytest.approx((high - low) / 2)
    assert "difference" not in lines["random"]
    assert pivot(list(lines.values())).count("\n") == 3


def test_the_dual_form_is_the_projection_where_the_scores_come_from_queries() -> None:
    rows, queries = unit_rows(80, 10, 5).double(), unit_rows(4, 10, 6).double()
    ours = gip(rows, queries, 15, noise=0.2).indices
    assert torch.equal(dual_greedy(rows, rows @ queries.T, 15, 0.2), ours)


def test_nats_are_the_gains_of_the_information_objective() -> None:
    rows, queries = unit_rows(60, 8, 7).double(), unit_rows(5, 8, 8).double()
    picked = gip(rows, queries, 10, noise=0.3, objective="information")
    assert information_nats(rows, queries, picked.indices, 0.3) == pytest.approx(picked.objective, rel=1e-6)


def test_the_probe_takes_the_ridge_with_the_least_leave_one_out_error() -> None:
    from sklearn.linear_model import Ridge

    x, noise = unit_rows(40, 5, 9).double(), unit_rows(40, 1, 10).double()
    y, test = x @ unit_rows(5, 1, 11).double().T.reshape(5, 1) + noise, unit_rows(7, 5, 12).double()

    def left_out(penalty: float) -> float:
        errors = []
        for row in range(40):
            rest = [i for i in range(40) if i != row]
            fit = Ridge(alpha=penalty).fit(x[rest].numpy(), y[rest].numpy())
            errors.append(float(np.square(fit.predict(x[row : row + 1].numpy()) - y[row].numpy()).sum()))
        return float(np.mean(errors))

    best = min(RIDGES, key=left_out)
    expected = Ridge(alpha=best).fit(x.numpy(), y.numpy()).predict(test.numpy())
    assert ridge(x, y, test).numpy().reshape(expected.shape) == pytest.approx(expected, abs=1e-6)


def test_a_hypothesis_is_confirmed_overturned_or_not_shown() -> None:
    def verdict_of(relation: str, gaps: list[float]) -> str:
        draws = [{"topic": "t", "method": "random", "seed": seed, "measure": 1.0} for seed in range(len(gaps))]
        draws += [{"topic": "t", "method": "ours", "seed": seed, "measure": 1 + gap} for seed, gap in enumerate(gaps)]
        figures = {
            ("t", name, "measure"): {row["seed"]: [row["measure"]] for row in draws if row["method"] == name}
            for name in ("random", "ours")
        }
        entry = evaluate_comparison(figures, Comparison("t", "measure", "ours", relation))  # type: ignore[arg-type]
        assert entry is not None
        low, high = ttest_rel([1 + gap for gap in gaps], [1.0] * len(gaps)).confidence_interval()
        assert entry["difference"] - entry["half_width"] == pytest.approx(low)
        assert entry["difference"] + entry["half_width"] == pytest.approx(high)
        return verdict([entry])

    clear, none = [0.3, 0.31, 0.29], [0.3, -0.31, 0.02]
    assert [verdict_of(relation, clear) for relation in ("more", "no less", "less", "no more")] == [
        "confirmed",
        "confirmed",
        "overturned",
        "overturned",
    ]
    assert [verdict_of(relation, none) for relation in ("more", "less", "no more", "no less")] == [
        "not shown",
        "not shown",
        "confirmed",
        "confirmed",
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_are_measured_once_however_often_a_run_is_cut_off(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_GIP_BENCHMARK_CACHE", str(tmp_path))
    units, log = [{"case": number} for number in range(9)], tmp_path / "calls"

    def work(unit: dict) -> dict:
        with log.open("a") as file:
            file.write(f"{unit['case']}\n")
        return {"square": float(unit["case"] ** 2)}

    assert run_jobs("part", units[:4], work, time.monotonic() + 600, workers) == [
        {"case": number, "square": float(number**2)} for number in range(4)
    ]
    stored = tmp_path / "quality" / "part-2.jsonl"
    stored.write_bytes(stored.read_bytes()[:-7])  # the last line cut short, as a kill leaves it
    figures = run_jobs("part", units, work, time.monotonic() + 600, workers)
    assert figures == [{"case": number, "square": float(number**2)} for number in range(9)]
    calls = log.read_text().split()
    assert len(calls) == 10  # nine units, and the one whose line was cut short again
    assert run_jobs("part", units, work, 0.0) == figures


def test_junk_is_shuffled_rows_and_every_copy_but_the_first() -> None:
    from types import SimpleNamespace

    vectors = unit_rows(6, 4, 13)
    pool = Pool(
        kind="noisy",
        seed=0,
        members=torch.tensor([10, 10, 10, 11, 12, 13]),
        vectors=vectors,
        lengths=torch.arange(6),
        scores=torch.zeros(6, 1),
        queries=SimpleNamespace(),  # type: ignore[arg-type]
        task="alpaca",
        source=torch.tensor([0, 0, 0, 0, 2, 2]),
    )
    bank = SimpleNamespace(held_out={"alpaca": SimpleNamespace(vectors=vectors)}, scores=torch.zeros(14, 3))
    figures = measure(bank, pool, torch.tensor([0, 1, 2, 4]))  # type: ignore[arg-type]
    assert (figures["shuffled"], figures["repeated"], figures["junk"]) == (0.25, 0.5, 0.75)
