"""A store of embeddings: the same bytes whoever fills it, in any order, through kills; refused to any other use."""

import json
import random
import re
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tiny_encoders
import torch
from datasets import Dataset, config
from store_worker import SHARD_ROWS, SlowEncoder, Workers, fill, pool
from tiny_encoders import save_model

import hf_gip
from hf_gip.features import embedding_store
from hf_gip.features.embedding_store import resolve_worker, worker_of_environment
from hf_gip.features.encoders import LexicalEncoder

SHARDS = -(-400 // SHARD_ROWS)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A new folder, on the disk and in fsspec's memory."""
    yield str(tmp_path / "store") if request.param == "local" else f"memory://{tmp_path.name}/store"
    fsspec.filesystem("memory").store.clear()


def contents(store: str) -> dict[str, bytes]:
    """Every file, hidden ones too."""
    fs, root = fsspec.url_to_fs(store)
    return {path.removeprefix(root): fs.cat_file(path) for path in fs.find(root)}


def quick(store: str, rank: int = 0, world_size: int = 1, **options: Any) -> Any:
    return fill(store, rank, world_size, **{"encoder": "lexical", "encoder_id": None} | options)


@contextmanager
def message(kind: type[Exception], text: str) -> Iterator[None]:
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        yield


def test_a_store_holds_the_vectors_of_embed(store: str) -> None:
    expected = hf_gip.embed(pool(), "lexical").matrix
    assert quick(store, dtype="float32") == embedding_store.StoreProgress(SHARDS, SHARDS, SHARDS)
    found = hf_gip.open_embeddings(store)
    assert isinstance(found, hf_gip.MatrixSource)
    assert (found.n, found.d, found.dtype) == (400, 512, torch.float32)
    assert torch.equal(torch.cat([chunk for _, chunk in found.chunks()]), expected)
    assert [first for first, _ in found.chunks()] == list(range(0, 400, SHARD_ROWS))
    some = torch.tensor([399, 0, 17, 17, 40])
    assert torch.equal(found.rows(some), expected[some])
    assert found.manifest["empty_rows"] == 9
    assert found.recipe["encoder"] == {"encoder": "lexical", "version": 1, "dims": 512}


def test_half_precision_is_the_default_and_its_error_is_in_the_manifest(store: str) -> None:
    quick(store)
    found, exact = hf_gip.open_embeddings(store), hf_gip.embed(pool(), "lexical").matrix
    stored = torch.cat([chunk for _, chunk in found.chunks()])
    assert found.recipe["dtype"] == "float16"
    assert stored.dtype == torch.float16
    error = float((stored.double() - exact.double()).norm(dim=1).max())
    assert found.manifest["rounding_error"] == pytest.approx(error)
    assert 0 < error < 1e-3


def test_workers_of_any_number_in_any_order_make_the_same_bytes(store: str, tmp_path: Path) -> None:
    quick(str(tmp_path / "one"))
    for rank, world_size in ((2, 3), (0, 2), (0, 2), (4, 5), (1, 3), (0, 3), (2, 3)):
        quick(store, rank, world_size)
    assert contents(store) == contents(str(tmp_path / "one"))


def test_what_no_share_held_is_made_by_a_later_run(store: str) -> None:
    first = quick(store, 1, 4)
    assert (first.made, first.complete, first.shards) == (6, 6, SHARDS)
    with message(
        FileNotFoundError,
        f"`store` must be complete, got 6 of {SHARDS} shards (the first missing: 0) in {store!r}: run `hf-gip embed` "
        "again, it goes on there.",
    ):
        hf_gip.open_embeddings(store)
    assert quick(store).made == SHARDS - 6
    assert quick(store).made == 0
    assert hf_gip.open_embeddings(store).n == 400


def test_killed_workers_lose_a_shard_each_and_change_no_byte_nor_pick(tmp_path: Path) -> None:
    """Three processes, killed at random moments again and again, with a world of another size in between."""
    store, moments = tmp_path / "store", random.Random(0)
    fill(str(tmp_path / "one"))
    workers = Workers(str(store))
    for attempt in range(8):
        before, world_size = len(list(store.glob("shards/*.json"))), 2 + attempt % 2
        for rank in range(world_size):
            workers.start(rank, world_size)
        while len(list(store.glob("shards/*.json"))) == before and workers.alive():
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.2))
        workers.kill()
        assert not (store / "manifest.json").exists() or attempt > 1
    workers.close()
    assert len(list(store.glob("shards/*.json"))) > 1
    (store / "shards" / ".00001.json.77.part").write_bytes(b"half")  # as a kill while it is written leaves it
    fill(str(store))
    assert contents(str(store)) == contents(str(tmp_path / "one"))
    picks = [hf_gip.gip(hf_gip.open_embeddings(each), None, 20) for each in (store, tmp_path / "one")]
    assert picks[0].indices.tolist() == picks[1].indices.tolist()


