"""RDS+: the rows nearest to each query in turn."""

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix
from hf_gip.core.less import cosines, unit
from hf_gip.core.rows import Rows, check_rows
from hf_gip.core.selection import Selection


def rds(features: Float[Tensor, "n d"] | Rows, queries: Float[Tensor, "m q"], k: int) -> Selection:
    """Choose `k` rows round-robin: each query takes its nearest row that is not yet taken, until `k` are.

    Nearness is the cosine; features are meant to be a model's last hidden states meaned with later tokens counting
    more, as in [RDS+](https://huggingface.co/papers/2503.01807). O(n m d) and memory O(n m).

    Args:
        features: One row per example, (n, d), in memory or on disk.
        queries: Rows of the target in the same space, (m, d).
        k: How many rows to choose.

    Returns:
        The rows in the order taken; `.gains` are the cosines with the query that took them.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong.
    """
    n, d = check_rows("features", features)
    check_matrix("queries", queries, d)
    check_k(k, n)
    near = cosines(features, unit(queries.double().cpu())).T
    depth = min(n, k)
    orders = torch.sort(near, dim=1, descending=True, stable=True).indices[:, :depth].tolist()
    taken: dict[int, float] = {}
    places = [0] * len(orders)
    while len(taken) < k:
        for query, order in enumerate(orders):
            while places[query] < depth and order[places[query]] in taken:
                places[query] += 1
            if places[query] < depth and len(taken) < k:
                taken[order[places[query]]] = float(near[query, order[places[query]]])
    return Selection(
        torch.tensor(list(taken), dtype=torch.int64),
        torch.tensor(list(taken.values()), dtype=torch.float64),
        record={"method": "rds", "parameters": {"k": k, "queries": len(queries)}},
    )
