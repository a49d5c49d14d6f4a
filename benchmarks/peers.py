"""Every peer that `speed.py` times, as one function each: unit rows, unit queries and k in, row numbers out."""

# pyright: reportMissingImports=false
# (the peers are an extra of their own: `make bench` installs them)

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Rows = NDArray[np.float32]
Peer = Callable[[Rows, Rows, int], list[int]]


def dpp(rows: Rows, queries: Rows, k: int) -> list[int]:
    """Greedy MAP of a determinantal process, quality exp(2·best cosine to a query), kept as n × k numbers.

    The textbook recursion (Chen, Zhang & Zhou 2018, https://arxiv.org/abs/1709.05135) on rows instead of a kernel.
    """
    weighted = rows * np.exp((rows @ queries.T).max(1))[:, None]
    residual = (weighted**2).sum(1) + 1e-6
    basis = np.zeros((k, len(rows)), dtype=np.float32)
    picks: list[int] = []
    for step in range(k):
        best = int(residual.argmax())
        column = weighted @ weighted[best] - basis[:step].T @ basis[:step, best]
        basis[step] = column / np.sqrt(residual[best])
        residual = residual - basis[step] ** 2
        picks.append(best)
        residual[picks] = -np.inf
    return picks


def apricot(rows: Rows, queries: Rows, k: int) -> list[int]:
    """`apricot-select`: facility location, lazy greedy; it takes no queries."""
    from apricot import FacilityLocationSelection

    model = FacilityLocationSelection(k, metric="cosine", optimizer="lazy").fit(rows)
    return np.asarray(model.ranking).tolist()


def omp(rows: Rows, queries: Rows, k: int) -> list[int]:
    """scikit-learn: orthogonal matching pursuit per query, k/m rows each; supports merged, k reached only roughly."""
    from sklearn.linear_model import orthogonal_mp

    each = min(-(-k // len(queries)), rows.shape[1])
    coefficients = np.asarray(orthogonal_mp(rows.T, queries.T, n_nonzero_coefs=each))
    return np.flatnonzero(np.abs(np.atleast_2d(coefficients.T)).sum(0)).tolist()[:k]


def flvmi(rows: Rows, queries: Rows, k: int) -> list[int]:
    """`submodlib`: facility location mutual information with the queries, lazy greedy in C++."""
    from submodlib import FacilityLocationVariantMutualInformationFunction

    objective = FacilityLocationVariantMutualInformationFunction(
        n=len(rows), num_queries=len(queries), query_sijs=rows @ queries.T
    )
    return [row for row, _ in objective.maximize(budget=k, optimizer="LazyGreedy", show_progress=False)]


def pyversity(rows: Rows, queries: Rows, k: int) -> list[int]:
    """`pyversity`: DPP with the best cosine to a query as relevance."""
    from pyversity import diversify

    return diversify(rows, (rows @ queries.T).max(1), k, strategy="dpp").indices.tolist()


def semhash(rows: Rows, queries: Rows, k: int) -> list[int]:
    """`semhash`: representative rows (MMR among all rows); it takes no queries."""
    from semhash import SemHash
    from semhash.utils import Encoder

    names = [str(row) for row in range(len(rows))]
    index = SemHash.from_embeddings(rows, names, model=cast("Encoder", None))
    chosen = index.self_find_representative(selection_size=k, candidate_limit=len(rows)).selected
    return [int(name) for name in cast("list[str]", chosen)]


def random(rows: Rows, queries: Rows, k: int) -> list[int]:
    """Rows drawn at random."""
    return torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:k].tolist()


PEERS: dict[str, Peer] = {
    "numpy greedy DPP": dpp,
    "apricot facility location": apricot,
    "scikit-learn OMP": omp,
    "submodlib FLVMI": flvmi,
    "pyversity DPP": pyversity,
    "semhash representative": semhash,
    "random": random,
}


def captured(rows: Tensor, queries: Tensor, picks: list[int], noise: float) -> float:
    """Share of the queries' energy in the ridge span of the picks, in float64, from its definition."""
    X, Q = rows[picks].double(), queries.double()
    sigma2 = noise * float(rows.double().square().sum(1).mean())
    inner = X.T @ X + sigma2 * torch.eye(X.shape[1], dtype=torch.float64)
    residual = sigma2 * torch.einsum("md,dm->", Q, torch.linalg.solve(inner, Q.T))
    return 1.0 - float(residual) / float(Q.square().sum())