class Device(LexicalEncoder):
    """An encoder on a device that rounds in a way of its own."""

    error = 0.0

    def encode(self, sentences: Any) -> Any:
        return super().encode(sentences) + np.float32(self.error)


def test_two_devices_that_round_apart_leave_one_of_their_shards(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"encoder": Device(), "encoder_id": "device"}
    quick(store, **options)
    before = contents(store)
    fs, root = fsspec.url_to_fs(store)
    fs.rm(f"{root}/shards/00002.json")  # one worker has written its file, not yet its marker
    monkeypatch.setattr(Device, "error", 1e-3)
    assert quick(store, **options).made == 1
    after = contents(store)
    assert set(after) > set(before)
    assert hf_gip.open_embeddings(store).n == 400
    quick(store, **options)
    assert contents(store) == after


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"encoder": SlowEncoder(), "encoder_id": "slow"},
            "`encoder` {'dims': 512, 'encoder': 'lexical', 'version': 1}",
        ),
        ({"dtype": "float32"}, "`dtype` 'float16' in STORE where this run has 'float32'"),
        ({"columns": ["topic"]}, "rows of digest"),
        ({"shard_rows": 17}, "`shard_rows` 16 in STORE where this run has 17"),
    ],
)
def test_a_store_of_another_recipe_is_refused(store: str, options: dict[str, Any], said: str) -> None:
    quick(store)
    before = contents(store)
    with pytest.raises(ValueError) as refused:  # noqa: PT011 — its message is compared
        quick(store, **options)
    words = str(refused.value)
    assert words.startswith(f"`store` must be new or hold the same vectors, got {said}".replace("STORE", repr(store)))
    assert words.endswith(": choose another folder, or run with what it was begun with.")
    assert contents(store) == before


@pytest.mark.parametrize("rows", [399, 400])
def test_a_store_of_another_pool_is_refused(store: str, rows: int) -> None:
    quick(store)
    other = Dataset.from_dict({"text": [f"other {i}" for i in range(rows)]})
    with pytest.raises(ValueError, match=r"^`store` must be new or hold the same vectors, got rows "):
        hf_gip.store_embeddings(other, store, "lexical")


def damage(name: str, change: Callable[[bytes], bytes]) -> Callable[[Any, str], None]:
    def apply(fs: Any, root: str) -> None:
        path = next(path for path in fs.find(root) if re.search(name, path))
        data = change(fs.cat_file(path))
        fs.pipe_file(path, data)

    return apply


def remove(name: str) -> Callable[[Any, str], None]:
    return lambda fs, root: fs.rm(next(path for path in fs.find(root) if re.search(name, path)))


