"""The one-liner on `datasets`: right rows, right caches, honest records, and every mistake named before any work."""

import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset

import hf_gip
from hf_gip.core.gip import gip
from hf_gip.dataset.gip import register, unregister

WORDS = ["alpha", "beta", "gamma", "delta", "loop", "await", "list", "dict", "tree", "moon"]


def pool(n: int = 60) -> Dataset:
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, 5)) for _ in range(n)]
    vectors = generator.standard_normal((n, 8)).astype(np.float32)
    good = generator.integers(0, 6, n).astype(float)
    return Dataset.from_dict({"text": texts, "vector": vectors.tolist(), "good": good.tolist(), "id": list(range(n))})


def test_the_picks_are_those_of_the_core_and_come_in_pick_order() -> None:
    rows = pool()
    subset = rows.gip_select(7, features="vector", noise=0.3)
    expected = gip(torch.tensor(rows["vector"][:]), None, 7, noise=0.3)
    assert subset["id"][:] == expected.indices.tolist() == subset.selection.indices.tolist()
    assert subset.selection.objective == pytest.approx(expected.objective)
    assert 0 < subset.selection.captured < 1
    assert subset.features == rows.features


def test_a_target_pulls_the_picks_towards_itself() -> None:
    rows = pool()
    subset = rows.gip_select(3, target=["await loop"], encoder="lexical", diversity=0.1)
    assert all("await" in text or "loop" in text for text in subset["text"][:])
    same = rows.gip_select(3, target=Dataset.from_dict({"text": ["await loop"]}), encoder="lexical", diversity=0.1)
    assert same["id"][:] == subset["id"][:]


def test_scores_are_precision_and_missing_ones_are_counted() -> None:
    rows = pool().add_column("holes", [None, None] + [float(i % 4) for i in range(58)])
    subset = rows.gip_select(20, features="vector", scores=["good", "holes"])
    assert np.mean(subset["good"][:]) > np.mean(rows["good"][:]) + 0.5
    record = subset.selection.record
    assert record["scores"]["missing"] == {"good": 0, "holes": 2}
    assert record["parameters"]["precision"] is True


def test_the_default_noise_is_the_documented_rule() -> None:
    assert pool().gip_select(16, features="vector").selection.record["parameters"]["noise"] == pytest.approx(2.0)
    towards = pool().gip_select(16, features="vector", target=np.ones((1, 8), np.float32))
    assert towards.selection.record["parameters"]["noise"] == pytest.approx(20.0)


def test_a_second_call_is_a_cache_hit_with_the_record_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    first = pool().gip_select(5, features="vector", scores=["good"])
    monkeypatch.setattr("hf_gip.core.gip.gip", lambda *_, **__: pytest.fail("selected again"))
    second = pool().gip_select(5, features="vector", scores=["good"])
    assert first._fingerprint == second._fingerprint
    assert first.selection.record == second.selection.record
    assert torch.equal(first.selection.gains, second.selection.gains)
    with pytest.raises(pytest.fail.Exception, match="selected again"):
        pool().gip_select(5, features="vector", scores=["good"], quality=2.0)


AGAIN = """
import sys
import datasets
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
import hf_gip, hf_gip.core.gip
if sys.argv[2] == "again":
    hf_gip.core.gip.gip = None
rows = datasets.Dataset.from_dict({"text": [f"row {i} {i % 3}" for i in range(40)]})
subset = rows.gip_select(4, encoder="lexical", target=["row 2"])
print(subset._fingerprint, subset["text"][:], subset.selection.gains.tolist())
"""


def test_a_new_process_finds_the_same_selection(tmp_path: Path) -> None:
    def run(word: str) -> str:
        command = [sys.executable, "-c", AGAIN, str(tmp_path), word]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert run("first") == run("again")


def test_indices_mappings_and_formats_are_respected() -> None:
    rows = pool()
    shuffled = rows.shuffle(seed=3).with_format("numpy")
    subset = shuffled.gip_select(6, features="vector")
    assert subset.format["type"] == "numpy"
    assert set(subset["id"][:].tolist()) == set(rows.gip_select(6, features="vector")["id"][:])
    assert [shuffled[int(i)]["id"] for i in subset.selection.indices] == subset["id"][:].tolist()


