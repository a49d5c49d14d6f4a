"""What reached the collator is what the record says: other loaders, samplers and rows are refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import NotingTrainer, exactly, make_trainer, word_rows
from torch.utils.data import DataLoader, RandomSampler, Subset
from transformers import DataCollatorForSeq2Seq, DataCollatorWithFlattening

import hf_gip

ROWS = 24


def epochs_of(folder: Path) -> list[dict[str, Any]]:
    record = json.loads((folder / "gip" / "run.json").read_text())
    return [epoch for made in record["rounds"] for epoch in made["served"]]


class ServesItsOwn(NotingTrainer):
    def get_train_dataloader(self) -> Any:
        own = self.processing_class(word_rows(ROWS)["text"][:])["input_ids"]
        items = [{"input_ids": tokens, "labels": tokens} for tokens in own]
        return self.accelerator.prepare(DataLoader(items, batch_size=2, collate_fn=self.data_collator))  # type: ignore[arg-type]


class Pretends:
    """Has the view's name on it and serves something else."""

    def __init__(self, loader: Any) -> None:
        self.dataset, self.loader = loader.dataset, loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        batch = {name: torch.tensor([[3, 4, 5]] * 2) for name in ("input_ids", "labels", "attention_mask")}
        return iter([batch] * len(self))


class ServesUnderAnotherName(NotingTrainer):
    def get_train_dataloader(self) -> Any:
        return Pretends(super().get_train_dataloader())


class ServesWithReplacement(NotingTrainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return RandomSampler(self.train_dataset, replacement=True)  # type: ignore[arg-type]


class ServesAPart(NotingTrainer):
    def get_train_dataloader(self) -> Any:
        part = Subset(self.train_dataset, range(4))  # type: ignore[arg-type]
        return self.accelerator.prepare(DataLoader(part, batch_size=2, collate_fn=self.data_collator))


class ServesInAnotherOrder(NotingTrainer):
    def get_train_dataloader(self) -> Any:
        turned = Subset(Subset(self.train_dataset, range(7, -1, -1)), range(8))  # type: ignore[arg-type]
        return self.accelerator.prepare(DataLoader(turned, batch_size=3, num_workers=2, collate_fn=self.data_collator))


def test_a_loader_of_other_rows_is_refused_before_the_first_step(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, kind=ServesItsOwn)
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    message = (
        "The loader must read the rows that the callback chooses, got one that reads a list of 24 row(s): make it "
        "from `self.train_dataset` in `get_train_dataloader`."
    )
    with pytest.raises(RuntimeError, match=exactly(message)):
        trainer.train()
    assert not trainer.noted
    assert not (tmp_path / "gip").exists()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (ServesUnderAnotherName, "got 0 with other content, 8 left out and 0 repeated"),
        (ServesWithReplacement, r"got 0 with other content, (\d) left out and \1 repeated"),
        (ServesAPart, "got 0 with other content, 4 left out and 0 repeated"),
    ],
)
def test_an_epoch_of_other_rows_than_chosen_is_refused_at_its_end(
    kind: type[NotingTrainer], said: str, rows: Dataset, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, rows, kind=kind)
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    with pytest.raises(
        RuntimeError, match=f"^Epoch 0 must serve each of the 8 item\\(s\\) chosen for it once, {said}"
    ):
        trainer.train()
    assert epochs_of(tmp_path) == []


def test_rows_changed_behind_the_callback_are_found(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows)
    callback = GIPSelectionCallback(trainer, 8)
    trainer.add_callback(callback)
    step = trainer.training_step

    def swap(*args: Any) -> Any:
        callback.reselector.view.rows.copy_(torch.arange(8))
        return step(*args)

    trainer.training_step = swap  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"^Epoch 0 must serve .* got [1-8] with other content, 0 left out"):
        trainer.train()


def test_the_view_in_another_order_is_welcome(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, kind=ServesInAnotherOrder)
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    trainer.train()
    assert [epoch["items"] for epoch in epochs_of(tmp_path)] == [8, 8, 8]


SERVED: list[tuple[dict[str, Any], list[tuple[bool, int]]]] = [
    ({"dataloader_num_workers": 2, "gradient_accumulation_steps": 3}, [(True, 7)] * 3),
    ({"dataloader_drop_last": True}, [(True, 6)] * 3),
    ({"max_steps": 6, "dataloader_num_workers": 1}, [(True, 7), (False, 7)]),  # the rest was read ahead
    ({"packing": True, "dataloader_num_workers": 2}, [(True, 7)] * 3),
    ({"train_sampling_strategy": "group_by_length"}, [(True, 7)] * 3),
    ({"accelerator_config": {"dispatch_batches": True}}, [(True, 7)] * 3),
]


