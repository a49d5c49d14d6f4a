"""What re-selection costs a training run: its share of an epoch, the pass over the pool, the memory it adds.

The model is built from a config and the rows are random tokens, so nothing is downloaded. The pass is measured beside
a plain forward of the same batches, ready in memory, in turns.
"""

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, cast

import psutil
import torch
from datasets import Dataset, disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from hf_gip.callbacks.features import read_rows
from hf_gip.callbacks.pool import token_counts
from machine import write_results
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

VOCABULARY = 2_048
MIB = 2**20


def rows_of(count: int, least: int, most: int) -> Dataset:
    """Rows of random tokens, their lengths even between two bounds."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(least, most + 1, (count,), generator=draw).tolist()
    tokens = [torch.randint(3, VOCABULARY, (length,), generator=draw).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": tokens, "labels": tokens})


def trainer_of(rows: Dataset, folder: str, *, width: int, layers: int, epochs: int = 1) -> Trainer:
    """A trainer of a Llama that size."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    args = TrainingArguments(
        folder,
        per_device_train_batch_size=8,
        per_device_eval_batch_size=32,
        num_train_epochs=epochs,
        logging_steps=50,
        report_to=[],
        save_strategy="no",
        use_cpu=not torch.cuda.is_available(),
        disable_tqdm=True,
    )
    collator = DataCollatorForLanguageModeling(pad_token_id=0)
    return Trainer(LlamaForCausalLM(config), args, collator, rows)


def ready(trainer: Trainer) -> Trainer:
    """The trainer as it is when an epoch begins."""
    trainer._prepare_for_training(1, trainer.get_train_dataloader(), None)
    return trainer


def plain_forward(trainer: Trainer, rows: Dataset) -> Callable[[bool], None]:
    """A function that runs the model over the batches that a pass makes, longest first, already on the device."""
    order = torch.argsort(token_counts(rows), descending=True, stable=True).split(32)
    collator = cast(Any, trainer.data_collator)
    batches = [collator([rows[int(i)] for i in batch]) for batch in order]
    batches = [{k: v.to(trainer.accelerator.device) for k, v in b.items() if k != "labels"} for b in batches]
    model = cast(Any, trainer.model_wrapped)

    def run(head: bool) -> None:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                model(**batch, use_cache=False, logits_to_keep=0 if head else 1)

    return run


def seconds(work: Callable[[], object]) -> float:
    """How long `work` takes."""
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def pace(trainer: Trainer, rows: Dataset, repeats: int) -> list[dict[str, Any]]:
    """Rows a second of the passes beside a plain forward, in turns; medians."""
    plain, lengths = plain_forward(trainer, rows), token_counts(rows)
    table = []
    for family, losses, head in (("hidden", False, False), ("hidden", True, True), ("hidden_gradient", False, True)):

        def ours(family: Any = family, losses: bool = losses) -> None:
            read_rows(trainer, rows, lengths, family, losses=losses)

        ours()
        plain(head)
        pairs = [(seconds(ours), seconds(lambda head=head: plain(head))) for _ in range(repeats)]
        mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
        table.append(
            {
                "what": f"pass: {family}{' + loss' if losses else ''}",
                "beside": "plain forward, all logits" if head else "plain forward, one logit a row",
                "rows": len(rows),
                "rows_per_s": len(rows) / mine,
                "plain_rows_per_s": len(rows) / theirs,
                "ratio": statistics.median(b / a for a, b in pairs),
            }
        )
    return table


def peak(work: Callable[[], object]) -> int:
    """Bytes by which the process grows at most while `work` runs."""
    process, most, done = psutil.Process(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, process.memory_info().rss)

    before = process.memory_info().rss
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        kept = work()
    finally:
        done.set()
        watcher.join()
    most = max(most, process.memory_info().rss)
    del kept
    return most - before


def memory(folder: str, count: int) -> dict[str, Any]:
    """Peak of a pass beyond that of a plain forward, and the features' size; rows are short, so that they are most."""
    rows = rows_of(count, 4, 8)
    trainer = ready(trainer_of(rows, folder, width=512, layers=1))
    plain, lengths = plain_forward(trainer, rows), token_counts(rows)
    plain(False)
    read_rows(trainer, rows.select(range(64)), lengths[:64], "hidden")
    base = peak(lambda: plain(False))
    grown = peak(lambda: read_rows(trainer, rows, lengths, "hidden", losses=False))
    size = count * 512 * 4
    return {
        "what": "memory of a pass",
        "rows": count,
        "features_mib": size / MIB,
        "added_mib": (grown - base) / MIB,
        "ratio": (grown - base) / size,
    }


def epoch(folder: str, count: int, k: int, features: Any) -> dict[str, Any]:
    """An epoch's training beside the selection before it, and the swap alone; medians over the epochs."""
    rows = rows_of(count, 16, 96)
    trainer = trainer_of(rows, folder, width=256, layers=4, epochs=2)
    callback = GIPSelectionCallback(trainer, k, features=features)
    trainer.add_callback(callback)
    trainer.train()

    def median(name: str) -> float:
        return statistics.median(entry[name] for entry in trainer.state.log_history if name in entry)

    assert callback.round is not None
    chosen = callback.round
    read, select, share = (median(f"gip/{name}") for name in ("feature_seconds", "select_seconds", "share_of_epoch"))
    return {
        "what": f"epoch: {features}, k={k}",
        "rows": count,
        "train_s": (read + select) / share - read - select,
        "features_s": read,
        "select_s": select,
        "swap_s": seconds(lambda: callback.reselector.show(chosen)),
        "overhead": (read + select) / ((read + select) / share - read - select),
    }


def main() -> None:
    """Measure, print, and write `results/callback.*`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=480, help="rows of the pool")
    parser.add_argument("--memory-rows", type=int, default=20_000, help="rows of the memory measurement")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(arguments.rows, 16, 96)
        table = pace(ready(trainer_of(rows, folder, width=256, layers=4)), rows, arguments.repeats)
        print(*table, sep="\n", flush=True)
        table.append(memory(folder, arguments.memory_rows))
        print(table[-1], flush=True)
        table += [epoch(folder, arguments.rows, arguments.rows // 3, name) for name in ("hidden", "hidden_gradient")]
        print(*table[-2:], sep="\n")
    write_results(
        "callback",
        table,
        command="python benchmarks/callback.py",
        packages=["torch", "transformers", "trl"],
        notes=[
            "Pass: ratio of rows a second to the plain forward's, higher is better. Memory: beyond a plain forward of "
            "the same batches, as a share of the features, lower is better. Epoch: selection as a share of training "
            "on k rows; the pool is three times k, and a training step costs about three forwards.",
        ],
    )


if __name__ == "__main__":
    main()
