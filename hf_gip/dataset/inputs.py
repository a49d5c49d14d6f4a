"""Everything that `gip_select` reads, from the pool and beside it, once and into one typed value.

    options, dataset ── read_inputs ──▶ GipInputs ── problem ──▶ GipProblem ──▶ gip

`read_inputs` reads each column that a selection depends on and names its content: that is the key of the selection
cache. Texts become vectors only when `Vectors.load` is called: a cached selection embeds nothing, opens no encoder.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_gip.core.constraints import Constraints
from hf_gip.core.matrix import InMemoryMatrix, MatrixSource, load_matrix, row_range, select_rows, working_dtype
from hf_gip.core.metrics import find_copies
from hf_gip.core.normalize import mean_row_energy
from hf_gip.core.queries import (
    append_category_dims,
    blend_target_and_pool,
    gram_sqrt,
    precision_from_scores,
    whiten,
)
from hf_gip.core.validation import brief, check_matrix, is_number
from hf_gip.dataset.columns import read_categories, read_scores, read_tokens, read_vectors
from hf_gip.dataset.gip_options import GipOptions
from hf_gip.dataset.values import describe_value, plain_value
from hf_gip.distributed import RowPartition, all_gather, partition_rows
from hf_gip.features.embed import Features, embed_rows, embed_texts, identify_encoder
from hf_gip.features.embedding_store import EmbeddingStore, is_store, open_embeddings
from hf_gip.features.encoders import EncoderRef, resolve_encoder
from hf_gip.features.sentence_transformer import DEFAULT_ENCODER
from hf_gip.features.text import TextRecipe, iter_texts, text_recipe
from hf_gip.hashing import hash_array, hash_json, hash_rows, rows_digest

MAX_CATEGORIES = 1_000  # values of a column to cover: each is one more dimension
MAX_GROUPS_RECORDED = 1_000  # groups up to which the record counts the picks of each
TOKEN = re.compile(r"\w+|[^\w\s]")  # a word or a sign: what is counted without a column of token counts


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of the pool, of a target or of rows to exclude: at hand, or computed when first needed.

    Attributes:
        identity: Plain JSON that changes when the vectors would.
        load: Reads or embeds them.
        reload: The same, where `load` holds them in memory and they can be read again; or None.
        load_rows: Embeds those of some rows alone, where that costs less than all; or None.
        stored: A store they are read from chunk by chunk, in place of `load`; or None.
    """

    identity: dict[str, Any]
    load: Callable[[], Features]
    reload: Callable[[], Features] | None = None
    load_rows: Callable[[range], Features] | None = None
    stored: EmbeddingStore | None = None

    def read(self, rows: range | None = None) -> tuple[MatrixSource, dict[str, Any]]:
        """The vectors of consecutive rows, by default of all, which may stay on disk; and their recipe."""
        if rows is not None and self.load_rows is not None:
            features = self.load_rows(rows)
            return InMemoryMatrix(features.matrix), features.recipe
        source = self.stored
        recipe = self.identity
        if source is None:
            features = self.load()
            source, recipe = InMemoryMatrix(features.matrix), features.recipe
        return source if rows is None else row_range(source, rows), recipe


