"""Saved subsets: readable by `load_dataset`, the same bytes every time, whole or absent."""

import datetime
import decimal
import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Image, load_dataset
from datasets.table import InMemoryTable
from hub_server import Hub
from memory_probe import peak_memory
from saved_subset import hub_pool, pool, save

import hf_gip
from hf_gip.hashing import canonical, row_hashes
from hf_gip.manifest.reader import load_folder
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, parse_manifest, read_manifest

MOMENT = datetime.datetime(2024, 5, 6, 7, 8, 9, 123000)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_load_dataset_reads_rows_and_selection(tmp_path: Path) -> None:
    subset = save(tmp_path / "out")
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert rows.features == subset.features
    assert rows[:] == subset.with_format(None)[:]
    picks = load_dataset(str(tmp_path / "out"), "selection", split="train")
    assert picks["index"][:] == subset.selection.indices.tolist()
    assert picks["row_id"][:] == subset["name"][:]
    assert picks["gain"][:] == subset.selection.gains.tolist()
    assert picks["rank"][:] == list(range(6))


def test_the_manifest_says_what_was_chosen_and_hashes_every_part(tmp_path: Path) -> None:
    subset = save(tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.method, manifest.k, manifest.include_rows) == ("gip", 6, True)
    assert manifest.objective == subset.selection.objective
    assert manifest.captured == subset.selection.captured
    assert manifest.source.kind == "rows"
    assert manifest.source.num_rows == 40
    assert set(manifest.files) == {"data/train-00000-of-00001.parquet", SELECTION_PATH}
    for path, entry in manifest.files.items():
        data = (tmp_path / "out" / path).read_bytes()
        assert (entry.sha256, entry.size) == (hashlib.sha256(data).hexdigest(), len(data))
    assert "timings" not in (tmp_path / "out" / MANIFEST_PATH).read_text()


SAVE_ELSEWHERE = """
import sys; sys.path.insert(0, sys.argv[1])
from memory_probe import peak_memory
from saved_subset import save
save(__import__("pathlib").Path(sys.argv[2]))
"""


def test_two_processes_without_a_shared_cache_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        command = [sys.executable, "-c", SAVE_ELSEWHERE, str(Path(__file__).parents[1]), str(tmp_path / name)]
        subprocess.run(command, check=True, env={"HF_HOME": str(tmp_path / f"home-{name}"), "PATH": "/usr/bin:/bin"})
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")
    assert MANIFEST_PATH in bytes_of(tmp_path / "one")


def test_shards_hold_the_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.hashing.BATCH_ROWS", 4)
    subset = save(tmp_path / "out", k=18, max_shard_size=1)
    names = sorted(p.name for p in (tmp_path / "out" / "data").iterdir())
    assert names == [f"train-{i:05d}-of-00005.parquet" for i in range(5)]
    assert load_dataset(str(tmp_path / "out"), split="train")["name"][:] == subset["name"][:]
    manifest = read_manifest(tmp_path / "out")
    assert [manifest.files[path].rows for path in manifest.shards()] == [4, 4, 4, 4, 2]


def test_without_rows_nothing_of_their_text_is_written(hub: Hub, tmp_path: Path) -> None:
    subset = save(tmp_path / "out", rows=hub_pool(), include_rows=False)
    assert sorted(bytes_of(tmp_path / "out")) == ["README.md", MANIFEST_PATH, SELECTION_PATH]
    assert not any(text.encode() in data for text in subset["text"][:] for data in bytes_of(tmp_path / "out").values())
    assert len(load_dataset(str(tmp_path / "out"), split="train")) == 6
    with pytest.raises(ValueError, match="holds positions and hashes without the rows"):
        load_folder(tmp_path / "out")


