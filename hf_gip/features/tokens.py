"""Tokenised rows into padded batches of like length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from hf_gip.core.validation import brief

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