@pytest.mark.parametrize(("options", "expected"), SERVED, ids=[str(list(options)) for options, _ in SERVED])
def test_every_epoch_says_what_was_served(
    options: dict[str, Any], expected: list[tuple[bool, int]], rows: Dataset, tmp_path: Path
) -> None:
    trainer = make_trainer(tmp_path, rows, **options)
    trainer.eval_dataset = trainer.train_dataset.select(range(3))
    trainer.args.eval_strategy = "steps"  # type: ignore[assignment] — evaluates between the steps of an epoch
    trainer.args.eval_steps = 2
    trainer.add_callback(GIPSelectionCallback(trainer, 7, pool=rows))
    trainer.train()
    epochs = epochs_of(tmp_path)
    assert [(epoch["whole"], epoch["items"]) for epoch in epochs] == expected
    report = hf_gip.verify(tmp_path)
    assert report.ok
    whole = sum(count == (True, 7) for count in expected)
    told = f"{whole} epoch(s) trained on all rows chosen, {len(expected) - whole} on a part."
    assert told in str(report)
    assert len({epoch["sha256"] for epoch in epochs}) == len(epochs)


def test_an_epoch_that_was_interrupted_counts_as_a_part(rows: Dataset, tmp_path: Path) -> None:
    options: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path, rows, **options)
    whole.add_callback(GIPSelectionCallback(whole, 8))
    whole.train()
    before = epochs_of(tmp_path)
    again = make_trainer(tmp_path, rows, **options)
    again.add_callback(GIPSelectionCallback(again, 8))
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    after = epochs_of(tmp_path)
    assert [(epoch["whole"], epoch["items"]) for epoch in after] == [(True, 8), (False, 6), (True, 8)]
    assert [after[0], after[2]] == [before[0], before[2]]
    assert hf_gip.verify(tmp_path)


def test_a_record_of_other_rows_served_fails(rows: Dataset, tmp_path: Path) -> None:
    from hf_gip.manifest.training_run import RUN, read_run

    trainer = make_trainer(tmp_path, rows, num_train_epochs=1)
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    trainer.train()
    run = read_run(tmp_path)
    [made] = run.rounds
    for change in ({"sha256": "0" * 64}, {"items": 9}, {"epoch": 5}):
        served = (made.served[0].model_copy(update=change), *made.served[1:])
        other = run.model_copy(update={"rounds": (made.model_copy(update={"served": served, "epoch": 0}),)})
        if change.get("epoch"):
            other = run.model_copy(update={"rounds": (made.model_copy(update={"epoch": 6}),)})
        text = other.model_copy(update={"digest": other.content_digest()}).model_dump_json()
        (tmp_path / RUN).write_text(text)
        assert "served" in [check.name for check in hf_gip.verify(tmp_path).failed]


# Any collator.


def padded(tokenizer: Any) -> Any:
    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = tokenizer.pad([{"input_ids": item["input_ids"]} for item in items], return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        return {**batch, "labels": labels}

    return collate


@pytest.mark.parametrize("features", ["hidden", "hidden_gradient"])
@pytest.mark.parametrize("collator", [DataCollatorForSeq2Seq, padded])
def test_any_collator_that_pads_is_welcome(collator: Any, features: Any, rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, collator=collator, num_train_epochs=1)
    trainer.add_callback(GIPSelectionCallback(trainer, 8, features=features, scores=["loss"]))
    trainer.train()
    plain = make_trainer(tmp_path / "plain", rows, num_train_epochs=1)
    plain.add_callback(GIPSelectionCallback(plain, 8, features=features, scores=["loss"]))
    plain.train()
    assert trainer.rows_seen(0) == plain.rows_seen(0)


def test_a_collator_that_runs_rows_together_is_refused(rows: Dataset, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, rows, collator=lambda _: DataCollatorWithFlattening())
    trainer.add_callback(GIPSelectionCallback(trainer, 8))
    message = (
        "`data_collator` must make one line of each row, got 1 line(s) of 5 row(s): give one that pads, or let TRL "
        "run rows together (`padding_free=True`, without `data_collator`)."
    )
    with pytest.raises(ValueError, match=exactly(message)):
        trainer.train()
