"""GTP on gradients of real rows along a warm-up run, compared with LESS, RDS+ and random rows with fitted weights.

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
from spice_pool import LENGTH, train_model, train_tokenizer
from tokenizers import Tokenizer
from torch import Tensor, nn

from hf_gip import gradient_trajectories, gtp, less, rds
from hf_gip.core.metrics import random_sets
from hf_gip.core.nnls import nnls
from hf_gip.dataset.gradient_trajectories import Trajectories
from hf_gip.features.proxy import LORA
from hf_gip.features.tokenization import RowCounts, token_batches

RUN: dict[str, Any] = {
    "warmup_fraction": 0.25,
    "warmup_epochs": 3,
    "warmup_learning_rate": 2e-3,
    "projection_dim": 1024,
    "batch_size": 16,
}
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
    encoded = []
    for prompt, answer in rows:
        prompt_ids = [0, *tokenizer.encode(prompt + "\n").ids[: LENGTH // 2]]
        answer_ids = tokenizer.encode(answer).ids[: LENGTH - len(prompt_ids)]
        encoded.append({"input_ids": prompt_ids + answer_ids, "labels": [-100] * len(prompt_ids) + answer_ids})
    return Dataset.from_list([row for row in encoded if any(label >= 0 for label in row["labels"])])


def stack_trajectories(trajectories: Trajectories) -> tuple[Tensor, Tensor]:
    """The rows and the target as GTP matches them, float64."""
    scales = [rate**0.5 for rate in trajectories.learning_rates]
    rows = [
        scale * each.rows(torch.arange(each.n)).double()
        for scale, each in zip(scales, trajectories.features, strict=True)
    ]
    targets = [scale * each[0] for scale, each in zip(scales, trajectories.target_means() or [], strict=True)]
    return torch.cat(rows, dim=1), torch.cat(targets)


def residual(rows: Tensor, target: Tensor, chosen: Tensor) -> float:
    """‖b − Aᵀw‖ / ‖b‖ with the best non-negative weights on the rows chosen."""
    picked = rows[chosen]
    weights = nnls(picked @ picked.T, picked @ target)
    return float((target - weights @ picked).norm() / target.norm())


def count_near_copies(rows: Tensor, chosen: Tensor) -> int:
    """How many of the chosen rows are near copies of one chosen before."""
    unit = torch.nn.functional.normalize(rows[chosen])
    return int((unit @ unit.T > NEAR).triu(1).any(dim=0).sum())


def select_by_rule(run: Trajectories, hidden: tuple[Tensor, Tensor], k: int) -> dict[str, list[Tensor]]:
    """The rows that each rule chooses."""
    assert run.targets is not None
    return {
        "gtp": [gtp(run.features, run.target_means(), k, learning_rates=run.learning_rates).indices],
        "LESS top-k, then weights": [less(run.features, run.targets, k, learning_rates=run.learning_rates).indices],
        "RDS+, then weights": [rds(*hidden, k).indices],
        f"random, then weights, mean of {SEEDS}": random_sets(len(hidden[0]), k, SEEDS, seed=0),
    }


def measure(run: Trajectories, plain: Trajectories, sets: dict[str, list[Tensor]], math_rows: Tensor) -> list[Any]:
    """One line per rule: residual in its own space and in that of plain gradients."""
    own_space, plain_space = stack_trajectories(run), stack_trajectories(plain)
    lines = []
    for rule, subsets in sets.items():
        lines.append(
            {
                "pool gradients": "plain" if run is plain else "through Adam's moments",
                "rule": rule,
                "residual": statistics.mean(residual(*own_space, subset) for subset in subsets),
                "residual_plain": statistics.mean(residual(*plain_space, subset) for subset in subsets),
                "share_gsm8k": statistics.mean(float(math_rows[subset].double().mean()) for subset in subsets),
                "near_copies": statistics.mean(count_near_copies(plain_space[0], subset) for subset in subsets),
            }
        )
        print(lines[-1], flush=True)
    return lines


def hidden_states(model: nn.Module, dataset: Dataset) -> Tensor:
    """The last hidden states, meaned with weights that grow with the position: RDS+'s features."""
    rows: list[Any] = dataset.to_list()
    features = torch.empty(len(rows), 96)
    for batch in token_batches(rows, list(range(len(rows))), 16, LENGTH, RowCounts()):
        with torch.no_grad():
            out = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
        positions = batch.attention_mask.cumsum(1) * batch.attention_mask
        means = (out.hidden_states[-1] * positions[:, :, None]).sum(1) / positions.sum(1, keepdim=True)
        features[batch.rows] = means
    return features


