"""The rows that pools are drawn from, with their vectors, and the held-out rows that measure a loss or coverage."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

import hf_gip
from hf_gip.features.sentence_transformer import DEFAULT_ENCODER

JUDGES = ("score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b")
BASE, BANK, SHUFFLED, REFERENCE, HELD_OUT = 6_000, 14_000, 800, 200, 1_000  # disjoint parts of Alpaca, in this order
GSM8K_BANK, GSM8K_QUERIES, GSM8K_TEST = 800, 60, 150


@dataclass(frozen=True, slots=True)
class Rows:
    """Prompts with answers, and their sentence vectors (unit length, float32)."""

    prompts: list[str]
    answers: list[str]
    vectors: Tensor = field(repr=False)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        """Prompt and answer as one text."""
        return [f"{prompt}\n{answer}" for prompt, answer in zip(self.prompts, self.answers, strict=True)]

    def select(self, rows: Sequence[int]) -> "Rows":
        """The rows at these positions."""
        picked = torch.tensor(list(rows), dtype=torch.int64)
        return Rows([self.prompts[i] for i in rows], [self.answers[i] for i in rows], self.vectors[picked])


@dataclass(frozen=True, slots=True)
class Bank:
    """All rows of the experiment.

    Attributes:
        base: Alpaca rows that train the base model and are in no pool.
        rows: What pools are drawn from: Alpaca, then GSM8K, then Alpaca with shuffled answers.
        source: 0, 1 or 2 for these three.
        scores: The judges' scores, NaN for GSM8K and shuffled rows, (n, 3).
        reference: Clean Alpaca rows, the queries of the noisy pool.
        queries: Example rows of a task, by task.
        judges: Rows that no selector sees.
    """

    base: Rows
    rows: Rows
    source: Tensor
    scores: Tensor
    reference: Rows
    queries: dict[str, Rows]
    held_out: dict[str, Rows]


def cache_folder() -> Path:
    """Folder for finished jobs, vectors and the base model."""
    return Path(os.environ.get("HF_GIP_BENCHMARK_CACHE", "~/.cache/hf-gip")).expanduser() / "quality"


@cache
def load_bank(data: Path) -> Bank:
    """Read all rows. Missing vectors are computed once and cached by `datasets`."""
    alpaca, vectors = read_alpaca(data)
    order = np.random.default_rng(0).permutation(len(alpaca))
    ends = np.cumsum([BASE, BANK, SHUFFLED, REFERENCE, HELD_OUT])
    base, bank, shuffled_ids, reference, held_out, _ = np.split(order, ends)
    clean = select_alpaca(alpaca, vectors, bank)
    shuffled = embed_rows(*shuffle_answers(alpaca, shuffled_ids))
    train = read_gsm8k(data / "gsm8k_train.parquet", GSM8K_BANK + GSM8K_QUERIES)
    test = read_gsm8k(data / "gsm8k_test.parquet", GSM8K_TEST)
    bbh_queries, bbh_held_out = read_bbh_exemplars(data / "bbh_cot_exemplars.parquet")
    parts = [clean, train.select(range(GSM8K_BANK)), shuffled]
    scores = torch.full((sum(map(len, parts)), len(JUDGES)), torch.nan, dtype=torch.float64)
    scores[: len(clean)] = torch.tensor([alpaca[int(i)]["scores"] for i in bank], dtype=torch.float64)
    return Bank(
        base=select_alpaca(alpaca, vectors, base),
        rows=concat(parts),
        source=torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)]),
        scores=scores,
        reference=select_alpaca(alpaca, vectors, reference),
        queries={"gsm8k": train.select(range(GSM8K_BANK, len(train))), "bbh": bbh_queries},
        held_out={"alpaca": select_alpaca(alpaca, vectors, held_out), "gsm8k": test, "bbh": bbh_held_out},
    )


def read_alpaca(data: Path) -> tuple[list[dict], Tensor]:
    """All Alpaca rows as prompt, answer and scores, and their vectors."""
    table = read_parquet(data / "alpaca.parquet")
    rows = [
        {
            "prompt": row["instruction"] + (f"\n{row['input']}" if row["input"].strip() else ""),
            "answer": row["output"],
            "scores": [row[judge] for judge in JUDGES],
        }
        for row in table
    ]
    vectors = torch.from_numpy(np.load(data / "alpaca_minilm_f16.npy")).float()
    return rows, torch.nn.functional.normalize(vectors)


def read_parquet(path: Path) -> list[dict]:
    """Rows of a file."""
    rows = Dataset.from_parquet(str(path))
    assert isinstance(rows, Dataset)
    return rows.to_list()


def select_alpaca(rows: list[dict], vectors: Tensor, picked: np.ndarray) -> Rows:
    """Alpaca rows with their stored vectors."""
    selected = [rows[int(i)] for i in picked]
    return Rows(
        [row["prompt"] for row in selected], [row["answer"] for row in selected], vectors[torch.from_numpy(picked)]
    )


def shuffle_answers(rows: list[dict], picked: np.ndarray) -> tuple[list[str], list[str]]:
    """Pair each prompt with the answer of the row before it."""
    selected = [rows[int(i)] for i in picked]
    return [row["prompt"] for row in selected], [selected[i - 1]["answer"] for i in range(len(selected))]


def read_gsm8k(path: Path, count: int) -> Rows:
    """The first rows of GSM8K."""
    rows = read_parquet(path)[:count]
    return embed_rows([row["question"] for row in rows], [row["answer"] for row in rows])


def read_bbh_exemplars(path: Path) -> tuple[Rows, Rows]:
    """BBH's worked exemplars: the first of each task is a query, the rest are held out; duplicates count once."""
    seen_inputs: set[str] = set()
    rows = [row for row in read_parquet(path) if not (row["input"] in seen_inputs or seen_inputs.add(row["input"]))]
    all_rows = embed_rows([row["input"] for row in rows], [row["cot_answer"] for row in rows])
    query_rows, held_out_rows, tasks = [], [], set()
    for number, row in enumerate(rows):
        (held_out_rows if row["task"] in tasks else query_rows).append(number)
        tasks.add(row["task"])
    return all_rows.select(query_rows), all_rows.select(held_out_rows)


def embed_rows(prompts: list[str], answers: list[str]) -> Rows:
    """Embed rows with the default encoder, as the stored Alpaca vectors were."""
    texts = [f"{prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)]
    embedded = hf_gip.embed(Dataset.from_dict({"text": texts}), DEFAULT_ENCODER)
    return Rows(prompts, answers, torch.nn.functional.normalize(embedded.matrix.float()))


def concat(parts: Sequence[Rows]) -> Rows:
    """Concatenate rows."""
    return Rows(
        [prompt for part in parts for prompt in part.prompts],
        [answer for part in parts for answer in part.answers],
        torch.cat([part.vectors for part in parts]),
    )
