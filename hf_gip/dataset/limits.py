"""Quotas, given rows and token budgets of `gip_select`: read from the dataset, checked, and told in the record."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_gip.core.constraints import Constraints
from hf_gip.core.validation import TOO_LARGE, brief, check_int
from hf_gip.dataset.columns import read_categories, read_tokens
from hf_gip.dataset.requests import described, plain_value
from hf_gip.features.text import iter_texts, text_recipe
from hf_gip.hashing import hash_array

TOKEN = re.compile(r"\w+|[^\w\s]")  # a word or a sign: what is counted where no column says how many tokens there are
TOLD = 1_000  # groups up to which the record counts each


@dataclass(frozen=True, slots=True)
class Limited:
    """The limits of a call.

    Attributes:
        limits: What the core keeps to.
        request: The same as plain JSON, `include` as a digest: part of the cache key.
        columns: The columns that were read.
    """

    limits: Constraints
    request: dict[str, Any]
    columns: list[str]

    def record(self, indices: Tensor) -> dict[str, Any]:
        """What the record says about the limits and about how the picks keep to them."""
        told = {name: value for name, value in self.request.items() if name != "include" and value is not None}
        limits = self.limits
        if limits.initial_rows is not None:
            told["include"] = len(limits.initial_rows)
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
    names = ("group_column", "max_per_group", "min_per_group", "budget_tokens", "token_column", "include")
    given = {name: options[name] for name in names}
    if all(value is None for value in given.values()):
        return None
    _check_pairs(given)
    include = None if given["include"] is None else _positions(given["include"], len(dataset))
    request, columns, groups, values, most, least, tokens = dict(given), [], None, [], None, None, None
    request["include"] = None if include is None else hash_array(include)
    if given["group_column"] is not None:
        groups, values = _groups(dataset, given["group_column"])
        columns.append(given["group_column"])
        labels = getattr(dataset.features[given["group_column"]], "names", None)
        for name in ("max_per_group", "min_per_group"):
            if isinstance(given[name], Mapping):
                request[name] = _by_name(name, given, values, labels)
        most = _quota(request["max_per_group"], values, len(dataset))
        least = _quota(request["min_per_group"], values, 0)
    if given["budget_tokens"] is not None:
        tokens, read = _tokens(dataset, options)
        columns += read
    return Limited(Constraints(include, groups, values, most, least, tokens, given["budget_tokens"]), request, columns)


def _check_pairs(given: Mapping[str, Any]) -> None:
    quotas = [name for name in ("max_per_group", "min_per_group") if given[name] is not None]
    if quotas and given["group_column"] is None:
        raise ValueError(f"`{quotas[0]}` needs `group_column`, got None: name the column that holds the groups.")
    if given["group_column"] is not None and not quotas:
        raise ValueError("`group_column` is for quotas, got none: give `max_per_group` or `min_per_group` too.")
    if given["token_column"] is not None and given["budget_tokens"] is None:
        raise ValueError("`token_column` is for a budget, got none: give `budget_tokens` too.")
    for name in ("max_per_group", "min_per_group"):
        if not isinstance(given[name], Mapping):
            _check_quota(name, given[name])
    check_int("budget_tokens", given["budget_tokens"], optional=True)


def _positions(include: Any, n: int) -> Tensor | None:
    """Positions, or a mask of the pool, as positions; None where there are none.

    Raises:
        TypeError: If they are neither.
        ValueError: If the mask has another length.
    """
    if isinstance(include, str | bytes | Mapping) or not isinstance(include, Iterable):
        raise TypeError(f"`include` must be positions of rows or a mask, got {brief(include)}.")
    try:
        found = np.asarray(include if hasattr(include, "__array__") else list(include))
    except ValueError:  # lists of uneven length
        found = np.asarray(None)
    if found.dtype == bool:
        if found.shape != (n,):
            raise ValueError(f"`include` must have one flag per row ({n}) as a mask, got shape {found.shape}.")
        found = np.flatnonzero(found)
    if found.size and (found.ndim != 1 or found.dtype.kind not in "iu"):
        raise TypeError(f"`include` must be positions of rows or a mask, got {found.ndim}-d {found.dtype} values.")
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
            f"`budget_tokens` needs texts to count, or `token_column`, a column of token counts; got neither: {error}"
        ) from None
    counts = [max(1, len(TOKEN.findall(text))) for text in iter_texts(dataset, recipe)]
    return torch.tensor(counts), list(recipe.columns)
