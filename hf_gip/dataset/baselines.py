"""The baselines of a comparison, each where the pool has what it needs."""

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec

import torch
from torch import Tensor

from hf_gip.core.baselines import k_center, nearest_rows, rds

NEAR = 100  # nearest rows that facility location knows of each row: all of them would be n × n


def baselines(
    matrix: Tensor, target: Tensor | None, scores: Mapping[str, Tensor], lengths: Tensor | None, k: int
) -> dict[str, Tensor]:
    """Rows of each baseline of size `k`: top-k and longest where there are scores and texts, RDS+ with a target.

    Facility location is left out where `apricot-select` is not installed.
    """
    found: dict[str, Callable[[], Tensor]] = {}
    if scores:
        found["top-k by score"] = lambda: _largest(torch.stack(list(scores.values())).nanmean(0), k)
    if lengths is not None:
        found["longest"] = lambda: _largest(lengths, k)
    if target is not None:
        found["RDS+"] = lambda: rds(matrix, target, k).indices
    found["k-centre"] = lambda: k_center(matrix, k)
    if find_spec("apricot") is not None:
        found["facility location"] = lambda: _facility_location(matrix, k)
    return {f"{name}, {k:,} rows": choose() for name, choose in found.items()}


def _largest(values: Tensor, k: int) -> Tensor:
    return values.nan_to_num(nan=-torch.inf).sort(descending=True, stable=True).indices[:k]


def _facility_location(matrix: Tensor, k: int) -> Tensor:
    """Greedy facility location by apricot, on the cosines of each row's nearest rows."""
    from scipy.sparse import csr_matrix

    n, near = len(matrix), min(NEAR, len(matrix))
    cosines, rows = nearest_rows(matrix.cpu(), near)
    of = torch.arange(n).repeat_interleave(near)
    graph = csr_matrix((cosines.clamp(min=0).flatten().double().numpy(), (of.numpy(), rows.flatten().numpy())), (n, n))
    facility_location = import_module("apricot").FacilityLocationSelection
    picked = facility_location(k, metric="precomputed", optimizer="lazy").fit(graph)
    return torch.as_tensor(picked.ranking)
