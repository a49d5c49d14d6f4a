"""Publishing to a Hub over HTTP: one commit, round trips, what was there before stays, and nothing half done."""

import json
import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict, Image, load_dataset
from hub_server import ALICE, ALICE_READS, BOB, Hub
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image as Picture
from saved_subset import hub_pool, pool

import hf_gip
import hf_gip.hub.push as push_module
from hf_gip.manifest.schema import MANIFEST_PATH, SELECTION_PATH, parse_manifest

pytestmark = pytest.mark.hub
REPO, POOL = "alice/chosen", "alice/pool"
SHARD = "data/train-00000-of-00001.parquet"
DRAW = push_module._draw


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "_draw", lambda *_: False)  # a second a picture; one test draws it
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", "")  # nobody, whoever earlier tests were
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))


def select(rows: Dataset | None = None, k: int = 6, **options: Any) -> Dataset:
    rows = pool() if rows is None else rows
    return hf_gip.gip_select(rows, k, features="vector", scores=["good"], id_column="name", device="cpu", **options)


def push(subset: Any, repo: str = REPO, **options: Any) -> Any:
    """Rows made in memory are of unknown origin: published openly only because `private=False` is said."""
    selection = getattr(subset, "selection", None)
    known = selection is not None and selection.record["source"]["kind"] == "hub"
    return hf_gip.push_to_hub(subset, repo, **{"private": None if known else False, "token": ALICE, **options})


