"""What cannot work is refused before training, in one sentence."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import exactly, make_trainer

from hf_gip import Selection

ROWS = 12


COLUMNS = ["text", "uid", "input_ids", "labels"]
OPTIONS: list[tuple[dict[str, Any], str]] = [
    ({"k": 13}, "`k` must be a whole number between 1 and the number of rows (12), got 13."),
    ({"k": 0}, "`k` must be a whole number between 1 and the number of rows (12), got 0."),
    ({"every_n_epochs": 0}, "`every_n_epochs` must be a whole number of at least 1, got 0."),
    ({"every_n_epochs": 1.5}, "`every_n_epochs` must be a whole number of at least 1, got 1.5."),
    ({"start_epoch": -1}, "`start_epoch` must be a whole number of at least 0, got -1."),
    (
        {"initial_selection": "rows"},
        "`initial_selection` must be a `Selection`, got str: a subset has it as `.selection`.",
    ),
    ({"id_column": "name"}, f"`id_column` must name a column of the training set {COLUMNS}, got 'name'."),
    (
        {"scores": ["help", "text"]},
        "`scores` must be numeric columns of the pool or \"loss\", got ['help', 'text']: it has [].",
    ),
    ({"scores": "loss"}, "`scores` must be a list of column names, got 'loss': write `scores=['loss']`."),
    (
        {"scores": ["loss"], "select": lambda features, queries, k: None},
        "`scores` must be left out with `select`, which takes GIP's place and with it the scores: use them inside "
        "your function.",
    ),
    ({"target": "w1"}, "`target` must be a `datasets.Dataset` or a list of texts, got str."),
    ({"target": []}, "`target` must hold at least one row, got none."),
    (
        {"encoder": "model"},
        "`encoder` embeds texts, got 'model' with `features='hidden'`: add `features=\"text\"`.",
    ),
    (
        {"features": "text", "encoder": 7},
        "`encoder` must be a model id, 'lexical' or an object with an `encode` method, got 7.",
    ),
    ({"allow_repeats": "no"}, "`allow_repeats` must be True or False, got 'no'."),
    *(
        (
            {"target": Dataset.from_dict(rows)},
            f"`target` must have a value in every row, got None in row 1 of column '{name}': leave such rows out.",
        )
        for name, rows in (
            ("text", {"text": ["w1 w2", None]}),
            ("completion", {"prompt": ["w1", "w2"], "completion": ["w3", None]}),
            ("messages", {"messages": [[{"role": "user", "content": "w1"}], None]}),
            ("input_ids", {"input_ids": [[3, 4], None]}),
        )
    ),
    ({"num_candidates": 3}, "`num_candidates` must be at least `k=4`, got 3: raise it."),
]


@pytest.mark.parametrize(("options", "message"), OPTIONS, ids=[str(list(options)) for options, _ in OPTIONS])
def test_a_wrong_option_is_named(options: dict[str, Any], message: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    with pytest.raises((TypeError, ValueError), match=exactly(message)):
        GIPSelectionCallback(trainer, **{"k": 4, **options})
    assert trainer.train_dataset.column_names == COLUMNS, "the trainer is as it was"


def test_repeated_names_are_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows.add_column("kind", ["a"] * ROWS))
    message = "`id_column` must name each row once, got 11 repeated values in 'kind': leave it out to use positions."
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, id_column="kind")


def test_rows_without_positions_are_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows.to_iterable_dataset(), vocabulary=ROWS, max_steps=4)
    message = (
        "`trainer.train_dataset` must be a `datasets.Dataset`, got IterableDataset: rows are chosen by position, so "
        "load or materialize the dataset first (`Dataset.from_generator`)."
    )
    with pytest.raises(TypeError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4)


def test_packs_need_their_rows(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, packing=True)
    message = (
        "`pool` must be the dataset that was given to the trainer, got None: with `packing=True` the trainer keeps "
        "packs, and rows cannot be told from them."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 2)


def test_more_packs_than_the_pool_fills_are_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, packing=True)
    message = "`k` must be a number of packs that the pool fills, got 50: lower it or `max_length`."
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 50, pool=rows)


def test_another_dataset_is_not_the_pool(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    message = (
        "`pool` must be the dataset that was given to the trainer, in the same order, got one that first differs in "
        "row 5: pass the same dataset."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, pool=rows.select(range(5)))


def test_a_second_callback_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    GIPSelectionCallback(trainer, 4)
    message = (
        "`trainer` must have no other selection callback, got one whose training set is a selection already: use one "
        "callback, or build the trainer anew."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4)


def test_a_callback_added_twice_or_elsewhere_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer, other = make_trainer(tmp_path, rows), make_trainer(tmp_path, rows)
    callback = GIPSelectionCallback(trainer, 4)
    other.add_callback(callback)
    message = (
        "The callback must be added once, to the trainer it was made with, got 0 there: "
        "`trainer.add_callback(GIPSelectionCallback(trainer, …))`."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        other.train()
    trainer.add_callback(callback)
    trainer.add_callback(callback)
    with pytest.raises(RuntimeError, match=exactly(message.replace("got 0", "got 2"))):
        trainer.train()


def test_a_callback_rebuilt_by_the_trainer_is_refused(rows: Dataset, tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    first = make_trainer(tmp_path, rows, **options)
    first.add_callback(GIPSelectionCallback(first, 4))
    first.train()
    again = make_trainer(tmp_path, rows, restore_callback_states_from_checkpoint=True, **options)
    again.add_callback(GIPSelectionCallback(again, 4))
    message = (
        "`trainer` must be the trainer that trains, got None: write `GIPSelectionCallback(trainer, k)`, and leave "
        "`restore_callback_states_from_checkpoint` False, which rebuilds callbacks without one."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_checkpoint_of_another_run_is_refused(rows: Dataset, tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    make_trainer(tmp_path / "plain", rows.select(range(4)), vocabulary=ROWS, **options).train()
    trainer = make_trainer(tmp_path, rows, **options)
    trainer.add_callback(GIPSelectionCallback(trainer, 4))
    message = (
        "The checkpoint was written without this callback, on other rows and another number of steps: start a new run "
        "from its weights instead of resuming it."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        trainer.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-2"))


def test_a_checkpoint_of_another_budget_is_refused(rows: Dataset, tmp_path: Path) -> None:
    options = {"save_strategy": "epoch", "num_train_epochs": 2}
    first = make_trainer(tmp_path, rows, **options)
    first.add_callback(GIPSelectionCallback(first, 4))
    first.train()
    again = make_trainer(tmp_path, rows, **options)
    again.add_callback(GIPSelectionCallback(again, 6))
    message = (
        "`k` and the pool must be those of the checkpoint, got k=6 of 12 row(s) where it has k=4 of 12: pass the same."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "`select` must return a `Selection`, got NoneType."),
        (
            Selection(torch.tensor([1, 1, 2, 3]), torch.ones(4)),
            "`select` must return 4 different row(s) between 0 and 11, got 4 of which 3 differ.",
        ),
        (
            Selection(torch.tensor([1, 2, 12]), torch.ones(3)),
            "`select` must return 4 different row(s) between 0 and 11, got 3 of which 3 differ.",
        ),
    ],
)
def test_what_select_returns_is_checked(returned: Any, message: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    trainer.add_callback(GIPSelectionCallback(trainer, 4, select=lambda features, queries, k: returned))
    with pytest.raises((TypeError, ValueError), match=exactly(message)):
        trainer.train()


def test_a_short_warm_up_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    short = Selection(torch.arange(3), torch.ones(3))
    message = "`initial_selection` must hold enough rows for `k=4`, got 3: select as many as an epoch has."
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, start_epoch=1, initial_selection=short)


def test_sorting_by_length_is_warned_of(rows: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer(tmp_path, rows, train_sampling_strategy="group_by_length", dataloader_drop_last=True)
    GIPSelectionCallback(trainer, 5)
    assert caplog.messages == [
        "`train_sampling_strategy='group_by_length'` sorts by the lengths of the first rows: later selections are "
        "served correctly but no longer grouped by length.",
        "`k=5` is no multiple of 2 (what all processes take in a step), so the loader drops 1 row(s) an epoch: `k=4` "
        "avoids it.",
    ]


def test_without_trl_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['trl'] = None\nimport hf_gip.callbacks"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: `hf_gip.callbacks` needs `trl`, which is not installed: `pip install 'hf-gip[train]'`."
    )


def test_a_run_that_ends_before_the_first_selection_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, num_train_epochs=2)
    trainer.add_callback(GIPSelectionCallback(trainer, 4, start_epoch=2))
    told = "`start_epoch` must be one of the run's 2 epoch(s), counted from 0, got 2: no selection would be made."
    with pytest.raises(ValueError, match=exactly(told)):
        trainer.train()
