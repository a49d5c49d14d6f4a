"""The subspace that snapshots of the weights span: their principal components."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.features.per_example_gradients import Layer

ROUNDING = 1e-13  # of a float32 vector's energy
RANK = 1e-10  # a direction whose share of the largest variance is at most this is rounding


def weight_vector(layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> Float[Tensor, " p"]:
    """The layers' weights as one vector, in the order in which their gradients are laid out."""
    return torch.cat([weights[f"{layer.name}.weight"].detach().float().cpu().flatten() for layer in layers])


def snapshot_basis(snapshots: Iterable[Float[Tensor, " p"]], projection_dim: int | None) -> Float[Tensor, "p r"]:
    """An orthonormal basis of the directions in which `snapshots` differ most.

    With Δ the snapshots less their mean, one per column, and V, Λ the eigenvectors and eigenvalues of ΔᵀΔ, the basis
    is U = ΔVΛ^(−½): the principal components, from a matrix as small as the number of snapshots. O(s² p) and memory
    O(s p).

    Args:
        snapshots: Weights at several moments of a run, (p,) each.
        projection_dim: How many directions at most; None: all, one fewer than snapshots.

    Returns:
        The directions by falling variance, (p, r).

    Raises:
        ValueError: If the snapshots do not differ.
    """
    deltas = torch.stack(list(snapshots))
    mean = deltas.mean(0)
    floor = ROUNDING * len(deltas) * float(mean.square().sum())
    deltas -= mean
    variances, mixing = torch.linalg.eigh((deltas @ deltas.T).double())
    order = variances.argsort(descending=True)[
        : len(deltas) - 1 if projection_dim is None else min(projection_dim, len(deltas) - 1)
    ]
    order = order[variances[order] > RANK * variances[order[:1]].clamp(min=0)]
    if not len(order) or float(variances[order[0]]) <= floor:
        raise ValueError(
            f"the weights must move between snapshots, got {len(deltas)} alike: raise `learning_rate` or `epochs`."
        )
    directions = deltas.T @ mixing[:, order].to(deltas)
    return torch.linalg.qr(directions).Q  # Λ^(−½), and exactly orthonormal in float32 too
