"""Gradients of the pool and of a target along a training run."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from datasets import Dataset, is_caching_enabled
from torch import Tensor, nn

from hf_gip.core.matrix import InMemoryMatrix, MatrixSource
from hf_gip.dataset.cache import cache_folder, cached_gradients, check_shared_cache
from hf_gip.dataset.select import check_dataset
from hf_gip.distributed import rank_and_world, run_on_all
from hf_gip.features.gradients import context_length
from hf_gip.features.matrix_files import FileRows
from hf_gip.features.per_example_gradients import NOT_FINITE, GradientReader, GradientRecipe, find_layers
from hf_gip.features.progress import Told
from hf_gip.features.proxy import NamedModel, prepared
from hf_gip.features.snapshot_pca import snapshot_basis
from hf_gip.features.tokenization import TokenRows, check_vocabulary, target_columns, tokenised
from hf_gip.features.trainer_checkpoints import Checkpoint, adapter_folder, at, trainer_checkpoints, warm_checkpoints
from hf_gip.features.warmup import WarmUpPlan, warm_up
from hf_gip.hashing import hash_json, hash_token_rows, rows_digest

Target = Dataset | Sequence[str] | Mapping[str, Dataset]


@dataclass(frozen=True, slots=True)
class Trajectories:
    """Gradients at every checkpoint of a run, the pool's on disk where caching is on, the target's in memory.

    Attributes:
        features: The pool's gradients, one matrix per checkpoint, (m, d) each.
        rows: Positions of their rows in the pool, ascending, (m,): those with a labelled token.
        targets: The target's, (t, d) per checkpoint; None without a target.
        subtasks: Number of the subtask of each target row, (t,); empty without a target.
        learning_rates: The learning rate of each checkpoint.
        record: How they were made, as plain JSON.
    """

    features: "list[MatrixSource]"
    rows: "Tensor"
    targets: "list[Tensor] | None"
    subtasks: list[int]
    learning_rates: list[float]
    record: dict[str, Any]

    def goals(self) -> "list[Tensor] | None":
        """The mean gradient of every subtask's rows, (subtasks, d) per checkpoint: what `hf_gip.gtp` matches."""
        import torch

        if self.targets is None:
            return None
        groups = torch.tensor(self.subtasks)
        return [
            torch.stack([target[groups == group].double().mean(0) for group in groups.unique()])
            for target in self.targets
        ]


