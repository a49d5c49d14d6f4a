"""Selections to compare with: LESS, RDS+, farthest first."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.gtp import RATES, check_rates, per_checkpoint
from hf_gip.core.matrix import MatrixSource, as_source, unit_rows, working_dtype
from hf_gip.core.metrics import CHUNK_ROWS
from hf_gip.core.validation import as_list, brief, check_k, check_matrix
from hf_gip.selection import Selection


@torch.no_grad()
def less(
    trajectories: Tensor | MatrixSource | Sequence[Tensor | MatrixSource],
    target: Tensor | Sequence[Tensor],
    k: int,
    *,
    learning_rates: Sequence[float] | None = None,
    subtasks: Sequence[int] | None = None,
) -> Selection:
    """Choose the `k` rows of highest influence ([LESS](https://huggingface.co/papers/2402.04333)).

    Row i's score is max_t mean_{j∈t} Σ_c w_c cos(gᵢ_c, g_jc): cosines with every target row j of a subtask t at every
    checkpoint c, weighted by the learning rates w_c (scaled to sum 1), meaned over the subtask's rows, and the
    largest over the subtasks. No row knows of another, so near copies are chosen together. O(n m d), one pass.

    Args:
        trajectories: Gradients or projections of them, one matrix (n, d) per checkpoint, or one for one checkpoint;
            in memory or a `MatrixSource` on disk.
        target: Gradients of the target rows at the same checkpoints, (m, d) each.
        k: How many rows to choose.
        learning_rates: Learning rate of each checkpoint, *optional*, defaults to equal weights.
        subtasks: Number of the subtask of each target row, (m,), *optional*, defaults to one for all.

    Returns:
        The rows by falling score, of equals the lower first; `.gains` are the scores.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong.
    """
    parts, targets = _paired(trajectories, target)
    k = check_k(k, parts[0].n)
    weights = (
        [1.0 / len(parts)] * len(parts) if learning_rates is None else as_list("learning_rates", learning_rates, RATES)
    )
    check_rates(weights, len(parts))
    groups = [0] * len(targets[0]) if subtasks is None else as_list("subtasks", subtasks, "a list of whole numbers")
    if len(groups) != len(targets[0]) or not all(isinstance(group, int) for group in groups):
        raise ValueError(
            f"`subtasks` must hold one whole number per target row ({len(targets[0])}), got {brief(groups)}."
        )
    numbers = torch.tensor([sorted(set(groups)).index(group) for group in groups])
    members = torch.nn.functional.one_hot(numbers).double()
    means = (members / members.sum(0)).T  # (subtasks, m)
    scores = torch.zeros(parts[0].n, len(means), dtype=torch.float64)
    for part, each, weight in zip(parts, targets, weights, strict=True):
        scores += weight / sum(weights) * cosines(part, means @ unit_rows(each.double().cpu()))
    values, order = torch.sort(scores.max(dim=1).values, descending=True, stable=True)
    record = {"method": "less", "parameters": {"k": k, "learning_rates": [float(weight) for weight in weights]}}
    return Selection(order[:k], values[:k], record=record)


@torch.no_grad()
def rds(features: Float[Tensor, "n d"] | MatrixSource, queries: Float[Tensor, "m q"], k: int) -> Selection:
    """Choose `k` rows round-robin: each query takes its nearest row that is not yet chosen, until `k` are.

    Nearness is the cosine; features are meant to be a model's last hidden states meaned with later tokens counting
    more, as in [RDS+](https://huggingface.co/papers/2503.01807). O(n m d) and memory O(n m).

    Args:
        features: One row per example, (n, d), in memory or on disk.
        queries: Rows of the target in the same space, (m, d).
        k: How many rows to choose.

    Returns:
        The rows in the order chosen; `.gains` are the cosines with the query that chose them.

    Raises:
        TypeError: If a matrix is no floating-point tensor.
        ValueError: If a shape or value is wrong.
    """
    source = as_source("features", features)
    check_matrix("queries", queries, source.d)
    k = check_k(k, source.n)
    similarity = cosines(source, unit_rows(queries.detach().double().cpu())).T
    depth = min(source.n, k)
    orders = torch.sort(similarity, dim=1, descending=True, stable=True).indices[:, :depth].tolist()
    chosen: dict[int, float] = {}
    cursors = [0] * len(orders)
    while len(chosen) < k:
        for query, order in enumerate(orders):
            while cursors[query] < depth and order[cursors[query]] in chosen:
                cursors[query] += 1
            if cursors[query] < depth and len(chosen) < k:
                chosen[order[cursors[query]]] = float(similarity[query, order[cursors[query]]])
    return Selection(
        torch.tensor(list(chosen), dtype=torch.int64),
        torch.tensor(list(chosen.values()), dtype=torch.float64),
        record={"method": "rds", "parameters": {"k": k, "queries": len(queries)}},
    )


@torch.no_grad()
def k_center(features: Float[Tensor, "n d"], k: int) -> Int64[Tensor, " k"]:
    """Farthest first: each pick is the row with the smallest best cosine to the picks so far (Gonzalez, 1985).

    The first pick is the row nearest to the mean. Time O(k n d), memory O(n) beside the features.

    Raises:
        TypeError: If the features are no floating-point tensor.
        ValueError: If they are no finite matrix, or `k` does not fit.
    """
    check_matrix("features", features)
    k = check_k(k, len(features))
    unit = unit_rows(features.detach().float())
    picks = [int((unit @ unit.mean(0)).argmax())]
    similarity = unit @ unit[picks[0]]
    for _ in range(k - 1):
        similarity[picks[-1]] = torch.inf  # no pick twice, also among copies
        picks.append(int(similarity.argmin()))
        similarity = torch.maximum(similarity, unit @ unit[picks[-1]])
    return torch.tensor(picks)


@torch.no_grad()
def nearest_rows(features: Float[Tensor, "n d"], count: int) -> tuple[Float[Tensor, "n c"], Int64[Tensor, "n c"]]:
    """The cosines of each row to its `count` nearest rows (itself among them), and which they are. O(n² d) time."""
    unit = unit_rows(features.float())
    nearest = [(chunk @ unit.T).topk(count, dim=1) for chunk in unit.split(max(1, CHUNK_ROWS * 1024 // len(unit)))]
    return torch.cat([each.values for each in nearest]), torch.cat([each.indices for each in nearest])


def cosines(source: MatrixSource, directions: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """⟨x̂ᵢ, dⱼ⟩ for unit rows x̂ᵢ, float64, in one walk; 0 for rows that are zero.

    Raises:
        ValueError: If a row is not finite.
    """
    out = []
    for start, chunk in source.chunks():
        rows = unit_rows(chunk.to(working_dtype(chunk.dtype)))
        if not bool(rows.isfinite().all()):
            bad = start + int(torch.nonzero(~rows.isfinite().all(1))[0])
            raise ValueError(
                f"`trajectories` must be finite, got NaN or infinity, first in row {bad}: drop such rows."
            )
        out.append((rows @ directions.to(rows).T).double().cpu())
    return torch.cat(out)


def _paired(
    trajectories: Tensor | MatrixSource | Sequence[Tensor | MatrixSource], target: Tensor | Sequence[Tensor]
) -> tuple[list[MatrixSource], list[Tensor]]:
    """The rows and the target at each checkpoint.

    Raises:
        ValueError: If the checkpoints of the two differ.
    """
    matrices, targets = per_checkpoint("trajectories", trajectories), per_checkpoint("target", target)
    if len(matrices) != len(targets) or not matrices:
        raise ValueError(
            f"`target` must have one matrix per checkpoint of `trajectories` ({len(matrices)}), got {len(targets)}."
        )
    parts = [as_source("trajectories", matrix) for matrix in matrices]
    for part, each in zip(parts, targets, strict=True):
        check_matrix("target", each, part.d)
    if len({part.n for part in parts}) > 1 or len({len(each) for each in targets}) > 1:
        raise ValueError(
            "`trajectories` and `target` must hold the same rows at every checkpoint, got "
            f"{[part.n for part in parts]} and {[len(each) for each in targets]} rows."
        )
    return parts, [each.detach() for each in targets]
