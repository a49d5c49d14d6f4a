"""A dataset by name: every kind of file, and what is said when there is nothing to read."""

import gzip
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from hf_gip.cli.inputs import open_excluded, open_target
from hf_gip.dataset.open import open_dataset, open_recorded

ROWS = {"text": ["one", "two", "three"], "score": [1, 2, 3]}


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_every_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    path, rows = tmp_path / f"rows{suffix}", Dataset.from_dict(ROWS)
    if suffix == ".parquet":
        rows.to_parquet(str(path))
    elif suffix == ".jsonl":
        rows.to_json(str(path))
    else:
        rows.to_csv(str(path), sep="\t" if suffix == ".tsv" else ",", index=False)
    assert open_dataset(str(path)).to_dict() == ROWS


def test_saved_folders_are_read_and_their_split_chosen(tmp_path: Path) -> None:
    Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "one"))
    DatasetDict(test=Dataset.from_dict(ROWS)).save_to_disk(str(tmp_path / "many"))
    assert open_dataset(str(tmp_path / "one")).to_dict() == ROWS
    assert open_dataset(str(tmp_path / "many"), split="test").to_dict() == ROWS
    with pytest.raises(ValueError, match=r"^`split` must be one of \['test'\], got 'train'\.$"):
        open_dataset(str(tmp_path / "many"))
    with pytest.raises(ValueError, match=r"^`split` must be left out for 'one', which has no splits, got 'test'\.$"):
        open_dataset(str(tmp_path / "one"), split="test")


def test_a_split_of_a_file_is_refused_but_one_that_a_manifest_records_is_not(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Dataset.from_dict(ROWS).to_json(str(path))
    with pytest.raises(ValueError, match=r"^`split` must be left out for 'rows\.jsonl', which has no splits, got 'x'"):
        open_dataset(str(path), split="x")
    assert open_recorded(str(path), split="test").to_dict() == ROWS
    assert open_excluded(str(path), split=None, config=None).to_dict() == ROWS  # type: ignore[union-attr]
    for opened, option in ((open_excluded, "exclude_split"), (open_target, "target_split")):
        with pytest.raises(ValueError, match=rf"^`{option}` must be left out for 'rows\.jsonl', which has no"):
            opened(str(path), split="validation", config=None)
    DatasetDict(test=Dataset.from_dict(ROWS)).save_to_disk(str(tmp_path / "many"))
    with pytest.raises(ValueError, match=r"^`target_split` must be one of \['test'\], got 'train'\.$"):
        open_target(str(tmp_path / "many"), split="train", config=None)


def test_a_file_of_columns_without_rows_is_refused(tmp_path: Path) -> None:
    Dataset.from_dict(ROWS).select([]).to_parquet(str(tmp_path / "none.parquet"))
    with pytest.raises(ValueError, match=r"^'none\.parquet' must hold at least one row, got 0: check the file\.$"):
        open_dataset(str(tmp_path / "none.parquet"))


def test_a_missing_path_is_named() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        open_dataset("nowhere/rows.parquet")
    assert str(caught.value) == "no file 'nowhere/rows.parquet': check the path."
    with pytest.raises(FileNotFoundError) as caught:
        open_dataset("./no/such/folder")
    assert str(caught.value) == (
        "no file or folder './no/such/folder': check the path, or give a Hub id such as 'user/name'."
    )


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^folder '.+' was not written by `save_to_disk`: give a data file or such a"
    ):
        open_dataset(str(tmp_path))


def test_an_unknown_format_and_a_damaged_file_are_refused(tmp_path: Path) -> None:
    strange = tmp_path / "rows.xyz"
    strange.write_text("what is this")
    with pytest.raises(ValueError, match=r"cannot tell the format of 'rows\.xyz': use one of \.parquet, "):
        open_dataset(str(strange))
    damaged = tmp_path / "rows.parquet"
    damaged.write_bytes(gzip.compress(b"PAR1 and nothing more"))
    with pytest.raises(ValueError, match=r"^cannot read 'rows\.parquet' as parquet: ") as caught:
        open_dataset(str(damaged))
    assert "\n" not in str(caught.value)
