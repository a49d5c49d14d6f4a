"""Unusual trainers and rows: what is still trained on, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import NotingTrainer, exactly, largest_difference, make_trainer, weights

ROWS = 12


def trained(trainer: NotingTrainer, k: int = 4, **options: Any) -> GIPSelectionCallback:
    callback = GIPSelectionCallback(trainer, k, **options)
    trainer.add_callback(callback)
    trainer.train()
    return callback


def test_a_trainer_is_asked_for() -> None:
    message = "`trainer` must be a `transformers.Trainer`, got str: `GIPSelectionCallback(trainer, k)`."
    with pytest.raises(TypeError, match=exactly(message)):
        GIPSelectionCallback("trainer", 4)  # type: ignore[arg-type]


def test_no_packs_are_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, packing=True)
    with pytest.raises(ValueError, match=exactly("`k` must be a whole number of at least 1, got 0.")):
        GIPSelectionCallback(trainer, 0, pool=rows)


def test_another_training_set_after_the_callback_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    prepared = trainer.train_dataset
    trainer.add_callback(GIPSelectionCallback(trainer, 4))
    trainer.train_dataset = prepared
    message = (
        "`trainer.train_dataset` must be left as the callback set it, got Dataset: change the training set before the "
        "callback is made."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        trainer.train()
    assert not trainer.noted, "no step was made on the whole pool"


def test_a_target_without_a_label_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    masked = Dataset.from_dict({"input_ids": [[3, 4, 5]] * 2, "labels": [[-100] * 3] * 2})
    message = (
        "`target` must have a row with a labelled token within `max_length`, got 2 without: raise `max_length` or "
        "check the masks."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        GIPSelectionCallback(trainer, 4, target=masked)


@pytest.mark.parametrize("name", ["pool", "target"])
def test_a_model_that_gives_no_numbers_is_named(name: str, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    word = trainer.processing_class.convert_tokens_to_ids("r3" if name == "pool" else "<unk>")
    trainer.model.get_input_embeddings().weight.data[word] = torch.nan
    message = (
        f"The model in training must give finite numbers, got NaN or infinity in 1 of {ROWS if name == 'pool' else 2} "
        f"row(s) of the {name}: lower the learning rate, or check the rows and the number format."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        trained(trainer, target=["w1 w2", "never-seen w2"])


def test_rows_may_lack_a_score(rows: Dataset, tmp_path: Path) -> None:
    found = []
    for place, missing in enumerate([None, float("nan"), 1.0]):
        trainer = make_trainer(
            tmp_path / str(place), rows.add_column("score", [1.0] * 5 + [-1.0] * 5 + [missing] * 2), num_train_epochs=1
        )
        chosen = trained(trainer, scores=["score"]).round
        assert chosen is not None
        found.append(chosen.gains.tolist())
    assert found[0] == found[1]
    assert found[0] != found[2], "the score is heard"


def test_a_column_of_our_own_name_is_only_a_column(rows: Dataset, tmp_path: Path) -> None:
    plain, named = (
        make_trainer(tmp_path / "a", rows),
        make_trainer(tmp_path / "b", rows.add_column("gip_row", list(range(ROWS, 0, -1)))),
    )
    trained(plain)
    trained(named)
    assert [named.rows_seen(epoch) for epoch in range(3)] == [plain.rows_seen(epoch) for epoch in range(3)]


def test_steps_in_place_of_epochs_end_inside_one(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, max_steps=5)
    trained(trainer)
    assert trainer.state.global_step == 5
    assert [len(trainer.rows_seen(epoch)) for epoch in range(3)] == [4, 4, 2]


def test_the_rest_of_accumulation_is_stepped_and_resumed(rows: Dataset, tmp_path: Path) -> None:
    """Four batches, three to a step: the second step of an epoch has one."""
    options = {"gradient_accumulation_steps": 3, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path, rows, **options)
    trained(whole, 8)
    assert whole.state.global_step == 4
    for step in (1, 2, 3):
        again = make_trainer(tmp_path, rows, **options)
        again.add_callback(GIPSelectionCallback(again, 8))
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        assert largest_difference(weights(whole.model), weights(again.model)) == 0.0


def test_a_smaller_batch_after_running_out_of_memory_begins_anew(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, rows, auto_find_batch_size=True, per_device_train_batch_size=4, num_train_epochs=1
    )
    step = trainer.training_step

    def too_large(model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if len(inputs["input_ids"]) > 2 and trainer.state.global_step == 1:
            raise RuntimeError("CUDA out of memory.")
        return step(model, inputs, num_items_in_batch)

    trainer.training_step = too_large  # type: ignore[method-assign]
    callback = trained(trainer, 8, allow_repeats=False)
    assert callback.round is not None
    assert trainer.state.max_steps == trainer.state.global_step == 4
    assert len(trainer.noted[0]) > 8, "the first attempt made a step"
    trainer.noted[0] = trainer.noted[0][-8:]
    assert trainer.rows_seen(0) == sorted(callback.round.rows.tolist())


def test_a_trainer_that_evaluates_keeps_its_rows(rows: Dataset, tmp_path: Path) -> None:
    plain, evaluating = make_trainer(tmp_path / "a", rows), make_trainer(tmp_path / "b", rows)
    evaluating.eval_dataset = evaluating.train_dataset.select(range(5))
    evaluating.args.eval_strategy = "epoch"  # type: ignore[assignment]
    trained(plain)
    trained(evaluating)
    assert [evaluating.rows_seen(epoch) for epoch in range(3)] == [plain.rows_seen(epoch) for epoch in range(3)]
    assert sum("eval_loss" in entry for entry in evaluating.state.log_history) == 3
    assert len(evaluating.eval_dataset) == 5
