"""Baselines that the package does not ship, written plainly."""

import heapq

import torch
from torch import Tensor


def facility_location(vectors: Tensor, k: int) -> Tensor:
    """Greedy Σᵢ max_{j∈S} max(0, ⟨xᵢ, xⱼ⟩), lazily: a gain never rises, so its last value bounds it. O(n²) memory."""
    similarity = (vectors @ vectors.T).clamp_(min=0)
    best = torch.zeros(len(vectors))
    heap = [(-gain, row) for row, gain in enumerate(similarity.sum(dim=0).tolist())]
    heapq.heapify(heap)
    picks: list[int] = []
    while len(picks) < k:
        _, row = heapq.heappop(heap)
        gain = float((similarity[row] - best).clamp_(min=0).sum())
        if heap and -heap[0][0] > gain:
            heapq.heappush(heap, (-gain, row))
            continue
        picks.append(row)
        torch.maximum(best, similarity[row], out=best)
    return torch.tensor(picks)


def k_center(vectors: Tensor, k: int, seed: int) -> Tensor:
    """Farthest point first, from a random row (Sener & Savarese, 2018)."""
    first = int(torch.randint(len(vectors), (), generator=torch.Generator().manual_seed(seed)))
    picks, nearest = [first], vectors @ vectors[first]
    while len(picks) < k:
        nearest[picks[-1]] = 2.0
        picks.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, vectors @ vectors[picks[-1]])
    return torch.tensor(picks)
