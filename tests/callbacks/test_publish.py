"""The selection a run ends on, saved beside it and pushed to the local Hub."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from hf_gip.callbacks import GIPSelectionCallback
from hub_server import ALICE, Hub
from tiny_trainers import NotingTrainer, exactly, make_trainer, word_rows

import hf_gip
from hf_gip.manifest.schema import read_manifest

pytestmark = pytest.mark.hub
REPO = "alice/words"


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return word_rows(24)


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub) -> None:
    """Every test here has a Hub of its own."""


def train(folder: Path, rows: Dataset, epochs: int = 2, **callback: Any) -> NotingTrainer:
    trainer = make_trainer(folder, rows, num_train_epochs=epochs)
    callback = {"pool": rows, "push_to": REPO, "id_column": "uid", **callback}
    trainer.add_callback(GIPSelectionCallback(trainer, 6, **callback))
    trainer.train()
    return trainer


def test_the_last_selection_is_on_the_hub_as_it_was_given(
    hub: Hub, rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    trainer = train(tmp_path, rows)
    assert len(hub.history(REPO)) == 2, "the first is the empty repository"
    pushed = load_dataset(REPO, split="train")
    assert pushed.column_names == rows.column_names
    assert sorted(pushed["text"][:]) == sorted(rows.select(trainer.rows_seen(1))["text"][:])
    folder = tmp_path / "gip" / "subset"
    assert hf_gip.verify(folder, source=rows)
    manifest = read_manifest(folder)
    assert manifest.method == "gip-in-training"
    assert manifest.recipe["training"]["step"] == 3
    assert manifest.recipe["training"]["features"] == "hidden"
    assert hf_gip.verify(tmp_path), "the run's own record stays whole beside it"
    with pytest.raises(ValueError, match=r"^only subsets chosen by gip, spice, gtp can be .* got 'gip-in"):
        hf_gip.reproduce(folder, source=rows)


def test_every_selection_is_pushed_where_asked_for_and_a_random_warm_up_is_none(
    hub: Hub, rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    train(tmp_path, rows, epochs=3, push_every_selection=True, start_epoch=1)
    titles = [commit.title for commit in hub.history(REPO)]
    assert titles[:2] == ["6 rows chosen at epoch 2, step 6", "6 rows chosen at epoch 1, step 3"]
    assert len(titles) == 3, "and the empty repository"
    said = [record.getMessage() for record in caplog.records if record.name == "hf_gip.callbacks.publish"]
    assert said == ["The rows of epoch 0 were drawn at random, not selected: they are not pushed."]


def test_a_push_that_fails_costs_nothing_but_a_command(
    hub: Hub, rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with caplog.at_level(logging.ERROR):  # without a token the Hub refuses
        trainer = train(tmp_path, rows)
    assert trainer.state.global_step == trainer.state.max_steps
    [said] = [record.getMessage() for record in caplog.records if record.name == "hf_gip.callbacks.publish"]
    folder = tmp_path / "gip" / "subset"
    assert said.startswith(f"The subset was not pushed to {REPO!r} (")
    assert f"); it is saved in {folder}: push it later with `hf-gip push " in said
    assert hf_gip.verify(folder, source=rows)
    program, *command = shlex.split(said.split("push it later with `")[1].removesuffix("`."))
    subprocess.run(
        [sys.executable, "-m", program.replace("-", "_"), *command],
        env={**os.environ, "HF_TOKEN": ALICE},
        check=True,
        timeout=200,
        capture_output=True,
    )
    monkeypatch.setenv("HF_TOKEN", ALICE)
    assert len(load_dataset(REPO, split="train")) == 6


def test_a_subset_that_cannot_be_saved_does_not_end_the_run(
    rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf_gip, "save_subset", full)
    with caplog.at_level(logging.ERROR):
        trainer = train(tmp_path, rows)
    assert trainer.state.global_step == trainer.state.max_steps
    folder = tmp_path / "gip" / "subset"
    assert caplog.messages[-1] == (
        f"The subset was not saved to {folder} (OSError: [Errno 28] No space left on device)."
    )


REFUSED = [
    (
        {"push_to": REPO},
        "`push_to` publishes rows as they were given to the trainer, got `pool=None`: pass that dataset.",
    ),
    ({"push_to": "words"}, "`push_to` must be a dataset repository such as 'me/rows', got 'words'."),
    (
        {"push_every_selection": True},
        "`push_every_selection` needs the repository to push to, got `push_to=None`: name one.",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_cannot_be_pushed_is_refused_before_training(
    options: dict[str, Any], message: str, rows: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(make_trainer(tmp_path, rows), 6, **options)
