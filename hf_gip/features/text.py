"""Rows → texts: which columns hold the words, and how one row becomes one string."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from datasets import Dataset, Json, LargeList, List, Value

from hf_gip.core.validation import brief, check_type
from hf_gip.features.chat import CALLS, CONTENT, UnreadableChatError, not_text, value_words

LAYOUTS: tuple[tuple[str, ...], ...] = (  # the usual SFT layouts, most specific first
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("instruction", "input", "output"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
    ("text",),
)
BATCH_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class TextRecipe:
    r"""How a row becomes a text: its columns joined by newlines, or a template filled with them.

    Attributes:
        columns: The columns read, in order.
        template: A format string such as `"Q: {question}\nA: {answer}"`, or None for the non-empty columns joined.
    """

    columns: tuple[str, ...]
    template: str | None = None

    def render(self, row: Mapping[str, Any]) -> str:
        """One row as one text; chat columns contribute what their turns say, and the tools that these call.

        Raises:
            ValueError: If a value is no text, or no turn of a chat has any.
        """
        words = {name: value_words(row[name], name) for name in self.columns}
        if self.template is None:
            return "\n".join(part for part in words.values() if part.strip())
        return "".join(piece.fill(words) for piece in _parse(self.template, self.columns))


class _Piece(NamedTuple):
    """A column's place in a template with the literal text before it; the last piece has no column."""

    literal: str
    column: str | None = None
    conversion: str = ""
    spec: str = ""

    def fill(self, words: Mapping[str, str]) -> str:
        if self.column is None:
            return self.literal
        text = words[self.column]
        return self.literal + format({"r": repr, "a": ascii}.get(self.conversion, str)(text), self.spec)


def check_no_transform(name: str, dataset: Dataset) -> None:
    """Raise if `dataset` shows its rows through a function: only what is stored is read, saved and published.

    Raises:
        ValueError: If `with_transform` or `set_transform` was called on it.
    """
    if dataset.format["type"] == "custom":
        raise ValueError(
            f"`{name}` must hold the rows that it shows, got a dataset with a transform (`with_transform` or "
            "`set_transform`): apply the function with `map`, or drop it with `with_format(None)`."
        )


def check_rows(name: str, dataset: Any, advice: str = "") -> None:
    """Raise unless `dataset` holds rows that can be read from the start to the end.

    Raises:
        TypeError: If it is no map-style dataset; the message ends with `advice`.
        ValueError: If it is empty, or shown through a transform.
    """
    check_type(name, dataset, Dataset, "a `datasets.Dataset`", advice)
    check_no_transform(name, dataset)
    if not len(dataset):
        raise ValueError(f"`{name}` must have at least one row, got 0: check the split or the filter before it.")


def text_recipe(dataset: Dataset, columns: Sequence[str] | None = None, template: str | None = None) -> TextRecipe:
    """Find the text columns of `dataset`, or check the ones asked for.

    Args:
        dataset: The rows.
        columns: Columns to read instead of the detected layout, in the order their texts are joined.
        template: A format string naming the columns in braces, instead of joining. A name is a column's whole name,
            whatever characters it has (`{answers.text}`, `{0}`); conversions and formats are those of `str.format`.

    Returns:
        The recipe, ready to render rows.

    Raises:
        TypeError: If `columns` is no list of names or `template` no text.
        ValueError: If a column is unknown or holds no text, the template is malformed, or no known layout fits.
    """
    if columns is not None and template is not None:
        raise ValueError("`columns` and `template` must not both be given: the template names its columns itself.")
    if template is not None:
        if not isinstance(template, str):
            raise TypeError(f"`template` must be a text such as '{{title}}: {{body}}', got {brief(template)}.")
        pieces = _parse(template, tuple(dataset.column_names))
        columns = tuple(dict.fromkeys(piece.column for piece in pieces if piece.column is not None))
        if not columns:
            raise ValueError(f"`template` must name at least one column in braces, got {template!r}.")
    columns = _detect(dataset) if columns is None else columns
    _check_columns(dataset, columns)
    return TextRecipe(tuple(columns), template)


def has_layout(dataset: Dataset) -> bool:
    """Whether the columns are those of a known layout."""
    return any(set(layout) <= set(dataset.column_names) for layout in LAYOUTS)


def iter_texts(dataset: Dataset, recipe: TextRecipe) -> Iterator[str]:
    """The rows' texts in order, read batch by batch through Arrow; an indices mapping is respected.

    Raises:
        UnreadableChatError: If chats have no text under a known key, with their number.
        ValueError: If a value is no text.
    """
    for position, row in enumerate(_rows(dataset, recipe)):
        try:
            text = recipe.render(row)
        except UnreadableChatError as error:
            count = sum(_is_unreadable(row, recipe) for row in _rows(dataset, recipe))
            raise UnreadableChatError(f"{count:,} of {len(dataset):,} rows, first row {position}: {error}") from None
        yield text