CUT, FLIPPED = (
    damage(r"00003-.*safetensors", lambda data: data[:-9]),
    damage(r"00003-.*safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
)


@pytest.mark.parametrize(
    ("spoil", "found"), [(CUT, "damaged"), (FLIPPED, "damaged"), (remove(r"00003-.*safetensors"), "missing")]
)
def test_a_damaged_shard_is_said_and_made_again(store: str, spoil: Callable[[Any, str], None], found: str) -> None:
    quick(store)
    before, (fs, root) = contents(store), fsspec.url_to_fs(store)
    spoil(fs, root)
    with message(
        ValueError,
        f"`store` must hold every shard as its manifest says, got shard 3 {found} in {store!r}: delete "
        "'shards/00003.json' and run `hf-gip embed` again, which makes it anew.",
    ):
        hf_gip.open_embeddings(store)
    fs.rm(f"{root}/shards/00003.json")
    assert quick(store).made == 1
    assert contents(store) == before


def test_a_shard_damaged_on_a_disk_is_made_again_without_a_word(tmp_path: Path) -> None:
    quick(str(tmp_path))
    before = contents(str(tmp_path))
    FLIPPED(*fsspec.url_to_fs(str(tmp_path)))
    assert quick(str(tmp_path)).made == 1
    assert contents(str(tmp_path)) == before


def test_a_doubled_or_foreign_shard_is_refused_until_its_marker_goes(store: str, tmp_path: Path) -> None:
    quick(store)
    hf_gip.store_embeddings(pool(), tmp_path / "other", "lexical", dtype="float32", shard_rows=SHARD_ROWS)
    before, (fs, root) = contents(store), fsspec.url_to_fs(store)
    foreign = (tmp_path / "other" / "shards" / "00003.json").read_bytes()
    for marker, what in ((fs.cat_file(f"{root}/shards/00004.json"), "shard 4"), (foreign, "store")):
        fs.pipe_file(f"{root}/shards/00003.json", marker)
        with pytest.raises(ValueError, match=f"^`store` must hold each shard once and no other store's, got {what}"):
            quick(store)
        fs.rm(f"{root}/shards/00003.json")
        quick(store)
        assert contents(store) == before


@pytest.mark.parametrize("name", ["shards/00003.json", "manifest.json", "recipe.json"])
def test_a_damaged_marker_recipe_or_manifest_is_written_again(store: str, name: str) -> None:
    quick(store)
    before = contents(store)
    damage(re.escape(name), lambda data: data[: len(data) // 2])(*fsspec.url_to_fs(store))
    quick(store)
    assert contents(store) == before


def test_a_manifest_of_another_format_is_refused(store: str) -> None:
    quick(store)
    text = contents(store)["/manifest.json"]
    newer = json.loads(text)
    newer["recipe"]["format"] = 2
    fs, root = fsspec.url_to_fs(store)
    fs.pipe_file(f"{root}/manifest.json", json.dumps(newer).encode())
    with pytest.raises(
        ValueError, match=r"^`store` must have a manifest of this version's format, got another one in "
    ):
        hf_gip.open_embeddings(store)


def test_no_store_and_no_folder_are_said(tmp_path: Path) -> None:
    with message(
        FileNotFoundError,
        f"`store` must be a store of embeddings, got none in {str(tmp_path)!r}: make it with `hf-gip embed`.",
    ):
        hf_gip.open_embeddings(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"^`store` must be a folder, got the file "):
        quick(str(tmp_path / "file"))
    with pytest.raises(
        ValueError, match=r"^`store` must be a folder or a path that fsspec knows, got 's4://x': Protoc"
    ):
        quick("s4://x")


def test_a_store_elsewhere_is_copied_once_and_its_copy_is_checked(fresh_cache: Path) -> None:
    store = "memory://once/store"
    quick(store)
    found = hf_gip.open_embeddings(store)
    copies = sorted(fresh_cache.rglob("stores/*.safetensors"))
    assert len(copies) == len({shard["sha256"] for shard in found.manifest["shards"]})
    times = [path.stat().st_mtime_ns for path in copies]
    copies[2].write_bytes(b"damaged")
    again = hf_gip.open_embeddings(store)
    assert [path.stat().st_mtime_ns == before for path, before in zip(copies, times, strict=True)].count(False) == 1
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(found.chunks(), again.chunks(), strict=True))


def test_a_full_disk_is_said_before_it_is_full_and_nothing_is_lost(tmp_path: Path) -> None:
    store, limit = tmp_path / "store", 60_000
    quick(str(store), 0, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            OSError,
            match=r"^the folder of the store has no room for 0 MB of features \(File too large\): free space there or "
            r"choose another folder; complete shards are kept\.$",
        ):
            quick(str(store))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert quick(str(store)).made == SHARDS - 5
    quick(str(tmp_path / "one"))
    assert contents(str(store)) == contents(str(tmp_path / "one"))


def test_an_encoder_that_workers_cannot_know_needs_a_name(tmp_path: Path) -> None:
    with message(
        ValueError,
        "`encoder_id` must say what the encoder is, as workers cannot compare the answers of a SlowEncoder, got none: "
        "give a name that changes when its vectors do.",
    ):
        quick(str(tmp_path), encoder=SlowEncoder())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"RANK": "2", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (2, 8)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (3, 4)),
        ({"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "10"}, (5, 10)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4",
          "SLURM_ARRAY_TASK_STEP": "2"}, (2, 4)),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
         (3, 6)),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "9", "SLURM_ARRAY_TASK_COUNT": "1"}, (0, 1)),
    ],
)  # fmt: skip
def test_launchers_say_which_worker_it_is(environment: dict[str, str], expected: tuple[int, int] | None) -> None:
    assert worker_of_environment(environment) == expected


