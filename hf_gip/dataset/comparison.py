"""A selection beside simple baselines and random subsets."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import t
from torch import Tensor

from hf_gip.core.baselines import k_center, nearest_rows, rds
from hf_gip.core.metrics import captured_share, coverage, vendi
from hf_gip.dataset.columns import check_column
from hf_gip.dataset.gip_options import GipOptions
from hf_gip.dataset.inputs import read_inputs
from hf_gip.dataset.select import check_dataset
from hf_gip.features.text import iter_texts, text_recipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hf_gip.features.encoders import Encoder
    from hf_gip.selection import Selection

    Vectors = NDArray[np.floating] | Tensor


NEAR = 100  # nearest rows that facility location knows of each row: all of them would be n × n


def baselines(
    matrix: Tensor, target: Tensor | None, scores: Mapping[str, Tensor], lengths: Tensor | None, k: int
) -> dict[str, Tensor]:
    """Rows of each baseline of size `k`: top-k and longest where there are scores and texts, RDS+ with a target.

    Facility location is left out where `apricot-select` is not installed.
    """
    choices: dict[str, Callable[[], Tensor]] = {}
    if scores:
        choices["top-k by score"] = lambda: _largest(torch.stack(list(scores.values())).nanmean(0), k)
    if lengths is not None:
        choices["longest"] = lambda: _largest(lengths, k)
    if target is not None:
        choices["RDS+"] = lambda: rds(matrix, target, k).indices
    choices["k-centre"] = lambda: k_center(matrix, k)
    if find_spec("apricot") is not None:
        choices["facility location"] = lambda: _facility_location(matrix, k)
    return {f"{name}, {k:,} rows": choose() for name, choose in choices.items()}


def _largest(values: Tensor, k: int) -> Tensor:
    return values.nan_to_num(nan=-torch.inf).sort(descending=True, stable=True).indices[:k]


def _facility_location(matrix: Tensor, k: int) -> Tensor:
    """Greedy facility location by apricot, on the cosines of each row's nearest rows."""
    from scipy.sparse import csr_matrix

    n, neighbors = len(matrix), min(NEAR, len(matrix))
    cosines, rows = nearest_rows(matrix.cpu(), neighbors)
    of = torch.arange(n).repeat_interleave(neighbors)
    graph = csr_matrix((cosines.clamp(min=0).flatten().double().numpy(), (of.numpy(), rows.flatten().numpy())), (n, n))
    facility_location = import_module("apricot").FacilityLocationSelection
    picked = facility_location(k, metric="precomputed", optimizer="lazy").fit(graph)
    return torch.as_tensor(picked.ranking)


@dataclass(frozen=True, slots=True)
class SubsetMetrics:
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
    def read(cls, pool: Dataset, options: GipOptions) -> "SubsetMetrics":
        """Read what the options name; vectors and texts come through the datasets cache."""
        inputs = read_inputs(pool, options)
        features = inputs.load_matrix()
        target, scores = inputs.load_target(features.shape[1], features.dtype), inputs.scores
        return cls(
            features.to(options.selection_device),
            None if target is None else target.matrix.to(options.selection_device),
            float(options.noise or 0),
            {} if scores is None else dict(zip(scores.names, scores.values.T, strict=True)),
            _text_lengths(pool, options),
        )

    def baselines(self, sizes: set[int]) -> dict[str, list[int]]:
        """Rows of every baseline that this pool allows, for each size."""
        chosen = [baselines(self.matrix, self.target, self.scores, self.lengths, size) for size in sorted(sizes)]
        return {name: rows.tolist() for by_name in chosen for name, rows in by_name.items()}

    def measure(self, rows: Tensor) -> dict[str, float]:
        """Every figure of one subset."""
        chosen = self.matrix[rows.to(self.matrix.device)]
        figures = {
            "rows": float(len(rows)),
            "captured": captured_share(self.matrix, self.target, rows, self.noise),
            "vendi": vendi(chosen),
            "coverage": coverage(self.matrix, chosen),
        }
        if self.target is not None:
            figures["target cosine"] = coverage(self.target, chosen)
        figures |= {name: float(column[rows].nanmean()) for name, column in self.scores.items()}
        if self.lengths is not None:
            figures["mean length"] = float(self.lengths[rows].mean())
        return figures


def _text_lengths(pool: Dataset, options: GipOptions) -> Tensor | None:
    """Characters of each row's text; None for rows that are vectors alone.

    Raises:
        ValueError: If there are no vectors either, or a column is unknown.
    """
    try:
        recipe = text_recipe(pool, options.columns, options.template)
        return torch.tensor([float(len(text)) for text in iter_texts(pool, recipe)])
    except ValueError:
        if options.features is None:
            raise
        return None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval, by Student's t."""
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * spread)


