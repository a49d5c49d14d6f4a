"""Gradients of a pool and of a target along a training run, stage by stage, each stage kept in the datasets cache."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from datasets import Dataset, is_caching_enabled
from torch import Tensor, nn

from hf_gip.core.gtp import target_rows
from hf_gip.core.matrix import ConcatenatedMatrix, InMemoryMatrix, MatrixSource
from hf_gip.dataset.cache import cache_folder, cached_gradients, check_shared_cache
from hf_gip.dataset.options import GRADIENT_FIELDS, WARMUP_FIELDS, GtpOptions
from hf_gip.dataset.select import check_dataset
from hf_gip.dataset.values import plain_value
from hf_gip.distributed import rank_and_world, run_on_all, world_group
from hf_gip.features.gradient_store import GradientStore
from hf_gip.features.gradients import context_length
from hf_gip.features.matrix_files import FileMatrix
from hf_gip.features.per_example_gradients import (
    GradientRecipe,
    NonFiniteGradientError,
    PerExampleGradients,
    find_layers,
)
from hf_gip.features.progress import ProgressLabel
from hf_gip.features.proxy import ModelRef, resolve_model, with_lora
from hf_gip.features.snapshot_pca import snapshot_basis
from hf_gip.features.text import check_no_transform
from hf_gip.features.tokenization import TokenRows, check_vocabulary, columns_read, target_columns, tokenize_rows
from hf_gip.features.trainer_checkpoints import (
    Checkpoint,
    adapter_folder,
    check_folders,
    trainer_checkpoints,
    warm_checkpoints,
    with_weights,
)
from hf_gip.features.warmup import WarmUpPlan, warm_up
from hf_gip.hashing import hash_folder, hash_json, hash_rows, hash_token_rows, rows_digest

logger = logging.getLogger(__name__)

CHECK_DIM = 512  # of the sketch that checks the projection: a residual is then known to some 3 to 6 %

Target = Dataset | Sequence[str] | Mapping[str, Dataset]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Gradients at every checkpoint of a run, the pool's on disk where caching is on, the target's in memory.

    Attributes:
        features: The pool's gradients, one matrix per checkpoint, (m, d) each.
        rows: Positions of their rows in the pool, ascending, (m,): those with a labeled token.
        targets: The target's, (t, d) per checkpoint; None without a target.
        subtasks: Number of the subtask of each target row, (t,); empty without a target.
        learning_rates: The learning rate of each checkpoint.
        record: How they were made, as plain JSON.
        checks: Of a projection the same gradients whole, in a sketch drawn apart, (m, 512) per checkpoint; else None.
        target_checks: Those of the target.
    """

    features: list[MatrixSource]
    rows: Tensor
    targets: list[Tensor] | None
    subtasks: list[int]
    learning_rates: list[float]
    record: dict[str, Any]
    checks: list[MatrixSource] | None = None
    target_checks: list[Tensor] | None = None

    def target_means(self) -> list[Tensor] | None:
        """The mean gradient of every subtask's rows, (subtasks, d) per checkpoint: what `hf_gip.gtp` matches."""
        return None if self.targets is None else self._means(self.targets)

    def _means(self, targets: list[Tensor]) -> list[Tensor]:
        groups = torch.tensor(self.subtasks)
        return [
            torch.stack([target[groups == group].double().mean(0) for group in groups.unique()]) for target in targets
        ]

    def whole_residual(self, positions: Tensor, weights: Tensor) -> float | None:
        """‖b − Aᵀw‖ / ‖b‖ of whole gradients, also of what the projection left out; None where nothing was projected.

        Estimated by a sketch that neither the projection nor the fit has seen.

        Args:
            positions: The chosen rows among `rows`, (k,).
            weights: Their weights for each subtask, (subtasks, k).
        """
        if self.checks is None:
            return None
        scales = [rate**0.5 for rate in self.learning_rates]
        pool = ConcatenatedMatrix(self.checks, scales)
        if self.target_checks is None:
            b = pool.means()[0][None]
        else:
            b = target_rows(self._means(self.target_checks), self.checks, scales)
        return float((b - weights.double() @ pool.rows(positions)).norm() / b.norm())


