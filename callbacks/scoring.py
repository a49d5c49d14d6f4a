"""A round of selection: candidates, the model's features of them, picks that fit, and the view that serves these."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer

from hf_gip.core.gip import gip
from hf_gip.core.queries import default_ridge, precision_from_scores
from hf_gip.distributed import run_on_main, world_group
from hf_gip.hashing import hash_rows
from hf_gip.selection import Selection

from .features import FeatureKind, RowFeatures, TextEmbeddings, compute_features, gradient_projection
from .pool import Pool, token_counts
from .rounds import Round
from .trainer_access import packing_of
from .view import PackedView, SelectionView

Select = Callable[[Tensor, Tensor | None, int], Selection]
LOSS = "loss"  # the score that is the model's own loss


@dataclass(frozen=True)
class ScoringConfig:
    """How a selection is made.

    Attributes:
        features: What the model says of a row.
        target: Prepared rows that show what is wanted; None covers the pool itself.
        scores: Columns of the pool, or `"loss"`, that say how far a row is trusted.
        objective: GIP's objective.
        noise: GIP's ridge; None takes it from the budget and the width.
        select: Takes GIP's place: (features, queries, k) → `Selection`.
        texts: The texts' embeddings, for `features="text"`.
    """

    features: FeatureKind | Literal["text"]
    target: Dataset | None
    scores: tuple[str, ...]
    objective: Literal["projection", "information"]
    noise: float | None
    select: Select | None
    texts: TextEmbeddings

    def to_json(self, trainer: Trainer) -> dict[str, Any]:
        """The options as plain JSON values, for the record of the run."""
        packing = packing_of(trainer)
        projection = None if self.features == "text" else gradient_projection(self.features, trainer.args.seed)
        columns = [] if self.target is None else {"input_ids", "labels"} & set(self.target.column_names)
        return {
            "features": self.features,
            "projected_to": None if projection is None else projection.projection_dim,
            "target_sha256": None if self.target is None else hash_rows(self.target, sorted(columns)),
            "scores": list(self.scores),
            "objective": self.objective,
            "noise": self.noise,
            "own_select": self.select is not None,
            "packing": None if packing is None else packing.strategy,
            "seed": trainer.args.seed,
        }


class CandidateSampler:
    """Draws the candidates of each round.

    Args:
        num_rows: Rows of the pool.
        allow_repeats: Whether a row may be chosen again before every other one was.
        num_candidates: Candidates drawn at random for a round, None for all.
        seed: Seed of that draw, mixed with the epoch. The global generators are not used.

    Attributes:
        used: Which rows were chosen since counting began, (num_rows,).
    """

    def __init__(self, num_rows: int, allow_repeats: bool, num_candidates: int | None, seed: int) -> None:
        self.allow_repeats, self.num_candidates, self.seed = allow_repeats, num_candidates, seed
        self.used = torch.zeros(num_rows, dtype=torch.bool)

    def draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Unused rows, and used ones to fall back on if those are too few."""
        unused, used = torch.nonzero(~self.used).flatten(), torch.nonzero(self.used).flatten()
        return self._draw_from(unused, epoch), self._draw_from(used, epoch)

    def _draw_from(self, rows: Tensor, epoch: int) -> Tensor:
        if self.num_candidates is None or len(rows) <= self.num_candidates:
            return rows
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return rows[torch.randperm(len(rows), generator=generator)[: self.num_candidates]].sort().values

    def mark_used(self, rows: Tensor) -> None:
        """Count the rows of a round; if some were used before, counting begins anew with these."""
        if self.allow_repeats:
            return
        repeats = rows[self.used[rows]]
        if len(repeats):
            self.used.zero_()
            rows = repeats
        self.used[rows] = True

    def random_order(self) -> Tensor:
        """All rows, shuffled."""
        return torch.randperm(len(self.used), generator=torch.Generator().manual_seed(self.seed))