def jaccard(first: Sequence[int], second: Sequence[int]) -> float:
    """|A ∩ B| / |A ∪ B|."""
    return len(set(first) & set(second)) / len(set(first) | set(second))


MOST_SEEDS = 10_000  # random subsets; a hundred already say where the mean lies


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes:
        figures: Subset → measure → value, in the order given.
        random: Subset → measure → (mean, half-width of the 95 % interval) over random subsets of its size.
        overlap: (subset, subset) → share of their rows in common, |A ∩ B| / |A ∪ B|.
        shares: Subset → group → share of its rows, where `groups` was given; `"pool"` is the pool's own.
    """

    figures: Mapping[str, Mapping[str, float]]
    random: Mapping[str, Mapping[str, tuple[float, float]]]
    overlap: Mapping[tuple[str, str], float]
    shares: Mapping[str, Mapping[str, float]]

    def __str__(self) -> str:
        """Markdown tables: each measure with random's mean ± interval beside it, overlaps, group shares."""
        measures = list(next(iter(self.figures.values())))
        lines = ["| subset | " + " | ".join(measures) + " |", "| --- |" + " ---: |" * len(measures)]
        for name, values in self.figures.items():
            lines.append(f"| {name} | " + " | ".join(f"{values[measure]:.4g}" for measure in measures) + " |")
            band = (self.random[name].get(measure) for measure in measures)
            cells = ["" if estimate is None else f"{estimate[0]:.4g} ± {estimate[1]:.2g}" for estimate in band]
            lines.append("| random, same size | " + " | ".join(cells) + " |")
        if self.overlap:
            lines += ["", "| overlap | |", "| --- | ---: |"]
            lines += [f"| {first}, {second} | {share:.1%} |" for (first, second), share in self.overlap.items()]
        if self.shares:
            groups = list(self.shares["pool"])
            lines += ["", "| share of | " + " | ".join(groups) + " |", "| --- |" + " ---: |" * len(groups)]
            for name, group_shares in self.shares.items():
                lines.append(
                    f"| {name} | " + " | ".join(f"{group_shares.get(group, 0):.1%}" for group in groups) + " |"
                )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The same as JSON."""
        overlap = [[first, second, share] for (first, second), share in self.overlap.items()]
        content = {"figures": self.figures, "random": self.random, "overlap": overlap, "shares": self.shares}
        return json.dumps(content, default=dict, indent=1)


def compare(
    subsets: "Mapping[str, Dataset | Selection | Sequence[int]]",
    pool: Dataset,
    *,
    scores: Sequence[str] | None = None,
    target: "Dataset | Sequence[str] | Vectors | None" = None,
    features: "str | Vectors | None" = None,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    encoder: "str | Encoder | None" = None,
    encoder_id: str | None = None,
    encoder_kwargs: Mapping[str, Any] | None = None,
    noise: float = 0.1,
    groups: str | None = None,
    seeds: int = 5,
    baselines: bool = False,
    device: str | list[str] | None = None,
) -> Comparison:
    """Judge subsets of one pool by the same figures, beside random subsets of the same size.

    For each: rows; `captured`, the share of the target's energy (the pool's own without a target) held by the rows at
    the given noise; `vendi`, the effective number of distinct rows; `coverage`, the pool's mean best cosine to a
    chosen row; `target cosine`, the target's; the mean of each score column; the mean text length in
    characters, where there are texts.

    Cost: the pool is embedded once, through the cache; then every subset is measured, and `seeds` random ones of each
    size.

    Args:
        subsets: Name → result of a selecting function, `Selection`, or row positions in `pool`.
        pool: The pool that all were chosen from.
        scores: Numeric columns to average, *optional*.
        target: As in `gip_select`, *optional*.
        features: As in `gip_select`, *optional*.
        columns: As in `gip_select`, *optional*.
        template: As in `gip_select`, *optional*.
        encoder: As in `gip_select`, *optional*.
        encoder_id: As in `gip_select`, *optional*.
        encoder_kwargs: As in `gip_select`, *optional*.
        noise: Ridge of `captured`, in units of the mean ‖xᵢ‖², *optional*, defaults to `0.1`.
        groups: A column whose values' shares are compared, such as `source`, *optional*.
        seeds: How many random subsets, at least 2, *optional*, defaults to `5`.
        baselines: Also judge other ways to choose as many rows, *optional*, defaults to `False`: top-k by the mean
            score, the longest texts, RDS+ for the target, k-centre, and facility location where `apricot-select` is
            installed.
        device: Torch device, *optional*, defaults to a GPU if there is one.

    Returns:
        The figures; printed, it is a Markdown table.

    Raises:
        TypeError: If the subsets are no mapping.
        ValueError: If there is no subset, a subset does not fit the pool, or a column is unknown.
    """
    import torch

    from hf_gip.core.validation import check_type
    from hf_gip.dataset.values import plain_value

    check_type("subsets", subsets, Mapping, "a mapping from names to subsets")
    if not subsets:
        raise ValueError("`subsets` must hold at least one subset, got none.")
    check_dataset(pool, 1, name="pool")
    noise, seeds = plain_value(noise), plain_value(seeds)
    _check_options(pool, noise, seeds, groups, baselines)
    rows = {name: _positions(name, subset, len(pool)) for name, subset in subsets.items()}
    options = GipOptions(
        scores=scores,
        target=target,
        features=features,
        columns=columns,
        template=template,
        encoder=encoder,
        encoder_id=encoder_id,
        encoder_kwargs=encoder_kwargs,
        noise=noise,
        device=device,
    )
    metrics = SubsetMetrics.read(pool, options)
    if baselines:
        rows |= metrics.baselines({len(positions) for positions in rows.values()})
    draws = {
        size: [
            metrics.measure(torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:size])
            for seed in range(seeds)
        ]
        for size in {len(positions) for positions in rows.values()}
    }
    names = list(rows)
    return Comparison(
        figures={name: metrics.measure(torch.tensor(positions)) for name, positions in rows.items()},
        random={
            name: {
                measure: interval([draw[measure] for draw in draws[len(positions)]])
                for measure in draws[len(positions)][0]
                if measure != "rows"
            }
            for name, positions in rows.items()
        },
        overlap={
            (first, second): jaccard(rows[first], rows[second])
            for i, first in enumerate(names)
            for second in names[i + 1 :]
        },
        shares={} if groups is None else _shares(pool, groups, rows),
    )


def _check_options(pool: Dataset, noise: object, seeds: object, groups: object, baselines: object) -> None:
    """Raise unless the options that `compare` has of its own are in their ranges.

    Raises:
        ValueError: Naming the option, the value found and the range.
    """
    from hf_gip.core.validation import brief, check_bool, is_number

    if not is_number(noise) or noise <= 0:
        raise ValueError(
            f"`noise` must be above 0, so that `captured` is defined for every subset, got {brief(noise)}."
        )
    if isinstance(seeds, bool) or not isinstance(seeds, int) or not 2 <= seeds <= MOST_SEEDS:
        raise ValueError(
            f"`seeds` must be at least 2, so that there is an interval, and at most {MOST_SEEDS}, got {brief(seeds)}."
        )
    if groups is not None:
        check_column("groups", groups, pool, of="pool")
    check_bool("baselines", baselines)


def _positions(name: str, subset: Any, n: int) -> list[int]:
    """The subset's rows as positions in the pool.

    Raises:
        ValueError: If it has no record, or names rows the pool does not have.
    """
    from hf_gip.core.validation import brief

    if isinstance(subset, Dataset):
        if not hasattr(subset, "selection"):
            raise ValueError(
                f"`subsets` entry {name!r} must know its rows, got a Dataset without `selection`: pass the result of "
                "`gip_select` or `load_subset` before any further transform, or row positions."
            )
        subset = getattr(subset, "selection")  # noqa: B009 — set by our own doors, unknown to the type checker
    indices = getattr(subset, "indices", subset)
    try:
        positions = [index(row) for row in getattr(indices, "tolist", lambda: indices)()]
    except TypeError:
        raise ValueError(
            f"`subsets` entry {name!r} must be a selection or whole row positions, got {brief(indices)}."
        ) from None
    if not positions or not all(0 <= row < n for row in positions) or len(set(positions)) < len(positions):
        raise ValueError(
            f"`subsets` entry {name!r} must hold distinct rows of the pool (0 to {n - 1}), got {len(positions)} from "
            f"{min(positions, default=0)} to {max(positions, default=0)}: compare it with the pool it was chosen from."
        )
    return positions


def _shares(pool: Dataset, groups: str, rows: Mapping[str, list[int]]) -> dict[str, dict[str, float]]:
    labels = getattr(pool.features[groups], "names", None)  # a ClassLabel's rows hold numbers
    values = pool.select_columns([groups]).with_format(None)[groups][:]
    values = [labels[value] if labels and value is not None and value >= 0 else str(value) for value in values]
    labels_of = {"pool": values} | {name: [values[row] for row in chosen] for name, chosen in rows.items()}
    order = sorted(set(values))
    return {
        name: {group: members.count(group) / len(members) for group in order} for name, members in labels_of.items()
    }
