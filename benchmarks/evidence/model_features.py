"""What the small model says of every row of the bank: how much its prompt helps, and gradients along a short run."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_gip import gradient_features

from .data import Rows, cache_folder, load_bank
from .model import Setup, load_setup
from .training import IGNORED, Size, Tokens, row_losses, train

LAYERS = "*_proj"  # all linear layers inside the blocks
DIMS = 4_096  # of 106,496; what fewer would lose: benchmarks/results/gradients.md
WARM_UP_ROWS, WARM_UP_STEPS = 320, 40  # LESS's warm-up: a random few per cent of the rows, then a second checkpoint


@dataclass(frozen=True, slots=True)
class Signals:
    """Per bank row, and per row that shows what is wanted.

    Attributes:
        benefit: Loss of the answer without its prompt minus with it, (n,).
        gradients: At the base model and after a warm-up, (n, d) each.
        queries: The same of the queries, by task; `alpaca` are the clean reference rows.
        hidden: Mean hidden state of the answer's tokens, unit length, (n, w).
        hidden_queries: The same of the queries.
    """

    benefit: Tensor
    gradients: tuple[Tensor, Tensor]
    queries: dict[str, tuple[Tensor, Tensor]]
    hidden: Tensor
    hidden_queries: dict[str, Tensor]


@cache
def load_signals(data: Path, size: Size, device: str) -> Signals:
    """From the cache, or computed now: two passes with gradients and three without over the bank."""
    path = cache_folder() / f"signals-{size.layers}x{size.width}-{size.vocabulary}-{DIMS}.safetensors"
    if not path.exists():
        disable_progress_bars()
        save_file(compute(data, load_setup(data, size, device)), path)
    found = load_file(path)
    tasks = ("gsm8k", "bbh", "alpaca")
    return Signals(
        benefit=found["benefit"],
        gradients=(found["rows.0"], found["rows.1"]),
        queries={task: (found[f"{task}.0"], found[f"{task}.1"]) for task in tasks},
        hidden=found["hidden"],
        hidden_queries={task: found[f"hidden.{task}"] for task in tasks},
    )


def compute(data: Path, setup: Setup) -> dict[str, Tensor]:
    """All signals as named tensors."""
    bank = load_bank(data)
    every = {"rows": setup.rows, **setup.queries, "alpaca": setup.reference}
    model = setup.fresh()
    found = {"benefit": benefit(model, setup.rows)}
    for name, tokens in every.items():
        found["hidden" if name == "rows" else f"hidden.{name}"] = hidden_states(model, tokens)
    print("signals: benefit and hidden states done", flush=True)
    for checkpoint in range(2):
        for name, tokens in every.items():
            found[f"{name}.{checkpoint}"] = gradients(model, tokens)
        print(f"signals: gradients of checkpoint {checkpoint} done", flush=True)
        if checkpoint == 0:
            warm = torch.randperm(len(bank.rows), generator=torch.Generator().manual_seed(0))[:WARM_UP_ROWS].tolist()
            for _ in train(model, setup.rows.at(warm), WARM_UP_STEPS, setup.size):
                pass
    return found


def benefit(model: nn.Module, tokens: Tokens) -> Tensor:
    """How many nats per token the prompt saves the answer: small where the answer belongs to another prompt."""
    begins = [sum(label == IGNORED for label in labels) for labels in tokens.labels]
    bare = Tokens(
        [row[max(0, start - 1) :] for row, start in zip(tokens.ids, begins, strict=True)],
        [row[max(0, start - 1) :] for row, start in zip(tokens.labels, begins, strict=True)],
    )
    return row_losses(model, bare)[:, 0] - row_losses(model, tokens)[:, 0]


@torch.no_grad()
def hidden_states(model: Any, tokens: Tokens, *, batch: int = 64) -> Tensor:
    """Mean last hidden state over each row's answer tokens, unit length."""
    device = str(next(model.parameters()).device)
    found = []
    for start in range(0, len(tokens), batch):
        inputs = tokens.batch(range(start, min(start + batch, len(tokens))), device)
        states = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        kept = (inputs["labels"] != IGNORED).float()[..., None]
        found.append(((states.last_hidden_state * kept).sum(1) / kept.sum(1).clamp(min=1)).cpu())
    return nn.functional.normalize(torch.cat(found))


def gradients(model: nn.Module, tokens: Tokens) -> Tensor:
    """One projected gradient per row; rows without an answer get zeros."""
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(tokens.ids, tokens.labels, strict=True)]
    found = gradient_features(model, rows, parameters=LAYERS, dims=DIMS, batch_size=32)
    out = torch.zeros(len(rows), found.features.shape[1])
    out[found.rows] = found.features
    return out


def embedded_texts(rows: Rows, encoder: object) -> Tensor:
    """Unit vectors of the rows' texts by another encoder."""
    vectors = torch.as_tensor(encoder.encode(rows.texts)).float()  # type: ignore[attr-defined]
    return nn.functional.normalize(vectors)