@dataclass(frozen=True, slots=True)
class Scores:
    """The score columns.

    Attributes:
        values: One column per judge, NaN where missing, (n, s).
        names: The columns' names.
        weights: How much each counts, or None where all count alike.
        quality: The exponent on the ranks.
        as_queries: Whether they stand in place of a target (`scores_as="queries"`).
        recipe: The same as plain JSON, with the number of missing values.
    """

    values: Tensor
    names: list[str]
    weights: list[float] | None
    quality: float
    as_queries: bool
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Categories:
    """The columns to cover.

    Attributes:
        weights: Column → weight.
        codes: For each column the number of each row's value, −1 where missing, (n,).
        names: `column=value` of every value, in order.
        recipe: The same as plain JSON.
    """

    weights: dict[str, float]
    codes: list[Tensor]
    names: list[str]
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PoolConstraints:
    """Initial rows, quotas and budget over the pool.

    Attributes:
        constraints: What `gip` keeps to.
        identity: The options as plain JSON, `initial_rows` as a digest: part of the cache key.
        columns: The columns that were read.
    """

    constraints: Constraints
    identity: dict[str, Any]
    columns: list[str]

    def record(self, picks: Tensor) -> dict[str, Any]:
        """What the record says about the constraints and about how the picks keep to them."""
        constraints = self.constraints
        record = {name: value for name, value in self.identity.items() if name != "initial_rows" and value is not None}
        if constraints.initial_rows is not None:
            record["initial_rows"] = len(constraints.initial_rows)
        if constraints.tokens is not None:
            record["tokens"] = int(constraints.tokens[picks].sum())
        if constraints.groups is not None and len(constraints.group_names) <= MAX_GROUPS_RECORDED:
            counts = Counter(constraints.groups[picks].tolist())
            record["groups"] = {
                name: counts[group] for group, name in enumerate(_group_names(constraints.group_names))
            }
        return record

    def blocked_reason(self, picks: Tensor, row: int) -> str:
        """Which constraint shut `row` out after the last pick, in words; empty where none did."""
        constraints = self.constraints
        if constraints.groups is not None and constraints.max_per_group is not None:
            group = int(constraints.groups[row])
            quota = int(constraints.max_per_group[group])
            if int(constraints.group_counts(picks)[group]) >= quota:
                return f"At the end it was not allowed: group {constraints.group(group)} had its {quota}."
        if constraints.max_tokens is not None and constraints.tokens is not None:
            remaining = constraints.max_tokens - int(constraints.tokens[picks].sum())
            if int(constraints.tokens[row]) > remaining:
                return (
                    f"At the end it was not allowed: it has {constraints.tokens[row]} tokens, {remaining} were left."
                )
        return ""


@dataclass(frozen=True, slots=True)
class GipProblem:
    """The tensors that `gip` is called with.

    Attributes:
        matrix: One row per example of the whole pool, (n, d); where ranks share it, of this rank's rows.
        queries: What the picks should capture, (m, d), or None for the allowed rows themselves.
        query_names: What each query is called: its number in the target, `column=value`, or None for the pool's own.
        allowed: Positions in it of the rows that are not excluded, (p,), or None where all are allowed.
        recipe: Where the queries come from, as plain JSON.
    """

    matrix: MatrixSource
    queries: Tensor | None
    query_names: list[int | str | None]
    allowed: Tensor | None
    recipe: dict[str, Any]

    def rows(self) -> MatrixSource:
        """The rows that may be chosen, (p, d)."""
        return self.matrix if self.allowed is None else select_rows(self.matrix, self.allowed)


