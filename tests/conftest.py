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

import jaxtyping
import pytest
import torch
from datasets import config
from huggingface_hub import constants
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


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A datasets cache of the test's own, so that nothing that another test embedded or selected is served."""
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The local Hub, without faults and with an empty log; repositories of earlier tests are gone."""
    HUB.calm()
    HUB.repos.clear()
    yield HUB
    HUB.calm()


@pytest.fixture
def fresh_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The local Hub with a download cache of the test's own; retries do not wait, cards get no pictures."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("hf_gip.hub.retry.PAUSE", 0.01)
    monkeypatch.setattr("hf_gip.hub.push._draw", lambda *_: False)
    return hub


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Let wrong arguments through to the package's own checks, as they get there for users."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny sentence-transformers model."""
    from tiny_encoders import save_model

    return save_model(tmp_path_factory.mktemp("model"))
