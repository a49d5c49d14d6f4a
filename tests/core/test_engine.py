"""The block engine against the plain one-pick loops, on hundreds of problems."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import plain_loops
import pytest
import samples
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_gip import gip
from hf_gip.core.engine import linalg
from hf_gip.core.engine.greedy import GreedyResult, greedy
from hf_gip.core.engine.state import InformationState, ProjectionState
from hf_gip.core.matrix import InMemoryMatrix
from hf_gip.features.matrix_files import npy_rows

KINDS = ["projection", "information"]


def problem(
    n: int, d: int, r: int, seed: int, dtype: torch.dtype, *, copies: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    X = samples.rows(n, d, seed=seed, duplicates=copies, zeros=n // 20)
    X /= X.square().sum(1).mean().sqrt()
    scale = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    return X.to(dtype), scale.to(dtype), samples.queries(r, d, seed=seed + 1).T.contiguous()


def whitened(Q: Tensor) -> Tensor:
    return torch.linalg.qr(Q)[0] * 0.9


def run_engine(
    kind: str, X: Tensor, scale: Tensor, Q: Tensor, k: int, ridge: float, block: int, chunk_rows: int
) -> GreedyResult:
    rows = InMemoryMatrix(X)
    if kind == "projection":
        return greedy(rows, ProjectionState(rows, scale, Q, k, ridge), k, block=block, chunk_rows=chunk_rows)
    return greedy(rows, InformationState(rows, scale, whitened(Q), k, ridge), k, block=block, chunk_rows=chunk_rows)


def run_reference(kind: str, X: Tensor, scale: Tensor, Q: Tensor, k: int, ridge: float) -> GreedyResult:
    if kind == "projection":
        return plain_loops.greedy_projection(X, scale, Q, k, ridge)
    return plain_loops.greedy_information(X, scale, whitened(Q), k, ridge)


def assert_same_picks(result: GreedyResult, expected: GreedyResult, tolerance: float) -> None:
    """Equal picks up to where the gains vanish beside the first; there rounding decides."""
    assert len(result.indices) == len(expected.indices)
    assert len(set(result.indices.tolist())) == len(result.indices)
    clear = int((expected.gains > tolerance * expected.gains[0]).sum())
    differ = (result.indices != expected.indices).nonzero()
    if len(differ) and int(differ[0]) < clear:  # a tie broken by the last bit: what is reached must be the same
        assert float(result.gains.sum()) == pytest.approx(float(expected.gains.sum()), rel=2e-3)
    else:
        assert float(result.gains.sum()) == pytest.approx(float(expected.gains.sum()), rel=1e-3)


class DeviceSyncs(TorchDispatchMode):
    """Names of the operations for whose result a GPU would have to be waited for."""

    WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        masks = name.startswith("index") and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in flat(args))
        if name in self.WAITING or masks:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def flat(args: Any) -> Iterator[Any]:
    for value in args:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield value


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("greedy", "linalg", "shortlist", "verify"):
        monkeypatch.setattr(f"hf_gip.core.engine.{name}.on_cpu", lambda tensor: False)


@pytest.mark.parametrize(("kind", "ridge"), [("projection", 0.0), ("projection", 0.1), ("information", 0.1)])
def test_the_code_path_of_a_gpu_picks_the_same_rows(kind: str, ridge: float, request: pytest.FixtureRequest) -> None:
    problems = []
    for seed in range(20):
        n, d, r = 30 + 7 * seed, 3 + seed, 1 + seed // 2
        X, scale, Q = problem(n, d, r, seed, torch.float64, copies=seed)
        problems.append((X, scale, Q, run_engine(kind, X, scale, Q, n // 2, ridge, 8, 16)))
    request.getfixturevalue("as_on_a_gpu")
    for X, scale, Q, expected in problems:
        assert_same_picks(run_engine(kind, X, scale, Q, len(X) // 2, ridge, 8, 16), expected, 1e-6)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(("kind", "ridge"), [("projection", 0.0), ("projection", 0.1), ("information", 0.1)])
def test_a_block_waits_for_a_gpu_once(kind: str, ridge: float) -> None:
    """The one wait, for the block's count, comes as a list and is not among the operations counted."""
    X, scale, Q = problem(300, 40, 5, 1, torch.float32)
    rows = InMemoryMatrix(X)
    state = ProjectionState(rows, scale, Q, 30, ridge)
    if kind == "information":
        state = InformationState(rows, scale, whitened(Q), 30, ridge)
    with DeviceSyncs() as syncs:
        result = greedy(rows, state, 30, block=8)
    assert (result.passes > 3, syncs.names) == (True, [])
    with syncs:
        assert int(scale.argmax()) >= 0
    assert syncs.names == ["_local_scalar_dense"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_multiplied_as_exactly_as_in_float32(
    dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    X, scale, Q = problem(400, 48, 6, 2, torch.float32)
    X = X.to(dtype)
    expected = run_engine("projection", X, scale, Q, 60, 0.1, 16, 64)
    request.getfixturevalue("as_on_a_gpu")
    columns = torch.randn(20, 48, dtype=torch.float64) * torch.logspace(-6, 0, 20, dtype=torch.float64)[:, None]
    result = linalg.matmul_split(X, linalg.split_half(columns, dtype), torch.empty(400, 20))
    true = X.double() @ columns.T
    size = X.double().norm(dim=1)[:, None] * columns.norm(dim=1)
    assert float(((result - true).abs() / size.clamp(min=1e-12)).max()) < 1e-6
    assert run_engine("projection", X, scale, Q, 60, 0.1, 16, 64).indices.tolist() == expected.indices.tolist()


@settings(max_examples=200, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from(KINDS),
    st.integers(2, 120),
    st.integers(1, 24),
    st.sampled_from([1e-3, 0.1, 3.0]),
    st.integers(1, 40),
    st.integers(1, 300),
    st.integers(0, 10_000),
    st.data(),
)
def test_the_engine_picks_as_the_plain_loop(
    kind: str, n: int, d: int, ridge: float, block: int, chunk_rows: int, seed: int, data: st.DataObject
) -> None:
    k, r = data.draw(st.integers(1, n)), data.draw(st.integers(1, d))
    for dtype in (torch.float64, torch.float32):
        X, scale, Q = problem(n, d, r, seed, dtype, copies=data.draw(st.integers(0, n // 3)))
        expected = run_reference(kind, X, scale, Q, k, ridge)
        assert_same_picks(
            run_engine(kind, X, scale, Q, k, ridge, block, chunk_rows),
            expected,
            1e-9 if dtype == torch.float64 else 1e-2,
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n", "d", "r", "k"), [(400, 64, 4, 30), (400, 64, 60, 64), (600, 20, 3, 150), (60, 8, 8, 60)]
)
def test_in_float64_the_picks_are_the_very_same(kind: str, n: int, d: int, r: int, k: int) -> None:
    for seed in range(4):
        X, scale, Q = problem(n, d, r, seed, torch.float64, copies=n // 5)
        expected = run_reference(kind, X, scale, Q, k, 0.1)
        for block, chunk_rows in ((1, 1000), (7, 50), (64, 4096)):
            result = run_engine(kind, X, scale, Q, k, 0.1, block, chunk_rows)
            assert result.indices.tolist() == expected.indices.tolist()
            assert result.gains.tolist() == pytest.approx(expected.gains.tolist(), rel=1e-6, abs=1e-12)


def test_without_a_ridge_it_ends_with_the_rank_as_the_plain_loop() -> None:
    for seed in range(30):
        dtype = (torch.float64, torch.float32)[seed % 2]
        X, scale, Q = problem(80, 12, 1 + seed % 12, seed, dtype, copies=20)
        X[:, 8:] = 0
        expected = run_reference("projection", X, scale, Q, 20, 0.0)
        result = run_engine("projection", X, scale, Q, 20, 0.0, 1 + seed, 30)
        assert len(result.indices) == len(expected.indices) == 8
        assert X[result.indices[:-1]].equal(
            X[expected.indices[:-1]]
        )  # rows that differ by a scale tie; all do at the end
        assert float(result.gains.sum()) == pytest.approx(float(expected.gains.sum()), rel=1e-5)


def test_a_correlation_may_be_given_in_place_of_queries() -> None:
    X, scale, Q = problem(200, 16, 3, 5, torch.float64)
    rows = InMemoryMatrix(X)
    C = (X @ Q) * scale[:, None]
    result = greedy(rows, ProjectionState(rows, scale, None, 40, 0.1, correlation=C), 40)
    assert result.indices.equal(run_reference("projection", X, scale, Q, 40, 0.1).indices)


def test_the_rows_are_read_once_for_many_picks() -> None:
    X, scale, Q = problem(3000, 48, 6, 1, torch.float32)
    for kind in KINDS:
        result = run_engine(kind, X, scale, Q, 300, 0.1, 64, 4096)
        assert result.passes < 300 / 8


def test_rows_on_disk_give_the_picks_of_rows_in_memory(tmp_path: Path) -> None:
    X = samples.rows(3000, 24, duplicates=100).to(torch.float16)
    np.save(tmp_path / "rows.npy", X.numpy())
    source = npy_rows(tmp_path / "rows.npy")
    for objective in KINDS:
        for queries in (samples.queries(4, 24), None):
            in_memory, on_disk = (gip(rows, queries, 200, objective=objective) for rows in (X, source))
            assert on_disk.indices.equal(in_memory.indices)
            assert on_disk.total == in_memory.total
    reports: list[tuple[int, int]] = []
    gip(source, None, 200, progress=lambda picks, passes: reports.append((picks, passes)))
    assert reports[-1][0] == 200
    assert [passes for _, passes in reports] == list(range(1, len(reports) + 1))


def test_a_prefilter_of_all_rows_changes_nothing_and_a_cut_is_recorded() -> None:
    X, Q = samples.rows(300, 12), samples.queries(3, 12)
    for objective in KINDS:
        plain = gip(X, Q, 20, objective=objective)
        assert gip(X, Q, 20, objective=objective, prefilter=300).indices.equal(plain.indices)
        result = gip(X, Q, 20, objective=objective, prefilter=100)
        cut = result.record["prefilter"]
        assert cut["kept"] == 100
        assert cut["last_kept"] >= cut["first_cut"]
        assert result.objective <= plain.objective * 1.05
    with pytest.raises(
        ValueError, match=r"^`prefilter` must lie between `k` \(20\) and the number of rows \(300\), got 7\.$"
    ):
        gip(X, Q, 20, prefilter=7)


@dataclass(frozen=True)
class Short(InMemoryMatrix):
    """Rows on a device that has too little memory once."""

    failures: list[int]

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        if self.failures and self.failures.pop():
            raise torch.OutOfMemoryError("out of memory")
        yield from super().chunks()


def test_a_device_short_of_memory_goes_on_in_smaller_pieces() -> None:
    X, scale, Q = problem(400, 12, 3, 2, torch.float64)
    rows = Short(X, [])
    state = ProjectionState(rows, scale, Q, 20, 0.1)
    rows.failures.append(1)
    with pytest.warns(UserWarning, match="short of memory: going on with 2,048 rows at a time"):
        result = greedy(rows, state, 20, chunk_rows=4096)
    assert result.indices.equal(run_reference("projection", X, scale, Q, 20, 0.1).indices)