def test_a_launcher_s_contradictions_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with message(
        ValueError, "RANK and WORLD_SIZE must both be in the environment, got only RANK: set WORLD_SIZE too."
    ):
        worker_of_environment({"RANK": "1"})
    with message(ValueError, "RANK must be a whole number in the environment, got 'x'."):
        worker_of_environment({"RANK": "x", "WORLD_SIZE": "2"})
    monkeypatch.setenv("RANK", "4")
    monkeypatch.setenv("WORLD_SIZE", "4")
    said = "`rank` must be from 0 to 3, one for each of 4 workers, got 4: number them from 0, or give `rank` and "
    with message(ValueError, said + "`world_size`."):
        resolve_worker(None, None)
    assert resolve_worker(1, 2) == (1, 2)
    with message(ValueError, "`rank` and `world_size` must be given together, got rank=1 and world_size=None."):
        resolve_worker(1, None)


def test_a_named_model_keeps_the_precision_that_the_store_was_begun_in(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers whose machines are fast in another precision follow the first; a wish for another one is refused."""
    model, rows = str(save_model(tmp_path / "model")), tiny_encoders.pool()
    share: dict[str, Any] = {"shard_rows": 50, "world_size": 3}
    for rank, fastest in enumerate(["bfloat16", "auto", "float16"]):
        monkeypatch.setattr("hf_gip.features.encoders.fastest_dtype", lambda _, dtype=fastest: dtype)
        monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / f"machine{rank}")
        hf_gip.store_embeddings(rows, store, model, rank=rank, **share)
    found = hf_gip.open_embeddings(store)
    precision = found.recipe["encoder"].get("dtype")
    assert precision in (None, "bfloat16")  # as the vectors of the sample agree
    with pytest.raises(ValueError, match=r"^`store` must be new or hold the same vectors, got `encoder` "):
        hf_gip.store_embeddings(rows, store, model, encoder_kwargs={"dtype": "float16"})
    subset = rows.gip_select(5, features=found, encoder=model, target=["alpha beta"])
    assert subset.selection.record["features"].get("dtype") == precision
    hf_gip.save_subset(subset, tmp_path / "out")
    assert hf_gip.reproduce(tmp_path / "out", source=rows, encoder=model).ok
    assert hf_gip.reproduce(tmp_path / "out", source=rows, encoder=model, features=store).verdict == "same picks"
