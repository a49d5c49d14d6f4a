"""A dataset by name: every kind of file, and what is said when there is nothing to read."""

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hub_server import Hub, Repo
from tiny_trainers import exactly

from hf_gip.cli.options import open_excluded, open_target
from hf_gip.dataset.loading import open_dataset, open_recorded

ROWS = {"text": ["one", "two", "three"], "score": [1, 2, 3]}


SUFFIXES = [".parquet", ".jsonl", ".json", ".csv", ".tsv", ".txt"]
SUFFIXES += [f"{suffix}.gz" for suffix in SUFFIXES if suffix != ".parquet"]


def write(path: Path, rows: Dataset) -> None:
    """The rows as a file of the kind that its name says, always with the same time."""
    kind, inner = path.name.removesuffix(".gz"), path.with_name("inner")
    if kind.endswith(".parquet"):
        rows.to_parquet(inner)
    elif kind.endswith(".txt"):
        inner.write_text("\n".join(rows["text"]))
    elif ".json" in kind:
        rows.to_json(inner, lines=kind.endswith(".jsonl"))
    else:
        rows.to_csv(inner, sep="\t" if kind.endswith(".tsv") else ",", index=False)
    content = inner.read_bytes()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    os.utime(path, (1e9, 1e9))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_file_is_read(tmp_path: Path, suffix: str) -> None:
    name = f"rows{suffix}" if suffix.endswith(".gz") else f"rows[1]{suffix}"  # no pattern
    write(tmp_path / name, Dataset.from_dict(ROWS))
    read = open_dataset(str(tmp_path / name)).to_dict()
    assert read == ({"text": ROWS["text"]} if ".txt" in suffix else ROWS)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_the_same_time_and_size_is_read_by_its_content(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"

    def opened(*texts: str) -> Dataset:
        write(path, Dataset.from_dict({"text": list(texts), "score": [1, 2, 3]}))
        rows = open_dataset(str(path))
        assert rows["text"][:] == list(texts)
        return rows

    first, other, again = opened("one", "two", "six"), opened("ten", "two", "six"), opened("one", "two", "six")
    assert path.stat().st_mtime == 1e9
    assert first._fingerprint == again._fingerprint != other._fingerprint  # what `map` is cached by
    assert first.cache_files == again.cache_files != other.cache_files
    os.utime(path)
    written = Path(first.cache_files[0]["filename"]).stat()
    assert open_dataset(str(path)).cache_files == first.cache_files  # a new time alone: not read anew
    assert Path(first.cache_files[0]["filename"]).stat() == written


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_one_name_and_time_in_two_folders_are_two(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / f"rows{suffix}", Dataset.from_dict({"text": [name, "row"], "score": [1, 2]}))
    for name in ("one", "two"):
        assert open_dataset(str(tmp_path / name / f"rows{suffix}"))["text"][:] == [name, "row"]


@pytest.mark.parametrize("kind", ["folder", "shards", "split"])
def test_a_saved_folder_is_read_by_its_content(tmp_path: Path, kind: str) -> None:
    def opened(words: str) -> Dataset:
        rows = Dataset.from_dict({"text": [f"{words} {i}" for i in range(6)]})
        rows._fingerprint = "a" * 16  # as of a `map` whose function reads a file
        saved = DatasetDict(train=rows) if kind == "split" else rows
        saved.save_to_disk(str(tmp_path / words), **({"num_shards": 3} if kind == "shards" else {}))
        (tmp_path / words).rename(tmp_path / "rows")
        for path in (tmp_path / "rows").rglob("*"):
            os.utime(path, (1e9, 1e9))
        found = open_dataset(str(tmp_path / "rows")).map(lambda row: {"long": row["text"] * 2})
        assert found["long"][:] == [f"{words} {i}" * 2 for i in range(6)]
        files = found_files(open_dataset(str(tmp_path / "rows")))
        assert len(files) == (3 if kind == "shards" else 1)  # not the one that `map` left there
        (tmp_path / "rows").rename(tmp_path / f"{words} put away")
        return found

    assert opened("abc")._fingerprint != opened("xyz")._fingerprint


def found_files(rows: Dataset) -> list[dict[str, object]]:
    """The files that the manifest of a subset of `rows` names."""
    return rows.gip_select(1, encoder="lexical").selection.record["source"]["files"]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    path, load = tmp_path / "rows.csv", datasets.load_dataset
    path.write_text("text\none\n")

    def overtaken(*args: object, **options: object) -> Dataset:
        path.write_text("text\ntwo\n")
        return load(*args, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "load_dataset", overtaken)
        with pytest.raises(ValueError, match=r"^'rows\.csv' must stay as it is while it is read, got other content"):
            open_dataset(str(path))
    path.write_text("text\none\n")
    assert open_dataset(str(path))["text"][:] == ["one"]


def test_targets_exclusions_and_vectors_are_read_by_content_in_processes_of_their_own(tmp_path: Path) -> None:
    def run(home: str, *words: str) -> str:
        paths = {"HF_HOME": str(tmp_path / home), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-m", "hf_gip", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, **paths})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def replace(pool: str, target: str, exclude: str, axis: int) -> None:
        texts = [f"{word} {pool} {word}{i}" for i, word in enumerate(["ship", "bird", "moon", "tree"] * 3)]
        write(tmp_path / "pool.jsonl", Dataset.from_dict({"text": texts}))
        write(tmp_path / "target.csv", Dataset.from_dict({"text": [f"{target} {target}"]}))
        write(tmp_path / "test.txt", Dataset.from_dict({"text": [texts[["ship", "bird"].index(exclude)]]}))
        np.save(tmp_path / "x.npy", np.eye(12, dtype=np.float32)[np.roll(np.arange(12), axis)])
        os.utime(tmp_path / "x.npy", (1e9, 1e9))

    def picks(out: str) -> list[dict[str, object]]:
        rows = Dataset.from_parquet(str(tmp_path / out / "gip/selection.parquet"))
        return rows.select_columns(["index", "row_sha256"]).to_list()  # type: ignore[union-attr]

    said = ("select", "pool.jsonl", "--k", "2", "--encoder", "lexical", "--target", "target.csv")
    said += ("--exclude", "test.txt", "--out")
    replace("one", "moon", "ship", 0)
    run("home", *said, "a")
    run("home", "select", "pool.jsonl", "--k", "2", "--features", "x.npy", "--out", "va")
    replace("two", "tree", "bird", 5)
    run("home", *said, "b")
    run("home", "select", "pool.jsonl", "--k", "2", "--features", "x.npy", "--out", "vb")
    run("other", *said, "fresh")
    run("other", "select", "pool.jsonl", "--k", "2", "--features", "x.npy", "--out", "vfresh")
    assert picks("b") == picks("fresh") != picks("a")
    records = [json.loads((tmp_path / out / "gip/manifest.json").read_text()) for out in ("va", "vb", "vfresh")]
    first, second, fresh = (record["recipe"]["features"]["sha256"] for record in records)
    assert first != second == fresh
    run("third", "verify", "b", "--source", "pool.jsonl")
    again = ("reproduce", "b", "--source", "pool.jsonl", "--target", "target.csv", "--exclude", "test.txt")
    run("third", *again)


def test_an_empty_split_beside_the_one_that_is_read_does_no_harm(tmp_path: Path) -> None:
    rows = Dataset.from_dict(ROWS)
    DatasetDict(train=rows, test=rows.select([]), dev=rows.filter(lambda _: False)).save_to_disk(str(tmp_path / "d"))
    assert open_dataset(str(tmp_path / "d")).to_dict() == ROWS
    for split in ("test", "dev"):
        message = f"split {split!r} of 'd' must hold at least one row, got 0: check the folder."
        with pytest.raises(ValueError, match=exactly(message)):
            open_dataset(str(tmp_path / "d"), split=split)
    (tmp_path / "d" / "train" / "data-00000-of-00001.arrow").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"^cannot read split 'train' of 'd' as saved by `save_to_disk`: "):
        open_dataset(str(tmp_path / "d"))


def test_what_only_the_hub_has_is_refused_for_what_is_on_this_disk(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", Dataset.from_dict(ROWS))
    Dataset.from_dict(ROWS).save_to_disk(str(tmp_path / "saved"))
    for name in ("rows.csv", "saved", "gone.csv"):
        for option in ("config", "revision"):
            message = f"`{option}` must be left out for {name!r}, which is not on the Hub, got 'x'."
            with pytest.raises(ValueError, match=exactly(message)):
                open_dataset(str(tmp_path / name), **{option: "x"})  # type: ignore[arg-type]
    assert open_recorded(str(tmp_path / "rows.csv"), split="s", config="c", revision="r").to_dict() == ROWS


def test_a_name_that_may_be_a_path_or_a_repository_is_read_both_ways(hub: Hub) -> None:
    reasons = {"mistyped": "it could not be asked", "runs/mistyped": r"Dataset 'runs/mistyped' doesn't exist on .+"}
    for name, reason in reasons.items():
        with pytest.raises(FileNotFoundError) as caught:
            open_dataset(name)
        assert re.fullmatch(
            rf"'{name}' is no file or folder here, and no dataset was found on the Hub \({reason}\): "
            "check the path, or the dataset's name, the connection and `hf auth login`\\.",
            str(caught.value),
        )
    for name in ("mistyped/", "my rows", "a/b/c", "..", "~/gone", "x--y/z"):
        said = "no file or folder " if name != ".." else "folder '..' was not written by"
        with pytest.raises((FileNotFoundError, ValueError), match=f"^{said}"):
            open_dataset(name)


def test_a_dataset_with_a_script_of_its_own_says_what_can_be_done(hub: Hub) -> None:
    hub.repos["alice/scripted"] = Repo("alice/scripted")
    hub.commit("alice/scripted", {"scripted.py": b"raise SystemExit", "README.md": b"rows"})
    with pytest.raises(
        ValueError, match=r"^'alice/scripted' is read by a script of its own, and no code of a"
    ) as caught:
        open_dataset("alice/scripted")
    assert "refs/convert/parquet" in str(caught.value)
    assert "trust_remote_code" not in str(caught.value)


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