def gradient_trajectories(
    dataset: Dataset,
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
    adam: bool = True,
    warmup_fraction: float = 0.05,
    warmup_epochs: int = 4,
    warmup_learning_rate: float = 2e-5,
    max_length: int = 2048,
    batch_size: int = 8,
    seed: int = 0,
    device: str | None = None,
) -> Trajectories:
    """Take the gradient of every row of a pool, and of a target, at every checkpoint of a run, as LESS does.

    Without `checkpoints` a warm-up run makes them: `warmup_epochs` passes over a random `warmup_fraction` of the
    pool, a checkpoint after each ([LESS](https://huggingface.co/papers/2402.04333); ours trains rank-16 LoRA layers
    on every linear layer unless the model brings its own, and without dropout, so that it can be repeated).
    Gradients of the pool's rows are those seen through Adam's moments, Γ = m′/√(v′+ε), those of the target plain;
    all are divided by their length, so that no row counts more for being short. Everything is kept in the datasets
    cache: the run and its gradients serve every later call, and a killed call goes on where it was.

    Costs one training step of the model per row and checkpoint, and m · `projection_dim` numbers on disk per
    checkpoint.

    Args:
        dataset: The pool: rows of text, or tokenised ones with `input_ids` and, where not every token counts,
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
    options: dict[str, Any] = {name: value for name, value in locals().items() if name != "dataset"}
    check_dataset(dataset, 1)
    from hf_gip.dataset.inputs import plain_options

    return plan_trajectories(dataset, plain_options(options)).gather(1)


@dataclass(frozen=True, slots=True)
class Plan:
    """A call whose arguments were checked; nothing long has run.

    Attributes:
        request: Plain JSON that changes when the gradients would.
        gather: Do it, if at least as many rows as told have a label.
    """

    request: dict[str, Any]
    gather: Callable[[int], Trajectories]


def plan_trajectories(dataset: Dataset, options: dict[str, Any]) -> Plan:
    """Check the arguments of `gradient_trajectories`, and name the model, the target and the checkpoints.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of its range.
    """
    from hf_gip.core.validation import check_device
    from hf_gip.features.proxy import name_model
    from hf_gip.features.tokenization import columns_read, target_columns
    from hf_gip.features.trainer_checkpoints import check_folders
    from hf_gip.hashing import hash_folder, hash_rows

    _check_options(options)
    read = columns_read(dataset, options["columns"])  # refuses wrong ones before a model is opened
    tasks = tasks_of(options["target"])
    goals = [columns_read(rows, target_columns(rows, options["columns"])) for _, rows in tasks]
    folders = options["checkpoints"]
    if folders is not None:
        wanted = {name: options[name] for name in ("model", "target_modules", "adam")}
        check_folders(folders, options["learning_rates"], snapshots=options["subspace"] == "snapshots", **wanted)
        if (
            options["learning_rates"] is not None
        ):  # of any sequence, an array among them, the plain numbers that a record takes
            options = options | {"learning_rates": [float(rate) for rate in options["learning_rates"]]}
    named = name_model(options["model"], options["tokenizer"], device=check_device(options["device"]))
    apart = ("model", "tokenizer", "target", "checkpoints", "device", "batch_size")
    request = {name: value for name, value in options.items() if name not in apart} | {
        "proxy": named.identity,
        "checkpoints": None if folders is None else [hash_folder(Path(folder)) for folder in folders],
    }
    whole = request | {
        "rows": hash_rows(dataset, read),
        "target": [[name, hash_rows(rows, goal)] for (name, rows), goal in zip(tasks, goals, strict=True)],
    }
    return Plan(whole, lambda least: gather(dataset, named, tasks, options, request, least))


def tasks_of(target: Any) -> list[tuple[str, Dataset]]:
    """The subtasks by name; one for a single dataset, none without a target.

    Raises:
        TypeError: If the target is of another kind.
        ValueError: If it is empty.
    """
    from hf_gip.dataset.inputs import plain_value
    from hf_gip.features.text import check_no_transform

    target = plain_value(target)
    if target is None:
        return []
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
    return list(tasks.items())


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise unless every option is in its range.

    Raises:
        ValueError: Naming the option, the value found and the range.
    """
    from hf_gip.core.validation import brief, check_bool, check_int, check_seed, is_number
    from hf_gip.features.per_example_gradients import check_target_modules

    check_target_modules(options["target_modules"], hidden=False)
    if options["target_modules"] == "hidden":
        raise ValueError('`target_modules="hidden"` are no weights to train: name layers, or leave it out for LoRA.')
    if not isinstance(options["subspace"], str) or options["subspace"] not in ("random", "snapshots"):
        raise ValueError(f'`subspace` must be "random" or "snapshots", got {brief(options["subspace"])}.')
    for name in ("warmup_epochs", "max_length", "batch_size", "projection_dim"):
        check_int(name, options[name], optional=name == "projection_dim")
    check_seed(options["seed"])
    check_bool("adam", options["adam"])
    warmup_fraction, rate = options["warmup_fraction"], options["warmup_learning_rate"]
    if not is_number(warmup_fraction) or not 0 < warmup_fraction <= 1:
        raise ValueError(f"`warmup_fraction` must be a part of the pool in (0, 1], got {brief(warmup_fraction)}.")
    if not is_number(rate) or rate <= 0:
        raise ValueError(f"`warmup_learning_rate` must be a positive number, got {brief(rate)}.")
    if options["learning_rates"] is not None and options["checkpoints"] is None:
        raise ValueError("`learning_rates` belong to `checkpoints`, got none: the warm-up run knows its own.")


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Run:
    """What every stage needs.

    Attributes:
        pool: The pool's tokens.
        goals: Those of the target's subtasks, by name.
        recipe: Which gradients, how projected.
        options: The caller's.
        scratch: Where things go while caching is off.
    """

    pool: TokenRows
    goals: dict[str, TokenRows]
    recipe: GradientRecipe
    options: dict[str, Any]
    scratch: Path

    def named_goals(self) -> list[tuple[str, TokenRows]]:
        """The target's subtasks, each with its name for progress."""
        named = [f"target {name!r}" for name in self.goals] if len(self.goals) > 1 else ["the target"]
        return list(zip(named, self.goals.values(), strict=False))


