"""What can be said of a subset without training on it."""

import torch
from torch import Tensor

from hf_gip.core.metrics import coverage, vendi

from .bank import Bank
from .pools import Pool


def measure(bank: Bank, pool: Pool, picks: Tensor) -> dict[str, float]:
    """Shares of junk and of the target's domain, coverage of rows no selector saw, diversity, scores, length."""
    vectors = pool.vectors[picks]
    found = {
        "coverage": coverage(bank.judges["alpaca"].vectors, vectors),
        "vendi": vendi(vectors),
        "length": float(pool.lengths[picks].double().mean()),
    }
    if pool.kind != "noisy":
        found["judges' score"] = float(bank.scores[pool.members[picks]].nanmean())
        found["target coverage"] = coverage(bank.judges[pool.task].vectors, vectors)
    if pool.kind == "mixed":
        found["target share"] = float((pool.source[picks] == 1).double().mean())
    if pool.kind == "noisy":
        found |= dict(zip(("junk", "shuffled", "repeated"), junk(pool, picks), strict=True))
    return found


def junk(pool: Pool, picks: Tensor) -> tuple[float, float, float]:
    """Share of picks that are junk: with another row's answer, or a copy of another pick; and the two apart."""
    shuffled = float((pool.source[picks] == 2).double().mean())
    repeated = 1 - len(torch.unique(pool.members[picks])) / len(picks)
    return shuffled + repeated, shuffled, repeated
