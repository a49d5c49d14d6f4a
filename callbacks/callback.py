"""The callback."""

import math
import time
from collections.abc import Sequence
from typing import Any, Literal

from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_gip.core.validation import check_bool, check_number
from hf_gip.selection import Selection

from .features import TextVectors
from .pool import Pool, read_pool
from .publish import publish, report_epoch, report_round, report_table
from .reselect import Reselector, make_view
from .rounds import Round, expand, settings_of, squeeze, write_epoch, write_round
from .scoring import Recipe, Rotation, Select
from .served import check_loader, confirm_epoch
from .trainer_access import prepare_target
from .validation import (
    check_attached,
    check_encoder,
    check_features,
    check_options,
    check_push,
    check_start,
    check_texts,
    check_trainer,
    warn_of_repeats,
)


def identity(trainer: Trainer, pool: Pool, k: int, target: str | None) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it; `target` is a digest."""
    batch = trainer.get_total_train_batch_size(trainer.args)
    return {"k": k, "pool": len(pool), "rows": pool.fingerprint, "target": target, "batch": batch}


def check_saved(stored: Any, now: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint holds, if this run is the one it belongs to.

    Raises:
        RuntimeError: If the checkpoint has nothing of the callback.
        ValueError: If the budget, the rows, the target or the steps of an epoch are others.
    """
    saved = stored.get("attributes", {}).get("saved") if isinstance(stored, dict) else None
    if saved is None:
        raise RuntimeError(
            "The checkpoint was written without this callback, on other rows and another number of steps: start a "
            "new run from its weights instead of resuming it."
        )
    if (saved["k"], saved["pool"]) != (now["k"], now["pool"]):
        raise ValueError(
            f"`k` and the pool must be those of the checkpoint, got k={now['k']} of {now['pool']} row(s) where it "
            f"has k={saved['k']} of {saved['pool']}: pass the same."
        )
    if saved["rows"] != now["rows"]:
        raise ValueError(
            f"The training set must be the checkpoint's, got as many rows ({now['pool']}) with other tokens: pass the "
            "same rows, tokenizer and `max_length`, or start a new run from its weights."
        )
    if saved["target"] != now["target"]:
        was, new = (
            "none" if each is None else f"one of digest {each[:8]}…" for each in (saved["target"], now["target"])
        )
        raise ValueError(
            f"`target` must be the checkpoint's, got {new} where it has {was}: pass the same rows, or start a new run "
            "from its weights."
        )
    if saved["batch"] != now["batch"]:
        raise ValueError(
            f"An optimizer step must take as many rows as in the checkpoint, got {now['batch']} where it has "
            f"{saved['batch']}, so that epochs begin elsewhere: keep processes × batch × accumulation."
        )
    return saved


