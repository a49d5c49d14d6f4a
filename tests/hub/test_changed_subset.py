"""A subset that was changed after it was chosen is neither saved nor published; what cannot be checked is listed."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Value, concatenate_datasets
from hub_server import ALICE, Hub
from saved_subset import hub_pool, pool

import hf_gip
from hf_gip.dataset.loading import open_dataset
from hf_gip.manifest.schema import read_manifest

pytestmark = pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning")  # of `datasets`
WAYS = ": publish it before changing it, or select again on the changed pool."
LOST = "`subset` must carry its `.selection`, got none: "


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub) -> None:
    """Every test here has a Hub of its own."""


def chosen(rows: Dataset | None = None, k: int = 6, **options: Any) -> Any:
    rows = pool() if rows is None else rows
    return rows.gip_select(k, **{"features": "vector", "device": "cpu", **options})


def carrying(changed: Dataset, subset: Any) -> Dataset:
    """Another dataset under the subset's record."""
    setattr(changed, "selection", subset.selection)  # noqa: B010
    return changed


def in_place(subset: Any) -> Any:
    """The rows of a subset exchanged under it."""
    other = subset.map(lambda row, i: {"text": "!" if i == 4 else row["text"]}, with_indices=True)
    subset._data, subset._indices = other._data, other._indices
    return subset


CHANGED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "rename a column": (lambda s: s.rename_column("text", "words"), "none of the column 'text'"),
    "rename columns": (lambda s: s.rename_columns({"good": "g", "name": "n"}), "none of the column 'good'"),
    "remove a column": (lambda s: s.remove_columns("good"), "none of the column 'good'"),
    "select columns": (lambda s: s.select_columns(["text"]), "none of the column 'vector'"),
    "flatten": (
        lambda s: carrying(s.add_column("n", [{"a": 1}] * 6).flatten(), s),
        "a column 'n.a' that was not there",
    ),
    "add a column": (lambda s: carrying(s.add_column("new", [1] * 6), s), "a column 'new' that was not there"),
    "cast": (lambda s: carrying(s.cast_column("good", Value("float32")), s), "other values in the column 'good'"),
    "encode a class": (lambda s: carrying(s.class_encode_column("good"), s), "other values in the column 'good'"),
    "map": (
        lambda s: carrying(s.map(lambda row: {"text": row["text"] + "."}), s),
        "other values in the column 'text'",
    ),
    "edit in place": (in_place, "other values in the column 'text' (first at row 4)"),
    "turn": (lambda s: carrying(s.select([1, 0, 2, 3, 4, 5]), s), "other values in the column 'text'"),
    "shuffle": (lambda s: carrying(s.shuffle(seed=1), s), "other values in the column 'text'"),
    "sort": (lambda s: carrying(s.sort("name", reverse=True), s), "other values in the column 'text'"),
    "other rows": (
        lambda s: carrying(concatenate_datasets([s.select(range(5)), pool().select([39])]), s),
        "other values in the column 'text'",
    ),
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_subset_changed_after_choosing_is_refused_at_both_doors(change: str, hub: Hub, tmp_path: Path) -> None:
    make, what = CHANGED[change]
    changed = make(chosen())
    for publish in (
        lambda: hf_gip.save_subset(changed, tmp_path / "out"),
        lambda: hf_gip.push_to_hub(changed, "alice/out", token=ALICE),
    ):
        with pytest.raises(
            ValueError, match="^" + re.escape(f"`subset` must hold the rows as they were chosen, got {what}")
        ) as caught:
            publish()
        assert str(caught.value).endswith(WAYS)
    assert not (tmp_path / "out").exists()
    assert not hub.repos


def test_a_loaded_subset_that_was_changed_is_refused_too(tmp_path: Path) -> None:
    hf_gip.save_subset(chosen(), tmp_path / "out")
    loaded = hf_gip.load_subset(tmp_path / "out")
    assert isinstance(loaded, Dataset)
    hf_gip.save_subset(loaded, tmp_path / "again")
    with pytest.raises(ValueError, match="got none of the column 'good': publish it before changing it"):
        hf_gip.save_subset(loaded.remove_columns("good"), tmp_path / "changed")


@pytest.mark.parametrize(
    "same",
    [
        lambda s: s,
        lambda s: s.with_format("torch"),
        lambda s: s.with_format("numpy", columns=["vector"]),
        lambda s: s.set_format("pandas") or s,
        lambda s: carrying(s.flatten_indices(), s),
        lambda s: carrying(s.filter(lambda row: True), s),
    ],
    ids=["untouched", "torch", "some columns", "set_format", "flattened", "all kept"],
)
def test_the_same_rows_in_another_format_or_layout_are_saved(same: Callable[[Any], Any], tmp_path: Path) -> None:
    hf_gip.save_subset(same(chosen()), tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=pool()).ok


