"""`gip_select`: a dataset in, its chosen rows out, with the record of how they were chosen.

    GipOptions ──▶ GipInputs ──▶ GipProblem ──▶ gip ──▶ Selection ──▶ subset
       checked      read once     tensors

Also what explains and reports the selection later (`GipContext`), and `register`, which makes the function a method of
`datasets.Dataset`.
"""

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from datasets import Dataset, DatasetDict, IterableDataset, IterableDatasetDict

from hf_gip.dataset.gip_options import GipOptions
from hf_gip.dataset.select import attach, check_dataset, environment, select_once, splits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from hf_gip.core.constraints import Constraints
    from hf_gip.core.matrix import MatrixSource
    from hf_gip.dataset.inputs import GipInputs, GipProblem
    from hf_gip.distributed import RowPartition
    from hf_gip.features.embedding_store import EmbeddingStore
    from hf_gip.features.encoders import Encoder
    from hf_gip.selection import Explanation, Selection

    Vectors = NDArray[np.floating] | Tensor

Pool = TypeVar("Pool", Dataset, DatasetDict)
VERSION = 5  # raise it when the same call would choose or record something else, so that old caches are left behind
COMPARABLE = 1e11  # products per figure up to which a card compares with random rows: some seconds on two cores
CLASSES = (Dataset, DatasetDict, IterableDataset, IterableDatasetDict)  # the iterable ones get a helpful TypeError


