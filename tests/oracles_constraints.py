"""What constraints allow, from their definition, and constraints drawn at random."""

import numpy as np
import torch

from hf_gip.core.constraints import Constraints


def feasible(rows: list[int], limits: Constraints, k: int) -> bool:
    """Whether `rows` can still be completed within the limits, from their definition."""
    n = len(limits.tokens) if limits.tokens is not None else len(limits.groups)  # type: ignore[arg-type]
    groups = np.zeros(n, int) if limits.groups is None else limits.groups.numpy()
    tokens = np.zeros(n, int) if limits.tokens is None else limits.tokens.numpy()
    quotas = [quota for quota in (limits.max_per_group, limits.min_per_group) if quota is not None]
    size = max([int(groups.max()) + 1, *map(len, quotas)])
    counts = np.bincount(groups[rows], minlength=size)
    if limits.max_per_group is not None and (counts > limits.max_per_group.numpy()).any():
        return False
    spent, picks = int(tokens[rows].sum()), len(rows)
    if limits.min_per_group is not None:
        for group, minimum in enumerate(limits.min_per_group.tolist()):
            need = max(0, minimum - counts[group])
            others = sorted(tokens[i] for i in range(n) if groups[i] == group and i not in rows)
            if len(others) < need:
                return False
            picks, spent = picks + need, spent + sum(others[:need])
    return picks <= k and (limits.max_tokens is None or spent <= limits.max_tokens)


def random_constraints(n: int, k: int, draw: torch.Generator, kinds: int) -> Constraints:
    """Random limits that can be met; `what` says which kinds."""
    size = int(torch.randint(1, 6, (1,), generator=draw))
    groups = torch.randint(0, size, (n,), generator=draw)
    tokens = torch.randint(1, 30, (n,), generator=draw) if kinds & 4 else None
    sizes = torch.bincount(groups, minlength=size)
    maxima = (sizes.float() * (0.3 + 0.7 * torch.rand(size, generator=draw))).ceil().long() if kinds & 1 else None
    room = sizes if maxima is None else maxima
    minima = (room.float() * 0.4 * torch.rand(size, generator=draw)).long() if kinds & 2 else None
    initial_rows = torch.randperm(n, generator=draw)[: max(1, k // 4)] if kinds & 8 else None
    budget = None if tokens is None else int(tokens.sum() * (0.1 + 0.6 * float(torch.rand(1, generator=draw))))
    return Constraints(initial_rows, groups, (), maxima, minima, tokens, budget)
