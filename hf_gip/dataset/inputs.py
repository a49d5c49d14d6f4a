"""Everything a selection reads, checked and read once."""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Column, Dataset
from torch import Tensor

from hf_gip.core.constraints import Constraints
from hf_gip.core.gip import check_objective
from hf_gip.core.metrics import find_copies
from hf_gip.core.queries import (
    append_category_dims,
    blend_target_and_pool,
    default_ridge,
    gram_sqrt,
    precision_from_scores,
    whiten,
)
from hf_gip.core.validation import TOO_LARGE, brief, check_bool, check_int, check_matrix, is_number
from hf_gip.dataset.columns import read_categories, read_scores, read_tokens, read_vectors
from hf_gip.features.embed import Features, embed, embed_texts, identify_encoder
from hf_gip.features.encoders import DEFAULT_ENCODER, check_encoder_id
from hf_gip.features.text import check_no_transform, iter_texts, text_recipe
from hf_gip.hashing import hash_array, hash_json, hash_rows, rows_digest

DEFAULTS: Mapping[str, Any] = {  # of every argument that says what to choose by
    "scores": None,
    "scores_as": "precision",
    "target": None,
    "target_weight": None,
    "cover_columns": None,
    "features": None,
    "columns": None,
    "template": None,
    "encoder": None,
    "encoder_id": None,
    "objective": "projection",
    "noise": None,
    "diversity": None,
    "quality": None,
    "whiten": False,
    "exclude": None,
    "exclude_threshold": 0.9,
    "initial_rows": None,
    "group_column": None,
    "max_per_group": None,
    "min_per_group": None,
    "max_tokens": None,
    "token_column": None,
    "device": None,
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise unless the arguments go together and the numbers are in their ranges; the data are not looked at.

    Raises:
        ValueError: Naming the argument, the value found and what to do.
    """
    _check_combinations(options)
    _check_scores_as(options)


def _check_combinations(options: Mapping[str, Any]) -> None:
    _check_numbers(options)
    check_bool("whiten", options["whiten"])
    check_encoder_id(options["encoder_id"], options["encoder"])
    check_objective(options["objective"], 1.0 if options["noise"] is None else options["noise"])
    if options["quality"] is not None and options["scores"] is None:
        raise ValueError("`quality` weighs scores, got no `scores`: name the score columns too.")
    if options["whiten"] and options["target"] is None:
        raise ValueError("`whiten` weighs the directions of a target, got no `target`.")
    if options["target_weight"] is not None and options["target"] is None:
        raise ValueError("`target_weight` weighs a target against the pool, got no `target`.")
    if options["features"] is not None:
        for name in ("columns", "template"):
            if options[name] is not None:
                raise ValueError(f"`{name}` chooses texts to embed and has no use beside `features`: leave one out.")


def _check_scores_as(options: Mapping[str, Any]) -> None:
    """Scores in place of a target stand alone.

    Raises:
        ValueError: If the name is unknown, there are no scores, or another option says what is wanted as well.
    """
    if not isinstance(options["scores_as"], str) or options["scores_as"] not in ("precision", "queries"):
        raise ValueError(f'`scores_as` must be "precision" or "queries", got {brief(options["scores_as"])}.')
    if options["scores_as"] == "precision":
        return
    if options["scores"] is None:
        raise ValueError('`scores_as="queries"` needs scores, got no `scores`: name the score columns too.')
    wanted = {"target": options["target"] is not None, "quality": options["quality"] is not None}
    wanted |= {
        name: options[name] is not None for name in ("cover_columns", "group_column", "max_tokens", "initial_rows")
    }
    wanted["objective"] = options["objective"] != "projection"
    if given := [name for name, found in wanted.items() if found]:
        raise ValueError(
            f'`{given[0]}` has no meaning beside `scores_as="queries"`, where the scores are what is wanted: leave '
            "one of them out."
        )


def _check_numbers(options: Mapping[str, Any]) -> None:
    if options["quality"] is not None:
        precision_from_scores(torch.zeros(1, 1), quality=options["quality"])  # refuses a bad value
    if options["noise"] is not None and options["diversity"] is not None:
        raise ValueError("`noise` and `diversity` must not both be given: `diversity` only moves the default noise.")
    if options["diversity"] is not None:
        default_ridge(1, 1, towards_target=False, diversity=options["diversity"])  # refuses a bad value
    above, weight = options["exclude_threshold"], options["target_weight"]
    if not is_number(above) or not 0 < above <= 1:
        raise ValueError(f"`exclude_threshold` must be a cosine in (0, 1], got {brief(above)}.")
    if weight is not None and not (is_number(weight) and 0 < weight <= 1):
        raise ValueError(f"`target_weight` must be above 0 and at most 1 (the target alone), got {brief(weight)}.")


def quality_of(options: Mapping[str, Any]) -> float:
    """The exponent on the scores' ranks."""
    return 1.0 if options["quality"] is None else float(options["quality"])


NUMBERS = "fiub"  # numpy's kinds


def encoder_of(options: dict[str, Any]) -> Any:
    """The encoder asked for, or the default one."""
    return DEFAULT_ENCODER if options["encoder"] is None else options["encoder"]


# --- values of any library -------------------------------------------------------------------------------------------


def plain_value(value: Any) -> Any:
    """A number, frame, series, column or array of any library in the form that this package reads.

    Numbers of numpy and torch become Python's own, rows of numbers a tensor, texts a list, a table that holds texts a
    `Dataset`. Anything else comes back as it is, for the caller to refuse.
    """
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and not value.ndim):
        return value.item()
    if isinstance(value, str | bytes | int | float | Tensor | Dataset | Mapping) or value is None:
        return value
    if isinstance(value, pa.Table):
        return Dataset(value)  # pyright: ignore[reportArgumentType]
    if hasattr(value, "columns") and hasattr(value, "to_numpy"):  # a frame of pandas or polars
        return _plain_frame(value)
    return _as_tensor(_as_array(value))


