"""The command line: real files through real processes, and every mistake in one sentence before any work."""

import json
import re
import shutil
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
from command_line import hf_gip, refusal
from datasets import Dataset, DatasetDict, load_dataset
from saved_subset import pool

from hf_gip import gip_select, gtp_select, spice_select
from hf_gip.cli.app import PROGRAM_COMMANDS, arguments_as_flags


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    pool().to_parquet(tmp_path / "pool.parquet")
    return tmp_path / "pool.parquet"


def test_select_then_verify_in_processes_of_their_own(source: Path, tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "hf_gip", *words], capture_output=True, text=True, cwd=tmp_path)

    done = run("select", "pool.parquet", "--k", "7", "--scores", "good", "--encoder", "lexical", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "Read 40 rows of 4 columns from 'pool.parquet'" in done.stdout
    assert re.search(r"Chose 7 rows in [\d.]+ s: objective [\d.]+, [\d.]+% of what there is to capture\.", done.stdout)
    assert "First 7 of 7 picks" in done.stdout
    assert run("verify", "out").returncode == 0
    whole = run("verify", "out", "--source", "pool.parquet")
    assert whole.returncode == 0
    assert "7 rows of the source have the hashes of the" in whole.stdout
    shard = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    broken = run("verify", "out")
    assert broken.returncode == 1
    assert "out: NOT verified" in broken.stdout


@pytest.mark.parametrize(("command", "option"), [("select", "--scores"), ("spice", "--conflict-penalty")])
def test_the_help_needs_no_torch(command: str, option: str) -> None:
    code = f"import sys; sys.argv = ['hf-gip', '{command}', '--help']\nfrom hf_gip.cli.app import main\ntry: main()\n"
    code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'sklearn' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


def test_verifying_a_folder_needs_no_torch(source: Path, tmp_path: Path) -> None:
    assert hf_gip("select", source, "--k", 3, "--features", "vector", "--out", tmp_path / "out") == 0
    code = "import sys; sys.argv[0] = 'hf-gip'\nfrom hf_gip.cli.app import main\ntry: main()\n"
    code += "except SystemExit as exit_: assert exit_.code == 0\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "verify", "out"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "out: verified" in done.stdout


def test_every_kind_of_local_source_is_read(source: Path, tmp_path: Path) -> None:
    rows = pool().remove_columns("vector")
    rows.to_json(tmp_path / "pool.jsonl")
    rows.to_csv(tmp_path / "pool.csv")
    rows.save_to_disk(tmp_path / "saved")
    DatasetDict({"train": rows, "test": rows.select(range(9))}).save_to_disk(tmp_path / "splits")
    picks = []
    for name in ("pool.parquet", "pool.jsonl", "pool.csv", "saved", "splits"):
        out = tmp_path / f"out-{name}"
        assert hf_gip("select", tmp_path / name, "--k", 5, "--encoder", "lexical", "--out", out) == 0
        assert hf_gip("verify", out, "--source", tmp_path / name) == 0
        picks.append(load_dataset(str(out), split="train")["text"][:])
    assert picks == picks[:1] * 5
    out = tmp_path / "test-split"
    assert (
        hf_gip("select", tmp_path / "splits", "--split", "test", "--k", 2, "--encoder", "lexical", "--out", out) == 0
    )
    assert hf_gip("verify", out, "--source", tmp_path / "splits") == 0


def test_a_target_file_ready_vectors_and_names_of_rows(source: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("await loop\n")
    words = ["select", source, "--k", 3, "--encoder", "lexical", "--target", tmp_path / "wanted.txt"]
    assert hf_gip(*words, "--diversity", 0.1, "--out", tmp_path / "towards") == 0
    texts = load_dataset(str(tmp_path / "towards"), split="train")["text"][:]
    assert all("await" in text or "loop" in text for text in texts)
    np.save(tmp_path / "vectors.npy", np.asarray(pool()["vector"][:], np.float32))
    by_column = ["select", source, "--k", 4, "--features", "vector", "--out", tmp_path / "column"]
    by_matrix = ["select", source, "--k", 4, "--features", tmp_path / "vectors.npy", "--out", tmp_path / "matrix"]
    assert hf_gip(*by_column, "--id-column", "name") == hf_gip(*by_matrix) == 0
    one, two = (load_dataset(str(tmp_path / name), "selection", split="train") for name in ("column", "matrix"))
    assert one["index"][:] == two["index"][:]
    assert one["row_id"][:] == [f"row-{i}" for i in two["index"][:]]


def test_no_text_of_a_row_is_taken_for_markup_or_control(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Dataset.from_dict({"text": ["[bold red]boo[/] \x1b[31mred", "plain words here"]}).to_parquet(
        tmp_path / "p.parquet"
    )
    assert hf_gip("select", tmp_path / "p.parquet", "--k", 2, "--encoder", "lexical", "--out", tmp_path / "out") == 0
    shown = capsys.readouterr().out
    assert "[bold red]boo[/]" in shown
    assert "\x1b[31mred" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--k", "0"], "`--k` must be a whole number between 1 and the number of rows (40), got 0."),
        (["--k", "-3"], "`--k` must be a whole number between 1 and the number of rows (40), got -3."),
        (["--k", "41"], "`--k` must be a whole number between 1 and the number of rows (40), got 41."),
        (
            ["--columns", "nope"],
            "`--columns` must name columns of the dataset ['text', 'vector', 'good', 'name'], got 'nope'.",
        ),
        (
            ["--columns", "good"],
            "`--columns` must hold text or chat messages, got column 'good' with float values: choose text columns or "
            "make one with `dataset.map`.",
        ),
        (
            ["--scores", "name"],
            "`--scores` column 'name' must be numeric, got type string: use `cast_column`.",
        ),
        (
            ["--scores", "nope"],
            "`--scores` must name a column of the dataset ['text', 'vector', 'good', 'name'], got 'nope'.",
        ),
        (
            ["--features", "text"],
            "`--features` column 'text' must hold vectors (lists of numbers), got type string.",
        ),
        (
            ["--id-column", "good"],
            "`--id-column` must name each row once, got 34 repeated values in 'good': leave it out to use positions.",
        ),
        (["--noise", "-1"], "`--noise` must be a number of at least 0, got -1.0."),
        (
            ["--device", "cuda"],
            "`--device` is 'cuda' but torch sees no GPU here: leave `--device` out, or install a CUDA torch.",
        ),
        (["--device", "warp"], "`--device` must be a torch device such as 'cpu' or 'cuda', got 'warp'."),
        (["--target", "missing.jsonl"], "no file 'missing.jsonl': check the path."),
        (["--max-tokens", "0"], "`--max-tokens` must be a whole number of at least 1, got 0."),
        (
            ["--target-split", "test"],
            "`--target-split` must be left out, got 'test': it goes with `--target`, got none.",
        ),
        (["--target-config", "a"], "`--target-config` must be left out, got 'a': it goes with `--target`, got none."),
        (["--exclude-split", "a"], "`--exclude-split` must be left out, got 'a': it goes with `--exclude`, got none."),
        (
            ["--exclude-config", "a"],
            "`--exclude-config` must be left out, got 'a': it goes with `--exclude`, got none.",
        ),
        (
            ["--target", "missing.npy", "--target-split", "test"],
            "`--target-split` must be left out, got 'test': a matrix such as 'missing.npy' has none.",
        ),
        (
            ["--target", "missing.jsonl", "--target-config", "main"],
            "`--target-config` must be left out for 'missing.jsonl', which is not on the Hub, got 'main'.",
        ),
        (["--config", "main"], "`--config` must be left out for 'pool.parquet', which is not on the Hub, got 'main'."),
        (["--revision", "v1"], "`--revision` must be left out for 'pool.parquet', which is not on the Hub, got 'v1'."),
        (["--features", "missing.npy"], "no file 'missing.npy': check the path."),
    ],
)
def test_bad_options_are_refused_before_any_work(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    import torch

    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr("hf_gip.features.embed._fill", lambda *_: pytest.fail("embedded before checking"))
    options = [] if "--k" in words else ["--k", 5]
    options += [] if "--features" in words else ["--encoder", "lexical"]
    assert refusal(capsys, "select", source, *options, *words, "--out", tmp_path / "out") == message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["spice", "--window", "-1"], "`--window` must be a whole number of rows, or 0 for all at once, got -1."),
        (
            ["spice", "--stop-ratio", "2"],
            "`--stop-ratio` must be between 0 and 1, got 2.0: leave it out never to stop.",
        ),
        (["spice", "--max-length", "0"], "`--max-length` must be a whole number of at least 1, got 0."),
        (
            ["spice", "--update-every", "0"],
            "`--update-every` must be at least 1, got 0: for a proxy left as it is, add `--frozen-proxy`.",
        ),
        (["gtp", "--projection-dim", "0"], "`--projection-dim` must be a whole number of at least 1, got 0."),
        (["gtp", "--warmup-epochs", "0"], "`--warmup-epochs` must be a whole number of at least 1, got 0."),
        (["gtp", "--max-length", "-4"], "`--max-length` must be a whole number of at least 1, got -4."),
        (
            ["gtp", "--target-split", "a"],
            "`--target-split` must be left out, got 'a': it goes with `--target`, got none.",
        ),
    ],
)
def test_options_of_spice_and_gtp_are_refused_in_the_words_of_the_command_line(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    command = [words[0], source, "--k", 2, "--model", "none", "--out", tmp_path / "out", *words[1:]]
    assert refusal(capsys, *command) == message


def test_splits_of_what_is_not_named_are_refused_by_every_command_that_reads_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, tail = tmp_path / "out", ["--target-split", "test"]
    assert hf_gip("select", source, "--k", 3, "--features", "vector", "--out", out) == 0
    capsys.readouterr()
    message = "`--target-split` must be left out, got 'test': it goes with `--target`, got none."
    compared = ["compare", out, "--features", "vector"]
    for words in (["explain", out, 1], ["reproduce", out], compared, ["report", out, "--out", tmp_path / "p.html"]):
        assert refusal(capsys, *words, "--source", source, *tail) == message
    assert refusal(capsys, "report", out, "--out", tmp_path / "p.html", *tail) == (
        "`--target-split` must be left out, got 'test': only a page with the pool, `--source`, takes it."
    )


def test_a_model_with_code_of_its_own_is_refused_without_running_it_or_asking(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    kind = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": kind}))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([module]))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # what a user may answer if asked
    end = (
        f"must open without code of its own, which is never run here, got {str(folder)!r}: name a model of an "
        "architecture that is built in, or load it yourself in Python and pass the live model."
    )
    for option, words in (("--encoder", ["select"]), ("--model", ["spice"]), ("--model", ["gtp"])):
        said = refusal(capsys, *words, source, "--k", 2, option, folder, "--out", tmp_path / "out")
        assert said == f"`{option}` {end}"
    assert not (tmp_path / "ran").exists()


def test_a_split_beside_an_empty_one_is_selected_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    DatasetDict(train=pool(), test=pool().select([])).save_to_disk("folder")
    words = ["select", "folder", "--k", 2, "--features", "vector"]
    assert hf_gip(*words, "--split", "train", "--out", "out") == 0
    capsys.readouterr()
    assert refusal(capsys, *words, "--split", "test", "--out", "more") == (
        "split 'test' of 'folder' must hold at least one row, got 0: check the folder."
    )


def test_a_mistyped_folder_is_read_as_a_path_and_as_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    for name in ("mistyped", "runs/mistyped"):
        said = refusal(capsys, "select", name, "--k", 2, "--out", "out")
        assert said.startswith(f"{name!r} is no file or folder here, and no dataset was found on the Hub (")
        assert "401" not in said
    for name in ("./mistyped", "runs/mistyped/", "/gone/mistyped"):
        said = refusal(capsys, "select", name, "--k", 2, "--out", "out")
        assert said == f"no file or folder {name!r}: check the path, or give a Hub id such as 'user/name'."
    assert refusal(capsys, "verify", "runs/mistyped") == (
        "'runs/mistyped' is no folder here, and no repository of that name can be seen on the Hub: check the path, or "
        "the repository's name and `hf auth login`."
    )


def test_arguments_of_python_are_called_by_the_options_of_the_command() -> None:
    def said(sentence: str, *command: str) -> str:
        return arguments_as_flags(sentence, [*command])

    sentence = '`encoder` 7: give `encoder="lexical"`, `k=3` or `seeds`, not `seed`.'
    assert said(sentence, "select") == "`--encoder` 7: give `--encoder lexical`, `k=3` or `seeds`, not `seed`."
    assert said("`seeds` and `encoder`", "compare") == "`--seeds` and `--encoder`"
    assert said("`rows` of `columns=[…]`", "spice") == "`rows` of `--columns …`"
    assert said('`target_modules="*.down_proj"`', "gtp") == '`--target-modules "*.down_proj"`'
    assert said("`target_modules='hidden'`", "spice") == "`--target-modules hidden`"
    assert said("`adam=True`, or `adam=False`.", "gtp") == "`--adam`, or no `--adam`."
    assert said("`private=False` or `private=True`", "push") == "`--public` or `--private`"
    assert said("`include_rows=False` of `checkpoints`", "gtp") == "`--no-include-rows` of `--checkpoint`"


def test_a_name_that_is_no_option_of_the_command_stays_as_it_is() -> None:
    sentence = "`folder`, `update_every=None`, `source` and `rows_sha256`"
    for command in (["select"], ["spice"], ["push"], [], ["--help"], ["nonsense"]):
        assert arguments_as_flags(sentence, command).startswith("`folder`, `update_every=None`, `source`")
    assert arguments_as_flags("`source`", ["verify"]) == "`--source`"


def test_the_help_shows_the_defaults_of_python() -> None:
    for command, function in (("select", gip_select), ("spice", spice_select), ("gtp", gtp_select)):
        python = {each.name: each.default for each in signature(function).parameters.values()}
        shell = {each.name: each.default for each in PROGRAM_COMMANDS[command].params}
        shared = (python.keys() & shell.keys()) - {"k"}
        assert len(shared) > 10
        assert {name: shell[name] for name in shared if name != "model"} == {
            name: python[name] for name in shared if name != "model"
        }


def test_a_folder_in_use_is_refused_before_the_source_is_read(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    message = f"`--out` must be new or empty, got {str(tmp_path / 'full')!r}: name another or clear it first."
    assert refusal(capsys, "select", "no/such", "--k", 5, "--out", tmp_path / "full") == message
    assert refusal(capsys, "select", source, "--k", 5, "--out", source) == message.replace("full", "pool.parquet")


def test_sources_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(name: str, *words: object) -> str:
        return refusal(capsys, "select", name, "--k", 1, "--out", tmp_path / "out", "--encoder", "lexical", *words)

    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "odd.xyz").write_text("what")
    (tmp_path / "folder").mkdir()
    Dataset.from_dict({"text": []}).to_parquet(tmp_path / "none.parquet")
    Dataset.from_dict({"text": ["", "  "]}).to_parquet(tmp_path / "blank.parquet")
    assert said("/no/such/place") == (
        "no file or folder '/no/such/place': check the path, or give a Hub id such as 'user/name'."
    )
    assert said(f"{tmp_path}/gone.parquet") == f"no file '{tmp_path}/gone.parquet': check the path."
    assert said(f"{tmp_path}/bad.parquet").startswith("cannot read 'bad.parquet' as parquet: ")
    assert said(f"{tmp_path}/odd.xyz") == (
        "cannot tell the format of 'odd.xyz': use one of .parquet, .jsonl, .json, .csv, .tsv, .txt."
    )
    assert said(f"{tmp_path}/folder") == (
        "folder 'folder' was not written by `save_to_disk`: give a data file or such a folder."
    )
    assert said(f"{tmp_path}/none.parquet") == ("'none.parquet' must hold at least one row, got 0: check the file.")
    assert said(f"{tmp_path}/blank.parquet") == (
        "`--columns` must hold text, got 2 empty texts from ['text']: name other columns."
    )
    assert "no/such" in said("no/such")


def test_verify_names_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "nothing")
    assert refusal(capsys, "verify", missing) == (
        f"no folder {missing!r}: give one written by `hf_gip.save_subset`, or a repository such as 'me/rows'."
    )
    (tmp_path / "empty").mkdir()
    assert hf_gip("verify", tmp_path / "empty") == 1
    assert "holds no gip/manifest.json" in capsys.readouterr().out


def test_wrong_vectors_are_refused(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(matrix: np.ndarray) -> str:
        np.save(tmp_path / "vectors.npy", matrix)
        return refusal(
            capsys, "select", source, "--k", 2, "--features", tmp_path / "vectors.npy", "--out", tmp_path / "out"
        )

    assert said(np.ones((39, 4), np.float32)) == (
        "`--features` must have one row per example (40), got 39: pass the vectors of this very dataset, in its order."
    )
    bad = np.ones((40, 4), np.float32)
    bad[3, 1] = np.nan
    assert "NaN" in said(bad)
    assert "3" in said(bad)
    (tmp_path / "vectors.npy").write_bytes(b"junk")
    shutil.copy(tmp_path / "vectors.npy", tmp_path / "junk.npy")
    message = refusal(
        capsys, "select", source, "--k", 2, "--features", tmp_path / "junk.npy", "--out", tmp_path / "out"
    )
    assert message.startswith("cannot read 'junk.npy' as a matrix: ")


def test_a_saved_pick_is_explained_and_reported(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = ("select", source, "--k", 7, "--scores", "good", "--encoder", "lexical", "--out", "out")
    assert hf_gip(*chosen) == 0
    picks = load_dataset("parquet", data_files=str(tmp_path / "out/gip/selection.parquet"), split="train")
    capsys.readouterr()
    assert hf_gip("explain", "out", picks[2]["index"], "--source", source) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith(f"Row {picks[2]['index']} was pick 3 and added {picks[2]['gain']:.4g} ")
    assert hf_gip("report", "out", "--out", "page.html") == 0
    assert refusal(capsys, "report", "out", "--encoder", "lexical") == (
        "`--encoder` must be left out, got 'lexical': only a page with the pool, `--source`, takes it."
    )
    bare = (tmp_path / "page.html").read_text()
    assert bare.startswith("<!doctype html>")
    assert hf_gip("report", "out", "--source", source, "--out", "whole.html") == 0
    whole = (tmp_path / "whole.html").read_text()
    assert (bare.count("<img "), whole.count("<img ")) == (1, 4)
    assert '"most like"' in whole
    pool().select(range(30)).to_parquet(tmp_path / "less.parquet")
    rows = pool()
    rank, row = next((i, row) for i, row in enumerate(picks["index"]) if rows[row]["text"] != rows[39 - row]["text"])
    pool().select(range(39, -1, -1)).to_parquet(tmp_path / "others.parquet")
    pool().remove_columns("good").to_parquet(tmp_path / "narrow.parquet")
    said = "`--source` must be the pool that the rows were chosen from: "
    for words in (["explain", "out", 3], ["report", "out"], ["compare", "out", "--encoder", "lexical"]):
        for name, message in (
            ("less", "`--source` must be the pool of 40 rows, got 30 rows."),
            ("others", f"{said}row '{row}' at rank {rank} was changed."),
            ("narrow", f"{said}the source has no column 'good'."),
        ):
            assert refusal(capsys, *words, "--source", f"{name}.parquet") == message
    words = ("select", "others.parquet", "--k", 7, "--features", "vector", "--out", "two")
    assert hf_gip(*words) == 0
    assert refusal(capsys, "compare", "out", "two", "--source", source).startswith(
        "`--source` must be the pool that the rows of 'two' were chosen from: row "
    )
    assert refusal(capsys, "explain", "out", 3, "--source", source, "--checkpoint", "run") == (
        "`--checkpoint` must be left out, got ['run']: a subset chosen by gip has none."
    )
    assert refusal(capsys, "explain", "out", 4_000, "--source", source) == (
        "`row` must be a row of the pool, 0 to 39, got 4000."
    )


def test_excluded_rows_are_passed_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pool().select(range(3)).to_parquet("test.parquet")
    words = ["select", source, "--k", 4, "--encoder", "lexical", "--exclude", "test.parquet", "--out", "out"]
    assert hf_gip(*words) == 0
    for each in (["reproduce", "out"], ["explain", "out", 1], ["report", "out"]):
        capsys.readouterr()
        assert refusal(capsys, *each, "--source", source) == (
            "`--exclude` must be passed again: the manifest names a dataset and does not hold it."
        )
        assert refusal(capsys, *each, "--source", source, "--exclude", source).startswith(
            "`--exclude` must be the rows that the subset was kept away from, got others (hash "
        )
        assert hf_gip(*each, "--source", source, "--exclude", "test.parquet") == 0


def test_saved_subsets_are_compared(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, quality in (("plain", 0.0), ("best", 9.0)):
        words = ["select", source, "--k", 6, "--features", "vector", "--scores", "good", "--quality", quality]
        assert hf_gip(*words, "--out", tmp_path / name) == 0
    capsys.readouterr()
    words = ["compare", tmp_path / "plain", tmp_path / "best", "--source", source, "--features", "vector"]
    assert hf_gip(*words, "--scores", "good", "--baselines", "--json", tmp_path / "figures.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| subset | rows | captured | vendi | coverage | good | mean length |"
    assert any(line.startswith("| plain, best |") for line in lines)
    assert any(line.startswith("| k-centre, 6 rows |") for line in lines)
    assert (tmp_path / "figures.json").read_text().startswith("{")
    pool().select(range(30)).to_parquet(tmp_path / "other.parquet")
    words = ["compare", tmp_path / "plain", "--source", tmp_path / "other.parquet", "--features", "vector"]
    assert refusal(capsys, *words) == "`--source` must be the pool of 40 rows, got 30 rows."
    assert hf_gip("select", tmp_path / "other.parquet", "--k", 3, "--features", "vector", "--out", tmp_path / "c") == 0
    plain = ["compare", tmp_path / "plain", tmp_path / "best"]
    assert refusal(capsys, *plain, tmp_path / "c", "--source", source) == (
        "the subsets must come from one pool, got pools of different sizes: plain of 40, best of 40, c of 30 rows; "
        "leave some out."
    )
    twice = str(tmp_path / "best" / ".." / "plain")
    assert refusal(capsys, *plain, twice, "--source", source) == (
        f"every subset must be named once, got {str(tmp_path / 'plain')!r} twice: leave one out."
    )


def test_the_figures_file_is_made_possible_before_the_work(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hf_gip("select", source, "--k", 3, "--features", "vector", "--out", tmp_path / "out") == 0
    capsys.readouterr()
    words = ["compare", tmp_path / "out", "--source", source, "--features", "vector", "--json"]
    assert hf_gip(*words, tmp_path / "new" / "folder" / "x.json") == 0
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["x.json"]
    capsys.readouterr()
    assert refusal(capsys, "compare", "nowhere", "--source", "none", "--json", tmp_path) == (
        f"`--json` must be a file to write, got the folder {str(tmp_path)!r}: add a name, as figures.json."
    )
    inside = str(source / "x.json")
    assert refusal(capsys, "compare", "nowhere", "--source", "none", "--json", inside).startswith(
        f"`--json` must be a file to write, got {inside!r}, whose folder cannot be made ("
    )


def test_subsets_are_compared_by_the_texts_they_were_chosen_by(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pool().rename_columns({"text": "said", "name": "by"})
    rows.to_parquet(tmp_path / "odd.parquet")
    common = ["select", tmp_path / "odd.parquet", "--k", 3, "--encoder", "lexical"]
    assert hf_gip(*common, "--columns", "said,by", "--out", tmp_path / "a") == 0
    assert hf_gip(*common, "--columns", "said", "--out", tmp_path / "b") == 0
    words = ["compare", tmp_path / "a", "--source", tmp_path / "odd.parquet", "--encoder", "lexical"]
    both = [*words[:2], tmp_path / "b", *words[2:]]
    figures = []
    for each in (words, [*words, "--columns", "said,by"], [*words, "--columns", "said"]):
        capsys.readouterr()
        assert hf_gip(*each) == 0
        figures.append(capsys.readouterr().out)
    assert figures[0] == figures[1] != figures[2]
    assert refusal(capsys, *both).startswith("no known text layout fits the columns ['said', ")
    assert hf_gip(*both, "--columns", "said") == 0


def test_quotas_and_weights_are_read_from_words(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["select", source, "--k", 6, "--features", "vector", "--group-column", "good", "--out", tmp_path / "x"]
    said = refusal(capsys, *words, "--max-per-group", "many")
    assert said == "`--max-per-group` must be numbers such as 50 or forum=50,wiki=20, got 'many'."
