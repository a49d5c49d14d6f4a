"""GTP on gradients of real rows along a warm-up run, beside LESS, RDS+ and random rows with fitted weights.

Run `python benchmarks/gtp_real.py --data DATA`, a folder with `alpaca.parquet`, `gsm8k_train.parquet` and
`gsm8k_test.parquet`. The pool is Alpaca with GSM8K rows mixed in, some of them twice in other words; the target is
GSM8K's test rows. A tokenizer and a small Llama are trained on other rows for a moment. Writes `results/gtp_real.*`.
"""

import argparse
import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, config, disable_progress_bars
from machine import write_results
from peft import LoraConfig, get_peft_model
from spice_pool import LENGTH, learned, trained
from tokenizers import Tokenizer
from torch import Tensor, nn

from hf_gip import gradient_trajectories, gtp, less, rds
from hf_gip.core.metrics import random_sets
from hf_gip.core.nnls import nnls
from hf_gip.dataset.trajectories import Trajectories
from hf_gip.features.proxy import LORA
from hf_gip.features.tokens import Tally, token_batches

RUN: dict[str, Any] = {"share": 0.25, "epochs": 3, "learning_rate": 2e-3, "dims": 1024, "batch_size": 16}
SEEDS = 5  # random sets
NEAR = 0.95  # cosine of two gradients along the run from which the rows count as near copies
Pair = tuple[str, str]


def pairs(folder: Path, name: str, count: int, seed: int) -> list[Pair]:
    """Prompts and answers, drawn at random."""
    rows: Any = Dataset.from_parquet(str(folder / f"{name}.parquet"))
    drawn = rows.shuffle(seed=seed).select(range(count))
    if name == "alpaca":
        return [("\n".join(filter(None, [row["instruction"], row["input"]])), row["output"]) for row in drawn]
    return [(row["question"], row["answer"]) for row in drawn]