def _as_array(value: Any) -> Any:
    """A series, a column or a list of vectors as an array, texts as a list; anything else as it is."""
    if isinstance(value, Column):
        value = value[:]  # pyright: ignore[reportArgumentType] — takes slices
    elif isinstance(value, pa.Array | pa.ChunkedArray):
        value = value.to_pylist()
    elif hasattr(value, "to_numpy"):  # a series of pandas or polars
        value = value.to_numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind not in NUMBERS:
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return value
    rows = [row.numpy(force=True) if isinstance(row, Tensor) else row for row in value]
    stacks = any(isinstance(row, np.ndarray) for row in rows) and len({np.shape(row) for row in rows}) == 1
    return np.stack(rows) if stacks else rows


def _as_tensor(value: Any) -> Any:
    """An array or lists of numbers as a tensor; anything else as it is, numbers in a row among them."""
    if isinstance(value, list) and not all(isinstance(row, list | tuple) for row in value or [0]):
        return value
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing here writes into it
            return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return value


def _plain_frame(frame: Any) -> Any:
    """A frame of numbers as a tensor, one with texts as a `Dataset`."""
    values = frame.to_numpy()
    if any(isinstance(value, str) for value in values.flat):
        return (
            Dataset(frame.to_arrow())
            if hasattr(frame, "to_arrow")
            else Dataset.from_pandas(frame, preserve_index=False)
        )
    try:
        return torch.from_numpy(np.array(values, dtype=np.float32 if values.dtype == np.float32 else np.float64))
    except (TypeError, ValueError):
        return frame


def plain_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the numbers of numpy and torch as Python's own, and lists of names of any library as lists."""
    numbers = {
        name: value.item()
        for name, value in options.items()
        if isinstance(value, np.generic | np.ndarray | Tensor) and not value.ndim
    }
    names = {
        name: listed
        for name in ("columns", "scores", "cover_columns")
        if isinstance(listed := plain_value(options.get(name)), list)
    }
    return {**options, **numbers, **names}


