"""Disks that are full or read-only end every long job with one sentence, and nothing half-written looks whole."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, config
from hf_gip.callbacks import GIPSelectionCallback
from hub_server import ALICE, Hub
from tiny_models import tiny_model, tiny_rows, with_lora
from tiny_trainers import make_trainer, word_rows
from transformers import PrinterCallback

import hf_gip
from hf_gip.features.gradient_store import open_store, store_gradients

LIMIT = 3_000  # bytes of a file, in place of a full disk
SENTENCE = r"^(cannot write '.+' \(File too large\)|the cache folder has no room for .* \(File too large\)): .+\.$"
resource = pytest.importorskip("resource", reason="file sizes cannot be limited on this system")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow beyond LIMIT, as if the disk were full; the kernel says so on every write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def pool(n: int = 200) -> Dataset:
    vectors = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)).tolist()
    return Dataset.from_dict({"text": [f"row {i} of {i * i % 97} words" for i in range(n)], "vector": vectors})


def tokens(n: int = 40) -> Dataset:
    return Dataset.from_list(tiny_rows(n))


def embed() -> Any:
    return hf_gip.gip_select(pool(), 9, encoder="lexical")


def select() -> Any:
    return hf_gip.gip_select(pool(), 190, features="vector", device="cpu")


def spice() -> Any:
    return hf_gip.spice_select(tokens(), 12, model=tiny_model(), window=10, update_every=2, projection_dim=None)


def frozen_spice() -> Any:
    return hf_gip.spice_select(tokens(), 12, model=tiny_model(), window=None, update_every=None)


def gtp() -> Any:
    return hf_gip.gtp_select(tokens(), 5, model=tiny_model(), warmup_fraction=0.5, warmup_epochs=1, seed=3)


def rate() -> Any:
    return hf_gip.score_with_llm(
        pool(), lambda texts: ['{"good": 3}' for _ in texts], attributes=["good"], name="judge"
    )


@pytest.mark.parametrize("job", [embed, select, frozen_spice, gtp, rate])
def test_a_full_cache_is_said_and_the_same_call_goes_on_after(job: Callable[[], Any]) -> None:
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        job()
    again = job()
    config.HF_DATASETS_CACHE = Path(config.HF_DATASETS_CACHE) / "fresh"
    assert again.to_list() == job().to_list()  # what the full disk left behind changed nothing


def test_a_full_disk_stops_a_trained_proxy_at_its_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.dataset.spice.SAVE_SECONDS", 0)
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        spice()
    assert not list(Path(config.HF_DATASETS_CACHE).rglob("*.part"))
    assert len(spice()) == 12


def test_a_full_disk_leaves_no_subset_store_or_page(tmp_path: Path) -> None:
    subset = select()
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        hf_gip.save_subset(subset, tmp_path / "out")
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        hf_gip.write_report(subset, tmp_path / "page.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache"]
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        store_gradients(tmp_path / "store", with_lora(tiny_model()), tokens())
    with pytest.raises(FileNotFoundError, match="run `store_gradients` again"):
        open_store(tmp_path / "store")


def test_a_full_disk_ends_a_training_run_that_selects(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "run", word_rows(300), num_train_epochs=1, per_device_train_batch_size=100)
    trainer.remove_callback(PrinterCallback)  # what is printed may go to a file
    trainer.add_callback(GIPSelectionCallback(trainer, 200))
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        trainer.train()
    assert not hf_gip.verify(tmp_path / "run").ok
    trainer.train()
    assert hf_gip.verify(tmp_path / "run").ok


@pytest.mark.hub
def test_a_full_disk_publishes_nothing(hub: Hub) -> None:
    subset = select()
    with full_disk(), pytest.raises(OSError, match=SENTENCE):
        hf_gip.push_to_hub(subset, "alice/full", token=ALICE)
    assert set(hub.files("alice/full")) == {".gitattributes"}  # of the repository that was made for it


REAL = """
set -e
mount -t tmpfs -o size=300k tmpfs "$1"
cd "$1"
export HF_DATASETS_CACHE="$2" COLUMNS=200
HF_GIP="$3 -m hf_gip select $4 --k 300 --features vector"
$HF_GIP --out full && exit 3
echo "left: $(ls -A)"
mount -o remount,ro "$1"
$HF_GIP --out closed && exit 3
export HF_DATASETS_CACHE="$1/cache"
$HF_GIP --out "$2/out" && exit 3
echo "left: $(ls -A)"
"""


@pytest.mark.heavy
def test_a_real_disk_that_is_full_then_read_only(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk of its own")
    rows = Dataset.from_dict({"text": ["x" * 2_000 + os.urandom(900).hex() for _ in range(400)]})
    rows = rows.add_column("vector", torch.randn(400, 4).tolist())
    rows.to_parquet(tmp_path / "pool.parquet")
    (tmp_path / "small").mkdir()
    (tmp_path / "cache").mkdir()
    words = [tmp_path / "small", tmp_path / "cache", sys.executable, tmp_path / "pool.parquet"]
    done = subprocess.run(["unshare", "-rm", "bash", "-c", REAL, "bash", *words], capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.startswith("hf-gip: ")]
    assert len(said) == 3, done.stderr
    assert "cannot write 'full' (No space left on device): free space there or choose another folder" in said[0]
    assert "cannot write 'closed' (Read-only file system): free space there or choose another folder" in said[1]
    assert "Read-only file system: " in said[2]
    assert "Traceback" not in done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("left:")] == ["left: ", "left: "]
