"""What can be said of a subset without training on it."""

import torch
from torch import Tensor

from hf_gip.core.judge import coverage, vendi

from .bank import Bank
from .pools import Pool


def measure(bank: Bank, pool: Pool, picks: Tensor) -> dict[str, float]:
    """Shares of junk and of the target's domain, coverage of rows no selector saw, diversity, scores, length."""
    members, source, vectors = pool.members[picks], pool.source[picks], pool.vectors[picks]
    found = {
        "coverage": coverage(bank.judges["alpaca"].vectors, vectors),
        "vendi": vendi(vectors),
        "length": float(pool.lengths[picks].double().mean()),
    }
    if pool.kind != "noisy":
        found["judges' score"] = float(bank.scores[members].nanmean())
        found["target coverage"] = coverage(bank.judges[pool.task].vectors, vectors)
    if pool.kind == "mixed":
        found["target share"] = float((source == 1).double().mean())
    if pool.kind == "noisy":
        shuffled = float((source == 2).double().mean())
        repeated = 1 - len(torch.unique(members)) / len(members)
        found |= {"junk": shuffled + repeated, "shuffled": shuffled, "repeated": repeated}
    return found