def described(value: Any) -> str:
    """What a value is, for an error: itself where it is short by nature, else its type."""
    return brief(value) if isinstance(value, str | bytes | int | float | list | tuple) else type(value).__name__


def as_matrix(name: str, value: Any, what: str) -> Tensor:
    """Numbers as a tensor.

    Raises:
        TypeError: If they are none.
    """
    matrix = plain_value(value)
    if not isinstance(matrix, Tensor):
        raise TypeError(f"`{name}` must be {what}, got {described(value)}.")
    return matrix


# --- the features ----------------------------------------------------------------------------------------------------


def read_features(dataset: Dataset, features: Any) -> Features:
    """The vectors brought along, a column or a matrix: checked once, hashed once.

    Raises:
        TypeError: If they are no numbers.
        ValueError: If there is not one vector per row, or one is not finite.
    """
    if isinstance(features, str):
        matrix, kind = read_vectors(dataset, features), {"kind": "column", "column": features}
    else:
        matrix = as_matrix("features", features, "a column's name or a matrix with a row per example")
        kind = {"kind": "matrix"}
    if len(matrix) != len(dataset):
        raise ValueError(
            f"`features` must have one row per example ({len(dataset)}), got {len(matrix)}: pass the vectors of this "
            "very dataset, in its order."
        )
    check_matrix("features", matrix)
    return Features(matrix, kind | {"sha256": hash_array(matrix), "dims": matrix.shape[1]})