def gather(
    dataset: Dataset,
    named: NamedModel,
    tasks: Sequence[tuple[str, Dataset]],
    options: dict[str, Any],
    request: dict[str, Any],
    least: int,
) -> Trajectories:
    """Both stages, or what of them the cache does not hold; several ranks share the second one out.

    Args:
        dataset: The pool.
        named: The model.
        tasks: The target's subtasks.
        options: Arguments of `gradient_trajectories`.
        request: What the warm-up run depends on besides the pool, and the digests of checkpoints that were given.
        least: How many rows with a label are needed.
    """
    started = time.perf_counter()
    check_shared_cache()
    model, tokenizer = named.load()
    options = options | {"max_length": min(options["max_length"], context_length(model))}
    with (
        TemporaryDirectory() as scratch,
        prepared(model, options["target_modules"], options["seed"], adapter_folder(options["checkpoints"])) as ready,
    ):
        find_layers(ready, options["target_modules"], hidden=False)  # refuses what none is called before rows are read
        run = _prepare(dataset, tasks, tokenizer, options, least, Path(scratch))
        for tokens in (run.pool, *run.goals.values()):
            check_vocabulary(tokens.rows, ready)
        points = _checkpoints(ready, run, hash_json(_warm_up_request(request, run)))
        begun = time.perf_counter()
        stored, targets = _finite_gradients(ready, points, run)
        features = stored if is_caching_enabled() else [InMemoryMatrix(each.load()) for each in stored]
    record = {
        "proxy": named.identity,
        "checkpoints": [
            {"name": point.name, "rate": point.rate} | ({} if digest is None else {"sha256": digest})
            for point, digest in zip_longest(points, request["checkpoints"] or ())
        ],
        **_record(run, features, tasks),
        "timings": {"checkpoints_seconds": begun - started, "gradients_seconds": time.perf_counter() - begun},
    }
    subtasks = [number for number, goal in enumerate(run.goals.values()) for _ in range(len(goal.usable))]
    learning_rates = [point.rate for point in points]
    return Trajectories(list(features), run.pool.usable, targets or None, subtasks, learning_rates, record)


def _prepare(
    dataset: Dataset,
    tasks: Sequence[tuple[str, Dataset]],
    tokenizer: Any,
    options: dict[str, Any],
    least: int,
    scratch: Path,
) -> Run:
    """Tokens of the pool and the target.

    Raises:
        ValueError: If too few rows have a labelled token.
    """
    length, columns = options["max_length"], options["columns"]
    pool = tokenised(dataset, tokenizer, columns, length)
    if least > len(pool.usable):
        raise ValueError(
            f"`k` must be at most the number of rows with a labelled token ({len(pool.usable)} of {len(dataset)}), "
            f"got {least}."
        )
    goals = {}
    for name, rows in tasks:
        goals[name] = tokenised(rows, tokenizer, target_columns(rows, columns), length)
        if not len(goals[name].usable):
            raise ValueError(f"`target` must hold rows with a labelled token, got none of {len(rows)} in {name!r}.")
    recipe = GradientRecipe(options["target_modules"], options["projection_dim"], None, True, options["seed"], length)
    return Run(pool, goals, recipe, options, scratch)


def _warm_up_request(request: dict[str, Any], run: Run) -> dict[str, Any]:
    """What the warm-up run depends on: not on how gradients are projected afterwards."""
    after = ("projection_dim", "adam", "learning_rates", "checkpoints")
    kept = {name: value for name, value in request.items() if name not in after}
    return kept | {"max_length": run.options["max_length"], "tokens": hash_token_rows(run.pool.rows)}


