"""`gip_select` and `hf-gip select` on several ranks: the picks of one process for every option, and no hang."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, config
from ddp_gip_select import OPTIONS, choose, pool
from launched_ranks import SCRIPT, launched

import hf_gip

pytestmark = pytest.mark.ddp
RANKS = SCRIPT.with_name("ddp_gip_select.py")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with a store, and what one process chooses."""
    folder = tmp_path_factory.mktemp("ranks")
    hf_gip.store_embeddings(pool(), folder / "store", "lexical", shard_rows=77)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", folder / "cache-alone")
        return folder, choose(str(folder / "store"))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_choose_what_one_process_does(alone: tuple[Path, dict[str, Any]], ranks: int, tmp_path: Path) -> None:
    folder, expected = alone
    (tmp_path / "store").symlink_to(folder / "store")
    ended, results = launched(tmp_path, "choose", ranks, RANKS)
    assert ended == 0
    assert len(results) == ranks
    assert all(other == results[0] for other in results)
    for name, (picks, gains, record) in expected.items():
        found_picks, found_gains, found_record = results[0][name]
        assert found_picks == picks, name
        assert found_gains == pytest.approx(gains, rel=1e-4), name
        assert found_record == pytest.approx(record) if isinstance(record, float) else found_record == record, name
    assert len(expected) > len(OPTIONS)


def test_what_ranks_cannot_do_is_said_on_every_rank(tmp_path: Path) -> None:
    _, (first, second) = launched(tmp_path, "refused", 2, RANKS)
    assert first == second
    assert first["differ"].startswith(
        "`noise` must be the same on every rank, got '0.1' on rank 0 and '1.1' on rank 1"
    )
    assert first["queries"] == (
        '`scores_as="queries"` must run in one process: start one, or use scores as precision.'
    )
    assert "'vectors'" in first["one"]


def test_a_rank_that_dies_ends_the_job_and_what_was_embedded_stays(tmp_path: Path) -> None:
    ended, results = launched(tmp_path, "dies", 2, RANKS)
    assert ended != 0
    assert results == []
    assert list((tmp_path / "cache-dies").rglob("embeddings/**/*.safetensors"))


def test_torchrun_starts_the_command_line_and_the_first_rank_saves(tmp_path: Path) -> None:
    rows = pool()
    rows.to_parquet(tmp_path / "pool.parquet")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = ["select", "pool.parquet", "--k", "21", "--encoder", "lexical", "--group-column", "topic"]
    words += ["--max-per-group", "8", "--out", "out"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "HF_DATASETS_CACHE": str(tmp_path / "launched"),
        "COLUMNS": "200",
    }
    done = subprocess.run(
        [*torchrun, "-m", "hf_gip", *words], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Chose 21 rows") == 1
    assert done.stdout.count("Saved") == 1
    source = Dataset.from_parquet(str(tmp_path / "pool.parquet"))
    assert hf_gip.verify(tmp_path / "out", source=source).ok
    expected = hf_gip.gip_select(rows, 21, encoder="lexical", group_column="topic", max_per_group=8)
    assert hf_gip.load_subset(tmp_path / "out").selection.indices.tolist() == expected.selection.indices.tolist()