def _rows(dataset: Dataset, recipe: TextRecipe) -> Iterator[Any]:
    table = dataset.select_columns(list(recipe.columns))
    if "arrow.json" in str(table.data.schema):  # columns of several kinds, whose values Arrow would show as JSON
        yield from table.with_format(None)
        return
    for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
        yield from batch.to_pylist()  # pyright: ignore[reportAttributeAccessIssue] — the arrow format yields tables


def _is_unreadable(row: Mapping[str, Any], recipe: TextRecipe) -> bool:
    try:
        recipe.render(row)
    except UnreadableChatError:
        return True
    except ValueError:  # another mistake, said when its turn comes
        return False
    return False


# --- templates ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _parse(template: str, columns: tuple[str, ...]) -> tuple[_Piece, ...]:
    """The pieces of a template; a field is a column's whole name, in which nothing is looked up.

    Raises:
        ValueError: If a field names no column, has no end, or asks for a format that texts do not have.
    """
    longest_first = sorted(columns, key=len, reverse=True)
    pieces: list[_Piece] = []
    literal, rest = "", template
    while rest:
        fits = (
            name for name in longest_first if re.match(r"[}!:]", rest[1 + len(name) :]) and rest[1:].startswith(name)
        )
        if rest[0] == "{" and (name := next(fits, None)) is not None:
            how, closed, rest = rest[1 + len(name) :].partition("}")
            pieces.append(_Piece(literal, name, *_conversion(name, how + ("" if closed else " unclosed"))))
            literal = ""
        elif rest[:2] in ("{{", "}}"):
            literal, rest = literal + rest[0], rest[2:]
        elif rest[0] not in "{}":
            literal, rest = literal + rest[0], rest[1:]
        elif rest[0] == "{" and "}" in rest:
            field = rest[1:].partition("}")[0]
            raise ValueError(f"`template` must name columns of the dataset {list(columns)} in braces, got {field!r}.")
        else:
            raise ValueError(f"`template` must have its braces in pairs, got {template!r}: a brace itself is doubled.")
    return (*pieces, _Piece(literal))


def _conversion(name: str, how: str) -> tuple[str, str]:
    """What follows a column's name in braces, `!r:>10`, as conversion and format.

    Raises:
        ValueError: If texts cannot be written that way.
    """
    match = re.fullmatch(r"(?:!([rsa]))?(?::(.*))?", how, re.DOTALL)
    conversion, spec = (match[1] or "", match[2] or "") if match else ("", "")
    try:
        format("", spec)
    except ValueError:
        match = None
    if match is None:
        raise ValueError(
            f"`template` must format texts, got {name + how!r} in braces: use !r, !s, !a or a width such as :>10."
        )
    return conversion, spec


# --- columns ----------------------------------------------------------------------------------------------------


def _detect(dataset: Dataset) -> tuple[str, ...]:
    for layout in LAYOUTS:
        if set(layout) <= set(dataset.column_names):
            return layout
    raise ValueError(
        f"no known text layout fits the columns {dataset.column_names}: name the text columns with `columns=[…]`."
    )


def _check_columns(dataset: Dataset, columns: Any) -> None:
    if isinstance(columns, str | bytes) or not isinstance(columns, Sequence):
        raise TypeError(f"`columns` must be a list of column names such as ['text'], got {brief(columns)}.")
    if not columns:
        raise ValueError("`columns` must name at least one column, got none.")
    for number, name in enumerate(columns):
        _check_text_column(dataset, name)
        if name in columns[:number]:
            raise ValueError(f"`columns` must name every column once, got {name!r} twice: leave one out.")


def _check_text_column(dataset: Dataset, name: str) -> None:
    """Raise unless the column's type, which is that of all rows, can hold texts or chats.

    Raises:
        ValueError: If there is no such column, or its rows hold something else.
    """
    if not isinstance(name, str) or name not in dataset.column_names:
        raise ValueError(f"`columns` must name columns of the dataset {dataset.column_names}, got {brief(name)}.")
    if len(dataset) and not _holds_text(dataset.features[name]):
        rows: Any = dataset.select_columns([name]).with_format(None)
        raise ValueError(not_text(name, next((row[name] for row in rows if row[name] is not None), None)))


def _holds_text(feature: Any) -> bool:
    if isinstance(feature, List | LargeList):
        feature = feature.feature
    if isinstance(feature, dict):
        return any(key in feature for key in (*CONTENT, *CALLS))
    texts = ("string", "large_string", "string_view", "null")
    return isinstance(feature, Json) or (isinstance(feature, Value) and feature.dtype in texts)
