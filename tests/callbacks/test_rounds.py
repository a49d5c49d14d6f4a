"""What a run leaves behind, and selecting by texts."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from command_line import hf_gip as command
from command_line import refusal
from datasets import Dataset, disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from hf_gip.callbacks.features import TextEmbeddings
from report_page import table
from tiny_trainers import exactly, make_trainer, tiny_llama, word_rows
from transformers import Trainer, TrainingArguments

import hf_gip
from hf_gip import Selection


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    disable_progress_bars()
    folder = tmp_path_factory.mktemp("run")
    trainer = make_trainer(folder, word_rows(40))
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    trainer.train()
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    for file in (finished / "gip").iterdir():
        (tmp_path / "gip").mkdir(exist_ok=True)
        (tmp_path / "gip" / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_run_verifies(run: Path) -> None:
    report = hf_gip.verify(run)
    assert report.ok, str(report)
    rounds = json.loads((run / "gip" / "run.json").read_text())["rounds"]
    assert [made["epoch"] for made in rounds] == [0, 1, 2]
    assert [made["step"] for made in rounds] == [0, 4, 8]


def test_a_run_names_its_settings_its_versions_and_the_checkpoints_that_chose(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, word_rows(20), num_train_epochs=2, save_strategy="epoch")
    trainer.add_callback(GIPSelectionCallback(trainer, 4, features="last_layer_gradient", id_column="uid"))
    trainer.train()
    record = json.loads((tmp_path / "gip" / "run.json").read_text())
    assert record["model"] == "LlamaForCausalLM"
    assert record["parameters"] == {
        "features": "last_layer_gradient",
        "projected_to": 1024,
        "target_sha256": None,
        "scores": [],
        "objective": "projection",
        "noise": None,
        "own_select": False,
        "packing": None,
        "seed": 7,
        "k": 4,
        "id_column": "uid",
        "every_n_epochs": 1,
        "start_epoch": 0,
        "allow_repeats": True,
        "num_candidates": None,
    }
    assert record["versions"]["hf-gip"] == hf_gip.__version__
    assert [made["checkpoint"] for made in record["rounds"]] == [None, "checkpoint-2"]
    assert hf_gip.verify(tmp_path)


class Tracker(ModuleType):
    """What the callback asks of wandb and trackio: a table made of a frame, and a place to log it."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.run, self.logged = object(), list[dict[str, Any]]()

    def Table(self, dataframe: Any) -> Any:  # noqa: N802 — their name
        return dataframe

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)


def test_selections_are_tables_of_the_trackers_that_the_run_reports_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = {name: Tracker(name) for name in ("wandb", "trackio")}
    for name, tracker in trackers.items():
        monkeypatch.setitem(sys.modules, name, tracker)
    trainer = make_trainer(tmp_path, word_rows(20), num_train_epochs=2)
    trainer.add_callback(GIPSelectionCallback(trainer, 4, id_column="uid"))
    trainer.args.report_to = ["trackio"]
    trainer.train()
    assert not trackers["wandb"].logged
    first, second = (values["gip/rows"] for values in trackers["trackio"].logged)
    assert list(first["rank"]) == [0, 1, 2, 3]
    assert [text.split()[0] for text in second["text"]] == [f"r{row}" for row in second["index"]]
    assert list(second["row_id"]) == [f"row-{row}" for row in second["index"]]


def test_a_run_is_reported_on_a_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("report", run, "--out", run / "page.html") == 0
    capsys.readouterr()
    page = table(run / "page.html")
    assert [column["name"] for column in page["columns"]] == ["pick", "row", "gain", "chosen in 3 selections", "text"]
    rounds = [pq.read_table(run / "gip" / f"selection_epoch_{epoch:05d}.parquet").to_pydict() for epoch in range(3)]
    assert [int(row[1]) for row in page["rows"]] == rounds[2]["index"]
    assert [int(row[3]) for row in page["rows"]] == [
        sum(index in each["index"] for each in rounds) for index in rounds[2]["index"]
    ]
    assert [row[-1] for row in page["rows"]] == [str(name) for name in rounds[2]["row_id"]]
    source = (run / "page.html").read_text()
    assert 'alt="How the selections of the run overlap"' in source
    assert "8 rows chosen by gip for epoch 2 of a run" in source
    file = run / "gip" / "selection_epoch_00001.parquet"
    file.write_bytes(b"")
    message = "the run's selections must be as recorded, got: selection_epoch_00001.parquet has changed."
    assert refusal(capsys, "report", run, "--out", run / "page.html") == message


