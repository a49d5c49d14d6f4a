"""Non-negative least squares on a Gram matrix, by active sets that take and drop many rows at a time."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

DEPENDENT = 1e-12  # a row counts as a combination of earlier ones where this share of its energy or less is its own
SLACK = 1e-12  # a correlation counts as positive from this share of the largest on
ROUNDING = 1e-13
PANEL = 64


@torch.no_grad()
def nnls(
    gram: Float[Tensor, "t t"],
    target: Float[Tensor, " t"],
    start: Int64[Tensor, " s"] | None = None,
    *,
    dependent: float = DEPENDENT,
) -> Float[Tensor, " t"]:
    """The w ≥ 0 that minimizes ½ wᵀGw − cᵀw, for G = AᵀA and c = Aᵀb the non-negative least squares of b on A.

    Active sets after Lawson and Hanson, but many rows enter at once: all rows with a positive gradient c − Gw, best
    correlated first; then every row with a negative weight leaves until none is left. Where such a step does not
    lower the objective fewer rows enter, in the end one, with Lawson and Hanson's own step, which always does; so it
    ends at the optimum. A row that is a combination of rows already in does not enter: of several copies exactly the
    first one in order of correlation (of equals the lowest index) is given weight, the others none. Rows within
    1e-6 rad of each other count as copies: an inner product in float64 tells no finer difference, and ‖b − Aᵀw‖ may
    exceed the least possible by about 1e-6 ‖b‖.

    Args:
        gram: G, positive semi-definite, float64, (t, t).
        target: c, float64, (t,).
        start: Rows to enter first, e.g. those with weight in a nearby problem, *optional*, defaults to none.
        dependent: A row counts as a combination of earlier ones where this share of its energy or less is its own,
            *optional*, defaults to `1e-12`: 1e-6 rad.

    Returns:
        The weights, (t,). Some ten Cholesky factorizations of the rows in, O(p³) each.
    """
    solver = ActiveSet(gram, target, dependent)
    if start is not None and len(start):
        solver.enter(start)
    width = len(target)
    while True:
        fresh = solver.candidates()
        if not len(fresh):
            return solver.weights
        width = min(width, len(fresh))
        if solver.enter(fresh[:width]):
            width *= 2
        elif width > 1:
            width = max(1, width // 4)
        elif not any(solver.enter_one(row) for row in fresh.tolist()):
            return solver.weights


class ActiveSet:
    """The rows with weight, in the order in which they entered, and the least squares on them."""

    def __init__(self, gram: Float[Tensor, "t t"], target: Float[Tensor, " t"], dependent: float) -> None:
        self.gram, self.target, self.dependent = gram, target, dependent
        self.norms = gram.diagonal().clamp(min=0).sqrt()
        self.slack = SLACK * float((target.abs() / self.norms.clamp(min=1e-300)).max())
        self.rows = torch.empty(0, dtype=torch.int64, device=gram.device)
        self.factor = gram.new_zeros(0, 0)
        self.weights = torch.zeros_like(target)
        self.value = 0.0  # cᵀw − ½ wᵀGw, which rises

    def candidates(self) -> Int64[Tensor, " f"]:
        """Rows outside that would lower the objective, the best correlated first."""
        gradient = self.target - self.gram[:, self.rows] @ self.weights[self.rows]
        gradient[self.rows] = 0.0
        rising = gradient > self.slack * self.norms
        order = torch.sort(gradient, descending=True, stable=True).indices
        return order[rising[order]]

    def enter(self, fresh: Int64[Tensor, " f"]) -> bool:
        """Let rows in and drop negative weights until none is left; accept the result if it is better."""
        rows, factor = self._extended(fresh)
        while len(rows):
            weights = torch.cholesky_solve(self.target[rows, None], factor)[:, 0]
            positive = self._is_positive(rows, weights)
            if bool(positive.all()):
                return self._accept(rows, factor, weights)
            rows, factor = self._factored(rows[positive])
        return False

    def enter_one(self, row: int) -> bool:
        """Lawson and Hanson's step: let one row in, and move no further than the first weight that reaches zero."""
        rows, factor = self._extended(self.rows.new_tensor([row]))
        if len(rows) == len(self.rows):
            return False
        old = self.weights[rows]
        weights = torch.cholesky_solve(self.target[rows, None], factor)[:, 0]
        if not bool(self._is_positive(rows, weights)[-1]):
            return False
        while not bool((positive := self._is_positive(rows, weights)).all()):
            steps = torch.where(~positive, old / (old - weights).clamp(min=1e-300), torch.inf)
            step = float(steps.min())
            old = (old + step * (weights - old)).clamp(min=0)
            rows, old = rows[steps > step], old[steps > step]
            rows, factor = self._factored(rows)
            weights = torch.cholesky_solve(self.target[rows, None], factor)[:, 0]
        return self._accept(rows, factor, weights)

    def _is_positive(self, rows: Int64[Tensor, " p"], weights: Float[Tensor, " p"]) -> Bool[Tensor, " p"]:
        """Which weights are above zero by more than rounding."""
        shares = weights * self.norms[rows]
        return shares > ROUNDING * shares.abs().max()

    def _accept(self, rows: Int64[Tensor, " p"], factor: Float[Tensor, "p p"], weights: Float[Tensor, " p"]) -> bool:
        value = 0.5 * float(self.target[rows] @ weights)
        if value <= self.value * (1 + ROUNDING):
            return False
        self.rows, self.factor, self.value = rows, factor, value
        self.weights = torch.zeros_like(self.target)
        self.weights[rows] = weights
        return True

    def _extended(self, fresh: Int64[Tensor, " f"]) -> tuple[Int64[Tensor, " p"], Float[Tensor, "p p"]]:
        """The rows in and those of `fresh` that are no combination of earlier ones, with their Cholesky factor."""
        across = self.gram[self.rows][:, fresh]
        lower = torch.linalg.solve_triangular(self.factor, across, upper=False).T
        corner = self.gram[fresh][:, fresh]
        independent, corner = independent_rows(corner - lower @ lower.T, corner.diagonal(), self.dependent)
        top = torch.cat([self.factor, across.new_zeros(len(self.rows), len(corner))], dim=1)
        factor = torch.cat([top, torch.cat([lower[independent], corner], dim=1)])
        return torch.cat([self.rows, fresh[independent]]), factor

    def _factored(self, rows: Int64[Tensor, " r"]) -> tuple[Int64[Tensor, " p"], Float[Tensor, "p p"]]:
        """The same for rows of which none is in."""
        block = self.gram[rows][:, rows]
        independent, factor = independent_rows(block, block.diagonal(), self.dependent)
        return rows[independent], factor


