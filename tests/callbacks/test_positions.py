"""Positions in the records are those of the dataset given to the trainer; any other `pool` is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, concatenate_datasets
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import NotingTrainer, exactly, make_trainer, word_rows, word_tokenizer
from transformers import PreTrainedTokenizerFast

import hf_gip

ROWS = 40
TOKENIZER = word_tokenizer(ROWS)


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


MATRIX = [(change, kind) for change in CHANGES for kind in TRAINERS]
DIAGONAL = {
    ("shuffle", "no limit"),
    ("filter", "bfd"),
    ("select", "cut"),
    ("concatenate", "bfd_split"),
    ("train_test_split", "no limit, shuffled"),
    ("shuffle", "wrapped"),
}


@pytest.mark.parametrize(
    ("change", "kind"), [pytest.param(*case, marks=() if case in DIAGONAL else pytest.mark.heavy) for case in MATRIX]
)
def test_rows_recorded_are_rows_trained_on(change: str, kind: str, tmp_path: Path) -> None:
    given = CHANGES[change](tokenized(word_rows(ROWS)))
    options = {"num_train_epochs": 1, **TRAINERS[kind]}
    for place, pool in enumerate([given] if "packing" in options else [None, given]):
        trainer = make_trainer(tmp_path / str(place), given, vocabulary=ROWS, **options)
        trainer.add_callback(GIPSelectionCallback(trainer, 3, pool=pool))
        trainer.train()
        assert_recorded_as_trained(trainer, given)


def prompts(count: int) -> Dataset:
    """Every fourth prompt fills a row of 14 tokens: cut, it has no label left."""
    return Dataset.from_dict(
        {"prompt": [f"r{row}" + " w1" * (row % 4 * 5) for row in range(count)], "completion": [" w2 w3"] * count}
    )


def turns(count: int) -> Dataset:
    return Dataset.from_list(
        [
            {"messages": [{"role": "user", "content": f"r{row} w{row}"}, {"role": "assistant", "content": "w2 w3"}]}
            for row in range(count)
        ]
    )


TEMPLATE = "{% for message in messages %}{{ message['content'] + ' ' }}{% endfor %}"


@pytest.mark.parametrize("options", [{"max_length": 14}, {"packing": True, "max_length": 30}], ids=["rows", "packs"])
@pytest.mark.parametrize("layout", [prompts, turns])
def test_pairs_and_conversations_keep_their_positions(
    layout: Callable[[int], Dataset], options: dict[str, Any], tmp_path: Path
) -> None:
    given = layout(ROWS).shuffle(seed=2)
    trainer = make_trainer(tmp_path, given, template=TEMPLATE, num_train_epochs=1, shuffle_dataset=True, **options)
    callback = GIPSelectionCallback(trainer, 3, pool=given)
    trainer.add_callback(callback)
    assert len(callback.pool) == (30 if layout is prompts and "packing" not in options else ROWS)
    trainer.train()
    table = pq.read_table(tmp_path / "gip" / "selection_epoch_00000.parquet")
    read = given.select(table["index"].to_pylist())
    starts = read["prompt"] if layout is prompts else [turn[0]["content"] for turn in read["messages"]]
    assert sorted(int(start.split()[0][1:]) for start in starts) == sorted(set(trainer.rows_seen(0)))


DIFFERS = (
    "`pool` must be the dataset that was given to the trainer, in the same order, got one that first differs in row "
    "{}: pass the same dataset."
)
WRONG: dict[str, tuple[Callable[[Dataset], Dataset], int]] = {
    "turned from row 3 on": (lambda rows: rows.select([0, 1, 2, *range(ROWS - 1, 2, -1)]), 3),
    "one row less": (lambda rows: rows.select(range(ROWS - 1)), ROWS - 1),
    "one row more": (lambda rows: concatenate_datasets([rows, rows.select([5])]), ROWS),
    "another word in row 17": (lambda rows: rows.map(lambda row, at: changed(row, at == 17), with_indices=True), 17),
    "a label of row 38 masked": (lambda rows: rows.map(lambda row, at: masked(row, at == 38), with_indices=True), 38),
    "another id in row 20": (
        lambda rows: rows.map(lambda row, at: {"uid": row["uid"] + "!" * (at == 20)}, with_indices=True),
        20,
    ),
}


def changed(row: dict[str, Any], here: bool) -> dict[str, Any]:
    return tokens_of(" ".join(["w1", *row["text"].split()[1:]])) if here else {}


def masked(row: dict[str, Any], here: bool) -> dict[str, Any]:
    return {"labels": [-100, *row["labels"][1:]]} if here else {}


@pytest.mark.parametrize("change", WRONG)
def test_another_pool_is_refused_with_the_first_row_that_differs(change: str, tmp_path: Path) -> None:
    given = tokenized(word_rows(ROWS).shuffle(seed=4))
    make, row = WRONG[change]
    for place, options in enumerate(TRAINERS.values()):
        trainer = make_trainer(tmp_path / str(place), given, vocabulary=ROWS, **options)
        if "packing" in options and change == "another id in row 20":  # packs have no ids: their rows are as good
            GIPSelectionCallback(trainer, 3, pool=make(given))
            continue
        order = (
            "packing" in options and change == "turned from row 3 on" and options.get("packing_strategy") != "wrapped"
        )
        with pytest.raises(ValueError, match="in the same order" if order else exactly(DIFFERS.format(row))):
            GIPSelectionCallback(trainer, 3, pool=make(given))


@pytest.mark.parametrize("options", [{"max_length": None}, {"max_length": 14, "shuffle_dataset": True}])
@pytest.mark.parametrize("layout", [word_rows, prompts, turns])
def test_a_pool_whose_columns_the_trainer_kept_is_not_tokenized_again(
    layout: Callable[[int], Dataset], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = layout(ROWS).shuffle(seed=2)
    trainer = make_trainer(tmp_path, given, vocabulary=ROWS, template=TEMPLATE, **options)
    calls: list[Any] = []
    tokenize = PreTrainedTokenizerFast._encode_plus

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return tokenize(self, *args, **kwargs)

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", counting)
    callback = GIPSelectionCallback(trainer, 3, pool=given)
    assert not calls
    expected = given.select(callback.pool.positions.tolist())
    column = given.column_names[0]
    for read, trained in zip(expected[column], callback.pool.rows[column], strict=True):
        assert str(trained).startswith(str(read))
    trainer = make_trainer(tmp_path, given, vocabulary=ROWS, template=TEMPLATE, **options)
    calls.clear()
    with pytest.raises(ValueError, match=exactly(DIFFERS.format(ROWS - 1))):
        GIPSelectionCallback(trainer, 3, pool=given.select(range(ROWS - 1)))
    assert calls, "a pool of fewer rows is prepared to name the row"


class Backwards(NotingTrainer):
    """Prepares rows in its own way: the last comes first."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._prepare_dataset(dataset.select(range(len(dataset) - 1, -1, -1)), *args, **kwargs)