def test_a_transform_that_shows_other_rows_is_refused(tmp_path: Path) -> None:
    subset = chosen().with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    with pytest.raises(
        ValueError, match=r"^`subset` must hold the rows that it shows, got a dataset with a transform "
    ):
        hf_gip.save_subset(subset, tmp_path / "out")


def test_a_replaced_file_is_found_though_its_time_and_size_are_the_same(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    pool().to_json(file)
    hf_gip.save_subset(chosen(open_dataset(str(file))), tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out", source=file).ok
    chosen_names = hf_gip.load_subset(tmp_path / "out")["name"][:]
    other = next(name for name in pool()["name"] if name not in chosen_names)
    stat = file.stat()
    line = next(line for line in file.read_text().splitlines() if f'"{other}"' in line)
    file.write_text(file.read_text().replace(line, line.replace(line[9:13], "zzzz", 1)))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file.stat().st_size == stat.st_size
    report = hf_gip.verify(tmp_path / "out", source=file)
    assert [check.name for check in report.failed] == ["source"]
    assert "file 'rows.jsonl' of the source was changed: its SHA-256" in report.failed[0].sentence


@pytest.mark.hub
def test_rows_that_were_not_chosen_are_listed_where_they_cannot_be_compared(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool()
    hf_gip.save_subset(chosen(rows), tmp_path / "out")
    assert not [part for part in hf_gip.verify(tmp_path / "out", source=rows).not_covered if "source" in part]
    indices = hf_gip.load_subset(tmp_path / "out").selection.indices.tolist()  # pyright: ignore[reportAttributeAccessIssue]
    other = next(row for row in range(40) if row not in indices)
    columns = pool()[:]
    columns["text"][other] = "another text"
    report = hf_gip.verify(tmp_path / "out", source=Dataset.from_dict(columns))
    assert report.ok
    [part] = [part for part in report.not_covered if part.startswith("source: ")]
    assert part.startswith(
        "source: the rows of the source that were not chosen: it was not read as alice/pool at commit"
    )
    assert part.removeprefix("source: ") in str(report)
    again = hf_gip.reproduce(tmp_path / "out", source=Dataset.from_dict(columns), device="cpu")
    assert part.removeprefix("source: ") in again.not_covered
    assert "not covered: the rows of the source" in str(again)


@pytest.mark.hub
def test_another_split_of_the_same_size_and_commit_is_no_source(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool()
    pool().map(lambda row: {"text": row["text"][::-1]}).push_to_hub("alice/pool", split="test", token=ALICE)
    source, other = (open_dataset("alice/pool", split=split) for split in ("train", "test"))
    hf_gip.save_subset(chosen(source), tmp_path / "out")
    assert len(rows) == len(other)
    assert "the source is the split 'test', the manifest says 'train'" in str(
        hf_gip.verify(tmp_path / "out", source=other)
    )
    with pytest.raises(ValueError, match="must be the recorded one: the source is the split 'test'"):
        hf_gip.reproduce(tmp_path / "out", source=other, device="cpu")


def test_reproduce_looks_at_the_chosen_rows_themselves(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool()
    hf_gip.save_subset(chosen(rows), tmp_path / "out")
    other = pool().map(lambda row: {"text": row["text"][::-1]})
    with pytest.raises(ValueError, match=r"must be the recorded one: row .* was changed"):
        hf_gip.reproduce(tmp_path / "out", source=other, device="cpu")


class Lengths:
    """An encoder that is another one where `more` is."""

    def __init__(self, more: float) -> None:
        self.more = more

    def encode(self, texts: Any, **_: Any) -> np.ndarray:
        return np.asarray([[len(text), text.count("a"), self.more] for text in texts], np.float32)


def test_reproduce_names_an_encoder_that_is_not_the_recorded_one(tmp_path: Path) -> None:
    hf_gip.save_subset(chosen(features=None, columns=["text"], encoder=Lengths(1.0), k=3), tmp_path / "out")
    same = hf_gip.reproduce(tmp_path / "out", source=pool(), encoder=Lengths(1.0), device="cpu")
    assert same.verdict == "same picks"
    assert not same.not_covered
    with pytest.warns(UserWarning, match="does not answer with the cached vectors of these texts"):
        other = hf_gip.reproduce(tmp_path / "out", source=pool(), encoder=Lengths(1.001), device="cpu")
    assert any(part.startswith("`features.") for part in other.not_covered)
    assert read_manifest(tmp_path / "out").recipe["features"]["kind"] == "text"


def test_what_verify_cannot_see_is_listed(tmp_path: Path) -> None:
    hf_gip.save_subset(chosen(), tmp_path / "out")
    report = hf_gip.verify(tmp_path / "out")
    assert report.ok
    assert report.not_covered == (
        "source: not at hand: give the dataset of 40 rows as `source`",
        "card: its text",
        "selection: whether the method chooses these rows: see `reproduce`",
    )
    assert str(report).count("not covered") == 3
