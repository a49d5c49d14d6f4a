"""A run's list of selections cannot be edited unseen, nor stand in for a saved subset's manifest."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_gip import verify
from hf_gip.manifest.training_run import TrainingRun, add_round, read_run

ITEMS = {"items": 2, "items_sha256": "a" * 64}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "gip").mkdir()
    for epoch in range(2):
        name = f"selection_epoch_{epoch:05d}.parquet"
        pq.write_table(pa.table({"index": [3, 1], "epoch": [epoch] * 2}), tmp_path / "gip" / name)
        made = {"epoch": epoch, "step": 4 * epoch, "file": name, "rows": 2, "captured": 0.1, "record": {"k": 2}}
        made |= ITEMS
        add_round(tmp_path, TrainingRun(model="m", pool_rows=9, parameters={"noise": 1 / 3}), made)
    return tmp_path


@pytest.mark.parametrize(("old", "new"), [('"step": 4', '"step": 5'), ('"k": 2', '"k": 3'), ("0.1", "0.2")])
def test_an_edited_record_is_found(old: str, new: str, folder: Path) -> None:
    assert verify(folder).ok
    path = folder / "gip" / "run.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert [check.name for check in verify(folder).failed] == ["run"]


def test_a_run_beside_a_subset_does_not_shield_it(folder: Path) -> None:
    (folder / "gip" / "manifest.json").write_text("{}")
    assert not verify(folder).ok


def test_each_selection_keeps_the_options_it_was_made_with(folder: Path) -> None:
    assert [made.parameters for made in read_run(folder).rounds] == [None, None]
    for epoch, noise in ((2, 0.5), (3, 0.5), (4, 0.25)):
        name = f"selection_epoch_{epoch:05d}.parquet"
        pq.write_table(pa.table({"index": [0], "epoch": [epoch]}), folder / "gip" / name)
        made = {"epoch": epoch, "step": 4 * epoch, "file": name, "rows": 1, **ITEMS}
        add_round(folder, TrainingRun(model="m", pool_rows=9, parameters={"noise": noise}), made)
    run, first, second = read_run(folder), {"noise": 1 / 3}, {"noise": 0.5}
    assert run.parameters == {"noise": 0.25}
    assert [made.parameters for made in run.rounds] == [first, first, second, second, None]
    assert verify(folder).ok