def gip_select(
    dataset: Pool,
    k: int | Mapping[str, int] | None,
    *,
    scores: "Sequence[str] | Mapping[str, float] | None" = GipOptions.scores,
    scores_as: Literal["precision", "queries"] | None = GipOptions.scores_as,
    target: "Dataset | Sequence[str] | Vectors | None" = GipOptions.target,
    target_weight: float | None = GipOptions.target_weight,
    cover_columns: "Sequence[str] | Mapping[str, float] | None" = GipOptions.cover_columns,
    features: "str | PathLike[str] | EmbeddingStore | Vectors | None" = GipOptions.features,
    columns: Sequence[str] | None = GipOptions.columns,
    template: str | None = GipOptions.template,
    encoder: "str | Encoder | None" = GipOptions.encoder,
    encoder_id: str | None = GipOptions.encoder_id,
    encoder_kwargs: "Mapping[str, Any] | None" = GipOptions.encoder_kwargs,
    objective: Literal["projection", "information"] = GipOptions.objective,
    pursuit: Literal["orthogonal", "matching"] = GipOptions.pursuit,
    noise: float | None = GipOptions.noise,
    diversity: float | None = GipOptions.diversity,
    quality: float | None = GipOptions.quality,
    whiten: bool = GipOptions.whiten,
    exclude: "Dataset | Sequence[str] | Vectors | None" = GipOptions.exclude,
    exclude_threshold: float = GipOptions.exclude_threshold,
    initial_rows: "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | Tensor | None" = GipOptions.initial_rows,
    group_column: str | None = GipOptions.group_column,
    max_per_group: int | Mapping[Any, int] | None = GipOptions.max_per_group,
    min_per_group: int | Mapping[Any, int] | None = GipOptions.min_per_group,
    max_tokens: int | None = GipOptions.max_tokens,
    token_column: str | None = GipOptions.token_column,
    id_column: str | None = GipOptions.id_column,
    device: str | list[str] | None = GipOptions.device,
) -> Pool:
    """Choose the `k` rows that matter, by greedy information projection (GIP).

    Rows become vectors (text embeddings unless `features` brings some) and `target` says what is wanted: the rows
    chosen are those whose span captures most of the target's vectors, or of the pool itself where no target is
    given. `scores` say how far each row is to be trusted: a row judged w in (0, 1] counts as an observation with
    noise σ²/w². See `hf_gip.gip` for the objective ([paper](https://huggingface.co/papers/2603.13790)).

    The ridge σ² follows k and the width d; `noise` states it outright, `diversity` moves it. Embeddings and finished
    selections are kept in the datasets cache: the same call again, also from a new process, computes nothing.

    In a `torch.distributed` process group all ranks must make this call, with the same arguments. Each embeds its
    share of the rows, all select together, and every rank returns the subset that one process would.

    Args:
        dataset: The pool. Of a `DatasetDict` each split named in `k` is replaced by its subset, the others stay.
        k: How many rows; for a `DatasetDict` a mapping from split to rows, or a number for its `train` split. None
            means as many as `max_tokens` pays for.
        scores: Numeric columns, larger is better: quality judgments or metadata. Missing values are allowed. A
            mapping gives each column a weight.
        scores_as: `"precision"`, or `"queries"`, in which the scores stand in place of a target, an orthogonal,
            ridged reading of the paper's dual; it does not see signs and prefers well-judged rows less
            (`docs/concepts.md`). By default precision, but queries with `pursuit="matching"`.
        target: What the rows should serve: a dataset, texts, or ready vectors, (m, d), in any array or frame.
        target_weight: Share of what is asked that is the target's, in (0, 1]; the rest asks for the pool itself. 1
            unless told.
        cover_columns: Categorical columns, such as `source` or `language`, whose values are all asked for; a mapping
            gives each a weight beside what the vectors are asked (1 unless told: as much).
        features: Ready vectors: the name of a column of them, a matrix with one row per example, (n, d), of torch,
            numpy, pandas, polars or Arrow, or a store that `hf_gip.store_embeddings` filled: its path, or what
            `hf_gip.open_embeddings` returned. A store is read chunk by chunk, never whole.
        columns: Text columns to embed, instead of the detected layout.
        template: A format string naming text columns in braces, instead of joining `columns`.
        encoder: `"lexical"` (no weights), a sentence-transformers id or folder, or an object with `encode`;
            all-MiniLM-L6-v2 unless told.
        encoder_id: What to know an `encoder` object by, instead of its answers to some 32 texts; see `hf_gip.embed`.
            *optional*.
        encoder_kwargs: Settings of an encoder opened by name: `backend`, `dtype`, `truncate_dim`, `prompt_name`, …;
            see `hf_gip.embed`. *optional*.
        objective: `"projection"`, or `"information"` for the exact log-det mutual information.
        pursuit: `"orthogonal"`, or `"matching"` for the paper's own pipeline: rank-one matching pursuit without noise,
            of the scores as they are in the dual (the paper's MP+MA), of the pool itself where there are no scores
            (MP+SC), or of a target.
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
        device: Torch device for encoder and selection, *optional*, defaults to a GPU if there is one. Of a list such
            as `["cuda:0", "cuda:1"]` each embeds a share of the rows, and the first selects.

    Returns:
        An ordinary `Dataset` of the chosen rows in pick order. Its `selection` holds indices, gains, objective, share
        captured and the record: parameters, feature recipe, source, timings.

    Raises:
        TypeError: If `dataset` is iterable only, or an argument has the wrong kind.
        ValueError: If an argument does not fit the data; the message says what to do.
    """
    options = GipOptions(
        scores=scores,
        scores_as=scores_as,
        target=target,
        target_weight=target_weight,
        cover_columns=cover_columns,
        features=features,
        columns=columns,
        template=template,
        encoder=encoder,
        encoder_id=encoder_id,
        encoder_kwargs=encoder_kwargs,
        objective=objective,
        pursuit=pursuit,
        noise=noise,
        diversity=diversity,
        quality=quality,
        whiten=whiten,
        exclude=exclude,
        exclude_threshold=exclude_threshold,
        initial_rows=initial_rows,
        group_column=group_column,
        max_per_group=max_per_group,
        min_per_group=min_per_group,
        max_tokens=max_tokens,
        token_column=token_column,
        id_column=id_column,
        device=device,
    )
    if isinstance(dataset, DatasetDict):
        chosen = {name: _select_rows(dataset[name], n, options) for name, n in splits(dataset, cast("int", k))}
        return cast("Pool", DatasetDict({**dataset, **chosen}))
    return cast("Pool", _select_rows(dataset, k, options))


