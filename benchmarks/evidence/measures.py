"""Metrics of a subset that need no training."""

import torch
from torch import Tensor

from hf_gip.core.metrics import coverage, vendi

from .data import Bank
from .pools import Pool


def measure(bank: Bank, pool: Pool, picks: Tensor) -> dict[str, float]:
    """Shares of junk and of the target's domain, coverage of rows no selector saw, diversity, scores, length."""
    vectors = pool.vectors[picks]
    figures = {
        "coverage": coverage(bank.held_out["alpaca"].vectors, vectors),
        "vendi": vendi(vectors),
        "length": float(pool.lengths[picks].double().mean()),
    }
    if pool.kind != "noisy":
        figures["judges' score"] = float(bank.scores[pool.members[picks]].nanmean())
        figures["target coverage"] = coverage(bank.held_out[pool.task].vectors, vectors)
    if pool.kind == "mixed":
        figures["target share"] = float((pool.source[picks] == 1).double().mean())
    if pool.kind == "noisy":
        figures |= dict(zip(("junk", "shuffled", "repeated"), junk(pool, picks), strict=True))
    return figures


def junk(pool: Pool, picks: Tensor) -> tuple[float, float, float]:
    """Share of picks that are junk (shuffled answers or copies), then the share of each kind."""
    shuffled = float((pool.source[picks] == 2).double().mean())
    repeated = 1 - len(torch.unique(pool.members[picks])) / len(picks)
    return shuffled + repeated, shuffled, repeated
