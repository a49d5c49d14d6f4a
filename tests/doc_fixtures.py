"""Small things under the names that the pages use: data sets on the Hub, files, models, a run's checkpoints."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from hub_server import Hub, Repo
from rating_model import GOOD, rater
from tiny_trainers import text_tokenizer, tiny_llama
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import hf_gip

ROWS = 600
PROXY = "Qwen/Qwen2-0.5B"  # a folder of that name is read before the Hub


def alpaca() -> Dataset:
    """Rows with scores, a source and vectors; their last words are some that the small judge knows."""
    draw = np.random.default_rng(0)
    return Dataset.from_list(
        [
            {
                "instruction": f"Explain topic {i} in {i % 7} words",
                "input": "",
                "output": f"Topic {i} is about {i * i % 97} {GOOD[i % 7]}",
                "score_gpt4o_mini": i % 6,
                "score_llama31_8b": (i * 7) % 5,
                "helpfulness": i % 4,
                "accuracy": (3 * i) % 5,
                "source": "forum" if i % 3 else "wiki",
                "embedding": draw.standard_normal(8).tolist(),
            }
            for i in range(ROWS)
        ]
    )


def maths(rows: int) -> Dataset:
    """Rows of another task."""
    return Dataset.from_list(
        [{"question": f"What is {i} plus {i + 1}?", "answer": f"It is {2 * i + 1}."} for i in range(rows)]
    )


def publish(hub: Hub, name: str, **splits: Dataset) -> None:
    """A dataset repository with a file a split."""
    hub.repos[name] = Repo(name, private="private" in name)
    files: dict[str, bytes | None] = {}
    for split, rows in splits.items():
        rows.to_parquet(buffer := io.BytesIO())
        files[f"main/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    listed = "".join(f"  - split: {split}\n    path: main/{split}-*\n" for split in splits)
    files["README.md"] = f"---\nconfigs:\n- config_name: main\n  data_files:\n{listed}---\n".encode()
    hub.commit(name, files)


def texts() -> Dataset:
    """The pool as its texts, which is what `SFTTrainer` reads."""
    rows = alpaca().select_columns(["instruction", "input", "output"])
    return Dataset.from_dict({"text": [" ".join(row.values()) for row in rows]})  # type: ignore[union-attr]


def fill(folder: Path, hub: Hub) -> None:
    """What a reader of the pages has at hand, in `folder` and on the Hub."""
    pool, goal = alpaca(), maths(60)
    publish(hub, "tatsu-lab/alpaca", train=pool.remove_columns("source"))
    publish(hub, "openai/gsm8k", train=goal, test=maths(9))
    publish(hub, "me/private-rows", train=pool)
    for name in ("rows.parquet", "pool.parquet"):
        pool.to_parquet(folder / name)
    goal.to_parquet(folder / "goal.parquet")
    tokenizer = text_tokenizer([*texts()["text"], *goal["question"], *goal["answer"]])
    tiny_llama(len(tokenizer)).save_pretrained(folder / PROXY)
    tokenizer.save_pretrained(folder / PROXY)
    for part in rater('{{"helpfulness":{0},"accuracy":{0}}}'):
        part.save_pretrained(folder / "HuggingFaceTB/SmolLM2-1.7B-Instruct")


def trainer(**options: Any) -> SFTTrainer:
    """A trainer of the proxy on the pool's texts."""
    quiet: dict[str, Any] = {"report_to": [], "use_cpu": True, "bf16": False, "activation_checkpointing": False}
    model = AutoModelForCausalLM.from_pretrained(PROXY)
    return SFTTrainer(model=model, args=SFTConfig("run", max_length=16, **quiet, **options), train_dataset=texts())


def made_before(words: list[str]) -> None:
    """Make what a command names and its page has not made: a subset, a run's checkpoints."""
    if words[2:3] == ["chosen"] and not Path("chosen").exists():
        given = "--source" in words
        pool = Dataset.from_parquet("rows.parquet") if given else load_dataset("tatsu-lab/alpaca", split="train")
        hf_gip.save_subset(hf_gip.gip_select(pool, 20, encoder="lexical", device="cpu"), "chosen")
    if "--checkpoint" in words:
        trainer(max_steps=200, save_steps=100, logging_steps=100).train()


def to_train() -> dict[str, Any]:
    """The names of a script that trains."""
    made = trainer(max_steps=3, save_strategy="no")
    goal = texts().select(range(20))
    rows = {"pool": texts(), "goal": goal, "gsm8k": goal}
    return {"SFTTrainer": SFTTrainer, "model": made.model, "args": made.args, **rows}


def to_rate(rows: int = ROWS) -> dict[str, Any]:
    """The pool before any judge has seen it."""
    return {"pool": alpaca().remove_columns(["helpfulness", "accuracy", "source"]).select(range(rows))}


def to_share() -> dict[str, Any]:
    """The names of one of several processes."""
    vectors = torch.randn(ROWS, 8, generator=torch.Generator().manual_seed(0))
    return {"vectors": vectors, "queries": vectors[:3]}
