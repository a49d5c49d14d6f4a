"""The command line on the Hub: publish, check, load and select again; `hf gip …` is the same program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import hf_gip as run
from datasets import DatasetDict, load_dataset
from hub_server import ALICE, Hub
from huggingface_hub import snapshot_download
from saved_subset import hub_pool, pool

import hf_gip

pytestmark = pytest.mark.hub
REPO = "alice/chosen"


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", ALICE)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    pool().to_parquet("pool.parquet")


def test_select_push_verify_load_reproduce(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("select", "pool.parquet", "--k", 5, "--features", "vector", "--push-to", REPO, "--private") == 0
    assert f"check it with `hf-gip verify {REPO}`" in capsys.readouterr().out
    assert hub.repos[REPO].private
    head = hub.head(REPO)
    assert run("verify", REPO) == 0
    assert run("verify", REPO, "--revision", head, "--source", "pool.parquet") == 0
    assert run("reproduce", REPO, "--source", "pool.parquet", "--device", "cpu") == 0
    assert "same picks: 5 of 5 rows in common" in capsys.readouterr().out
    assert run("load", REPO, "--out", "here") == 0
    assert run("verify", "here", "--source", "pool.parquet") == 0
    assert run("push", "here", REPO) == 0
    assert hub.head(REPO) == head
    hub.commit(REPO, {"gip/selection.parquet": b"broken"})
    assert run("verify", REPO) == 1


def test_a_pointer_is_loaded_from_its_source(hub: Hub) -> None:
    hub_pool()
    words = ("select", "alice/pool", "--k", 5, "--features", "vector")
    assert run(*words, "--out", "here") == 0
    assert run("push", "here", "alice/pointer", "--no-include-rows") == 0
    assert load_dataset("alice/pointer", split="train")["index"][:]
    assert run("load", "alice/pointer", "--out", "again") == 0
    assert (
        Path("again/data/train-00000-of-00001.parquet").read_bytes()
        == Path("here/data/train-00000-of-00001.parquet").read_bytes()
    )


def test_every_configuration_of_a_downloaded_repository_goes_on_to_another(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = {k: hf_gip.gip_select(pool(), k, features="vector", device="cpu") for k in (3, 4, 5)}
    hf_gip.push_to_hub(DatasetDict(train=chosen[3], test=chosen[4]), REPO, config_name="small")
    hf_gip.push_to_hub(chosen[5], REPO, config_name="large")
    snapshot_download(REPO, repo_type="dataset", local_dir="copy")
    assert run("push", "copy", "alice/one", "--config-name", "large") == 0
    assert len(hf_gip.load_subset("alice/one")) == 5
    assert run("push", "copy", "alice/one", "--config-name", "huge") == 2
    assert "`--config-name` must name one of the configurations ['small', 'large'], got 'huge'." in (
        capsys.readouterr().err.replace("\n", " ")
    )
    for _ in range(2):
        assert run("push", "copy", "alice/all") == 0
        assert len(hub.history("alice/all")) == 3, "the second time nothing had changed"
    for config_name, split, k in (("small", "train", 3), ("small", "test", 4), ("large", "train", 5)):
        assert load_dataset("alice/all", config_name, split=split)["name"][:] == chosen[k]["name"][:]
    assert hf_gip.verify("alice/all").ok


def test_what_is_wrong_is_said_in_one_line(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (("verify", "alice/none"), "hf-gip: cannot read 'alice/none': the Hub answered 404"),
        (("load", "alice/none", "--out", "x"), "hf-gip: cannot read 'alice/none': the Hub answered 404"),
        (("push", "nothing-here", REPO), "hf-gip: no folder 'nothing-here': give one written by"),
        (("select", "pool.parquet", "--k", "3"), "hf-gip: the result must go somewhere: give `--out FOLDER`"),
    ):
        assert run(*words) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("hf-gip: ")]
        assert line.startswith(sentence)
    assert not Path("x").exists()


def test_hf_dispatches_to_this_program_as_its_extension(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "home" / ".local" / "share" / "hf" / "extensions" / "hf-gip"
    folder.mkdir(parents=True)
    script = Path(sys.executable).with_name("hf-gip")
    written = {
        "owner": "someone",
        "repo": "hf-gip",
        "repo_id": "someone/hf-gip",
        "short_name": "gip",
        "executable_name": "hf-gip",
        "executable_path": str(script),
        "type": "python",
        "installed_at": "2026-01-01T00:00:00+00:00",
        "source": "https://github.com/someone/hf-gip",
    }
    (folder / "manifest.json").write_text(json.dumps(written))
    code = (
        "import sys; from huggingface_hub.cli import extensions;"
        "extensions._check_extension_update = lambda name: None;"  # it would ask GitHub
        "from huggingface_hub.cli.hf import main; sys.argv = ['hf', *sys.argv[1:]]; main()"
    )
    words = ["gip", "select", "pool.parquet", "--k", "3", "--features", "vector", "--out", "out"]
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Chose 3 rows" in done.stdout
    assert (tmp_path / "out" / "gip" / "manifest.json").is_file()


def test_a_repository_is_compared_with_a_folder(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("select", "pool.parquet", "--k", 5, "--features", "vector")
    assert run(*words, "--push-to", REPO, "--private") == 0
    assert run(*words, "--out", "here") == 0
    capsys.readouterr()
    assert run("compare", REPO, "here", "--source", "pool.parquet", "--features", "vector") == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:4] for line in lines if line.startswith("| chosen |")]
    assert [cell.strip() for cell in rows[0]][:2] == ["chosen", "5"], lines
    assert any(line.startswith("| here | 5 |") for line in lines), lines  # the same picks, so the same figures


def test_several_subsets_of_a_repository_are_compared(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for k, name in ((5, "few"), (9, "many")):
        subset = hf_gip.gip_select(pool(), k, features="vector", device="cpu")
        hf_gip.push_to_hub(subset, REPO, config_name=name, token=ALICE)
    words = ("compare", REPO, "--source", "pool.parquet", "--features", "vector")
    assert run(*words) == 0
    assert [
        line.split("|")[1:3]
        for line in capsys.readouterr().out.splitlines()
        if "/train | " in line and "%" not in line.split("|")[2]
    ] == [
        [" chosen few/train ", " 5 "],
        [" chosen many/train ", " 9 "],
    ]
    assert run(*words, "--config-name", "many") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("| chosen | 9 |")]
    assert run(*words, "--split", "test") == 2
    assert "must name one of the subsets ['few/train', 'many/train'], got None and 'test'" in capsys.readouterr().err
