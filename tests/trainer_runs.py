"""Checkpoints of a real trainer."""

from pathlib import Path

import pytest
from datasets import Dataset
from tiny_trainers import make_trainer

from hf_gip.features.adam import AdamMoments, adam_moments
from hf_gip.features.proxy import ModelRef


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    monkeypatch.setattr(ModelRef, "load", lambda self: pytest.fail("a model was loaded"))


def trained(folder: Path, rows: Dataset, *, lora: bool) -> tuple[list[Path], AdamMoments]:
    """Checkpoint folders of a real Trainer, and the moments of its last step."""
    trainer = make_trainer(
        folder,
        rows,
        lora=lora,
        num_train_epochs=3,
        save_strategy="epoch",
        logging_steps=1,
        learning_rate=0.01,
        weight_decay=0.1,
    )
    trainer.train()
    folders = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    return folders, adam_moments(trainer.optimizer, trainer.model)
