"""Stopped at any moment: nothing half-written looks whole, and the same call goes on."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from datasets import Dataset

EMBED = """
import sys
import datasets, numpy as np
from hf_gip.features import embed as module

datasets.config.HF_DATASETS_CACHE = sys.argv[1]
module.SHARD_ROWS = 20

class Slow:
    def encode(self, sentences, /):
        import time
        time.sleep(float(sys.argv[2]))
        return np.array([[len(s), s.count("1") + 1.0] for s in sentences])

rows = datasets.Dataset.from_dict({"text": [str(i) * (i % 9 + 1) for i in range(400)]})
print("begin", flush=True)
print("sum", float(module.embed(rows, Slow()).matrix.double().sum()), flush=True)
"""


def start(cache: Path, pause: float, code: str = EMBED) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(cache), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=300)[0].splitlines()[-1]


@pytest.mark.heavy
def test_an_embedding_killed_at_random_moments_gives_the_same_matrix(tmp_path: Path) -> None:
    want, draw = result(start(tmp_path / "whole", 0)), random.Random(0)
    for round_ in range(2):
        for _ in range(3):
            victim = start(tmp_path / f"cache-{round_}", 0.02)
            assert victim.stdout is not None
            victim.stdout.readline()
            time.sleep(draw.uniform(0, 0.5))
            victim.send_signal(signal.SIGKILL)
            victim.communicate()
        assert result(start(tmp_path / f"cache-{round_}", 0)) == want


def test_two_processes_on_one_cache_do_the_work_once_and_agree(tmp_path: Path) -> None:
    both = [start(tmp_path / "cache", 0.01) for _ in range(2)]
    first, second = map(result, both)
    assert first == second
    files = [path for path in (tmp_path / "cache" / "hf_gip").rglob("*") if path.is_file()]
    assert sum(path.suffix == ".safetensors" for path in files) == 20  # no shard twice
    assert sum(path.name.startswith("lock-") for path in files) == len(files) - 20 == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process there")
@pytest.mark.parametrize("words", [[], ["-m", "hf_gip"]])
def test_ctrl_c_during_the_imports_is_one_sentence(tmp_path: Path, words: list[str]) -> None:
    program = [sys.executable, *words] if words else [str(Path(sys.executable).with_name("hf-gip"))]
    (tmp_path / "datasets.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [*program, "--help"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "hf-gip: stopped before it began.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to another process there")
def test_ctrl_c_is_one_sentence_and_the_same_command_goes_on(tmp_path: Path) -> None:
    Dataset.from_dict({"text": [f"row {i} of words {i % 7}" for i in range(300)]}).to_parquet(tmp_path / "p.parquet")
    slow = (
        "import os, time\nfrom hf_gip.features import embed, encoders\nE = encoders.LexicalEncoder\n"
        "embed.SHARD_ROWS = 50\nplain = E.encode\n"
        "def encode(self, sentences):\n    time.sleep(float(os.environ['PAUSE']))\n"
        "    return plain(self, sentences)\nE.encode = encode\n"
        "from hf_gip.cli.app import main\nmain()\n"
    )
    words = ["select", "p.parquet", "--k", "5", "--encoder", "lexical", "--out", "out"]
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}

    def run(pause: str) -> subprocess.Popen[str]:
        command, setting = [sys.executable, "-c", slow, *words], environment | {"PAUSE": pause}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=setting
        )

    victim = run("9")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "cache").glob("hf_gip/embeddings/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.2)
    victim.send_signal(signal.SIGINT)
    said = victim.communicate(timeout=60)[1]
    assert victim.returncode == 130
    assert said.splitlines()[-1] == (
        "hf-gip: stopped; finished parts are in the cache, and the same command goes on there."
    )
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()
    again = run("0")
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert (tmp_path / "out" / "gip" / "manifest.json").exists()


FULL = """
import sys
import datasets
import hf_gip
from datasets import Dataset
datasets.config.HF_DATASETS_CACHE = sys.argv[1]
rows = Dataset.from_dict({"text": [f"row {i} of words {i % 7}" for i in range(300)]})
try:
    subset = hf_gip.gip_select(rows, 5, encoder="lexical")
    hf_gip.save_subset(subset, sys.argv[1] + "/out")
except OSError as error:
    print(error)
else:
    print("fine")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file-size limit there")
@pytest.mark.parametrize("limit", [10_000, 300_000])
def test_a_disk_without_room_says_so_and_leaves_nothing_that_looks_whole(tmp_path: Path, limit: int) -> None:
    import resource

    def bounded() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", FULL, str(tmp_path)]
    full = subprocess.run(command, capture_output=True, text=True, preexec_fn=bounded)
    assert "the cache folder has no room for 1 MB of features (File too large)" in full.stdout, full.stderr
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not (tmp_path / "out").exists()
    roomy = subprocess.run(command, capture_output=True, text=True)
    assert roomy.stdout.splitlines()[-1] == "fine", roomy.stderr
