"""Cost of re-selection in a training run: share of an epoch, throughput of the pass over the pool, added memory.

The model is built from a config and the rows are random labeled tokens, so nothing is downloaded. The pass and a plain
loop over the same batches, already in memory, are timed in turns. On a CPU everything runs in one thread and seconds
are process time, so other load on the machine changes them little.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from hf_gip.callbacks.features import compute_features
from hf_gip.callbacks.pool import token_counts
from hf_gip.callbacks.scoring import score_pool
from machine import write_results
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

VOCABULARY = 2_048
MIB = 2**20
PASSES: list[tuple[Any, bool, str]] = [  # family, whether losses are read, the plain loop beside it
    ("hidden", False, "forward, one logit a row"),
    ("hidden", True, "forward, all logits"),
    ("hidden_gradient", False, "forward, head backward"),
]


def random_rows(count: int, shortest: int, longest: int) -> Dataset:
    """Rows of random tokens, their lengths even between two bounds."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=draw).tolist()
    tokens = [torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens})


def build_trainer(rows: Dataset, folder: str, *, width: int, layers: int, epochs: int = 1) -> SFTTrainer:
    """A trainer with a Llama of this size."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    args = SFTConfig(
        folder,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=32,
        num_train_epochs=epochs,
        max_length=512,
        bf16=False,
        activation_checkpointing=False,
        report_to=[],
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    words = Tokenizer(models.WordLevel({f"{word}": word for word in range(VOCABULARY)}, unk_token="0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", pad_token="1", eos_token="2")
    return SFTTrainer(LlamaForCausalLM(config), args, train_dataset=rows, processing_class=tokenizer)


def prepare(trainer: SFTTrainer) -> SFTTrainer:
    """The trainer in its state at the start of an epoch."""
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), None)
    return trainer


def plain_loop(trainer: SFTTrainer, rows: Dataset) -> Callable[[str], None]:
    """A function that runs the model over the batches that a pass makes, longest first, already on the device."""
    order = torch.argsort(token_counts(rows), descending=True, stable=True).split(32)
    collator = cast(Any, trainer.data_collator)
    batches = [collator([rows[int(i)] for i in batch]) for batch in order]
    batches = [{name: values.to(trainer.accelerator.device) for name, values in b.items()} for b in batches]
    model = cast(Any, trainer.model_wrapped)

    def run(kind: str) -> None:
        model.eval()
        for batch in batches:
            inputs = {name: values for name, values in batch.items() if name != "labels"}
            with torch.no_grad():
                if kind != "forward, head backward":
                    model(**inputs, use_cache=False, logits_to_keep=int(kind == "forward, one logit a row"))
                    continue
                states = model.model(**inputs, use_cache=False).last_hidden_state.requires_grad_()
            logits = model.lm_head(states[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())
            torch.autograd.grad(loss, states)

    return run


def seconds(work: Callable[[], object]) -> float:
    """Duration of `work`: process time on a CPU, wall-clock time on an accelerator."""
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    began = clock()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - began


def throughput(trainer: SFTTrainer, rows: Dataset, repeats: int) -> list[dict[str, Any]]:
    """Rows per second of the passes and of the plain loop, timed in turns. Best turn of each."""
    plain, lengths = plain_loop(trainer, rows), token_counts(rows)
    table = []
    for family, losses, baseline in PASSES:

        def ours(family: Any = family, losses: bool = losses) -> None:
            compute_features(trainer, rows, lengths, family, with_losses=losses)

        ours()
        plain(baseline)
        pairs = [(seconds(ours), seconds(lambda baseline=baseline: plain(baseline))) for _ in range(repeats)]
        our_best, plain_best = (min(times) for times in zip(*pairs, strict=True))  # other load only ever slows a turn
        table.append(
            {
                "what": f"pass: {family}{' + loss' if losses else ''}",
                "beside": baseline,
                "rows": len(rows),
                "rows_per_s": len(rows) / our_best,
                "plain_rows_per_s": len(rows) / plain_best,
                "ratio": plain_best / our_best,
                "median_ratio": statistics.median(b / a for a, b in pairs),
            }
        )
        print(table[-1], flush=True)
    return table


def peak(work: Callable[[], object]) -> float:
    """Peak growth of the process in MiB while `work` runs, from the kernel's high-water mark."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = work()
    high_water = _status("VmHWM")
    del result
    return high_water - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def memory(folder: str, count: int) -> list[dict[str, Any]]:
    """Peak memory of a pass and of the selection after it, compared with a plain forward pass. Rows are short."""
    rows = random_rows(count, 2, 4)
    trainer = build_trainer(rows, folder, width=512, layers=1)
    callback = GIPSelectionCallback(trainer, count // 10)
    config, pool = callback.reselector.config, callback.pool
    plain = plain_loop(prepare(trainer), rows)
    plain("forward, one logit a row")
    score_pool(config, trainer, pool, torch.arange(64))
    base = peak(lambda: plain("forward, one logit a row"))
    scored: list[Any] = []
    read = peak(lambda: scored.append(score_pool(config, trainer, pool, torch.arange(count))))
    picks = peak(lambda: scored[0].select(count // 10))
    size = count * 512 * 4 / MIB
    pass_ = {"what": "memory: pass", "beside": "forward, one logit a row", "features_mib": size, "added_mib": read}
    solve = {"what": f"memory: {count // 10} picks", "features_mib": size, "added_mib": picks}
    return [
        {**pass_, "rows": count, "plain_mib": base, "ratio": (read - base) / size},
        {**solve, "rows": count, "ratio": picks / size},
    ]


def memory_in_subprocess(count: int) -> list[dict[str, Any]]:
    """Run `memory` in a subprocess whose allocator returns memory at once."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(1 << 16)}
    command = [sys.executable, __file__, "--memory-rows", str(count), "--memory-only"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def epoch(folder: str, count: int, k: int, features: Any) -> dict[str, Any]:
    """Training time of an epoch, of the selection before it, and of the swap alone. Means over two epochs."""
    rows, epochs = random_rows(count, 16, 96), 2
    trainer = build_trainer(rows, folder, width=256, layers=4, epochs=epochs)
    callback = GIPSelectionCallback(trainer, k, features=features)
    trainer.add_callback(callback)
    spent: list[float] = []
    select = callback._select
    setattr(callback, "_select", lambda *at: spent.append(seconds(lambda: select(*at))))  # noqa: B010
    whole = seconds(trainer.train)
    assert callback.round is not None
    chosen, selecting = callback.round, sum(spent)
    picks = chosen.seconds["select"] / sum(chosen.seconds.values())
    return {
        "what": f"epoch: {features}, k={k}",
        "rows": count,
        "train_s": (whole - selecting) / epochs,
        "features_s": selecting * (1 - picks) / epochs,
        "select_s": selecting * picks / epochs,
        "swap_s": seconds(lambda: callback.reselector.view.show(chosen.rows)),
        "overhead": selecting / (whole - selecting),
    }


def main() -> None:
    """Measure, print, and write `results/callback.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=160, help="rows of the pool")
    parser.add_argument("--memory-rows", type=int, default=10_000, help="rows of the memory measurement")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    disable_progress_bars()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory_only:
            print(json.dumps(memory(folder, arguments.memory_rows)))
            return
        rows = random_rows(arguments.rows, 16, 96)
        table = throughput(prepare(build_trainer(rows, folder, width=256, layers=4)), rows, arguments.repeats)
        table += memory_in_subprocess(arguments.memory_rows)
        table += [epoch(folder, arguments.rows, arguments.rows // 3, name) for name in ("hidden", "hidden_gradient")]
        print(*table[len(PASSES) :], sep="\n")
    write_results(
        "callback",
        table,
        command="python benchmarks/callback.py",
        packages=["torch", "transformers", "trl"],
        notes=[
            "Pass: rows per second in the best turn, their ratio to the plain loop's, and the median of the turns' "
            "ratios. Higher is better, and 0.9 was the target. Seconds are process time, in one thread.",
            "Memory: what a pass adds, its features included, beyond a plain forward of the same batches, as a share "
            "of the features (the target was 1.1); and what the picks take on the main process beside the features.",
            f"Load average at the end: {os.getloadavg()[1]:.0f}.",
            "Epoch: selection as a share of training on k rows. The pool is three times k, and training on a row "
            "costs about three forwards of it, so a share near 1 is what the pass itself must cost; `num_candidates`, "
            "`every_n_epochs` or a larger k lower it.",
        ],
    )


if __name__ == "__main__":
    main()