def _checkpoints(model: nn.Module, run: Run, key: str) -> list[Checkpoint]:
    """Stage 1: the Trainer's folders, or a warm-up run in the cache, which the first rank makes."""
    options = run.options
    if options["checkpoints"] is not None:
        logger.info("stage 1 of 3: %d checkpoints of a Trainer", len(options["checkpoints"]))
        return trainer_checkpoints(options["checkpoints"], model, options["learning_rates"])
    along = options["subspace"] == "snapshots"
    plan = WarmUpPlan(
        options["warmup_fraction"], options["warmup_epochs"], options["warmup_learning_rate"], options["seed"], along
    )
    steps = len(plan.orders(run.pool.usable)[0])
    logger.info("stage 1 of 3: a warm-up run of %d epochs of %d steps", plan.epochs, steps)
    folder = cache_folder("warmups", key) or run.scratch / key

    def first_rank_runs() -> None:
        if rank_and_world()[0] == 0:
            reader = GradientReader(model, run.recipe)
            length, batch_size = options["max_length"], options["batch_size"]
            warm_up(folder, reader, run.pool.rows, run.pool.usable, plan, max_length=length, batch_size=batch_size)

    run_on_all(first_rank_runs)
    return warm_checkpoints(folder, plan, steps)


def _finite_gradients(model: nn.Module, points: Sequence[Checkpoint], run: Run) -> tuple[list[FileRows], list[Tensor]]:
    """Stage 2, and after a warm-up run the likeliest reason first where gradients are not finite.

    Raises:
        ValueError: If they are not.
    """
    try:
        return _gradients(model, points, run)
    except ValueError as error:  # told by its words: on other ranks it has no other kind
        told = str(error)
        if run.options["checkpoints"] is not None or not told.startswith(NOT_FINITE):
            raise
        found = told.removeprefix(NOT_FINITE).replace(": ", ": lower it, ", 1)
        rate = run.options["warmup_learning_rate"]
        raise ValueError(
            f"`warmup_learning_rate` must leave gradients finite after the warm-up run, got {rate} and {found}"
        ) from error


def _gradients(model: nn.Module, points: Sequence[Checkpoint], run: Run) -> tuple[list[FileRows], list[Tensor]]:
    """Stage 2: the pool's and the target's gradients at every checkpoint."""
    logger.info("stage 2 of 3: gradients of %d rows at %d checkpoints", len(run.pool.usable), len(points))
    features, targets, began, said = [], [], time.monotonic(), False
    for number, point in enumerate(points, start=1):
        with at(model, point.weights()):
            basis = None
            if run.options["subspace"] == "snapshots":
                basis = snapshot_basis(
                    point.snapshots(GradientReader(model, run.recipe).layers), run.options["projection_dim"]
                )
            place = run.recipe, run.options["batch_size"], run.scratch
            scaling = point.moments() if run.options["adam"] else None
            where = f"checkpoint {number} of {len(points)}"
            told = Told(f"Gradients of the pool, {where}", 0 if said else len(points) - number + 1)
            store = cached_gradients(model, run.pool.rows, *place, scaling=scaling, basis=basis, told=told)
            said = said or store.made > 0  # the estimate is for all checkpoints
            features.append(store.features)
            goals = [
                cached_gradients(model, goal.rows, *place, basis=basis, told=Told(f"Gradients of {name}, {where}", 0))
                for name, goal in run.named_goals()
            ]
            if goals:
                targets.append(torch.cat([goal.features.load() for goal in goals]))
        left = (time.monotonic() - began) / number * (len(points) - number)
        logger.info("checkpoint %d of %d (%s) done: about %.0f s left", number, len(points), point.name, left)
    return features, targets


def _record(run: Run, features: Sequence[MatrixSource], tasks: Sequence[tuple[str, Dataset]]) -> dict[str, Any]:
    """How the gradients were made."""
    names = ("target_modules", "subspace", "adam", "projection_dim", "seed")
    kept = {name: run.options[name] for name in names} | {"widths": [each.d for each in features]}
    warm_up = {name: run.options[name] for name in ("warmup_fraction", "warmup_epochs", "warmup_learning_rate")}
    return {
        "features": {"kind": "gradients", **kept, **run.pool.recipe},
        "warm_up": warm_up if run.options["checkpoints"] is None else None,
        "target": [
            {
                "name": name,
                "rows": len(goal.rows),
                "left_out": goal.left_out,
                **goal.recipe,
                "sha256": rows_digest(rows, goal.recipe["columns"]),
            }
            for (name, rows), goal in zip(tasks, run.goals.values(), strict=True)
        ],
        "rows": {"left_out": run.pool.left_out, "truncated": run.pool.truncated},
    }