def test_a_dataset_dict_gives_a_budget_to_each_split() -> None:
    splits = DatasetDict(train=pool(), test=pool(20), other=pool(10))
    chosen = splits.gip_select({"train": 5, "test": 3}, features="vector")
    assert {name: len(rows) for name, rows in chosen.items()} == {"train": 5, "test": 3, "other": 10}
    assert len(splits.gip_select(4, features="vector")["train"]) == 4
    with pytest.raises(
        ValueError, match=r"^`k` must name splits of the dataset \['a'\], got 'train': give a mapping such as"
    ):
        DatasetDict(a=pool()).gip_select(4, features="vector")


def test_an_iterable_dataset_is_told_the_ways_out() -> None:
    message = (
        "`dataset` must be a `datasets.Dataset`, got IterableDataset: selection needs the whole pool; use "
        "`load_dataset(…)` without `streaming=True`, or `Dataset.from_generator` over `.take(n)`."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        IterableDataset.from_generator(lambda: iter([{"text": "a"}])).gip_select(1)


def test_registering_is_idempotent_and_never_over_a_foreign_attribute(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    ours = Dataset.gip_select
    unregister()
    assert not hasattr(Dataset, "gip_select")
    foreign: Callable[..., Any] = lambda self: "theirs"  # noqa: E731
    monkeypatch.setattr(Dataset, "gip_select", foreign, raising=False)
    with pytest.warns(
        UserWarning, match=r"^`datasets.Dataset` already has another `gip_select`, which hf_gip leaves in place"
    ):
        register()
    assert Dataset.gip_select is foreign
    monkeypatch.undo()
    register()
    assert Dataset.gip_select is ours is hf_gip.gip_select


@pytest.mark.parametrize(
    ("k", "options", "message"),
    [
        (0, {}, "`k` must be a whole number between 1 and the number of rows (60), got 0."),
        (61, {}, "`k` must be a whole number between 1 and the number of rows (60), got 61."),
        (0.5, {}, "`k` must be a whole number between 1 and the number of rows (60), got 0.5."),
        (
            2,
            {"columns": ["nope"]},
            "`columns` must name columns of the dataset ['text', 'vector', 'good', 'id'], got 'nope'.",
        ),
        (
            2,
            {"features": "nope"},
            "`features` must name a column of the dataset ['text', 'vector', 'good', 'id'], got 'nope'.",
        ),
        (2, {"features": "good"}, "`features` column 'good' must hold vectors (lists of numbers), got type double."),
        (
            2,
            {"features": np.ones((3, 2))},
            "`features` must have one row per example (60), got 3: pass the vectors of this very "
            "dataset, in its order.",
        ),
        (
            2,
            {"features": np.full((60, 2), np.nan)},
            "`features` must be finite, got NaN or infinity in 60 row(s), first in row 0: drop or recompute them.",
        ),
        (
            2,
            {"features": "vector", "target": np.ones((2, 3))},
            "`target` must have the features' width 8, got 3: embed both with the same encoder.",
        ),
        (2, {"scores": ["text"]}, "`scores` column 'text' must be numeric, got type string: use `cast_column`."),
        (
            2,
            {"scores": ["nope"]},
            "`scores` must name a column of the dataset ['text', 'vector', 'good', 'id'], got 'nope'.",
        ),
        (2, {"scores": ["good"], "quality": -1.0}, "`quality` must be 0 (ignore the scores) or larger, got -1.0."),
        (2, {"quality": 1.0}, "`quality` weighs scores, got no `scores`: name the score columns too."),
        (2, {"whiten": True}, "`whiten` weighs the directions of a target, got no `target`."),
        (
            2,
            {"noise": 1.0, "diversity": 0.5},
            "`noise` and `diversity` must not both be given: `diversity` only moves the default noise.",
        ),
        (
            2,
            {"device": "cuda"},
            "`device` is 'cuda' but torch sees no GPU here: leave `device` out, or install a CUDA torch.",
        ),
        (2, {"device": "abacus"}, "`device` must be a torch device such as 'cpu' or 'cuda', got 'abacus'."),
        (
            2,
            {"id_column": "good"},
            "`id_column` must name each row once, got 54 repeated values in 'good': leave it out to use positions.",
        ),
        (
            2,
            {"features": "vector", "columns": ["text"]},
            "`columns` chooses texts to embed and has no use beside `features`: leave one out.",
        ),
        (2, {"target": []}, "`target` must hold at least one row or text, got none."),
    ],
)
def test_bad_input_is_one_sentence_before_any_long_work(
    k: Any, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_gip.dataset.inputs.embed_rows", lambda *_, **__: pytest.fail("embedded before checking"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pool().gip_select(k, **({"encoder": "lexical"} | options))


def test_kinds_that_do_not_fit_are_type_errors() -> None:
    for options, message in [
        ({"scores": "good"}, "`scores` must be a list of column names such as ['helpfulness'], got 'good'."),
        ({"target": "one text"}, "`target` must be a Dataset, a list of texts or a matrix, got str."),
        ({"target": [1]}, "`target` must be a list of texts, got an element of type int."),
    ]:
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            pool().gip_select(2, encoder="lexical", **options)


def test_constant_and_empty_scores_are_refused_by_name() -> None:
    rows = pool().add_column("same", [3.0] * 60).add_column("none", [None] * 59 + [float("nan")])
    with pytest.raises(ValueError, match=r"^`scores` column 'same' must vary, got 3 in every row: leave it out\.$"):
        rows.gip_select(2, encoder="lexical", scores=["good", "same"])
    with pytest.raises(
        ValueError, match=r"^`scores` column 'none' must hold scores, got 60 missing values: leave it out\.$"
    ):
        rows.gip_select(2, encoder="lexical", scores=["none"])


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^`dataset` must have at least one row, got 0: check the split or the filter before it\.$"
    ):
        pool().select([]).gip_select(1)


def test_a_chosen_row_is_explained_from_the_caches_and_the_record_travels_without_them() -> None:
    rows = pool()
    subset = rows.gip_select(6, target=["await loop"], encoder="lexical", scores=["good"])
    again = rows.gip_select(6, target=["await loop"], encoder="lexical", scores=["good"])
    for selection in (subset.selection, again.selection):
        found = selection.explain(int(selection.indices[2]))
        assert found.rank == 3
        assert found.gain == pytest.approx(float(selection.gains[2]), rel=1e-3)
    travelled = pickle.loads(pickle.dumps(subset)).selection
    assert travelled.indices.tolist() == subset.selection.indices.tolist()
    with pytest.raises(ValueError, match=r"^`explain` needs the features, which this selection does not hold: "):
        travelled.explain(3)


def test_the_first_j_picks_are_the_answer_for_j() -> None:
    rows = pool()
    all_picks = rows.gip_select(9, features="vector", noise=0.3).selection
    few = rows.gip_select(4, features="vector", noise=0.3).selection
    assert all_picks.at(4).indices.tolist() == few.indices.tolist()
    assert all_picks.at(4).objective == pytest.approx(few.objective)
    with pytest.raises(ValueError, match=r"^`j` must be between 1 and the number of picks \(9\), got 10\.$"):
        all_picks.at(10)


def test_the_curve_flattens_where_gains_fall_below_their_mean() -> None:
    gains = torch.tensor([8.0, 6.0, 3.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert hf_gip.Selection(torch.arange(6), gains).flattens_at() == 2


def test_near_copies_of_a_test_set_are_left_out_and_listed() -> None:
    rows = pool()
    rows = rows.add_item({"text": "how many apples has Ann left", "vector": [0.0] * 8, "good": 5.0, "id": 60})
    test = ["How many apples has Ann left?", "unrelated words of another test"]
    kept = rows.gip_select(61 - 1, encoder="lexical", exclude=test, exclude_threshold=0.8)
    assert 60 not in kept["id"][:]
    ((row, other, cosine),) = kept.selection.record["excluded"]["pairs"]
    assert (row, other) == (60, 0)
    assert cosine > 0.8
    assert kept["id"][:] == kept.selection.indices.tolist()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 — compared whole below
        rows.gip_select(61, encoder="lexical", exclude=test, exclude_threshold=0.8)
    assert str(caught.value) == (
        "`exclude` must leave at least k=61 rows, got 60 of 61: raise `exclude_threshold` or lower `k`."
    )
    with pytest.raises(ValueError, match=r"^`exclude_threshold` must be a cosine in \(0, 1\], got 2\.$"):
        rows.gip_select(1, encoder="lexical", exclude=test, exclude_threshold=2)


def test_excluding_only_takes_rows_away() -> None:
    rows = pool()
    vectors = np.array(rows["vector"][:], dtype=np.float32)
    away = rows.gip_select(10, features="vector", noise=0.2, exclude=vectors[[3, 7]], exclude_threshold=0.9999)
    others = [i for i in range(60) if i not in (3, 7)]
    expected = rows.select(others).gip_select(10, features="vector", noise=0.2)
    assert away["id"][:] == expected["id"][:]
    found = away.selection.explain(int(away.selection.indices[4]))
    assert found.gain == pytest.approx(float(away.selection.gains[4]), rel=1e-4)
