"""The options of the selections by gradients: one default each, and what a record brings back."""

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, config
from tiny_models import tiny_model, tiny_rows

import hf_gip
from hf_gip.dataset.options import GtpOptions, SpiceOptions


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("function", "options", "inputs"),
    [
        (hf_gip.spice_select, SpiceOptions, {"dataset", "k", "model", "tokenizer"}),
        (hf_gip.gtp_select, GtpOptions, {"dataset", "k", "model", "tokenizer", "target"}),
    ],
)
def test_a_selection_takes_every_option_with_its_one_default(function: Any, options: Any, inputs: set[str]) -> None:
    parameters = inspect.signature(function).parameters
    assert {name: each.default for name, each in parameters.items() if name not in inputs} == {
        field.name: field.default for field in fields(options)
    }


def test_gradient_trajectories_share_the_defaults_but_for_adam() -> None:
    parameters = inspect.signature(hf_gip.gradient_trajectories).parameters
    differing = {name for name in parameters if parameters[name].default != getattr(GtpOptions, name, None)}
    assert differing == {"dataset", "model", "adam"}


def test_a_record_brings_back_the_options_of_its_call() -> None:
    pool = Dataset.from_list(tiny_rows(20))
    spice: dict[str, Any] = {"target_modules": "*.down_proj", "projection_dim": 30, "window": 10, "update_every": None}
    spice |= {"alpha": np.float32(1.5), "stop_ratio": 0.01, "fisher": "diagonal", "max_length": 12, "seed": 4}
    record = hf_gip.spice_select(pool, 4, model=tiny_model(), **spice).selection.record
    assert SpiceOptions.from_record(record["parameters"], record) == SpiceOptions(**spice)
    gtp: dict[str, Any] = {"target_modules": "last_layer", "projection_dim": 20, "ridge": 0.5, "max_length": 12}
    gtp |= {"warmup_fraction": 0.5, "warmup_epochs": 1, "warmup_learning_rate": 0.01, "seed": 2}
    record = hf_gip.gtp_select(pool, 4, model=tiny_model(), **gtp).selection.record
    assert GtpOptions.from_record(record["parameters"], record) == GtpOptions(**gtp)
