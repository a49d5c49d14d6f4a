"""What every test shares: a Hub of our own instead of the network, temporary caches, the real data where at hand."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hub_server import Hub

# Before the first import of huggingface_hub and datasets: they read HF_ENDPOINT at import.
os.environ.update(
    HF_HOME=tempfile.mkdtemp(prefix="hf-gip-tests-"),
    HF_ENDPOINT=(HUB := Hub().start()).url,
    HF_TOKEN="",
    HF_HUB_OFFLINE="0",
    NO_PROXY="127.0.0.1,localhost",
    HF_HUB_DISABLE_TELEMETRY="1",
    HF_HUB_DISABLE_XET="1",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    TOKENIZERS_PARALLELISM="false",
)
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core: threads of each would wait for those of the others

import pytest
import torch
from hypothesis import settings
from judges import judge  # noqa: F401 — a fixture

settings.register_profile("ci", derandomize=True)  # what CI runs is the same every time; elsewhere the search goes on
if os.environ.get("CI"):
    settings.load_profile("ci")

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


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The local Hub, without faults and with an empty log; repositories of earlier tests are gone."""
    HUB.calm()
    HUB.repos.clear()
    yield HUB
    HUB.calm()
