"""Per-example gradients and a plain training step on the same batches: rows per second, ratio, memory.

Run `python benchmarks/gradients.py`. For every kind of gradient a model is built from a configuration; a plain step is
one forward and one backward pass of the batch's mean loss into the same weights, as a trainer takes it (LoRA layers in
a frozen model, or all weights). Both sides see the same padded batches, in turns; the ratio is the median over turns.
Peak memory is that of a process of its own for each side, above what model and batches take.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import write_results
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_gip.features.per_example_gradients import GradientRecipe, PerExampleGradients
from hf_gip.features.proxy import LORA
from hf_gip.features.tokenization import RowCounts, TokenBatch, token_batches

VOCABULARY, WIDTH, LAYERS, LONGEST, BATCH = 8_192, 256, 4, 128, 8
KINDS = {  # which gradients: the recipe, and what the plain step trains
    "lora, 1,024 dims": (GradientRecipe("lora", 1024), "lora"),
    "every down_proj, 1,024 dims": (GradientRecipe("*.down_proj", 1024), "*.down_proj"),
    "every linear layer, 1,024 dims": (GradientRecipe("*_proj", 1024), "*_proj"),
    "last layer, 1,024 dims": (GradientRecipe("last_layer", 1024), "last_layer"),
    "hidden": (GradientRecipe("hidden", None), "last_layer"),
}
TURNS = 3


def build_model(kind: str) -> nn.Module:
    """A small Llama, with the paper's LoRA layers for the kinds that need them."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))
    return get_peft_model(model, LoraConfig(**LORA)) if kind.startswith("lora") else model


def random_batches(count: int) -> list[TokenBatch]:
    """Rows of 32 to 128 tokens, every token labeled."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, LONGEST + 1, (count * BATCH,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(VOCABULARY, (length,), generator=generator).tolist()} for length in lengths]
    return list(token_batches(rows, range(len(rows)), BATCH, LONGEST, RowCounts()))


def gradient_pass(kind: str, model: nn.Module) -> Callable[[TokenBatch], object]:
    """Our pass."""
    return PerExampleGradients(model, KINDS[kind][0]).compute


def training_step(kind: str, model: nn.Module, *, all_weights: bool) -> Callable[[TokenBatch], object]:
    """A plain training step of all weights, or of the weights whose gradients are taken."""
    from hf_gip.features.per_example_gradients import find_layers

    if all_weights:
        weights = list(model.parameters())
    else:
        weights = [layer.module.weight for layer in find_layers(model, KINDS[kind][1])]
    chosen = {id(weight) for weight in weights}

    def step(batch: TokenBatch) -> None:
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        model.train()
        loss = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def seconds_for(work: Callable[[TokenBatch], object], batch_list: list[TokenBatch]) -> float:
    """Seconds for all batches."""
    started = time.perf_counter()
    for batch in batch_list:
        work(batch)
    return time.perf_counter() - started


def measure(kind: str) -> dict[str, Any]:
    """One line of the table."""
    model, batch_list = build_model(kind), random_batches(2)
    contenders = {
        "ours": gradient_pass(kind, model),
        "step of the same weights": training_step(kind, model, all_weights=False),
        "step of all weights": training_step(kind, model, all_weights=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(TURNS + 1):
        for name, work in contenders.items():
            spent = seconds_for(work, batch_list)
            if turn:  # the first warms up
                seconds[name].append(spent)
    rows = sum(len(batch.rows) for batch in batch_list)
    line: dict[str, Any] = {"gradients": kind, "rows/s": rows / statistics.median(seconds["ours"])}
    for name in list(contenders)[1:]:
        line[f"ratio to a {name}"] = statistics.median(
            a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)
        )
    for name in contenders:
        done = subprocess.run(
            [sys.executable, __file__, "--memory-of", kind, name],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
        line[f"MiB, {name}"] = json.loads(done.stdout)
    return line


def peak_memory(kind: str, contender: str) -> float:
    """Peak MiB of one contender above model and batches."""
    model, batch_list = build_model(kind), random_batches(1)
    work = (
        gradient_pass(kind, model)
        if contender == "ours"
        else training_step(kind, model, all_weights=contender.endswith("all weights"))
    )
    before = peak_mib()
    seconds_for(work, batch_list)
    return peak_mib() - before


def peak_mib() -> float:
    """Peak memory of this process in MiB. Unlike `getrusage`, it excludes the parent process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure every kind and write the table."""
    torch.set_num_threads(1)  # many small products: threads that wait for each other would blur the ratio
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print(json.dumps(peak_memory(*arguments.memory_of)))
        return
    rows = []
    for kind in KINDS:
        rows.append(measure(kind))
        print(rows[-1])
    write_results(
        "gradients",
        rows,
        command="python benchmarks/gradients.py",
        packages=("torch", "transformers", "peft"),
        notes=[
            f"Llama of {LAYERS} layers, width {WIDTH}, vocabulary {VOCABULARY}, float32; batches of {BATCH} rows of "
            f"32 to {LONGEST} tokens. Ratio: our seconds by the plain step's, median of {TURNS} turns side by side. "
            "One thread. Measured on a machine shared with other work.",
        ],
    )


if __name__ == "__main__":
    main()
