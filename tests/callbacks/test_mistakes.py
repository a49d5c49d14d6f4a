"""What a user may get wrong around a run, and the sentence that says so."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import NotingTrainer, exactly, make_trainer, tiny_llama, word_tokenizer
from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

ROWS = 12
OTHER = (
    "`pool` must be the dataset that was given to the trainer, in the same order, got one that first differs in row "
    "{}: pass the same dataset."
)


def with_another_word(rows: Dataset) -> Dataset:
    return Dataset.from_dict({**rows[:], "text": [*rows["text"][:-1], "w1 w2 w3"]})


def test_a_pool_of_other_rows_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    with pytest.raises(ValueError, match=exactly(OTHER.format(11))):
        GIPSelectionCallback(trainer, 4, pool=with_another_word(rows))
    with pytest.raises(ValueError, match=exactly(OTHER.format(0))):
        GIPSelectionCallback(trainer, 4, pool=rows.select(range(ROWS - 1, -1, -1)))
    GIPSelectionCallback(trainer, 4, pool=rows)


def test_the_pool_is_recognised_where_rows_were_dropped_and_shuffled(rows: Dataset, tmp_path: Path) -> None:
    pairs = Dataset.from_dict(
        {"prompt": [f"r{row}" + " w1" * (row % 4 * 5) for row in range(ROWS)], "completion": [" w2 w3"] * ROWS}
    )
    trainer: Any = make_trainer(tmp_path, pairs, max_length=14, shuffle_dataset=True)
    assert len(trainer.train_dataset) == 9
    callback = GIPSelectionCallback(trainer, 4, pool=pairs)
    assert callback.pool.positions.tolist() != sorted(callback.pool.positions.tolist())


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
def test_packs_of_other_rows_are_refused(strategy: str, shuffled: bool, rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"packing": True, "max_length": 9, "packing_strategy": strategy}
    trainer = make_trainer(tmp_path, rows, shuffle_dataset=shuffled, **options)
    with pytest.raises(ValueError, match=exactly(OTHER.format(11))):
        GIPSelectionCallback(trainer, 2, pool=with_another_word(rows))
    # Of wrapped packs, shuffled, nobody can say where a row ends: another number of rows is another shuffle.
    for row, pool in ((11, rows.select(range(11))), (12, concatenate_datasets([rows, rows.select([3])]))):
        told = OTHER if shuffled and strategy == "wrapped" else OTHER.format(row)
        with pytest.raises(ValueError, match=exactly(told).replace(r"\{\}", r"\d+")):
            GIPSelectionCallback(trainer, 2, pool=pool)
    with pytest.raises(ValueError, match=r"in the same order, got "):
        GIPSelectionCallback(trainer, 2, pool=rows.select(range(ROWS - 1, -1, -1)))
    GIPSelectionCallback(trainer, 2, pool=rows)


def test_a_plain_trainer_s_pool_is_known_by_the_columns_they_share(rows: Dataset, tmp_path: Path) -> None:
    tokenizer = word_tokenizer(ROWS)
    tokens = rows.map(lambda row: tokenizer(row["text"]))
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = Trainer(tiny_llama(len(tokenizer)), args, collator, tokens, processing_class=tokenizer)
    for pool in (with_another_word(rows), with_another_word(rows).map(lambda row: tokenizer(row["text"]))):
        with pytest.raises(ValueError, match=exactly(OTHER.format(11))):
            GIPSelectionCallback(trainer, 4, pool=pool)
    GIPSelectionCallback(trainer, 4, pool=rows)


def test_a_training_set_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    long = Dataset.from_dict({"prompt": ["r0" + " w1" * 30] * 4, "completion": [" w2"] * 4})
    message = (
        "`trainer.train_dataset` must hold at least one row with a labelled token within `max_length`, got none: "
        "raise `max_length` or check the masks."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(make_trainer(tmp_path, long, max_length=8), 2)


def test_a_score_that_rates_nothing_is_refused_before_the_pass(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows.add_column("help", [float("nan")] * ROWS))
    message = "`scores` must rate at least one row each, got no number in ['help']: leave those out."
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, scores=["help"])


def test_an_epoch_of_no_step_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, dataloader_drop_last=True, per_device_train_batch_size=8)
    message = (
        "`k` must be at least 8 (what all processes take in a step) with `dataloader_drop_last=True`, got 6: raise it "
        "or lower `per_device_train_batch_size`."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 6)


@pytest.mark.parametrize("packing", [False, True])
def test_a_callback_that_was_not_added_is_missed(packing: bool, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, packing=packing)
    GIPSelectionCallback(trainer, 2, pool=rows)
    message = (
        "The callback must choose rows before they are trained on, got none chosen: add it to the trainer it was made "
        "with, `trainer.add_callback(callback)`, before `trainer.train()`."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        trainer.train()
    assert not trainer.noted


# A target in the columns of another layout.


def trained(trainer: NotingTrainer, **options: Any) -> list[int]:
    trainer.add_callback(GIPSelectionCallback(trainer, 4, **options))
    trainer.train()
    return trainer.rows_seen(0)


@pytest.mark.parametrize("formatted", [False, True])
def test_questions_and_answers_are_read_as_texts(formatted: bool, rows: Dataset, tmp_path: Path) -> None:
    asked = Dataset.from_dict({"question": ["r3 w1", "r5 w2"], "answer": ["w7 w8", "w9"]})
    seen = []
    for place, target in enumerate([asked, ["r3 w1\nw7 w8", "r5 w2\nw9"]]):
        trainer = make_trainer(tmp_path / str(place), rows, num_train_epochs=1)
        trainer._formatting_func = (lambda row: row["text"]) if formatted else None
        seen.append(trained(trainer, target=target))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("formatted", [False, True])
def test_a_target_in_no_known_layout_is_refused(formatted: bool, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    trainer._formatting_func = (lambda row: row["text"]) if formatted else None
    message = (
        "`target` must have columns of texts in a layout that is known, got ['body']: name them as the training "
        "set's, or pass a list of texts."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, target=Dataset.from_dict({"body": ["w1"]}))


# Resuming something else.


def test_a_checkpoint_of_other_rows_or_another_batch_is_refused(rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    trained(make_trainer(tmp_path, rows, **options))
    options["max_steps"] = 4
    changes: list[tuple[Dataset, dict[str, Any], str]] = [
        (
            with_another_word(rows),
            {},
            "The training set must be the checkpoint's, got as many rows (12) with other tokens: pass the same rows, "
            "tokenizer and `max_length`, or start a new run from its weights.",
        ),
        (
            rows,
            {"per_device_train_batch_size": 1},
            "An optimizer step must take as many rows as in the checkpoint, got 1 where it has 2, so that epochs "
            "begin elsewhere: keep processes × batch × accumulation.",
        ),
    ]
    for pool, changed, message in changes:
        trainer = make_trainer(tmp_path, pool, **options, **changed)
        trainer.add_callback(GIPSelectionCallback(trainer, 4))
        with pytest.raises(ValueError, match=exactly(message)):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    spread = make_trainer(tmp_path, rows, per_device_train_batch_size=1, gradient_accumulation_steps=2, **options)
    spread.add_callback(GIPSelectionCallback(spread, 4))
    spread.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert len(spread.noted[0]) == 2, "what was left of the epoch"


def test_the_head_is_left_as_it_was(rows: Dataset, tmp_path: Path) -> None:
    trainer: Any = make_trainer(tmp_path, rows, num_train_epochs=1)
    frozen: list[bool] = []
    weight = trainer.model.lm_head.weight
    trainer.model.model.register_forward_hook(lambda *_: frozen.append(not weight.requires_grad))
    before = weight.detach().clone()
    trained(trainer, features="hidden_gradient")
    assert frozen[:3] == [True] * 3, "in the pass of three batches"
    assert not any(frozen[3:])
    assert weight.requires_grad
    assert not torch.equal(before, weight), "it was trained"