@dataclass(frozen=True, slots=True)
class GipInputs:
    """What a selection is made from.

    Attributes:
        options: The options of the call.
        identity: Plain JSON that changes when the selection would: the options, and digests of all content read.
        features: The pool's vectors.
        target: The target's, or None for the pool itself.
        exclude: Those of the rows to exclude, or None.
        scores: The score columns, or None.
        categories: The columns to cover, or None.
        constraints: Initial rows, quotas and budget, or None.
    """

    options: GipOptions
    identity: dict[str, Any]
    features: Vectors
    target: Vectors | None
    exclude: Vectors | None
    scores: Scores | None
    categories: Categories | None
    constraints: PoolConstraints | None

    def precision(self) -> Tensor | None:
        """How far each row is trusted, (n,) in (0, 1], or None without scores."""
        if self.scores is None or self.scores.as_queries:
            return None
        return precision_from_scores(self.scores.values, quality=self.scores.quality, weights=self.scores.weights)

    def without_column(self) -> "GipInputs":
        """The same, where a column of vectors is read again when needed: what a result keeps."""
        features = self.features
        return self if features.reload is None else replace(self, features=Vectors(features.identity, features.reload))

    def load_matrix(self) -> Tensor:
        """The vectors of the whole pool in memory, which explanations and reports look at; halves as float32."""
        matrix = load_matrix(self.features.read()[0])
        return matrix.to(working_dtype(matrix.dtype))

    def load_target(self, d: int, dtype: torch.dtype) -> Features | None:
        """The target's vectors, whitened if the options say so, and their recipe; None for the pool itself.

        Args:
            d: Width of the features.
            dtype: Their type.

        Raises:
            ValueError: If they are not as wide as the features.
        """
        if self.target is None:
            return None
        target = self.target.load()
        check_matrix("target", target.matrix, width=d)
        matrix = whiten(target.matrix) if self.options.whiten else target.matrix
        recipe = target.recipe | {"m": len(matrix), "whitened": self.options.whiten} | _digest(matrix)
        return Features(matrix.to(working_dtype(dtype)), recipe)

    def find_excluded(self, features: MatrixSource, partition: RowPartition) -> dict[str, Any] | None:
        """The rows too close to `exclude`, each as [row, what it copies, cosine], with its recipe; None without one.

        Each rank looks through its own rows; all of them learn of every pair.

        Raises:
            ValueError: If the vectors are not as wide as the features.
        """
        if self.exclude is None:
            return None
        exclude, threshold = self.exclude.load(), self.options.exclude_threshold
        check_matrix("exclude", exclude.matrix, width=features.d)
        copies = zip(*(each.tolist() for each in find_copies(features, exclude.matrix, threshold)), strict=True)
        local_pairs = [[row + partition.offset, other, round(cosine, 4)] for row, other, cosine in copies]
        pairs = [pair for of_rank in all_gather(local_pairs, partition.group) for pair in of_rank]
        return exclude.recipe | {
            "m": len(exclude.matrix),
            **_digest(exclude.matrix),
            "above": threshold,
            "pairs": pairs,
        }

    def problem(
        self, features: MatrixSource, allowed: Tensor | None, partition: RowPartition | None = None
    ) -> GipProblem:
        """Target, pool and categories as one matrix of rows and one of queries, the same queries on all ranks.

        Args:
            features: The pool's vectors, or those of this rank's rows.
            allowed: Positions in them of the rows that are not excluded, or None.
            partition: Which rank holds which rows, *optional*, defaults to this process alone.
        """
        partition = partition or partition_rows(features.n, None)
        pool = features if allowed is None else select_rows(features, allowed)
        allowed_partition = partition_rows(pool.n, partition.group)
        target, weight = self.load_target(features.d, features.dtype), self.options.target_weight
        matrix, queries, recipe = features, None, {"kind": "pool"}
        names: list[int | str | None] = []
        if target is not None:
            queries, recipe = target.matrix, target.recipe
            names = [] if self.options.whiten else [*range(len(queries))]
            if weight not in (None, 1):
                queries = blend_target_and_pool(queries, pool, weight, allowed_partition)
        if weight is not None:
            recipe = recipe | {"weight": weight}
        if self.categories is not None:
            if queries is None:
                queries = gram_sqrt(pool, allowed_partition).to(working_dtype(pool.dtype))
            names = [*names, *[None] * (len(queries) - len(names)), *self.categories.names]
            energy, _ = mean_row_energy(pool, allowed_partition)
            local = slice(partition.offset, partition.offset + features.n)
            codes = [code[local] for code in self.categories.codes]
            sizes = [int(code.max()) + 1 for code in self.categories.codes]
            weights = list(self.categories.weights.values())
            matrix, queries = append_category_dims(matrix, queries, codes, sizes, weights, energy=energy)
        elif queries is not None:
            names = [*names, *[None] * (len(queries) - len(names))]
        return GipProblem(matrix, queries, names, allowed, recipe)


