"""The scripts for the Hub: headers that `uv` and `hf jobs` read, the package's own version, and real runs."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from datasets import Dataset
from hub_server import ALICE, Hub
from huggingface_hub.cli._uv_script_header import VALID_KEYS
from saved_subset import pool

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted((ROOT / "hub_scripts").glob("*.py"))


def header(script: Path) -> dict:
    lines = script.read_text().splitlines()
    end = lines.index("# ///", 1)
    assert lines[0] == "# /// script"
    return tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[1:end]))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_header_pins_this_version_and_holds_only_what_hf_jobs_reads(script: Path) -> None:
    found = header(script)
    [pin] = found["dependencies"]
    assert pin.replace("[train]", "") == f"hf-gip=={version('hf-gip')}"
    assert set(found["tool"]["hf-jobs"]) <= set(VALID_KEYS)
    assert found["tool"]["hf-jobs"]["secrets"] == ["HF_TOKEN"]
    assert f"/raw/main/{script.name}" in script.read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_hf_jobs_takes_the_header(script: Path) -> None:
    words = [sys.executable, "-m", "huggingface_hub.cli.hf", "jobs", "uv", "run", "--dry-run", str(script)]
    code = "import sys; from huggingface_hub.cli.hf import main; sys.argv = sys.argv[1:]; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "hf", *words[3:]],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_TOKEN": ALICE},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert header(script)["tool"]["hf-jobs"]["flavor"] in done.stdout + done.stderr


def test_the_folder_s_readme_turns_the_viewer_off_and_names_every_script() -> None:
    text = (ROOT / "hub_scripts" / "README.md").read_text()
    assert yaml.safe_load(text.split("---\n")[1])["viewer"] is False
    assert all(script.name in text for script in SCRIPTS)


@pytest.fixture(scope="session")
def uv() -> str:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip("`uv` is not installed (pip install uv)")
    return found


@pytest.mark.heavy
@pytest.mark.hub
def test_uv_runs_every_script_against_the_hub(hub: Hub, uv: str, tmp_path: Path) -> None:
    """With the header's pin taken out: the pinned version is this one, which no index has while it is being made."""
    pool().push_to_hub("alice/pool", token=ALICE)
    site = installed(tmp_path)

    def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        text = (ROOT / "hub_scripts" / script).read_text()
        end = text.index("# ///\n", 5)
        bare = tmp_path / script
        bare.write_text("# /// script\n# dependencies = []\n# ///\n" + text[end + len("# ///\n") :])
        environment = {
            **os.environ,
            "HF_TOKEN": ALICE,
            "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(site), *sys.path])),
            "UV_OFFLINE": "1",
            "UV_CACHE_DIR": str(tmp_path / "uv"),
        }
        return subprocess.run(
            [uv, "run", "--python", sys.executable, str(bare), *words],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )

    done = run(
        "select-subset.py", "alice/pool", "alice/chosen", "--k", "5", "--encoder", "lexical", "--scores", "good"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "published 5 of 40 rows" in done.stdout
    done = run("verify-subset.py", "alice/chosen", "--reproduce")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "same picks: 5 of 5" in done.stdout
    hub.commit("alice/chosen", {"gip/selection.parquet": b"broken"})
    assert run("verify-subset.py", "alice/chosen").returncode == 1
    done = run("select-subset.py", "alice/none", "alice/chosen", "--k", "5")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("select-subset: ")

    Dataset.from_dict({"text": [f"{i} plus {i} is {2 * i}" for i in range(40)]}).push_to_hub("alice/sums", token=ALICE)
    model = tiny_model(tmp_path / "model")
    words = "--use_cpu --bf16 false --report_to none --num_train_epochs 2 --max_length 16 --k 8 --save_strategy no"
    done = run(
        "train-sft-gip.py",
        *("--model_name_or_path", str(model), "--dataset_name", "alice/sums", "--output_dir", str(tmp_path / "run")),
        *words.split(),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "gip" / "selection_epoch_00001.parquet").is_file()


def installed(folder: Path) -> Path:
    """The package as its wheel installs it, without what it depends on."""
    for name in ("hf_gip", "callbacks"):
        shutil.copytree(ROOT / name, folder / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree" / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(folder / "tree")], check=True)
    return folder / "site"


def tiny_model(folder: Path) -> Path:
    """A model and a tokenizer of words, saved."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<pad>", "<eos>"]
    words.train_from_iterator([f"{i} plus is" for i in range(80)], trainers.WordLevelTrainer(special_tokens=special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    )
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
