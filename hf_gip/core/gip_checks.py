"""Checks of the options of `gip`."""

from jaxtyping import Float
from torch import Tensor

from hf_gip.core.checks import check_amount, shown
from hf_gip.core.limits import Limits


def check_names(objective: str, pursuit: str, noise: float, precision: Float[Tensor, " n"] | None) -> None:
    """Raise unless the options exist and go together.

    Raises:
        ValueError: If not; the message says which.
    """
    if not isinstance(objective, str) or objective not in ("projection", "information"):
        raise ValueError(f'`objective` must be "projection" or "information", got {shown(objective)}.')
    if not isinstance(pursuit, str) or pursuit not in ("orthogonal", "matching"):
        raise ValueError(f'`pursuit` must be "orthogonal" or "matching", got {shown(pursuit)}.')
    check_amount("noise", noise)
    if objective == "information" and noise == 0:
        raise ValueError("`noise` must be above 0 for the information, which is infinite without noise, got 0.")
    if pursuit == "matching" and (objective == "information" or precision is not None):
        raise ValueError(
            '`pursuit="matching"` must go with the projection and without `precision`, got '
            f"objective={objective!r}, precision {'given' if precision is not None else 'not given'}: "
            'use `pursuit="orthogonal"`.'
        )


def check_precision(precision: Float[Tensor, " n"], n: int) -> None:
    """Raise unless there is a weight for every row, and one of them above 0.

    Raises:
        TypeError: If `precision` is no tensor.
        ValueError: If a weight is wrong, or there are not `n`.
    """
    if not isinstance(precision, Tensor):
        raise TypeError(f"`precision` must be a tensor with one weight per row, got {shown(precision)}.")
    if precision.shape != (n,):
        raise ValueError(f"`precision` must hold one weight per row ({n}), got shape {tuple(precision.shape)}.")
    if not bool((precision.isfinite() & (precision >= 0)).all() and (precision > 0).any()):
        raise ValueError("`precision` must be finite, at least 0 and not all 0: rescale the weights to (0, 1].")


def check_prefilter(prefilter: object, k: int, n: int) -> None:
    """Raise unless so many candidates are among `n` rows and can give `k`.

    Raises:
        ValueError: If not.
    """
    if isinstance(prefilter, bool) or not isinstance(prefilter, int) or not k <= prefilter <= n:
        raise ValueError(
            f"`prefilter` must lie between `k` ({k}) and the number of rows ({n}), got {shown(prefilter)}."
        )


def check_limits(limits: Limits, n: int, k: int, noise: float, plain: bool) -> None:
    """Raise unless the limits can be met by `k` of `n` rows and go with the other options.

    Raises:
        TypeError: If they are none.
        ValueError: If not; the message says which and by how much.
    """
    if not isinstance(limits, Limits):
        raise TypeError(f"`limits` must be `hf_gip.core.limits.Limits` or None, got {shown(limits)}.")
    if not plain or noise == 0:
        raise ValueError(
            "`limits` needs the orthogonal pursuit, `noise` above 0 and no `prefilter`, which could leave out what a "
            "quota asks for: leave one of them out."
        )
    limits.check(n, k)