def text_request(dataset: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    """What names the embeddings of the rows' texts.

    Raises:
        ValueError: If a column is unknown.
    """
    recipe = text_recipe(dataset, options["columns"], options["template"])
    return {
        **_encoder_identity(dataset, options, options["columns"], options["template"]),
        "columns": list(recipe.columns),
        "template": recipe.template,
    }


# --- target and exclude ----------------------------------------------------------------------------------------------


def read_beside(name: str, options: dict[str, Any]) -> Any:
    """What is given beside the pool as `target` or `exclude`: a Dataset, a list of texts or a tensor.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, shown through a transform, or cannot be brought to the features' width.
    """
    value = plain_value(options[name])
    if value is None or isinstance(value, Tensor):
        return value
    if not isinstance(value, Dataset | Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"`{name}` must be a Dataset, a list of texts or a matrix, got {type(value).__name__}.")
    if isinstance(options["features"], Tensor) and options["encoder"] is None:
        raise ValueError(
            f"`{name}` must be a matrix of the features' width when `features` is a matrix: embed it the same way, or "
            "name the `encoder` that made the features."
        )
    if not len(value):
        raise ValueError(f"`{name}` must hold at least one row or text, got none.")
    if isinstance(value, Dataset):
        check_no_transform(name, value)
    elif wrong := [text for text in value if not isinstance(text, str)]:
        raise TypeError(f"`{name}` must be a list of texts, got an element of type {type(wrong[0]).__name__}.")
    return value


def beside_request(value: Any, options: dict[str, Any]) -> dict[str, Any] | None:
    """The content of `target` or `exclude`, as far as it is read."""
    if value is None:
        return None
    if isinstance(value, Tensor):
        return {"sha256": hash_array(value)}
    request: dict[str, Any]
    if isinstance(value, Dataset):
        columns = columns_beside(value, options)
        request, embedded = {"rows": hash_rows(value, columns)}, not isinstance(options["features"], str)
    else:
        request, embedded, columns = {"texts": hash_json({"texts": value})}, True, ["text"]
        value = Dataset.from_dict({"text": value})
    if embedded and not (options["features"] is None and isinstance(encoder_of(options), str)):
        request["encoder"] = _encoder_identity(value, options, columns)  # a name that made the features stands there
    return request


def _encoder_identity(
    rows: Dataset, options: dict[str, Any], columns: Sequence[str] | None, template: str | None = None
) -> dict[str, Any]:
    """What the encoder is, for the texts of `rows`."""
    how = {"device": options["device"], "encoder_id": options["encoder_id"]}
    return identify_encoder(rows, encoder_of(options), columns=columns, template=template, **how)


def columns_beside(rows: Dataset, options: dict[str, Any]) -> list[str]:
    """The columns that are read of a target or of rows to exclude: those of the pool where it has them."""
    if isinstance(options["features"], str):
        return [options["features"]]
    columns = options["columns"]
    columns = columns if columns and set(columns) <= set(rows.column_names) else None
    return list(text_recipe(rows, columns).columns)


MOST = 1_000  # values of a column to be covered: each is a coordinate more


@dataclass(frozen=True, slots=True)
class Categories:
    """The columns to cover.

    Attributes:
        weights: Column → weight.
        codes: For each column the number of each row's value, −1 where missing, (n,).
        names: `column=value` of every value, in order.
    """

    weights: dict[str, float]
    codes: list[Tensor]
    names: list[str]

    @property
    def recipe(self) -> dict[str, Any]:
        """The same as plain JSON."""
        missing = {name: int((code < 0).sum()) for name, code in zip(self.weights, self.codes, strict=True)}
        return {"columns": self.weights, "missing": missing, "values": len(self.names)}


def read_cover(dataset: Dataset, cover_columns: Sequence[str] | Mapping[str, float]) -> Categories:
    """The columns named in `cover_columns`, with their weights.

    Raises:
        TypeError: If `cover_columns` is a string or empty.
        ValueError: If a column is unknown, of another kind, constant or has too many values, or a weight is
            not above 0.
    """
    weights = column_weights("cover_columns", cover_columns, "['source']")
    codes, names = [], []
    for name in weights:
        code, values = read_categories(dataset, name, argument="cover_columns")
        if not 2 <= len(values) <= MOST:
            raise ValueError(
                f"`cover_columns` column {name!r} must have 2 to {MOST} values, got {len(values)}: leave it out."
            )
        codes.append(code)
        names += [f"{name}={value}" for value in values]
    return Categories(weights, codes, names)


def column_weights(argument: str, given: Sequence[str] | Mapping[str, float], sample: str) -> dict[str, float]:
    """Columns with their weights, 1 each where only names are given.

    Raises:
        TypeError: If it is a string, empty, or something else.
        ValueError: If a weight is not above 0.
    """
    if not isinstance(given, Sequence | Mapping) or isinstance(given, str | bytes) or not given:
        values = hasattr(given, "__len__") and not isinstance(given, str | bytes) and given is not None
        advice = ": put values into a column with `dataset.add_column` and name it" if values else ""
        raise TypeError(
            f"`{argument}` must be a list of column names such as {sample}, got {described(given)}{advice}."
        )
    if wrong := [name for name in given if not isinstance(name, str)]:
        raise TypeError(f"`{argument}` must be a list of column names such as {sample}, got {brief(wrong[0])} in it.")
    weights = dict.fromkeys(given, 1.0)
    if isinstance(given, Mapping):
        weights = {name: plain_value(weight) for name, weight in given.items()}
    for name, weight in weights.items():
        if not is_number(weight) or weight <= 0:
            raise ValueError(f"`{argument}` weights must be above 0 and finite, got {brief(weight)} for {name!r}.")
    return {name: float(weight) for name, weight in weights.items()}


TOKEN = re.compile(r"\w+|[^\w\s]")  # a word or a sign: what is counted where no column says how many tokens there are
TOLD = 1_000  # groups up to which the record counts each


@dataclass(frozen=True, slots=True)
class Limited:
    """The limits of a call.

    Attributes:
        limits: What the core keeps to.
        request: The same as plain JSON, `initial_rows` as a digest: part of the cache key.
        columns: The columns that were read.
    """

    limits: Constraints
    request: dict[str, Any]
    columns: list[str]

    def record(self, indices: Tensor) -> dict[str, Any]:
        """What the record says about the limits and about how the picks keep to them."""
        told = {name: value for name, value in self.request.items() if name != "initial_rows" and value is not None}
        limits = self.limits
        if limits.initial_rows is not None:
            told["initial_rows"] = len(limits.initial_rows)
        if limits.tokens is not None:
            told["tokens"] = int(limits.tokens[indices].sum())
        if limits.groups is not None and len(limits.group_names) <= TOLD:
            counts = Counter(limits.groups[indices].tolist())
            told["groups"] = {str(name): counts[group] for group, name in enumerate(limits.group_names)}
        return told

    def blocked_reason(self, indices: Tensor, row: int) -> str:
        """Which limit shut a row out once `indices` were picked, in words; empty where none did."""
        limits = self.limits
        if limits.groups is not None and limits.max_per_group is not None:
            group = int(limits.groups[row])
            if int(limits.group_counts(indices)[group]) >= int(limits.max_per_group[group]):
                quota = limits.max_per_group[group]
                return f"At the end it was not allowed: group {limits.group(group)} had its {quota}."
        if limits.max_tokens is not None and limits.tokens is not None:
            left = limits.max_tokens - int(limits.tokens[indices].sum())
            if int(limits.tokens[row]) > left:
                return f"At the end it was not allowed: it has {limits.tokens[row]} tokens, {left} were left."
        return ""


def gather_limits(dataset: Dataset, options: Mapping[str, Any]) -> Limited | None:
    """The limits among the arguments, or None where there are none.

    Raises:
        TypeError: If an argument has the wrong kind.
        ValueError: If an argument does not fit the data or another argument.
    """
    names = ("group_column", "max_per_group", "min_per_group", "max_tokens", "token_column", "initial_rows")
    given = {name: options[name] for name in names}
    if all(value is None for value in given.values()):
        return None
    _check_pairs(given)
    initial_rows = None if given["initial_rows"] is None else _positions(given["initial_rows"], len(dataset))
    request, columns, groups, values, most, least, tokens = dict(given), [], None, [], None, None, None
    request["initial_rows"] = None if initial_rows is None else hash_array(initial_rows)
    if given["group_column"] is not None:
        groups, values = _groups(dataset, given["group_column"])
        columns.append(given["group_column"])
        labels = getattr(dataset.features[given["group_column"]], "names", None)
        for name in ("max_per_group", "min_per_group"):
            if isinstance(given[name], Mapping):
                request[name] = _by_name(name, given, values, labels)
        most = _quota(request["max_per_group"], values, len(dataset))
        least = _quota(request["min_per_group"], values, 0)
    if given["max_tokens"] is not None:
        tokens, read = _tokens(dataset, options)
        columns += read
    return Limited(
        Constraints(initial_rows, groups, values, most, least, tokens, given["max_tokens"]), request, columns
    )


def _check_pairs(given: Mapping[str, Any]) -> None:
    quotas = [name for name in ("max_per_group", "min_per_group") if given[name] is not None]
    if quotas and given["group_column"] is None:
        raise ValueError(f"`{quotas[0]}` needs `group_column`, got None: name the column that holds the groups.")
    if given["group_column"] is not None and not quotas:
        raise ValueError("`group_column` is for quotas, got none: give `max_per_group` or `min_per_group` too.")
    if given["token_column"] is not None and given["max_tokens"] is None:
        raise ValueError("`token_column` is for a budget, got none: give `max_tokens` too.")
    for name in ("max_per_group", "min_per_group"):
        if not isinstance(given[name], Mapping):
            _check_quota(name, given[name])
    check_int("max_tokens", given["max_tokens"], optional=True)


def _positions(initial_rows: Any, n: int) -> Tensor | None:
    """Positions, or a mask of the pool, as positions; None where there are none.

    Raises:
        TypeError: If they are neither.
        ValueError: If the mask has another length.
    """
    if isinstance(initial_rows, str | bytes | Mapping) or not isinstance(initial_rows, Iterable):
        raise TypeError(f"`initial_rows` must be positions of rows or a mask, got {brief(initial_rows)}.")
    try:
        found = np.asarray(initial_rows if hasattr(initial_rows, "__array__") else list(initial_rows))
    except ValueError:  # lists of uneven length
        found = np.asarray(None)
    if found.dtype == bool:
        if found.shape != (n,):
            raise ValueError(f"`initial_rows` must have one flag per row ({n}) as a mask, got shape {found.shape}.")
        found = np.flatnonzero(found)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):
        raise TypeError(
            f"`initial_rows` must be positions of rows or a mask, got {found.ndim}-d {found.dtype} values."
        )
    return torch.from_numpy(found.astype(np.int64)) if found.size else None


