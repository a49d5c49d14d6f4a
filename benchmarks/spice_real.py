"""SPICE on gradients of real rows: log-det and conflict beside top-k Fisher and random, and the paper's figures.

Run `python benchmarks/spice_real.py --data DATA`, a folder with `alpaca.parquet` and `gsm8k_train.parquet`. A
tokenizer is trained on the pool and a small Llama on half of it for a moment; every row's LoRA gradient is taken once.
Then k rows are chosen from all others by each rule. Writes `results/spice_real.*` and `docs/pictures/spice.svg`.
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from machine import write_results
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_gip import gradient_features, spice
from hf_gip.core.diagnostics import random_sets, set_quality
from hf_gip.core.fisher import information
from hf_gip.core.lazy import conflict_of
from hf_gip.features.proxy import LORA
from hf_gip.features.tokens import Tally, token_batches

LENGTH, VOCABULARY, SEEDS = 128, 4_096, 5
PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "spice.svg"


def texts(folder: Path, alpaca: int, maths: int) -> list[str]:
    """Rows of both sources, drawn at random and mixed."""
    names = ["instruction", "input", "output"], ["question", "answer"]
    parts = []
    for name, count, columns in zip(("alpaca", "gsm8k_train"), (alpaca, maths), names, strict=True):
        rows: Any = Dataset.from_parquet(str(folder / f"{name}.parquet"))
        drawn = rows.shuffle(seed=0).select(range(count))
        joined = [{"text": "\n".join(str(row[name]) for name in columns if row[name])} for row in drawn]
        parts.append(Dataset.from_list(joined))
    return concatenate_datasets(parts).shuffle(seed=1)["text"][:]


def learned(pool: list[str]) -> Tokenizer:
    """A byte-level tokenizer trained on the rows."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator(pool, trainer)
    return tokenizer


def tokenised(pool: list[str]) -> list[dict[str, list[int]]]:
    """The rows as tokens of a tokenizer trained on them."""
    return [{"input_ids": [0, *encoded.ids[: LENGTH - 1]]} for encoded in learned(pool).encode_batch(pool)]


def trained(rows: list[dict[str, list[int]]], steps: int) -> tuple[nn.Module, float, float]:
    """A small Llama after `steps` AdamW steps on `rows`, with LoRA layers on top; first and last loss."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    drawn = torch.randint(len(rows), (steps * 16,), generator=torch.Generator().manual_seed(2)).tolist()
    for batch in token_batches(rows, drawn, 16, LENGTH, Tally()):
        labels = batch.labels
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return get_peft_model(model, LoraConfig(**LORA)), losses[0], statistics.mean(losses[-10:])


def ranks(values: Tensor) -> Tensor:
    """Ranks as numbers; real gradients do not tie."""
    return values.argsort().argsort().double()


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation."""
    return float(torch.corrcoef(torch.stack([ranks(a), ranks(b)]))[0, 1])


def course(G: Tensor, picks: Tensor, alpha: float) -> dict[str, Tensor]:
    """What each of `picks` added in its turn, its share of what it holds alone, overlap and conflict."""
    chosen = G[picks].double()
    state = information("full", len(picks), chosen, alpha)
    energy = chosen.square().sum(dim=1)
    alone = torch.log1p(alpha * energy)
    gains = []
    for number in range(len(picks)):
        gains.append(math.log1p(alpha * float(energy[number])))
        state.choose(chosen[number], energy[number])
        energy = state.after_choice(chosen, energy)
    before = chosen.cumsum(dim=0) - chosen
    norms, totals = chosen.norm(dim=1), before.norm(dim=1)
    clash = conflict_of((chosen * before).sum(dim=1)[1:], norms[1:], totals[1:], torch.arange(1, len(picks)))
    gain = torch.tensor(gains, dtype=torch.float64)
    return {
        "gain": gain,
        "share": gain / alone,
        "overlap": gain - alone,
        "conflict": torch.cat([clash[:0].new_zeros(1), clash]),
    }


def candidates(G: Tensor, size: int, alpha: float) -> dict[str, Tensor]:
    """Every row beside `size` random ones: gain and |ε| as shares of what it holds alone, signed cosine."""
    [base] = random_sets(len(G), size, 1, seed=7)
    rest = torch.ones(len(G), dtype=torch.bool)
    rest[base] = False
    rows, chosen = G[rest].double(), G[base].double()
    basis = torch.linalg.cholesky(chosen @ chosen.T + torch.eye(size, dtype=torch.float64) / alpha)
    shadow = torch.linalg.solve_triangular(basis, chosen @ rows.T, upper=False)
    energy = rows.square().sum(dim=1)
    gain = torch.log1p(alpha * (energy - shadow.square().sum(dim=0)).clamp_min(0))
    total = chosen.sum(dim=0)
    cosine = rows @ total / (energy.sqrt() * total.norm())
    share = gain / torch.log1p(alpha * energy)
    return {"gain": share, "overlap": 1 - share, "cosine": cosine}


