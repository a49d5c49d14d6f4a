"""What every selector does with the matrices that it is handed."""

from collections.abc import Callable
from typing import Any

import pytest
import samples
import torch
from datasets import Dataset
from torch import Tensor

import hf_gip
from hf_gip import Selection, gip, gip_dual, gtp, less, rds, spice
from hf_gip.core import explain, metrics, queries
from hf_gip.core.baselines import k_center, nearest_rows
from hf_gip.core.gip import gip_reference
from hf_gip.core.matrix import InMemoryMatrix, unit_rows
from hf_gip.core.nnls import nnls
from hf_gip.core.sketch import sketch
from hf_gip.plots import plot_map

SELECTORS: dict[str, Callable[[Tensor, Tensor], Selection | Tensor]] = {
    "gip": lambda X, Q: gip(X, Q, 4),
    "gip, information": lambda X, Q: gip(X, Q, 4, objective="information"),
    "gip, the pool itself": lambda X, Q: gip(X, None, 4, precision=X[:, 0].abs()),
    "gip, matching": lambda X, Q: gip(X, Q, 4, pursuit="matching"),
    "gip, matching in the dual": lambda X, Q: gip_dual(X, X[:, :2].abs(), 4, pursuit="matching"),
    "gip, rows elsewhere": lambda X, Q: gip(InMemoryMatrix(X), Q, 4, objective="information"),
    "gip, prefilter": lambda X, Q: gip(X, Q, 4, prefilter=8),
    "gip_dual": lambda X, Q: gip_dual(X, X[:, :2].abs(), 4),
    "spice": lambda X, Q: spice(X, 4),
    "spice, windows": lambda X, Q: spice(X, 4, window=5),
    "gtp": lambda X, Q: gtp(X, Q, 4),
    "gtp, rows elsewhere": lambda X, Q: gtp([InMemoryMatrix(X)], [Q], 9),
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


CHOSEN = gip(samples.rows(20, 6), samples.queries(3, 6), 4)
MATCHED = gip(samples.rows(20, 6), None, 4, pursuit="matching")
TRUSTING = gip(samples.rows(20, 6), None, 4, precision=samples.rows(20, 6)[:, 0].abs())
WEIGHTED = gtp(samples.rows(20, 6), samples.queries(3, 6), 4)
FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "gip_reference": lambda X, Q: gip_reference(X, Q, 3, sigma2=0.1, tau2=0.2),
    "explain": lambda X, Q: explain.explain(CHOSEN, 3, X, Q),
    "explain, precision": lambda X, Q: explain.explain(TRUSTING, 3, X, precision=X[:, 0].abs()),
    "explain, matching": lambda X, Q: explain.explain(MATCHED, 3, X),
    "summarize_picks": lambda X, Q: explain.summarize_picks(TRUSTING, X, Q, precision=X[:, 0].abs()),
    "explain_spice_candidate": lambda X, Q: explain.explain_spice_candidate(
        3, X[3], [1, 2], X[1:3], {"alpha": 1.0, "fisher": "full"}
    ),
    "explain_gtp": lambda X, Q: explain.explain_gtp(WEIGHTED, 3, X[3], X[WEIGHTED.indices], Q),
    "nearest_rows": lambda X, Q: nearest_rows(X, 3),
    "captured_share": lambda X, Q: metrics.captured_share(X, Q, CHOSEN.indices, 0.1),
    "vendi": lambda X, Q: metrics.vendi(X),
    "coverage": lambda X, Q: metrics.coverage(X, X[:3]),
    "find_copies": lambda X, Q: metrics.find_copies(X, Q, 0.1),
    "curvature": lambda X, Q: metrics.curvature(X, 0.1),
    "set_quality": lambda X, Q: metrics.set_quality(X[:4], 0.1).conflict,
    "precision_from_scores": lambda X, Q: queries.precision_from_scores(X),
    "whiten": lambda X, Q: queries.whiten(Q),
    "gram_sqrt": lambda X, Q: queries.gram_sqrt(X),
    "blend_target_and_pool": lambda X, Q: queries.blend_target_and_pool(Q, X, 0.5),
    "append_category_dims": lambda X, Q: queries.append_category_dims(
        InMemoryMatrix(X), Q, [torch.arange(20) % 3], [3], [1.0], energy=1.0
    ),
    "nnls": lambda X, Q: nnls(X @ X.T, X @ Q[0]),
    "sketch": lambda X, Q: sketch(X, 3),
    "unit_rows": lambda X, Q: unit_rows(X),
    "plot_map": lambda X, Q: plot_map(X, CHOSEN, Q).get_axes()[0].get_xlim(),
}


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a result, wherever in it they are."""
    if isinstance(value, Tensor):
        return [value]
    values = vars(value).values() if hasattr(value, "__dict__") else value
    values = [getattr(value, name) for name in value.__slots__] if hasattr(value, "__slots__") else values
    return [tensor for each in values for tensor in tensors_in(each)] if isinstance(values, list | tuple) else []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_of_matrices_keeps_a_graph(name: str) -> None:
    X, Q = samples.rows(20, 6), samples.queries(3, 6)
    expected = FUNCTIONS[name](X, Q)
    value = FUNCTIONS[name](X.clone().requires_grad_(), Q.clone().requires_grad_())
    assert not any(tensor.requires_grad for tensor in tensors_in(value))
    if tensors_in(expected):
        for one, other in zip(tensors_in(value), tensors_in(expected), strict=True):
            assert torch.equal(one, other)
    else:
        assert value == expected


class Recording:
    """An encoder whose vectors record gradients."""

    def encode(self, sentences: list[str], /) -> Tensor:
        """The lengths of words."""
        return torch.tensor([[len(word) + 1.0 for word in text.split()] for text in sentences], requires_grad=True)


def test_the_doors_take_vectors_that_record_gradients() -> None:
    rows = Dataset.from_dict({"text": [f"{'a' * (i % 7)}b row {i * i % 11}" for i in range(20)], "good": [*range(20)]})
    X, Q = samples.rows(20, 6), samples.queries(3, 6)
    calls: list[Callable[[Tensor, Tensor], Any]] = [
        lambda X, Q: hf_gip.gip_select(rows, 4, features=X, target=Q, exclude=Q, exclude_threshold=0.99),
        lambda X, Q: hf_gip.gip_select(rows, 4, features=X, scores=["good"], pursuit="matching"),
        lambda X, Q: hf_gip.gip_select(rows, 4, encoder=Recording(), encoder_id="words"),
    ]
    for call in calls:
        selection = call(X.clone().requires_grad_(), Q.clone().requires_grad_()).selection
        assert not selection.gains.requires_grad
        assert selection.indices.equal(call(X, Q).selection.indices)
    compared = [
        str(hf_gip.compare({"a": [1, 2, 3]}, rows, features=one, target=other, seeds=2))
        for one, other in ((X, Q), (X.clone().requires_grad_(), Q.clone().requires_grad_()))
    ]
    assert compared[0] == compared[1]