def _groups(dataset: Dataset, name: str) -> tuple[Tensor, list[Any]]:
    """Each row's group; rows without a value are a group of their own, called None."""
    codes, values = read_categories(dataset, name, argument="group_column")
    if bool((codes < 0).any()):
        codes, values = torch.where(codes < 0, len(values), codes), [*values, None]
    return codes, values


def _by_name(name: str, given: Mapping[str, Any], values: list[Any], labels: list[str] | None) -> dict[str, int]:
    """A quota by the groups' names; those of a `ClassLabel` may be named by their numbers, too.

    Raises:
        ValueError: If a group is unknown, or a number is none.
    """
    names, quota = [str(value) for value in values], {}
    for group, count in given[name].items():
        group = plain_value(group)
        numbered = labels is not None and type(group) is int and 0 <= group < len(labels)
        called = labels[group] if labels is not None and numbered else str(group)
        if called not in names:
            known = ", ".join(map(repr, values[:5])) + (", …" if len(values) > 5 else "")
            raise ValueError(f"`{name}` must name groups of {given['group_column']!r} ({known}), got {brief(group)}.")
        quota[called] = _check_quota(name, plain_value(count))
    return quota


def _check_quota(name: str, count: Any) -> Any:
    """Raise unless it is a number of rows, or None.

    Raises:
        ValueError: If it is anything else.
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < TOO_LARGE):
        raise ValueError(f"`{name}` must be whole numbers of at least 0, got {described(count)}.")
    return count


def _quota(quota: Mapping[str, int] | int | None, values: list[Any], default: int) -> Tensor | None:
    """The quota of every group, from one number for all or one by group's name."""
    if quota is None:
        return None
    by_name = quota if isinstance(quota, Mapping) else dict.fromkeys(map(str, values), quota)
    return torch.tensor([by_name.get(str(value), default) for value in values])


