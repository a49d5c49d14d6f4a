"""The three pools: instructions, instructions with a task's rows among them, instructions with junk among them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .data import Bank, Rows

Kind = Literal["alpaca", "mixed", "noisy"]
KINDS: tuple[Kind, ...] = ("alpaca", "mixed", "noisy")
ROWS = 5_000
TARGET_ROWS = 500  # GSM8K rows in `mixed`
JUNK_ROWS, COPIED, COPIES = 1_000, 50, 10  # in `noisy`: half shuffled, half copies, ten each of 60 rows


@dataclass(frozen=True, slots=True)
class Pool:
    """Inputs of a selector, and labels that only the metrics see.

    Attributes:
        kind: Which pool.
        seed: Which draw of it.
        members: Positions in the bank, a copied row several times, (n,).
        vectors: Sentence vectors, (n, d).
        lengths: Characters of prompt and answer, (n,).
        scores: Quality of each row: the judges' scores, or in `noisy` the base model's prompt benefit, (n, s).
        queries: Example rows of the target task.
        task: Name of the held-out rows of that task.
        source: 0 Alpaca, 1 GSM8K, 2 shuffled answers, (n,).
    """

    kind: Kind
    seed: int
    members: Tensor
    vectors: Tensor
    lengths: Tensor
    scores: Tensor
    queries: Rows
    task: str
    source: Tensor


def make_pool(bank: Bank, kind: Kind, seed: int, *, benefit: Tensor | None = None) -> Pool:
    """Draw a pool. `benefit` holds the prompt benefit of every bank row, the scores of `noisy`."""
    random = np.random.default_rng([seed, KINDS.index(kind)])
    by_source = [torch.nonzero(bank.source == source)[:, 0].numpy() for source in range(3)]
    if kind == "noisy":
        clean = random.choice(by_source[0], ROWS - JUNK_ROWS, replace=False)
        copies = np.repeat(random.choice(clean, COPIED, replace=False), COPIES)
        parts = [clean, copies, random.choice(by_source[2], JUNK_ROWS - COPIED * COPIES, replace=False)]
    elif kind == "mixed":
        parts = [random.choice(by_source[0], ROWS - TARGET_ROWS, replace=False)]
        parts += [random.choice(by_source[1], TARGET_ROWS, replace=False)]
    else:
        parts = [random.choice(by_source[0], ROWS, replace=False)]
    members = torch.from_numpy(random.permutation(np.concatenate(parts)))
    queries = {"alpaca": bank.queries["bbh"], "mixed": bank.queries["gsm8k"], "noisy": bank.reference}[kind]
    scores = bank.scores[members]
    if kind == "noisy" and benefit is not None:
        scores = benefit[members, None]
    return Pool(
        kind=kind,
        seed=seed,
        members=members,
        vectors=bank.rows.vectors[members],
        lengths=torch.tensor([len(bank.rows.prompts[i]) + len(bank.rows.answers[i]) for i in members.tolist()]),
        scores=scores,
        queries=queries,
        task={"alpaca": "bbh", "mixed": "gsm8k", "noisy": "alpaca"}[kind],
        source=bank.source[members],
    )
