"""A pool from a Hub repository: pinned by its commit in the record, and checked against that commit."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from hub_server import ALICE, Hub
from saved_subset import pool

import hf_gip
from hf_gip.dataset.loading import describe_source, open_dataset
from hf_gip.manifest.schema import read_manifest

pytestmark = pytest.mark.hub
REPO = "alice/Open-Rows2.5"


def push(rows: Dataset) -> None:
    rows.push_to_hub(REPO, "main", split="test", token=ALICE)


def test_the_commit_and_the_full_name_are_recorded(hub: Hub, tmp_path: Path) -> None:
    push(pool())
    commit = hub.head(REPO)
    rows = load_dataset(REPO, "main", split="test")
    assert isinstance(rows, Dataset)
    subset = rows.gip_select(4, features="vector", device="cpu")
    hf_gip.save_subset(subset, tmp_path / "out")
    source = read_manifest(tmp_path / "out").source
    assert (source.kind, source.repo_id, source.revision) == ("hub", REPO, commit)
    assert (source.config, source.split, source.num_rows) == ("main", "test", 40)
    assert describe_source(rows.filter(lambda row: row["good"] > 1))["kind"] == "rows"
    report = hf_gip.verify(tmp_path / "out", source=REPO)
    assert report.ok, str(report)
    assert hf_gip.reproduce(tmp_path / "out", source=REPO, device="cpu").verdict == "same picks"


def test_the_pinned_commit_is_read_when_the_repository_went_on(hub: Hub, tmp_path: Path) -> None:
    push(pool())
    hf_gip.save_subset(
        open_dataset(REPO, config="main", split="test").gip_select(4, features="vector", device="cpu"),
        tmp_path / "out",
    )
    push(pool().select(range(30)))
    assert hf_gip.verify(tmp_path / "out", source=REPO).ok
    latest = open_dataset(REPO, config="main", split="test")
    assert len(latest) == 30
    failed = {check.name: check.sentence for check in hf_gip.verify(tmp_path / "out", source=latest).failed}
    assert "the source has 30 rows, the manifest says 40" in failed["source"]
    assert f"the source is at commit {hub.head(REPO)}" in failed["source"]


def test_a_repository_without_a_card_is_pinned_too(hub: Hub) -> None:
    buffer = io.BytesIO()
    pool().to_parquet(buffer)
    hub.create(REPO, {"data/train.parquet": buffer.getvalue()})
    found = describe_source(open_dataset(REPO))
    assert (found["kind"], found["repo_id"], found["revision"]) == ("hub", REPO, hub.head(REPO))
