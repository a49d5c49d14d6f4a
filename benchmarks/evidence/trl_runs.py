"""The same fine-tuning with TRL's `SFTTrainer`: a check of the plain loop, and GIP inside the run."""

import math
import tempfile
from collections.abc import Iterable
from typing import Any

from datasets import Dataset
from hf_gip.callbacks import GIPSelectionCallback
from torch.utils.data import SequentialSampler
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

from .jobs import Job
from .pools import ROWS
from .sft import EPOCHS, HELD_OUT, STEPS, Runs, held_out_losses
from .training import Size, Tokens, order_of

SEEDS = 5
COMPARED_RUNS = 3  # runs done with both loops
CALLBACKS = ("GIP callback, cover", "GIP callback, target")


def jobs(seeds: int = SEEDS) -> Iterable[Job]:
    """Runs done with both loops, then runs that re-select before every epoch."""
    for seed in range(COMPARED_RUNS):
        yield {"pool": "mixed", "method": "random", "budget": 0.05, "seed": seed, "draw": 0, "by": "TRL"}
    for kind in HELD_OUT:
        for seed in range(seeds):
            for method in CALLBACKS:
                yield {"pool": kind, "method": method, "budget": 0.05, "seed": seed, "draw": 0, "by": "TRL"}


class InOrder(SFTTrainer):
    """Trains on the rows in their order."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> SequentialSampler:
        assert self.train_dataset is not None
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]


def run_trl(runs: Runs, job: Job) -> Job:
    """Held-out losses after `EPOCHS` epochs; of a run done with both loops, after `STEPS` steps of each loop."""
    setup, model = runs.setup, runs.setup.fresh()
    with tempfile.TemporaryDirectory() as folder:
        if job["method"] in CALLBACKS:
            members = runs.selections.pool(job["pool"], job["seed"]).members.tolist()
            k = math.floor(job["budget"] * ROWS)
            trainer = SFTTrainer(
                model=model,
                args=arguments(folder, setup.size, seed=job["seed"], num_train_epochs=EPOCHS),
                train_dataset=as_dataset(setup.rows.select(members)),
                processing_class=setup.tokenizer,
            )
            task = {"alpaca": "bbh", "mixed": "gsm8k"}.get(job["pool"])
            target_tokens = setup.reference if task is None else setup.queries[task]
            target = as_dataset(target_tokens) if job["method"].endswith("target") else None
            trainer.add_callback(GIPSelectionCallback(trainer, k, target=target))
            trainer.train()
            return {
                f"{judge} after epochs": loss
                for judge, loss in held_out_losses(setup, model, HELD_OUT[job["pool"]]).items()
            }
        tokens = runs.rows(job)
        rows = [row for step in order_of(len(tokens), STEPS, setup.size.batch, job["seed"]) for row in step]
        trainer = InOrder(
            model=model,
            args=arguments(folder, setup.size, seed=job["seed"], max_steps=STEPS),
            train_dataset=as_dataset(tokens.select(rows)),
            processing_class=setup.tokenizer,
        )
        trainer.train()
    plain = runs.run({key: value for key, value in job.items() if key != "by"})
    losses = held_out_losses(setup, model, HELD_OUT[job["pool"]])
    return {f"{judge} by TRL": loss for judge, loss in losses.items()} | {
        f"{judge} by the plain loop": plain[f"{judge} after steps"] for judge in losses
    }


def as_dataset(tokens: Tokens) -> Dataset:
    """Tokenized rows for `SFTTrainer`."""
    return Dataset.from_dict({"input_ids": tokens.ids, "labels": tokens.labels})


def arguments(folder: str, size: Size, *, seed: int, **options: Any) -> SFTConfig:
    """The plain loop's settings as an `SFTConfig`."""
    return SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=size.batch,
        per_device_eval_batch_size=64,
        learning_rate=size.rate,
        weight_decay=0.0,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=size.warmup,
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
