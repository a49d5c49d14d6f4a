"""The plain training loop of the small model, and its loss on answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

IGNORED = -100
PAD = 0


@dataclass(frozen=True, slots=True)
class Size:
    """Size of the model and length of its training."""

    vocabulary: int = 2_048
    width: int = 64
    layers: int = 2
    heads: int = 4
    prompt: int = 40  # tokens of a prompt, the last ones
    answer: int = 72  # tokens of an answer, the first ones
    base_epochs: int = 3
    batch: int = 16
    rate: float = 3e-4
    base_rate: float = 3e-3
    warmup: int = 5


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids with labels on the answers, one list per row."""

    ids: list[list[int]]
    labels: list[list[int]]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ids)

    def select(self, rows: Sequence[int]) -> "Tokens":
        """The rows at these positions."""
        return Tokens([self.ids[i] for i in rows], [self.labels[i] for i in rows])

    def batch(self, rows: Sequence[int], device: str) -> dict[str, Tensor]:
        """Rows padded on the right to the longest of them."""
        width = max(len(self.ids[i]) for i in rows)
        padded = {"input_ids": (self.ids, PAD), "labels": (self.labels, IGNORED)}
        batch_tensors = {
            key: torch.tensor([lists[i] + [fill] * (width - len(lists[i])) for i in rows], device=device)
            for key, (lists, fill) in padded.items()
        }
        return batch_tensors | {"attention_mask": (batch_tensors["input_ids"] != PAD).long()}


def order_of(n: int, steps: int, batch: int, seed: int) -> list[list[int]]:
    """The rows of every step: epoch after epoch in a new order each."""
    generator = torch.Generator().manual_seed(seed)
    rows: list[int] = []
    while len(rows) < steps * batch:
        rows += torch.randperm(n, generator=generator).tolist()
    return [rows[step * batch : (step + 1) * batch] for step in range(steps)]


def train(
    model: nn.Module,
    tokens: Tokens,
    steps: int,
    size: Size,
    *,
    seed: int = 0,
    rate: float | None = None,
    cosine: bool = False,
):
    """AdamW for so many steps after a short warm-up, as in TRL's `SFTTrainer`. Yields each step's loss."""
    device = str(next(model.parameters()).device)
    peak = size.rate if rate is None else rate
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=0.0)
    model.train()
    for step, rows in enumerate(order_of(len(tokens), steps, size.batch, seed)):
        share = min(1.0, step / size.warmup)
        if cosine:
            share *= 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = peak * share
        loss = answer_losses(model, tokens.batch(rows, device))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield float(loss.detach())
    model.eval()


def answer_losses(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Loss of every answer token, and their mask, (n, width - 1). The head runs on answer tokens only."""
    states = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
    targets = inputs["labels"][:, 1:]
    labeled = targets != IGNORED
    logits = model.lm_head(states.last_hidden_state[:, :-1][labeled]).float()
    return nn.functional.cross_entropy(logits, targets[labeled], reduction="none"), labeled


@torch.no_grad()
def row_losses(model: nn.Module, tokens: Tokens, *, batch: int = 64) -> Tensor:
    """Mean loss of each row's answer tokens, and their number, (n, 2)."""
    device = str(next(model.parameters()).device)
    by_length = sorted(range(len(tokens)), key=lambda row: len(tokens.ids[row]))
    losses_and_counts = torch.zeros(len(tokens), 2, dtype=torch.float64)
    was_training = model.training
    model.eval()
    for start in range(0, len(tokens), batch):
        rows = by_length[start : start + batch]
        losses, labeled = answer_losses(model, tokens.batch(rows, device))
        sums = torch.zeros(labeled.shape, device=device).masked_scatter_(labeled, losses.float()).sum(dim=1)
        counts = labeled.sum(dim=1)
        losses_and_counts[rows, 0] = (sums / counts.clamp(min=1)).double().cpu()
        losses_and_counts[rows, 1] = counts.double().cpu()
    model.train(was_training)
    return losses_and_counts


def held_out_loss(model: nn.Module, tokens: Tokens) -> float:
    """Mean loss per answer token."""
    losses, counts = row_losses(model, tokens).unbind(dim=1)
    return float((losses * counts).sum() / counts.sum())
