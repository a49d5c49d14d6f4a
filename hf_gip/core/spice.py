"""SPICE: the rows with the most Fisher information and the least gradient conflict."""

from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_k, check_matrix, is_number, shown
from hf_gip.core.fisher import FISHERS, Fisher
from hf_gip.core.lazy import LazyGreedy, Picks, Rule
from hf_gip.core.selection import Selection
from hf_gip.core.windows import greedy_in_windows


def spice(
    gradients: Float[Tensor, "n d"],
    k: int,
    *,
    alpha: float = 1.0,
    conflict_penalty: float = 0.1,
    stop_ratio: float | None = None,
    fisher: Fisher = "full",
    window: int | None = None,
) -> Selection:
    """Choose `k` rows greedily by Fisher information, less a penalty for pulling against the rows already chosen.

    With gᵢ the gradient of row i's loss and F_S = Σ_{i∈S} gᵢgᵢᵀ ([SPICE](https://huggingface.co/papers/2601.23155)),
    the next row maximises Δᵢ − `conflict_penalty` · max(0, −cos(gᵢ, ḡ_S)), where
    Δᵢ = log det(I + αF_{S∪i}) − log det(I + αF_S) = log(1 + α gᵢᵀ(I + αF_S)⁻¹gᵢ) and ḡ_S is the mean gradient of S.
    With no penalty this is greedy D-optimal design. α speaks in the gradients' own scale: 1 as in the paper.

    Over the whole pool the greedy is lazy, and exact: Δᵢ never rises, so a row whose last known Δᵢ is below the best
    score cannot win. It costs at most O(n k d), far less where gains differ; memory O(n + k d). In windows every row
    is compared with its window alone, O(n · window · d) in all. Ties go to the lower row.

    Args:
        gradients: One row per example, (n, d): gradients, or a projection of them that keeps inner products.
        k: How many rows to choose.
        alpha: Weight α of the gradients against the identity.
        conflict_penalty: Weight λ of the conflict; 0.1 to 0.5 did equally well in the paper.
        stop_ratio: Stop before the first row whose Δ is at most this share of the first pick's Δ (the paper's ω,
            0.5); in windows, each window stops by itself. None: never stop.
        fisher: `"full"`, exact; `"diagonal"`, F_S cut down to its diagonal as in the paper; `"diagonal_g4"`, what
            the authors' released code computes, fourth powers of the gradients in place of squares.
        window: Choose from consecutive windows of this many rows, each giving its share of `k` and starting from an
            empty S (120 and a tenth in the paper); shuffle the rows first. None: choose from all rows together.

    Returns:
        At most `k` rows, fewer only where `stop_ratio` ended the run, with the information each added in nats
        (`.gains`) and the curves `conflict`, max(0, −cos), and `overlap`, ε = Δ − log(1 + α‖g‖²) ≤ 0: what the
        rows already chosen took away.

    Raises:
        TypeError: If `gradients` is not a floating-point tensor.
        ValueError: If `gradients` is not a finite matrix, or an option is out of its range.
    """
    check_matrix("gradients", gradients)
    check_k(k, len(gradients))
    check_options(alpha, conflict_penalty, stop_ratio, fisher, window)
    rule = Rule(float(alpha), float(conflict_penalty), stop_ratio)
    if window is None:
        runs = [LazyGreedy(gradients, k, rule, fisher).run()]
    else:
        runs = greedy_in_windows(gradients, k, rule, fisher, window)
    parameters = {
        "k": k,
        "alpha": alpha,
        "conflict_penalty": conflict_penalty,
        "stop_ratio": stop_ratio,
        "fisher": fisher,
        "window": window,
    }
    return as_selection(gradients, runs, parameters)


def as_selection(gradients: Float[Tensor, "n d"], runs: list[Picks], parameters: dict[str, object]) -> Selection:
    """One Selection of all runs, in their order."""
    indices = torch.tensor(list(chain.from_iterable(run.rows for run in runs)), dtype=torch.int64)
    gains = torch.tensor(list(chain.from_iterable(run.gains for run in runs)), dtype=torch.float64)
    conflict = torch.tensor(list(chain.from_iterable(run.conflicts for run in runs)), dtype=torch.float64)
    norms = torch.linalg.vector_norm(gradients[indices.to(gradients.device)], dim=1, dtype=torch.float64).cpu()
    alone = torch.log1p(float(str(parameters["alpha"])) * norms.square())
    record = {
        "method": "spice",
        "parameters": parameters,
        "stopped_early": any(run.stopped for run in runs),
        "evaluations": sum(run.evaluations for run in runs),
    }
    return Selection(indices, gains, record=record, curves={"conflict": conflict, "overlap": gains - alone})


def check_options(alpha: object, conflict_penalty: object, stop_ratio: object, fisher: object, window: object) -> None:
    """Raise unless every option is in its range.

    Raises:
        ValueError: Naming the option, the value found and the range.
    """
    if not (is_number(alpha) and alpha > 0):
        raise ValueError(f"`alpha` must be a positive number, got {shown(alpha)}: 1.0 is the paper's.")
    if not (is_number(conflict_penalty) and conflict_penalty >= 0):
        raise ValueError(f"`conflict_penalty` must be zero or a positive number, got {shown(conflict_penalty)}.")
    if stop_ratio is not None and not (is_number(stop_ratio) and 0 < stop_ratio < 1):
        raise ValueError(f"`stop_ratio` must be between 0 and 1, or None never to stop, got {shown(stop_ratio)}.")
    if not isinstance(fisher, str) or fisher not in FISHERS:
        raise ValueError(f"`fisher` must be one of {', '.join(FISHERS)}, got {shown(fisher)}.")
    if window is not None and (isinstance(window, bool) or not isinstance(window, int) or window < 1):
        raise ValueError(f"`window` must be a whole number of rows, or None for the whole pool, got {shown(window)}.")
