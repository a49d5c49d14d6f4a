"""SPICE: the rows with the most Fisher information and the least gradient conflict.

With gᵢ the gradient of row i's loss and F_S = Σ_{i∈S} gᵢgᵢᵀ ([SPICE](https://huggingface.co/papers/2601.23155)), rows
are chosen greedily for the information of the set,

    log det(I + αF_S),   to which row i adds   Δᵢ = log(1 + α vᵢ),   vᵢ = gᵢᵀ(I + αF_S)⁻¹gᵢ,                  (1)

less a penalty where the row pulls against those chosen before it, ḡ_S being their mean gradient:

    scoreᵢ = Δᵢ − λ · max(0, −cos(gᵢ, ḡ_S)).                                                              (2)

(The numbers are of this page.) α has no scale: the gradients are first divided by their root mean square length, in
each window by its own, so that α = 0.01 means the same whatever the model, the loss or its unit. `extend` is the
greedy loop. It runs in many windows at once, from each one's own Gram matrix; or over the whole pool, where it is
lazy: vᵢ never rises, so that a row's last known Δᵢ bounds its score.
"""

from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.core.matrix import working_dtype
from hf_gip.core.metrics import conflict_with_chosen, log_det_guarantee
from hf_gip.core.validation import brief, check_bool, check_k, check_matrix, is_int, is_number
from hf_gip.selection import Selection

SHORTLIST = 256  # rows first brought up to date together; doubles and halves with what it buys
BLOCK = 64  # choices at most before the shortlist is drawn anew
MAX_FLOAT32 = 1e4  # α‖g‖² from which float32 would lose what is left of a row beside its copies
MAX_FLOAT64 = 1e12  # and float64
TIE_SLACK = 1e-6  # share of what a row adds to an empty S within which two scores are equal
WINDOW_BYTES = 1 << 26  # of window rows and Gram matrices in work at a time

Fisher = Literal["full", "diagonal", "diagonal_g4"]
FISHERS: tuple[Fisher, ...] = get_args(Fisher)


