"""GTP against orthogonal matching pursuit: seconds, passes over the features and residual at the same k.

python benchmarks/gtp.py [--n 20000] [--d 4096] [--k 1000] [--threads 2] [--mean-target] [--full-reference] [--out gtp]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import write_results
from omp import fresh_omp, fresh_omp_cost, residual, updated_omp
from torch import Tensor

from hf_gip.core.gtp import gtp

SAMPLES = 10  # steps of the slow reference that are timed


def make_pool(n: int, d: int, seed: int, *, mean_target: bool) -> tuple[Tensor, Tensor]:
    """Unit rows like gradients of one model: groups of unequal size on a decaying spectrum; and a target.

    The target is the mean of 200 further rows from three of the 40 groups, so no sparse combination gives it exactly;
    or the mean of all rows.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, d + 1).float() ** (-0.5 if mean_target else -0.25)
    centers = torch.randn(40, d, generator=generator) * spectrum
    shares = torch.arange(1, 41).float() ** -1
    group = torch.multinomial(shares, n, replacement=True, generator=generator)
    rows = torch.nn.functional.normalize(centers[group] + torch.randn(n, d, generator=generator) * spectrum)
    if mean_target:
        return rows, rows.mean(0)
    target_groups = torch.tensor([2, 11, 23])[torch.randint(3, (200,), generator=generator)]
    target = centers[target_groups] + torch.randn(200, d, generator=generator) * spectrum
    return rows, torch.nn.functional.normalize(target).mean(0)


def timed(call: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, with wall-clock and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    return value, {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def measure(rows: Tensor, target: Tensor, k: int, full_reference: bool) -> list[dict[str, Any]]:
    """One line per method."""
    lines = []
    got, cost = timed(lambda: gtp(rows, target, k))
    lines.append({"method": "gtp", **cost, "passes": got.record["passes"], "indices": got.indices})
    print(lines[-1]["method"], cost, got.record["residuals"], flush=True)
    picks, cost = timed(lambda: updated_omp(rows, target, k))
    lines.append({"method": "OMP, updated factor", **cost, "passes": k, "indices": picks})
    print(lines[-1]["method"], cost, flush=True)
    name, reference_picks = "OMP, fresh least squares per pick (GRAD-MATCH)", picks
    if full_reference:
        reference_picks, cost = timed(lambda: fresh_omp(rows, target, k))
    else:
        name, cost = f"{name}, from {SAMPLES} of its steps", fresh_omp_cost(rows, target, picks, SAMPLES)
    lines.append({"method": name, **cost, "passes": k, "indices": reference_picks})
    print(name, cost, flush=True)
    top = torch.sort(rows @ target, descending=True).indices[:k]
    lines.append({"method": "top-k by correlation, then weights", "passes": 1, "indices": top})
    shuffled = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:k]
    lines.append({"method": "random, then weights", "passes": 0, "indices": shuffled})
    for line in lines:
        line["residual"] = residual(rows, target, line.pop("indices"))
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--d", type=int, default=4096)
    parser.add_argument("--k", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full-reference", action="store_true", help="run the slow reference in full: many minutes")
    parser.add_argument("--mean-target", action="store_true", help="match the mean of the pool in place of a target")
    parser.add_argument("--out", default="gtp", help="name of the result file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    rows, target = make_pool(arguments.n, arguments.d, 0, mean_target=arguments.mean_target)
    lines = measure(rows, target, arguments.k, arguments.full_reference)
    first, slow = lines[0], lines[2]
    notes = [
        f"{arguments.n:,} rows × {arguments.d:,}, k = {arguments.k:,}, float32; load before the run {load:.1f}.",
        "Residual: ‖b − Aᵀw‖ / ‖b‖ with the best non-negative weights on the rows chosen. Processor seconds count all "
        "threads, and depend less on what else the machine runs.",
        f"{slow['method']} over gtp: {slow['seconds'] / first['seconds']:.1f}x seconds, "
        f"{slow['cpu_seconds'] / first['cpu_seconds']:.1f}x processor seconds; residual of gtp over its: "
        f"{first['residual'] / slow['residual']:.3f}.",
    ]
    if not arguments.full_reference:
        notes.append(
            f"The fresh least squares were timed at {SAMPLES} sizes spread evenly over the picks, and multiplied out, "
            "without the fits repeated for negative weights: at least this long. Its picks are taken to be those of "
            "the updated factor, which follows the same rule."
        )
    print(lines, notes)
    write_results(arguments.out, lines, command=" ".join(["python", *sys.argv]), notes=notes)


if __name__ == "__main__":
    main()
