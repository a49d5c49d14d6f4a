"""`hf-gip embed`, the script for Jobs and a datatrove pipeline: three ways to start workers on one store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import hf_gip, refusal
from datasets import Dataset

from hf_gip import gip_select, load_subset, open_embeddings
from hf_gip.features.embedding_store import StoreProgress, store_embeddings

ROOT = Path(__file__).resolve().parents[1]


def pool() -> Dataset:
    return Dataset.from_dict({"text": [f"row {i} about {i % 17} ships and {i * 7 % 1001} crews" for i in range(300)]})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pool().to_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def run(*command: object, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def unwrapped(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, as if the terminal were wide enough."""
    return capsys.readouterr().out.replace("\n", "")


def test_two_workers_embed_then_one_selects(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    store, words = tmp_path / "store", ("--encoder", "lexical", "--shard-rows", 50)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert hf_gip("embed", source, store, *words) == 0
    assert f"3 of 6 are in {str(store)!r}; the others are another worker's" in unwrapped(capsys)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert refusal(capsys, "select", source, "--k", 9, "--features", store, "--out", tmp_path / "early").startswith(
        "`store` must be complete, got 3 of 6 shards"
    )
    assert hf_gip("embed", source, store, *words, "--rank", 0, "--world-size", 2) == 0
    assert f"6 of 6 are in {str(store)!r}; select by it with `hf-gip select --features`." in unwrapped(capsys)
    assert hf_gip("select", source, "--k", 9, "--features", store, "--out", tmp_path / "out") == 0
    expected = gip_select(pool(), 9, features=store).selection.indices.tolist()
    assert load_subset(tmp_path / "out").selection.indices.tolist() == expected
    assert hf_gip("reproduce", tmp_path / "out", "--source", source, "--features", store) == 0
    assert (
        hf_gip("report", tmp_path / "out", "--source", source, "--features", store, "--out", tmp_path / "r.html") == 0
    )
    assert hf_gip("explain", tmp_path / "out", 7, "--source", source, "--features", store) == 0


def test_mistakes_are_one_sentence_with_flags(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lexical = ("--encoder", "lexical")
    assert refusal(capsys, "embed", source, tmp_path / "s", *lexical, "--rank", 2, "--world-size", 2) == (
        "`--rank` must be from 0 to 1, one for each of 2 workers, got 2: number them from 0, or give `--rank` and "
        "`--world-size`."
    )
    assert refusal(capsys, "embed", source, tmp_path / "s", *lexical, "--shard-rows", 0).startswith("`--shard-rows` ")
    assert not (tmp_path / "s").exists()
    store_embeddings(pool(), tmp_path / "s", "lexical")
    assert refusal(capsys, "embed", source, tmp_path / "s", *lexical, "--dtype", "float32") == (
        f"`store` must be new or hold the same vectors, got `--dtype` 'float16' in {str(tmp_path / 's')!r} where this "
        "run has 'float32': choose another folder, or run with what it was begun with."
    )


def test_the_script_for_jobs_fills_the_same_store(source: Path, tmp_path: Path) -> None:
    script = ROOT / "hub_scripts" / "embed-shard.py"
    for rank in (1, 0):
        words = (source, tmp_path / "jobs", "--encoder", "lexical")
        said = run(script, *words, cwd=tmp_path, RANK=str(rank), WORLD_SIZE="2")
    assert f"1 of 1 are in {tmp_path / 'jobs'}" in said
    assert store_embeddings(pool(), tmp_path / "one", "lexical") == StoreProgress(1, 1, 1)
    assert contents(tmp_path / "jobs") == contents(tmp_path / "one")


def test_a_datatrove_pipeline_fills_a_store_and_chooses_by_it(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("datatrove", reason="`datatrove` is not installed (pip install datatrove)")
    said = run(ROOT / "examples" / "embed_datatrove.py", source, tmp_path / "store", 3, cwd=tmp_path)
    assert sorted(path.name for path in (tmp_path / "store-logs" / "completions").iterdir()) == [
        "00000",
        "00001",
        "00002",
    ]
    assert open_embeddings(tmp_path / "store").n == 300
    assert "100 rows" in said
    expected = gip_select(pool(), 100, features=tmp_path / "store").selection.indices.tolist()
    assert load_subset(tmp_path / "store-chosen").selection.indices.tolist() == expected
