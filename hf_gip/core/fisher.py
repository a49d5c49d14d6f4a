"""Information a row still has to give, v = gᵀ(I + αF_S)⁻¹g, kept while S grows. It never rises, whatever joins S."""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Fisher = Literal["full", "diagonal", "diagonal_g4"]
FISHERS: tuple[Fisher, ...] = get_args(Fisher)


class FullInformation:
    """F_S = Σ g gᵀ. Holds (I + αF_S)⁻¹ = I − BᵀB as the rows of B, one more with each choice: O(k d) memory."""

    def __init__(self, k: int, like: Float[Tensor, "m d"], alpha: float) -> None:
        self.basis = like.new_zeros(k, like.shape[1])
        self.chosen = 0
        self.ridge = 1 / alpha

    def current(
        self, rows: Float[Tensor, "m d"], energy: Float[Tensor, " m"], age: Int64[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Subtract what the choices since `age` explain: one matrix product, O(m d (chosen − min age))."""
        first = int(age.min())
        if first == self.chosen:
            return energy
        shadow = rows @ self.basis[first : self.chosen].T
        unseen = torch.arange(first, self.chosen, device=age.device) >= age[:, None]
        explained = shadow.square_().mul_(unseen).sum(dim=1, dtype=torch.float64)
        return (energy - explained).clamp_min_(0)

    def choose(self, gradient: Float[Tensor, " d"], energy: Tensor) -> None:
        """Append b = (I + αF_S)⁻¹g / √(v + 1/α) (Sherman–Morrison), O(k d)."""
        known = self.basis[: self.chosen]
        fresh = gradient - (known @ gradient) @ known
        self.basis[self.chosen] = fresh / torch.sqrt(energy + self.ridge)
        self.chosen += 1

    def after_choice(self, rows: Float[Tensor, "m d"], energy: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Subtract (g·b)², O(m d)."""
        shadow = (rows @ self.basis[self.chosen - 1]).double()
        return (energy - shadow.square()).clamp_min_(0)


class DiagonalInformation:
    """F_S cut down to its diagonal, as SPICE does at scale: v = Σⱼ gⱼ²/denⱼ with den = 1 + α Σ_S gⱼ^power.

    `power` 2 is the diagonal of F_S. The authors' released code squares g∘|g| instead, which makes it 4.
    """

    def __init__(self, like: Float[Tensor, "m d"], alpha: float, power: int) -> None:
        self.denominator = like.new_ones(like.shape[1], dtype=torch.float64)
        self.inverse = like.new_ones(like.shape[1])
        self.alpha = alpha
        self.power = power

    def current(
        self, rows: Float[Tensor, "m d"], energy: Float[Tensor, " m"], age: Int64[Tensor, " m"]
    ) -> Float[Tensor, " m"]:
        """Σⱼ gⱼ²/denⱼ afresh, O(m d); `energy` and `age` are not needed."""
        return (rows.square() @ self.inverse).double()

    def choose(self, gradient: Float[Tensor, " d"], energy: Tensor) -> None:
        """Add α g^power to the denominators, O(d)."""
        self.denominator += self.alpha * gradient.double() ** self.power
        self.inverse = self.denominator.reciprocal().to(gradient.dtype)

    def after_choice(self, rows: Float[Tensor, "m d"], energy: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Σⱼ gⱼ²/denⱼ afresh, O(m d)."""
        return (rows.square() @ self.inverse).double()


Information = FullInformation | DiagonalInformation


def information(fisher: Fisher, k: int, like: Float[Tensor, "m d"], alpha: float) -> Information:
    """An empty state for choosing up to `k` rows of the width, dtype and device of `like`."""
    if fisher == "full":
        return FullInformation(k, like, alpha)
    return DiagonalInformation(like, alpha, power=4 if fisher == "diagonal_g4" else 2)
