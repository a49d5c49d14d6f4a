"""Rows as tokens and labels, and batches of them."""

import hashlib
import json
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
from hf_gip.hashing import hash_json, hash_rows

IGNORED = -100


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Rows padded on the right. Padding is masked and unlabelled, so its token, 0, never matters.

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
        """Where the next token is labelled."""
        return self.labels[:, 1:] != IGNORED


@dataclass(slots=True)
class Tally:
    """What became of the rows read."""

    left_out: int = 0
    truncated: int = 0
    tokens: int = 0


def token_batches(
    rows: Sequence[Any], positions: Sequence[int], batch_size: int, max_length: int, tally: Tally
) -> Iterator[TokenBatch]:
    """Batches over `rows[positions]`, sorted by length within stretches of 32 batches.

    A row is a mapping with `input_ids` and, where not every token counts, `labels` with −100 on those that do not.
    Rows longer than `max_length` are cut on the right; rows without a labelled token are left out; both are counted.
    """
    stretch = 32 * batch_size
    for start in range(0, len(positions), stretch):
        ready = [
            (position, *tokens)
            for position in positions[start : start + stretch]
            if (tokens := read_row(rows[position], position, max_length, tally)) is not None
        ]
        ready.sort(key=lambda row: len(row[1]))
        for first in range(0, len(ready), batch_size):
            yield padded(ready[first : first + batch_size])


def read_row(row: Any, position: int, max_length: int, tally: Tally) -> tuple[list[int], list[int]] | None:
    """Tokens and labels of one row, or None where nothing in it counts.

    Raises:
        TypeError: If it is no mapping.
        ValueError: If it is not a tokenised row.
    """
    if not isinstance(row, Mapping):
        raise TypeError(f"`rows` must be mappings with `input_ids`, got {brief(row)} as row {position}.")
    if "input_ids" not in row:
        raise ValueError(
            f"`rows` must be tokenised, got row {position} with the columns {', '.join(row)}: "
            "it needs `input_ids` and, where only answers count, `labels`."
        )
    if row["input_ids"] is None or ("labels" in row and row["labels"] is None):
        tally.left_out += 1
        return None
    tokens, labels = list(row["input_ids"]), list(row["labels"] if "labels" in row else row["input_ids"])
    if len(tokens) != len(labels):
        raise ValueError(
            f"`rows` must have one label per token, got {len(labels)} labels for {len(tokens)} tokens in row "
            f"{position}: tokenise anew."
        )
    cut = len(tokens) > max_length
    tokens, labels = tokens[:max_length], labels[:max_length]
    if all(label == IGNORED for label in labels[1:]):  # the first token is never predicted
        tally.left_out += 1
        return None
    tally.truncated += cut
    tally.tokens += len(tokens)
    return tokens, labels


def check_tokens(batch: TokenBatch, vocabulary: int) -> None:
    """Raise unless every token and label is one of the model's `vocabulary` tokens.

    Raises:
        ValueError: With the first that is not, and its row.
    """
    for name, tokens in (("input_ids", batch.input_ids), ("labels", batch.labels)):
        known = (tokens >= 0) & (tokens < vocabulary)
        if name == "labels":
            known |= tokens == IGNORED
        if not bool(known.all()):
            row, place = (int(number) for number in torch.nonzero(~known)[0])
            raise ValueError(
                f"`rows` must hold tokens of the model's own vocabulary, 0 to {vocabulary - 1}, got "
                f"{int(tokens[row, place])} in the {name} of row {int(batch.rows[row])}: use the model's tokenizer."
            )


def padded(ready: Sequence[tuple[int, list[int], list[int]]]) -> TokenBatch:
    """Rows of uneven length as one batch."""
    width = max(len(tokens) for _, tokens, _ in ready)
    shape = len(ready), width
    ids = torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for i, (_, tokens, wanted) in enumerate(ready):
        ids[i, : len(tokens)] = torch.tensor(tokens)
        mask[i, : len(tokens)] = 1
        labels[i, : len(tokens)] = torch.tensor(wanted)
    return TokenBatch(torch.tensor([position for position, _, _ in ready]), ids, mask, labels)


