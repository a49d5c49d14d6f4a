"""GTP with its rows shared over ranks: one process's answer, disagreement refused everywhere, a dead rank no hang."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import config
from ddp_gtp import choices, faults, problems, selected
from launched_ranks import launched

from hf_gip import gtp
from hf_gip.core.matrix import InMemoryMatrix, RowRange

pytestmark = pytest.mark.ddp
SCRIPT = Path(__file__).parents[1] / "ddp_gtp.py"


@pytest.fixture(scope="module", params=[1, 2, 3])
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all ranks saw: the same, weights and all."""
    count, folder = request.param, tmp_path_factory.mktemp("ranks")
    if count == 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=0, world_size=1)
        try:
            return {"ranks": 1, "picks": choices(0, 1), "faults": faults(0, 1)}
        finally:
            torch.distributed.destroy_process_group()
    ended, (first, *rest) = launched(folder, "dataset" if count == 2 else "rows", count, SCRIPT)
    assert ended == 0
    assert len(rest) == count - 1
    assert all(other == first for other in rest)
    return first | {"ranks": count}


def test_shared_rows_give_the_answer_of_one_process(ranks: dict[str, Any]) -> None:
    for (rows, target, k), (picks, weights, objective, residual) in zip(problems(), ranks["picks"], strict=True):
        half = rows.shape[1] // 2
        expected = gtp([rows[:, :half], rows[:, half:]], target, k)
        assert expected.weights is not None
        assert rows[picks].equal(rows[expected.indices])  # of two equal rows rounding may choose either
        assert weights == pytest.approx(expected.weights.tolist(), rel=1e-6, abs=1e-9)
        assert objective == pytest.approx(expected.objective, rel=1e-9, abs=1e-12)
        assert residual == pytest.approx(expected.record["residual"], rel=1e-6, abs=1e-9)


def test_an_error_on_one_rank_is_raised_on_every_rank(ranks: dict[str, Any]) -> None:
    last = ranks["ranks"] - 1
    if last == 0:
        assert sorted(ranks["faults"]) == ["nan", "ridge", "zeros"]
        return
    differs = "must be the same on every rank, got"
    begins = {
        "k": f"`k` {differs} 4 on rank 0 and 5 on rank {last}: start all ranks with the same arguments.",
        "target": f"`target` {differs} ",
        "learning_rates": f"`learning_rates` {differs} [1.0] on rank 0 and [2.0] on rank {last}: ",
        "ridge": f"rank {last}: `ridge` must be a number of at least 0, or None, got -1.0.",
        "nan": f"rank {last}: `trajectories` must be finite, got NaN or infinity in 1 row(s), first in row 3: ",
        "width": f"`widths` {differs} [9] on rank 0 and [8] on rank {last}: ",
        "zeros": "`trajectories` must hold at least one row that is not zero, got 91 zero row(s).",
    }
    assert list(ranks["faults"]) == list(begins)
    for name, message in begins.items():
        assert ranks["faults"][name].startswith(message)


def test_a_dataset_is_selected_by_all_ranks_together(
    ranks: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", config.HF_DATASETS_CACHE)
    assert ("selected" in ranks) == (ranks["ranks"] == 2)
    if "selected" not in ranks:
        return
    picks, weights, objective = selected(tmp_path)
    assert ranks["selected"][0] == picks
    assert ranks["selected"][1] == pytest.approx(weights, rel=1e-4)
    assert ranks["selected"][2] == pytest.approx(objective, rel=1e-6)


def test_a_rank_that_dies_ends_the_job(tmp_path: Path) -> None:
    ended, results = launched(tmp_path, "dies", 2, SCRIPT)
    assert ended != 0
    assert all("error" in result for result in results)  # nobody returns a selection


def test_a_row_range_holds_its_consecutive_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.core.matrix.BLOCK_BYTES", 7 * 4 * 8)
    rows = torch.arange(120.0, dtype=torch.float64).reshape(30, 4)
    for first in range(30):
        for n in range(1, 31 - first):
            mine = RowRange(InMemoryMatrix(rows), first, n)
            chunks = list(mine.chunks())
            assert torch.cat([chunk for _, chunk in chunks]).equal(rows[first : first + n])
            assert [start for start, _ in chunks] == [sum(len(c) for _, c in chunks[:i]) for i in range(len(chunks))]
            assert mine.rows(torch.tensor([n - 1])).equal(rows[first + n - 1 : first + n])