def test_a_run_where_a_subset_is_wanted_is_called_one(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = (["report", run], ["explain", run, 3], ["compare", run], ["reproduce", run])
    for each in words:
        assert refusal(capsys, *each, "--source", "pool.parquet") == (
            f"{str(run)!r} is the folder of a training run and holds no subset: `hf-gip verify` and `hf-gip report` "
            "without `--source` read it."
        )
    pool = word_rows(9)
    hf_gip.save_subset(hf_gip.gip_select(pool, 2, encoder="lexical", device="cpu"), run / "gip" / "subset")
    pool.to_parquet(run / "pool.parquet")
    for each in words[:2]:
        assert refusal(capsys, *each, "--source", run / "pool.parquet") == (
            f"{str(run)!r} is the folder of a training run: give the subset in it, {str(run / 'gip' / 'subset')!r}."
        )
    assert command(*words[2], "--source", run / "pool.parquet", "--encoder", "lexical") == 0
    assert command(*words[3], "--source", run / "pool.parquet") == 0


def test_a_changed_selection_fails(run: Path) -> None:
    file = run / "gip" / "selection_epoch_00001.parquet"
    file.write_bytes((run / "gip" / "selection_epoch_00002.parquet").read_bytes())
    assert [check.name for check in hf_gip.verify(run).failed] == ["selections"]


def test_a_missing_selection_fails(run: Path) -> None:
    (run / "gip" / "selection_epoch_00002.parquet").unlink()
    assert not hf_gip.verify(run)


@pytest.mark.parametrize("file", ["../selection_epoch_00001.parquet", "/etc/passwd"])
def test_a_record_cannot_point_elsewhere(run: Path, file: str) -> None:
    path = run / "gip" / "run.json"
    record = json.loads(path.read_text())
    record["rounds"][1]["file"] = file
    path.write_text(json.dumps(record))
    assert [check.name for check in hf_gip.verify(run).failed] == ["run"]


def test_texts_choose_the_rows_that_say_what_the_target_says(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"r{i} w{i} w{i} w{i}" for i in range(20)]})
    trainer = make_trainer(tmp_path, rows, num_train_epochs=1)
    seen: list[tuple[int, ...]] = []

    def select(features: torch.Tensor, queries: torch.Tensor | None, k: int) -> Selection:
        assert queries is not None
        seen.append(tuple(features.shape))
        best = (features @ queries.T).sum(dim=1).topk(k)
        return Selection(best.indices, best.values.double())

    target = ["w3 w3 w3", "w11 w11 w11"]
    trainer.add_callback(GIPSelectionCallback(trainer, 2, features="text", target=target, select=select))
    trainer.train()
    assert trainer.rows_seen(0) == [3, 11]
    assert len(seen) == 1


def test_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    tokens = Dataset.from_dict({"input_ids": [[3, 4]] * 6, "labels": [[3, 4]] * 6})
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    message = (
        "`features=\"text\"` needs `input_ids` and a tokenizer to decode them, got columns ['input_ids', 'labels'] "
        "and NoneType: pass `processing_class=` to the trainer."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(Trainer(tiny_llama(9), args, train_dataset=tokens), 2, features="text")


def test_texts_are_read_once_and_consume_no_random_numbers(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, word_rows(12))
    vectors = TextEmbeddings("lexical")
    before = torch.get_rng_state()
    first = vectors.embed(trainer, trainer.train_dataset)
    assert torch.equal(before, torch.get_rng_state())
    assert vectors.embed(trainer, trainer.train_dataset) is first