def tokenizer_id(tokenizer: Any) -> str:
    """16 hex digits that depend on how texts become tokens, not on padding or cutting set by an earlier call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        words = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else len(tokenizer)
        options = {name: repr(value) for name, value in getattr(tokenizer, "init_kwargs", {}).items()}
        special = repr(getattr(tokenizer, "special_tokens_map", None))
        return hash_json({"kind": type(tokenizer).__name__, "words": words, "options": options, "special": special})
    plain = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


BATCH_ROWS = 1_000
TOKENS = ("input_ids", "labels")


@dataclass(frozen=True, slots=True)
class TokenRows:
    """Tokenised rows.

    Attributes:
        rows: One per row of the dataset, with `input_ids` and perhaps `labels`.
        usable: Positions of those with a labelled token within the context, ascending, (m,).
        truncated: How many of them are longer than the context.
        recipe: How they were made, as plain JSON.
    """

    rows: Dataset
    usable: Int64[Tensor, " m"]
    truncated: int
    recipe: dict[str, Any]

    @property
    def left_out(self) -> int:
        """How many rows have no labelled token."""
        return len(self.rows) - len(self.usable)


def tokenised(dataset: Dataset, tokenizer: Any, columns: Sequence[str] | None, max_length: int) -> TokenRows:
    """Tokens of every row: its own `input_ids` and `labels` where it has them, else its text's, every token counting.

    Raises:
        ValueError: If there are texts and no tokenizer, both tokens and `columns`, or tokens that are no lists.
    """
    text = text_columns(dataset, columns)
    if text is None:
        kept = [name for name in TOKENS if name in dataset.column_names]
        rows, recipe = dataset.select_columns(kept).with_format(None), {"columns": kept}
    else:
        if tokenizer is None:
            raise ValueError(
                "`tokenizer` must be given for rows of text where the model brings none, got None: pass the model's "
                "own, or rows with `input_ids`."
            )
        recipe = {"columns": list(text.columns), "tokenizer": tokenizer_id(tokenizer)}

        def encode(batch: Mapping[str, list[Any]]) -> dict[str, list[list[int]]]:
            texts = [text.render(dict(zip(batch, row, strict=True))) for row in zip(*batch.values(), strict=True)]
            return {"input_ids": [tokens[: max_length + 1] for tokens in tokenizer(texts)["input_ids"]]}

        rows = (
            dataset.select_columns(list(text.columns))
            .with_format(None)
            .map(
                encode,
                batched=True,
                batch_size=BATCH_ROWS,
                remove_columns=list(text.columns),
                new_fingerprint=hash_json({"rows": hash_rows(dataset, text.columns), "length": max_length, **recipe}),
                desc="Tokenising",
            )
        )
    usable, truncated = _scan(rows, max_length)
    return TokenRows(rows, usable, truncated, recipe | {"max_length": max_length})


def text_columns(dataset: Dataset, columns: Sequence[str] | None) -> TextRecipe | None:
    """The text of rows that are not tokenised yet, None for those that are; quick.

    Raises:
        TypeError: If `columns` is no list of names.
        ValueError: If there are both tokens and `columns`, tokens that are no lists, or a column is unknown.
    """
    if "input_ids" not in dataset.column_names:
        return text_recipe(dataset, columns)
    if columns is not None:
        raise ValueError("`columns` names texts and has no use beside `input_ids`: leave one out.")
    _check_lists(dataset, [name for name in TOKENS if name in dataset.column_names])
    return None


def columns_read(dataset: Dataset, columns: Sequence[str] | None) -> list[str]:
    """The columns whose content makes the tokens: those of the text, or `input_ids` and `labels`; quick.

    Raises:
        TypeError: If `columns` is no list of names.
        ValueError: If there are both tokens and `columns`, tokens that are no lists, or a column is unknown.
    """
    text = text_columns(dataset, columns)
    return [name for name in TOKENS if name in dataset.column_names] if text is None else list(text.columns)


def target_columns(rows: Dataset, columns: Sequence[str] | None) -> list[str] | None:
    """The pool's text columns where the target `rows` have them too; None: those of its own layout. Quick.

    Raises:
        ValueError: If the target has no text, in words about the target.
    """
    own = list(columns) if columns is not None and set(columns) <= set(rows.column_names) else None
    if "input_ids" not in rows.column_names and own is None and not has_layout(rows):
        raise ValueError(
            "`target` must have columns of texts in a layout that is known, or those of `columns`, got "
            f"{rows.column_names}: rename them, such as to 'question' and 'answer', or pass a list of texts."
        )
    text_columns(rows, own)
    return own


def check_vocabulary(rows: Dataset, model: nn.Module) -> None:
    """Raise if a row holds a token that the model does not have.

    Raises:
        ValueError: With the token and the size of the vocabulary.
    """
    size = len(model.get_input_embeddings().weight)  # pyright: ignore[reportCallIssue]
    for batch in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        tokens = batch.column("input_ids").combine_chunks().flatten()  # pyright: ignore[reportAttributeAccessIssue]
        least, most = pc.min_max(tokens).as_py().values()  # pyright: ignore[reportAttributeAccessIssue]
        if least is not None and not 0 <= least <= most < size:
            raise ValueError(
                f"`model` must know every token of the rows, got token {most if most >= size else least} where its "
                f"vocabulary has {size}: tokenise with the model's own tokenizer."
            )


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


def _scan(rows: Dataset, max_length: int) -> tuple[Int64[Tensor, " m"], int]:
    """Rows with a label after their first token and within the context, and how many of these are longer than it."""
    name = "labels" if "labels" in rows.column_names else "input_ids"
    usable, long, start = [torch.empty(0, dtype=torch.int64).numpy()], 0, 0
    for batch in rows.with_format("arrow").iter(batch_size=BATCH_ROWS):
        column = batch.column(name).combine_chunks()  # pyright: ignore[reportAttributeAccessIssue]
        lengths = _lengths(column)
        labels = column.flatten().to_numpy(zero_copy_only=False)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        place = np.arange(len(labels)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        counts = (labels != IGNORED) & (place > 0) & (place < max_length)
        good = np.bincount(owner[counts], minlength=len(lengths)) > 0
        good &= batch.column("input_ids").is_valid().to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
        usable.append(start + np.flatnonzero(good))
        long += int((good & (lengths > max_length)).sum())
        start += len(lengths)
    return torch.from_numpy(np.concatenate(usable)), long


def _lengths(column: Any) -> Any:
    """How many tokens each row has; none where the list is missing."""
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy()  # pyright: ignore[reportAttributeAccessIssue]
