"""The GIP paper's own pipeline beside our readings of it: how well judged and how broad the rows are that each takes.

Run `python benchmarks/gip.py --data DATA`, a folder with `alpaca.parquet` (three judges' scores, 0 to 5) and
`alpaca_minilm_f16.npy`. Every rule chooses from the same 5,000 rows, drawn five times. Writes `results/gip.*`.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from machine import write_results
from torch import Tensor

from hf_gip import gip, gip_dual
from hf_gip.core.metrics import coverage
from hf_gip.core.queries import default_ridge, precision_from_scores

JUDGES = ["score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b"]


def cover_trusting(X: Tensor, scores: Tensor, k: int) -> Tensor:
    """What `gip_select(k, scores=…)` chooses by default."""
    weights = precision_from_scores(scores)
    noise = default_ridge(k, X.shape[1], towards_target=False) * float(weights.square().mean())
    return gip(X, None, k, precision=weights, noise=noise).indices


RULES: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "the paper's MP+MA: dual, matching, scores as they are": lambda X, S, k: (
        gip_dual(X, S, k, pursuit="matching").indices
    ),
    "gip_dual: dual, orthogonal, ridge 0.1": lambda X, S, k: gip_dual(X, S, k).indices,
    "scores as precision (default of gip_select)": cover_trusting,
    "the paper's MP+SC: matching, no scores": lambda X, S, k: gip(X, None, k, pursuit="matching").indices,
    "top-k by the judges' mean": lambda X, S, k: S.mean(1).sort(descending=True, stable=True).indices[:k],
    "random": lambda X, S, k: torch.randperm(len(X), generator=torch.Generator().manual_seed(1))[:k],
}


def main() -> None:
    """Draw, choose, measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: Any = Dataset.from_parquet(str(args.data / "alpaca.parquet"))
    all_scores = torch.tensor(np.stack([table[name][:] for name in JUDGES], axis=1), dtype=torch.float64)
    vectors = np.load(args.data / "alpaca_minilm_f16.npy", mmap_mode="r")
    lines: list[dict[str, Any]] = [{"rule": rule} for rule in RULES]
    pools = []
    for draw in range(args.draws):
        rows = np.sort(np.random.default_rng(draw).choice(len(vectors), args.rows, replace=False))
        pools.append((torch.nn.functional.normalize(torch.from_numpy(vectors[rows]).float()), all_scores[rows]))
    for line, choose in zip(lines, RULES.values(), strict=True):
        for k in (100, 1_000):
            chosen = [(X, S, choose(X, S, k)) for X, S in pools]
            means = [float(S[picks].mean()) for _, S, picks in chosen]
            line[f"score, k = {k:,}"] = round(statistics.mean(means), 3)
            line[f"± over draws, k = {k:,}"] = round(statistics.stdev(means), 3)
            line[f"coverage, k = {k:,}"] = round(statistics.mean(coverage(X, X[picks]) for X, _, picks in chosen), 3)
        print(line, flush=True)
    write_results(
        "gip",
        lines,
        command=f"python benchmarks/gip.py --data DATA --rows {args.rows} --draws {args.draws}",
        notes=[
            f"{args.rows:,} of 52,002 Alpaca rows, drawn {args.draws} times; 384 numbers per row (MiniLM). score: "
            "mean over the picks and three judges, 0 to 5; ±: standard deviation over draws; coverage: the pool's "
            "mean best cosine to a pick, larger is broader.",
            "MP+MA and MP+SC are the paper's names. In code `gip_select(pool, k, scores=[…], pursuit='matching')`, "
            "and the same without scores.",
        ],
    )


if __name__ == "__main__":
    main()
