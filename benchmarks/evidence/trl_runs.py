"""The same fine-tuning by TRL's `SFTTrainer`: that the plain loop gives the same loss, and GIP inside the run."""

import math
import tempfile
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from .jobs import Unit
from .pools import ROWS
from .sft import EPOCHS, JUDGED, STEPS, Runs, judged
from .training import Size, Tokens, order_of

SEEDS = 5
CHECKED = 3  # runs that are made both ways
CALLBACKS = ("GIP callback, cover", "GIP callback, target")


def units(seeds: int = SEEDS) -> Iterable[Unit]:
    """Runs made both ways, then runs that select again before every epoch."""
    for seed in range(CHECKED):
        yield {"pool": "mixed", "method": "random", "budget": 0.05, "seed": seed, "draw": 0, "by": "TRL"}
    for kind in JUDGED:
        for seed in range(seeds):
            for method in CALLBACKS:
                yield {"pool": kind, "method": method, "budget": 0.05, "seed": seed, "draw": 0, "by": "TRL"}


class InOrder(SFTTrainer):
    """Takes the rows as they lie."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        assert self.train_dataset is not None
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def by_trl(runs: Runs, unit: Unit) -> Unit:
    """Held-out losses after `EPOCHS` epochs; of a run made both ways, after `STEPS` steps of each loop."""
    setup, model = runs.setup, runs.setup.fresh()
    with tempfile.TemporaryDirectory() as folder:
        if unit["method"] in CALLBACKS:
            members = runs.selections.pool(unit["pool"], unit["seed"]).members.tolist()
            k = math.floor(unit["budget"] * ROWS)
            trainer = SFTTrainer(
                model=model,
                args=arguments(folder, setup.size, seed=unit["seed"], num_train_epochs=EPOCHS),
                train_dataset=as_dataset(setup.rows.at(members)),
                processing_class=setup.tokenizer,
            )
            task = {"alpaca": "bbh", "mixed": "gsm8k"}.get(unit["pool"])
            shown = setup.reference if task is None else setup.queries[task]
            target = as_dataset(shown) if unit["method"].endswith("target") else None
            trainer.add_callback(GIPSelectionCallback(trainer, k, target=target))
            trainer.train()
            return {
                f"{judge} after epochs": loss for judge, loss in judged(setup, model, JUDGED[unit["pool"]]).items()
            }
        tokens = runs.rows(unit)
        rows = [row for step in order_of(len(tokens), STEPS, setup.size.batch, unit["seed"]) for row in step]
        trainer = InOrder(
            model=model,
            args=arguments(folder, setup.size, seed=unit["seed"], max_steps=STEPS),
            train_dataset=as_dataset(tokens.at(rows)),
            processing_class=setup.tokenizer,
        )
        trainer.train()
    plain = runs.run({key: value for key, value in unit.items() if key != "by"})
    losses = judged(setup, model, JUDGED[unit["pool"]])
    return {f"{judge} by TRL": loss for judge, loss in losses.items()} | {
        f"{judge} by the plain loop": plain[f"{judge} after steps"] for judge in losses
    }


def as_dataset(tokens: Tokens) -> Dataset:
    """Rows that `SFTTrainer` takes as they are."""
    return Dataset.from_dict({"input_ids": tokens.ids, "labels": tokens.labels})


def arguments(folder: str, size: Size, *, seed: int, **options: Any) -> SFTConfig:
    """The plain loop's settings in TRL's words."""
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=size.batch,
        per_device_eval_batch_size=64,
        learning_rate=size.rate,
        weight_decay=0.0,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=size.warm_up,
        max_length=size.prompt + size.answer,
        seed=seed,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        bf16=False,
        gradient_checkpointing=False,
        activation_checkpointing=False,
        use_cpu=True,
        **options,
    )
