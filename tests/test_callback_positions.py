"""Positions in the records are those of the dataset given to the trainer; any other `pool` is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from training import NotingTrainer, make_trainer, word_rows, word_tokenizer

ROWS = 40
TOKENIZER = word_tokenizer(ROWS)


@pytest.fixture(scope="module", autouse=True)
def quiet() -> None:
    disable_progress_bars()


def tokens_of(text: str) -> dict[str, list[int]]:
    tokens = TOKENIZER(text)["input_ids"]
    return {"input_ids": tokens, "labels": tokens}


def tokenized(rows: Dataset) -> Dataset:
    return rows.map(lambda row: tokens_of(row["text"]))


def even(row: dict[str, Any]) -> bool:
    return int(row["uid"][4:]) % 2 == 0


CHANGES: dict[str, Callable[[Dataset], Dataset]] = {
    "as it is": lambda rows: rows,
    "shuffle": lambda rows: rows.shuffle(seed=3),
    "filter": lambda rows: rows.filter(even),
    "select": lambda rows: rows.select([*range(30, 9, -1), 0, 2]),
    "concatenate": lambda rows: concatenate_datasets(
        [rows.select(range(20, 40)), rows.shuffle(seed=1).select([4, 1])]
    ),
    "train_test_split": lambda rows: rows.train_test_split(0.3, seed=5)["train"],
}
TRAINERS: dict[str, dict[str, Any]] = {
    "no limit": {"max_length": None},
    "no limit, shuffled": {"max_length": None, "shuffle_dataset": True},
    "cut": {"max_length": 7, "shuffle_dataset": True},
    "bfd": {"packing": True, "max_length": 16, "shuffle_dataset": True},
    "bfd_split": {"packing": True, "max_length": 7, "packing_strategy": "bfd_split"},
    "wrapped": {"packing": True, "max_length": 16, "packing_strategy": "wrapped"},
}


def numbers_of(rows: Dataset) -> list[int]:
    """The number that the text of each row begins with."""
    return [int(text.split()[0][1:]) for text in rows["text"][:]]


def assert_recorded_as_trained(trainer: NotingTrainer, given: Dataset, epochs: int = 1) -> None:
    for epoch in range(epochs):
        table = pq.read_table(Path(trainer.args.output_dir) / "gip" / f"selection_epoch_{epoch:05d}.parquet")
        assert sorted(numbers_of(given.select(table["index"].to_pylist()))) == sorted(set(trainer.rows_seen(epoch)))


@pytest.mark.parametrize("kind", TRAINERS)
@pytest.mark.parametrize("change", CHANGES)
def test_rows_recorded_are_rows_trained_on(change: str, kind: str, tmp_path: Path) -> None:
    given = CHANGES[change](tokenized(word_rows(ROWS)))
    options = {"num_train_epochs": 1, **TRAINERS[kind]}
    for place, pool in enumerate([given] if "packing" in options else [None, given]):
        trainer = make_trainer(tmp_path / str(place), given, vocabulary=ROWS, **options)
        trainer.add_callback(GIPSelectionCallback(trainer, 3, pool=pool))
        trainer.train()
        assert_recorded_as_trained(trainer, given)