def gradient_trajectories(
    dataset: Dataset,
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
    adam: bool = True,
    normalize: bool = GtpOptions.normalize,
    warmup_fraction: float = GtpOptions.warmup_fraction,
    warmup_epochs: int = GtpOptions.warmup_epochs,
    warmup_learning_rate: float = GtpOptions.warmup_learning_rate,
    max_length: int = GtpOptions.max_length,
    batch_size: int = GtpOptions.batch_size,
    seed: int = GtpOptions.seed,
    device: str | None = GtpOptions.device,
) -> Trajectories:
    """Take the gradient of every row of a pool, and of a target, at every checkpoint of a run, as LESS does.

    Without `checkpoints` a warm-up run makes them: `warmup_epochs` passes over a random `warmup_fraction` of the
    pool, a checkpoint after each ([LESS](https://huggingface.co/papers/2402.04333); ours trains rank-16 LoRA layers
    on every linear layer unless the model brings its own, and without dropout, so that it can be repeated).
    Gradients of the pool's rows are those seen through Adam's moments, Γ = m′/√(v′+ε), those of the target plain;
    unless `normalize=False` all are divided by their length, so that no row counts more for being short. Everything is
    kept in the datasets cache: the run and its gradients serve every later call, and a killed call goes on where it
    was.

    Costs one training step of the model per row and checkpoint, and m · `projection_dim` numbers on disk per
    checkpoint.

    Args:
        dataset: The pool: rows of text, or tokenized ones with `input_ids` and, where not every token counts,
            `labels`. Rows without a label are left out and counted.
        model: A causal language model: a Hub id, a local folder, or a live one, which is left as it was. With
            `checkpoints` the model they were trained from.
        target: What the rows should serve: a dataset, texts, or several subtasks as a mapping from names to datasets.
        tokenizer: For rows of text with a live model; otherwise the model's own.
        checkpoints: Folders that a Trainer saved (`checkpoint-…`), of LoRA or of full training, in the order of the
            run, in place of the warm-up run.
        learning_rates: Learning rate of each of `checkpoints`; None: as the Trainer logged them.
        columns: Text columns, instead of the detected layout.
        target_modules: Whose gradients: `"lora"`, `"last_layer"` or a pattern of layer names.
        subspace: `"random"`, the LESS recipe, one seeded sketch; or `"snapshots"`: the principal components of the
            weights along each epoch (or of the checkpoints so far), which evolve along the run.
        projection_dim: Width per checkpoint at most; 8192 in LESS, whose error is 0.7 times as large. None: never
            project, or all components.
        adam: Whether the pool's gradients are seen through Adam's moments, as in LESS; `gtp_select` leaves it out.
        normalize: Whether each gradient is divided by its length, as in LESS.
        warmup_fraction: Part of the pool that the warm-up run trains on.
        warmup_epochs: Passes of the warm-up run.
        warmup_learning_rate: Its peak.
        max_length: Tokens per row at most, within the model's context; longer rows are cut and counted.
        batch_size: Rows per forward pass.
        seed: Of the warm-up run, the LoRA layers and the projection.
        device: Torch device; a GPU where there is one unless told. A live model stays where it is.

    Returns:
        The gradients: `hf_gip.less(found.features, found.targets, k, rates=found.rates)` is LESS on them.

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
        warmup_fraction=warmup_fraction,
        warmup_epochs=warmup_epochs,
        warmup_learning_rate=warmup_learning_rate,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    check_dataset(dataset, 1)
    return plan_trajectories(dataset, model, tokenizer, target, options).gather(1)


# --- the plan: all arguments checked and identified, nothing long has run --------------------------------------------


@dataclass(frozen=True, slots=True)
class TrajectoryPlan:
    """A call whose arguments were checked; nothing long has run.

    Attributes:
        dataset: The pool.
        model: The model, not loaded yet.
        tasks: The target's subtasks by name; none without a target.
        options: The options, learning rates as plain numbers.
        recipe: What the warm-up run and the gradients depend on besides the rows, as plain JSON.
        request: `recipe` with the digests of all rows: changes when the gradients would.
    """

    dataset: Dataset
    model: ModelRef
    tasks: dict[str, Dataset]
    options: GtpOptions
    recipe: dict[str, Any]
    request: dict[str, Any]

    def gather(self, min_rows: int) -> Trajectories:
        """Compute the gradients, or read what of them the cache holds; several ranks share the work.

        Raises:
            ValueError: If fewer than `min_rows` rows have a labeled token, or a gradient is not finite.
        """
        return _gather(self, min_rows)


def plan_trajectories(
    dataset: Dataset, model: str | nn.Module, tokenizer: Any, target: Target | None, options: GtpOptions
) -> TrajectoryPlan:
    """Check what the options do not say by themselves, and identify the model, the target and the checkpoints.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument does not fit the data.
    """
    pool_columns = columns_read(dataset, options.columns)  # refuses wrong ones before a model is opened
    tasks = subtasks_of(target)
    task_columns = [columns_read(rows, target_columns(rows, options.columns)) for rows in tasks.values()]
    if options.checkpoints is not None:
        check_folders(
            options.checkpoints,
            options.learning_rates,
            model=model,
            target_modules=options.target_modules,
            snapshots=options.subspace == "snapshots",
            adam=options.adam,
        )
    if options.learning_rates is not None:  # of any sequence, an array too, the plain numbers that a record takes
        options = replace(options, learning_rates=[float(rate) for rate in options.learning_rates])
    proxy = resolve_model(model, tokenizer, device=str(options.device))
    folders = options.checkpoints
    recipe = {name: getattr(options, name) for name in (*GRADIENT_FIELDS, *WARMUP_FIELDS)} | {
        "learning_rates": options.learning_rates,
        "columns": options.columns,
        "max_length": options.max_length,
        "proxy": proxy.identity,
        "checkpoints": None if folders is None else [hash_folder(Path(folder)) for folder in folders],
    }
    request = recipe | {
        "rows": hash_rows(dataset, pool_columns),
        "target": [
            [name, hash_rows(rows, columns)] for (name, rows), columns in zip(tasks.items(), task_columns, strict=True)
        ],
    }
    return TrajectoryPlan(dataset, proxy, tasks, options, recipe, request)


def subtasks_of(target: Any) -> dict[str, Dataset]:
    """The subtasks by name; one for a single dataset, none without a target.

    Raises:
        TypeError: If the target is of another kind.
        ValueError: If it is empty.
    """
    target = plain_value(target)
    if target is None:
        return {}
    if isinstance(target, Dataset):
        tasks = {"target": target}
    elif isinstance(target, Mapping) and all(isinstance(rows, Dataset) for rows in target.values()):
        tasks = dict(target)
    elif isinstance(target, Sequence) and not isinstance(target, str) and all(isinstance(t, str) for t in target):
        tasks = {"target": Dataset.from_dict({"text": list(target)})}
    else:
        raise TypeError(
            "`target` must be a Dataset, a list of texts, or a mapping from names to datasets, got "
            f"{type(target).__name__}."
        )
    if not tasks or not all(len(rows) for rows in tasks.values()):
        raise ValueError("`target` must hold at least one row in every subtask, got none: leave empty ones out.")
    for rows in tasks.values():
        check_no_transform("target", rows)
    return tasks


# --- the stages ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GradientRun:
    """What every stage needs.

    Attributes:
        pool: The pool's tokens.
        tasks: Those of the target's subtasks, by name.
        options: The options, `max_length` within the model's context.
        recipe: Which gradients, how projected.
        scratch: Where files go while caching is off.
    """

    pool: TokenRows
    tasks: dict[str, TokenRows]
    options: GtpOptions
    recipe: GradientRecipe
    scratch: Path


def _gather(plan: TrajectoryPlan, min_rows: int) -> Trajectories:
    started = time.perf_counter()
    check_shared_cache()
    model, tokenizer = plan.model.load()
    options = replace(plan.options, max_length=min(plan.options.max_length, context_length(model)))
    adapter = adapter_folder(options.checkpoints)
    with TemporaryDirectory() as scratch, with_lora(model, options.target_modules, options.seed, adapter) as adapted:
        find_layers(adapted, options.target_modules, hidden=False)  # refuses unknown names before rows are read
        run = _tokenize(plan, options, tokenizer, min_rows, Path(scratch))
        for tokens in (run.pool, *run.tasks.values()):
            check_vocabulary(tokens.rows, adapted)
        checkpoints = _checkpoints(adapted, run, plan.recipe)
        gradients_started = time.perf_counter()
        pool, targets = _gradients(adapted, checkpoints, run)
        features = _on_disk_if_cached([store.features for store in pool])
        checks = _on_disk_if_cached([store.checks for store in pool if store.checks is not None])
    record = {
        "proxy": plan.model.identity,
        "checkpoints": [
            {"name": checkpoint.name, "rate": checkpoint.learning_rate}
            | ({} if digest is None else {"sha256": digest})
            for checkpoint, digest in zip_longest(checkpoints, plan.recipe["checkpoints"] or ())
        ],
        **_record(plan, run, [matrix.d for matrix in features]),
        "timings": {
            "checkpoints_seconds": gradients_started - started,
            "gradients_seconds": time.perf_counter() - gradients_started,
        },
    }
    subtasks = [number for number, task in enumerate(run.tasks.values()) for _ in range(len(task.usable))]
    learning_rates = [checkpoint.learning_rate for checkpoint in checkpoints]
    target_features = [features for features, _ in targets] or None
    target_checks = [checks for _, checks in targets if checks is not None] or None
    return Trajectories(
        features, run.pool.usable, target_features, subtasks, learning_rates, record, checks or None, target_checks
    )


def _on_disk_if_cached(matrices: Sequence[FileMatrix]) -> list[MatrixSource]:
    """Matrices on disk, in memory where the folder goes with the call."""
    return list(matrices) if is_caching_enabled() else [InMemoryMatrix(matrix.load()) for matrix in matrices]


def _tokenize(plan: TrajectoryPlan, options: GtpOptions, tokenizer: Any, min_rows: int, scratch: Path) -> GradientRun:
    """Tokens of the pool and the target.

    Raises:
        ValueError: If too few rows have a labeled token.
    """
    pool = tokenize_rows(plan.dataset, tokenizer, options.columns, options.max_length)
    if min_rows > len(pool.usable):
        raise ValueError(
            "`k` must be at most the number of rows with a labeled token "
            f"({len(pool.usable)} of {len(plan.dataset)}), got {min_rows}."
        )
    tasks = {}
    for name, rows in plan.tasks.items():
        tasks[name] = tokenize_rows(rows, tokenizer, target_columns(rows, options.columns), options.max_length)
        if not len(tasks[name].usable):
            raise ValueError(f"`target` must hold rows with a labeled token, got none of {len(rows)} in {name!r}.")
    recipe = GradientRecipe(
        options.target_modules,
        options.projection_dim,
        normalize=options.normalize,
        seed=options.seed,
        max_length=options.max_length,
    )
    return GradientRun(pool, tasks, options, recipe, scratch)


def _checkpoints(model: nn.Module, run: GradientRun, recipe: Mapping[str, Any]) -> list[Checkpoint]:
    """Stage 1: the Trainer's folders, or a warm-up run in the cache, which the first rank makes."""
    options = run.options
    if options.checkpoints is not None:
        logger.info("stage 1 of 3: %d checkpoints of a Trainer", len(options.checkpoints))
        return trainer_checkpoints(options.checkpoints, model, options.learning_rates)
    plan = WarmUpPlan(
        share=options.warmup_fraction,
        epochs=options.warmup_epochs,
        learning_rate=options.warmup_learning_rate,
        seed=options.seed,
        snapshots=options.subspace == "snapshots",
    )
    steps = len(plan.orders(run.pool.usable)[0])
    logger.info("stage 1 of 3: a warm-up run of %d epochs of %d steps", plan.epochs, steps)
    projection = ("projection_dim", "adam", "normalize", "learning_rates", "checkpoints")  # changes nothing in the run
    request = {name: value for name, value in recipe.items() if name not in projection}
    key = hash_json(request | {"max_length": options.max_length, "tokens": hash_token_rows(run.pool.rows)})
    folder = cache_folder("warmups", key) or run.scratch / key

    def first_rank_runs() -> None:
        if rank_and_world()[0] == 0:
            warm_up(
                folder,
                PerExampleGradients(model, run.recipe),
                run.pool.rows,
                run.pool.usable,
                plan,
                max_length=options.max_length,
                batch_size=options.batch_size,
            )

    run_on_all(first_rank_runs, world_group())
    return warm_checkpoints(folder, plan, steps)