def _tokens(dataset: Dataset, options: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
    """What each row costs, and the columns that say so.

    Raises:
        ValueError: If there are neither counts nor texts.
    """
    if options["token_column"] is not None:
        return read_tokens(dataset, options["token_column"]), [options["token_column"]]
    try:
        recipe = text_recipe(dataset, options["columns"], options["template"])
    except ValueError as error:
        raise ValueError(
            f"`max_tokens` needs texts to count, or `token_column`, a column of token counts; got neither: {error}"
        ) from None
    counts = [max(1, len(TOKEN.findall(text))) for text in iter_texts(dataset, recipe)]
    return torch.tensor(counts), list(recipe.columns)


@dataclass(frozen=True, slots=True)
class Problem:
    """What `gip` is handed.

    Attributes:
        matrix: One row per example of the whole pool, (n, d).
        queries: What is asked, (m, d), or None for the rows that are not excluded.
        names: What each query is called: its number in the target, `column=value`, or None for the pool's own.
        kept: The rows that are not excluded, or None where all are kept.
        recipe: Where the queries come from, as plain JSON.
    """

    matrix: Tensor
    queries: Tensor | None
    names: list[int | str | None]
    kept: Tensor | None
    recipe: dict[str, Any]

    def rows(self) -> Tensor:
        """The rows that may be chosen."""
        return self.matrix if self.kept is None else self.matrix[self.kept]


@dataclass(frozen=True, slots=True)
class Signals:
    """What a selection is made from.

    Attributes:
        dataset: The pool.
        options: The arguments, values of any library in the form that is read here.
        request: The same as plain JSON, rows, vectors and texts replaced by digests of their content: the cache key.
        scores: One column per judge with NaN where missing, (n, s), or None.
        score_recipe: How many scores each column misses and how they are used, or None.
        categories: The columns whose values are to be covered, or None.
        limited: Quotas, given rows and budget, or None.
        vectors: The vectors brought along, checked and hashed, or None where they are to be read or computed.
    """

    dataset: Dataset
    options: dict[str, Any]
    request: dict[str, Any]
    scores: Tensor | None
    score_recipe: dict[str, Any] | None
    categories: Categories | None
    limited: Limited | None
    vectors: Features | None

    def features(self) -> Features:
        """The pool's vectors: the ones brought along, or text embeddings."""
        if self.vectors is not None:
            return self.vectors
        if self.options["features"] is not None:
            return read_features(self.dataset, self.options["features"])
        options = {name: self.options[name] for name in ("columns", "template", "device", "encoder_id")}
        return embed(self.dataset, encoder_of(self.options), **options)

    def without_column(self) -> "Signals":
        """The same, vectors of a column read anew when they are wanted: what a result keeps of its signals."""
        return replace(self, vectors=None) if isinstance(self.options["features"], str) else self

    def queries(self, features: Features) -> Features | None:
        """The target's vectors, or None for the pool itself."""
        target = self.options["target"]
        if target is None:
            return None
        matrix, recipe = self._like_features(target)
        check_matrix("target", matrix, width=features.matrix.shape[1])
        if self.options["whiten"]:
            matrix = whiten(matrix)
        recipe |= {"m": len(matrix), "whitened": self.options["whiten"], "sha256": hash_array(matrix)}
        return Features(matrix.to(features.matrix.dtype), recipe)

    def precision(self) -> Tensor | None:
        """How far each row is trusted, (n,) in (0, 1], or None without scores."""
        if self.scores is None or self.options["scores_as"] == "queries":
            return None
        weights = list((self.score_recipe or {}).get("weights", {}).values()) or None
        return precision_from_scores(self.scores, quality=quality_of(self.options), weights=weights)

    def problem(self, features: Features, kept: Tensor | None) -> Problem:
        """Target, pool and categories as one matrix of rows and one of queries."""
        asked = self.queries(features)
        queries = None if asked is None else asked.matrix
        names: list[int | str | None] = [] if queries is None or self.options["whiten"] else [*range(len(queries))]
        matrix = features.matrix
        pool = matrix if kept is None else matrix[kept]
        weight = self.options["target_weight"]
        if queries is not None and weight not in (None, 1):
            queries = blend_target_and_pool(queries, pool, weight)
        if self.categories is not None:
            queries = gram_sqrt(pool).to(matrix) if queries is None else queries
            energy = float(torch.linalg.vector_norm(pool, dim=1, dtype=torch.float64).square().mean())
            chosen = (self.categories.codes, list(self.categories.weights.values()))
            matrix, queries = append_category_dims(matrix, queries, *chosen, energy=energy)
            own = len(queries) - len(self.categories.names)
            names = [*names, *[None] * (own - len(names)), *self.categories.names]
        elif queries is not None:
            names += [None] * (len(queries) - len(names))
        recipe = {"kind": "pool"} if asked is None else asked.recipe
        if weight is not None:
            recipe = recipe | {"weight": weight}
        return Problem(matrix, queries, names, kept, recipe)

    def told(self, indices: Tensor) -> dict[str, Any]:
        """What the record says about categories and limits, nothing where there are none."""
        cover_columns = {} if self.categories is None else {"cover_columns": self.categories.recipe}
        return cover_columns if self.limited is None else cover_columns | {"limits": self.limited.record(indices)}

    def exclusions(self, features: Features) -> dict[str, Any] | None:
        """The rows to leave out as near copies of `exclude`, each with what it copies, or None where none was given.

        Raises:
            ValueError: If too few rows remain for `k`.
        """
        exclude, above = self.options["exclude"], self.options["exclude_threshold"]
        if exclude is None:
            return None
        matrix, recipe = self._like_features(exclude)
        check_matrix("exclude", matrix, width=features.matrix.shape[1])
        rows, others, cosines = find_copies(features.matrix, matrix, above)
        pairs = [
            [row, other, round(cosine, 4)]
            for row, other, cosine in zip(rows.tolist(), others.tolist(), cosines.tolist(), strict=True)
        ]
        return recipe | {"m": len(matrix), "sha256": hash_array(matrix), "above": above, "pairs": pairs}

    def _like_features(self, target: Any) -> tuple[Tensor, dict[str, Any]]:
        if isinstance(target, Dataset):
            recipe: dict[str, Any] = {"kind": "dataset", "rows": len(target)}
            if isinstance(column := self.options["features"], str):
                matrix = read_vectors(target, column)
                return matrix, recipe | {"given_sha256": hash_array(matrix)}
            columns = columns_beside(target, self.options)
            options = {name: self.options[name] for name in ("device", "encoder_id")}
            embedded = embed(target, encoder_of(self.options), columns=columns, **options)
            return embedded.matrix, recipe | {"columns": columns, "given_sha256": rows_digest(target, columns)}
        if isinstance(target, Tensor):
            return target, {"kind": "matrix", "given_sha256": hash_array(target)}
        vectors = embed_texts(target, encoder_of(self.options), device=self.options["device"])
        return vectors, {"kind": "texts", "texts": list(target)}


def gather_signals(dataset: Dataset, options: Mapping[str, Any]) -> Signals:
    """Check every argument against the data and name what the selection depends on; nothing long runs here.

    Raises:
        TypeError: If an argument has the wrong kind.
        ValueError: If an argument does not fit the data or another argument.
    """
    options = plain_options({**DEFAULTS, **options})
    check_options(options)
    # before vectors are read or an encoder is opened, which takes seconds
    scores, recipe = (None, None) if options["scores"] is None else _scores(dataset, options)
    categories = None if options["cover_columns"] is None else read_cover(dataset, options["cover_columns"])
    columns = [*(recipe or {}).get("columns", ()), *({} if categories is None else categories.weights)]
    plain = ("objective", "noise", "diversity", "whiten", "exclude_threshold", "target_weight")
    request = {name: options[name] for name in plain}
    vectors = None
    if options["features"] is None:
        request["features"] = text_request(dataset, options)
        columns += request["features"]["columns"]
    else:
        vectors = read_features(dataset, options["features"])
        request["features"] = vectors.recipe
        if not isinstance(options["features"], str):
            options["features"] = vectors.matrix
    for name in ("target", "exclude"):
        options[name] = read_beside(name, options)
        request[name] = beside_request(options[name], options)
    limited = gather_limits(dataset, options)
    request |= {
        "scores": recipe,
        "cover_columns": None if categories is None else categories.recipe,
        "limits": None if limited is None else limited.request,
        "rows": hash_rows(dataset, [*columns, *([] if limited is None else limited.columns)]),
    }
    return Signals(dataset, options, request, scores, recipe, categories, limited, vectors)


def _scores(dataset: Dataset, options: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    weights = column_weights("scores", options["scores"], "['helpfulness']")
    scores, missing = read_scores(dataset, list(weights))
    quality = quality_of(options)
    recipe = {"columns": list(weights), "missing": missing, "as": options["scores_as"], "quality": quality}
    recipe["unscored_rows"] = int(scores.isnan().all(dim=1).sum())
    if isinstance(options["scores"], Mapping):
        recipe["weights"] = weights
    return scores, recipe
