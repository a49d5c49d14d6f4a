"""What every test shares: no network, temporary caches, the real data where it is at hand."""

import os
import tempfile
from pathlib import Path

os.environ.update(
    HF_HOME=tempfile.mkdtemp(prefix="hf-gip-tests-"),
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)

import pytest
import torch

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data, or a skip where this checkout has none beside it."""
    if not (DATA / "alpaca.parquet").exists():
        pytest.skip("the real data (../shared/data) is not beside this checkout")
    return DATA


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where tensor tests run: HF_GIP_TEST_DEVICE, the CPU unless told."""
    return torch.device(os.environ.get("HF_GIP_TEST_DEVICE", "cpu"))
