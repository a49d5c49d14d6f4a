"""Rows of a private or unknown origin are not published unasked: through every transform, at every door, over HTTP."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from command_line import hf_gip as run
from datasets import (
    Dataset,
    Value,
    concatenate_datasets,
    disable_caching,
    enable_caching,
    interleave_datasets,
    load_dataset,
    load_from_disk,
)
from hub_server import ALICE, BOB, Hub
from saved_subset import hub_pool, pool

import hf_gip
from hf_gip.dataset.loading import find_origins
from hf_gip.manifest.licenses import strictest
from hf_gip.manifest.schema import MANIFEST_PATH, parse_manifest, read_manifest

SORTS = "ignore:Specifying null_placement:FutureWarning"  # of `datasets`
pytestmark = [pytest.mark.hub, pytest.mark.filterwarnings(SORTS)]
SECRET, OPEN, OUT = "alice/private-rows", "alice/open-rows", "alice/subset"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.chdir(tmp_path)


def secret(hub: Hub) -> Dataset:
    rows = hub_pool(repo=SECRET)
    hub.repos[SECRET].private = True
    return rows


def anonymous(hub: Hub, repo: str = OUT) -> int:
    """What the Hub answers to somebody without a token who asks for the manifest."""
    return httpx2.get(f"{hub.url}/datasets/{repo}/resolve/main/{MANIFEST_PATH}", follow_redirects=True).status_code


def stored(rows: Dataset) -> Dataset:
    rows.save_to_disk("stored")
    loaded = load_from_disk("stored")
    assert isinstance(loaded, Dataset)
    return loaded


def without_cache(rows: Dataset) -> Dataset:
    disable_caching()
    try:
        return rows.map(upper)
    finally:
        enable_caching()


def upper(row: dict[str, Any]) -> dict[str, Any]:
    return {"text": row["text"].upper()}


def noted(row: dict[str, Any]) -> dict[str, Any]:
    return {"note": row["text"]}


FOLLOWED: dict[str, Callable[[Dataset], Dataset]] = {
    "untouched": lambda rows: rows,
    "filter": lambda rows: rows.filter(lambda row: row["good"] > 0),
    "select": lambda rows: rows.select([5, 3, *range(10, 30)]),
    "select a range": lambda rows: rows.select(range(20)),
    "shuffle": lambda rows: rows.shuffle(seed=3),
    "sort": lambda rows: rows.sort("good"),
    "map": lambda rows: rows.map(upper),
    "map twice": lambda rows: rows.map(upper).shuffle(seed=1).map(noted),
    "map on two processes": lambda rows: rows.map(upper, num_proc=2),
    "map to other columns": lambda rows: rows.map(noted, remove_columns=["text", "name"]),
    "add a column of scores": lambda rows: rows.add_column("x", list(range(40))),
    "remove a column": lambda rows: rows.remove_columns("name"),
    "rename a column": lambda rows: rows.rename_column("good", "better"),
    "select columns": lambda rows: rows.select_columns(["vector", "text"]),
    "split": lambda rows: rows.train_test_split(0.5, seed=1)["train"],
    "concatenate": lambda rows: concatenate_datasets([hub_pool(repo="alice/other-rows"), rows]),
    "concatenate side by side": lambda rows: concatenate_datasets(
        [hub_pool(repo="alice/other-rows").select_columns(["text"]), rows.select_columns(["vector"])], axis=1
    ),
    "interleave": lambda rows: interleave_datasets([hub_pool(repo="alice/other-rows"), rows]),
    "repeat": lambda rows: rows.repeat(2),
    "flatten indices": lambda rows: rows.shuffle(seed=2).flatten_indices(),
    "format": lambda rows: rows.with_format("torch"),
    "cast": lambda rows: rows.cast_column("good", Value("float32")),
    "encode a class": lambda rows: rows.class_encode_column("good"),
}
LOST: dict[str, Callable[[Dataset], Dataset]] = {
    "map in memory": lambda rows: rows.map(upper, keep_in_memory=True),
    "map without a cache": without_cache,
    "flatten in memory": lambda rows: rows.shuffle(seed=2).flatten_indices(keep_in_memory=True),
    "save to disk": stored,
    "save to disk after map": lambda rows: stored(rows.map(upper)),
    "add a column of texts": lambda rows: rows.add_column("note", ["words"] * 40),
    "add an item": lambda rows: rows.add_item(rows[0]),
    "pandas": lambda rows: Dataset.from_pandas(rows.to_pandas()),  # pyright: ignore[reportArgumentType]
    "from_dict": lambda rows: Dataset.from_dict(rows[:]),
    "from_generator": lambda rows: Dataset.from_generator(lambda: iter(rows.to_iterable_dataset())),  # pyright: ignore
    "map after concatenating": lambda rows: concatenate_datasets([hub_pool(repo="alice/other-rows"), rows]).map(upper),
    "concatenate with rows in memory": lambda rows: concatenate_datasets([rows, Dataset.from_dict(rows[:9])]),
    "numbers only": lambda rows: concatenate_datasets(
        [rows.select_columns(["vector"]), Dataset.from_dict({"vector": rows["vector"][:9]})]
    ),
}


@pytest.mark.parametrize("change", FOLLOWED)
def test_rows_of_a_followed_origin_are_as_public_as_it(hub: Hub, change: str) -> None:
    for rows, repo, status in ((secret(hub), "alice/one", 401), (hub_pool(repo=OPEN), "alice/two", 200)):
        subset = FOLLOWED[change](rows).gip_select(5, features="vector", device="cpu")
        done = hf_gip.push_to_hub(subset, repo)
        assert anonymous(hub, repo) == status
        assert done.private == (status == 401)
        origins = parse_manifest(hub.files(repo)[MANIFEST_PATH]).source.origins
        assert any(
            (origin.repo_id, origin.private) == ((SECRET, True) if status == 401 else (OPEN, False))
            for origin in origins
        )
        assert all(origin.repo_id and origin.revision for origin in origins)


@pytest.mark.parametrize("change", LOST)
def test_rows_whose_origin_is_lost_are_private_and_it_is_said(
    hub: Hub, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    for rows, repo in ((secret(hub), "alice/one"), (hub_pool(repo=OPEN), "alice/two")):
        subset = LOST[change](rows).gip_select(5, features="vector", device="cpu")
        caplog.clear()
        assert hf_gip.push_to_hub(subset, repo).private
        assert anonymous(hub, repo) == 401
        [said] = [record.getMessage() for record in caplog.records if record.name == "hf_gip.hub.push"]
        assert said.startswith(f"{repo!r} is made private, as ")
        assert said.endswith(": pass `private=False` (`--public`) to publish it openly.")
    assert hf_gip.push_to_hub(subset, "alice/told", private=False).private is False
    assert anonymous(hub, "alice/told") == 200


@pytest.mark.parametrize("change", ["untouched", "filter", "map", "add a column of scores", "concatenate"])
@pytest.mark.parametrize("kind", ["private", "gated"])
def test_a_saved_folder_keeps_its_origin(hub: Hub, change: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = hub_pool(repo=SECRET)
    setattr(hub.repos[SECRET], kind, True)
    hf_gip.save_subset(FOLLOWED[change](rows).gip_select(5, features="vector", device="cpu"), "one")
    hf_gip.save_subset(FOLLOWED[change](hub_pool(repo=OPEN)).gip_select(5, features="vector", device="cpu"), "two")
    assert run("push", "one", "alice/one") == run("push", "two", "alice/two") == 0
    out = capsys.readouterr().out.replace("\n", "")
    assert "(private): check it with" in out
    assert "(public): check it with" in out
    assert (anonymous(hub, "alice/one"), anonymous(hub, "alice/two")) == (401, 200)


def test_the_command_line_follows_a_repository_and_not_a_file_or_folder(hub: Hub) -> None:
    secret(hub).save_to_disk("stored")
    hub_pool(repo=OPEN).to_parquet("rows.parquet")
    for number, (source, status) in enumerate(
        ((SECRET, 401), (OPEN, 200), ("stored", 401), ("rows.parquet", 401), ("rows.parquet --public", 200))
    ):
        words = ("--k", 5, "--features", "vector", "--push-to", f"alice/out{number}")
        assert run("select", *source.split(), *words) == 0
        assert anonymous(hub, f"alice/out{number}") == status, source


@pytest.mark.parametrize("words", [[SECRET], [OPEN], [SECRET, "--public"]], ids=["private", "public", "told"])
def test_the_script_follows_a_repository(hub: Hub, words: list[str], tmp_path: Path) -> None:
    secret(hub)
    hub_pool(repo=OPEN)
    [source, *options] = words
    script = [sys.executable, str(ROOT / "hub_scripts" / "select-subset.py"), source, OUT, "--k", "5", *options]
    done = subprocess.run(
        [*script, "--encoder", "lexical"],
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    closed = words == [SECRET]
    assert anonymous(hub) == (401 if closed else 200)
    assert ("(private)" if closed else "(public)") in done.stdout


@pytest.mark.parametrize("change", ["untouched", "shuffle", "map"])
def test_the_callback_follows_its_pool(hub: Hub, change: str, tmp_path: Path) -> None:
    from hf_gip.callbacks import GIPSelectionCallback
    from tiny_trainers import make_trainer, word_rows

    for repo, private in ((SECRET, True), (OPEN, False)):
        rows = hub_pool(word_rows(24), repo)
        hub.repos[repo].private = private
        rows = FOLLOWED[change](rows) if change != "map" else rows.map(lambda row: row)
        trainer = make_trainer(tmp_path / repo, rows, num_train_epochs=1)
        trainer.add_callback(GIPSelectionCallback(trainer, 6, pool=rows, push_to=f"{repo}-subset"))
        trainer.train()
        assert anonymous(hub, f"{repo}-subset") == (401 if private else 200)


def test_two_repositories_of_one_name_and_size_are_both_origins(hub: Hub) -> None:
    secret_rows = hub_pool(repo="alice/rows")
    hub.repos["alice/rows"].private = True
    pool().push_to_hub("bob/rows", token=BOB)
    rows = load_dataset("bob/rows", split="train")
    assert isinstance(rows, Dataset)
    assert rows.info == secret_rows.info
    mixed = concatenate_datasets([rows, secret_rows]).map(upper)
    assert [origin["repo_id"] for origin in find_origins(mixed)] == ["alice/rows", "bob/rows"]
    assert hf_gip.push_to_hub(mixed.gip_select(5, features="vector", device="cpu"), OUT).private


def test_rows_that_may_not_be_passed_on_stay_out_of_a_public_repository(hub: Hub) -> None:
    private = secret(hub).shuffle(seed=1).gip_select(5, features="vector", device="cpu")
    unknown = pool().gip_select(5, features="vector", device="cpu")
    hub.create(OUT)
    for subset, reason in (
        (private, f"the source {SECRET!r} is private, gated or not to be seen, and {OUT!r} is public: pass "),
        (unknown, "not every row's origin is known (local files, or rows made or kept in memory), and "),
    ):
        with pytest.raises(ValueError, match=rf"^{re.escape(reason)}.*`private=False` if rows may be passed on"):
            hf_gip.push_to_hub(subset, OUT)
        with pytest.raises(ValueError, match=r"^`private` must be left out or False for 'alice/subset', which is"):
            hf_gip.push_to_hub(subset, OUT, private=True)
    assert set(hub.files(OUT)) == {".gitattributes"}
    assert hf_gip.push_to_hub(unknown, OUT, private=False).private is False
    hub.create("alice/closed", private=True)
    assert hf_gip.push_to_hub(private, "alice/closed", private=False).private, "an existing one stays as it is"


def test_a_private_subset_is_an_origin_itself(hub: Hub) -> None:
    subset = hub_pool(repo=OPEN).gip_select(5, features="vector", device="cpu")
    hf_gip.push_to_hub(subset, "alice/mine", private=True)
    loaded = hf_gip.load_subset("alice/mine")
    head = hub.head("alice/mine")
    assert hf_gip.push_to_hub(loaded, "alice/mine").oid == head
    assert hf_gip.push_to_hub(loaded, OUT).private
    assert anonymous(hub) == 401


def test_a_derived_source_is_recorded_as_such(hub: Hub, tmp_path: Path) -> None:
    rows = hub_pool(repo=OPEN)
    for name, derived in (("a", rows.shuffle(seed=1)), ("b", rows.with_format("numpy"))):
        hf_gip.save_subset(derived.gip_select(5, features="vector", device="cpu"), tmp_path / name)
    shuffled, formatted = (read_manifest(tmp_path / name).source for name in "ab")
    assert (shuffled.kind, formatted.kind) == ("rows", "hub"), "a format changes no row"
    assert [(one.repo_id, one.revision) for one in shuffled.origins] == [(OPEN, hub.head(OPEN))]
    assert f"derived from [{OPEN}]" in (tmp_path / "a" / "README.md").read_text()


def licensed(hub: Hub, repo: str, name: str) -> Dataset:
    pool().push_to_hub(repo, token=ALICE)
    card = hub.files(repo)["README.md"].decode().replace("---\n", f"---\nlicense: {name}\n", 1)
    hub.commit(repo, {"README.md": card.encode()})
    rows = load_dataset(repo, split="train")
    assert isinstance(rows, Dataset)
    return rows


def test_the_strictest_license_stands_on_the_card(hub: Hub, caplog: pytest.LogCaptureFixture) -> None:
    rows = concatenate_datasets([licensed(hub, OPEN, "mit"), licensed(hub, "alice/b", "cc-by-nc-4.0")]).shuffle(seed=1)
    subset = rows.gip_select(5, features="vector", device="cpu")
    hub.create(OUT, {"README.md": b"---\nlicense: mit\n---\n\nMine.\n"})
    hf_gip.push_to_hub(subset, OUT)
    text = hub.files(OUT)["README.md"].decode()
    assert yaml.safe_load(text.split("---\n")[1])["license"] == "cc-by-nc-4.0"
    assert "`cc-by-nc-4.0`, the license of the source" in text
    assert [record.getMessage() for record in caplog.records if record.name == "hf_gip.hub.push"] == [
        f"the card of {OUT!r} said license mit, its rows are under cc-by-nc-4.0: it now says cc-by-nc-4.0."
    ]
    caplog.clear()
    hf_gip.push_to_hub(licensed(hub, "alice/c", "mit").gip_select(5, features="vector", device="cpu"), OUT)
    assert yaml.safe_load(hub.files(OUT)["README.md"].decode().split("---\n")[1])["license"] == "cc-by-nc-4.0"
    assert not [record for record in caplog.records if record.name == "hf_gip.hub.push"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mit", "cc-by-nc-4.0"], ["cc-by-nc-4.0"]),
        (["cc-by-sa-4.0", "apache-2.0"], ["cc-by-sa-4.0"]),
        (["cc-by-nc-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-4.0"], ["cc-by-nc-nd-4.0"]),
        (["cc0-1.0", "cc-by-4.0"], ["cc-by-4.0"]),
        (["other", "mit"], ["other"]),
        (["llama3", "cc-by-nc-4.0"], ["llama3", "cc-by-nc-4.0"]),
        ([], []),
    ],
)
def test_the_strictest_of_several_licenses(names: list[str], expected: list[str]) -> None:
    assert strictest(names) == strictest(reversed(names)) == expected


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda rows: rows.shuffle(seed=1), "changed rows"),
        (lambda rows: rows.map(noted), "changed rows"),
        (lambda rows: Dataset.from_dict(rows[:]), "rows made in memory"),
    ],
)
def test_rows_that_could_not_be_rebuilt_are_not_left_out(
    hub: Hub, tmp_path: Path, change: Callable[[Dataset], Dataset], what: str
) -> None:
    subset = change(hub_pool(repo=OPEN)).gip_select(5, features="vector", device="cpu")
    sentence = f"`include_rows=False` must have a source that `load_subset` can read from the Hub, got {what}: keep"
    for publish in (
        lambda: hf_gip.push_to_hub(subset, OUT, include_rows=False),
        lambda: hf_gip.save_subset(subset, tmp_path / "out", include_rows=False),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
            publish()
    assert OUT not in hub.repos
    assert not (tmp_path / "out").exists()


def test_a_commit_that_is_gone_cannot_be_pointed_at(hub: Hub) -> None:
    subset = hub_pool(repo=OPEN).gip_select(5, features="vector", device="cpu")
    del hub.repos[OPEN]
    hub.create(OPEN)
    with pytest.raises(OSError, match=f"^cannot ask for the source {OPEN!r}: .*there is no such revision"):
        hf_gip.push_to_hub(subset, OUT, include_rows=False)
    assert OUT not in hub.repos