@dataclass(frozen=True)
class Reselector:
    """Chooses the rows of a round and serves them through the view.

    Raises:
        ValueError: If the initial selection or the candidates are fewer than a round needs.
    """

    trainer: Trainer
    pool: Pool
    view: SelectionView | PackedView
    config: ScoringConfig
    sampler: CandidateSampler
    initial_selection: Selection | None

    def __post_init__(self) -> None:
        ranking = self._initial_ranking()
        if self.view.fit(ranking.indices) is None:
            raise ValueError(
                f"`initial_selection` must hold enough rows for `k={len(self.view)}`, got {len(ranking)}: select as "
                "many as an epoch has."
            )
        count = self.sampler.num_candidates
        if count is not None and isinstance(self.view, SelectionView) and count < len(self.view):
            raise ValueError(f"`num_candidates` must be at least `k={len(self.view)}`, got {count}: raise it.")

    def initial(self, epoch: int, step: int) -> Round:
        """The rows before the first selection: the initial selection, else random ones."""
        ranking = self._initial_ranking()
        fitting = self.view.fit(ranking.indices)
        assert fitting is not None
        return self._serve(ranking, fitting, epoch, step, {"features": 0.0, "select": 0.0})

    def reselect(self, epoch: int, step: int) -> Round:
        """A new selection by the model as it is now. Every process takes part and gets the same.

        Raises:
            ValueError: If the candidates are too few.
        """
        start = time.perf_counter()
        unused, used = self.sampler.draw(epoch)
        ranking, fitting, feature_seconds = self._rank(unused)
        if fitting is None:
            repeats, _, seconds = self._rank(used)
            ranking, feature_seconds = _concatenate(ranking, repeats), feature_seconds + seconds
            fitting = self.view.fit(ranking.indices)
        if fitting is None:
            raise ValueError(
                f"`num_candidates` must leave enough candidates for `k={len(self.view)}`, got "
                f"{self.sampler.num_candidates}: raise it."
            )
        seconds = {"features": feature_seconds, "select": time.perf_counter() - start - feature_seconds}
        return self._serve(ranking, fitting, epoch, step, seconds)

    def _initial_ranking(self) -> Selection:
        initial = self.initial_selection
        if initial is None:
            gains = torch.full((len(self.pool),), torch.nan, dtype=torch.float64)
            record = {"method": "random", "parameters": {"seed": self.sampler.seed}}
            return Selection(self.sampler.random_order(), gains, record=record)
        rows, in_pool = self.pool.locate(initial.indices)
        weights = None if initial.weights is None else initial.weights[in_pool]
        curves = {name: curve[in_pool] for name, curve in initial.curves.items()}
        return replace(initial, indices=rows, gains=initial.gains[in_pool], weights=weights, curves=curves)

    def _rank(self, rows: Tensor) -> tuple[Selection, Tensor | None, float]:
        """Rank `rows` until enough fit the view: the ranking, which of it fit, and the seconds of the model's pass."""
        scored = score_pool(self.config, self.trainer, self.pool, rows)
        k = min(self.view.ranking_length(rows), len(rows))
        while True:
            ranking = scored.select(k)
            fitting = self.view.fit(ranking.indices)
            if fitting is not None or k == len(rows):
                return ranking, fitting, scored.seconds
            k = min(2 * k, len(rows))

    def _serve(self, ranking: Selection, fitting: Tensor, epoch: int, step: int, seconds: dict[str, float]) -> Round:
        rows, gains = ranking.indices[fitting], ranking.gains[fitting]
        self.sampler.mark_used(rows)
        self.view.show(rows)
        captured = float(gains.sum()) / ranking.total if ranking.total else None
        weights = None if ranking.weights is None else ranking.weights[fitting]
        return Round(epoch, step, rows, gains, weights, captured, ranking.record, seconds)


def _concatenate(first: Selection, second: Selection) -> Selection:
    """One ranking after another, without a total: shares of two totals do not add up."""
    weights = None
    if first.weights is not None and second.weights is not None:
        weights = torch.cat([first.weights, second.weights])
    return Selection(
        torch.cat([first.indices, second.indices]),
        torch.cat([first.gains, second.gains]),
        weights=weights,
        record=second.record or first.record,
    )


# --- Scoring: from rows to features, queries and precision -----------------------------------------------------------


@dataclass(frozen=True)
class ScoredRows:
    """Candidates with their features, on the main process; their selection, on all.

    Attributes:
        config: How to select.
        device: Where to select, if there is room for the features.
        rows: The candidates, as positions in the pool, (n,).
        features: Their features, None on other processes than the main one.
        queries: The target's features, None without a target.
        precision: How far each candidate is trusted, (n,), None without scores.
        seconds: Time that scoring took.
    """

    config: ScoringConfig
    device: torch.device
    rows: Tensor
    features: RowFeatures | None
    queries: RowFeatures | None
    precision: Tensor | None
    seconds: float

    def select(self, k: int) -> Selection:
        """The best `k` rows, as positions in the pool, the same on every process."""
        return run_on_main(lambda: self._select(k), world_group())

    def _select(self, k: int) -> Selection:
        assert self.features is not None
        device = _device_with_room(self.features.features, self.device)
        features = self.features.features.to(device)
        queries = None if self.queries is None else self.queries.features.to(device)
        config = self.config
        if config.select is not None:
            selection = config.select(features, queries, k)
            _check_selection(selection, k, len(features))
        else:
            noise = config.noise
            if noise is None:
                noise = default_ridge(k, features.shape[1], towards_target=queries is not None)
            precision = None if self.precision is None else self.precision.to(device)
            selection = gip(features, queries, k, objective=config.objective, noise=noise, precision=precision)
        return Selection(
            self.rows[selection.indices], selection.gains, selection.total, selection.weights, selection.record
        )