def read_inputs(dataset: Dataset, options: GipOptions) -> GipInputs:
    """Read all that a selection depends on; nothing long runs here.

    Cost: one pass over the columns read, for their values and for their digests.

    Raises:
        TypeError: If an option has the wrong kind.
        ValueError: If an option does not fit the data.
    """
    # Before vectors are read or an encoder is named, which takes seconds
    scores = None if options.scores is None else _read_scores(dataset, options)
    categories = None if options.cover_columns is None else _read_cover_columns(dataset, options.cover_columns)
    columns = [*(() if scores is None else scores.names), *(() if categories is None else categories.weights)]
    if isinstance(name := options.features, str) and name not in dataset.column_names and is_store(name):
        options = replace(options, features=open_embeddings(name))
    store = options.features if isinstance(options.features, EmbeddingStore) else None
    texts = text_recipe(dataset, options.columns, options.template) if options.features is None else None
    encoder = cache(lambda: _resolve_encoder(options, store))
    if store is not None:
        features = _stored_vectors(dataset, store)
        columns += store.recipe["columns"]
    elif texts is None:
        features = _read_features(dataset, options.features)
    else:
        features = _embedded_rows(dataset, texts, encoder())
        columns += texts.columns
    target, exclude = (_read_target(getattr(options, name), options, encoder) for name in ("target", "exclude"))
    constraints = _read_constraints(dataset, options, texts)
    columns += () if constraints is None else constraints.columns
    plain = ("objective", "pursuit", "noise", "diversity", "whiten", "exclude_threshold", "target_weight")
    identity = {name: getattr(options, name) for name in plain} | {
        "features": features.identity,
        "target": None if target is None else target.identity,
        "exclude": None if exclude is None else exclude.identity,
        "scores": None if scores is None else scores.recipe,
        "cover_columns": None if categories is None else categories.recipe,
        "limits": None if constraints is None else constraints.identity,
        "rows": hash_rows(dataset, columns),
    }
    return GipInputs(options, identity, features, target, exclude, scores, categories, constraints)


# --- vectors ---------------------------------------------------------------------------------------------------------


def _resolve_encoder(options: GipOptions, store: EmbeddingStore | None) -> EncoderRef:
    """The encoder of the pool's texts, and of a target's.

    Raises:
        ValueError: If it is not the one that a store was filled by.
    """
    default = DEFAULT_ENCODER if store is None else store.encoder_name()
    named, settings = default if options.encoder is None else options.encoder, options.encoder_kwargs
    if store is not None and settings is None and isinstance(named, str):
        settings = store.encoder_kwargs()
    if named is None:
        raise ValueError("`encoder` must be passed: texts are embedded by what filled the store, which only names it.")
    encoder = resolve_encoder(named, device=options.device, encoder_id=options.encoder_id, encoder_kwargs=settings)
    if store is not None and encoder.identity != store.recipe["encoder"]:
        raise ValueError(
            f"`encoder` must be the one that filled the store, got {encoder.identity} where {store.path!r} is of "
            f"{store.recipe['encoder']}: leave it out, or fill another store."
        )
    return encoder


def _stored_vectors(dataset: Dataset, store: EmbeddingStore) -> Vectors:
    """The vectors of a store of these very rows; they stay on disk. The recipe is that of texts embedded just now."""
    store.check_pool(dataset)
    recipe = {
        "kind": "text",
        "version": store.recipe["version"],
        **store.recipe["encoder"],
        "columns": store.recipe["columns"],
        "template": store.recipe["template"],
        "normalized": True,
        "dims": store.d,
        "empty_rows": store.manifest["empty_rows"],
        "stored_as": store.recipe["dtype"],
        "rounding_error": store.manifest["rounding_error"],
        "store": store.digest,
    }
    return Vectors(recipe, lambda: Features(load_matrix(store), recipe), stored=store)


