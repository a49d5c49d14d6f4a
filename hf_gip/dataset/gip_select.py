"""The one-liner: a dataset in, its chosen rows out, with the record of how they were chosen."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from datasets import Dataset, DatasetDict

from hf_gip.dataset.select import attach, check_dataset, environment, select_once, splits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hf_gip.core.constraints import Constraints
    from hf_gip.dataset.inputs import Problem, Signals
    from hf_gip.features.encoders import Encoder
    from hf_gip.selection import Selection

    Vectors = NDArray[np.floating] | Tensor

Pool = TypeVar("Pool", Dataset, DatasetDict)
VERSION = 4  # raise it when the same call would choose or record something else, so that old caches are left behind


def gip_select(
    dataset: Pool,
    k: int | Mapping[str, int] | None,
    *,
    scores: "Sequence[str] | Mapping[str, float] | None" = None,
    scores_as: Literal["precision", "queries"] = "precision",
    target: "Dataset | Sequence[str] | Vectors | None" = None,
    target_weight: float | None = None,
    cover_columns: "Sequence[str] | Mapping[str, float] | None" = None,
    features: "str | Vectors | None" = None,
    columns: Sequence[str] | None = None,
    template: str | None = None,
    encoder: "str | Encoder | None" = None,
    encoder_id: str | None = None,
    objective: Literal["projection", "information"] = "projection",
    noise: float | None = None,
    diversity: float | None = None,
    quality: float | None = None,
    whiten: bool = False,
    exclude: "Dataset | Sequence[str] | Vectors | None" = None,
    exclude_threshold: float = 0.9,
    initial_rows: "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | Tensor | None" = None,
    group_column: str | None = None,
    max_per_group: int | Mapping[Any, int] | None = None,
    min_per_group: int | Mapping[Any, int] | None = None,
    max_tokens: int | None = None,
    token_column: str | None = None,
    id_column: str | None = None,
    device: str | None = None,
) -> Pool:
    """Choose the `k` rows that matter, by greedy information projection (GIP).

    Rows become vectors (text embeddings unless `features` brings some) and `target` says what is wanted: the rows
    chosen are those whose span captures most of the target's vectors, or of the pool itself where no target is
    given. `scores` say how far each row is to be trusted: a row judged w in (0, 1] counts as an observation with
    noise σ²/w². See `hf_gip.gip` for the objective ([paper](https://huggingface.co/papers/2603.13790)).

    The ridge σ² follows k and the width d; `noise` states it outright, `diversity` moves it. Embeddings and finished
    selections are kept in the datasets cache: the same call again, also from a new process, computes nothing.

    Args:
        dataset: The pool. Of a `DatasetDict` each split named in `k` is replaced by its subset, the others stay.
        k: How many rows; for a `DatasetDict` a mapping from split to rows, or a number for its `train` split. None
            means as many as `max_tokens` pays for.
        scores: Numeric columns, larger is better: quality judgments or metadata. Missing values are allowed. A
            mapping gives each column a weight.
        scores_as: `"precision"`, or `"queries"` for the paper's dual form, in which the scores stand in place of a
            target; it does not see signs and prefers well-judged rows less (`docs/concepts.md`).
        target: What the rows should serve: a dataset, texts, or ready vectors, (m, d), in any array or frame.
        target_weight: Share of what is asked that is the target's, in (0, 1]; the rest asks for the pool itself. 1
            unless told.
        cover_columns: Categorical columns, such as `source` or `language`, whose values are all asked for; a mapping
            gives each a weight beside what the vectors are asked (1 unless told: as much).
        features: Ready vectors: the name of a column of them, or a matrix with one row per example, (n, d), of torch,
            numpy, pandas, polars or Arrow.
        columns: Text columns to embed, instead of the detected layout.
        template: A format string naming text columns in braces, instead of joining `columns`.
        encoder: `"lexical"` (no weights), a sentence-transformers id or folder, or an object with `encode`;
            all-MiniLM-L6-v2 unless told.
        encoder_id: What to know an `encoder` object by, instead of its answers to some 32 texts; see `hf_gip.embed`.
            *optional*.
        objective: `"projection"`, or `"information"` for the exact log-det mutual information.
        noise: The ridge, in units of the mean ‖xᵢ‖²; by default max(0.1, 10 k/d) towards a target and
            max(0.1, k/d) for covering the pool, times the mean w² where there are scores.
        diversity: 0 (the most relevant rows, however alike) to 1 (the pure span); moves the default ridge.
        quality: Exponent on the scores' ranks: 0 ignores them, 1 is the default, large values end at top-k by score.
        whiten: Give every direction of the target the same weight; for a few unlike queries only.
        exclude: What to stay away from, such as a test set: a dataset, texts, or vectors. Rows that come too close are
            left out, and listed in the record with what they copy.
        exclude_threshold: How close is too close, as a cosine.
        initial_rows: Rows to start from, as positions or a mask: they come first, count towards `k`, quotas and
            budget, and what they cover is not asked for again.
        group_column: A column of groups for the quotas.
        max_per_group: Most rows of each group: one number, or a mapping from group to number; the groups of a
            `ClassLabel` go by its names.
        min_per_group: Fewest rows of each group, likewise.
        max_tokens: Most tokens of all rows together. Rows are then ranked by gain per token, `k` is a ceiling.
        token_column: A column of token counts; unless told, words and signs of the text are counted.
        id_column: A column that names the rows in the manifest, instead of their position.
        device: Torch device for encoder and selection; a GPU where there is one unless told.

    Returns:
        An ordinary `Dataset` of the chosen rows in pick order. Its `selection` holds indices, gains, objective, share
        captured and the record: parameters, feature recipe, source, timings.

    Raises:
        TypeError: If `dataset` is iterable only, or an argument has the wrong kind.
        ValueError: If an argument does not fit the data; the message says what to do.
    """
    options: dict[str, Any] = {
        "scores": scores,
        "scores_as": scores_as,
        "target": target,
        "target_weight": target_weight,
        "cover_columns": cover_columns,
        "features": features,
        "columns": columns,
        "template": template,
        "encoder": encoder,
        "encoder_id": encoder_id,
        "objective": objective,
        "noise": noise,
        "diversity": diversity,
        "quality": quality,
        "whiten": whiten,
        "exclude": exclude,
        "exclude_threshold": exclude_threshold,
        "initial_rows": initial_rows,
        "group_column": group_column,
        "max_per_group": max_per_group,
        "min_per_group": min_per_group,
        "max_tokens": max_tokens,
        "token_column": token_column,
        "id_column": id_column,
        "device": device,
    }
    if isinstance(dataset, DatasetDict):
        chosen = {name: gip_select(dataset[name], n, **options) for name, n in splits(dataset, cast("int", k))}
        return cast("Pool", DatasetDict({**dataset, **chosen}))
    from hf_gip.dataset.inputs import plain_value

    k = plain_value(k)
    k = len(dataset) if k is None and max_tokens is not None and isinstance(dataset, Dataset) else k
    check_dataset(dataset, k, id_column)
    from hf_gip.core.validation import check_device
    from hf_gip.dataset.evidence import GipEvidence
    from hf_gip.dataset.inputs import gather_signals

    options["device"] = check_device(device)
    started = time.perf_counter()
    signals = gather_signals(dataset, options)
    if signals.limited is not None:
        signals.limited.limits.check(len(dataset), cast("int", k))
    request = {"method": "gip", "version": VERSION, "k": k, "id_column": id_column, **signals.request}
    selection = select_once(request, lambda: _select(dataset, cast("int", k), signals, started))
    return attach(dataset, replace(selection, context=GipEvidence(signals.without_column())))


def _select(dataset: Dataset, k: int, signals: "Signals", started: float) -> "Selection":
    from hf_gip.core.queries import default_ridge

    features = signals.features()
    precision = signals.precision()
    excluded = signals.exclusions(features)
    options, limits, kept = signals.options, None if signals.limited is None else signals.limited.limits, None
    if excluded is not None:
        kept = _keep(len(features.matrix), excluded["pairs"], k, limits)
        precision = None if precision is None else precision[kept]
        limits = None if limits is None else limits.restrict(kept)
    problem = signals.problem(features, kept)
    embedded = time.perf_counter()
    noise = options["noise"]
    if noise is None:
        knob = 0.5 if options["diversity"] is None else options["diversity"]
        towards = options["target"] is not None or options["scores_as"] == "queries"
        noise = default_ridge(_expected(k, limits), problem.matrix.shape[1], towards_target=towards, diversity=knob)
        noise *= 1.0 if precision is None else float(precision.square().mean())
    selection = _solve(problem, precision, signals, limits, k, noise)
    if kept is not None:
        selection = replace(selection, indices=kept[selection.indices])
    record = {
        **selection.record,
        "features": features.recipe,
        "queries": problem.recipe,
        "scores": signals.score_recipe,
        **signals.told(selection.indices),
        "excluded": excluded,
        "diversity": options["diversity"],
        "id_column": options["id_column"],
        **environment(dataset, options["id_column"]),
        "timings": {
            "features_seconds": embedded - started,
            "select_seconds": time.perf_counter() - embedded,
        },
    }
    return replace(selection, record=record)


def _expected(k: int, limits: "Constraints | None") -> int:
    """How many rows there will be, about: what the ridge follows."""
    if limits is None or limits.max_tokens is None or limits.tokens is None:
        return k
    return min(k, max(1, round(limits.max_tokens / float(limits.tokens.double().mean()))))


def _solve(
    problem: "Problem",
    precision: "Tensor | None",
    signals: "Signals",
    limits: "Constraints | None",
    k: int,
    noise: float,
) -> "Selection":
    from hf_gip.core.gip import gip, gip_dual
    from hf_gip.core.matrix import InMemoryMatrix

    options = signals.options
    device, matrix = options["device"], problem.rows()
    if signals.scores is not None and options["scores_as"] == "queries":
        scores = signals.scores if problem.kept is None else signals.scores[problem.kept]
        return gip_dual(matrix.to(device), scores.to(device), k, noise=noise)
    return gip(
        InMemoryMatrix(matrix.to(device)),  # checked already
        None if problem.queries is None else problem.queries.to(device),
        k,
        objective=options["objective"],
        noise=noise,
        precision=None if precision is None else precision.to(device),
        constraints=limits,
    )


def _keep(n: int, pairs: list[list[Any]], k: int, limits: "Constraints | None") -> "Tensor":
    """The rows that are not excluded.

    Raises:
        ValueError: If fewer than `k` remain, or a row was given that is excluded.
    """
    import torch

    allowed = torch.ones(n, dtype=torch.bool)
    allowed[[row for row, _, _ in pairs]] = False
    kept = torch.nonzero(allowed).flatten()
    least = k if limits is None or limits.max_tokens is None else 1
    if len(kept) < least:
        raise ValueError(
            f"`exclude` must leave at least k={least} rows, got {len(kept)} of {n}: raise `exclude_threshold` or "
            "lower "
            "`k`."
        )
    given = set() if limits is None else set(limits.initial().tolist())
    if both := [pair for pair in pairs if pair[0] in given]:
        row, other, cosine = both[0]
        raise ValueError(
            f"`initial_rows` must keep away from `exclude`, got row {row}, which copies row {other} of it (cosine "
            f"{cosine}): leave it out, or raise `exclude_threshold`."
        )
    return kept