def score_pool(config: ScoringConfig, trainer: Trainer, pool: Pool, rows: Tensor) -> ScoredRows:
    """Compute features of `rows` of the pool and of the target. Every process takes part.

    Raises:
        ValueError: If the model gives NaN or infinity.
    """
    start = time.perf_counter()
    candidates = pool.rows.select(rows.tolist())
    if config.features == "text":
        features, queries = _embed_texts(config, trainer, pool, candidates, rows)
    else:
        with_losses = LOSS in config.scores
        features = compute_features(
            trainer, candidates, pool.lengths[rows], config.features, with_losses=with_losses, name="the pool"
        )
        queries = None
        if config.target is not None:
            lengths = token_counts(config.target)
            queries = compute_features(trainer, config.target, lengths, config.features, name="the target")
    run_on_main(lambda: _check_finite(features, queries), world_group())
    precision = None
    if features is not None:
        _normalize(config, features, queries)
        precision = _precision(config.scores, candidates, features) if config.scores else None
    seconds = time.perf_counter() - start
    return ScoredRows(config, trainer.accelerator.device, rows, features, queries, precision, seconds)


def _embed_texts(
    config: ScoringConfig, trainer: Trainer, pool: Pool, candidates: Dataset, rows: Tensor
) -> tuple[RowFeatures | None, RowFeatures | None]:
    """The texts' embeddings on the main process; the model runs for losses only."""
    losses = None
    if LOSS in config.scores:
        hidden = compute_features(trainer, candidates, pool.lengths[rows], "hidden", with_losses=True, name="the pool")
        losses = None if hidden is None else hidden.losses
    if not trainer.accelerator.is_main_process:
        return None, None
    features = RowFeatures(config.texts.embed(trainer, pool.rows)[rows], losses)
    if config.target is None:
        return features, None
    return features, RowFeatures(config.texts.embed(trainer, config.target).clone(), None)


def _check_finite(features: RowFeatures | None, queries: RowFeatures | None) -> None:
    for name, read in (("pool", features), ("target", queries)):
        if read is None:
            continue
        sums = read.features.sum(dim=1) + (0 if read.losses is None else read.losses)  # n numbers, not n × d flags
        invalid = int((~sums.isfinite()).sum())
        if invalid:
            raise ValueError(
                f"The model in training must give finite numbers, got NaN or infinity in {invalid} of {len(sums)} "
                f"row(s) of the {name}: lower the learning rate, or check the rows and the number format."
            )


def _normalize(config: ScoringConfig, features: RowFeatures, queries: RowFeatures | None) -> None:
    """Scale rows to length one, in place; hidden states first lose the pool's mean, their largest part."""
    mean = features.features.mean(dim=0) if config.features == "hidden" else torch.zeros(1)
    for matrix in [features.features] + ([] if queries is None else [queries.features]):
        matrix.sub_(mean)
        matrix.div_(matrix.norm(dim=1, keepdim=True).clamp(min=1e-12))


def _precision(scores: tuple[str, ...], rows: Dataset, features: RowFeatures) -> Tensor:
    columns = []
    for name in scores:
        values = features.losses if name == LOSS else [math.nan if score is None else score for score in rows[name]]
        columns.append(torch.as_tensor(values, dtype=torch.float64))
    return precision_from_scores(torch.stack(columns, dim=1))


def _device_with_room(features: Tensor, device: torch.device) -> torch.device:
    """The accelerator if the features take no more than half of its free memory, else the CPU."""
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    return device if features.numel() * features.element_size() * 2 <= free else torch.device("cpu")


def _check_selection(selection: Any, k: int, n: int) -> None:
    if not isinstance(selection, Selection):
        raise TypeError(f"`select` must return a `Selection`, got {type(selection).__name__}.")
    indices = selection.indices
    if len(indices) != k or len(indices.unique()) != k or int(indices.min()) < 0 or int(indices.max()) >= n:
        raise ValueError(
            f"`select` must return {k} different row(s) between 0 and {n - 1}, got {len(indices)} of which "
            f"{len(indices.unique())} differ."
        )
