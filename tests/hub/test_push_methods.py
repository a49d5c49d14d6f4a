"""Subsets of every method go round the Hub with what is theirs: weights, and the curves beside the gains."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hub_server import ALICE, Hub
from tiny_models import tiny_model, tiny_rows, with_lora

import hf_gip

pytestmark = pytest.mark.hub
REPO = "alice/chosen"


@pytest.fixture(autouse=True)
def fresh(fresh_hub: Hub) -> None:
    """Every test here has a Hub of its own."""


def pool() -> Dataset:
    return Dataset.from_list(tiny_rows(30))


def by_spice() -> Any:
    chosen = hf_gip.spice_select(
        pool(), 6, model=tiny_model(), projection_dim=50, window=10, update_every=2, device="cpu"
    )
    assert chosen.selection.curves
    return chosen


def by_gtp() -> Any:
    run = {"warmup_fraction": 0.5, "warmup_epochs": 2, "warmup_learning_rate": 0.02}
    goal = Dataset.from_list(tiny_rows(5, seed=9))
    chosen = hf_gip.gtp_select(
        pool(), 6, model=with_lora(tiny_model()), target=goal, projection_dim=50, device="cpu", **run
    )
    assert chosen.selection.weights is not None
    assert len(set(chosen.selection.weights.tolist())) > 1
    return chosen


@pytest.mark.parametrize("select", [by_spice, by_gtp])
def test_weights_and_curves_survive_save_push_and_load(hub: Hub, tmp_path: Path, select: Callable[[], Any]) -> None:
    subset = select()
    hf_gip.save_subset(subset, tmp_path / "saved")
    hf_gip.push_to_hub(hf_gip.load_subset(tmp_path / "saved"), REPO, token=ALICE, private=False)
    hf_gip.save_subset(hf_gip.load_subset(REPO), tmp_path / "back")
    for place in (tmp_path / "saved", REPO, tmp_path / "back"):
        report = hf_gip.verify(place, source=pool())
        assert report.ok, str(report)
        loaded = hf_gip.load_subset(place)
        assert loaded[:] == subset.with_format(None)[:]
        same(loaded.selection, subset.selection)
    again = [hf_gip.load_subset(place).selection.record["method"] for place in (tmp_path / "saved", REPO)]
    assert again == [subset.selection.record["method"]] * 2
    manifests = [(tmp_path / name / "gip" / "selection.parquet").read_bytes() for name in ("saved", "back")]
    assert manifests[0] == manifests[1] == hub.files(REPO)["gip/selection.parquet"]


def same(found: hf_gip.Selection, expected: hf_gip.Selection) -> None:
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.gains, expected.gains.double())
    assert (found.weights is None) == (expected.weights is None)
    if found.weights is not None and expected.weights is not None:
        assert torch.equal(found.weights, expected.weights.double())
    assert found.curves.keys() == expected.curves.keys()
    for name, curve in found.curves.items():
        assert torch.equal(curve, expected.curves[name].double())
