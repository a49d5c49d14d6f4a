"""Checks of the options of `gip`."""

import math

from jaxtyping import Float
from torch import Tensor

from hf_gip.core.limits import Limits


def check_names(objective: str, pursuit: str, noise: float, precision: Float[Tensor, " n"] | None) -> None:
    """Raise unless the options exist and go together.

    Raises:
        TypeError: If `precision` is no tensor.
        ValueError: If not; the message says which.
    """
    if objective not in ("projection", "information"):
        raise ValueError(f'`objective` must be "projection" or "information", got {objective!r}.')
    if pursuit not in ("orthogonal", "matching"):
        raise ValueError(f'`pursuit` must be "orthogonal" or "matching", got {pursuit!r}.')
    if not (isinstance(noise, int | float) and math.isfinite(noise) and noise >= 0):
        raise ValueError(f"`noise` must be a finite number of at least 0, got {noise!r}.")
    if objective == "information" and noise == 0:
        raise ValueError("`noise` must be above 0 for the information, which is infinite without noise, got 0.")
    if pursuit == "matching" and (objective == "information" or precision is not None):
        raise ValueError(
            '`pursuit="matching"` must go with the projection and without `precision`, got '
            f"objective={objective!r}, precision {'given' if precision is not None else 'not given'}: "
            'use `pursuit="orthogonal"`.'
        )
    if precision is not None and not isinstance(precision, Tensor):
        raise TypeError(f"`precision` must be a tensor with one weight per row, got {type(precision).__name__}.")
    if precision is not None and not bool((precision.isfinite() & (precision >= 0)).all() and (precision > 0).any()):
        raise ValueError("`precision` must be finite, at least 0 and not all 0: rescale the weights to (0, 1].")


def check_limits(limits: Limits, n: int, k: int, noise: float, plain: bool) -> None:
    """Raise unless the limits can be met by `k` of `n` rows and go with the other options.

    Raises:
        ValueError: If not; the message says which and by how much.
    """
    if not plain or noise == 0:
        raise ValueError(
            "`limits` needs the orthogonal pursuit, noise above 0 and no `prefilter`, which could leave out what a "
            "quota asks for: leave one of them out."
        )
    limits.check(n, k)
