"""An evaluation without training noise: a linear probe on frozen vectors, fitted to the chosen rows' labels only."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .baselines import facility_location, k_center
from .data import embed_rows, load_bank, read_parquet
from .jobs import Job
from .methods import gip, spice, top_k

SEEDS, DRAWS = 20, 3
RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # the best by leave-one-out error on the chosen rows
POOL, TEST = 4_000, 2_000
BBH_ROWS = 40  # per task: 30 for the pool, 10 for the test
METHODS = (
    "random",
    "facility location",
    "k-center",
    "greedy DPP",
    "GIP cover",
    "GIP cover, information",
    "GIP cover, noise 0.1",
    "GIP cover, noise 3 k/d",
    "GIP towards the test rows",
    "GIP towards the test rows, information",
)
BUDGETS = {"judges' score": (40, 80, 200, 400), "BBH task": (27, 54, 135), "BBH task, long tail": (27, 54, 135)}


def jobs(seeds: int = SEEDS) -> Iterable[Job]:
    """All fits of the probe."""
    for seed in range(seeds):
        for label, budgets in BUDGETS.items():
            for k in budgets:
                for method in METHODS:
                    for draw in range(DRAWS if method == "random" else 1):
                        yield {"label": label, "k": k, "method": method, "seed": seed, "draw": draw}


class Probe:
    """Select rows, fit the probe, measure it."""

    def __init__(self, data: Path) -> None:
        """Store the data folder. Nothing is read yet."""
        self.data = data

    def run(self, job: Job) -> Job:
        """R² for scores, balanced accuracy for tasks, on rows outside the pool."""
        pool, labels, test, test_labels = split(self.data, job["label"], job["seed"])
        seed = 1_000 * job["seed"] + job["draw"]
        picks = select(job["method"], pool, test, job["k"], seed)
        predicted = ridge(pool[picks], labels[picks], test)
        if job["label"] == "judges' score":
            return {
                "quality": 1
                - float((predicted - test_labels).square().sum() / (test_labels - test_labels.mean()).square().sum())
            }
        hits = (predicted.argmax(dim=1) == test_labels.argmax(dim=1)).double()
        return {"quality": float(((test_labels.T @ hits) / test_labels.sum(dim=0)).mean())}


def split(data: Path, label: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pool vectors and labels, test vectors and labels."""
    random = np.random.default_rng([seed, 7])
    if label == "judges' score":
        bank = load_bank(data)
        rated = torch.nonzero(bank.source == 0)[:, 0].numpy()
        rows = torch.from_numpy(random.choice(rated, POOL + TEST, replace=False))
        x, y = bank.rows.vectors[rows], bank.scores[rows].mean(dim=1, keepdim=True)
        return x[:POOL], y[:POOL], x[POOL:], y[POOL:]
    vectors, tasks = bbh(data)
    inside, outside = [], []
    for rank, task in enumerate(random.permutation(int(tasks.max()) + 1)):
        rows = random.permutation(torch.nonzero(tasks == int(task))[:, 0].numpy())
        count = 30 if label == "BBH task" else max(2, round(30 / (1 + 0.5 * rank)))
        inside += rows[10 : 10 + count].tolist()
        outside += rows[:10].tolist()
    one_hot = torch.nn.functional.one_hot(tasks).double()
    return vectors[inside], one_hot[inside], vectors[outside], one_hot[outside]


@cache
def bbh(data: Path) -> tuple[Tensor, Tensor]:
    """Vectors and task numbers of the first rows of every BBH task."""
    rows = read_parquet(data / "bbh.parquet")
    names = sorted({row["task"] for row in rows})
    selected, counts = [], dict.fromkeys(names, 0)
    for row in rows:
        if counts[row["task"]] < BBH_ROWS:
            counts[row["task"]] += 1
            selected.append(row)
    embedded = embed_rows([row["input"][:400] for row in selected], [""] * len(selected))
    return embedded.vectors, torch.tensor([names.index(row["task"]) for row in selected])


def select(method: str, pool: Tensor, test: Tensor, k: int, seed: int) -> Tensor:
    """The rows whose labels the probe may see; no method sees labels, some see the test rows' vectors."""
    if method == "random":
        return top_k(torch.rand(len(pool), generator=torch.Generator().manual_seed(seed)), k)
    if method == "facility location":
        return facility_location(pool, k)
    if method == "k-center":
        return k_center(pool, k, seed)
    if method == "greedy DPP":
        return spice(pool, k, alpha=10.0, absolute_alpha=True, conflict_penalty=0.0).indices
    rule = max(0.1, k / pool.shape[1])
    noise = {"GIP cover, noise 0.1": 0.1, "GIP cover, noise 3 k/d": 3 * k / pool.shape[1]}.get(method, rule)
    objective = "information" if method.endswith("information") else "projection"
    queries = test if "towards" in method else None
    return gip(pool, queries, k, noise=noise, objective=objective).indices


def ridge(x: Tensor, y: Tensor, test: Tensor) -> Tensor:
    """Predictions of ridge regression with an intercept; the ridge by leave-one-out error, closed form."""
    x, y, test = x.double(), y.double(), test.double()
    center, mean_label = x.mean(0), y.mean(0)
    left_vectors, energies, right_vectors = torch.linalg.svd(x - center, full_matrices=False)
    best, weights = float("inf"), torch.zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for penalty in RIDGES:
        shrunk = energies.square() / (energies.square() + penalty)
        fitted = left_vectors @ (shrunk[:, None] * (left_vectors.T @ (y - mean_label)))
        leverage = (left_vectors.square() * shrunk).sum(1) + 1 / len(x)
        error = float((((y - mean_label) - fitted) / (1 - leverage).clamp(min=1e-6)[:, None]).square().mean())
        if error < best:
            best = error
            weights = right_vectors.T @ (
                (energies / (energies.square() + penalty))[:, None] * (left_vectors.T @ (y - mean_label))
            )
    return (test - center) @ weights + mean_label
