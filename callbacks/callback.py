"""The callback that selects rows between the epochs of a training run."""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_gip.selection import Selection

from .features import TextEmbeddings
from .pool import read_pool
from .publish import log_epoch, log_round, log_table, publish
from .rounds import Round, decode_tensor, encode_tensor, write_epoch, write_round
from .scoring import CandidateSampler, Reselector, ScoringConfig, Select
from .serving import check_epoch, check_loader
from .target import prepare_target
from .validation import check_arguments, check_attached, check_batches, check_checkpoint, check_start, check_trainer
from .view import make_view


class GIPSelectionCallback(TrainerCallback, ExportableState):
    """A [`~transformers.TrainerCallback`] that trains every epoch on the `k` rows that the model needs now.

    Before an epoch, the model in training reads the pool, and Greedy Information Projection
    ([GIP](https://huggingface.co/papers/2603.13790)) chooses `k` of its rows. The trainer keeps its loader, its number
    of steps and its learning-rate schedule: its training set becomes a view of `k` rows, whose contents change
    between epochs. An epoch is a pass over these `k` rows; to select more often, take a smaller `k` and more epochs.
    Rows never change inside an epoch: loaders read ahead, so a resumed run could not repeat which rows a step sees.

    Each selection is written to `output_dir/gip/selection_epoch_00000.parquet`, …, and listed with its hash in
    `output_dir/gip/run.json`, with what each epoch was served: `hf-gip verify OUTPUT_DIR` checks them. A selection
    costs a forward pass over the candidates in batches of `per_device_eval_batch_size` (gradients: and back through
    the head, for `"lora_gradient"` through the model), the greedy picks, and memory for the (n, d) float32 features on
    the main process. The logs show what each took as `gip/…`.

    Args:
        trainer: The trainer this callback is added to. Its training set becomes the pool.
        k: Rows in an epoch; with `packing=True`, packs in an epoch.
        features: What the model says of a row, *optional*, defaults to `"hidden"`: the mean last hidden state of its
            labelled tokens. `"hidden_gradient"` is the gradient of its loss by them, `"lora_gradient"` by the LoRA
            weights and `"last_layer_gradient"` by the output layer's, both projected to 1,024 numbers; `"text"` embeds
            its text once, without the model.
        encoder: How `features="text"` embeds, as in `hf_gip.embed`, *optional*, defaults to `"lexical"`.
        target: Rows or texts that show what is wanted, read by the same model, *optional*, defaults to none: the
            selection covers the pool.
        scores: Numeric columns of the pool, or `"loss"` for the model's own loss on a row, *optional*, defaults to
            none. Rows with larger scores are trusted more.
        objective: GIP's objective, `"projection"` or `"information"`, *optional*, defaults to `"projection"`.
        noise: GIP's ridge, *optional*, by default taken from the budget and the width of the features.
        select: Takes GIP's place, *optional*: a function (features, queries, k) → `Selection`, e.g. one that calls
            `hf_gip.spice`.
        pool: The dataset that was given to the trainer, *optional*. Needed with `packing=True`, as packs do not show
            their rows, and with `push_to`.
        id_column: The column that names a row in the records, *optional*, defaults to its position in that dataset.
        every_n_epochs: Epochs from one selection to the next, *optional*, defaults to `1`.
        start_epoch: The first epoch with a selection, from 0, *optional*, defaults to `0`.
        initial_selection: Rows for the epochs before `start_epoch`, e.g. `pool.gip_select(k).selection`, *optional*,
            defaults to random ones.
        allow_repeats: Whether a row may be chosen again in a later round, *optional*, defaults to `True`. If not, each
            comes at most once until fewer are left than a round needs: those come first, and counting begins anew.
        num_candidates: Candidates of a round, drawn at random, *optional*, defaults to all; for pools too large to be
            read each time.
        push_to: A dataset repository for the last selection when training ends, *optional*. It is first saved as
            `output_dir/gip/subset`; a push that fails is logged with the command that repeats it.
        push_every_selection: Whether to push every selection when it is made, *optional*, defaults to `False`: only
            the last one.

    Example:
    ```python
    from hf_gip.callbacks import GIPSelectionCallback

    trainer = SFTTrainer(model=model, args=args, train_dataset=pool)
    trainer.add_callback(GIPSelectionCallback(trainer, k=5_000, target=gsm8k))
    trainer.train()
    ```

    Raises:
        TypeError: If the training set is not a `datasets.Dataset`, or an argument is of the wrong type.
        ValueError: If an argument is out of range or does not fit the trainer.
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        k: int = 0,
        *,
        features: Literal["hidden", "hidden_gradient", "lora_gradient", "last_layer_gradient", "text"] = "hidden",
        encoder: Any = "lexical",
        target: Dataset | Sequence[str] | None = None,
        scores: Sequence[str] = (),
        objective: Literal["projection", "information"] = "projection",
        noise: float | None = None,
        select: Select | None = None,
        pool: Dataset | None = None,
        id_column: str | None = None,
        every_n_epochs: int = 1,
        start_epoch: int = 0,
        initial_selection: Selection | None = None,
        allow_repeats: bool = True,
        num_candidates: int | None = None,
        push_to: str | None = None,
        push_every_selection: bool = False,
    ) -> None:
        self.trainer = trainer
        self.every_n_epochs = every_n_epochs
        self.start_epoch = start_epoch
        self.push_to = push_to
        self.push_every_selection = push_every_selection

        # Internal state
        self.round: Round | None = None  # the selection that is trained on
        self._resumed_at: float | None = None  # epochs done in the checkpoint that a run goes on from
        self._epoch_start, self._is_whole_epoch = 0.0, True

        if trainer is None:  # how `restore_callback_states_from_checkpoint` rebuilds it; refused when training begins
            return
        check_trainer(trainer)
        check_arguments(
            trainer,
            features=features,
            encoder=encoder,
            target=target,
            scores=scores,
            objective=objective,
            noise=noise,
            select=select,
            pool=pool,
            every_n_epochs=every_n_epochs,
            start_epoch=start_epoch,
            initial_selection=initial_selection,
            allow_repeats=allow_repeats,
            num_candidates=num_candidates,
            push_to=push_to,
            push_every_selection=push_every_selection,
        )
        self.pool = read_pool(trainer, pool, id_column)
        view = make_view(trainer, self.pool, k)
        check_batches(trainer, k)
        texts, rows = TextEmbeddings(encoder), prepare_target(trainer, target)
        config = ScoringConfig(features, rows, tuple(scores), objective, noise, select, texts)
        sampler = CandidateSampler(len(self.pool), allow_repeats, num_candidates, trainer.args.seed)
        self.reselector = Reselector(trainer, self.pool, view, config, sampler, initial_selection)
        self.settings = {
            **config.to_json(trainer),
            "k": k,
            "id_column": id_column,
            "every_n_epochs": every_n_epochs,
            "start_epoch": start_epoch,
            "allow_repeats": allow_repeats,
            "num_candidates": num_candidates,
        }
        trainer.train_dataset = view

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check what is trained on, and go on from a checkpoint's selection."""
        check_attached(self.trainer, self)
        check_loader(kwargs.get("train_dataloader"), self.reselector.view)
        check_start(self.start_epoch, state.num_train_epochs)
        self.round, self._resumed_at = None, None
        self.reselector.sampler.used.zero_()
        if state.global_step > 0:
            states: Any = state.stateful_callbacks  # by class name, once a trainer state is made
            self._restore(states.get(type(self).__name__))
            self._resumed_at = float(state.epoch or 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Select if it is time, and show the rows: the loader is iterated right after this event."""
        self._is_whole_epoch = self._resumed_at is None or self._resumed_at % 1 == 0
        self._resumed_at = None
        epoch = int(state.epoch or 0)
        if self._is_whole_epoch and (self.round is None or self._is_due(epoch)):
            self._select(epoch, state.global_step)
        self.reselector.view.log.reset()
        self._epoch_start = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check that the chosen rows were served, and log the selection's share of the time."""
        assert self.trainer is not None
        assert self.round is not None
        seconds, epochs_done = time.perf_counter() - self._epoch_start, float(state.epoch or 0)
        epoch = check_epoch(
            self.trainer,
            kwargs.get("train_dataloader"),
            self.reselector.view.log,
            math.ceil(epochs_done) - 1,
            is_whole=self._is_whole_epoch and epochs_done.is_integer(),
        )
        if self.trainer.is_world_process_zero():
            write_epoch(self.trainer, epoch)
        if self.round.epoch == int(epochs_done) - 1:
            log_epoch(self.trainer, self.round, seconds)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Push the last selection, if asked for."""
        if not self.push_every_selection:
            self._push()

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores: the rows being trained on, and with `allow_repeats=False` those used before."""
        if self.trainer is None or self.round is None:
            return {"args": {}, "attributes": {}}
        sampler = self.reselector.sampler
        used = None if sampler.allow_repeats else encode_tensor(sampler.used)
        saved = {**self._run_identity(), "round": self.round.to_json(), "used": used}
        return {"args": {}, "attributes": {"saved": saved}}

    def _is_due(self, epoch: int) -> bool:
        return epoch >= self.start_epoch and (epoch - self.start_epoch) % self.every_n_epochs == 0

    def _select(self, epoch: int, step: int) -> None:
        assert self.trainer is not None
        previous = self.round
        select = self.reselector.reselect if self._is_due(epoch) else self.reselector.initial
        self.round = select(epoch, step)
        if self.trainer.is_world_process_zero():
            write_round(self.trainer, self.pool, self.settings, self.round)
            log_table(self.trainer, self.pool, self.round)
        log_round(self.trainer, self.round, previous)
        if self.push_every_selection:
            self._push()

    def _push(self) -> None:
        assert self.trainer is not None
        if self.push_to is not None and self.round is not None and self.trainer.is_world_process_zero():
            publish(self.trainer, self.pool, self.settings, self.round, self.push_to)

    def _restore(self, state: Any) -> None:
        saved = check_checkpoint(state, self._run_identity())
        self.round = Round.from_json(saved["round"])
        if saved["used"] is not None:
            self.reselector.sampler.used.copy_(decode_tensor(saved["used"]))
        self.reselector.view.show(self.round.rows)

    def _run_identity(self) -> dict[str, Any]:
        """What must be the same in a checkpoint and in the run that goes on from it."""
        assert self.trainer is not None
        return {
            "k": len(self.reselector.view),
            "pool": len(self.pool),
            "rows": self.pool.fingerprint,
            "target": self.settings["target_sha256"],
            "batch": self.trainer.get_total_train_batch_size(self.trainer.args),
        }