def test_a_loaded_folder_has_its_selection_back(tmp_path: Path) -> None:
    subset = save(tmp_path / "out")
    loaded = load_folder(tmp_path / "out")
    assert loaded[:] == subset.with_format(None)[:]
    assert loaded.selection.indices.tolist() == subset.selection.indices.tolist()
    assert loaded.selection.objective == subset.selection.objective
    assert loaded.selection.captured == subset.selection.captured
    assert loaded.selection.record["parameters"] == subset.selection.record["parameters"]


def test_what_cannot_be_saved_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    subset = save(tmp_path / "out")
    message = f"`folder` must be new or empty, got {str(tmp_path / 'full')!r}: name another or clear it first."
    with pytest.raises(FileExistsError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(subset, tmp_path / "full")
    message = (
        "`subset` must carry its `.selection`, got none: call `gip_select` first and save its result before other "
        "transforms, which drop the record."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(subset.map(lambda row: row), tmp_path / "new")
    message = (
        "`subset` must be one `datasets.Dataset`, got a DatasetDict with splits ['train']: save each split by itself, "
        "in a folder of its own."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(DatasetDict({"train": subset}), tmp_path / "new")  # pyright: ignore[reportArgumentType]
    message = "`split` must be letters, digits, '_', and single '.' or '-' between them, got '../up'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(subset, tmp_path / "new", split="../up")
    message = "`config_name` must not be 'selection', under which the picks are found: choose another."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(subset, tmp_path / "new", config_name="selection")
    message = "`subset` must have the rows its `.selection` chose (6), got 5: save before other transforms."
    shorter = subset.select(range(5))
    shorter.selection = subset.selection
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.save_subset(shorter, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hf_gip.manifest.writer.write_selection", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_row_hashes_do_not_depend_on_format_indices_or_sharding(tmp_path: Path) -> None:
    rows = pool()
    plain = list(row_hashes(rows, ["text", "vector"]))
    assert len(set(plain)) == 40
    assert list(row_hashes(rows.with_format("torch"), ["vector", "text"])) == plain
    assert list(row_hashes(rows.select(range(39, -1, -1)), ["text", "vector"])) == plain[::-1]
    rows.to_parquet(tmp_path / "rows.parquet")
    again = Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    assert list(row_hashes(again, ["text", "vector"])) == plain  # pyright: ignore[reportArgumentType]


def test_the_canonical_form_is_written_down() -> None:
    row = {
        "b": 0.1,
        "a": "é\n",
        "when": datetime.datetime(2024, 1, 2, 3),
        "raw": b"x",
        "price": decimal.Decimal("1.50"),
    }
    raw = hashlib.sha256(b"x").hexdigest()
    assert (
        canonical(row)
        == (
            '{"a":"é\\n","b":0.1,"price":{"text":"1.50"},"raw":{"bytes":"'
            + raw
            + '"},"when":{"time":"2024-01-02T03:00:00"}}'
        ).encode()
    )
    with pytest.raises(TypeError, match="cannot hash a value of type object: drop or cast that column"):
        canonical({"odd": object()})


def test_images_are_hashed_by_their_bytes_and_survive_the_round_trip(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    for i in range(4):
        Pillow.new("RGB", (2, 2), (i * 40, 0, 0)).save(tmp_path / f"{i}.png")
    rows = Dataset.from_dict(
        {"picture": [str(tmp_path / f"{i}.png") for i in range(4)], "text": ["red", "dark", "light", "black"]}
    )
    rows = rows.cast_column("picture", Image())
    subset = hf_gip.gip_select(rows, 2, encoder="lexical", device="cpu")
    hf_gip.save_subset(subset, tmp_path / "out")
    loaded = load_folder(tmp_path / "out")
    assert loaded[0]["picture"].getpixel((0, 0)) == subset[0]["picture"].getpixel((0, 0))
    assert list(row_hashes(loaded, loaded.column_names)) == list(row_hashes(subset, subset.column_names))
    assert str(tmp_path) not in str(
        pq.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet").to_pylist()
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"files": {"../x": {}}}, "must stay inside its folder"),
        ({"files": {"/etc/passwd": {}}}, "must be relative"),
        ({"extra": 1}, "Extra inputs are not permitted"),
        ({"format": 3}, "Input should be 2"),
        ({"k": "6"}, "Input should be a valid integer"),
    ],
)
def test_an_untrusted_manifest_is_refused_in_one_sentence(tmp_path: Path, change: dict, reason: str) -> None:
    import json

    save(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / MANIFEST_PATH).read_text())
    if "files" in change:
        change = {"files": {name: next(iter(kept["files"].values())) for name in change["files"]}}
    with pytest.raises(ValueError, match=rf"^the manifest is not valid at `[\w./\[\]\-]+`: .*{reason}[^\n]*\.$"):
        parse_manifest(json.dumps(kept | change).encode())


COLUMNS = {
    "large": (pa.large_string(), ["é", None]),
    "bytes": (pa.binary(), [b"x\x00", b""]),
    "unsigned": (pa.uint64(), [2**63 + 1, 0]),
    "half": (pa.float16(), [0.1, -1.5]),
    "single": (pa.float32(), [0.1, float("nan")]),
    "flag": (pa.bool_(), [True, None]),
    "seconds": (pa.timestamp("s"), [MOMENT.replace(microsecond=0), None]),
    "nanos": (pa.timestamp("ns"), [MOMENT, MOMENT]),
    "zoned": (pa.timestamp("us", tz="Europe/Paris"), [MOMENT.replace(tzinfo=datetime.UTC), None]),
    "day": (pa.date32(), [MOMENT.date(), None]),
    "clock": (pa.time64("us"), [MOMENT.time(), None]),
    "span": (pa.duration("us"), [datetime.timedelta(seconds=1.5), None]),
    "price": (pa.decimal128(10, 2), [decimal.Decimal("1.50"), None]),
    "list": (pa.list_(pa.int32()), [[1, None], []]),
    "fixed": (pa.list_(pa.float32(), 2), [[0.1, 0.2], [3.0, 4.0]]),
    "turns": (
        pa.list_(pa.struct({"role": pa.string(), "content": pa.string()})),
        [[{"role": "user", "content": "hi"}], []],
    ),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_of_column_is_saved_verified_and_loaded(tmp_path: Path, name: str) -> None:
    kind, values = COLUMNS[name]
    rows = Dataset(InMemoryTable(pa.table({"text": ["one word", "two words"], name: pa.array(values, kind)})))
    subset = hf_gip.gip_select(rows, 2, columns=["text"], encoder="lexical", device="cpu")
    hf_gip.save_subset(subset, tmp_path / "out")
    report = hf_gip.verify(tmp_path / "out", source=rows)
    assert report.ok, str(report)
    loaded = load_folder(tmp_path / "out")
    assert list(row_hashes(loaded, loaded.column_names)) == list(row_hashes(subset, subset.column_names))


def test_memory_does_not_grow_with_the_subset(tmp_path: Path) -> None:
    environment = {"HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    python, arrow = peak_memory("save_subset", str(tmp_path / "out"), environment)
    assert python < 30e6
    assert arrow < 50e6
    assert len(read_manifest(tmp_path / "out").shards()) >= 4


KILLED = """
import os, sys; sys.path.insert(0, sys.argv[1])
import hf_gip.manifest.writer as layout
assert hasattr(layout, sys.argv[3])
setattr(layout, sys.argv[3], lambda *_, **__: os.kill(os.getpid(), 9))
from memory_probe import peak_memory
from saved_subset import save
save(__import__("pathlib").Path(sys.argv[2]))
"""


@pytest.mark.parametrize("moment", ["file_entry", "subset_card"])
def test_a_killed_save_leaves_no_folder_that_looks_whole(tmp_path: Path, moment: str) -> None:
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path / "out"), moment]
    done = subprocess.run(command, env={"HF_HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"})
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    save(tmp_path / "out")
    assert hf_gip.verify(tmp_path / "out").ok
