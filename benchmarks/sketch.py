"""Accuracy of gradient sketches: LESS scores and best rows from a sketch and from full gradients.

Run `python benchmarks/sketch.py`: 1,600 rows of the experiment of `quality.py` (its base model is trained if it is not
cached), three targets, gradients of every linear layer, 106,496 numbers per row. Every figure is the mean of two draws
of the projection.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from evidence.data import BANK, GSM8K_BANK
from evidence.model import SMALL, load_setup
from evidence.model_features import LAYERS
from evidence.training import Tokens
from machine import write_results
from torch import Tensor, nn

from hf_gip import gradient_features

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ROWS = {"Alpaca": (0, 1_200), "GSM8K": (BANK, 200), "shuffled": (BANK + GSM8K_BANK, 200)}  # first row, how many
SKETCHES: tuple[dict[str, Any], ...] = (
    {"projection_dim": 512, "side": 16},
    {"projection_dim": 512},
    {"projection_dim": 1_024},
    {"projection_dim": 2_048},
    {"projection_dim": 4_096},
    {"projection_dim": 8_192},
)
BEST = 80  # a twentieth of the rows


def gradients(model: nn.Module, tokens: Tokens, **sketch: Any) -> Tensor:
    """One unit gradient per row."""
    rows = [{"input_ids": ids, "labels": labels} for ids, labels in zip(tokens.ids, tokens.labels, strict=True)]
    result = gradient_features(model, rows, target_modules=LAYERS, batch_size=32, normalize=True, **sketch)
    out = torch.zeros(len(rows), result.features.shape[1])
    out[result.rows] = result.features
    return out


def main() -> None:
    """Score every row for every target with every sketch, and write the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    setup = load_setup(DATA, SMALL, "cpu")
    model, rows = (
        setup.fresh(),
        setup.rows.select([i for first, count in ROWS.values() for i in range(first, first + count)]),
    )
    targets = {"GSM8K": setup.queries["gsm8k"], "BBH": setup.queries["bbh"], "Alpaca": setup.reference}

    def scores(**sketch: Any) -> dict[str, Tensor]:
        row_gradients = gradients(model, rows, **sketch)
        return {name: row_gradients @ gradients(model, tokens, **sketch).mean(0) for name, tokens in targets.items()}

    exact, lines = scores(projection_dim=None), []
    for sketch in SKETCHES:
        draws = [scores(seed=seed, **sketch) for seed in range(2)]
        for name, exact_scores in exact.items():
            pairs = [torch.stack([draw[name], exact_scores]) for draw in draws]
            best = [[set(line.topk(BEST).indices.tolist()) for line in pair] for pair in pairs]
            lines.append(
                {
                    "target": name,
                    "projection_dim": sketch["projection_dim"],
                    "side": sketch.get("side", "none"),
                    "correlation of scores": sum(float(torch.corrcoef(pair)[0, 1]) for pair in pairs) / len(pairs),
                    "best rows in common": sum(len(ours & theirs) for ours, theirs in best) / len(best) / BEST,
                }
            )
    lines.sort(key=lambda line: list(targets).index(line["target"]))
    write_results(
        "sketch",
        lines,
        command="python benchmarks/sketch.py",
        packages=("torch", "transformers", "datasets"),
        notes=[
            f"{', '.join(f'{count:,} {name}' for name, (_, count) in ROWS.items())} rows; gradients of `{LAYERS}` of "
            "the small model of `quality.py`. A score: a row's cosine with the target's mean of unit gradients (LESS "
            f"at one checkpoint); best rows: the {BEST} highest."
        ],
    )


if __name__ == "__main__":
    main()
