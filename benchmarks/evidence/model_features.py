"""Features of every row from the small model: prompt benefit, hidden states, and gradients along a short run."""

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
WARMUP_ROWS, WARMUP_STEPS = 320, 40  # LESS's warm-up: a random few per cent of the rows, then a second checkpoint


@dataclass(frozen=True, slots=True)
class ModelFeatures:
    """Features per bank row and per query row.

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
def load_model_features(data: Path, size: Size, device: str) -> ModelFeatures:
    """Load the features from the cache, or compute them: five passes over the bank, two of them with gradients."""
    path = cache_folder() / f"features-{size.layers}x{size.width}-{size.vocabulary}-{DIMS}.safetensors"
    if not path.exists():
        disable_progress_bars()
        save_file(compute(data, load_setup(data, size, device)), path)
    tensors = load_file(path)
    tasks = ("gsm8k", "bbh", "alpaca")
    return ModelFeatures(
        benefit=tensors["benefit"],
        gradients=(tensors["rows.0"], tensors["rows.1"]),
        queries={task: (tensors[f"{task}.0"], tensors[f"{task}.1"]) for task in tasks},
        hidden=tensors["hidden"],
        hidden_queries={task: tensors[f"hidden.{task}"] for task in tasks},
    )


def compute(data: Path, setup: Setup) -> dict[str, Tensor]:
    """All features as named tensors."""
    bank = load_bank(data)
    token_sets = {"rows": setup.rows, **setup.queries, "alpaca": setup.reference}
    model = setup.fresh()
    tensors = {"benefit": benefit(model, setup.rows)}
    for name, tokens in token_sets.items():
        tensors["hidden" if name == "rows" else f"hidden.{name}"] = hidden_states(model, tokens)
    print("features: benefit and hidden states done", flush=True)
    for checkpoint in range(2):
        for name, tokens in token_sets.items():
            tensors[f"{name}.{checkpoint}"] = gradients(model, tokens)
        print(f"features: gradients of checkpoint {checkpoint} done", flush=True)
        if checkpoint == 0:
            warm = torch.randperm(len(bank.rows), generator=torch.Generator().manual_seed(0))[:WARMUP_ROWS].tolist()
            for _ in train(model, setup.rows.select(warm), WARMUP_STEPS, setup.size):
                pass
    return tensors


def benefit(model: nn.Module, tokens: Tokens) -> Tensor:
    """Nats per answer token that the prompt saves. Small if the answer belongs to another prompt."""
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
    means = []
    for start in range(0, len(tokens), batch):
        inputs = tokens.batch(range(start, min(start + batch, len(tokens))), device)
        states = model.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        mask = (inputs["labels"] != IGNORED).float()[..., None]
        means.append(((states.last_hidden_state * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu())
    return nn.functional.normalize(torch.cat(means))


def gradients(model: nn.Module, tokens: Tokens) -> Tensor:
    """One projected gradient per row; rows without an answer get zeros."""
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(tokens.ids, tokens.labels, strict=True)]
    result = gradient_features(model, rows, target_modules=LAYERS, projection_dim=DIMS, batch_size=32)
    out = torch.zeros(len(rows), result.features.shape[1])
    out[result.rows] = result.features
    return out


def embedded_texts(rows: Rows, encoder: object) -> Tensor:
    """Unit vectors of the rows' texts from another encoder."""
    vectors = torch.as_tensor(encoder.encode(rows.texts)).float()  # type: ignore[attr-defined]
    return nn.functional.normalize(vectors)