def card_of(hub: Hub, repo: str = REPO) -> tuple[dict[str, Any], str]:
    _, metadata, body = hub.files(repo)["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), body


def test_one_commit_holds_everything_and_every_way_of_loading_agrees(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "_draw", DRAW)
    subset = select(hub_pool())
    hub.log.clear()
    done = push(subset)
    assert [commit.title for commit in hub.history(REPO)] == ["Publish 6 rows chosen by hf-gip", "initial commit"]
    assert done.oid == hub.head(REPO)
    assert set(hub.files(REPO)) == {
        ".gitattributes",
        "README.md",
        MANIFEST_PATH,
        SELECTION_PATH,
        "gip/gains.png",
        SHARD,
    }
    assert sum("/commit/" in line for line in hub.log) == 1
    assert load_dataset(REPO, split="train", revision=done.oid)["name"][:] == subset["name"][:]
    streamed = load_dataset(REPO, split="train", revision=done.oid, streaming=True)
    assert [row["name"] for row in streamed] == subset["name"][:]
    assert load_dataset(REPO, "selection", split="train")["index"][:] == subset.selection.indices.tolist()
    loaded = hf_gip.load_subset(REPO)
    assert isinstance(loaded, Dataset)
    assert loaded[:] == subset.with_format(None)[:]
    assert loaded.selection.gains.tolist() == subset.selection.gains.tolist()
    report = hf_gip.verify(REPO, revision=done.oid)
    assert report.ok, str(report)
    assert [check.outcome for check in report.checks] == ["ok"] * 7
    assert report.subject == f"{REPO}@{done.oid}"
    assert hf_gip.reproduce(REPO, device="cpu").verdict == "same picks"


def test_the_same_content_makes_no_commit_also_from_another_process_and_after_loading(hub: Hub) -> None:
    subset = select()
    first = push(subset)
    assert push(subset).oid == first.oid
    assert push(hf_gip.load_subset(REPO)).oid == first.oid
    assert len(hub.history(REPO)) == 2
    assert push(select(k=5)).oid != first.oid
    assert hf_gip.load_subset(REPO)["name"][:] == select(k=5)["name"][:]
    assert len(hf_gip.load_subset(REPO, revision=first.oid)) == 6


def test_every_split_of_a_dataset_dict_is_a_subset_of_its_own(hub: Hub) -> None:
    rows = pool()
    both = DatasetDict(test=select(rows.select(range(20)), 4), train=select(rows, 6))
    push(both)
    assert len(hub.history(REPO)) == 2
    assert {"gip/manifest.json", "default/test/gip/manifest.json"} <= set(hub.files(REPO))
    read = load_dataset(REPO)
    assert {name: len(part) for name, part in read.items()} == {"train": 6, "test": 4}
    assert len(load_dataset(REPO, "selection", split="test")) == 4
    loaded = hf_gip.load_subset(REPO)
    assert isinstance(loaded, DatasetDict)
    assert loaded["test"]["name"][:] == both["test"]["name"][:]
    assert loaded["test"].selection.indices.tolist() == both["test"].selection.indices.tolist()
    report = hf_gip.verify(REPO)
    assert report.ok, str(report)
    assert {"files", "files of default/test"} <= {check.name for check in report.checks}
    head = hub.head(REPO)
    assert push(both).oid == head
    push(select(k=3), config_name="small")
    assert len(load_dataset(REPO, "small", split="train")) == 3
    assert len(load_dataset(REPO, split="train")) == 6
    assert hf_gip.load_subset(REPO, config_name="small")["name"][:] == select(k=3)["name"][:]
    assert hf_gip.load_subset(REPO, config_name="default", split="test")["name"][:] == both["test"]["name"][:]
    assert hf_gip.reproduce(REPO, config_name="small", source=rows, device="cpu").verdict == "same picks"
    with pytest.raises(ValueError, match=r"^`config_name` and `split` must name one of the subsets \['default/train'"):
        hf_gip.load_subset(REPO)
    assert hf_gip.verify(REPO).ok
    bare = DatasetDict(train=both["train"], test=rows)
    with pytest.raises(ValueError, match=r"^`subset` must carry a `.selection` in every split, got none in 'test'"):
        push(bare)


def test_a_pointer_holds_no_text_and_is_rebuilt_from_the_pinned_source(hub: Hub) -> None:
    subset = select(hub_pool())
    push(subset, include_rows=False)
    everything = b"".join(hub.files(REPO).values())
    assert not any(text.encode() in everything for text in subset["text"][:])
    assert len(load_dataset(REPO, split="train")) == 6
    pool().select(range(9)).push_to_hub(POOL, token=ALICE)
    loaded = hf_gip.load_subset(REPO)
    assert loaded[:] == subset.with_format(None)[:]
    assert loaded.selection.gains.tolist() == subset.selection.gains.tolist()
    assert hf_gip.verify(REPO).ok
    push(subset)
    assert SHARD in hub.files(REPO)
    push(subset, include_rows=False)
    assert SHARD not in hub.files(REPO)
    assert load_dataset(REPO, split="train").column_names[0] == "rank"


def test_a_changed_row_of_the_source_is_named_when_a_pointer_is_rebuilt(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool()
    subset = select(rows)
    push(subset, include_rows=False)
    assert hf_gip.load_subset(REPO, source=rows)["name"][:] == subset["name"][:]
    name = subset["name"][2]
    other = rows.map(lambda row: {"text": "!" if row["name"] == name else row["text"]})
    with pytest.raises(ValueError, match=f"row {name!r} at rank 2 was changed"):
        hf_gip.load_subset(REPO, source=other)


def test_the_card_keeps_its_words_and_foreign_metadata_and_the_source_s_license(hub: Hub) -> None:
    rows = hub_pool()
    card = hub.files(POOL)["README.md"].decode().replace("---\n", "---\nlicense: cc-by-4.0\nlanguage: en\n", 1)
    hub.commit(POOL, {"README.md": card.encode()})
    old = "---\ntags: [mine]\npretty_name: Mine\nannotations: [a]\n---\n\n# My words\n\nStay.\n"
    hub.create(REPO, {"README.md": old.encode(), "LICENSE": b"text", "data/train-old.parquet": b"stale"})
    push(select(rows))
    metadata, body = card_of(hub)
    assert body.lstrip().startswith("# My words\n\nStay.\n\n<!-- hf-gip default/train ")
    assert (metadata["pretty_name"], metadata["annotations"]) == ("Mine", ["a"])
    assert (metadata["license"], metadata["language"], metadata["size_categories"]) == ("cc-by-4.0", "en", ["n<1K"])
    assert metadata["tags"] == ["mine", "data-selection", "hf-gip", "gip"]
    assert metadata["source_datasets"] == [POOL]
    assert "| random, same size |" in body
    assert "`cc-by-4.0`, the license of the source" in body
    assert f'hf_gip.load_subset("{REPO}")' in body
    assert "data/train-old.parquet" not in hub.files(REPO)
    assert hub.files(REPO)["LICENSE"] == b"text"
    report = hf_gip.verify(REPO)
    assert report.ok, str(report)
    assert "files: LICENSE, without a hash in the manifest" in report.not_covered
    hub.commit(REPO, {"README.md": hub.files(REPO)["README.md"].replace(b"Stay.", b"Stay here.")})
    push(select(rows, 4))
    _, body = card_of(hub)
    assert "Stay here." in body
    assert body.count("<!-- hf-gip ") == 1
    assert "# 4 rows chosen by gip from 40" in body


def test_a_dataset_pushed_before_by_datasets_is_replaced_without_a_trace_of_its_sizes(hub: Hub) -> None:
    whole = DatasetDict(train=pool(), test=pool().select(range(7)))
    whole.push_to_hub(REPO, token=ALICE)
    pool().select(range(3)).push_to_hub(REPO, "other", token=ALICE)
    push(select())
    assert len(load_dataset(REPO, "default", split="train")) == 6
    assert len(load_dataset(REPO, "default", split="test")) == 7
    assert len(load_dataset(REPO, "other", split="train")) == 3
    assert hf_gip.verify(REPO).ok
    assert len(hf_gip.load_subset(REPO)) == 6


def test_branches_pull_requests_and_shards(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_gip.hashing.BATCH_ROWS", 4)
    push(select(k=18), revision="next", max_shard_size=1)
    assert "README.md" not in hub.files(REPO)
    assert sum(path.endswith("of-00005.parquet") for path in hub.files(REPO, "next")) == 5
    push(select(k=6), revision="next", commit_message="fewer")
    assert hub.history(REPO, "next")[0].title == "fewer"
    assert [path for path in hub.files(REPO, "next") if path.startswith("data/")] == [
        f"data/train-{i:05d}-of-00002.parquet" for i in range(2)
    ][:1] or [path for path in hub.files(REPO, "next") if path.startswith("data/")] == [SHARD]
    assert len(hf_gip.load_subset(REPO, revision="next")) == 6
    request = push(select(k=5), create_pr=True, token=BOB)
    assert request.pr_revision == "refs/pr/1"
    assert hf_gip.verify(REPO, revision="refs/pr/1").ok
    assert "README.md" not in hub.files(REPO)


@pytest.mark.parametrize("kind", ["private", "gated"])
def test_what_comes_from_a_closed_source_is_private_unless_told(hub: Hub, kind: str) -> None:
    subset = hf_gip.gip_select(hub_pool(), 6, features="vector")  # without ids, which would be rows' own values
    setattr(hub.repos[POOL], kind, True)
    push(subset)
    assert hub.repos[REPO].private
    push(subset, "alice/told", private=False)
    assert not hub.repos["alice/told"].private
    hub.create("alice/public")
    message = (
        f"the source {POOL!r} is private, gated or not to be seen, and 'alice/public' is public: pass "
        "`include_rows=False` to publish positions and hashes only, or `private=False` if rows may be passed on."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        push(subset, "alice/public")
    assert set(hub.files("alice/public")) == {".gitattributes"}
    push(subset, "alice/public", include_rows=False)
    push(subset, "alice/public", private=False)
    assert not hub.repos["alice/public"].private


def test_the_token_is_written_nowhere(hub: Hub) -> None:
    push(select(hub_pool()))
    assert ALICE.encode() not in b"".join(hub.files(REPO).values())
    assert not any(ALICE in commit.title for commit in hub.history(REPO))


FAULTS: dict[str, Callable[[Hub], None]] = {
    **{
        f"commit {status}": (lambda hub, s=status: hub.fail(s, "POST .*/commit/", times=2))
        for status in (409, 412, 500, 503)
    },
    "commit 429": lambda hub: hub.fail(429, "POST .*/commit/", Retry_After="0"),
    "commit done, answer lost": lambda hub: hub.fail(500, "POST .*/commit/", after=True),
    "commit cut": lambda hub: hub.cut("POST .*/commit/"),
    "upload cut": lambda hub: hub.cut("PUT /lfs", after_bytes=100, times=2),
    "upload 500": lambda hub: hub.fail(500, "PUT /lfs", times=2),
    "preupload 500": lambda hub: hub.fail(500, "POST .*/preupload/"),
    "batch 503": lambda hub: hub.fail(503, "POST .*objects/batch"),
    "create 500": lambda hub: hub.fail(500, "POST /api/repos/create"),
    "create 409": lambda hub: hub.fail(409, "POST /api/repos/create"),
    "info 500": lambda hub: hub.fail(500, "GET /api/datasets/alice/chosen$"),
    "tree cut": lambda hub: hub.cut("GET .*/tree/", after_bytes=0),
    "slow": lambda hub: hub.slow("POST .*/commit/", 0.2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_ends_in_one_whole_commit(hub: Hub, fault: str) -> None:
    FAULTS[fault](hub)
    push(select(pool().add_column("fault", [fault] * 40)))  # new bytes, else there is nothing to upload
    assert not hub.faults
    assert len(hub.history(REPO)) == 2
    hub.calm()
    assert hf_gip.verify(REPO).ok


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (401, "log in with `hf auth login`, or pass a valid `token=`"),
        (403, "use a token with the rights to do this"),
        (404, "check the name, or pass a `token=` that may see it"),
        (409, "the Hub answered 409 6 times"),
        (412, "another writer was faster each time: try again"),
        (429, "too many requests: try again later"),
        (500, "the Hub answered 500 6 times"),
    ],
)
def test_a_lasting_fault_ends_in_one_clear_sentence(hub: Hub, status: int, sentence: str) -> None:
    push(select())
    before = hub.head(REPO)
    hub.fail(status, "POST .*/commit/", times=99)
    with pytest.raises(HfHubHTTPError, match=f"^cannot publish to {REPO!r}: the Hub answered {status}.*") as raised:
        push(select(k=5))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
    assert hub.head(REPO) == before
    assert raised.value.response.status_code == status


def test_a_token_that_may_not_write_and_none_at_all_are_told_before_anything_is_written(hub: Hub) -> None:
    for token, status in ((ALICE_READS, 403), (BOB, 403), ("hf_unknown", 401), (False, 401)):
        with pytest.raises(HfHubHTTPError, match=f"^cannot publish to {REPO!r}: the Hub answered {status}"):
            push(select(), token=token)
    assert REPO not in hub.repos
    hub.cut("POST .*/commit/", times=99)
    with pytest.raises(ConnectionError, match=r"^cannot publish to 'alice/chosen': the connection failed 6 times"):
        push(select())
    assert len(hub.history(REPO)) == 1


def empty() -> Dataset:
    none = pool().select([])
    selection = hf_gip.Selection(
        torch.empty(0, dtype=torch.long), torch.empty(0).double(), record=select().selection.record
    )
    setattr(none, "selection", selection)  # noqa: B010
    return none


@pytest.mark.parametrize(
    ("make", "repo", "options", "sentence"),
    [
        (select, REPO, {"max_shard_size": "lots"}, "`max_shard_size` must be a positive number of bytes or such as"),
        (select, REPO, {"max_shard_size": 0}, "`max_shard_size` must be a positive number of bytes or such as"),
        (select, "chosen", {}, "`repo_id` must be a dataset repository such as 'me/rows', got 'chosen'."),
        (empty, REPO, {}, "`subset` must have at least one row, got none: select rows first."),
        (lambda: select().map(lambda row: row), REPO, {}, "`subset` must carry its `.selection`, got none: "),
    ],
)
def test_what_cannot_be_published_is_said_before_a_repository_is_made(
    hub: Hub, make: Callable[[], Any], repo: str, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        push(make(), repo, **options)
    assert not hub.repos


@pytest.mark.parametrize("token", ["hf_secret\nhf_secret", " "])
def test_a_token_that_cannot_be_sent_is_told_at_once_and_not_shown(hub: Hub, token: str) -> None:
    for call in (lambda: push(select(), token=token), lambda: hf_gip.load_subset(REPO, token=token)):
        with pytest.raises(ValueError, match=r": `token` must be one non-empty line without spaces: ") as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value))
        assert "hf_secret" not in re.sub(r"(?m)^    .*$", "", shown), "but for source lines"
    assert not hub.repos


def test_words_of_any_script_and_images_go_round(hub: Hub) -> None:
    images = [Picture.new("RGB", (4, 4), (i, 0, 0)) for i in range(40)]
    columns = {**pool()[:], "téxt 文 / .x": ["🙂\u2028\ud7ff"] * 40, "image": images}
    rows = Dataset.from_dict(columns).cast_column("image", Image())
    subset = select(rows, 4)
    head = push(subset).oid
    assert hf_gip.verify(REPO, source=rows).ok
    loaded = hf_gip.load_subset(REPO)
    assert isinstance(loaded, Dataset)
    assert loaded[:] == subset.with_format(None)[:]
    read = load_dataset(REPO, split="train")
    assert [image.getpixel((0, 0)) for image in read["image"]] == [(i, 0, 0) for i in subset.selection.indices]
    assert push(loaded).oid == head


def test_reading_survives_passing_faults_and_names_lasting_ones(hub: Hub) -> None:
    push(select())
    hub.fail(500, "GET .*/chosen$")
    hub.cut("GET .*/tree/", after_bytes=0)
    hub.fail(503, "resolve/.*/gip/manifest.json")
    assert hf_gip.verify(REPO).ok
    for name, revision, sentence in (
        ("alice/none", None, " and said 'Repository not found'"),
        (REPO, "f" * 40, "there is no such revision"),
    ):
        with pytest.raises(HfHubHTTPError, match=re.escape(sentence)):
            hf_gip.verify(name, revision=revision)
    hub.repos[REPO].gated = True
    with pytest.raises(HfHubHTTPError, match="it is gated: ask for access on its page"):
        hf_gip.load_subset(REPO, token=BOB)
    hub.create("alice/plain")
    with pytest.raises(FileNotFoundError, match=r"holds no gip/manifest.json: it was not published by hf-gip\.$"):
        hf_gip.load_subset("alice/plain")


def test_two_pushes_at_once_both_land(hub: Hub) -> None:
    push(select())
    subsets = {"one": select(k=4), "two": select(k=5)}
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            push(subsets[name], config_name=name)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in subsets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(hub.history(REPO)) == 4
    for name, subset in subsets.items():
        assert hf_gip.load_subset(REPO, config_name=name)["name"][:] == subset["name"][:]
    assert hf_gip.verify(REPO).ok


def test_a_writer_in_between_is_seen_and_kept(hub: Hub) -> None:
    push(select())
    hub.before("POST .*/commit/", lambda: hub.commit(REPO, {"notes.txt": b"mine"}))
    push(select(k=5))
    assert hub.files(REPO)["notes.txt"] == b"mine"
    assert len(hub.history(REPO)) == 4
    assert hf_gip.verify(REPO).ok


def test_tampering_on_the_hub_is_named(hub: Hub) -> None:
    rows = hub_pool()
    push(select(rows))
    files = hub.files(REPO)
    for path in (SHARD, SELECTION_PATH, MANIFEST_PATH):
        data = bytearray(files[path])
        data[len(data) // 2] ^= 1
        hub.commit(REPO, {path: bytes(data)})
        report = hf_gip.verify(REPO)
        assert any(path in check.sentence or check.name == "manifest" for check in report.failed), path
        with pytest.raises(ValueError, match=r"is not what its manifest says|the manifest is not valid"):
            hf_gip.load_subset(REPO)
        hub.commit(REPO, {path: files[path]})
    hub.commit(REPO, {SHARD: files[SHARD] + b"more"})
    assert f"{SHARD} was changed" in str(hf_gip.verify(REPO))
    hub.commit(REPO, {SHARD: None, "data/train-evil.parquet": files[SHARD]})
    assert "data/train-evil.parquet is not listed in the manifest" in str(hf_gip.verify(REPO))
    hub.commit(REPO, {SHARD: files[SHARD], "data/train-evil.parquet": None})
    assert hf_gip.verify(REPO).ok
    hub.commit(REPO, {"README.md": files["README.md"].replace(b"data/train-*", b"evil/*")})
    assert "configuration 'default' does not point" in str(hf_gip.verify(REPO))
    hub.commit(REPO, {"README.md": files["README.md"]})
    del hub.repos[POOL]
    report = hf_gip.verify(REPO)
    assert [check.name for check in report.failed] == ["source"]
    assert f"the source cannot be read: cannot read {POOL!r}: the Hub answered 40" in report.failed[0].sentence


def test_a_manifest_cannot_name_a_local_path_nor_too_large_a_file(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(select(hub_pool()), include_rows=False)
    manifest = parse_manifest(hub.files(REPO)[MANIFEST_PATH])
    source = manifest.source.model_copy(update={"repo_id": "private/diary"})
    hub.commit(REPO, {MANIFEST_PATH: manifest.model_copy(update={"source": source}).sealed().to_bytes()})
    (tmp_path / "private" / "diary").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must come from the Hub, but a local path has that name"):
        hf_gip.load_subset(REPO)
    hub.commit(REPO, {MANIFEST_PATH: b" " * ((16 << 20) + 1)})
    hub.log.clear()
    assert not hf_gip.verify(REPO).ok
    assert not any("resolve" in line and "manifest" in line for line in hub.log)
    listed = json.loads(manifest.to_bytes())
    listed["files"]["../../up.parquet"] = listed["files"][SELECTION_PATH]
    hub.commit(REPO, {MANIFEST_PATH: json.dumps(listed).encode()})
    assert "must stay inside its folder" in str(hf_gip.verify(REPO))
