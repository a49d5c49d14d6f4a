"""Rows as tokens and labels, and batches of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from jaxtyping import Bool, Int64
from torch import Tensor, nn

from hf_gip.core.validation import brief
from hf_gip.features.text import TextRecipe, has_layout, text_recipe
from hf_gip.hashing import hash_json, hash_rows, hash_tokenizer

IGNORED = -100
BATCH_ROWS = 1_000
TOKEN_COLUMNS = ("input_ids", "labels")


# --- columns → tokens of every row -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokenized rows.

    Attributes:
        rows: One per row of the dataset, with `input_ids` and perhaps `labels`.
        usable: Positions of those with a labeled token within the context, ascending, (m,).
        truncated: How many of them are longer than the context.
        recipe: How they were made, as plain JSON.
    """

    rows: Dataset
    usable: Int64[Tensor, " m"]
    truncated: int
    recipe: dict[str, Any]

    @property
    def left_out(self) -> int:
        """How many rows have no labeled token."""
        return len(self.rows) - len(self.usable)


def tokenize_rows(dataset: Dataset, tokenizer: Any, columns: Sequence[str] | None, max_length: int) -> TokenRows:
    """Tokens of every row: its own `input_ids` and `labels` where it has them, else its text's, every token counting.

    Raises:
        ValueError: If there are texts and no tokenizer, both tokens and `columns`, or tokens that are no lists.
    """
    text = text_columns(dataset, columns)
    if text is None:
        token_columns = [name for name in TOKEN_COLUMNS if name in dataset.column_names]
        rows, recipe = dataset.select_columns(token_columns).with_format(None), {"columns": token_columns}
    else:
        if tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given for rows of text where the model brings none, got None: pass the model's "
                "own, or rows with `input_ids`."
            )
        recipe = {"columns": list(text.columns), "tokenizer": hash_tokenizer(tokenizer)}

        def encode(batch: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
            texts = [text.render(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)]
            return {"input_ids": [tokens[: max_length + 1] for tokens in tokenizer(texts)["input_ids"]]}

        stored = dataset.select_columns(list(text.columns)).with_format(None)
        rows = stored.map(
            encode,
            batched=True,
            batch_size=BATCH_ROWS,
            remove_columns=list(text.columns),
            new_fingerprint=hash_json({"rows": hash_rows(dataset, text.columns), "length": max_length, **recipe}),
            desc="Tokenizing",
        )
    usable, truncated = _scan(rows, max_length)
    return TokenRows(rows, usable, truncated, recipe | {"max_length": max_length})


def _scan(rows: Dataset, max_length: int) -> tuple[Int64[Tensor, " m"], int]:
    """Rows with a label after their first token and within the context, and how many of these are longer than it."""
    name = "labels" if "labels" in rows.column_names else "input_ids"
    usable, long, start = [torch.empty(0, dtype=torch.int64).numpy()], 0, 0
    for batch in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        column = batch.column(name).combine_chunks()  # pyright: ignore[reportAttributeAccessIssue]
        lengths = _lengths(column)
        labels = column.flatten().to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        position = np.arange(len(labels)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        counted = (labels != IGNORED) & (position > 0) & (position < max_length)
        good = np.bincount(owner[counted], minlength=len(lengths)) > 0
        good &= batch.column("input_ids").is_valid().to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        usable.append(start + np.flatnonzero(good))
        long += int((good & (lengths > max_length)).sum())
        start += len(lengths)
    return torch.from_numpy(np.concatenate(usable)), long


def _lengths(column: Any) -> Any:
    """How many tokens each row has; none where the list is missing."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]


def text_columns(dataset: Dataset, columns: Sequence[str] | None) -> TextRecipe | None:
    """The text of rows that are not tokenized yet, None for those that are; quick.

    Raises:
        TypeError: If `columns` is no list of names.
        ValueError: If there are both tokens and `columns`, tokens that are no lists, or a column is unknown.
    """
    if "input_ids" not in dataset.column_names:
        return text_recipe(dataset, columns)
    if columns is not None:
        raise ValueError("`columns` names texts and has no use beside `input_ids`: leave one out.")
    _check_lists(dataset, [name for name in TOKEN_COLUMNS if name in dataset.column_names])
    return None


def _check_lists(dataset: Dataset, names: Sequence[str]) -> None:
    """Raise unless each column holds lists of whole numbers.

    Raises:
        ValueError: Naming the column and what it holds.
    """
    for name in names:
        kind: Any = dataset.data.schema.field(name).type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if not listed or not (pa.types.is_integer(kind.value_type) or pa.types.is_null(kind.value_type)):
            raise ValueError(
                f"`{name}` must be a column of lists of tokens, got one of {kind}: rows of text belong in a column of "
                "another name."
            )


def columns_read(dataset: Dataset, columns: Sequence[str] | None) -> list[str]:
    """The columns whose content makes the tokens: those of the text, or `input_ids` and `labels`; quick.

    Raises:
        TypeError: If `columns` is no list of names.
        ValueError: If there are both tokens and `columns`, tokens that are no lists, or a column is unknown.
    """
    text = text_columns(dataset, columns)
    return [name for name in TOKEN_COLUMNS if name in dataset.column_names] if text is None else list(text.columns)


def target_columns(rows: Dataset, columns: Sequence[str] | None) -> list[str] | None:
    """The pool's text columns where the target `rows` have them too; None: those of its own layout. Quick.

    Raises:
        ValueError: If the target has no text, in words about the target.
    """
    shared = list(columns) if columns is not None and set(columns) <= set(rows.column_names) else None
    if "input_ids" not in rows.column_names and shared is None and not has_layout(rows):
        raise ValueError(
            "`target` must have columns of texts in a layout that is known, or those of `columns`, got "
            f"{rows.column_names}: rename them, such as to 'question' and 'answer', or pass a list of texts."
        )
    text_columns(rows, shared)
    return shared


def check_vocabulary(rows: Dataset, model: nn.Module) -> None:
    """Raise if a row holds a token that the model does not have.

    Raises:
        ValueError: With the token and the size of the vocabulary.
    """
    size = len(model.get_input_embeddings().weight)  # pyright: ignore[reportCallIssue]
    for batch in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        tokens = batch.column("input_ids").combine_chunks().flatten()  # pyright: ignore[reportAttributeAccessIssue]
        lowest, highest = pc.min_max(tokens).as_py().values()  # pyright: ignore[reportAttributeAccessIssue]
        if lowest is not None and not 0 <= lowest <= highest < size:
            raise ValueError(
                "`model` must know every token of the rows, got token "
                f"{highest if highest >= size else lowest} where its vocabulary has {size}: tokenize with the model's "
                "own tokenizer."
            )


# --- rows → padded batches -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right. Padding is masked and unlabeled, so its token, 0, never matters.

    Attributes:
        rows: Their positions among all rows, (b,).
        input_ids: Tokens, (b, l).
        attention_mask: 1 on tokens, 0 on padding, (b, l).
        labels: The token to predict at every position, −100 where none counts, (b, l).
    """

    rows: Int64[Tensor, " b"]
    input_ids: Int64[Tensor, "b l"]
    attention_mask: Int64[Tensor, "b l"]
    labels: Int64[Tensor, "b l"]

    @property
    def counted(self) -> Bool[Tensor, "b l-1"]:
        """Where the next token is labeled."""
        return self.labels[:, 1:] != IGNORED


@dataclass(slots=True)
class RowCounts:
    """What became of the rows read."""

    left_out: int = 0
    truncated: int = 0
    tokens: int = 0


def token_batches(
    rows: Sequence[Any], positions: Sequence[int], batch_size: int, max_length: int, counts: RowCounts
) -> Iterator[TokenBatch]:
    """Batches over `rows[positions]`, sorted by length within stretches of 32 batches.

    A row is a mapping with `input_ids` and, where not every token counts, `labels` with −100 on those that do not.
    Rows longer than `max_length` are cut on the right; rows without a labeled token are left out; both are counted.
    """
    stretch = 32 * batch_size
    for start in range(0, len(positions), stretch):
        stretch_rows = [
            (position, *tokens)
            for position in positions[start : start + stretch]
            if (tokens := read_row(rows[position], position, max_length, counts)) is not None
        ]
        stretch_rows.sort(key=lambda row: len(row[1]))
        for first in range(0, len(stretch_rows), batch_size):
            yield pad(stretch_rows[first : first + batch_size])


def read_row(row: Any, position: int, max_length: int, counts: RowCounts) -> tuple[list[int], list[int]] | None:
    """Tokens and labels of one row, or None where nothing in it counts.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If it is not a tokenized row.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"`rows` must be mappings with `input_ids`, got {brief(row)} as row {position}.")
    if "input_ids" not in row:
        raise ValueError(
            f"`rows` must be tokenized, got row {position} with the columns {', '.join(row)}: "
            "it needs `input_ids` and, where only answers count, `labels`."
        )
    if row["input_ids"] is None or ("labels" in row and row["labels"] is None):
        counts.left_out += 1
        return None
    tokens, labels = list(row["input_ids"]), list(row["labels"] if "labels" in row else row["input_ids"])
    if len(tokens) != len(labels):
        raise ValueError(
            f"`rows` must have one label per token, got {len(labels)} labels for {len(tokens)} tokens in row "
            f"{position}: tokenize anew."
        )
    cut = len(tokens) > max_length
    tokens, labels = tokens[:max_length], labels[:max_length]
    if all(label == IGNORED for label in labels[1:]):  # the first token is never predicted
        counts.left_out += 1
        return None
    counts.truncated += cut
    counts.tokens += len(tokens)
    return tokens, labels


def pad(rows: Sequence[tuple[int, list[int], list[int]]]) -> TokenBatch:
    """Rows of uneven length, each (position, tokens, labels), as one batch."""
    shape = len(rows), max(len(tokens) for _, tokens, _ in rows)
    input_ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for i, (_, row_tokens, row_labels) in enumerate(rows):
        input_ids[i, : len(row_tokens)] = torch.tensor(row_tokens)
        mask[i, : len(row_tokens)] = 1
        labels[i, : len(row_labels)] = torch.tensor(row_labels)
    return TokenBatch(torch.tensor([position for position, _, _ in rows]), input_ids, mask, labels)


def check_tokens(batch: TokenBatch, vocabulary: int) -> None:
    """Raise unless every token and label is one of the model's `vocabulary` tokens.

    Raises:
        ValueError: With the first that is not, and its row.
    """
    for name, tokens in (("input_ids", batch.input_ids), ("labels", batch.labels)):
        valid = (tokens >= 0) & (tokens < vocabulary)
        if name == "labels":
            valid |= tokens == IGNORED
        if not bool(valid.all()):
            row, position = (int(number) for number in torch.nonzero(~valid)[0])
            raise ValueError(
                f"`rows` must hold tokens of the model's own vocabulary, 0 to {vocabulary - 1}, got "
                f"{int(tokens[row, position])} in the {name} of row {int(batch.rows[row])}: use the model's tokenizer."
            )
