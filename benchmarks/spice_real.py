"""SPICE on gradients of real rows: log-det and conflict beside top-k Fisher and random, setting by setting.

Run `python benchmarks/spice_real.py --data DATA`, a folder with `alpaca.parquet` and `gsm8k_train.parquet`. A
tokenizer and a small Llama are trained on rows of both; gradients of other rows are taken, cut into pools of 300, and
a tenth of every pool is chosen by each rule. Writes `results/spice_real.*` and `docs/pictures/spice.svg`.

One yardstick for all rules, the paper's (section 3): log det(I + αF_S), and the mean over the set, in its order, of
conflict(x|S) = max(0, −cos(g, mean gradient of the rows before it)). SPICE's order is that of its picks, top-k's
falling length, random's any. One more column takes the mean of the whole set instead, which knows no order.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from machine import table, write_results
from spice_figures import figures
from spice_pool import down_proj_gradients, load_texts, lora_gradients, tokenize, train_model
from torch import Tensor

from hf_gip import spice
from hf_gip.core.metrics import random_sets, set_quality

POOL, DRAWS, WINDOW = 300, 10, 120
PENALTIES = (0.0, 0.1, 0.5, 1.0, 2.0)
Chooser = Callable[[Tensor, int, float], list[Tensor]]


@dataclass(frozen=True, slots=True)
class Setting:
    """One way of doing it: everything else is as in the first setting."""

    name: str
    gradients: str = "lora"
    share: float = 0.1
    scale: float | None = 1.0  # α as a multiple of 1/mean ‖g‖²; None: α = 1, the paper's
    pool: int | None = POOL  # None: all rows in one
    change: Callable[[Tensor], Tensor] = lambda G: G


SETTINGS = [
    Setting("LoRA gradients, a tenth"),
    Setting("α = 1", scale=None),
    Setting("α ten times as large", scale=10.0),
    Setting("a twentieth", share=0.05),
    Setting("a fifth", share=0.2),
    Setting("windows of 120, 12 of each", pool=WINDOW),
    Setting("one pool of all rows, a tenth", pool=None),
    Setting("unit length", change=lambda G: torch.nn.functional.normalize(G, dim=1)),
    Setting("centered on the pool", change=lambda G: G - G.mean(dim=0)),
    Setting("gradients of every down_proj", gradients="own"),
    Setting("proxy trained twice as long", gradients="later"),
]


def rules() -> dict[str, Chooser]:
    """Every rule by its name: gradients, k and α in, sets out."""

    def greedy(penalty: float) -> Chooser:
        return lambda G, k, alpha: [spice(G, k, alpha=alpha, absolute_alpha=True, conflict_penalty=penalty).indices]

    return {
        "top-k Fisher": lambda G, k, alpha: [G.norm(dim=1).topk(k).indices],
        "random": lambda G, k, alpha: random_sets(len(G), k, DRAWS, seed=0),
        **{f"SPICE, λ = {penalty:g}": greedy(penalty) for penalty in PENALTIES},
    }


def conflict_with_set_mean(rows: Tensor) -> float:
    """Mean of max(0, −cos) against the mean of the whole set."""
    mean = rows.double().mean(dim=0)
    cosine = rows.double() @ mean / (rows.double().norm(dim=1) * mean.norm() + 1e-8)
    return float((-cosine).clamp_min(0).mean())


def evaluate_sets(G: Tensor, sets: list[Tensor], alpha: float) -> tuple[float, float, float]:
    """Log-det, mean conflict, and conflict with the whole set, mean over `sets`."""
    results_by_rule = [set_quality(G[subset], alpha) for subset in sets]
    return (
        statistics.mean(each.log_det for each in results_by_rule),
        statistics.mean(each.conflict for each in results_by_rule) / len(sets[0]),
        statistics.mean(conflict_with_set_mean(G[subset]) for subset in sets),
    )


def measure(setting: Setting, gradients_by_kind: dict[str, Tensor]) -> list[dict[str, Any]]:
    """One line per rule: mean and spread over the pools."""
    rows = gradients_by_kind[setting.gradients]
    size = setting.pool or len(rows)
    pools = [part for part in rows.split(size) if len(part) == size]
    results_by_rule: dict[str, list[tuple[float, float, float]]] = {name: [] for name in rules()}
    for part in pools:
        G = setting.change(part)
        alpha = 1.0 if setting.scale is None else float(setting.scale / G.square().sum(dim=1).mean())
        for name, rule in rules().items():
            results_by_rule[name].append(evaluate_sets(G, rule(G, round(setting.share * size), alpha), alpha))
    lines = []
    for name, each in results_by_rule.items():
        log_det, conflict, whole_set_conflict = zip(*each, strict=True)
        line = {
            "setting": setting.name,
            "rule": name,
            "log_det": statistics.mean(log_det),
            "log_det_sd": statistics.stdev(log_det) if len(pools) > 1 else None,
            "mean_conflict": statistics.mean(conflict),
            "mean_conflict_sd": statistics.stdev(conflict) if len(pools) > 1 else None,
            "conflict_with_whole_set": statistics.mean(whole_set_conflict),
        }
        if name.startswith("SPICE"):
            compared = list(zip(each, results_by_rule["top-k Fisher"], results_by_rule["random"], strict=True))
            line["pools"] = len(pools)
            line["log_det above both"] = sum(us[0] > max(a[0], b[0]) for us, a, b in compared)
            line["conflict below both"] = sum(us[1] < min(a[1], b[1]) for us, a, b in compared)
            line["conflict below random"] = sum(us[1] < b[1] for us, _, b in compared)
        lines.append(line)
    return lines


def overview(lines: list[dict[str, Any]]) -> list[str]:
    """One line per setting: log-det and conflict of every rule."""
    short: list[dict[str, Any]] = []
    for line in lines:
        if not short or short[-1]["setting"] != line["setting"]:
            short.append({"setting": line["setting"]})
        short[-1][line["rule"]] = f"{line['log_det']:.1f} / {line['mean_conflict']:.4f}"
    return table(short, list(short[0]))


def main() -> None:
    """Train, take gradients, choose, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--rows", type=int, default=1_800, help="a third of them to train on, the others to choose from"
    )
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    rows = tokenize(load_texts(arguments.data, arguments.rows * 3 // 4, arguments.rows - arguments.rows * 3 // 4))
    third, steps = len(rows) // 3, arguments.steps
    gradients: dict[str, Tensor] = {}
    loss_notes = []
    stages = train_model(rows[:third], [steps, 2 * steps])
    for (model, losses), names in zip(stages, (("lora", "own"), ("later",)), strict=True):
        loss_notes.append(f"{losses[0]:.2f} to {statistics.mean(losses[-10:]):.2f} after {len(losses)}")
        for name in names:
            gradients[name] = (down_proj_gradients if name == "own" else lora_gradients)(model, rows[third:])
    lines = [line for setting in SETTINGS for line in measure(setting, gradients)]
    single = gradients["lora"][:1000]
    alpha = float(1 / single.square().sum(dim=1).mean())
    values = figures(single, 100, alpha)
    print("\n".join(overview(lines)))
    write_results(
        "spice_real",
        lines,
        command=f"python benchmarks/spice_real.py --data DATA --rows {arguments.rows} --steps {steps}",
        packages=("torch", "transformers", "peft", "tokenizers"),
        body="\n".join(
            ["Log-det / mean conflict:", "", *overview(lines), "", "In full:", "", *table(lines, list(lines[2]))]
        ),
        notes=[
            f"{len(gradients['lora'])} rows of Alpaca (3 in 4) and GSM8K in pools of {POOL}, a tenth of each chosen "
            f"unless the setting says otherwise; mean and standard deviation over pools, random over {DRAWS} draws in "
            f"each. Llama of 3 layers, width 96, trained in steps of 16 other rows (loss {', '.join(loss_notes)} "
            "steps); gradients in 1,024 dims; α = 1/mean ‖g‖² unless said.",
            f"Figures about single rows: 1,000 rows, α = {alpha:.3g}, beside a random set of 64; ε as a share of "
            "log(1 + α‖g‖²).",
            *(f"{name}: {value:.4g}." for name, value in values.items()),
        ],
    )


if __name__ == "__main__":
    main()
