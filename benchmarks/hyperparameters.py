"""Effect of the hyperparameters `quality` and `diversity` on 52,002 Alpaca rows with three judges.

Each line is one selection of k = 1,000 rows: the judges' mean score of the picks, Vendi (effective number of distinct
rows) and coverage (the pool's mean best cosine to a pick). Five random subsets have 95 % intervals.

    python benchmarks/hyperparameters.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from machine import write_results

from hf_gip.core.gip import gip
from hf_gip.core.metrics import coverage, vendi
from hf_gip.core.queries import default_ridge, precision_from_scores
from hf_gip.dataset.comparison import interval

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]
K, SEEDS = 1_000, 5
QUALITY, DIVERSITY = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), (0.05, 0.2, 0.5, 0.8, 0.95)


def main() -> None:
    """Measure and write `results/hyperparameters.{json,md}`."""
    import pyarrow.parquet as pq

    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    table = pq.read_table(DATA / "alpaca.parquet", columns=JUDGES)
    scores = torch.tensor(np.stack([table[name].to_numpy() for name in JUDGES], 1), dtype=torch.float64)
    pool = torch.nn.functional.normalize(torch.from_numpy(np.load(DATA / "alpaca_minilm_f16.npy")).float(), dim=1)

    def metrics(rows: torch.Tensor) -> dict[str, float]:
        return {
            "mean score": float(scores[rows].mean()),
            "vendi": vendi(pool[rows]),
            "coverage": coverage(pool, pool[rows]),
        }

    lines = []
    draws = [
        metrics(torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:K]) for seed in range(SEEDS)
    ]
    spread = {name: interval([draw[name] for draw in draws]) for name in draws[0]}
    cells = {name: f"{middle:.4g} ± {half:.2g}" for name, (middle, half) in spread.items()}
    lines.append({"selection": f"random ({SEEDS} seeds)", "quality": "", "diversity": "", **cells})
    best = scores.mean(1).argsort(descending=True, stable=True)[:K]
    lines.append({"selection": "top-k by mean score", "quality": "", "diversity": "", **format_figures(metrics(best))})
    settings = [(quality, 0.5) for quality in QUALITY] + [(1.0, diversity) for diversity in DIVERSITY]
    for quality, diversity in dict.fromkeys(settings):
        weights = precision_from_scores(scores, quality=quality)
        noise = default_ridge(K, pool.shape[1], towards_target=False, diversity=diversity)
        picks = gip(pool, None, K, noise=noise * float(weights.square().mean()), precision=weights).indices
        line = {
            "selection": "gip",
            "quality": f"{quality:g}",
            "diversity": f"{diversity:g}",
            **format_figures(metrics(picks)),
        }
        print(line, flush=True)
        lines.append(line)
    notes = ["k = 1,000 of 52,002 Alpaca rows, three judges; figures, not times: the machine's load does not matter."]
    write_results("hyperparameters", lines, command="python benchmarks/hyperparameters.py", notes=notes)


def format_figures(figures: dict[str, float]) -> dict[str, str]:
    """Figures with four digits."""
    return {name: f"{value:.4g}" for name, value in figures.items()}


if __name__ == "__main__":
    main()
