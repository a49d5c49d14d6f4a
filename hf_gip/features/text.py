"""Rows → texts: which columns hold the words, and how one row becomes one string."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from datasets import Dataset

from hf_gip.core.validation import brief

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
        """One row as one text; chat columns contribute the contents of their turns."""
        parts = {name: _words(row[name], name) for name in self.columns}
        if self.template is not None:
            return self.template.format_map(parts)
        return "\n".join(part for part in parts.values() if part.strip())


def text_recipe(dataset: Dataset, columns: Sequence[str] | None = None, template: str | None = None) -> TextRecipe:
    """Find the text columns of `dataset`, or check the ones asked for.

    Args:
        dataset: The rows.
        columns: Columns to read instead of the detected layout, in the order their texts are joined.
        template: A format string naming the columns in braces, instead of joining.

    Returns:
        The recipe, ready to render rows.

    Raises:
        TypeError: If `columns` is no list of names or `template` no text.
        ValueError: If a column is unknown or holds no text, or no known layout fits.
    """
    if columns is not None and template is not None:
        raise ValueError("`columns` and `template` must not both be given: the template names its columns itself.")
    if template is not None:
        if not isinstance(template, str):
            raise TypeError(f"`template` must be a text such as '{{title}}: {{body}}', got {brief(template)}.")
        columns = tuple(dict.fromkeys(name for _, name, _, _ in Formatter().parse(template) if name is not None))
        if not columns:
            raise ValueError(f"`template` must name at least one column in braces, got {template!r}.")
    columns = _detect(dataset) if columns is None else columns
    _check_columns(dataset, columns)
    return TextRecipe(tuple(columns), template)


def has_layout(dataset: Dataset) -> bool:
    """Whether the columns are those of a known layout."""
    return any(set(layout) <= set(dataset.column_names) for layout in LAYOUTS)


def iter_texts(dataset: Dataset, recipe: TextRecipe) -> Iterator[str]:
    """The rows' texts in order, read batch by batch through Arrow; an indices mapping is respected."""
    table = dataset.select_columns(list(recipe.columns))
    if "arrow.json" in str(table.data.schema):  # columns of several kinds, whose values Arrow would show as JSON
        rows: Any = table.with_format(None)
        yield from map(recipe.render, rows)
        return
    for batch in table.with_format("arrow").iter(batch_size=BATCH_ROWS):
        for row in batch.to_pylist():  # pyright: ignore[reportAttributeAccessIssue] — the arrow format yields tables
            yield recipe.render(row)


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
    if not isinstance(name, str) or name not in dataset.column_names:
        raise ValueError(f"`columns` must name columns of the dataset {dataset.column_names}, got {brief(name)}.")
    if len(dataset) and not _is_text(value := dataset.select_columns([name]).with_format(None)[0][name]):
        raise ValueError(_not_text(name, value))


def _not_text(name: str, value: Any) -> str:
    return (
        f"`columns` must hold text or chat messages, got column {name!r} with {type(value).__name__} values: choose "
        "text columns or make one with `dataset.map`."
    )


def _is_text(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(turn, dict) and _content(turn) is not None for turn in value)
    return value is None or isinstance(value, str)


def _content(turn: Mapping[str, Any]) -> Any:
    return turn.get("content", turn.get("value"))  # chat messages, or ShareGPT's from/value


def _words(value: Any, name: str) -> str:
    """What one row has in the column `name`.

    Raises:
        ValueError: If that is no text: a column of JSON may hold text in one row and a number in another.
    """
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        return "\n".join(_turn_words(_content(turn), name) for turn in value)
    if value is not None and not isinstance(value, str):
        raise ValueError(_not_text(name, value))
    return value or ""


def _turn_words(content: Any, name: str) -> str:
    """What one turn says.

    Raises:
        ValueError: If that is no text.
    """
    if isinstance(content, list):  # multi-modal turns: keep the text parts
        return "\n".join(part.get("text") or "" for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise ValueError(_not_text(name, content))
    return content or ""
