"""The judge's figures against their definitions, and what a comparison refuses."""

import json

import numpy as np
import oracles
import pytest
import samples
import torch
from datasets import Dataset

import hf_gip
from hf_gip.core.baselines import k_center
from hf_gip.core.metrics import captured_share, coverage, vendi
from hf_gip.dataset.comparison import baselines

GROUPS = ["a", "b", "c"]


def pool(n: int = 80) -> Dataset:
    draw = np.random.default_rng(0)
    return Dataset.from_dict(
        {
            "text": [" ".join(draw.choice(["one", "two", "three", "four"], 6)) for _ in range(n)],
            "vector": draw.standard_normal((n, 6)).astype(np.float32).tolist(),
            "good": draw.integers(0, 9, n).astype(float).tolist(),
            "source": [GROUPS[i % 3] for i in range(n)],
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_figures_follow_their_definitions(seed: int) -> None:
    X, Q = samples.rows(40, 7, seed=seed), samples.queries(3, 7, seed=seed)
    rows = torch.tensor([3, 9, 21, 30])
    share = oracles.captured(X.numpy(), Q.numpy(), rows.tolist(), 0.3) / float(Q.square().sum())
    assert captured_share(X, Q, rows, 0.3) == pytest.approx(share)
    own = oracles.captured(X.numpy(), X.numpy(), rows.tolist(), 0.3) / float(X.square().sum())
    assert captured_share(X, None, rows, 0.3) == pytest.approx(own)

    unit = X.numpy() / np.linalg.norm(X.numpy(), axis=1, keepdims=True)
    cosines = unit @ unit[rows].T
    assert coverage(X, X[rows]) == pytest.approx(cosines.max(axis=1).mean(), rel=1e-5)
    kernel = np.linalg.eigvalsh(unit[rows] @ unit[rows].T / 4)
    assert vendi(X[rows]) == pytest.approx(np.exp(-(kernel * np.log(kernel)).sum()))


def test_copies_count_once_and_orthogonal_rows_count_all() -> None:
    assert vendi(torch.ones(5, 4)) == pytest.approx(1.0)
    assert vendi(torch.eye(4)) == pytest.approx(4.0)


def test_the_selection_beats_random_under_its_own_judge_and_top_k_beats_it_on_scores() -> None:
    rows = pool()
    best = np.argsort(rows["good"][:])[-10:]
    ours = rows.gip_select(10, features="vector", noise=0.1)
    found = hf_gip.compare(
        {"gip": ours, "top-k": best, "selection": ours.selection},
        rows,
        scores=["good"],
        features="vector",
        groups="source",
    )
    mean, half = found.random["gip"]["captured"]
    assert found.figures["gip"]["captured"] > mean + half
    assert found.figures["top-k"]["good"] == pytest.approx(np.mean(np.array(rows["good"][:])[best]))
    assert found.figures["top-k"]["good"] > found.figures["gip"]["good"]
    assert found.overlap["gip", "selection"] == 1.0
    assert sum(found.shares["gip"].values()) == pytest.approx(1.0)
    assert found.shares["pool"]["a"] == pytest.approx(27 / 80)
    text = str(found)
    assert text.splitlines()[0] == "| subset | rows | captured | vendi | coverage | good | mean length |"
    assert "| random, same size |" in text
    assert json.loads(found.to_json())["figures"]["gip"]["rows"] == 10


def test_texts_give_lengths_and_a_target_its_cosine() -> None:
    rows = pool()
    found = hf_gip.compare({"first": range(5)}, rows, target=["one two"], encoder="lexical").figures["first"]
    assert found["mean length"] == pytest.approx(np.mean([len(text) for text in rows["text"][:5]]))
    assert 0 < found["target cosine"] <= 1


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ([0, 0, 1], "must hold distinct rows of the pool (0 to 79), got 3 from 0 to 1"),
        ([5, 80], "must hold distinct rows of the pool (0 to 79), got 2 from 5 to 80"),
        ("abc", "must be a selection or whole row positions, got 'abc'."),
        ([1.5, 2.0], "must be a selection or whole row positions, got [1.5, 2.0]."),
        ([], "must hold distinct rows of the pool (0 to 79), got 0 from 0 to 0"),
        (pool(), "must know its rows, got a Dataset without `selection`"),
    ],
)
def test_what_is_no_subset_of_the_pool_is_refused(subset: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^`subsets` entry 'odd' ") as caught:
        hf_gip.compare({"odd": subset}, pool(), features="vector")  # type: ignore[dict-item]
    assert message in str(caught.value)


def test_one_seed_and_unknown_groups_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^`seeds` must be at least 2, .* got 1\.$"):
        hf_gip.compare({"a": [1]}, pool(), features="vector", seeds=1)
    with pytest.raises(ValueError, match=r"^`seeds` must be at least 2, .* got 2\.5\.$"):
        hf_gip.compare({"a": [1]}, pool(), features="vector", seeds=2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`noise` must be above 0, so that `captured` is defined .*, got 0\.0\.$"):
        hf_gip.compare({"a": [1]}, pool(), features="vector", noise=0.0)
    with pytest.raises(TypeError, match=r"^`subsets` must be a mapping from names to subsets, got list\.$"):
        hf_gip.compare([[1]], pool(), features="vector")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^`groups` must name a column of the pool .*, got 'lang'\.$"):
        hf_gip.compare({"a": [1]}, pool(), features="vector", groups="lang")
    with pytest.raises(ValueError, match=r"^`subsets` must hold at least one subset, got none\.$"):
        hf_gip.compare({}, pool(), features="vector")


def test_baselines_are_chosen_and_judged_in_one_call() -> None:
    rows = pool()
    target = np.ones((2, 6), np.float32)
    found = hf_gip.compare(
        {"first": range(9)}, rows, scores=["good"], target=target, features="vector", baselines=True
    )
    names = {name.partition(",")[0] for name in found.figures}
    assert {"first", "top-k by score", "RDS+", "k-centre"} <= names
    assert found.figures["top-k by score, 9 rows"]["good"] == max(each["good"] for each in found.figures.values())
    texts = hf_gip.compare({"first": range(9)}, rows, encoder="lexical", baselines=True).figures
    assert texts["longest, 9 rows"]["mean length"] == max(each["mean length"] for each in texts.values())


def test_k_centre_takes_the_farthest_row_each_time() -> None:
    X = samples.rows(60, 5, duplicates=5, zeros=2)
    picks = k_center(X, 60).tolist()
    assert sorted(picks) == list(range(60))
    unit = X.float() / X.float().norm(dim=1, keepdim=True).clamp(min=1e-30)
    cosines = unit @ unit.T
    for at in range(1, 20):
        left = [i for i in range(60) if i not in picks[:at]]
        assert float(cosines[picks[at], picks[:at]].max()) == pytest.approx(
            float(cosines[left][:, picks[:at]].amax(1).min()), abs=1e-5
        )


def test_facility_location_is_apricots_where_all_rows_are_neighbours() -> None:
    apricot = pytest.importorskip("apricot", reason="apricot-select is not installed")
    X = samples.rows(40, 5)
    got = baselines(X, None, {}, None, 6)["facility location, 6 rows"]
    unit = X / X.norm(dim=1, keepdim=True)
    dense = apricot.FacilityLocationSelection(6, metric="precomputed").fit((unit @ unit.T).clamp(min=0).numpy())
    assert got.tolist() == dense.ranking.tolist()