def arguments(description: str | None) -> argparse.Namespace:
    """What the experiment is made of."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--alpaca", type=int, default=600)
    parser.add_argument("--gsm8k", type=int, default=150)
    parser.add_argument("--repeated", type=int, default=30, help="GSM8K rows that occur twice, reworded")
    parser.add_argument("--target", type=int, default=50)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--steps", type=int, default=120)
    return parser.parse_args()


def set_up(args: argparse.Namespace) -> tuple[nn.Module, Dataset, Dataset, Tensor, str]:
    """A small trained model, the pool, the target, which rows of the pool are GSM8K's, and all that in words."""
    torch.set_num_threads(1)
    disable_progress_bars()
    alpaca = pairs(args.data, "alpaca", 2 * args.alpaca, 0)
    math_rows = pairs(args.data, "gsm8k_train", 2 * args.gsm8k, 0)
    others = ["\n".join(pair) for pair in alpaca[args.alpaca :] + math_rows[args.gsm8k :]]
    tokenizer = train_tokenizer(others)
    encoded = [{"input_ids": [0, *each.ids[: LENGTH - 1]]} for each in tokenizer.encode_batch(others)]
    ((plain_model, losses),) = train_model(encoded, [args.steps])
    model = get_peft_model(plain_model, LoraConfig(**LORA))
    first, last = losses[0], statistics.mean(losses[-10:])
    math_rows = math_rows[: args.gsm8k]
    repeated = [(f"Please solve this. {prompt}", answer) for prompt, answer in math_rows[: args.repeated]]
    pool = tokens(alpaca[: args.alpaca] + math_rows + repeated, tokenizer)
    target = tokens(pairs(args.data, "gsm8k_test", args.target, 0), tokenizer)
    from_gsm8k = torch.arange(len(pool)) >= len(pool) - len(math_rows) - len(repeated)
    words = (
        f"{len(pool)} rows: {args.alpaca} of Alpaca and {args.gsm8k} of GSM8K, {args.repeated} of these once more "
        f"behind other words; target: {args.target} test rows of GSM8K; answers count. Llama of 3 layers, width "
        f"96, trained {args.steps} steps on as many other rows (loss {first:.2f} to {last:.2f}); then a warm-up "
        f"run of {RUN['warmup_epochs']} epochs on a {RUN['warmup_fraction']:.0%} share at "
        f"{RUN['warmup_learning_rate']:g}, LoRA gradients after each epoch; k = {args.k}."
    )
    return model, pool, target, from_gsm8k, words


def command(name: str, args: argparse.Namespace) -> str:
    """What a reader types."""
    return (
        f"python benchmarks/{name}.py --data DATA --alpaca {args.alpaca} --gsm8k {args.gsm8k}"
        f" --repeated {args.repeated} --target {args.target} --k {args.k} --steps {args.steps}"
    )


def main() -> None:
    """Train, take gradients along the run, choose, compare."""
    args = arguments(__doc__)
    model, pool, target, from_gsm8k, words = set_up(args)
    hidden = hidden_states(model, pool), hidden_states(model, target)
    with TemporaryDirectory() as cache:
        config.HF_DATASETS_CACHE = Path(cache)  # the warm-up run serves both
        adam, plain = (
            gradient_trajectories(pool, model=model, target=target, adam=adam, **RUN) for adam in (True, False)
        )
        table = [
            line
            for trajectories in (plain, adam)
            for line in measure(trajectories, plain, select_by_rule(trajectories, hidden, args.k), from_gsm8k)
        ]
    write_results(
        "gtp_real",
        table,
        command=command("gtp_real", args),
        packages=("torch", "transformers", "peft", "tokenizers"),
        notes=[
            f"{words} Sketched to {RUN['projection_dim']:,} numbers per checkpoint.",
            "residual: ‖b − Aᵀw‖ / ‖b‖ along the run, in the space that the rule chose in, with the best non-negative "
            "weights on its rows; residual_plain: the same rows judged by plain gradients on both sides. "
            f"near_copies: rows whose plain gradient along the run has a cosine above {NEAR} with one chosen before.",
        ],
    )


if __name__ == "__main__":
    main()
