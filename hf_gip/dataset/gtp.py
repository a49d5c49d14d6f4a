"""GTP on a dataset: rows in, gradients along a training run, the few weighted rows that together follow a target's."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm
from torch import nn

from hf_gip.core.explain import GtpExplanation, explain_gtp, weights_per_target
from hf_gip.core.gtp import gtp, target_rows
from hf_gip.core.matrix import ConcatenatedMatrix, RowRange
from hf_gip.dataset.gradient_trajectories import Target, TrajectoryPlan, plan_trajectories
from hf_gip.dataset.options import GtpOptions
from hf_gip.dataset.select import attach, check_dataset, check_pool_row, environment, report_picks, select_once, splits
from hf_gip.dataset.values import plain_value
from hf_gip.distributed import rank_and_world, world_group
from hf_gip.features import progress
from hf_gip.selection import Selection

logger = logging.getLogger(__name__)

Pool = TypeVar("Pool", Dataset, DatasetDict)
VERSION = 3  # raise it when the same call would choose or record something else, so that old caches are left behind


def gtp_select(
    dataset: Pool,
    k: int | Mapping[str, int],
    *,
    model: str | nn.Module,
    target: Target | None = None,
    tokenizer: Any = None,
    checkpoints: Sequence[str | Path] | None = GtpOptions.checkpoints,
    learning_rates: Sequence[float] | None = GtpOptions.learning_rates,
    columns: Sequence[str] | None = GtpOptions.columns,
    target_modules: str = GtpOptions.target_modules,
    subspace: Literal["random", "snapshots"] = GtpOptions.subspace,
    projection_dim: int | None = GtpOptions.projection_dim,
    adam: bool = GtpOptions.adam,
    normalize: bool = GtpOptions.normalize,
    ridge: float | None = GtpOptions.ridge,
    warmup_fraction: float = GtpOptions.warmup_fraction,
    warmup_epochs: int = GtpOptions.warmup_epochs,
    warmup_learning_rate: float = GtpOptions.warmup_learning_rate,
    max_length: int = GtpOptions.max_length,
    batch_size: int = GtpOptions.batch_size,
    seed: int = GtpOptions.seed,
    id_column: str | None = GtpOptions.id_column,
    device: str | None = GtpOptions.device,
) -> Pool:
    """Choose `k` rows, with weights, that together follow a target's gradients along a training run.

    Three stages ([GTP](https://huggingface.co/papers/2410.16710)): checkpoints, from a Trainer or from a short warm-up
    run on a random part of the pool; the gradient of every row at each of them (`hf_gip.gradient_trajectories`, whose
    arguments these are); and the pursuit of the mean gradient of the target, or of the whole pool where no target is
    given (`hf_gip.gtp`). Unlike scores taken row by row, a row that says what a chosen one already says is left out.

    Every stage is kept in the datasets cache: a killed call goes on where it was, with the same rows, and another `k`
    costs the pursuit alone. Under `torchrun` the ranks of the process group, with one cache, share the gradients and
    the pursuit, and all return the same rows; the first one does the warm-up run, for which the others wait (within
    the group's `timeout`).

    Args:
        dataset: The pool. Of a `DatasetDict` each split named in `k` is replaced by its subset.
        k: How many rows; for a `DatasetDict` a mapping from split to rows, or a number for its `train` split.
        model: A causal language model: a Hub id, a local folder, or a live one, which is left as it was.
        target: What the rows should serve: a dataset, texts, or several subtasks as a mapping from names to datasets,
            which are matched together. None: the pool itself.
        tokenizer: For rows of text with a live model; otherwise the model's own.
        checkpoints: A Trainer's checkpoint folders, in the order of the run, in place of the warm-up run.
        learning_rates: Learning rate of each of `checkpoints`; None: as the Trainer logged them.
        columns: Text columns, instead of the detected layout.
        target_modules: Whose gradients: `"lora"`, `"last_layer"` or a pattern of layer names.
        subspace: `"random"` or `"snapshots"`, see `hf_gip.gradient_trajectories`.
        projection_dim: Width per checkpoint at most.
        adam: Whether the pool's gradients are seen through Adam's moments, as LESS does; the target's never are, so
            the two are then unlike and no weights bring the residual down far.
        normalize: Whether each gradient, of pool and target, is divided by its length before the fit, so that no row
            counts more for being short. The weights then belong to unit gradients. False: raw gradients, whose
            weights can serve as loss weights (`docs/gtp.md`).
        ridge: Penalty on the weights, see `hf_gip.gtp`.
        warmup_fraction: Part of the pool that the warm-up run trains on.
        warmup_epochs: Passes of the warm-up run, a checkpoint after each.
        warmup_learning_rate: Its peak.
        max_length: Tokens per row at most, within the model's context; longer rows are cut and counted.
        batch_size: Rows per forward pass.
        seed: Of the warm-up run, the LoRA layers and the projection.
        id_column: A column that names the rows in the manifest, instead of their position.
        device: Torch device; a GPU where there is one unless told. A live model stays where it is.

    Returns:
        An ordinary `Dataset` of the chosen rows by falling gain. Its `selection` holds their `weights`, and a record
        with the residual after every pass, in the space of the fit, and `whole_residual`, the same of whole gradients,
        from a second sketch of them.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument does not fit the data or the model, or a row's gradient is not finite.
    """
    options = GtpOptions(
        checkpoints=checkpoints,
        learning_rates=learning_rates,
        columns=columns,
        target_modules=target_modules,
        subspace=subspace,
        projection_dim=projection_dim,
        adam=adam,
        normalize=normalize,
        ridge=ridge,
        warmup_fraction=warmup_fraction,
        warmup_epochs=warmup_epochs,
        warmup_learning_rate=warmup_learning_rate,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        id_column=id_column,
        device=device,
    )
    if isinstance(dataset, DatasetDict):
        inputs: dict[str, Any] = {"model": model, "target": target, "tokenizer": tokenizer}
        subsets = {name: gtp_select(dataset[name], n, **inputs, **vars(options)) for name, n in splits(dataset, k)}
        return cast("Pool", DatasetDict({**dataset, **subsets}))
    k = plain_value(k)
    check_dataset(dataset, k, options.id_column)
    plan = plan_trajectories(dataset, model, tokenizer, target, options)
    besides = {"method": "gtp", "version": VERSION, "k": k, "ridge": options.ridge, "id_column": options.id_column}
    selection = select_once(besides | plan.request, lambda: _select(plan, cast("int", k)), shared=True)
    return attach(dataset, replace(selection, context=GtpContext(plan)))


def _select(plan: TrajectoryPlan, k: int) -> Selection:
    """The gradients, and the pursuit of the target's, which several ranks share."""
    trajectories, (rank, world) = plan.gather(k), rank_and_world()
    n = len(trajectories.rows)
    logger.info("stage 3 of 3: the pursuit of %d rows among %d", k, n)
    started = time.monotonic()
    features, group = trajectories.features, world_group()
    if group is not None:
        start, stop = n * rank // world, n * (rank + 1) // world
        features = [RowRange(each, start, stop - start) for each in features]
    announced = False

    def report_pass(passes: int, residual: float) -> None:
        nonlocal announced
        seconds = time.monotonic() - started
        if seconds > progress.ANNOUNCE_SECONDS and not announced and rank == 0:
            tqdm.write(f"hf-gip: the pursuit of {k:,} rows: residual {residual:.3f} after pass {passes}, it goes on")
            announced = True
        logger.info("pass %d after %.1f s: residual %.4f", passes, seconds, residual)

    selection = gtp(
        features,
        trajectories.target_means(),
        k,
        learning_rates=trajectories.learning_rates,
        ridge=plan.options.ridge,
        group=group,
        progress=report_pass,
    )
    whole = trajectories.whole_residual(selection.indices, weights_per_target(selection))
    record = {
        **selection.record,
        "whole_residual": selection.record["residual"] if whole is None else whole,
        **trajectories.record,
        **environment(plan.dataset, plan.options.id_column),
        "timings": {**trajectories.record["timings"], "select_seconds": time.monotonic() - started},
    }
    return replace(selection, indices=trajectories.rows[selection.indices], record=record)


@dataclass(frozen=True, slots=True)
class GtpContext:
    """A `gtp_select` call, kept to explain and report its picks.

    Attributes:
        plan: The call; its gradients come from the cache, or are computed anew where caching is off.
    """

    plan: TrajectoryPlan

    def explain(self, selection: Selection, row: int) -> GtpExplanation:
        """Explain `row` of the pool.

        Raises:
            ValueError: If `row` is no row of the pool or took no part.
        """
        check_pool_row(row, self.plan.dataset)
        trajectories = self.plan.gather(1)
        if not bool((trajectories.rows == row).any()):
            raise ValueError(f"`row` must have a labeled token, got row {row}, which took no part.")
        scales = [rate**0.5 for rate in trajectories.learning_rates]
        pool, means = ConcatenatedMatrix(trajectories.features, scales), trajectories.target_means()
        target = pool.means()[0][None] if means is None else target_rows(means, trajectories.features, scales)
        positions = torch.searchsorted(trajectories.rows, torch.cat([torch.tensor([row]), selection.indices]))
        gradients = pool.rows(positions).cpu()
        return explain_gtp(selection, row, gradients[0], gradients[1:], target)

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        return report_picks(self.plan.dataset, selection, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()