def tokens(rows: list[Pair], tokenizer: Tokenizer) -> Dataset:
    """Token rows in which the answers count."""
    found = []
    for prompt, answer in rows:
        asked = [0, *tokenizer.encode(prompt + "\n").ids[: LENGTH // 2]]
        said = tokenizer.encode(answer).ids[: LENGTH - len(asked)]
        found.append({"input_ids": asked + said, "labels": [-100] * len(asked) + said})
    return Dataset.from_list([row for row in found if any(label >= 0 for label in row["labels"])])


def side_by_side(found: Trajectories) -> tuple[Tensor, Tensor]:
    """The rows and the target as GTP matches them, float64."""
    scales = [rate**0.5 for rate in found.rates]
    rows = [
        scale * each.rows(torch.arange(each.n)).double() for scale, each in zip(scales, found.features, strict=True)
    ]
    goals = [scale * each[0] for scale, each in zip(scales, found.goals() or [], strict=True)]
    return torch.cat(rows, dim=1), torch.cat(goals)


def residual(rows: Tensor, goal: Tensor, chosen: Tensor) -> float:
    """‖b − Aᵀw‖ / ‖b‖ with the best non-negative weights on the rows chosen."""
    picked = rows[chosen]
    weights = nnls(picked @ picked.T, picked @ goal)
    return float((goal - weights @ picked).norm() / goal.norm())


def near_copies(rows: Tensor, chosen: Tensor) -> int:
    """How many of the chosen rows are near copies of one chosen before."""
    unit = torch.nn.functional.normalize(rows[chosen])
    return int((unit @ unit.T > NEAR).triu(1).any(dim=0).sum())


def rules(found: Trajectories, hidden: tuple[Tensor, Tensor], k: int) -> dict[str, list[Tensor]]:
    """The rows that each rule chooses."""
    assert found.targets is not None
    return {
        "gtp": [gtp(found.features, found.goals(), k, rates=found.rates).indices],
        "LESS top-k, then weights": [less(found.features, found.targets, k, rates=found.rates).indices],
        "RDS+, then weights": [rds(*hidden, k).indices],
        f"random, then weights, mean of {SEEDS}": random_sets(len(hidden[0]), k, SEEDS, seed=0),
    }


def measure(found: Trajectories, plain: Trajectories, sets: dict[str, list[Tensor]], maths: Tensor) -> list[Any]:
    """One line per rule: residual in its own space and in that of plain gradients."""
    own, judge = side_by_side(found), side_by_side(plain)
    lines = []
    for rule, several in sets.items():
        lines.append(
            {
                "pool gradients": "plain" if found is plain else "through Adam's moments",
                "rule": rule,
                "residual": statistics.mean(residual(*own, some) for some in several),
                "residual_plain": statistics.mean(residual(*judge, some) for some in several),
                "share_gsm8k": statistics.mean(float(maths[some].double().mean()) for some in several),
                "near_copies": statistics.mean(near_copies(judge[0], some) for some in several),
            }
        )
        print(lines[-1], flush=True)
    return lines


def hidden_states(model: nn.Module, dataset: Dataset) -> Tensor:
    """The last hidden states, meaned with weights that grow with the position: RDS+'s features."""
    rows: list[Any] = dataset.to_list()
    found = torch.empty(len(rows), 96)
    for batch in token_batches(rows, list(range(len(rows))), 16, LENGTH, Tally()):
        with torch.no_grad():
            out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
        place = batch.attention_mask.cumsum(1) * batch.attention_mask
        means = (out.hidden_states[-1] * place[:, :, None]).sum(1) / place.sum(1, keepdim=True)
        found[batch.rows] = means
    return found


def main() -> None:
    """Train, take gradients along the run, choose, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--alpaca", type=int, default=600)
    parser.add_argument("--gsm8k", type=int, default=150)
    parser.add_argument("--again", type=int, default=30, help="GSM8K rows that are there twice, in other words")
    parser.add_argument("--target", type=int, default=50)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--steps", type=int, default=120)
    given = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    alpaca = pairs(given.data, "alpaca", 2 * given.alpaca, 0)
    maths = pairs(given.data, "gsm8k_train", 2 * given.gsm8k, 0)
    others = ["\n".join(pair) for pair in alpaca[given.alpaca :] + maths[given.gsm8k :]]
    tokenizer = learned(others)
    encoded = [{"input_ids": [0, *each.ids[: LENGTH - 1]]} for each in tokenizer.encode_batch(others)]
    ((plain_model, losses),) = trained(encoded, [given.steps])
    model = get_peft_model(plain_model, LoraConfig(**LORA))
    first, last = losses[0], statistics.mean(losses[-10:])
    maths = maths[: given.gsm8k]
    again = [(f"Please solve this. {prompt}", answer) for prompt, answer in maths[: given.again]]
    pool = tokens(alpaca[: given.alpaca] + maths + again, tokenizer)
    goal = tokens(pairs(given.data, "gsm8k_test", given.target, 0), tokenizer)
    kinds = torch.arange(len(pool)) >= len(pool) - len(maths) - len(again)
    hidden = hidden_states(model, pool), hidden_states(model, goal)
    with TemporaryDirectory() as cache:
        config.HF_DATASETS_CACHE = Path(cache)  # the warm-up run serves both
        through, plain = (
            gradient_trajectories(pool, model=model, target=goal, adam=adam, **RUN) for adam in (True, False)
        )
        table = [
            line for found in (plain, through) for line in measure(found, plain, rules(found, hidden, given.k), kinds)
        ]
    run = RUN["epochs"], RUN["share"], RUN["learning_rate"]
    write_results(
        "gtp_real",
        table,
        command=f"python benchmarks/gtp_real.py --data DATA --alpaca {given.alpaca} --gsm8k {given.gsm8k}"
        f" --again {given.again} --target {given.target} --k {given.k} --steps {given.steps}",
        packages=("torch", "transformers", "peft", "tokenizers"),
        notes=[
            f"{len(pool)} rows: {given.alpaca} of Alpaca and {given.gsm8k} of GSM8K, {given.again} of these once more "
            f"behind other words; target: {given.target} test rows of GSM8K; answers count. Llama of 3 layers, width "
            f"96, trained {given.steps} steps on as many other rows (loss {first:.2f} to {last:.2f}); then a warm-up "
            f"run of {run[0]} epochs on a {run[1]:.0%} share at {run[2]:g}, LoRA gradients in {RUN['dims']:,} "
            f"dimensions after each epoch; k = {given.k}.",
            "residual: ‖b − Aᵀw‖ / ‖b‖ along the run, in the space that the rule chose in, with the best non-negative "
            "weights on its rows; residual_plain: the same rows judged by plain gradients on both sides. "
            f"near_copies: rows whose plain gradient along the run has a cosine above {NEAR} with one chosen before.",
        ],
    )


if __name__ == "__main__":
    main()
