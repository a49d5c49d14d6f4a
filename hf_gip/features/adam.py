"""The step Adam would take for one example: its gradient seen through the optimizer's state."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hf_gip.hashing import hash_json, hash_tensors


@dataclass(frozen=True, slots=True)
class AdamMoments:
    """Adam's running moments by parameter name, for Adam-aware gradients ([LESS](https://huggingface.co/papers/2402.04333)).

    Attributes:
        first: m, the running mean of gradients.
        second: v, the running mean of their squares.
        betas: How slowly m and v follow, β₁ and β₂.
        eps: Added to v before the root is taken, as LESS does (Adam itself adds it after).
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def scaled(self, name: str, gradients: Tensor, start: int) -> Tensor:
        """Γ = (β₁m + (1−β₁)g) / √(β₂v + (1−β₂)g² + ε), for part of a parameter's gradients from `start` on, (b, p).

        Raises:
            ValueError: If the state knows nothing of the parameter.
        """
        if name not in self.first:
            raise ValueError(
                f"`scaling` must hold the moments of every parameter used, got none for {name}: "
                "take the state of an optimizer that has trained this model."
            )
        stop = start + gradients.shape[1]
        first = self.first[name].flatten()[start:stop].to(gradients)
        second = self.second[name].flatten()[start:stop].to(gradients)
        slow, slower = self.betas
        mean = slow * first + (1 - slow) * gradients
        square = slower * second + (1 - slower) * gradients.square()
        return mean / torch.sqrt(square + self.eps)

    def fingerprint(self) -> str:
        """16 hex digits that depend on the optimizer state and how it is used."""
        first = {f"first.{name}": tensor for name, tensor in self.first.items()}
        second = {f"second.{name}": tensor for name, tensor in self.second.items()}
        return hash_json({"moments": hash_tensors(first | second), "betas": list(self.betas), "eps": self.eps})


def adam_moments(optimizer: Optimizer, model: nn.Module) -> AdamMoments:
    """Copy the moments out of an Adam or AdamW that has taken a step on `model`.

    Args:
        optimizer: The optimizer; its `betas` come along.
        model: The model it trains, for the parameters' names.

    Returns:
        The moments of every parameter that has them.

    Raises:
        ValueError: If no parameter has moments.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    first, second = {}, {}
    for parameter, state in optimizer.state.items():
        if id(parameter) in names and "exp_avg" in state:
            first[names[id(parameter)]] = state["exp_avg"].detach().clone()
            second[names[id(parameter)]] = state["exp_avg_sq"].detach().clone()
    if not first:
        raise ValueError(
            "`optimizer` must be an Adam that has taken a step on `model`, got no moments of its parameters: "
            "train a few steps first."
        )
    return AdamMoments(first, second, tuple(optimizer.param_groups[0]["betas"]))
