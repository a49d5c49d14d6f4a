"""How rows are scored and chosen."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from hf_gip.core.gip import gip
from hf_gip.core.queries import default_ridge, precision_from_scores
from hf_gip.selection import Selection

from .features import Family, RowVectors, TextVectors, read_rows
from .pool import Pool, token_counts
from .trainer_access import on_main


@dataclass
class Rotation:
    """Candidates of each round.

    Attributes:
        rows: Rows of the pool.
        allow_repeats: Whether a row may be chosen again before every other one was.
        sample: Candidates drawn at random for a round, None for all.
        seed: Of that draw; the epoch is mixed in. The global generators are never asked.
    """

    rows: int
    allow_repeats: bool
    sample: int | None
    seed: int

    def __post_init__(self) -> None:
        self.used = torch.zeros(self.rows, dtype=torch.bool)

    def candidates(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Rows to choose from first, and rows to fall back on when those are too few."""
        first = torch.nonzero(~self.used).flatten()
        second = torch.nonzero(self.used).flatten()
        return self._draw(first, epoch), self._draw(second, epoch)

    def mark(self, rows: Tensor) -> None:
        """Note the rows of a round; where it had to fall back, the count begins anew with the rows that came twice."""
        if self.allow_repeats:
            return
        again = rows[self.used[rows]]
        if len(again):
            self.used.zero_()
            rows = again
        self.used[rows] = True

    def shuffled(self) -> Tensor:
        """All rows in a random order of their own."""
        return torch.randperm(self.rows, generator=torch.Generator().manual_seed(self.seed))

    def _draw(self, rows: Tensor, epoch: int) -> Tensor:
        if self.sample is None or len(rows) <= self.sample:
            return rows
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return rows[torch.randperm(len(rows), generator=generator)[: self.sample]].sort().values


Select = Callable[[Tensor, Tensor | None, int], Selection]
LOSS = "loss"  # the score that is the model's own


@dataclass(frozen=True)
class Recipe:
    """What a selection goes by.

    Attributes:
        features: What the model says of a row.
        target: Prepared rows that say what is wanted; None covers the pool itself.
        scores: Columns of the pool, or `"loss"`, that say how far a row is to be trusted.
        objective: GIP's objective.
        noise: GIP's ridge; None takes it from the budget and the width.
        select: Takes GIP's place: (features, queries, k) → `Selection`.
        texts: The texts' vectors, for `"text"`.
    """

    features: Family | Literal["text"]
    target: Dataset | None
    scores: tuple[str, ...]
    objective: Literal["projection", "information"]
    noise: float | None
    select: Select | None
    texts: TextVectors

    def read(self, trainer: Trainer, pool: Pool, rows: Tensor) -> "Evidence":
        """Ask the model about `rows` of the pool and about the target. Every process takes part."""
        began = time.perf_counter()
        chosen = pool.rows.select(rows.tolist())
        if self.features == "text":
            found, queries = self._read_texts(trainer, pool, chosen, rows)
        else:
            found = read_rows(
                trainer, chosen, pool.lengths[rows], self.features, losses=LOSS in self.scores, name="the pool"
            )
            queries = None
            if self.target is not None:
                queries = read_rows(trainer, self.target, token_counts(self.target), self.features, name="the target")
        on_main(trainer.accelerator, lambda: _check_finite(found, queries))
        if found is not None:
            found, queries = self._alike(found, queries)
        precision = self._precision(chosen, found) if found is not None and self.scores else None
        return Evidence(self, trainer, rows, found, queries, precision, time.perf_counter() - began)

    def _read_texts(
        self, trainer: Trainer, pool: Pool, chosen: Dataset, rows: Tensor
    ) -> tuple[RowVectors | None, RowVectors | None]:
        """The texts' vectors on the main process; the model is asked for losses only."""
        losses = None
        if LOSS in self.scores:
            asked = read_rows(trainer, chosen, pool.lengths[rows], "hidden", losses=True, name="the pool")
            losses = None if asked is None else asked.losses
        if not trainer.accelerator.is_main_process:
            return None, None
        found = RowVectors(self.texts.of(trainer, pool.rows)[rows], losses)
        if self.target is None:
            return found, None
        return found, RowVectors(self.texts.of(trainer, self.target).clone(), None)

    def _alike(self, found: RowVectors, queries: RowVectors | None) -> tuple[RowVectors, RowVectors | None]:
        """Rows of length one; hidden states first lose what all rows of the pool share, their largest part."""
        middle = found.features.mean(dim=0) if self.features == "hidden" else torch.zeros(1)
        return _unit(found, middle), None if queries is None else _unit(queries, middle)

    def _precision(self, rows: Dataset, found: RowVectors) -> Tensor:
        columns = []
        for name in self.scores:
            values = found.losses if name == LOSS else [math.nan if score is None else score for score in rows[name]]
            columns.append(torch.as_tensor(values, dtype=torch.float64))
        return precision_from_scores(torch.stack(columns, dim=1))