def _read_features(dataset: Dataset, features: Any) -> Vectors:
    """The vectors brought along, a column or a matrix: checked once, hashed once.

    Raises:
        ValueError: If there is not one vector per row, or one is not finite.
    """
    is_column = isinstance(features, str)
    matrix = read_vectors(dataset, features) if is_column else features
    recipe: dict[str, Any] = {"kind": "column", "column": features} if is_column else {"kind": "matrix"}
    if len(matrix) != len(dataset):
        raise ValueError(
            f"`features` must have one row per example ({len(dataset)}), got {len(matrix)}: pass the vectors of this "
            "very dataset, in its order."
        )
    check_matrix("features", matrix)
    recipe |= _digest(matrix) | {"dims": matrix.shape[1]}
    reload = (lambda: Features(read_vectors(dataset, features), recipe)) if is_column else None
    return Vectors(recipe, lambda: Features(matrix, recipe), reload)


def _embedded_rows(dataset: Dataset, texts: TextRecipe, encoder: EncoderRef) -> Vectors:
    encoder_identity = identify_encoder(dataset, texts, encoder)
    identity = {**encoder_identity, "columns": list(texts.columns), "template": texts.template}

    def load_rows(rows: range) -> Features:
        is_half = encoder.half is not None and encoder.half.identity == encoder_identity
        of_pool = encoder.half if encoder.half is not None and is_half else replace(encoder, half=None)
        return embed_rows(dataset.select(rows), texts, of_pool)  # in the precision that the whole pool has

    return Vectors(identity, lambda: embed_rows(dataset, texts, encoder), load_rows=load_rows)