def spice(
    gradients: Float[Tensor, "n d"],
    k: int | None,
    *,
    alpha: float = 0.01,
    absolute_alpha: bool = False,
    conflict_penalty: float = 0.1,
    stop_ratio: float | None = None,
    fisher: Fisher = "full",
    window: int | None = None,
) -> Selection:
    """Choose `k` rows greedily by Fisher information, less a penalty for pulling against the rows already chosen.

    With gᵢ the gradient of row i's loss and F_S = Σ_{i∈S} gᵢgᵢᵀ ([SPICE](https://huggingface.co/papers/2601.23155)),
    the next row maximizes Δᵢ − `conflict_penalty` · max(0, −cos(gᵢ, ḡ_S)), where
    Δᵢ = log det(I + αF_{S∪i}) − log det(I + αF_S) = log(1 + α gᵢᵀ(I + αF_S)⁻¹gᵢ) and ḡ_S is the mean gradient of S.
    With no penalty this is greedy D-optimal design. α is in units of 1/mean‖g‖² (of the window's rows, in windows), so
    that the picks are the same whatever the gradients' scale; `benchmarks/results/spice_alpha.md` chose the default.

    Over the whole pool the greedy is lazy, and exact: Δᵢ never rises, so a row whose last known Δᵢ is below the best
    score cannot win. It costs at most O(n k d), far less where gains differ; memory O(n + k d). In windows every row
    is compared with its window alone, O(n · window · d) in all. Of rows that tie up to
    a millionth of what they would add to an empty S the lowest comes first. So rounding breaks no tie; it changes a
    pick only where a score lies below the best by that millionth itself.

    Args:
        gradients: One row per example, (n, d): gradients, or a projection of them that keeps inner products.
        k: How many rows to choose; with `stop_ratio`, at most. None: as many as `stop_ratio` lets pass.
        alpha: Weight α of the gradients against the identity, in units of 1/mean‖g‖², *optional*, defaults to `0.01`:
            the largest of the sizes measured with which the paper's α‖F_S‖ < 1 holds for a tenth of 120 rows.
        absolute_alpha: Take α as it stands, in the gradients' own scale, as the released code does with its 1.0,
            *optional*, defaults to `False`.
        conflict_penalty: Weight λ of the conflict, *optional*, defaults to `0.1`; 0.1 to 0.5 did equally well in the
            paper.
        stop_ratio: Stop before the first row whose Δ is at most this share of the first pick's Δ (the paper's ω,
            0.5); in windows, each window stops by itself. With `k=None` it alone decides how many rows there are, the
            paper's SPICE+. *Optional*, defaults to never.
        fisher: `"full"`, exact; `"diagonal"`, F_S cut down to its diagonal as in the paper; `"diagonal_g4"`, what
            the authors' released code computes, fourth powers of the gradients in place of squares. *Optional*,
            defaults to `"full"`.
        window: Choose from consecutive windows of this many rows, each giving its share of `k` and starting from an
            empty S (120 and a tenth in the paper); shuffle the rows first. *Optional*, defaults to all rows together.

    Returns:
        `k` rows, fewer only where `stop_ratio` ended the run, with the information each added in nats
        (`.gains`) and the curves `conflict`, max(0, −cos), and `overlap`, ε = Δ − log(1 + α‖g‖²) ≤ 0: what the
        rows already chosen explain. Whatever λ is, the picks reach at least the share `record["greedy_guarantee"]` of
        the best log-determinant of as many rows (in windows: of as many in each). `record["fisher_norm"]` is α‖F_S‖;
        the paper's bound on ε needs it below 1.

    Raises:
        TypeError: If `gradients` is not a floating-point tensor, or `absolute_alpha` no truth value.
        ValueError: If `gradients` is not a finite matrix, its rows are too long for `alpha`, or an option is out of
            its range.
    """
    check_matrix("gradients", gradients)
    check_spice_k(k, len(gradients), stop_ratio)
    check_spice_options(alpha, absolute_alpha, conflict_penalty, stop_ratio, fisher, window)
    gradients = gradients.detach()
    stop_ratio, window = stop_ratio and float(stop_ratio), window and int(window)
    options = SpiceOptions(float(alpha), float(conflict_penalty), stop_ratio, fisher)
    energy = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).square()
    unit = torch.ones_like(energy) if absolute_alpha else mean_energy(energy, window)
    scale = unit.rsqrt()
    dtype = spice_dtype(gradients.dtype, energy / unit, options.alpha)
    budget = len(gradients) if k is None else int(k)
    if window is None:
        traces = [greedy_over_pool(gradients, scale, budget, options, dtype)]
    else:
        traces = greedy_in_windows(gradients, scale, budget, options, window, dtype)
    indices = torch.tensor(list(chain.from_iterable(trace.rows for trace in traces)), dtype=torch.int64)
    gains = torch.tensor(list(chain.from_iterable(trace.gains for trace in traces)), dtype=torch.float64)
    curves = {
        "conflict": torch.tensor(list(chain.from_iterable(trace.conflicts for trace in traces)), dtype=torch.float64),
        "overlap": torch.tensor(list(chain.from_iterable(trace.overlaps for trace in traces)), dtype=torch.float64),
    }
    size = window and min(window, len(gradients))
    guarantee = log_det_guarantee(gradients, indices, options.alpha / unit[:: size or len(unit)], size)
    record = {
        "method": "spice",
        "parameters": {
            "k": None if k is None else budget,
            **asdict(options),
            "absolute_alpha": absolute_alpha,
            "window": window,
        },
        "stopped_early": any(trace.stopped for trace in traces),
        "evaluations": sum(trace.evaluations for trace in traces),
        "greedy_guarantee": guarantee.share,
        "fisher_norm": guarantee.fisher_norm,
    }
    return Selection(indices, gains, record=record, curves=curves)