@dataclass(frozen=True)
class Evidence:
    """What the model said, on the main process, and the picks that follow from it, on all."""

    recipe: Recipe
    trainer: Trainer
    rows: Tensor
    found: RowVectors | None
    queries: RowVectors | None
    precision: Tensor | None
    seconds: float

    def best(self, k: int) -> Selection:
        """The best `k` of the rows that were read, as positions in the pool, the same on every process."""
        picked: Selection = on_main(self.trainer.accelerator, lambda: self._solve(k))
        return picked

    def _solve(self, k: int) -> Selection:
        assert self.found is not None
        device = _room_for(self.found.features, self.trainer.accelerator.device)
        features = self.found.features.to(device)
        queries = None if self.queries is None else self.queries.features.to(device)
        if self.recipe.select is not None:
            picked = self.recipe.select(features, queries, k)
            _check(picked, k, len(features))
        else:
            noise = self.recipe.noise
            if noise is None:
                noise = default_ridge(k, features.shape[1], towards_target=queries is not None)
            precision = None if self.precision is None else self.precision.to(device)
            picked = gip(features, queries, k, objective=self.recipe.objective, noise=noise, precision=precision)
        return Selection(self.rows[picked.indices], picked.gains, picked.total, picked.weights, picked.record)


def _check_finite(found: RowVectors | None, queries: RowVectors | None) -> None:
    for name, read in (("pool", found), ("target", queries)):
        if read is None:
            continue
        sums = read.features.sum(dim=1) + (0 if read.losses is None else read.losses)  # n numbers, not n × d flags
        bad = int((~sums.isfinite()).sum())
        if bad:
            raise ValueError(
                f"The model in training must give finite numbers, got NaN or infinity in {bad} of {len(sums)} "
                f"row(s) of the {name}: lower the learning rate, or check the rows and the number format."
            )


def _unit(rows: RowVectors, middle: Tensor) -> RowVectors:
    features = rows.features.sub_(middle)
    return RowVectors(features.div_(features.norm(dim=1, keepdim=True).clamp(min=1e-12)), rows.losses)


def _room_for(features: Tensor, device: torch.device) -> torch.device:
    """The accelerator where the features take no more than half of what is free on it, else the CPU."""
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    return device if features.numel() * features.element_size() * 2 <= free else torch.device("cpu")


def _check(picked: Any, k: int, n: int) -> None:
    if not isinstance(picked, Selection):
        raise TypeError(f"`select` must return a `Selection`, got {type(picked).__name__}.")
    indices = picked.indices
    if len(indices) != k or len(indices.unique()) != k or int(indices.min()) < 0 or int(indices.max()) >= n:
        raise ValueError(
            f"`select` must return {k} different row(s) between 0 and {n - 1}, got {len(indices)} of which "
            f"{len(indices.unique())} differ."
        )
