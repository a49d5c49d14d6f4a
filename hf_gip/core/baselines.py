"""Subsets that any selection should be compared with."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix
from hf_gip.core.judge import CHUNK, unit_rows


def k_centre(features: Float[Tensor, "n d"], k: int) -> Int64[Tensor, " k"]:
    """Farthest first: each pick is the row with the smallest best cosine to the picks so far (Gonzalez, 1985).

    The first pick is the row nearest to the mean. Time O(k n d), memory O(n) beside the features.

    Raises:
        TypeError: If the features are no floating-point tensor.
        ValueError: If they are no finite matrix, or `k` does not fit.
    """
    check_matrix("features", features)
    check_k(k, len(features))
    unit = unit_rows(features.float())
    picks = [int((unit @ unit.mean(0)).argmax())]
    near = unit @ unit[picks[0]]
    for _ in range(k - 1):
        near[picks[-1]] = torch.inf  # no pick twice, also among copies
        picks.append(int(near.argmin()))
        near = torch.maximum(near, unit @ unit[picks[-1]])
    return torch.tensor(picks)


def neighbours(features: Float[Tensor, "n d"], count: int) -> tuple[Float[Tensor, "n c"], Int64[Tensor, "n c"]]:
    """The cosines of each row to its `count` nearest rows (itself among them), and which they are. O(n² d) time."""
    unit = unit_rows(features.float())
    found = [(chunk @ unit.T).topk(count, dim=1) for chunk in unit.split(max(1, CHUNK * 1024 // len(unit)))]
    return torch.cat([each.values for each in found]), torch.cat([each.indices for each in found])
