"""The rows that every pool of the experiment is drawn from, with their vectors, and the rows that judge."""

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
from hf_gip.features.encoders import DEFAULT_ENCODER

JUDGES = ("score_gpt4o_mini", "score_llama31_8b", "score_mistral_7b")
BASE, BANK, SHUFFLED, REFERENCE, HELD_OUT = 6_000, 14_000, 800, 200, 1_000  # disjoint parts of Alpaca, in this order
GSM8K_BANK, GSM8K_QUERIES, GSM8K_TEST = 800, 60, 150
BBH_QUERIES = 1  # exemplars per task that show what is wanted; the other two per task judge


@dataclass(frozen=True, slots=True)
class Rows:
    """Prompts with answers, and their sentence vectors (unit length, float32)."""

    prompts: list[str]
    answers: list[str]
    vectors: Tensor = field(repr=False)

    def __len__(self) -> int:
        """How many."""
        return len(self.prompts)

    @property
    def texts(self) -> list[str]:
        """Prompt and answer as one text."""
        return [f"{prompt}\n{answer}" for prompt, answer in zip(self.prompts, self.answers, strict=True)]

    def at(self, rows: Sequence[int]) -> "Rows":
        """Some of them."""
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
        reference: Clean Alpaca rows that show what is wanted where the pool is noisy.
        queries: Rows of a task that show what is wanted.
        judges: Rows that no selector sees.
    """

    base: Rows
    rows: Rows
    source: Tensor
    scores: Tensor
    reference: Rows
    queries: dict[str, Rows]
    judges: dict[str, Rows]


def cache_folder() -> Path:
    """Where finished units, vectors and the base model are kept between runs."""
    return Path(os.environ.get("HF_GIP_BENCHMARK_CACHE", "~/.cache/hf-gip")).expanduser() / "quality"


@cache
def load_bank(data: Path) -> Bank:
    """Read everything; vectors that the data do not bring are computed once and kept in the datasets cache."""
    alpaca, vectors = read_alpaca(data)
    order = np.random.default_rng(0).permutation(len(alpaca))
    ends = np.cumsum([BASE, BANK, SHUFFLED, REFERENCE, HELD_OUT])
    base, bank, torn, reference, held_out, _ = np.split(order, ends)
    clean = take(alpaca, vectors, bank)
    shuffled = embedded(*tear(alpaca, torn))
    train = gsm8k(data / "gsm8k_train.parquet", GSM8K_BANK + GSM8K_QUERIES)
    test = gsm8k(data / "gsm8k_test.parquet", GSM8K_TEST)
    asked, judging = exemplars(data / "bbh_cot_exemplars.parquet")
    parts = [clean, train.at(range(GSM8K_BANK)), shuffled]
    scores = torch.full((sum(map(len, parts)), len(JUDGES)), torch.nan, dtype=torch.float64)
    scores[: len(clean)] = torch.tensor([alpaca[int(i)]["scores"] for i in bank], dtype=torch.float64)
    return Bank(
        base=take(alpaca, vectors, base),
        rows=join(parts),
        source=torch.cat([torch.full((len(part),), number) for number, part in enumerate(parts)]),
        scores=scores,
        reference=take(alpaca, vectors, reference),
        queries={"gsm8k": train.at(range(GSM8K_BANK, len(train))), "bbh": asked},
        judges={"alpaca": take(alpaca, vectors, held_out), "gsm8k": test, "bbh": judging},
    )


def read_alpaca(data: Path) -> tuple[list[dict], Tensor]:
    """All Alpaca rows as prompt, answer and scores, and their vectors."""
    table = parquet(data / "alpaca.parquet")
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


def parquet(path: Path) -> list[dict]:
    """Rows of a file."""
    rows = Dataset.from_parquet(str(path))
    assert isinstance(rows, Dataset)
    return rows.to_list()


def take(rows: list[dict], vectors: Tensor, picked: np.ndarray) -> Rows:
    """Some Alpaca rows with the vectors they came with."""
    some = [rows[int(i)] for i in picked]
    return Rows([row["prompt"] for row in some], [row["answer"] for row in some], vectors[torch.from_numpy(picked)])


def tear(rows: list[dict], picked: np.ndarray) -> tuple[list[str], list[str]]:
    """Prompts with the answers of others: each gets that of the row before."""
    some = [rows[int(i)] for i in picked]
    return [row["prompt"] for row in some], [some[i - 1]["answer"] for i in range(len(some))]


def gsm8k(path: Path, count: int) -> Rows:
    """The first rows of GSM8K."""
    rows = parquet(path)[:count]
    return embedded([row["question"] for row in rows], [row["answer"] for row in rows])


def exemplars(path: Path) -> tuple[Rows, Rows]:
    """BBH's worked exemplars: the first of each task asks, the others judge; tasks that share theirs count once."""
    seen: set[str] = set()
    rows = [row for row in parquet(path) if not (row["input"] in seen or seen.add(row["input"]))]
    all_rows = embedded([row["input"] for row in rows], [row["cot_answer"] for row in rows])
    first, rest, asked = [], [], set()
    for number, row in enumerate(rows):
        (rest if row["task"] in asked else first).append(number)
        asked.add(row["task"])
    return all_rows.at(first), all_rows.at(rest)


def embedded(prompts: list[str], answers: list[str]) -> Rows:
    """Rows with vectors of the default encoder, made as those that came with Alpaca were."""
    texts = [f"{prompt}\n{answer}" for prompt, answer in zip(prompts, answers, strict=True)]
    found = hf_gip.embed(Dataset.from_dict({"text": texts}), DEFAULT_ENCODER)
    return Rows(prompts, answers, torch.nn.functional.normalize(found.matrix.float()))


def join(parts: Sequence[Rows]) -> Rows:
    """One after the other."""
    return Rows(
        [prompt for part in parts for prompt in part.prompts],
        [answer for part in parts for answer in part.answers],
        torch.cat([part.vectors for part in parts]),
    )