def _gradients(
    model: nn.Module, checkpoints: Sequence[Checkpoint], run: GradientRun
) -> tuple[list[GradientStore], list[tuple[Tensor, Tensor | None]]]:
    """Stage 2: the pool's and the target's gradients at every checkpoint, the latter with their checks.

    Raises:
        ValueError: If one is not finite; after a warm-up run the message names the likeliest reason.
    """
    options = run.options
    logger.info("stage 2 of 3: gradients of %d rows at %d checkpoints", len(run.pool.usable), len(checkpoints))
    pool, targets, started, estimated = [], [], time.monotonic(), False
    for number, checkpoint in enumerate(checkpoints, start=1):
        at_checkpoint = f"checkpoint {number} of {len(checkpoints)}"
        to_come = 0 if estimated else len(checkpoints) - number + 1
        with with_weights(model, checkpoint.weights()), _blame_learning_rate(options):
            basis, per_example = None, PerExampleGradients(model, run.recipe)
            if options.subspace == "snapshots":
                basis = snapshot_basis(checkpoint.snapshots(per_example.layers), options.projection_dim)
            is_projected = basis is not None or per_example.projection_dim is not None
            projection: dict[str, Any] = {"basis": basis, "check_dim": CHECK_DIM if is_projected else 0}
            store = cached_gradients(
                model,
                run.pool.rows,
                run.recipe,
                options.batch_size,
                run.scratch,
                scaling=checkpoint.moments() if options.adam else None,
                label=ProgressLabel(f"Gradients of the pool, {at_checkpoint}", to_come),
                **projection,
            )
            estimated = estimated or store.made > 0  # the estimate is for all checkpoints
            pool.append(store)
            tasks = []
            for name, task in run.tasks.items():
                task_label = f"target {name!r}" if len(run.tasks) > 1 else "the target"
                label = ProgressLabel(f"Gradients of {task_label}, {at_checkpoint}", 0)
                recipe, batch_size = run.recipe, options.batch_size
                tasks.append(
                    cached_gradients(model, task.rows, recipe, batch_size, run.scratch, label=label, **projection)
                )
            if tasks:
                checks = [task.checks.load() for task in tasks if task.checks is not None]
                gradients = torch.cat([task.features.load() for task in tasks])
                targets.append((gradients, torch.cat(checks) if checks else None))
        remaining = (time.monotonic() - started) / number * (len(checkpoints) - number)
        logger.info(
            "checkpoint %d of %d (%s) done: about %.0f s left", number, len(checkpoints), checkpoint.name, remaining
        )
    return pool, targets


