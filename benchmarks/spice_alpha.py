"""What α, unit length and λ do to SPICE's picks on gradients of real rows: the table that chose the defaults.

Run `python benchmarks/spice_alpha.py --data DATA`, a folder with `alpaca.parquet` and `gsm8k_train.parquet`. The
gradients are those of `spice_real.py`, cut into windows of 120, of which 12 rows each are chosen as in the paper.
α is in units of 1/mean‖g‖². Writes `results/spice_alpha.*`.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from machine import table, write_results
from spice_pool import real_gradients
from torch import Tensor

from hf_gip import spice
from hf_gip.core.matrix import unit_rows
from hf_gip.core.metrics import curvature, set_quality

WINDOW, CHOSEN = 120, 12
ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0)
PENALTIES = (0.0, 0.1, 0.3, 1.0)
RATIOS = (0.1, 0.3, 0.5, 0.7)
PAPER_SHARES = (55.1, 34.5, 26.1, 9.3)  # % of the pool that SPICE+ keeps


def jaccard(one: Tensor, other: Tensor) -> float:
    """Rows in both sets over rows in either."""
    a, b = set(one.tolist()), set(other.tolist())
    return len(a & b) / len(a | b)


def scale_free(G: Tensor) -> Tensor:
    """The gradients over their root mean square length, so that α is its own number in every figure."""
    return G / G.square().sum(dim=1).mean().sqrt()


def compare_picks(windows: list[Tensor], gradients: str, alpha: float) -> list[dict[str, Any]]:
    """One line per λ: means over the windows."""
    plain = [spice(G, CHOSEN, alpha=alpha, conflict_penalty=0.0).indices for G in windows]
    lines = []
    for penalty in PENALTIES:
        chosen = [spice(G, CHOSEN, alpha=alpha, conflict_penalty=penalty) for G in windows]
        quality = [set_quality(G[each.indices], alpha) for G, each in zip(windows, chosen, strict=True)]
        at_one = [set_quality(G[each.indices], 1.0).log_det for G, each in zip(windows, chosen, strict=True)]
        lines.append(
            {
                "gradients": gradients,
                "α": alpha,
                "λ": penalty,
                "log-det": statistics.mean(each.log_det for each in quality),
                "log-det at α = 1": statistics.mean(at_one),
                "conflict": statistics.mean(each.conflict for each in quality) / CHOSEN,
                "Jaccard with λ = 0": statistics.mean(
                    jaccard(each.indices, other) for each, other in zip(chosen, plain, strict=True)
                ),
                "curvature": statistics.mean(curvature(G, alpha) for G in windows),
                "largest α‖F_S‖": max(each.record["fisher_norm"] for each in chosen),
            }
        )
    return lines


def shares_kept(windows: list[Tensor], gradients: str, alpha: float) -> dict[str, Any]:
    """One line: the part of the pool that `stop_ratio` alone keeps, in %."""
    shares = {
        f"ω = {ratio:g}": 100
        * sum(len(spice(G, None, alpha=alpha, stop_ratio=ratio)) for G in windows)
        / sum(map(len, windows))
        for ratio in RATIOS
    }
    return {"gradients": gradients, "α": alpha, **shares}


def main() -> None:
    """Take the gradients, choose at every setting, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--rows", type=int, default=1_800, help="a third of them to train on, the others to choose from"
    )
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    rows = real_gradients(arguments.data, arguments.rows, arguments.steps).double()
    kinds = {"raw": rows, "unit length": unit_rows(rows)}
    cut = {name: [scale_free(G) for G in kind.split(WINDOW) if len(G) == WINDOW] for name, kind in kinds.items()}
    lines = [line for name, windows in cut.items() for alpha in ALPHAS for line in compare_picks(windows, name, alpha)]
    stopped = [shares_kept(windows, name, alpha) for name, windows in cut.items() for alpha in ALPHAS]
    paper = {f"ω = {ratio:g}": share for ratio, share in zip(RATIOS, PAPER_SHARES, strict=True)}
    stopped.append({"gradients": "the paper", "α": None, **paper})
    write_results(
        "spice_alpha",
        [*lines, *stopped],
        command=f"python benchmarks/spice_alpha.py --data DATA --rows {arguments.rows} --steps {arguments.steps}",
        packages=("torch", "transformers", "peft", "tokenizers"),
        body="\n".join(
            [
                *table(lines, list(lines[0])),
                "",
                "SPICE+, % of the pool kept at λ = 0.1:",
                "",
                *table(stopped, list(stopped[0])),
            ]
        ),
        notes=[
            f"{len(cut['raw'])} windows of {WINDOW} rows of Alpaca (3 in 4) and GSM8K, {CHOSEN} rows of each; LoRA "
            f"gradients of a Llama of 3 layers, width 96, after {arguments.steps} steps, 1,024 dims. α in units of "
            "1/mean‖g‖². Means over the windows.",
            "The paper: curvature .032 to .092, Jaccard .47 with its Fisher baseline, α‖F‖ < 1 assumed.",
        ],
    )


if __name__ == "__main__":
    main()
