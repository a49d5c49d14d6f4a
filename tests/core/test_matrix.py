"""What every selector does with the matrices that it is handed."""

from collections.abc import Callable

import pytest
import samples
import torch
from torch import Tensor

from hf_gip import Selection, gip, gip_dual, gtp, less, rds, spice
from hf_gip.core.baselines import k_center

SELECTORS: dict[str, Callable[[Tensor, Tensor], Selection | Tensor]] = {
    "gip": lambda X, Q: gip(X, Q, 4),
    "gip, information": lambda X, Q: gip(X, Q, 4, objective="information"),
    "gip, the pool itself": lambda X, Q: gip(X, None, 4, precision=X[:, 0].abs()),
    "gip, matching": lambda X, Q: gip(X, Q, 4, pursuit="matching"),
    "gip, prefilter": lambda X, Q: gip(X, Q, 4, prefilter=8),
    "gip_dual": lambda X, Q: gip_dual(X, X[:, :2].abs(), 4),
    "spice": lambda X, Q: spice(X, 4),
    "spice, windows": lambda X, Q: spice(X, 4, window=5),
    "gtp": lambda X, Q: gtp(X, Q, 4),
    "gtp, the pool itself": lambda X, Q: gtp([X, X], None, 4),
    "less": lambda X, Q: less(X, Q, 4),
    "rds": lambda X, Q: rds(X, Q, 4),
    "k_center": lambda X, Q: k_center(X, 4),
}


@pytest.mark.parametrize("name", SELECTORS)
def test_inputs_that_record_gradients_select_as_plain_ones(name: str) -> None:
    X, Q = samples.rows(20, 6), samples.queries(3, 6)
    expected = SELECTORS[name](X, Q)
    selection = SELECTORS[name](X.clone().requires_grad_(), Q.clone().requires_grad_())
    if isinstance(expected, Tensor) or isinstance(selection, Tensor):
        assert torch.equal(selection, expected)
        return
    assert selection.indices.equal(expected.indices)
    for tensor in (
        selection.gains,
        *([] if selection.weights is None else [selection.weights]),
        *selection.curves.values(),
    ):
        assert not tensor.requires_grad