class Forgetful(NotingTrainer):
    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return super()._prepare_dataset(dataset, *args, **kwargs).select_columns(["input_ids", "labels"])


def test_a_preparation_of_the_trainer_s_own_is_followed_or_refused(tmp_path: Path) -> None:
    texts = word_rows(ROWS)["text"][:]
    given = Dataset.from_dict({"text": [*texts[:-3], *["w1 w2 w3"] * 3]})  # the last three are one another's copies
    trainer = make_trainer(tmp_path / "a", given, kind=Backwards, num_train_epochs=1)
    message = (
        "`pool` must be the dataset that was given to the trainer, got None: Backwards prepares rows in its own way "
        "(`_prepare_dataset`), and where they came from cannot be told."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 3)
    with pytest.raises(ValueError, match=exactly(DIFFERS.format(2))):
        GIPSelectionCallback(trainer, 3, pool=given.select([0, 1, 1, *range(3, ROWS)]))
    callback = GIPSelectionCallback(trainer, 30, pool=given)
    assert sorted(callback.pool.positions.tolist()) == list(range(ROWS))
    assert callback.pool.positions[3:].tolist() == list(range(ROWS - 4, -1, -1))
    packed = make_trainer(tmp_path / "b", given, kind=Backwards, packing=True)
    assert GIPSelectionCallback(packed, 3, pool=given).pool.positions.tolist() == list(range(ROWS))
    forgetful = make_trainer(tmp_path / "c", given, kind=Forgetful)
    with pytest.raises(
        ValueError, match=r"^`trainer` must keep columns that it does not know .*, got Forgetful, whose"
    ):
        GIPSelectionCallback(forgetful, 3, pool=given)


def test_a_formatting_function_that_reads_every_column_sees_the_user_s(tmp_path: Path) -> None:
    given = word_rows(ROWS).rename_columns({"text": "body", "uid": "gip_row"})
    trainer = make_trainer(tmp_path, given, formatting_func=lambda row: " ".join(str(value) for value in row.values()))
    GIPSelectionCallback(trainer, 3, pool=given)


def test_rows_shown_through_a_function_are_refused(tmp_path: Path) -> None:
    given = word_rows(ROWS)
    shown = given.with_transform(lambda batch: {"text": [text.upper() for text in batch["text"]]})
    told = (
        "`{}` must hold the rows that it shows, got a dataset with a transform (`with_transform` or `set_transform`): "
        "apply the function with `map`, or drop it with `with_format(None)`."
    )
    trainer = make_trainer(tmp_path, given)
    for name in ("pool", "target"):
        with pytest.raises(ValueError, match=exactly(told.format(name))):
            GIPSelectionCallback(trainer, 3, **{name: shown})
    tokens = tokenized(given).with_transform(lambda batch: batch)
    trainer = make_trainer(tmp_path, tokens, vocabulary=ROWS, dataset_kwargs={"skip_prepare_dataset": True})
    with pytest.raises(ValueError, match=exactly(told.format("trainer.train_dataset"))):
        GIPSelectionCallback(trainer, 3)
    with pytest.raises(TypeError, match=exactly("`pool` must be a `datasets.Dataset`, got list.")):
        GIPSelectionCallback(make_trainer(tmp_path, given), 3, pool=given.to_list())  # type: ignore[arg-type]


