"""A round of selection: candidates, evidence, picks that fit, and the view that serves them."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import Trainer

from hf_gip.core.validation import brief, check_k
from hf_gip.selection import Selection

from .pool import Pool
from .rounds import Round
from .scoring import Recipe, Rotation
from .trainer_access import packing_of, served_columns
from .view import PackedView, SelectionView


def make_view(trainer: Trainer, pool: Pool, k: int) -> SelectionView | PackedView:
    """The view of `k` rows, or of `k` packs where the trainer packs.

    Raises:
        ValueError: If the pool has fewer.
    """
    rows = served_columns(trainer, pool.rows)
    packing = packing_of(trainer)
    if packing is None:
        check_k(k, len(pool))
        return SelectionView(rows, k)
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"`k` must be a whole number of packs, at least 1, got {brief(k)}.")
    view = PackedView(rows.select_columns(["input_ids", "labels"]), pool.lengths, k, packing)
    if view.fit(torch.arange(len(pool))) is None:
        raise ValueError(f"`k` must be a number of packs that the pool fills, got {k}: lower it or `max_length`.")
    return view


@dataclass(frozen=True)
class Reselector:
    """Chooses the rows of a round and shows them.

    Raises:
        ValueError: If the warm-up or the sample of candidates is smaller than a round.
    """

    trainer: Trainer
    pool: Pool
    view: SelectionView | PackedView
    recipe: Recipe
    rotation: Rotation
    initial_selection: Selection | None

    def __post_init__(self) -> None:
        order = self._before()
        if self.view.fit(order.indices) is None:
            raise ValueError(
                f"`initial_selection` must hold enough rows for `k={len(self.view)}`, got {len(order)}: select as "
                "many as an "
                "epoch has."
            )
        sample = self.rotation.sample
        if sample is not None and isinstance(self.view, SelectionView) and sample < len(self.view):
            raise ValueError(f"`num_candidates` must be at least `k={len(self.view)}`, got {sample}: raise it.")

    def first(self, epoch: int, step: int) -> Round:
        """The rows before the first selection: the warm-up given, else random ones."""
        order = self._before()
        places = self.view.fit(order.indices)
        assert places is not None
        return self._show(order, places, epoch, step, {"features": 0.0, "select": 0.0})

    def again(self, epoch: int, step: int) -> Round:
        """A new selection by the model as it is now. Every process takes part and gets the same.

        Raises:
            ValueError: If the candidates are too few.
        """
        began = time.perf_counter()
        first, second = self.rotation.candidates(epoch)
        picked, places, reading = self._rank(first)
        if places is None:
            extra, _, more = self._rank(second)
            picked, reading = _join(picked, extra), reading + more
            places = self.view.fit(picked.indices)
        if places is None:
            raise ValueError(
                f"`num_candidates` must leave enough candidates for `k={len(self.view)}`, got {self.rotation.sample}: "
                "raise it."
            )
        seconds = {"features": reading, "select": time.perf_counter() - began - reading}
        return self._show(picked, places, epoch, step, seconds)

    def show(self, chosen: Round) -> None:
        """Serve a round again, as it was."""
        self.view.show(chosen.rows)

    def _before(self) -> Selection:
        if self.initial_selection is None:
            gains = torch.full((len(self.pool),), torch.nan, dtype=torch.float64)
            record = {"method": "random", "parameters": {"seed": self.rotation.seed}}
            return Selection(self.rotation.shuffled(), gains, record=record)
        rows, known = self.pool.find(self.initial_selection.indices)
        weights = None if self.initial_selection.weights is None else self.initial_selection.weights[known]
        curves = {name: curve[known] for name, curve in self.initial_selection.curves.items()}
        return replace(
            self.initial_selection,
            indices=rows,
            gains=self.initial_selection.gains[known],
            weights=weights,
            curves=curves,
        )

    def _rank(self, rows: Tensor) -> tuple[Selection, Tensor | None, float]:
        """Order `rows` until enough fit the view: the selection, the places of those that do, seconds of reading."""
        evidence = self.recipe.read(self.trainer, self.pool, rows)
        want = min(self.view.wanted(rows), len(rows))
        while True:
            picked = evidence.best(want)
            places = self.view.fit(picked.indices)
            if places is not None or want == len(rows):
                return picked, places, evidence.seconds
            want = min(2 * want, len(rows))

    def _show(self, order: Selection, places: Tensor, epoch: int, step: int, seconds: dict[str, float]) -> Round:
        rows, gains = order.indices[places], order.gains[places]
        self.rotation.mark(rows)
        self.view.show(rows)
        captured = float(gains.sum()) / order.total if order.total else None
        weights = None if order.weights is None else order.weights[places]
        return Round(epoch, step, rows, gains, weights, captured, order.record, seconds)


def _join(first: Selection, second: Selection) -> Selection:
    """One ranking after another; shares of two totals do not add up, so there is none."""
    both = first.weights is not None and second.weights is not None
    weights = torch.cat([first.weights, second.weights]) if both else None  # type: ignore[list-item]
    return Selection(
        torch.cat([first.indices, second.indices]),
        torch.cat([first.gains, second.gains]),
        weights=weights,
        record=second.record or first.record,
    )