def _select_rows(dataset: Dataset, k: Any, options: GipOptions) -> Dataset:
    """`gip_select` of one split."""
    from hf_gip.dataset.inputs import read_inputs
    from hf_gip.dataset.values import plain_value
    from hf_gip.distributed import assert_equal_on_all, run_on_all, world_group

    started = time.perf_counter()
    k = plain_value(k)
    k = cast(
        "int", len(dataset) if k is None and options.max_tokens is not None and isinstance(dataset, Dataset) else k
    )
    group = world_group()

    def read() -> "GipInputs":
        check_dataset(dataset, k, options.id_column)
        inputs = read_inputs(dataset, options)
        if inputs.constraints is not None:
            inputs.constraints.constraints.check(len(dataset), k)
        return inputs

    inputs = run_on_all(read, group)
    request = {"method": "gip", "version": VERSION, "k": k, "id_column": options.id_column, **inputs.identity}
    assert_equal_on_all({name: str(value) for name, value in request.items()}, group)

    def select() -> "Selection":
        return _select(inputs, k, environment(dataset, options.id_column), started)

    context = GipContext(dataset, inputs.without_column())
    return attach(dataset, replace(select_once(request, select, shared=True), context=context))


def _select(inputs: "GipInputs", k: int, environment: Mapping[str, Any], started: float) -> "Selection":
    """Make the tensors, run the greedy and write the record."""
    n = environment["source"]["num_rows"]
    features, recipe, partition = _read_share(inputs, n)
    excluded = inputs.find_excluded(features, partition)
    allowed = None if excluded is None else _allowed_rows(excluded, n)
    if excluded is not None and allowed is not None:
        _check_allowed(excluded, n, len(allowed), k, inputs)
    local = None if allowed is None else partition.local(allowed)
    problem = inputs.problem(features, local, partition)
    embedded = time.perf_counter()
    selection = _solve(problem, inputs, k, allowed, partition)
    record = {
        **selection.record,
        "features": recipe,
        "queries": problem.recipe,
        "scores": None if inputs.scores is None else inputs.scores.recipe,
        **({} if inputs.categories is None else {"cover_columns": inputs.categories.recipe}),
        **({} if inputs.constraints is None else {"limits": inputs.constraints.record(selection.indices)}),
        "excluded": excluded,
        "diversity": inputs.options.diversity,
        "id_column": inputs.options.id_column,
        **environment,
        "timings": {
            "features_seconds": embedded - started,
            "select_seconds": time.perf_counter() - embedded,
        },
    }
    return replace(selection, record=record)