def test_a_pool_that_shares_nothing_that_tells_rows_apart_is_refused(tmp_path: Path) -> None:
    given = word_rows(ROWS).add_column("kind", ["a", "b"] * (ROWS // 2))
    tokens = tokenized(given).remove_columns(["text"])
    options: dict[str, Any] = {"vocabulary": ROWS, "dataset_kwargs": {"skip_prepare_dataset": True}}
    assert len(GIPSelectionCallback(make_trainer(tmp_path, tokens, **options), 3, pool=given).pool) == ROWS
    trainer = make_trainer(tmp_path, tokens.remove_columns("uid"), **options)
    message = (
        "`pool` must share with the training set a column that tells rows apart, got ['kind']: keep one through your "
        "own preparation, such as an id."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 3, pool=given)


# Resuming.

RESUMED: dict[str, Callable[[Dataset], Dataset]] = {
    "a word": lambda rows: rows.map(lambda row, at: changed(row, at == 13), with_indices=True),
    "a label": lambda rows: rows.map(lambda row, at: masked(row, at == 97), with_indices=True),
    "two rows of one length swapped": lambda rows: rows.select([1, 0, *range(2, len(rows))]),
}


def test_a_pool_changed_anywhere_is_no_checkpoint_s(tmp_path: Path) -> None:
    """As many rows, as long as before: one of them differs, wherever it is."""
    rows = tokenized(Dataset.from_dict({"text": [f"r{row % ROWS} w{row % 50} w2" for row in range(130)]}))
    options: dict[str, Any] = {"vocabulary": ROWS, "save_strategy": "steps", "save_steps": 1}

    def trainer_of(pool: Dataset, steps: int) -> NotingTrainer:
        trainer = make_trainer(tmp_path, pool, max_steps=steps, **options)
        trainer.add_callback(GIPSelectionCallback(trainer, 4))
        return trainer

    trainer_of(rows, 1).train()
    message = (
        "The training set must be the checkpoint's, got as many rows (130) with other tokens: pass the same rows, "
        "tokenizer and `max_length`, or start a new run from its weights."
    )
    for change in RESUMED.values():
        with pytest.raises(ValueError, match=exactly(message)):
            trainer_of(change(rows), 2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    trainer_of(rows, 2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_run_says_which_target_it_has_and_goes_on_with_no_other(tmp_path: Path) -> None:
    rows = word_rows(ROWS)
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}

    def trainer_of(target: Any, steps: int) -> tuple[NotingTrainer, str | None]:
        trainer = make_trainer(tmp_path, rows, max_steps=steps, **options)
        callback = GIPSelectionCallback(trainer, 4, target=target)
        trainer.add_callback(callback)
        return trainer, callback.settings["target_sha256"]

    first, digest = trainer_of(["w1 w2", "w3"], 1)
    first.train()
    run = json.loads((tmp_path / "gip" / "run.json").read_text())
    assert run["parameters"]["target_sha256"] == digest
    for other in (["w1 w2", "w4"], ["w3", "w1 w2"], None):
        again, its = trainer_of(other, 2)
        told = "none" if its is None else f"one of digest {its[:8]}…"
        message = (
            f"`target` must be the checkpoint's, got {told} where it has one of digest {str(digest)[:8]}…: pass the "
            "same rows, or start a new run from its weights."
        )
        with pytest.raises(ValueError, match=exactly(message)):
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    again, _ = trainer_of(Dataset.from_dict({"text": ["w1 w2", "w3"]}), 2)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.state.global_step == 2


# From the trainer to the published rows.


@pytest.mark.hub
def test_rows_published_are_rows_seen_and_rows_verified(tmp_path: Path) -> None:
    """No repository can be made without a token: the subset is saved, which is what would be pushed."""
    given = tokenized(word_rows(ROWS)).shuffle(seed=3)
    trainer = make_trainer(tmp_path, given, vocabulary=ROWS, num_train_epochs=2, packing=True)
    trainer.add_callback(GIPSelectionCallback(trainer, k=6, pool=given, push_to="me/x"))
    trainer.train()
    folder = tmp_path / "gip" / "subset"
    published = hf_gip.load_subset(folder)
    assert sorted(int(uid[4:]) for uid in published["uid"]) == sorted(set(trainer.rows_seen(1)))
    assert hf_gip.verify(folder, source=given)
    assert not hf_gip.verify(folder, source=tokenized(word_rows(ROWS)))
    assert hf_gip.verify(tmp_path)
