"""GTP beyond Python's own door: the command line, saved folders selected again, picks explained."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import hf_gip as command
from command_line import refusal
from datasets import Dataset
from tiny_models import tiny_model, tiny_rows, with_lora
from tiny_trainers import tiny_llama, word_rows, word_tokenizer
from trainer_runs import trained

import hf_gip
from hf_gip.hashing import hash_folder, rows_digest
from hf_gip.manifest.schema import MANIFEST_PATH, read_manifest

RUN: dict[str, Any] = {"warmup_fraction": 0.5, "warmup_epochs": 2, "warmup_learning_rate": 0.02, "seed": 3}
WORDS = [
    "--warmup-fraction",
    0.5,
    "--warmup-epochs",
    2,
    "--warmup-learning-rate",
    0.02,
    "--seed",
    3,
    "--projection-dim",
    200,
]


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def pool(n: int = 30) -> Dataset:
    return Dataset.from_list(tiny_rows(n))


def goal() -> Dataset:
    return Dataset.from_list(tiny_rows(5, seed=9))


def test_the_command_line_chooses_what_python_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, rows = word_tokenizer(30), word_rows(30)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows.to_parquet(tmp_path / "pool.parquet")
    rows.select(range(20, 25)).to_parquet(tmp_path / "goal.parquet")
    words = ["gtp", tmp_path / "pool.parquet", "--k", 6, "--model", tmp_path / "model"]
    words += ["--target", tmp_path / "goal.parquet", *WORDS, "--id-column", "uid", "--out", tmp_path / "out"]
    assert command(*words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"Chose 6 rows in [\d.]+ s: objective [\d.e-]+, [\d.]+% of what there is to capture\.", shown)
    options = {"model": str(tmp_path / "model"), "target": rows.select(range(20, 25)), "projection_dim": 200, **RUN}
    expected = hf_gip.gtp_select(rows, 6, **options).selection
    manifest = read_manifest(tmp_path / "out")
    assert (manifest.method, manifest.recipe["warm_up"]["warmup_epochs"]) == ("gtp", 2)
    found = hf_gip.load_subset(tmp_path / "out").selection
    assert found.indices.tolist() == expected.indices.tolist()
    assert torch.allclose(found.weights, expected.weights)
    assert command("verify", tmp_path / "out", "--source", tmp_path / "pool.parquet") == 0
    given = ["--source", tmp_path / "pool.parquet", "--target", tmp_path / "goal.parquet"]
    given += ["--model", tmp_path / "model"]
    assert command("reproduce", tmp_path / "out", *given) == 0
    row = int(found.indices[1])
    capsys.readouterr()
    assert command("explain", tmp_path / "out", row, *given) == 0
    assert f"Row {row} is number 2 with weight " in capsys.readouterr().out
    page = ["report", tmp_path / "out", "--source", tmp_path / "pool.parquet", "--out", tmp_path / "page.html"]
    assert command(*page) == 0
    assert all(rows[row]["text"] in (tmp_path / "page.html").read_text() for row in found.indices.tolist())
    capsys.readouterr()
    assert refusal(capsys, *page, "--target", "goal.parquet") == (
        "`--target` must be left out, got 'goal.parquet': a page about rows chosen by gtp does not use it."
    )
    assert refusal(capsys, *words[:2], "--k", 31, *words[4:-1], tmp_path / "other") == (
        "`--k` must be a whole number between 1 and the number of rows (30), got 31."
    )


@pytest.mark.parametrize("targeted", [True, False])
def test_a_saved_subset_is_selected_again(tmp_path: Path, targeted: bool) -> None:
    options: dict[str, Any] = {"target": goal() if targeted else None, "projection_dim": 100, "adam": targeted, **RUN}
    hf_gip.save_subset(hf_gip.gtp_select(pool(), 9, model=tiny_model(), **options), tmp_path / "out")
    given: dict[str, Any] = {"source": pool(), "model": tiny_model(), "device": "cpu"}
    again = hf_gip.reproduce(tmp_path / "out", target=options["target"], **given)
    assert again.verdict == "same picks"
    with pytest.raises(ValueError, match=r"^`model` must be the recorded proxy "):
        hf_gip.reproduce(tmp_path / "out", source=pool(), target=options["target"], model=tiny_model(seed=1))
    with pytest.raises(ValueError, match=r"^`checkpoints` must be left out, got \['run'\]: the subset was chosen "):
        hf_gip.reproduce(tmp_path / "out", target=options["target"], checkpoints=["run"], **given)
    if not targeted:
        with pytest.raises(
            ValueError, match=r"^`target` must be left out, got Dataset: the subset was chosen towards "
        ):
            hf_gip.reproduce(tmp_path / "out", target=goal(), **given)
    if targeted:
        other = Dataset.from_list(tiny_rows(5, seed=4))
        message = (
            "`target` must be the rows that the subset was chosen towards, got others (hash "
            f"{rows_digest(other, ['input_ids', 'labels'])[:12]}…): pass those of hash "
            f"{rows_digest(goal(), ['input_ids', 'labels'])[:12]}…."
        )
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            hf_gip.reproduce(tmp_path / "out", target=other, **given)
        two = {"one": goal(), "two": goal()}
        with pytest.raises(ValueError, match=r"^`target` must hold the 1 subtask\(s\) 'target', got 2\.$"):
            hf_gip.reproduce(tmp_path / "out", target=two, **given)
        manifest = read_manifest(tmp_path / "out")
        del manifest.recipe["target"][0]["sha256"]  # as before there were hashes
        (tmp_path / "out" / MANIFEST_PATH).write_bytes(manifest.sealed().to_bytes())
        assert hf_gip.reproduce(tmp_path / "out", target=other, **given).verdict == "different"
        message = "`target` must be passed again: the manifest names 'target' and does not hold its rows."
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            hf_gip.reproduce(tmp_path / "out", **given)


@pytest.mark.filterwarnings("ignore")
def test_checkpoints_of_a_trainer_are_passed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = word_rows(24)
    folders, _ = trained(tmp_path / "run", rows, lora=True)
    given = {"model": tiny_llama(len(word_tokenizer(24))), "tokenizer": word_tokenizer(24)}
    hf_gip.save_subset(hf_gip.gtp_select(rows, 5, checkpoints=folders, projection_dim=100, **given), tmp_path / "out")
    again = hf_gip.reproduce(tmp_path / "out", source=rows, checkpoints=folders, device="cpu", **given)
    assert again.verdict == "same picks"
    given["model"].save_pretrained(tmp_path / "model")
    given["tokenizer"].save_pretrained(tmp_path / "model")
    rows.to_parquet(tmp_path / "pool.parquet")
    words: list[object] = [
        "gtp",
        tmp_path / "pool.parquet",
        "--k",
        5,
        "--model",
        tmp_path / "model",
        "--projection-dim",
        100,
    ]
    for folder in folders:
        words += ["--checkpoint", folder]
    assert command(*words, "--out", tmp_path / "shell") == 0
    first, second = (hf_gip.load_subset(tmp_path / name).selection for name in ("out", "shell"))
    assert second.indices.tolist() == first.indices.tolist()
    assert second.record["checkpoints"] == first.record["checkpoints"]
    row = int(second.indices[0])
    words = ["explain", tmp_path / "shell", row, "--source", tmp_path / "pool.parquet", "--model", tmp_path / "model"]
    assert refusal(capsys, *words).startswith("`--checkpoint` must be passed again: the manifest names checkpoint-")
    words += [word for folder in folders for word in ("--checkpoint", folder)]
    capsys.readouterr()
    assert command(*words) == 0
    assert f"Row {row} is number 1 with weight " in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"^`checkpoints` must be passed again: the manifest names checkpoint-"):
        hf_gip.reproduce(tmp_path / "out", source=rows, **given)
    first, last = (hash_folder(Path(folder))[:12] for folder in (folders[0], folders[-1]))
    message = (
        "`checkpoints` must be the folders that the subset was chosen along, got others "
        f"in {Path(folders[-1]).name!r} (hash {last}…): pass those of hash {first}…."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=rows, checkpoints=folders[::-1], **given)
    message = f"`checkpoints` must be the {len(folders)} recorded folder(s), got 1."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hf_gip.reproduce(tmp_path / "out", source=rows, checkpoints=folders[:1], **given)


@pytest.mark.parametrize("tasks", [0, 1, 2])
def test_rows_are_explained_by_what_they_match(tasks: int, tmp_path: Path) -> None:
    target = {"one": goal().select(range(3)), "two": goal().select(range(3, 5))}
    options: dict[str, Any] = {
        "model": with_lora(tiny_model()),
        "target": [None, goal(), target][tasks],
        "projection_dim": 200,
        "adam": False,
        **RUN,
    }
    chosen = hf_gip.gtp_select(pool(), 8, **options).selection
    found = hf_gip.gradient_trajectories(pool(), **options)
    learning_rates = np.sqrt(found.learning_rates)
    A = np.concatenate(
        [r * each.load().double().numpy() for r, each in zip(learning_rates, found.features, strict=True)], 1
    )
    b = A.mean(0)[None]
    if tasks:
        b = np.concatenate(
            [r * each.numpy() for r, each in zip(learning_rates, found.target_means() or [], strict=True)], 1
        )
    assert chosen.weights is not None
    picks = chosen.indices.tolist()
    W = np.stack([each.numpy() for each in chosen.curves.values()] or [chosen.weights.numpy()])
    left, floor = b - W @ A[picks], 1e-12 * float((b * b).sum())
    for row in range(30):
        got, energy = chosen.explain(row), A[row] @ A[row]
        assert got.first_gain == pytest.approx(0.5 * sum(max(0, A[row] @ each) ** 2 for each in b) / energy)
        others = [pick for pick in picks if pick != row and W[:, picks.index(pick)].any()]
        outside = A[row] - A[others].T @ np.linalg.lstsq(A[others].T, A[row], rcond=None)[0]
        assert got.novelty == pytest.approx(outside @ outside / energy, rel=1e-6, abs=1e-12)
        for pick, taken in got.covered_by:
            assert taken == pytest.approx(A[row] @ A[pick] * W[:, picks.index(pick)].sum())
        if row not in picks:
            falls = [0.5 * max(0, A[row] @ each) ** 2 / energy for each in left]
            assert got.gain == pytest.approx(sum(falls), rel=1e-6, abs=floor)
            assert (got.rank, got.weight) == (None, 0)
            assert str(got).startswith(f"Row {row} was left out: beside the picks it would lower the loss by ")
            continue
        place = picks.index(row)
        assert (got.rank, got.gain) == (place + 1, float(chosen.gains[place]))
        assert got.weight == pytest.approx(float(chosen.weights[place]))
        rises = 0.0
        for goal_, weights, rest in zip(b, W, left, strict=True):
            kept = [pick for pick, weight in zip(picks, weights, strict=True) if weight > 0 and pick != row]
            if weights[place] > 0:
                fit = A[kept].T @ np.linalg.lstsq(A[kept].T, goal_, rcond=None)[0]
                rises += 0.5 * float((goal_ - fit) @ (goal_ - fit) - rest @ rest)
        assert got.loss_without == pytest.approx(rises, rel=1e-4, abs=floor)
    with pytest.raises(ValueError, match=r"^`row` must be a row of the pool, 0 to 29, got 30\.$"):
        chosen.explain(30)
    assert chosen.report(tmp_path / "page.html").exists()


def test_subtasks_are_passed_again_in_any_order_and_a_proxy_from_a_folder_of_any_name(tmp_path: Path) -> None:
    rows, tokenizer = word_rows(24), word_tokenizer(24)
    tiny_llama(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    tasks = {"a": rows.select(range(3)), "b": rows.select(range(20, 24))}
    chosen = hf_gip.gtp_select(rows, 5, model=str(tmp_path / "model"), target=tasks, **(RUN | {"projection_dim": 100}))
    hf_gip.save_subset(chosen, tmp_path / "out")
    (tmp_path / "model").rename(tmp_path / "moved")
    other_way = {"b": tasks["b"], "a": tasks["a"]}
    given: dict[str, Any] = {"source": rows, "model": str(tmp_path / "moved"), "device": "cpu"}
    assert hf_gip.reproduce(tmp_path / "out", target=other_way, **given).verdict == "same picks"
