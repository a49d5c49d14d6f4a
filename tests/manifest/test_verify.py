"""Verification: an untouched folder passes, and every change to it, or to its source, is found and named."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, config
from hub_server import Hub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_subset import hub_pool, pool, save

import hf_gip
from hf_gip.dataset.loading import open_dataset
from hf_gip.manifest.reader import read_selection_table
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, Manifest, read_manifest
from hf_gip.manifest.verify import VerificationReport
from hf_gip.manifest.writer import write_selection

SHARD = "data/train-00000-of-00001.parquet"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A saved folder nobody touches."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", folder / "cache")
        save(folder / "out")
        yield folder / "out"


@pytest.fixture
def out(kept: Path, tmp_path: Path) -> Path:
    """A copy of it, to tamper with."""
    return Path(shutil.copytree(kept, tmp_path / "out"))


def failures(report: VerificationReport) -> dict[str, str]:
    return {check.name: check.sentence for check in report.failed}


def reseal(folder: Path, **changes: Any) -> None:
    """What a careful forger does: hash the changed files anew and seal the manifest again."""
    from hf_gip.manifest.writer import file_entry

    manifest = read_manifest(folder)
    files = {path: file_entry(folder / path, entry.rows) for path, entry in manifest.files.items()}
    forged = manifest.model_copy(update={"files": files, **changes}).sealed()
    (folder / MANIFEST_PATH).write_bytes(forged.to_bytes())


def edit_picks(folder: Path, name: str, change: Callable[[list], list]) -> None:
    table = read_selection_table(folder / SELECTION_PATH)
    position = table.column_names.index(name)
    values = pa.array(change(table[name].to_pylist()), table.schema.field(name).type)
    write_selection(table.set_column(position, name, values), folder / SELECTION_PATH)


def test_an_untouched_folder_passes_alone_and_with_its_source(out: Path) -> None:
    alone = hf_gip.verify(out)
    assert alone.ok
    assert [check.outcome for check in alone.checks] == ["ok"] * 5 + ["not covered"]
    assert alone.checks[-1].sentence == "not at hand: give the dataset of 40 rows as `source`"
    whole = hf_gip.verify(out, source=pool())
    assert whole
    assert [check.outcome for check in whole.checks] == ["ok"] * 7
    assert str(whole).splitlines()[0] == f"{out}: verified"


def test_a_pointer_folder_passes_too(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool()
    save(tmp_path / "out", rows=rows, include_rows=False)
    report = hf_gip.verify(tmp_path / "out", source=rows)
    assert report.ok
    assert {c.name: c.outcome for c in report.checks}["rows"] == "not covered"


def test_a_changed_row_is_named_also_when_the_file_was_hashed_anew(out: Path) -> None:
    table = pq.read_table(out / SHARD)
    texts = table["text"].to_pylist()
    texts[2] += "!"
    pq.write_table(table.set_column(0, table.schema.field("text"), pa.array(texts)), out / SHARD)
    name = table["name"][2].as_py()
    found = failures(hf_gip.verify(out))
    assert found["files"] == f"{SHARD} was changed: its SHA-256 is not the manifest's."
    assert found["rows"] == f"row {name!r} at rank 2 was changed."
    reseal(out)
    assert failures(hf_gip.verify(out)) == {"rows": f"row {name!r} at rank 2 was changed."}


def test_a_forger_who_hashes_everything_anew_fails_at_the_source(out: Path) -> None:
    from hf_gip.hashing import hash_lines, hash_table

    table = pq.read_table(out / SHARD)
    texts = table["text"].to_pylist()
    texts[0] = "poison"
    table = table.set_column(0, table.schema.field("text"), pa.array(texts))
    pq.write_table(table, out / SHARD)
    hashes = hash_table(table, table.column_names)
    edit_picks(out, "row_sha256", lambda _: hashes)
    reseal(out, rows_sha256=hash_lines(hashes))
    assert hf_gip.verify(out).ok
    name = table["name"][0].as_py()
    assert failures(hf_gip.verify(out, source=pool())) == {"source rows": f"row {name!r} at rank 0 was changed."}


@pytest.mark.parametrize(
    ("column", "change", "sentence"),
    [
        ("index", lambda x: [x[0] + 1, *x[1:]], "an index was changed: they do not fit `indices_sha256`"),
        ("index", lambda x: [40, *x[1:]], "an index lies outside the 40 rows of the source"),
        ("index", lambda x: [x[1], *x[1:]], "an index comes twice"),
        ("gain", lambda x: [x[0] * 2, *x[1:]], "a gain was changed: they add up to"),
        ("gain", lambda x: [float("nan"), *x[1:]], "a gain was changed: they add up to nan"),
        ("rank", lambda x: x[::-1], "the ranks are not 0 to 5 in order"),
        ("row_sha256", lambda x: ["0" * 64, *x[1:]], "a row hash was changed: they do not fit `rows_sha256`"),
    ],
)
def test_a_changed_pick_is_named_although_the_file_was_hashed_anew(
    out: Path, column: str, change: Callable[[list], list], sentence: str
) -> None:
    edit_picks(out, column, change)
    reseal(out)
    assert sentence in failures(hf_gip.verify(out))["selection"]


def test_a_share_that_does_not_follow_is_named(out: Path) -> None:
    reseal(out, captured=0.999)
    assert failures(hf_gip.verify(out)) == {"selection": "`captured` is not `objective` / `total`."}


def test_missing_and_foreign_files_are_named(out: Path) -> None:
    (out / SHARD).unlink()
    (out / "data" / "train-extra.parquet").write_bytes(b"more")
    found = failures(hf_gip.verify(out))
    assert found["files"] == f"{SHARD} is missing; data/train-extra.parquet is not listed in the manifest."
    (out / SELECTION_PATH).unlink()
    assert f"{SELECTION_PATH} is missing" in failures(hf_gip.verify(out))["files"]
    (out / MANIFEST_PATH).unlink()
    assert failures(hf_gip.verify(out)) == {
        "manifest": "folder 'out' holds no gip/manifest.json: give one written by `hf_gip.save_subset`."
    }


def test_a_card_that_leads_elsewhere_is_named_but_its_text_is_free(out: Path) -> None:
    card = (out / "README.md").read_text()
    (out / "README.md").write_text(card + "\nMy own words.\n")
    assert hf_gip.verify(out).ok
    (out / "README.md").write_text(card.replace("data/train-*", "evil/*"))
    assert failures(hf_gip.verify(out)) == {
        "card": "configuration 'default' does not point to the files of the manifest; another configuration is the "
        "default."
    }
    (out / "README.md").unlink()
    assert "card" in failures(hf_gip.verify(out))


def test_a_changed_source_is_named(out: Path) -> None:
    rows = pool()
    chosen = read_selection_table(out / SELECTION_PATH)["index"].to_pylist()
    other = next(i for i in range(40) if i not in chosen)

    def shout(at: int) -> Dataset:
        return rows.map(lambda row, i: {"text": row["text"].upper() if i == at else row["text"]}, with_indices=True)

    assert failures(hf_gip.verify(out, source=shout(other))) == {
        "source": "a row of the source was changed: its rows do not fit `rows_sha256`."
    }
    found = failures(hf_gip.verify(out, source=shout(chosen[1])))
    assert found["source rows"] == f"row 'row-{chosen[1]}' at rank 1 was changed."
    found = failures(hf_gip.verify(out, source=rows.select(range(1, 40))))
    assert "the source has 39 rows, the manifest says 40" in found["source"]
    found = failures(hf_gip.verify(out, source=rows.remove_columns("text")))
    assert found["source rows"] == "the source has no column 'text'."


def test_a_local_file_is_pinned_by_its_content(tmp_path: Path) -> None:
    pool().to_parquet(tmp_path / "pool.parquet")
    subset = hf_gip.gip_select(open_dataset(str(tmp_path / "pool.parquet")), 5, features="vector", device="cpu")
    hf_gip.save_subset(subset, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.source.kind, [f.name for f in manifest.source.files]) == ("files", ["pool.parquet"])
    assert str(tmp_path) not in (tmp_path / "out" / MANIFEST_PATH).read_text()
    assert hf_gip.verify(tmp_path / "out", source=tmp_path / "pool.parquet").ok
    shutil.copy(tmp_path / "pool.parquet", tmp_path / "moved.parquet")
    assert hf_gip.verify(tmp_path / "out", source=tmp_path / "moved.parquet").ok
    other = next(i for i in range(40) if i not in subset.selection.indices.tolist())
    table = pq.read_table(tmp_path / "pool.parquet")
    texts = table["text"].to_pylist()
    texts[other] = "changed"
    pq.write_table(table.set_column(0, table.schema.field("text"), pa.array(texts)), tmp_path / "pool.parquet")
    assert failures(hf_gip.verify(tmp_path / "out", source=tmp_path / "pool.parquet")) == {
        "source": "file 'pool.parquet' of the source was changed: its SHA-256 is not the manifest's."
    }
    (tmp_path / "pool.parquet").unlink()
    found = failures(hf_gip.verify(tmp_path / "out", source=tmp_path / "pool.parquet"))
    assert found == {
        "source": f"the source cannot be read: no file {str(tmp_path / 'pool.parquet')!r}: check the path."
    }


def test_a_dataset_changed_after_loading_is_no_longer_its_file(tmp_path: Path) -> None:
    pool().to_parquet(tmp_path / "pool.parquet")
    opened = open_dataset(str(tmp_path / "pool.parquet"))
    shuffled = opened.shuffle(seed=1)
    hf_gip.save_subset(hf_gip.gip_select(shuffled, 5, features="vector", device="cpu"), tmp_path / "out")
    assert read_manifest(tmp_path / "out").source.kind == "rows"
    assert hf_gip.verify(tmp_path / "out", source=shuffled).ok
    assert not hf_gip.verify(tmp_path / "out", source=opened).ok


def leaves(value: Any, path: tuple = ()) -> Iterator[tuple]:
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(
    choice=st.integers(0, 10**6), bit=st.integers(0, 7), name=st.sampled_from([SHARD, SELECTION_PATH, MANIFEST_PATH])
)
def test_every_flipped_bit_is_found(kept: Path, out: Path, choice: int, bit: int, name: str) -> None:
    data = bytearray((kept / name).read_bytes())
    data[choice % len(data)] ^= 1 << bit
    (out / name).write_bytes(data)
    report = hf_gip.verify(out)
    (out / name).write_bytes((kept / name).read_bytes())
    assert not report.ok
    assert any(name in check.sentence or check.name == "manifest" for check in report.failed)


@FUZZ
@given(choice=st.integers(0, 10**6), value=st.sampled_from([None, 0, -1, 7, 0.5, "x", "0" * 64, True, [], {}]))
def test_every_changed_field_of_the_manifest_is_found(kept: Path, out: Path, choice: int, value: Any) -> None:
    whole = json.loads((kept / MANIFEST_PATH).read_text())
    paths = list(leaves(whole))
    *way, last = paths[choice % len(paths)]
    parent = whole
    for key in way:
        parent = parent[key]
    if type(parent[last]) is type(value) and parent[last] == value:
        return
    parent[last] = value
    (out / MANIFEST_PATH).write_text(json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    report = hf_gip.verify(out)
    assert report.checks[0].name == "manifest"
    assert report.checks[0].outcome == "failed"


@FUZZ
@given(data=st.binary(max_size=300))
def test_no_bytes_make_the_manifest_reader_stumble(out: Path, data: bytes) -> None:
    (out / MANIFEST_PATH).write_bytes(data)
    [check] = hf_gip.verify(out).checks
    assert re.match(r"^the manifest is not valid at `[^`]+`: ", check.sentence)


def test_an_oversized_manifest_is_not_parsed(out: Path) -> None:
    with (out / MANIFEST_PATH).open("r+b") as file:
        file.truncate((16 << 20) + 5)
    [check] = hf_gip.verify(out).checks
    assert check.sentence == "the manifest must be at most 16777216 bytes, got 16777217."


def test_a_selection_with_other_columns_is_refused(out: Path) -> None:
    table = pc.call_function("drop_null", [read_selection_table(out / SELECTION_PATH).select(["rank", "index"])])
    pq.write_table(table, out / SELECTION_PATH)
    found = failures(hf_gip.verify(out))
    assert "the selection file 'selection.parquet' cannot be read: columns ['rank', 'index']" in found["selection"]


def test_the_schema_is_closed() -> None:
    assert Manifest.model_config["extra"] == "forbid"
