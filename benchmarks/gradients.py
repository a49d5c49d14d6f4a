"""Per-example gradients beside a plain training step on the same batches: rows a second, ratio, memory.

Run `python benchmarks/gradients.py`. For every kind of gradient a model is built from a configuration; a plain step is
one forward and one backward pass of the batch's mean loss into the same weights, as a trainer takes it (LoRA layers in
a frozen model, or all weights). Both sides see the same padded batches, in turns; the ratio is the median over turns.
Peak memory is that of a process of its own for each side, above what model and batches take.
"""

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

from hf_gip.features.proxy import LORA
from hf_gip.features.reader import GradientReader, GradientRecipe
from hf_gip.features.tokens import Tally, TokenBatch, token_batches

VOCABULARY, WIDTH, LAYERS, LONGEST, BATCH = 8_192, 256, 4, 128, 8
KINDS = {  # which gradients: the recipe, and what the plain step trains
    "lora, 1,024 dims": (GradientRecipe("lora", 1024), "lora"),
    "every down_proj, 1,024 dims": (GradientRecipe("*.down_proj", 1024), "*.down_proj"),
    "every linear layer, 1,024 dims": (GradientRecipe("*_proj", 1024), "*_proj"),
    "last layer, 1,024 dims": (GradientRecipe("last_layer", 1024), "last_layer"),
    "hidden": (GradientRecipe("hidden", None), "last_layer"),
}
TURNS = 3


def proxy(kind: str) -> nn.Module:
    """A small Llama, with the paper's LoRA layers where they are wanted."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": LAYERS}
    heads: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes, **heads))
    return get_peft_model(model, LoraConfig(**LORA)) if kind.startswith("lora") else model


def batches(count: int) -> list[TokenBatch]:
    """Rows of 32 to 128 tokens, every token labelled."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(32, LONGEST + 1, (count * BATCH,), generator=generator).tolist()
    rows = [{"input_ids": torch.randint(VOCABULARY, (length,), generator=generator).tolist()} for length in lengths]
    return list(token_batches(rows, range(len(rows)), BATCH, LONGEST, Tally()))


def reading(kind: str, model: nn.Module) -> Callable[[TokenBatch], object]:
    """Our side."""
    return GradientReader(model, KINDS[kind][0]).read


def training(kind: str, model: nn.Module, *, everything: bool) -> Callable[[TokenBatch], object]:
    """A plain training step of all weights, or of those whose gradients are read."""
    from hf_gip.features.layers import find_layers

    if everything:
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


def timed(work: Callable[[TokenBatch], object], some: list[TokenBatch]) -> float:
    """Seconds for all batches."""
    started = time.perf_counter()
    for batch in some:
        work(batch)
    return time.perf_counter() - started


def measure(kind: str) -> dict[str, Any]:
    """One line of the table."""
    model, some = proxy(kind), batches(2)
    sides = {
        "ours": reading(kind, model),
        "step of the same weights": training(kind, model, everything=False),
        "step of all weights": training(kind, model, everything=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(TURNS + 1):
        for name, work in sides.items():
            spent = timed(work, some)
            if turn:  # the first warms up
                seconds[name].append(spent)
    rows = sum(len(batch.rows) for batch in some)
    line: dict[str, Any] = {"gradients": kind, "rows/s": rows / statistics.median(seconds["ours"])}
    for name in list(sides)[1:]:
        line[f"ratio to a {name}"] = statistics.median(
            a / b for a, b in zip(seconds["ours"], seconds[name], strict=True)
        )
    for name in sides:
        done = subprocess.run(
            [sys.executable, __file__, kind, name],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
        line[f"MiB, {name}"] = json.loads(done.stdout)
    return line


def peak_memory(kind: str, side: str) -> float:
    """MiB that one side needs above model and batches."""
    model, some = proxy(kind), batches(1)
    work = reading(kind, model) if side == "ours" else training(kind, model, everything=side.endswith("all weights"))
    before = high_water()
    timed(work, some)
    return high_water() - before


def high_water() -> float:
    """The most memory this process has held, MiB; unlike `getrusage`, its own and not that of who started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure every kind and write the table."""
    torch.set_num_threads(1)  # many small products: threads that wait for each other would blur the ratio
    if len(sys.argv) == 3:
        print(json.dumps(peak_memory(*sys.argv[1:])))
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