def _read_target(value: Any, options: GipOptions, encoder: Callable[[], EncoderRef]) -> Vectors | None:
    """The vectors of `target` or `exclude`: a matrix, texts, or rows with the column that the features come from."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        recipe = {"kind": "matrix", "given_sha256": hash_array(value)}
        return Vectors({"sha256": recipe["given_sha256"]}, lambda: Features(value, recipe))
    if isinstance(value, Dataset) and isinstance(column := options.features, str):
        return Vectors({"rows": hash_rows(value, [column])}, lambda: _column_of_target(value, column))
    named_by_pool = options.features is None and (options.encoder is None or isinstance(options.encoder, str))
    if isinstance(value, Dataset):
        shared = options.columns is not None and set(options.columns) <= set(value.column_names)
        texts = text_recipe(value, options.columns if shared else None)
        identity: dict[str, Any] = {"rows": hash_rows(value, texts.columns)}
        rows, load = value, lambda: _embedded_target(value, texts, encoder())
    else:
        identity = {"texts": hash_json({"texts": value})}
        rows, texts = Dataset.from_dict({"text": value}), TextRecipe(("text",))
        load = lambda: Features(embed_texts(value, encoder()), {"kind": "texts", "texts": list(value)})  # noqa: E731
    if not named_by_pool:
        identity["encoder"] = identify_encoder(rows, texts, encoder())
    return Vectors(identity, load)


def _column_of_target(rows: Dataset, column: str) -> Features:
    matrix = read_vectors(rows, column)
    return Features(matrix, {"kind": "dataset", "rows": len(rows), "given_sha256": hash_array(matrix)})


def _embedded_target(rows: Dataset, texts: TextRecipe, encoder: EncoderRef) -> Features:
    columns = list(texts.columns)
    recipe = {"kind": "dataset", "rows": len(rows), "columns": columns, "given_sha256": rows_digest(rows, columns)}
    return Features(embed_rows(rows, texts, encoder).matrix, recipe)


def _digest(matrix: Tensor) -> dict[str, Any]:
    return {"sha256": hash_array(matrix)}


# --- scores and categories -------------------------------------------------------------------------------------------


def _read_scores(dataset: Dataset, options: GipOptions) -> Scores:
    weights = _column_weights("scores", options.scores, "['helpfulness']")
    values, missing = read_scores(dataset, list(weights))
    quality = 1.0 if options.quality is None else float(options.quality)
    recipe = {"columns": list(weights), "missing": missing, "as": options.scores_as, "quality": quality}
    recipe["unscored_rows"] = int(values.isnan().all(dim=1).sum())
    weighted = isinstance(options.scores, Mapping)
    if weighted:
        recipe["weights"] = weights
    as_queries = options.scores_as == "queries"
    return Scores(values, list(weights), list(weights.values()) if weighted else None, quality, as_queries, recipe)


def _read_cover_columns(dataset: Dataset, columns: Sequence[str] | Mapping[str, float]) -> Categories:
    """The columns to cover, with their weights.

    Raises:
        ValueError: If a column is constant or has too many values.
    """
    weights = _column_weights("cover_columns", columns, "['source']")
    codes, names = [], []
    for name in weights:
        code, values = read_categories(dataset, name, argument="cover_columns")
        if not 2 <= len(values) <= MAX_CATEGORIES:
            raise ValueError(
                f"`cover_columns` column {name!r} must have 2 to {MAX_CATEGORIES} values, got {len(values)}: leave it "
                "out."
            )
        codes.append(code)
        names += [f"{name}={value}" for value in values]
    missing = {name: int((code < 0).sum()) for name, code in zip(weights, codes, strict=True)}
    return Categories(weights, codes, names, {"columns": weights, "missing": missing, "values": len(names)})


def _column_weights(argument: str, columns: Any, sample: str) -> dict[str, float]:
    """Columns with their weights, 1 each where only names are given.

    Raises:
        TypeError: If it is a string, empty, or something else.
        ValueError: If a weight is not above 0.
    """
    is_listed = isinstance(columns, Sequence | Mapping) and not isinstance(columns, str | bytes)
    if not is_listed or not columns or not all(isinstance(name, str) for name in columns):
        wrong, advice = describe_value(columns), ""
        if is_listed and columns:
            wrong = brief(next(name for name in columns if not isinstance(name, str))) + " in it"
        elif hasattr(columns, "__len__") and not isinstance(columns, str | bytes):
            advice = ": put values into a column with `dataset.add_column` and name it"
        raise TypeError(f"`{argument}` must be a list of column names such as {sample}, got {wrong}{advice}.")
    weights: dict[str, Any] = dict.fromkeys(columns, 1.0)
    if isinstance(columns, Mapping):
        weights = {name: plain_value(weight) for name, weight in columns.items()}
    for name, weight in weights.items():
        if not is_number(weight) or weight <= 0:
            raise ValueError(f"`{argument}` weights must be above 0 and finite, got {brief(weight)} for {name!r}.")
    return {name: float(weight) for name, weight in weights.items()}


# --- constraints -----------------------------------------------------------------------------------------------------


def _read_constraints(dataset: Dataset, options: GipOptions, texts: TextRecipe | None) -> PoolConstraints | None:
    """Initial rows, quotas and budget; None where there are none."""
    names = ("group_column", "max_per_group", "min_per_group", "max_tokens", "token_column", "initial_rows")
    identity = {name: getattr(options, name) for name in names}
    if all(value is None for value in identity.values()):
        return None
    constraints, columns = Constraints(max_tokens=options.max_tokens), []
    if options.initial_rows is not None:
        initial_rows = _read_positions(options.initial_rows, len(dataset))
        constraints = replace(constraints, initial_rows=initial_rows)
        identity["initial_rows"] = None if initial_rows is None else hash_array(initial_rows)
    if options.group_column is not None:
        columns.append(options.group_column)
        groups, values = read_categories(dataset, options.group_column, argument="group_column")
        if bool((groups < 0).any()):  # rows without a value are a group of their own
            groups, values = torch.where(groups < 0, len(values), groups), [*values, None]
        labels = getattr(dataset.features[options.group_column], "names", None)
        quotas = {}
        for name, default in (("max_per_group", len(dataset)), ("min_per_group", 0)):
            if isinstance(identity[name], Mapping):
                identity[name] = _quota_by_name(name, options, values, labels)
            quotas[name] = _quota_tensor(identity[name], values, default)
        constraints = replace(constraints, groups=groups, group_names=values, **quotas)
    if options.max_tokens is not None:
        tokens, read = _read_tokens(dataset, options, texts)
        columns += read
        constraints = replace(constraints, tokens=tokens)
    return PoolConstraints(constraints, identity, columns)


def _read_positions(rows: Any, n: int) -> Tensor | None:
    """Positions, or a mask of the pool, as positions; None where there are none.

    Raises:
        TypeError: If they are neither.
        ValueError: If the mask has another length.
    """
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        raise TypeError(f"`initial_rows` must be positions of rows or a mask, got {brief(rows)}.")
    try:
        positions = np.asarray(rows if hasattr(rows, "__array__") else list(rows))
    except ValueError:  # lists of uneven length
        positions = np.asarray(None)
    if positions.dtype == bool:
        if positions.shape != (n,):
            raise ValueError(
                f"`initial_rows` must have one flag per row ({n}) as a mask, got shape {positions.shape}."
            )
        positions = np.flatnonzero(positions)
    if positions.size and (positions.ndim != 1 or positions.dtype.kind not in "iu"):
        raise TypeError(
            f"`initial_rows` must be positions of rows or a mask, got {positions.ndim}-d {positions.dtype} values."
        )
    return torch.from_numpy(positions.astype(np.int64)) if positions.size else None


def _quota_by_name(name: str, options: GipOptions, values: list[Any], labels: list[str] | None) -> dict[str, int]:
    """A quota by the groups' names; those of a `ClassLabel` may be named by their numbers, too.

    Raises:
        ValueError: If a group is unknown.
    """
    names, quota = _group_names(values), {}
    for group, count in getattr(options, name).items():
        group = plain_value(group)
        is_number_of_label = labels is not None and type(group) is int and 0 <= group < len(labels)
        group_name = labels[group] if labels is not None and is_number_of_label else str(group)
        group_name = names[-1] if group is None and values[-1] is None else group_name
        if group_name not in names:
            listed = ", ".join(map(repr, values[:5])) + (", …" if len(values) > 5 else "")
            raise ValueError(f"`{name}` must name groups of {options.group_column!r} ({listed}), got {brief(group)}.")
        quota[group_name] = plain_value(count)
    return quota


def _quota_tensor(quota: Mapping[str, int] | int | None, values: list[Any], default: int) -> Tensor | None:
    """The quota of every group, from one number for all or one by group's name."""
    if quota is None:
        return None
    names = _group_names(values)
    by_name = quota if isinstance(quota, Mapping) else dict.fromkeys(names, quota)
    return torch.tensor([by_name.get(name, default) for name in names])


def _group_names(values: Sequence[Any]) -> list[str]:
    """The groups as text; the one of rows without a value, which is the last, never goes by the name of another."""
    names = [str(value) for value in values]
    while values and values[-1] is None and names[-1] in names[:-1]:
        names[-1] = f"({names[-1]})"
    return names


def _read_tokens(dataset: Dataset, options: GipOptions, texts: TextRecipe | None) -> tuple[Tensor, list[str]]:
    """What each row costs, and the columns that say so.

    Raises:
        ValueError: If there are neither counts nor texts.
    """
    if options.token_column is not None:
        return read_tokens(dataset, options.token_column), [options.token_column]
    try:
        texts = text_recipe(dataset) if texts is None else texts
    except ValueError as error:
        raise ValueError(
            f"`max_tokens` needs texts to count, or `token_column`, a column of token counts; got neither: {error}"
        ) from None
    counts = [max(1, len(TOKEN.findall(text))) for text in iter_texts(dataset, texts)]
    return torch.tensor(counts), list(texts.columns)
