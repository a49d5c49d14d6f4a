"""Run by `torchrun`: trains the cases of a JSON file on every rank and writes what each rank saw."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import disable_progress_bars
from hf_gip.callbacks import GIPSelectionCallback
from tiny_trainers import make_trainer, weights, word_rows


def train(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    rows = word_rows(case.get("rows", 40))
    trainer = make_trainer(folder, rows, lora=case.get("lora", False), **case["options"])
    pool = {"pool": rows} if case["options"].get("packing") else {}
    callback = GIPSelectionCallback(trainer, case["k"], **pool, **case.get("callback", {}))
    trainer.add_callback(callback)
    resume = case.get("resume")
    trainer.train(resume_from_checkpoint=str(folder / resume) if resume else None)
    assert callback.round is not None
    return {
        "rank": trainer.args.process_index,
        "world": trainer.args.world_size,
        "seen": {epoch: trainer.rows_seen(epoch) for epoch in trainer.noted},
        "last": callback.round.rows.tolist(),
        "steps": [trainer.state.global_step, trainer.state.max_steps],
        "lr": trainer.lr_scheduler.get_last_lr()[0],
        "weights": [float(weight.double().abs().sum()) for weight in weights(trainer.model)],
    }


if __name__ == "__main__":
    cases, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    disable_progress_bars()
    for number, case in enumerate(cases):
        seen = train(case, folder / case.get("folder", f"case-{number}"))
        (folder / f"case-{number}-rank-{seen['rank']}.json").write_text(json.dumps(seen))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
