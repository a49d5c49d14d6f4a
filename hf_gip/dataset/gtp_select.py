"""GTP on a dataset: rows in, gradients along a training run, the few weighted rows that together follow a target's."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from datasets import Dataset, DatasetDict
from datasets.utils import tqdm

from hf_gip.dataset.gradient_trajectories import Plan, Target, plan_trajectories
from hf_gip.dataset.select import attach, check_dataset, environment, select_once, splits

if TYPE_CHECKING:
    from torch import nn

    from hf_gip.selection import Selection

logger = logging.getLogger(__name__)

Pool = TypeVar("Pool", Dataset, DatasetDict)
VERSION = 2  # raise it when the same call would choose or record something else, so that old caches are left behind
BESIDES = ("dataset", "k", "ridge", "id_column")  # arguments that are not `gradient_trajectories`'s


def gtp_select(
    dataset: Pool,
    k: int | Mapping[str, int],
    *,
    model: "str | nn.Module",
    target: Target | None = None,
    tokenizer: Any = None,
    checkpoints: Sequence[str | Path] | None = None,
    learning_rates: Sequence[float] | None = None,
    columns: Sequence[str] | None = None,
    target_modules: str = "lora",
    subspace: Literal["random", "snapshots"] = "random",
    projection_dim: int | None = 4096,
    adam: bool = False,
    ridge: float | None = None,
    warmup_fraction: float = 0.05,
    warmup_epochs: int = 4,
    warmup_learning_rate: float = 2e-5,
    max_length: int = 2048,
    batch_size: int = 8,
    seed: int = 0,
    id_column: str | None = None,
    device: str | None = None,
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
        with the residual after every pass and the target's share matched.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument does not fit the data or the model, or a row's gradient is not finite.
    """
    options: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("dataset", "k")}
    if isinstance(dataset, DatasetDict):
        chosen = {name: gtp_select(dataset[name], n, **options) for name, n in splits(dataset, k)}
        return cast("Pool", DatasetDict({**dataset, **chosen}))
    from hf_gip.dataset.inputs import plain_options, plain_value

    k, options = plain_value(k), plain_options(options)
    check_dataset(dataset, k, id_column)
    _check_ridge(ridge := options["ridge"])
    plan = plan_trajectories(dataset, {name: value for name, value in options.items() if name not in BESIDES})
    request = {"method": "gtp", "version": VERSION, "k": k, "ridge": ridge, "id_column": id_column, **plan.request}
    selection = select_once(request, lambda: _select(dataset, cast("int", k), plan, ridge, id_column), shared=True)
    from hf_gip.dataset.gtp_evidence import GtpEvidence

    selection = replace(selection, context=GtpEvidence(dataset, plan))
    return attach(dataset, selection)


def _select(dataset: Dataset, k: int, plan: Plan, ridge: float | None, id_column: str | None) -> "Selection":
    from torch import distributed

    from hf_gip.core.gtp import gtp
    from hf_gip.core.matrix import RowRange
    from hf_gip.distributed import rank_and_world
    from hf_gip.features.progress import ANNOUNCE_SECONDS

    found, (rank, world) = plan.gather(k), rank_and_world()
    logger.info("stage 3 of 3: the pursuit of %d rows among %d", k, len(found.rows))
    began = time.monotonic()

    said: list[int] = []

    def tell(passes: int, residual: float) -> None:
        seconds = time.monotonic() - began
        if seconds > ANNOUNCE_SECONDS and not said and rank == 0:
            tqdm.write(f"hf-gip: the pursuit of {k:,} rows: residual {residual:.3f} after pass {passes}, it goes on")
            said.append(passes)
        logger.info("pass %d after %.1f s: residual %.4f", passes, seconds, residual)

    features, group = found.features, distributed.group.WORLD if world > 1 else None
    if world > 1:
        ends = [len(found.rows) * each // world for each in (rank, rank + 1)]
        features = [RowRange(each, ends[0], ends[1] - ends[0]) for each in features]
    selection = gtp(
        features, found.goals(), k, learning_rates=found.learning_rates, ridge=ridge, group=group, progress=tell
    )
    timings = {**found.record["timings"], "select_seconds": time.monotonic() - began}
    record = {**selection.record, **found.record, **environment(dataset, id_column), "timings": timings}
    return replace(selection, indices=found.rows[selection.indices], record=record)


def _check_ridge(ridge: float | None) -> None:
    from hf_gip.core.gtp import check_gtp_options

    check_gtp_options(None, 1, ridge, 1)