def independent_rows(
    gram: Float[Tensor, "r r"], energies: Float[Tensor, " r"], dependent: float
) -> tuple[Bool[Tensor, " r"], Float[Tensor, "p p"]]:
    """Which rows are no combination of earlier independent ones, and the Cholesky factor of these.

    Where a plain factorization shows a row with at most the share `dependent` of `energies` to itself, the rows are
    taken one after another, a panel at a time, and such rows left out.
    """
    factor, info = torch.linalg.cholesky_ex(gram)
    if not int(info) and bool((factor.diagonal().square() > dependent * energies).all()):
        return torch.ones_like(energies, dtype=torch.bool), factor
    size = len(gram)
    independent = torch.zeros(size, dtype=torch.bool, device=gram.device)
    limits = (dependent * energies).tolist()
    basis = gram.new_zeros(0, size)  # rows of Lᵀ over all columns
    for first in range(0, size, PANEL):
        panel = slice(first, min(first + PANEL, size))
        rest = gram[panel] - basis[:, panel].T @ basis
        done = rest.new_empty(len(rest), size)
        count = 0
        for row, limit in enumerate(limits[panel], start=0):
            fresh = rest[row] - done[:count, first + row] @ done[:count]
            remainder = float(fresh[first + row])
            if remainder > max(limit, 0.0):
                independent[first + row] = True
                done[count] = fresh / remainder**0.5
                count += 1
        basis = torch.cat([basis, done[:count]])
    return independent, basis[:, independent].T.tril()
