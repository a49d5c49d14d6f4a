"""The SPICE paper's small tables on small models, beside the paper's figures: their direction, not their level.

Run `python benchmarks/papers.py [--data DATA]`, a folder with `alpaca.parquet` and `gsm8k_train.parquet`; some minutes
on one core. Writes `results/papers.*`. The pool has three sources: code (Alpaca rows whose instruction matches
`CODE`), math (GSM8K) and general (all other Alpaca rows). The proxy is a Llama of 3 layers trained on other rows of
the same mixture; gradients are those of its LoRA layers. α is in units of 1/mean‖g‖².
"""

import argparse
import re
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from machine import table, write_results
from spice_alpha import WINDOW, jaccard, scale_free
from spice_pool import lora_gradients, tokenize, train_model
from torch import Tensor

from hf_gip import less, spice
from hf_gip.core.matrix import unit_rows
from hf_gip.core.metrics import conflict_with_chosen, curvature, curvature_factor, random_sets, set_quality

DATA = Path(__file__).parents[2] / "shared" / "data"
CODE = re.compile(r"\b(python|java|javascript|sql|html|css|algorithm|code|regex|c\+\+)(?!\w)", re.IGNORECASE)
POOL = {"code": 192, "math": 192, "general": 576}  # eight windows of 120
TRAIN = {name: count // 2 for name, count in POOL.items()}
STEPS, ALPHA = 120, 0.01
SETS, SET_ROWS, SET_PICKS = 150, 12, 4  # small pools on which every subset can be tried


def load_sources(folder: Path) -> dict[str, list[str]]:
    """Texts of each source, in a random order."""
    alpaca: Any = Dataset.from_parquet(str(folder / "alpaca.parquet")).shuffle(seed=0)
    math: Any = Dataset.from_parquet(str(folder / "gsm8k_train.parquet")).shuffle(seed=0)
    texts: dict[str, list[str]] = {"code": [], "math": [], "general": []}
    for row in alpaca.select(range(12_000)):
        name = "code" if CODE.search(row["instruction"]) else "general"
        texts[name].append("\n".join(part for part in (row["instruction"], row["input"], row["output"]) if part))
    texts["math"] = [f"{row['question']}\n{row['answer']}" for row in math.select(range(2_000))]
    return texts


def pool_gradients(folder: Path) -> tuple[Tensor, list[str], Tensor]:
    """Gradients of the pool in a random order, each row's source, and gradients of held-out math rows."""
    texts = load_sources(folder)
    train = [text for name, count in TRAIN.items() for text in texts[name][:count]]
    rows = [(text, name) for name, count in POOL.items() for text in texts[name][TRAIN[name] : TRAIN[name] + count]]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [rows[i] for i in order]
    target = texts["math"][-16:]
    tokens = tokenize([*train, *(text for text, _ in rows), *target])
    [(model, _)] = train_model(tokens[: len(train)], [STEPS])
    G = lora_gradients(model, tokens[len(train) :]).double()
    return G[: len(rows)], [name for _, name in rows], G[len(rows) :]


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; equal values share their mean rank."""

    def ranks(values: Tensor) -> Tensor:
        _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
        return (counts.cumsum(0) - (counts - 1) / 2)[inverse]

    return float(torch.corrcoef(torch.stack([ranks(a.double()), ranks(b.double())]))[0, 1])


def overlap_and_conflict(G: Tensor, size: int) -> dict[str, float | None]:
    """Table 4: every row beside a random S: |ε| against conflict, and whether the paper's bound holds.

    |ε_x(S)| ≤ C α² Σ_{y∈S} (g_xᵀg_y)² / (1 + α‖g_x‖²), C = 1/(1 − ρ − αG²ρ), ρ = α‖F_S‖ < 1, G the largest ‖g‖.
    """
    [members] = random_sets(len(G), size, 1, seed=size)
    is_outside = torch.ones(len(G), dtype=torch.bool).index_fill_(0, members, value=False)
    S, rows = G[members], G[is_outside]
    energy, inner = rows.square().sum(dim=1), rows @ S.T
    ridge = torch.eye(size, dtype=torch.float64) / ALPHA
    explained = (inner.T * torch.linalg.solve(S @ S.T + ridge, inner.T)).sum(dim=0)
    epsilon = torch.log1p(ALPHA * energy) - torch.log1p(ALPHA * (energy - explained))
    total = S.sum(dim=0)
    conflict = conflict_with_chosen(rows @ total, energy.sqrt(), total.norm(), size)
    rho = ALPHA * float(torch.linalg.matrix_norm(S, 2)) ** 2
    room = 1 - rho - ALPHA * float(energy.max()) * rho
    products = inner.square().sum(dim=1)
    bound = ALPHA**2 * products / (1 + ALPHA * energy)
    return {
        "Spearman |ε|, conflict": spearman(epsilon, conflict),
        "Spearman |ε|, Σ(gᵀg)²": spearman(epsilon, products),
        "α‖F_S‖": rho,
        "bound violated, %": 100 * float((epsilon > bound / room).double().mean()) if room > 0 else None,
        "violated with C = 1, %": 100 * float((epsilon > bound).double().mean()),
    }


def greedy_against_best(G: Tensor, alpha: float) -> list[dict[str, float]]:
    """Table 5: small pools by their conflict, in thirds: curvature, the ratio it promises, and the true one."""
    results = []
    for members in random_sets(len(G), SET_ROWS, SETS, seed=100):
        rows = G[members]
        cosine = unit_rows(rows) @ unit_rows(rows).T
        reached = spice(rows, SET_PICKS, alpha=alpha, absolute_alpha=True, conflict_penalty=0.0).objective
        subsets = torch.tensor(list(combinations(range(SET_ROWS), SET_PICKS)))
        gram = rows @ rows.T
        inside = gram[subsets[:, :, None], subsets[:, None, :]]
        best = float(torch.logdet(torch.eye(SET_PICKS, dtype=torch.float64) + alpha * inside).max())
        conflict = float((-cosine).clamp_min(0).sum()) / (SET_ROWS * (SET_ROWS - 1))
        results.append((conflict, curvature(rows, alpha), reached / best))
    results.sort()
    thirds = [results[i * SETS // 3 : (i + 1) * SETS // 3] for i in range(3)]
    return [
        {
            "conflict": statistics.mean(each[0] for each in third),
            "curvature": statistics.mean(each[1] for each in third),
            "theoretical ratio": curvature_factor(statistics.mean(each[1] for each in third)),
            "actual ratio": statistics.mean(each[2] for each in third),
        }
        for third in thirds
    ]


def half_life(G: Tensor, alpha: float) -> float | None:
    """Picks until the gain is half of the first, median over windows; None where half of them never get there."""
    lengths = []
    for window in G.split(WINDOW):
        gains = spice(scale_free(window), len(window), alpha=alpha).gains
        below = torch.nonzero(gains <= gains[0] / 2).flatten()
        lengths.append(float(below[0]) if len(below) else float("inf"))
    middle = statistics.median(lengths)
    return middle if middle < float("inf") else None


def choose(G: Tensor, target: Tensor) -> dict[str, Tensor]:
    """A tenth of the rows by every rule."""
    k, unit = len(G) // 10, unit_rows(G)
    return {
        "SPICE": spice(unit, k, window=WINDOW).indices,
        "SPICE, λ = 0": spice(unit, k, window=WINDOW, conflict_penalty=0.0).indices,
        "SPICE, raw": spice(G, k, window=WINDOW).indices,
        "Fisher (raw, λ = 0)": spice(G, k, window=WINDOW, conflict_penalty=0.0).indices,
        "LESS": less(G, target, k, learning_rates=[1.0]).indices,
        "DPP": spice(unit, k, alpha=10.0, conflict_penalty=0.0).indices,
        "random": random_sets(len(G), k, 1, seed=5)[0],
    }


PAPER_SOURCES = {"SPICE": "10/8/9", "Fisher (raw, λ = 0)": "12/2/9", "LESS": "1/12/11", "DPP": "7/7/9"}
PAPER_JACCARD = {"Fisher (raw, λ = 0)": 0.47, "LESS": 0.01, "random": 0.05}
PAPER_TABLE_4 = {16: (0.723, 6.4), 32: (0.756, 7.1), 64: (0.789, 10.3), 128: (0.801, 12.8), 256: (0.818, 13.4)}
PAPER_TABLE_5 = {"low": (0.032, 0.984), "medium": (0.074, 0.964), "high": (0.092, 0.955)}


def tables(G: Tensor, sources: list[str], target: Tensor) -> dict[str, list[dict[str, Any]]]:
    """Every table, ours beside the paper's."""
    kinds = {"raw": scale_free(G), "unit length": scale_free(unit_rows(G))}
    picks = choose(G, target)
    count = {name: sources.count(name) for name in POOL}
    shares = []
    for rule, rows in picks.items():
        chosen = [sources[row] for row in rows.tolist()]
        ours = {f"{name}, %": 100 * chosen.count(name) / count[name] for name in POOL}
        shares.append({"rule": rule, **ours, "paper, code/math/general": PAPER_SOURCES.get(rule)})
    return {
        "Table 3: share of each source that is chosen": shares,
        f"Table 4: |ε| beside a random S, α = {ALPHA}": [
            {
                "gradients": name,
                "|S|": size,
                **overlap_and_conflict(kind, size),
                "paper, Spearman": paper[0],
                "paper, violated %": paper[1],
            }
            for name, kind in kinds.items()
            for size, paper in PAPER_TABLE_4.items()
        ],
        f"Table 5: greedy against exhaustive search, {SET_PICKS} of {SET_ROWS} rows": [
            {
                "gradients": name,
                "α": alpha,
                "pools": level,
                **line,
                "paper, curvature": paper[0],
                "paper, theoretical": paper[1],
                "paper, actual": 1.0,
            }
            for name, kind in kinds.items()
            for alpha in (ALPHA, 1.0)
            for (level, paper), line in zip(PAPER_TABLE_5.items(), greedy_against_best(kind, alpha), strict=True)
        ],
        "Table 12: Jaccard with SPICE": [
            {
                "rule": rule,
                "with SPICE": jaccard(picks["SPICE"], rows),
                "with SPICE, raw": jaccard(picks["SPICE, raw"], rows),
                "log-det at α = 1, unit length": set_quality(kinds["unit length"][rows], 1.0).log_det,
                "paper": PAPER_JACCARD.get(rule),
            }
            for rule, rows in picks.items()
        ],
        "Half-life of gains, picks of a window of 120": [
            {"gradients": name, "α": alpha, "half-life": half_life(kind, alpha), "paper": "10 to 30"}
            for name, kind in kinds.items()
            for alpha in (ALPHA, 1.0, 10.0)
        ],
    }


def main() -> None:
    """Train, take gradients, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    every = tables(*pool_gradients(arguments.data))
    body = [line for name, rows in every.items() for line in (f"## {name}", "", *table(rows, list(rows[0])), "")]
    print("\n".join(body))
    write_results(
        "papers",
        [{"table": name, **row} for name, rows in every.items() for row in rows],
        command="python benchmarks/papers.py",
        packages=("torch", "transformers", "peft", "tokenizers"),
        body="\n".join(body).rstrip(),
        notes=[
            f"Pool: {', '.join(f'{count} {name}' for name, count in POOL.items())} rows. Code: an Alpaca row whose "
            f"instruction matches `{CODE.pattern}`. Llama of 3 layers, width 96, trained {STEPS} steps of 16 "
            "other rows of the same mixture; gradients in 1,024 dims; one seed. LESS: towards 16 held-out GSM8K rows. "
            "The paper: Qwen2-0.5B on 97,500 rows.",
        ],
    )


if __name__ == "__main__":
    main()