@dataclass(frozen=True, slots=True)
class SpiceOptions:
    """The score (2), and when to stop."""

    alpha: float
    conflict_penalty: float
    stop_ratio: float | None
    fisher: Fisher


@dataclass(slots=True)
class SpiceTrace:
    """What each choice of one run was and added.

    Attributes:
        rows: The choices.
        gains: Their Δ.
        conflicts: Their max(0, −cos).
        overlaps: Their ε = Δ − log(1 + α‖g‖²).
        first_gain: The Δ of the first row of S.
        evaluations: How many rows were brought up to date.
        stopped: Whether `stop_ratio` ended the run.
    """

    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    conflicts: list[float] = field(default_factory=list)
    overlaps: list[float] = field(default_factory=list)
    first_gain: float | None = None
    evaluations: int = 0
    stopped: bool = False


def extend(
    candidates: "PoolShortlist | Windows",
    traces: list[SpiceTrace],
    quotas: list[int],
    options: SpiceOptions,
    rival: tuple[float, int] = (-torch.inf, 0),
) -> None:
    """Greedy steps in each set of candidates at once, by `quotas[i]` rows, until the gains fall or `rival` could win.

    Args:
        candidates: Sets of rows, (w, r), each with an S of its own.
        traces: The run of each set, to which the choices are added.
        quotas: How many rows each set gives at most.
        options: The score.
        rival: Highest bound of the rows outside, and the lowest of their numbers: a choice that one of them may beat,
            or tie with from a lower place, is left to the next call.
    """
    ends = [len(trace.rows) + quota for trace, quota in zip(traces, quotas, strict=True)]
    active = [quota > 0 for quota in quotas]
    while any(active):
        gain = torch.log1p(options.alpha * candidates.energy)
        overlap = gain - torch.log1p(options.alpha * candidates.norm.square())
        conflict = conflict_with_chosen(
            candidates.alignment, candidates.norm, candidates.total_norm()[:, None], candidates.count
        )
        score = (gain - options.conflict_penalty * conflict).masked_fill_(~candidates.free, -torch.inf)
        best, slack = first_best_of_each(score, conflict, candidates.norm, options)
        numbers = candidates.numbers.gather(1, best)[:, 0].tolist()
        safe = score.amax(dim=1, keepdim=True) - slack
        values = torch.cat(
            [safe, *(each.gather(1, best) for each in (score, gain, conflict, overlap))], dim=1
        ).tolist()
        for i, (trace, row, (safe_above, value, gain_of_best, conflict_of_best, overlap_of_best)) in enumerate(
            zip(traces, numbers, values, strict=True)
        ):
            is_safe = rival[0] < safe_above or (rival[0] <= value and row < rival[1])
            if not active[i] or not is_safe:
                active[i] = False
                continue
            if trace.first_gain is None:
                trace.first_gain = gain_of_best
            elif options.stop_ratio is not None:
                trace.stopped = gain_of_best <= options.stop_ratio * trace.first_gain
            if trace.stopped:
                active[i] = False
                continue
            trace.rows.append(row)
            trace.gains.append(gain_of_best)
            trace.conflicts.append(conflict_of_best)
            trace.overlaps.append(overlap_of_best)
        if any(active):
            candidates.add(best)
        active = [on and len(trace.rows) < end for on, trace, end in zip(active, traces, ends, strict=True)]


def first_best_of_each(
    score: Float[Tensor, "w r"], conflict: Float[Tensor, "w r"], norm: Float[Tensor, "w r"], options: SpiceOptions
) -> tuple[Int64[Tensor, "w 1"], Float[Tensor, "w 1"]]:
    """The first row of each set whose score is the largest up to rounding, and the slack.

    Rounding errs by a share of what goes into a score: what the row would add to an empty S, and its penalty.
    """
    highest = score.argmax(dim=1, keepdim=True)
    gain_alone = torch.log1p(options.alpha * norm.gather(1, highest).square())
    slack = TIE_SLACK * (gain_alone + options.conflict_penalty * conflict.gather(1, highest))
    return (score >= score.gather(1, highest) - slack).to(torch.uint8).argmax(dim=1, keepdim=True), slack