class GIPSelectionCallback(TrainerCallback, ExportableState):
    """Trains every epoch on the rows that the model needs now, chosen by Greedy Information Projection.

    The trainer keeps its loader, its number of steps and its learning-rate schedule: it is given a view of `k` rows,
    and between epochs the view's contents change. An epoch is a pass over the `k` rows; to select more often, take a
    smaller `k` and more epochs. (Rows never change inside an epoch: loaders read ahead, so which rows a step sees
    could not be repeated on resume.)

    Example:
    ```python
    trainer = SFTTrainer(model=model, args=args, train_dataset=pool)
    trainer.add_callback(GIPSelectionCallback(trainer, k=5_000, target=gsm8k))
    trainer.train()
    ```

    Each selection is written to `output_dir/gip/selection_epoch_00000.parquet`, …, listed with its hash in
    `output_dir/gip/run.json`: `hf-gip verify OUTPUT_DIR` checks them.
    It costs a forward pass over the candidates in batches of `per_device_eval_batch_size`
    (gradients: and back through the head, for `"lora_gradient"` through the model), the greedy picks, and memory for
    the (n, d) float32 features on the main process; `gip/…` scalars say what each took.

    Args:
        trainer: The trainer this callback is added to. Its training set becomes the pool.
        k: Rows in an epoch; with `packing=True`, packs in an epoch.
        features: What the model says of a row: the mean last hidden state of its labelled tokens (`"hidden"`), the
            gradient of its loss by them (`"hidden_gradient"`), by the LoRA weights (`"lora_gradient"`) or the output
            layer's (`"last_layer_gradient"`), both projected to 1,024 numbers; or its text (`"text"`, read once,
            without the model).
        encoder: For `"text"`: as in `hf_gip.embed`.
        target: Rows or texts that show what is wanted, read by the same model. None covers the pool itself.
        scores: Numeric columns of the pool, or `"loss"` for the model's own loss on a row: larger is trusted more.
        objective: GIP's objective.
        noise: GIP's ridge; None takes it from the budget and the width of the features.
        select: Takes GIP's place: a function (features, queries, k) → `Selection`, e.g. one that calls `hf_gip.spice`.
        pool: The dataset that was given to the trainer. Needed with `packing=True`, as packs do not show their rows,
            and with `push_to`.
        id_column: The column that names a row in the records; by default its position in that dataset.
        every_n_epochs: Epochs from one selection to the next.
        start_epoch: The first epoch with a selection, from 0; before it, `initial_selection`.
        initial_selection: Rows for the epochs before `start_epoch`, e.g. `pool.gip_select(k).selection`; random ones
            by default.
        allow_repeats: Whether a row may be chosen again in a later round; if not, each comes at most once until
            fewer are left than a round needs: those come first, and the count begins anew.
        num_candidates: Candidates in a round, drawn at random; for pools too large to be read each time.
        push_to: A dataset repository for the last selection when training ends. It is first saved as
            `output_dir/gip/subset`; a push that fails is logged with the command that repeats it.
        push_every_selection: Whether to push every selection when it is made, not only the last.

    Raises:
        TypeError: If the training set is not a `datasets.Dataset`, or an option is of another kind than it should be.
        ValueError: If an option is out of range or does not fit the trainer.
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
        self.every_n_epochs, self.start_epoch = every_n_epochs, start_epoch
        self.push_to, self.push_every_selection = push_to, push_every_selection
        self.round: Round | None = None
        self._resumed_at: float | None = None
        self._epoch_began, self._began_inside = 0.0, False
        if trainer is None:  # how `restore_callback_states_from_checkpoint` rebuilds it; refused when training begins
            return
        check_trainer(trainer)
        check_features(features, objective, trainer)
        check_number("noise", noise, optional=True)
        check_encoder(encoder, features)
        check_bool("allow_repeats", allow_repeats)
        check_push(push_to, push_every_selection, pool)
        self.pool = read_pool(trainer, pool, id_column)
        check_texts(features, self.pool.rows.column_names, trainer.processing_class)
        check_options(scores, self.pool.rows, select, every_n_epochs, start_epoch, initial_selection)
        recipe = Recipe(
            features, prepare_target(trainer, target), tuple(scores), objective, noise, select, TextVectors(encoder)
        )
        view = make_view(trainer, self.pool, k)
        warn_of_repeats(trainer, k)
        rotation = Rotation(len(self.pool), allow_repeats, num_candidates, trainer.args.seed)
        self.reselector = Reselector(trainer, self.pool, view, recipe, rotation, initial_selection)
        self.settings = settings_of(
            trainer,
            recipe,
            k=k,
            id_column=id_column,
            every_n_epochs=every_n_epochs,
            start_epoch=start_epoch,
            allow_repeats=allow_repeats,
            num_candidates=num_candidates,
        )
        trainer.train_dataset = view

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up where a checkpoint left off."""
        check_attached(self.trainer, self)
        check_loader(kwargs.get("train_dataloader"), self.reselector.view)
        check_start(self.start_epoch, state.num_train_epochs)
        self.round, self._resumed_at = None, None
        self.reselector.rotation.used.zero_()
        if state.global_step > 0:
            states: Any = state.stateful_callbacks  # by class name, once a trainer state is made
            self._restore(states.get(type(self).__name__))
            self._resumed_at = float(state.epoch or 0)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show the rows of this epoch: the loader is iterated right after this event."""
        inside = self._resumed_at is not None and self._resumed_at % 1 > 0
        epoch, self._resumed_at = int(state.epoch or 0), None
        if not inside and (self.round is None or self._due(epoch)):
            self._next_round(epoch, state.global_step)
        self._began_inside = inside
        self.reselector.view.served.clear()
        self._epoch_began = time.perf_counter()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Confirm that the rows chosen were served, and say what share of the time the selection took."""
        assert self.trainer is not None
        assert self.round is not None
        seconds, done = time.perf_counter() - self._epoch_began, float(state.epoch or 0)
        epoch = math.ceil(done) - 1
        whole = done.is_integer() and not self._began_inside
        noted = self.reselector.view.served
        served = confirm_epoch(self.trainer, kwargs.get("train_dataloader"), noted, epoch, whole=whole)
        if self.trainer.is_world_process_zero():
            write_epoch(self.trainer, served)
        if self.round.epoch == int(done) - 1:
            report_epoch(self.trainer, self.round, seconds)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Publish the last selection where that was asked for."""
        if not self.push_every_selection:
            self._push()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the rows being trained on, and which rows came before where that matters."""
        if self.trainer is None or self.round is None:
            return {"args": {}, "attributes": {}}
        rotation = self.reselector.rotation
        saved = {
            **self._identity(),
            "round": self.round.to_json(),
            "used": None if rotation.allow_repeats else squeeze(rotation.used),
        }
        return {"args": {}, "attributes": {"saved": saved}}

    def _identity(self) -> dict[str, Any]:
        assert self.trainer is not None
        return identity(self.trainer, self.pool, len(self.reselector.view), self.settings["target_sha256"])

    def _due(self, epoch: int) -> bool:
        return epoch >= self.start_epoch and (epoch - self.start_epoch) % self.every_n_epochs == 0

    def _next_round(self, epoch: int, step: int) -> None:
        assert self.trainer is not None
        earlier = self.round
        self.round = self.reselector.again(epoch, step) if self._due(epoch) else self.reselector.first(epoch, step)
        if self.trainer.is_world_process_zero():
            write_round(self.trainer, self.pool, self.settings, self.round)
            report_table(self.trainer, self.pool, self.round)
        report_round(self.trainer, self.round, earlier)
        if self.push_every_selection:
            self._push()

    def _push(self) -> None:
        assert self.trainer is not None
        if self.push_to is not None and self.round is not None and self.trainer.is_world_process_zero():
            publish(self.trainer, self.pool, self.settings, self.round, self.push_to)

    def _restore(self, stored: Any) -> None:
        assert self.trainer is not None
        saved = check_saved(stored, self._identity())
        self.round = Round.from_json(saved["round"])
        if saved["used"] is not None:
            self.reselector.rotation.used.copy_(expand(saved["used"]))
        self.reselector.show(self.round)
