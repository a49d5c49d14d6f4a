"""The cost that is note before a long pass: rows of the median length, and what a user reads."""

import re
from typing import Any

import pytest
import torch
from datasets import Dataset, config
from tiny_models import tiny_model, tiny_rows

import hf_gip
from hf_gip.features import progress
from hf_gip.features.per_example_gradients import GradientRecipe, PerExampleGradients

RECIPE = GradientRecipe("*.down_proj", 64)


def test_the_batch_that_is_timed_has_the_median_length(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tiny_rows(200)
    rows[:10] = [{"input_ids": [1, 2]}] * 10  # short ones in front, where a first batch would be
    batches = []
    per_example = PerExampleGradients(tiny_model(), RECIPE)
    compute = per_example.compute
    monkeypatch.setattr(per_example, "compute", lambda batch: batches.append(batch) or compute(batch))
    progress.announce(per_example, rows, range(200), batch_size=8, max_length=32, note="")
    assert [tuple(batch.input_ids.shape) for batch in batches] == [tuple(batches[0].input_ids.shape)] * 2
    lengths = torch.tensor([len(row["input_ids"]) for row in rows]).double()
    assert len(batches[0].rows) == 8
    assert abs(batches[0].input_ids.shape[1] - float(lengths.median())) <= 3


def test_a_pool_of_few_batches_is_not_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    per_example = PerExampleGradients(tiny_model(), RECIPE)
    monkeypatch.setattr(per_example, "compute", lambda batch: pytest.fail("sampled"))
    assert progress.announce(per_example, tiny_rows(120), range(120), batch_size=8, max_length=32, note="") is None


def test_more_rows_and_training_steps_are_estimated_to_take_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(clock)))  # every batch takes one second
    per_example, rows = PerExampleGradients(tiny_model(), RECIPE), [{"input_ids": [1, 2, 3]}] * 320
    options: dict[str, Any] = {"batch_size": 8, "max_length": 32, "note": ""}
    assert progress.announce(per_example, rows, range(160), **options) == pytest.approx(20)
    assert progress.announce(per_example, rows, range(320), **options) == pytest.approx(40)
    assert progress.announce(per_example, rows, range(320), extra=80, **options) == pytest.approx(50)


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"update_every": None}, "64 dims, 0 MB on disk; if stopped, it goes on there"),
        ({"window": 20}, "64 dims, 10 windows, a step of the proxy per 10 picks"),
    ],
)
def test_a_user_reads_the_cost_before_the_rows_are_read(
    options: dict[str, Any],
    note: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(progress, "ANNOUNCE_SECONDS", 0.0)
    pool = Dataset.from_list(tiny_rows(200))
    hf_gip.spice_select(pool, 20, model=tiny_model(), target_modules="*.down_proj", projection_dim=64, **options)
    line = rf"hf-gip: gradients of 200 rows in 25 batches: {re.escape(note)}, about \d+ s \(\d+\.\d rows/s\)\n"
    assert re.fullmatch(line, capsys.readouterr().out)