def mean_energy(energy: Float[Tensor, " n"], window: int | None = None) -> Float[Tensor, " n"]:
    """For each row the mean ‖g‖² of those it is compared with, the pool or its window; 1 where all are zero."""
    size = min(window or len(energy), len(energy))
    number = torch.arange(len(energy), device=energy.device) // size
    total = energy.new_zeros(int(number[-1]) + 1).index_add_(0, number, energy)
    mean = total / torch.bincount(number)
    return torch.where(mean > 0, mean, 1.0)[number]


def spice_dtype(dtype: torch.dtype, energy: Float[Tensor, " n"], alpha: float) -> torch.dtype:
    """The type to work in: float64 for float64, and where gradients are long; else float32.

    Raises:
        ValueError: If they are too long for float64.
    """
    longest = alpha * float(energy.max())
    if longest > MAX_FLOAT64:
        raise ValueError(
            f"`alpha` times the squared length of a gradient must be at most {MAX_FLOAT64:g}, got {longest:.3g}: "
            "lower `alpha`."
        )
    return torch.float64 if longest > MAX_FLOAT32 else working_dtype(dtype)


def greedy_over_pool(
    gradients: Float[Tensor, "n d"],
    scale: Float[Tensor, " n"],
    k: int,
    options: SpiceOptions,
    dtype: torch.dtype,
    chosen: Float[Tensor, "c d"] | None = None,
    first_gain: float | None = None,
) -> SpiceTrace:
    """Lazy greedy on scale · gradients: bring the rows of highest bound up to date, choose while no other can win.

    `bound` holds each row's latest Δ, which can only overstate its Δ now.

    Args:
        gradients: The rows to choose from.
        scale: What each is multiplied by.
        k: How many to choose.
        options: The score.
        dtype: The type to work in.
        chosen: Rows that are in S from the start, scaled already, *optional*.
        first_gain: The Δ of the first of them, which `stop_ratio` is a share of, *optional*.
    """
    chosen = gradients[:0].to(dtype) if chosen is None else chosen.to(dtype)
    fisher = new_fisher_state(options, len(chosen) + k, gradients[0].to(dtype))
    for gradient in chosen[:, None]:
        v = fisher.refresh(gradient, gradient.double().square().sum(dim=1), torch.zeros_like(gradient[:, 0]).long())
        fisher.add(gradient, gradient[0], v, v[0])
    energy = (torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64) * scale).square_()
    norm, bound = energy.sqrt(), torch.log1p(options.alpha * energy)
    age = torch.zeros(len(gradients), dtype=torch.int64, device=gradients.device)  # rows of S that `energy` knows of
    total = chosen.sum(dim=0, dtype=torch.float64)  # Σ_S g
    trace, size = SpiceTrace(first_gain=first_gain), min(SHORTLIST, len(gradients))
    while len(trace.rows) < k and not trace.stopped:
        num_before = len(trace.rows)
        rows = torch.topk(bound, size, sorted=False).indices.sort().values
        members = gradients[rows].to(dtype) * scale[rows, None].to(dtype)
        current = fisher.refresh(members, energy[rows], age[rows])
        shortlist = PoolShortlist(
            rows, members, current, norm[rows], bound[rows] > -torch.inf, total, fisher, len(chosen) + num_before
        )
        trace.evaluations += size
        outside = bound.index_fill(0, rows, -torch.inf)
        rival = (float(outside.max()), int((outside > -torch.inf).to(torch.uint8).argmax()))
        extend(shortlist, [trace], [min(BLOCK, k - num_before)], options, rival)
        energy[rows], age[rows] = shortlist.energy[0], len(chosen) + len(trace.rows)
        bound[rows] = torch.log1p(options.alpha * energy[rows]).masked_fill_(~shortlist.free[0], -torch.inf)
        bought = len(trace.rows) - num_before
        if bought <= BLOCK // 8:
            size = min(2 * size, len(bound))
        elif bought > BLOCK // 2:
            size = max(size // 2, min(SHORTLIST, len(bound)))
    return trace


def continue_greedy(
    gradients: Float[Tensor, "n d"],
    k: int,
    options: SpiceOptions,
    *,
    chosen: Float[Tensor, "c d"] | None = None,
    first_gain: float | None = None,
) -> SpiceTrace:
    """Choose `k` more rows after an S that has begun: `greedy_over_pool` on gradients in units of α."""
    energy = torch.linalg.vector_norm(gradients, dim=1, dtype=torch.float64).square()
    dtype = spice_dtype(gradients.dtype, energy, options.alpha)
    return greedy_over_pool(gradients, torch.ones_like(energy), k, options, dtype, chosen, first_gain)


class PoolShortlist:
    """One set of candidates of a whole pool, (1, m), which shares S with all others."""

    def __init__(
        self,
        numbers: Int64[Tensor, " m"],
        rows: Float[Tensor, "m d"],
        energy: Float[Tensor, " m"],
        norm: Float[Tensor, " m"],
        free: Bool[Tensor, " m"],
        total: Float[Tensor, " d"],
        fisher: "FullFisher | DiagonalFisher",
        count: int,
    ) -> None:
        self.rows, self.total, self.fisher, self.count = rows, total, fisher, count
        self.numbers, self.energy, self.norm, self.free = numbers[None], energy[None], norm[None], free[None]
        self.alignment = (rows @ total.to(rows.dtype)).double()[None]  # g·Σ_S g

    def total_norm(self) -> Float[Tensor, " 1"]:
        """‖Σ_S g‖."""
        return self.total.norm()[None]

    def add(self, best: Int64[Tensor, "1 1"]) -> None:
        """Add the best row to S."""
        gradient = self.rows[best[0, 0]]
        self.energy = self.fisher.add(self.rows, gradient, self.energy[0], self.energy[0, best[0, 0]])[None]
        self.total += gradient
        self.alignment += (self.rows @ gradient).double()
        self.free.scatter_(1, best, value=False)
        self.count += 1


def window_quotas(n: int, k: int, window: int) -> Int64[Tensor, " w"]:
    """How many of `k` each window of `window` rows gives: shares of its rows, rounded so that they add up to k."""
    ends = torch.arange(window, n + window, window).clamp_max_(n)
    shares = ends * k // n
    return torch.diff(shares, prepend=shares.new_zeros(1))


def greedy_in_windows(
    gradients: Float[Tensor, "n d"],
    scale: Float[Tensor, " n"],
    k: int,
    options: SpiceOptions,
    window: int,
    dtype: torch.dtype,
) -> list[SpiceTrace]:
    """One greedy per window of consecutive rows, many windows side by side, O(n (window + k/n·window) d)."""
    n, d = gradients.shape
    window = min(window, n)
    quotas = window_quotas(n, k, window).tolist()
    step = max(1, WINDOW_BYTES // (8 * window * (d + window)))
    traces: list[SpiceTrace] = []
    for first in range(0, len(quotas), step):
        batch = quotas[first : first + step]
        part = slice(first * window, (first + len(batch)) * window)
        rows = gradients[part].to(dtype) * scale[part, None].to(dtype)
        padding = len(batch) * window - len(rows)  # the last window may be short
        padded = torch.cat([rows, rows.new_zeros(padding, d)]).view(len(batch), window, d)
        batch_traces = [SpiceTrace(evaluations=window) for _ in batch]
        extend(Windows(padded, len(rows), first * window, options), batch_traces, batch, options)
        traces += batch_traces
    return traces


class Windows:
    """Windows of rows, (w, r), each a pool of its own."""

    def __init__(self, rows: Float[Tensor, "w r d"], num_rows: int, first: int, options: SpiceOptions) -> None:
        self.gram = (rows @ rows.mT).double()
        self.energy = torch.diagonal(self.gram, dim1=1, dim2=2).clone()
        self.norm = self.energy.sqrt()
        self.alignment = torch.zeros_like(self.energy)  # g·Σ_S g
        self.total_energy = torch.zeros_like(self.energy[:, 0])  # ‖Σ_S g‖²
        positions = torch.arange(self.energy.numel(), device=rows.device).view(self.energy.shape)
        self.numbers, self.free, self.count = first + positions, positions < num_rows, 0
        self.alpha = options.alpha
        self.rows = rows if options.fisher != "full" else rows[:, :0]
        self.diagonal = None if options.fisher == "full" else new_diagonal_fisher(options, rows[:, 0])
        self.columns: list[Tensor] = []  # of the pivoted Cholesky factor of Gram + I/α

    def total_norm(self) -> Float[Tensor, " w"]:
        """‖Σ_S g‖ of each window."""
        return self.total_energy.clamp_min(0).sqrt()

    def add(self, best: Int64[Tensor, "w 1"]) -> None:
        """Add the best row of each window to its S."""
        products = self.gram.gather(2, best[:, None].expand(-1, self.gram.shape[1], -1))[..., 0]
        self.total_energy += 2 * self.alignment.gather(1, best)[:, 0] + products.gather(1, best)[:, 0]
        self.alignment += products
        self.free.scatter_(1, best, value=False)
        self.count += 1
        if self.diagonal is not None:
            gradient = self.rows.gather(1, best[..., None].expand(-1, -1, self.rows.shape[2]))[:, 0]
            self.energy = self.diagonal.add(self.rows, gradient, self.energy)
            return
        for column in self.columns:
            products = products - column * column.gather(1, best)
        products = products / torch.sqrt(self.energy.gather(1, best) + 1 / self.alpha)
        self.columns.append(products)
        self.energy = (self.energy - products.square()).clamp_min_(0)


class FullFisher:
    """F_S = Σ g gᵀ. Holds (I + αF_S)⁻¹ = I − BᵀB as the rows of B, one more with each choice: O(k d) memory."""

    def __init__(self, k: int, like: Float[Tensor, " d"], alpha: float) -> None:
        self.basis = like.new_zeros(k, len(like))
        self.count = 0
        self.ridge = 1 / alpha

    def refresh(
        self, rows: Float[Tensor, "m d"], energy: Float[Tensor, " m"], age: Int64[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Subtract what the choices since `age` explain: one matrix product, O(m d (count − min age))."""
        first = int(age.min())
        if first == self.count:
            return energy
        products = rows @ self.basis[first : self.count].T
        is_new = torch.arange(first, self.count, device=age.device) >= age[:, None]
        explained = products.square_().mul_(is_new).sum(dim=1, dtype=torch.float64)
        return (energy - explained).clamp_min_(0)

    def add(
        self, rows: Float[Tensor, "m d"], gradient: Float[Tensor, " d"], energy: Float[Tensor, " m"], v: Tensor
    ) -> Float[Tensor, " m"]:
        """Append b = (I + αF_S)⁻¹g / √(v + 1/α) (Sherman and Morrison) and subtract (rows·b)²; O((k + m) d)."""
        basis = self.basis[: self.count]
        b = (gradient - (basis @ gradient) @ basis) / torch.sqrt(v + self.ridge)
        self.basis[self.count] = b
        self.count += 1
        products = (rows @ self.basis[self.count - 1]).double()
        return (energy - products.square()).clamp_min_(0)


class DiagonalFisher:
    """F_S cut down to its diagonal, as SPICE does at scale: v = Σⱼ gⱼ²/denⱼ with den = 1 + α Σ_S gⱼ^power.

    `power` 2 is the diagonal of F_S. The authors' released code squares g∘|g| instead, which makes it 4.
    """

    def __init__(self, like: Float[Tensor, "*w d"], alpha: float, power: int) -> None:
        self.denominator = torch.ones_like(like, dtype=torch.float64)
        self.inverse = torch.ones_like(like)
        self.alpha = alpha
        self.power = power

    def refresh(
        self, rows: Float[Tensor, "*w m d"], energy: Float[Tensor, "*w m"], age: Int64[Tensor, "*w m"] | None = None
    ) -> Float[Tensor, "*w m"]:
        """Σⱼ gⱼ²/denⱼ afresh, O(m d); `energy` and `age` are not needed."""
        return (rows.square() @ self.inverse[..., None])[..., 0].double()

    def add(
        self,
        rows: Float[Tensor, "*w m d"],
        gradient: Float[Tensor, "*w d"],
        energy: Float[Tensor, "*w m"],
        v: Tensor | None = None,
    ) -> Float[Tensor, "*w m"]:
        """Add α g^power to the denominators, O(m d)."""
        self.denominator += self.alpha * gradient.double() ** self.power
        self.inverse = self.denominator.reciprocal().to(gradient.dtype)
        return self.refresh(rows, energy)


def new_fisher_state(options: SpiceOptions, k: int, like: Float[Tensor, " d"]) -> FullFisher | DiagonalFisher:
    """An empty state for choosing up to `k` rows of the width, dtype and device of `like`."""
    return FullFisher(k, like, options.alpha) if options.fisher == "full" else new_diagonal_fisher(options, like)


def new_diagonal_fisher(options: SpiceOptions, like: Float[Tensor, "*w d"]) -> DiagonalFisher:
    """An empty diagonal state of the shape, dtype and device of `like`."""
    return DiagonalFisher(like, options.alpha, power=4 if options.fisher == "diagonal_g4" else 2)


def check_spice_k(k: object, n: int, stop_ratio: object) -> None:
    """Raise unless `k` rows can be chosen from `n`, or `stop_ratio` says when to stop.

    Raises:
        ValueError: If `k` is not a whole number between 1 and `n`, or None without a `stop_ratio`.
    """
    if k is not None:
        check_k(k, n)
    elif stop_ratio is None:
        raise ValueError("`k` must be a number of rows where `stop_ratio` ends no window, got None: set either.")


def check_spice_options(
    alpha: object,
    absolute_alpha: object,
    conflict_penalty: object,
    stop_ratio: object,
    fisher: object,
    window: object,
) -> None:
    """Raise unless every option is in its range.

    Raises:
        TypeError: If `absolute_alpha` is neither True nor False.
        ValueError: Naming the option, the value found and the range.
    """
    if not (is_number(alpha) and alpha > 0):
        raise ValueError(f"`alpha` must be a positive number, got {brief(alpha)}.")
    check_bool("absolute_alpha", absolute_alpha)
    if not (is_number(conflict_penalty) and conflict_penalty >= 0):
        raise ValueError(f"`conflict_penalty` must be zero or a positive number, got {brief(conflict_penalty)}.")
    if stop_ratio is not None and not (is_number(stop_ratio) and 0 < stop_ratio < 1):
        raise ValueError(f"`stop_ratio` must be between 0 and 1, or None never to stop, got {brief(stop_ratio)}.")
    if not isinstance(fisher, str) or fisher not in FISHERS:
        raise ValueError(f"`fisher` must be one of {', '.join(FISHERS)}, got {brief(fisher)}.")
    if window is not None and not (is_int(window) and window >= 1):
        raise ValueError(f"`window` must be a whole number of rows, or None for the whole pool, got {brief(window)}.")