def _read_share(inputs: "GipInputs", n: int) -> "tuple[MatrixSource, dict[str, Any], RowPartition]":
    """The vectors of this rank's share of the rows, all of them in one process; their recipe, and who has which.

    Raises:
        ValueError: If there are more ranks than rows.
    """
    from hf_gip.distributed import all_gather, partition_rows, rank_and_world, run_on_all, world_group

    (rank, world_size), group = rank_and_world(), world_group()
    if group is None:
        return *inputs.features.read(), partition_rows(n, None)
    if world_size > n:
        raise ValueError(f"every rank must have a row, got {n} rows for {world_size} ranks: start fewer.")
    rows = range(n * rank // world_size, n * (rank + 1) // world_size)
    features, recipe = run_on_all(lambda: inputs.features.read(rows), group)
    recipes = all_gather(recipe, group)
    if inputs.features.load_rows is not None:  # each knows of its own rows
        recipe = recipes[0] | {"empty_rows": sum(each["empty_rows"] for each in recipes)}
    return features, recipe, partition_rows(len(rows), group)


def _solve(
    problem: "GipProblem", inputs: "GipInputs", k: int, allowed: "Tensor | None", partition: "RowPartition"
) -> "Selection":
    """Run `gip`, or its dual form for scores that stand in place of a target; picks are positions in the pool.

    Args:
        problem: This rank's rows, and the queries.
        inputs: What was read.
        k: How many rows.
        allowed: Positions in the whole pool of the rows that are not excluded, or None.
        partition: Which rank holds which rows of the pool.

    Raises:
        ValueError: If ranks share the rows and the dual form is asked for.
    """
    import torch

    from hf_gip.core.gip import gip, gip_dual
    from hf_gip.core.matrix import InMemoryMatrix, on_device

    options, source = inputs.options, on_device(problem.rows(), inputs.options.selection_device)
    device = source.matrix.device if isinstance(source, InMemoryMatrix) else torch.device("cpu")
    precision, offset = inputs.precision(), partition.offset
    local = slice(offset, offset + problem.matrix.n) if problem.allowed is None else problem.allowed + offset
    constraints = None if inputs.constraints is None else inputs.constraints.constraints
    if allowed is not None:
        constraints = None if constraints is None else constraints.restrict(allowed)
    noise = options.noise
    if noise is None:
        of_allowed = precision if precision is None or allowed is None else precision[allowed]
        noise = _default_noise(options, k, source.d, of_allowed, constraints)
    if inputs.scores is not None and inputs.scores.as_queries:
        if partition.group is not None:
            raise ValueError('`scores_as="queries"` must run in one process: start one, or use scores as precision.')
        selection = gip_dual(
            source,
            inputs.scores.values[local].to(device),
            k,
            pursuit=options.pursuit,
            noise=noise,
            weights=inputs.scores.weights,
            constraints=constraints,
        )
    else:
        selection = gip(
            source,
            None if problem.queries is None else problem.queries.to(device),
            k,
            objective=options.objective,
            noise=noise,
            pursuit=options.pursuit,
            precision=None if precision is None else precision[local].to(device),
            constraints=constraints,
            group=partition.group,
        )
    return selection if allowed is None else replace(selection, indices=allowed[selection.indices])


def _default_noise(
    options: GipOptions, k: int, d: int, precision: "Tensor | None", constraints: "Constraints | None"
) -> float:
    """The documented ridge, for as many rows as a token budget is likely to pay for."""
    from hf_gip.core.queries import default_ridge

    if constraints is not None and constraints.max_tokens is not None and constraints.tokens is not None:
        k = min(k, max(1, round(constraints.max_tokens / float(constraints.tokens.double().mean()))))
    towards_target = options.target is not None or options.scores_as == "queries"
    diversity = 0.5 if options.diversity is None else options.diversity
    noise = default_ridge(k, d, towards_target=towards_target, diversity=diversity)
    return noise * (1.0 if precision is None else float(precision.square().mean()))


def _allowed_rows(excluded: Mapping[str, Any], n: int) -> "Tensor":
    """Positions of the rows that are not excluded."""
    import torch

    allowed = torch.ones(n, dtype=torch.bool)
    allowed[[row for row, _, _ in excluded["pairs"]]] = False
    return torch.nonzero(allowed).flatten()


def _check_allowed(excluded: Mapping[str, Any], n: int, num_allowed: int, k: int, inputs: "GipInputs") -> None:
    """Raise unless enough rows are allowed, and all initial rows.

    Raises:
        ValueError: If not.
    """
    constraints = None if inputs.constraints is None else inputs.constraints.constraints
    required = k if constraints is None or constraints.max_tokens is None else 1
    if num_allowed < required:
        raise ValueError(
            f"`exclude` must leave at least k={required} rows, got {num_allowed} of {n}: raise `exclude_threshold` or "
            "lower `k`."
        )
    initial_rows = set() if constraints is None else set(constraints.initial().tolist())
    for row, other, cosine in excluded["pairs"]:
        if row in initial_rows:
            raise ValueError(
                f"`initial_rows` must keep away from `exclude`, got row {row}, which copies row {other} of it (cosine "
                f"{cosine}): leave it out, or raise `exclude_threshold`."
            )


@dataclass(frozen=True, slots=True)
class GipContext:
    """What `Selection.explain` and `.report` need of a `gip_select` call.

    Attributes:
        pool: The rows that were chosen from.
        inputs: What was read of them; vectors come from the cache or the column when needed.
    """

    pool: Dataset
    inputs: "GipInputs"

    @classmethod
    def from_options(cls, pool: Dataset, options: GipOptions) -> "GipContext":
        """The context of a recorded call."""
        from hf_gip.dataset.inputs import read_inputs

        return cls(pool, read_inputs(pool, options))

    def problem(self, selection: "Selection") -> "GipProblem":
        """The tensors that the selection was made from."""
        from hf_gip.core.matrix import InMemoryMatrix

        features, excluded = self.inputs.load_matrix(), selection.record["excluded"]
        allowed = _allowed_rows(excluded, len(features)) if excluded else None
        return self.inputs.problem(InMemoryMatrix(features), allowed)

    def explain(self, selection: "Selection", row: int) -> "Explanation":
        """Explain `row` of the pool."""
        from hf_gip.core.explain import explain
        from hf_gip.core.matrix import load_matrix

        problem, blocked_reason = self.problem(selection), self._blocked_reason(selection, row)
        queries, names = problem.queries, problem.query_names
        if queries is None:  # the allowed rows cover themselves
            queries, names = None if problem.allowed is None else load_matrix(problem.rows()), None
        precision = self.inputs.precision()
        explanation = explain(selection, row, load_matrix(problem.matrix), queries, precision=precision, names=names)
        served = () if problem.queries is None else explanation.served
        return replace(explanation, blocked_reason=blocked_reason, served=served)

    def _blocked_reason(self, selection: "Selection", row: int) -> str:
        """Which constraint shut `row` out, in words; empty where none did."""
        if row in selection.indices.tolist():
            return ""
        for copy, other, cosine in (selection.record["excluded"] or {"pairs": []})["pairs"]:
            if copy == row:
                return f"It was not allowed: it copies row {other} of `exclude` (cosine {cosine})."
        constraints = self.inputs.constraints
        return "" if constraints is None else constraints.blocked_reason(selection.indices, row)

    def report(self, selection: "Selection", path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        from hf_gip.dataset.report import write_gip_page

        return write_gip_page(path, selection, self.pool, self.inputs, self.problem(selection))

    def compare_with_random(self, selection: "Selection") -> str | None:
        """A Markdown table: the picks' figures beside those of random rows; None where that takes minutes."""
        from hf_gip.dataset.comparison import compare

        features, _ = self.inputs.features.read()
        if features.n * features.d * len(selection) > COMPARABLE:
            return None
        names = ("scores", "target", "features", "columns", "template", "encoder", "encoder_id", "encoder_kwargs")
        options = {name: getattr(self.inputs.options, name) for name in (*names, "device")}
        return str(compare({"chosen": selection}, self.pool, **options))

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()


def register() -> None:
    """Add the method `gip_select` to the dataset classes; does nothing the second time.

    A class that already has another attribute of that name keeps it, with a warning: `hf_gip.gip_select(dataset, …)`
    is the same function.
    """
    for kind in CLASSES:
        existing = getattr(kind, "gip_select", None)
        if existing is None:
            setattr(kind, "gip_select", gip_select)  # noqa: B010 — type checkers cannot know a method added at run time
        elif existing is not gip_select:
            warnings.warn(
                f"`datasets.{kind.__name__}` already has another `gip_select`, which hf_gip leaves in place: call "
                "`hf_gip.gip_select(dataset, …)` instead.",
                stacklevel=2,
            )


def unregister() -> None:
    """Take the method away again where it is ours."""
    for kind in CLASSES:
        if kind.__dict__.get("gip_select") is gip_select:
            delattr(kind, "gip_select")