def drawn(lines: dict[str, dict[str, Tensor]], beside: dict[str, Tensor]) -> None:
    """The picture: gains kept along the run in sets of low and high conflict, and overlap against conflict."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "spice"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for name, line in lines.items():
        smooth = line["share"].unfold(0, 8, 1).mean(dim=1)
        left.plot(range(8, 8 + len(smooth)), smooth, label=f"{name}: conflict {float(line['conflict'].mean()):.2f}")
    left.set(xlabel="pick", ylabel="share of its own information a pick adds", title="Information decays")
    left.legend()
    clash = (-beside["cosine"]).clamp_min(0)
    some = clash > 0
    right.scatter(clash[some], beside["overlap"][some], s=3, rasterized=False)
    right.set(
        xlabel="conflict with 64 random rows", ylabel="|ε|, information taken away, nats", title="Overlap and conflict"
    )
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


def by_conflict(G: Tensor, size: int, alpha: float) -> dict[str, dict[str, Tensor]]:
    """Two sets of rows of like length, grown to agree with, or to pull against, the rows before."""
    norms = G.norm(dim=1)
    middle = norms.argsort()[len(G) // 4 : 3 * len(G) // 4]
    unit = torch.nn.functional.normalize(G[middle].double(), dim=1)
    lines = {}
    for name, sign in (("agreeing", 1.0), ("pulling against", -1.0)):
        picks, free, total = [0], torch.ones(len(unit), dtype=torch.bool), unit[0].clone()
        free[0] = False
        while len(picks) < size:
            score = (sign * (unit @ total)).masked_fill(~free, -torch.inf)
            picks.append(int(score.argmax()))
            free[picks[-1]] = False
            total += unit[picks[-1]]
        lines[name] = course(G, middle[torch.tensor(picks)], alpha)
    return lines


def main() -> None:
    """Train, take gradients, choose, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=2_000, help="half of them to train on, half to choose from")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--steps", type=int, default=120)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    rows = tokenised(texts(arguments.data, arguments.rows * 3 // 4, arguments.rows - arguments.rows * 3 // 4))
    half = len(rows) // 2
    model, first, last = trained(rows[:half], arguments.steps)
    G = gradient_features(model, rows[half:], dims=1024, batch_size=16).features
    alpha, k = float(1 / G.square().sum(dim=1).mean()), arguments.k  # the mean gradient's length as the unit
    picks: dict[str, list[Tensor]] = {
        "spice, λ = 0.1": [spice(G, k, alpha=alpha).indices],
        "spice, λ = 0.5": [spice(G, k, alpha=alpha, conflict_penalty=0.5).indices],
        "λ = 0 (D-optimal greedy)": [spice(G, k, alpha=alpha, conflict_penalty=0.0).indices],
        "top-k Fisher (by length)": [G.norm(dim=1).topk(k).indices],
        f"random, mean of {SEEDS}": random_sets(len(G), k, SEEDS, seed=0),
    }
    table: list[dict[str, Any]] = []
    for name, sets in picks.items():
        found = [set_quality(G[some], alpha) for some in sets]
        values = [each.log_det for each in found]
        table.append(
            {
                "rule": name,
                "log_det": statistics.mean(values),
                "log_det_sd": statistics.stdev(values) if len(values) > 1 else None,
                "mean_conflict": statistics.mean(each.conflict for each in found) / k,
                "shared_with_spice": len(set(sets[0].tolist()) & set(picks["spice, λ = 0.1"][0].tolist())) / k,
            }
        )
        print(table[-1])
    lines, beside = by_conflict(G, k, alpha), candidates(G, 64, alpha)
    clash = beside["cosine"] < 0
    figures = {
        "conflicting rows": int(clash.sum()),
        "conflict against |ε|, Spearman": spearman(-beside["cosine"][clash], beside["overlap"][clash]),
        "conflict against gain, Spearman": spearman(-beside["cosine"][clash], beside["gain"][clash]),
        "|cos| against |ε|, all rows, Spearman": spearman(beside["cosine"].abs(), beside["overlap"]),
    }
    figures |= {
        f"share of its own information the last quarter of picks adds, {name}": float(line["share"][-k // 4 :].mean())
        for name, line in lines.items()
    }
    print(figures)
    drawn(lines, beside)
    write_results(
        "spice_real",
        table,
        command="python benchmarks/spice_real.py --data DATA"
        f" --rows {arguments.rows} --k {k} --steps {arguments.steps}",
        packages=("torch", "transformers", "peft", "tokenizers"),
        notes=[
            f"{len(G)} rows of Alpaca (3 in 4) and GSM8K; Llama of 3 layers, width 96, trained {arguments.steps} "
            f"steps of 16 rows on as many others (loss {first:.2f} to {last:.2f}); LoRA gradients in 1,024 dims; "
            f"α = 1/mean ‖g‖² = {alpha:.3g}; k = {k}. Rows beside a random set of 64; ε as a share of log(1 + α‖g‖²).",
            *(f"{name}: {value:.4g}." for name, value in figures.items()),
        ],
    )


if __name__ == "__main__":
    main()
