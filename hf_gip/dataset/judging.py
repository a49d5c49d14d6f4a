"""The figures by which `compare` judges subsets, and their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import t
from torch import Tensor

from hf_gip.core.metrics import captured_share, coverage, vendi
from hf_gip.dataset.baselines import baselines
from hf_gip.dataset.signals import gather_signals
from hf_gip.features.text import iter_texts, text_recipe


@dataclass(frozen=True, slots=True)
class Judge:
    """What every subset is measured with.

    Attributes:
        matrix: The pool's vectors, (n, d).
        target: The target's, (m, d), or None for the pool itself.
        noise: Ridge of `captured`.
        scores: Score column → one value per row.
        lengths: Characters of each row's text, (n,), or None where the rows are vectors.
    """

    matrix: Tensor
    target: Tensor | None
    noise: float
    scores: Mapping[str, Tensor]
    lengths: Tensor | None

    @classmethod
    def of(cls, pool: Dataset, options: dict[str, Any]) -> "Judge":
        """Read what the options name; vectors and texts come through the datasets cache."""
        signals = gather_signals(pool, options)
        features = signals.features()
        queries = signals.queries(features)
        lengths = _lengths(pool, options)
        columns = {} if signals.scores is None else dict(zip(list(options["scores"]), signals.scores.T, strict=True))
        device = options["device"]
        target = None if queries is None else queries.matrix.to(device)
        return cls(features.matrix.to(device), target, float(options["noise"]), columns, lengths)

    def baselines(self, sizes: set[int]) -> dict[str, list[int]]:
        """Rows of every baseline that this pool allows, for each size."""
        found = [baselines(self.matrix, self.target, self.scores, self.lengths, size) for size in sorted(sizes)]
        return {name: rows.tolist() for each in found for name, rows in each.items()}

    def figures(self, rows: Tensor) -> dict[str, float]:
        """Every measure for one subset."""
        chosen = self.matrix[rows.to(self.matrix.device)]
        found = {
            "rows": float(len(rows)),
            "captured": captured_share(self.matrix, self.target, rows, self.noise),
            "vendi": vendi(chosen),
            "coverage": coverage(self.matrix, chosen),
        }
        if self.target is not None:
            found["target cosine"] = coverage(self.target, chosen)
        found |= {name: float(column[rows].nanmean()) for name, column in self.scores.items()}
        if self.lengths is not None:
            found["mean length"] = float(self.lengths[rows].mean())
        return found


def _lengths(pool: Dataset, options: dict[str, Any]) -> Tensor | None:
    """Characters of each row's text; None for rows that are vectors alone.

    Raises:
        ValueError: If there are no vectors either, or a column is unknown.
    """
    try:
        recipe = text_recipe(pool, options["columns"], options["template"])
        return torch.tensor([float(len(text)) for text in iter_texts(pool, recipe)])
    except ValueError:
        if options["features"] is None:
            raise
        return None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, by Student's t."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * spread)


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """|A ∩ B| / |A ∪ B|."""
    return len(set(first) & set(second)) / len(set(first) | set(second))
