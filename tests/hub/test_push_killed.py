"""What is not whole never shows: pushes killed at every request, and every change to a published folder found."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, config, load_dataset
from hub_server import ALICE, Hub
from huggingface_hub import snapshot_download
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_probe import peak_memory
from saved_subset import pool, save

import hf_gip
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH

pytestmark = pytest.mark.hub
REPO = "alice/chosen"

PUSHES = """
import os, sys; sys.path.insert(0, sys.argv[1])
import hf_gip, hf_gip.hub.push as push
from hf_gip.manifest.reader import load_folder
push._draw = lambda *_: False
subset = load_folder(sys.argv[2])
print("ready", flush=True)
for _ in sys.stdin:  # a child for each line: what is imported once serves them all
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        sys.stdin.readline()
        push.push_to_hub(subset, sys.argv[3])
        os._exit(0)
    os.waitpid(child, 0)
    print("over", flush=True)
"""


@pytest.mark.heavy
def test_a_push_killed_at_any_request_leaves_the_old_or_the_new_state(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("hf_gip.hub.push._draw", lambda *_: False)
    old, new = save(tmp_path / "old", 5), save(tmp_path / "new", 6)
    command = [sys.executable, "-c", PUSHES, str(Path(__file__).parents[1]), str(tmp_path / "new"), REPO]
    environment = {**os.environ, "HF_TOKEN": ALICE, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    states: set[int] = set()
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for request in range(40):
            hub.calm()
            hub.repos.clear()
            hf_gip.push_to_hub(old, REPO, token=ALICE)
            first = hub.head(REPO)
            hub.calm()
            process.stdin.write("push\n")
            child = int(process.stdout.readline())
            seen: list[int] = []

            def die(child: int = child, seen: list[int] = seen, request: int = request) -> None:
                seen.append(1)
                if len(seen) == request + 1:
                    os.kill(child, signal.SIGKILL)

            hub.before("", die, times=1000)
            process.stdin.write("go\n")
            assert process.stdout.readline() == "over\n"
            hub.calm()
            head = hub.head(REPO)
            rows = load_dataset(REPO, split="train", revision=head)
            assert isinstance(rows, Dataset)
            assert rows["name"][:] == (old if head == first else new)["name"][:]
            assert hf_gip.verify(REPO).ok
            states.add(head == first)
            if len(seen) <= request:  # it ended before its death
                break
        process.stdin.close()
    assert states == {True, False}
    assert request > 5


@pytest.mark.heavy
def test_memory_does_not_grow_with_what_is_pushed(hub: Hub, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_TOKEN": ALICE, "HF_HOME": str(tmp_path / "home")}
    python, arrow = peak_memory("push_to_hub", REPO, environment)
    assert python < 40e6
    assert arrow < 50e6
    assert sum(path.startswith("data/") for path in hub.files(REPO)) >= 4


SHARD = "data/train-00000-of-00001.parquet"
FUZZ = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository's files, downloaded, as anyone gets them."""
    from hf_gip.hub import push

    folder = tmp_path_factory.mktemp("published")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "HF_DATASETS_CACHE", folder / "cache")
        patch.setattr(push, "_draw", lambda *_: False)
        subset = hf_gip.gip_select(pool(), 6, features="vector", device="cpu")
        hf_gip.push_to_hub(subset, "alice/published", token=ALICE)
        snapshot_download("alice/published", repo_type="dataset", local_dir=folder / "out")
        yield folder / "out"


@pytest.fixture
def out(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "out"))


@FUZZ
@given(
    at=st.integers(0, 10**6), byte=st.integers(1, 255), name=st.sampled_from([SHARD, SELECTION_PATH, MANIFEST_PATH])
)
def test_every_flipped_byte_of_a_published_folder_is_reported(
    published: Path, out: Path, at: int, byte: int, name: str
) -> None:
    data = bytearray((published / name).read_bytes())
    data[at % len(data)] ^= byte
    (out / name).write_bytes(data)
    report = hf_gip.verify(out)
    (out / name).write_bytes((published / name).read_bytes())
    assert any(name in check.sentence or check.name == "manifest" for check in report.failed)


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to every leaf of a JSON value."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))
    else:
        yield way


@FUZZ
@given(choice=st.integers(0, 10**6), data=st.data())
def test_every_changed_added_or_lost_field_of_a_published_manifest_is_reported(
    published: Path, out: Path, choice: int, data: st.DataObject
) -> None:
    whole = json.loads((published / MANIFEST_PATH).read_text())
    ways = list(places(whole))
    *way, last = ways[choice % len(ways)]
    parent = whole
    for key in way:
        parent = parent[key]
    what = data.draw(st.sampled_from(["change", "lose", "add"]))
    if what == "lose":
        del parent[last]
    elif what == "add" and isinstance(parent, dict):
        parent["more"] = 1
    else:
        old = parent[last]
        parent[last] = data.draw(
            st.one_of(st.none(), st.integers(-5, 99), st.text(max_size=5), st.booleans()).filter(
                lambda new: json.dumps(new) != json.dumps(old)
            )
        )
    (out / MANIFEST_PATH).write_text(json.dumps(whole, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    assert [check.name for check in hf_gip.verify(out).failed][:1] == ["manifest"]


@pytest.mark.heavy
def test_a_thousand_rows_of_alpaca_go_round(
    hub: Hub, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    Dataset.from_parquet(str(data / "alpaca.parquet")).push_to_hub("alice/alpaca", token=ALICE)
    rows = load_dataset("alice/alpaca", split="train")
    assert isinstance(rows, Dataset)
    subset = hf_gip.gip_select(rows, 1_000, encoder="lexical", device="cpu")
    for include_rows, repo in ((True, "alice/alpaca-gip-1k"), (False, "alice/alpaca-gip-1k-pointer")):
        done = hf_gip.push_to_hub(subset, repo, include_rows=include_rows, token=ALICE)
        if include_rows:
            assert load_dataset(repo, split="train", revision=done.oid)[:] == subset[:]
            streamed = load_dataset(repo, split="train", revision=done.oid, streaming=True)
            assert list(streamed) == list(subset)
            assert "| random, same size |" in hub.files(repo)["README.md"].decode()
        loaded = hf_gip.load_subset(repo, revision=done.oid)
        assert loaded[:] == subset[:]
        report = hf_gip.verify(repo)
        assert report.ok, str(report)
    assert hf_gip.reproduce("alice/alpaca-gip-1k", device="cpu").verdict == "same picks"
