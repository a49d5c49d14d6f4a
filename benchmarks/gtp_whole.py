"""What GTP fits, measured on whole gradients: projections against each other, unit gradients against raw ones.

Run `python benchmarks/gtp_whole.py --data DATA`, the pool, target and model of `gtp_real.py`. Every fit is made in its
own projection, then judged on the whole gradients of the same checkpoints. Writes `results/gtp_whole.*`.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import config
from gtp_real import RUN, arguments, command, set_up
from machine import write_results
from torch import Tensor

from hf_gip import gradient_trajectories, gtp
from hf_gip.core.metrics import random_sets
from hf_gip.dataset.gradient_trajectories import Trajectories

SUBSPACES = {
    "random, 1,024": {"subspace": "random", "projection_dim": 1_024},
    "random, 4,096": {"subspace": "random", "projection_dim": 4_096},
    "snapshots": {"subspace": "snapshots", "projection_dim": 4_096},
}
SEEDS = 5


class WholeGradients:
    """The raw gradients of all weights at each checkpoint, times the root of its learning rate."""

    def __init__(self, run: Trajectories) -> None:
        self.rates = run.learning_rates
        self.rows = [each.rows(torch.arange(each.n)) for each in run.features]
        self.targets = run.targets or []

    def residual(self, chosen: Tensor, weights: Tensor, *, of_pool: bool, unit: bool) -> float:
        """‖b − Aᵀw‖ / ‖b‖."""
        lost = total = 0.0
        for rate, rows, targets in zip(self.rates, self.rows, self.targets, strict=True):
            scaled = [torch.nn.functional.normalize(each) if unit else each for each in (rows, targets)]
            b = (scaled[0] if of_pool else scaled[1]).double().mean(0)
            lost += rate * float((b - weights @ scaled[0][chosen].double()).square().sum())
            total += rate * float(b.square().sum())
        return (lost / total) ** 0.5

    def cosine(self, chosen: Tensor, weights: Tensor, *, of_pool: bool) -> float:
        """Of Σ wᵢgᵢ with the mean raw gradient: how well the weights do as loss weights, whatever their scale."""
        inner = own = total = 0.0
        for rate, rows, targets in zip(self.rates, self.rows, self.targets, strict=True):
            b, sum_ = (rows if of_pool else targets).double().mean(0), weights @ rows[chosen].double()
            inner, own = inner + rate * float(b @ sum_), own + rate * float(sum_ @ sum_)
            total += rate * float(b @ b)
        return inner / (own * total) ** 0.5

    def unit_mean_cosine(self, *, of_pool: bool) -> float:
        """Of the mean unit gradient, which is what unit gradients are fitted to, with the mean raw gradient."""
        inner = own = total = 0.0
        for rate, rows, targets in zip(self.rates, self.rows, self.targets, strict=True):
            raw = (rows if of_pool else targets).double()
            b, unit = raw.mean(0), torch.nn.functional.normalize(raw).mean(0)
            inner, own = inner + rate * float(b @ unit), own + rate * float(unit @ unit)
            total += rate * float(b @ b)
        return inner / (own * total) ** 0.5


def measure(run: Trajectories, whole: WholeGradients, k: int, *, of_pool: bool, unit: bool) -> dict[str, float]:
    """One fit in its projection, on whole gradients, and as loss weights."""
    if of_pool:
        run = replace(run, targets=None, target_checks=None)
    selection = gtp(run.features, run.target_means(), k, learning_rates=run.learning_rates)
    assert selection.weights is not None
    chosen, weights = selection.indices, selection.weights
    second = run.whole_residual(chosen, weights[None])
    assert second is not None
    cosine = whole.cosine(chosen, weights, of_pool=of_pool)
    plain = whole.cosine(chosen, torch.ones_like(weights), of_pool=of_pool)
    return {
        "residual in projection": selection.record["residual"],
        "by second sketch": second,
        "of whole gradients": whole.residual(chosen, weights, of_pool=of_pool, unit=unit),
        "cosine as loss weights": cosine,
        "residual as loss weights": (1 - cosine**2) ** 0.5,
        "residual unweighted": (1 - plain**2) ** 0.5,
    }


def main() -> None:
    """Gradients once whole and once per projection, then the fits."""
    args = arguments(__doc__)
    model, pool, target, _, words = set_up(args)
    lines: list[dict[str, Any]] = []
    with TemporaryDirectory() as cache:
        config.HF_DATASETS_CACHE = Path(cache)  # the warm-up run serves all
        options: dict[str, Any] = {"model": model, "target": target, "adam": False}
        options |= {name: value for name, value in RUN.items() if name != "projection_dim"}
        whole = WholeGradients(gradient_trajectories(pool, projection_dim=None, normalize=False, **options))
        for unit in (True, False):
            for name, projection in SUBSPACES.items():
                run = gradient_trajectories(pool, normalize=unit, **options, **projection)
                for of_pool in (True, False):
                    line = {"target": "the pool" if of_pool else "GSM8K", "gradients": "unit" if unit else "raw"}
                    line |= {"projection": name, **measure(run, whole, args.k, of_pool=of_pool, unit=unit)}
                    lines.append(
                        {key: value if isinstance(value, str) else round(value, 3) for key, value in line.items()}
                    )
                    print(lines[-1], flush=True)
    lines.sort(key=lambda line: (line["target"], line["gradients"]), reverse=True)
    sets = random_sets(whole.rows[0].shape[0], args.k, SEEDS, seed=0)
    for of_pool in (True, False):
        cosines = [whole.cosine(chosen, torch.ones(args.k, dtype=torch.float64), of_pool=of_pool) for chosen in sets]
        lost = statistics.mean((1 - cosine**2) ** 0.5 for cosine in cosines)
        lines.append({"target": "the pool" if of_pool else "GSM8K", "gradients": f"random rows, mean of {SEEDS}"})
        lines[-1]["residual unweighted"] = round(lost, 3)
    unit_mean = {of_pool: whole.unit_mean_cosine(of_pool=of_pool) for of_pool in (True, False)}
    write_results(
        "gtp_whole",
        lines,
        command=command("gtp_whole", args),
        packages=("torch", "transformers", "peft", "tokenizers"),
        notes=[
            f"{words} {whole.rows[0].shape[1]:,} numbers in a whole gradient.",
            "residual in projection: ‖b − Aᵀw‖ / ‖b‖ as the fit sees it, `record['residual']`; by second sketch: the "
            "same of whole gradients, estimated by 512 numbers per checkpoint, `record['whole_residual']`; of whole "
            "gradients: exactly.",
            "cosine as loss weights: of Σ wᵢgᵢ with the mean raw gradient of the target; residual as loss weights: "
            "what remains at the best scale; residual unweighted: the same with equal weights on the same rows.",
            f"The mean of unit gradients has a cosine of {unit_mean[True]:.3f} with the pool's mean raw gradient, "
            f"and {unit_mean[False]:.3f} with that of GSM8K.",
        ],
    )


if __name__ == "__main__":
    main()