@contextmanager
def _blame_learning_rate(options: GtpOptions) -> Iterator[None]:
    """After a warm-up run the likeliest reason for gradients that are not finite comes first.

    Raises:
        NonFiniteGradientError: If they are not, at the checkpoints of a Trainer.
        ValueError: If they are not after a warm-up run.
    """
    try:
        yield
    except NonFiniteGradientError as error:
        if options.checkpoints is not None:
            raise
        raise ValueError(
            "`warmup_learning_rate` must leave gradients finite after the warm-up run, got "
            f"{options.warmup_learning_rate} and {error.finding}: lower it, {error.advice}."
        ) from error


def _record(plan: TrajectoryPlan, run: GradientRun, widths: list[int]) -> dict[str, Any]:
    """How the gradients were made."""
    options = run.options
    recipe = {name: getattr(options, name) for name in GRADIENT_FIELDS} | {"widths": widths}
    warm_up_recipe = {name: getattr(options, name) for name in WARMUP_FIELDS}
    return {
        "features": {"kind": "gradients", **recipe, **run.pool.recipe},
        "warm_up": warm_up_recipe if options.checkpoints is None else None,
        "target": [
            {
                "name": name,
                "rows": len(task.rows),
                "left_out": task.left_out,
                **task.recipe,
                "sha256": rows_digest(plan.tasks[name], task.recipe["columns"]),
            }
            for name, task in run.tasks.items()
        ],
        "rows": {"left_out": run.pool.left_out, "truncated": run.pool.truncated},
    }
