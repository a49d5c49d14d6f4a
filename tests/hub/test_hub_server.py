"""The test Hub itself, asked by the real clients: what it may be trusted with."""

import io
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError
from hub_server import ALICE, ALICE_READS, BOB, Hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

pytestmark = pytest.mark.hub
API, REPO = HfApi(token=ALICE), "alice/rows"


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, io.BytesIO(data))


def test_push_to_hub_and_every_way_of_loading(hub: Hub, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"text": [f"row {i}" for i in range(50)]})
    DatasetDict(train=rows, test=rows.select(range(5))).push_to_hub(REPO, token=ALICE)
    rows.select(range(3)).push_to_hub(REPO, "small", token=ALICE)
    assert load_dataset(REPO, "default", split="train")["text"][:] == rows["text"][:]
    assert len(load_dataset(REPO, "default", split="test")) == 5
    first = hub.history(REPO)[-2].oid
    pinned = load_dataset(REPO, split="train", revision=first, streaming=True)
    assert [row["text"] for row in pinned] == rows["text"][:]
    assert len(load_dataset(REPO, "small", split="train")) == 3
    folder = snapshot_download(REPO, repo_type="dataset", revision=hub.head(REPO), local_dir=tmp_path / "all")
    assert {p.name for p in Path(folder, "data").iterdir()} == {
        "train-00000-of-00001.parquet",
        "test-00000-of-00001.parquet",
    }


def test_commits_are_atomic_pinned_and_skip_what_has_not_changed(hub: Hub) -> None:
    API.create_repo(REPO, repo_type="dataset")
    start = hub.head(REPO)
    operations = [
        add("data/a.parquet", b"a" * 3000),
        add("notes.txt", b"one"),
        add("README.md", b"---\nlicense: mit\n---\n"),
    ]
    done = API.create_commit(REPO, operations, commit_message="first", repo_type="dataset", parent_commit=start)
    assert done.oid == hub.head(REPO)
    with pytest.raises(HfHubHTTPError) as stale:
        API.create_commit(REPO, [add("x.txt", b"x")], commit_message="late", repo_type="dataset", parent_commit=start)
    assert stale.value.response.status_code == 412
    again = API.create_commit(
        REPO, [add("data/a.parquet", b"a" * 3000), add("notes.txt", b"one")], commit_message="no", repo_type="dataset"
    )
    assert again.oid == done.oid
    API.create_commit(REPO, [CommitOperationDelete("data/a.parquet")], commit_message="less", repo_type="dataset")
    assert set(hub.files(REPO)) == {".gitattributes", "README.md", "notes.txt"}
    assert hub.files(REPO, done.oid)["data/a.parquet"] == b"a" * 3000
    [info] = API.get_paths_info(REPO, "data/a.parquet", revision=done.oid, repo_type="dataset")
    assert info.lfs.size == 3000
    assert API.dataset_info(REPO, revision=done.oid).card_data.license == "mit"


def test_branches_tags_and_pull_requests(hub: Hub) -> None:
    API.create_repo(REPO, repo_type="dataset")
    API.create_branch(REPO, branch="next", repo_type="dataset")
    API.create_branch(REPO, branch="next", repo_type="dataset", exist_ok=True)
    API.create_commit(REPO, [add("n.txt", b"n")], commit_message="n", repo_type="dataset", revision="next")
    API.create_tag(REPO, tag="v1", revision="next", repo_type="dataset")
    pull = HfApi(token=BOB).create_commit(
        REPO, [add("b.txt", b"b")], commit_message="please", repo_type="dataset", create_pr=True
    )
    assert pull.pr_revision == "refs/pr/1"
    refs = API.list_repo_refs(REPO, repo_type="dataset", include_pull_requests=True)
    assert {ref.name for ref in refs.branches} == {"main", "next"}
    assert [ref.name for ref in refs.tags] == ["v1"]
    assert "n.txt" not in hub.files(REPO)
    assert Path(hf_hub_download(REPO, "b.txt", repo_type="dataset", revision="refs/pr/1")).read_bytes() == b"b"


def test_who_may_what(hub: Hub) -> None:
    hub.create("alice/secret", {"a.txt": b"a"}, private=True)
    hub.create("alice/gated", {"a.txt": b"a"}, gated=True, allowed={"bob"})
    hub.create("bob/gated", {"a.txt": b"a"}, gated=True)
    for token in (False, BOB):
        with pytest.raises(RepositoryNotFoundError):
            hf_hub_download("alice/secret", "a.txt", repo_type="dataset", token=token)
        with pytest.raises(DatasetNotFoundError):
            load_dataset("alice/secret", token=token)
    assert hf_hub_download("alice/secret", "a.txt", repo_type="dataset", token=ALICE)
    assert hf_hub_download("alice/gated", "a.txt", repo_type="dataset", token=BOB)
    for token in (False, ALICE):
        with pytest.raises(GatedRepoError):
            hf_hub_download("bob/gated", "a.txt", repo_type="dataset", token=token)
    for token, status in ((False, 401), (BOB, 403), (ALICE_READS, 403), ("hf_unknown", 401)):
        with pytest.raises(HfHubHTTPError) as refused:
            HfApi(token=token).create_commit("alice/gated", [add("x", b"x")], commit_message="x", repo_type="dataset")
        assert refused.value.response.status_code in {status, 403}
    assert HfApi(token=BOB).whoami()["name"] == "bob"


def test_what_is_missing_is_named(hub: Hub) -> None:
    hub.create(REPO)
    with pytest.raises(RepositoryNotFoundError):
        API.dataset_info("alice/none")
    with pytest.raises(RevisionNotFoundError):
        API.dataset_info(REPO, revision="f" * 40)
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "none.txt", repo_type="dataset", token=ALICE)


def test_faults_come_as_often_as_asked(hub: Hub) -> None:
    hub.create(REPO)
    hub.fail(409, "POST .*/commit/", times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as busy:
            API.create_commit(REPO, [add("x", b"x")], commit_message="x", repo_type="dataset")
        assert busy.value.response.status_code == 409
    hub.cut("PUT /lfs", after_bytes=10)
    API.create_commit(REPO, [add("x.parquet", b"x" * 100_000)], commit_message="x", repo_type="dataset")
    assert hub.files(REPO)["x.parquet"] == b"x" * 100_000
    assert sum(line.startswith("PUT /lfs") for line in hub.log) == 2
