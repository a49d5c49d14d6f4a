"""The stages behind `gradient_trajectories`: a warm-up run or a Trainer's checkpoints, then gradients at each."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, is_caching_enabled
from torch import Tensor, nn

from hf_gip.core.matrix import InMemoryMatrix, MatrixSource
from hf_gip.dataset.run_cache import cache_folder, cached_gradients, check_shared_cache
from hf_gip.dataset.trajectories import Trajectories
from hf_gip.distributed import rank_and_world, run_on_all
from hf_gip.features.checkpoints import Checkpoint, adapter_folder, at, trainer_checkpoints, warm_checkpoints
from hf_gip.features.files import FileRows
from hf_gip.features.gradients import context_length
from hf_gip.features.layers import find_layers
from hf_gip.features.pace import Told
from hf_gip.features.proxy import NamedModel, prepared
from hf_gip.features.reader import NOT_FINITE, GradientReader, GradientRecipe
from hf_gip.features.subspace import snapshot_basis
from hf_gip.features.tokenise import TokenRows, check_vocabulary, target_columns, tokenised
from hf_gip.features.warmup import WarmUpPlan, warm_up
from hf_gip.hashing import hash_json, hash_token_rows, rows_digest

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
        prepared(model, options["parameters"], options["seed"], adapter_folder(options["checkpoints"])) as ready,
    ):
        find_layers(ready, options["parameters"], hidden=False)  # refuses what none is called before rows are read
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
    rates = [point.rate for point in points]
    return Trajectories(list(features), run.pool.usable, targets or None, subtasks, rates, record)


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
    recipe = GradientRecipe(options["parameters"], options["dims"], None, True, options["seed"], length)
    return Run(pool, goals, recipe, options, scratch)


def _warm_up_request(request: dict[str, Any], run: Run) -> dict[str, Any]:
    """What the warm-up run depends on: not on how gradients are projected afterwards."""
    after = ("dims", "adam", "rates", "checkpoints")
    kept = {name: value for name, value in request.items() if name not in after}
    return kept | {"max_length": run.options["max_length"], "tokens": hash_token_rows(run.pool.rows)}


def _checkpoints(model: nn.Module, run: Run, key: str) -> list[Checkpoint]:
    """Stage 1: the Trainer's folders, or a warm-up run in the cache, which the first rank makes."""
    options = run.options
    if options["checkpoints"] is not None:
        logger.info("stage 1 of 3: %d checkpoints of a Trainer", len(options["checkpoints"]))
        return trainer_checkpoints(options["checkpoints"], model, options["rates"])
    along = options["subspace"] == "snapshots"
    plan = WarmUpPlan(options["share"], options["epochs"], options["learning_rate"], options["seed"], along)
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
        rate = run.options["learning_rate"]
        raise ValueError(
            f"`learning_rate` must leave gradients finite after the warm-up run, got {rate} and {found}"
        ) from error


def _gradients(model: nn.Module, points: Sequence[Checkpoint], run: Run) -> tuple[list[FileRows], list[Tensor]]:
    """Stage 2: the pool's and the target's gradients at every checkpoint."""
    logger.info("stage 2 of 3: gradients of %d rows at %d checkpoints", len(run.pool.usable), len(points))
    features, targets, began, said = [], [], time.monotonic(), False
    for number, point in enumerate(points, start=1):
        with at(model, point.weights()):
            basis = None
            if run.options["subspace"] == "snapshots":
                basis = snapshot_basis(point.snapshots(GradientReader(model, run.recipe).layers), run.options["dims"])
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
    names = ("parameters", "subspace", "adam", "dims", "seed")
    kept = {name: run.options[name] for name in names} | {"widths": [each.d for each in features]}
    warm_up = {name: run.options[name] for name in ("share", "epochs", "learning_rate")}
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
