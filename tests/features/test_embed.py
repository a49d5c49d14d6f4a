"""Embeddings: unit rows, in order, cached, and resumed after a kill -9 at the last finished shard."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_gip.features import sentence_transformer
from hf_gip.features.embed import SAMPLE_ROWS, embed, embed_texts
from hf_gip.features.encoders import LexicalEncoder, resolve_encoder
from hf_gip.features.sentence_transformer import DEFAULT_ENCODER


class Letters:
    """Counts three letters; keeps a tally of the texts it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def encode(self, sentences: list[str], /) -> np.ndarray:
        self.seen += len(sentences)
        return np.array([[s.count("a") + 0.1, s.count("b"), len(s)] for s in sentences], dtype=np.float64)


def pool(n: int = 300) -> Dataset:
    return Dataset.from_dict({"text": ["a" * (i % 7) + "b" * (i % 5) + "c" * (i % 11 + 1) for i in range(n)]})


def test_rows_come_back_in_order_as_unit_vectors_whatever_the_batches() -> None:
    got = embed(pool(), Letters()).matrix.numpy()
    raw = Letters().encode(pool()["text"][:])
    assert np.allclose(got, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


def test_empty_texts_become_zero_vectors_and_are_counted() -> None:
    found = embed(Dataset.from_dict({"text": ["aab", "", "  "]}), Letters())
    assert found.recipe["empty_rows"] == 2
    assert found.matrix.norm(dim=1).tolist() == pytest.approx([1, 0, 0])


def test_a_pool_without_any_text_is_refused() -> None:
    message = "`columns` must hold text, got 2 empty texts from ['text']: name other columns."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        embed(Dataset.from_dict({"text": ["", " "]}), Letters())


def test_a_thing_without_encode_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"^`encoder` must be a model id, 'lexical' or an object with an `encode` method, got 3\.$"
    ):
        resolve_encoder(3)  # pyright: ignore[reportArgumentType]


def test_targets_must_hold_text() -> None:
    assert embed_texts(["a b", "c"], resolve_encoder("lexical")).shape == (2, 512)
    with pytest.raises(ValueError, match=r"^`target` must hold no empty text, got 1, first at position 1: drop it\.$"):
        embed_texts(["a", " "], resolve_encoder("lexical"))


def test_the_lexical_encoder_sees_shared_words() -> None:
    a, b, c = LexicalEncoder().encode(
        ["sort a list in python", "how to sort a python list", "the moon is made of rock"]
    )
    unit = [v / np.linalg.norm(v) for v in (a, b, c)]
    assert unit[0] @ unit[1] > 0.3 > 0.15 > abs(unit[0] @ unit[2])


def test_the_lexical_encoder_is_the_same_in_every_process() -> None:
    code = (
        "from hf_gip.features.encoders import LexicalEncoder; "
        "print(LexicalEncoder().encode(['one two three']).tobytes().hex())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "ab"
    }
    assert runs == {LexicalEncoder().encode(["one two three"]).tobytes().hex() + "\n"}


KILLED = """
import sys, time
import datasets, numpy as np
from hf_gip.features import embed as module
from hf_gip.features import sentence_transformer

datasets.config.HF_DATASETS_CACHE = sys.argv[1]
module.SHARD_ROWS = 50

class Slow:
    def encode(self, sentences, /):
        print(len(sentences), flush=True)
        time.sleep(float(sys.argv[2]))
        return np.array([[len(s), s.count("1") + 1.0] for s in sentences])

rows = datasets.Dataset.from_dict({"text": [f"{i} " * (i % 9 + 1) for i in range(1_000)]})
matrix = module.embed(rows, Slow()).matrix
print("sum", float(matrix.double().sum()), flush=True)
"""


def test_a_killed_run_goes_on_at_the_last_finished_shard(tmp_path: Path) -> None:
    def start(cache: str, pause: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / cache), str(pause)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    whole = start("whole", 0.0).communicate()[0].splitlines()
    encoded = sum(map(int, whole[:-1]))

    victim = start("killed", 0.02)
    folder = tmp_path / "killed" / "hf_gip" / "embeddings"
    deadline = time.monotonic() + 60
    while len(list(folder.glob("**/*.safetensors"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    victim.send_signal(signal.SIGKILL)
    before = sum(int(line) for line in victim.communicate()[0].split())
    done = len(list(folder.glob("**/*.safetensors")))
    assert 6 <= done < 20

    resumed = start("killed", 0.0).communicate()[0].splitlines()
    assert resumed[-1] == whole[-1], "the resumed matrix differs"
    after = sum(map(int, resumed[:-1]))
    assert encoded == 1_000
    probes = after - (1_000 - 50 * done)  # by which the first run's vectors are known to be this encoder's
    assert 0 < probes <= SAMPLE_ROWS
    assert before <= 50 * done + 50


def test_the_default_encoder_works_without_the_hub_where_its_weights_are_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sentence_transformer, "_resolve_commit", out_of_reach)
    found = resolve_encoder(DEFAULT_ENCODER)
    assert "using the MiniLM in the installed package" in capsys.readouterr().out
    assert set(found.identity) == {"encoder", "files"}  # named by its content, not by a commit nobody could check
    vectors = found.load().encode(["a cat", "a kitten", "an invoice"])
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]

    with pytest.raises(OSError, match="out of reach"):
        resolve_encoder("someone/other-encoder")
    monkeypatch.setattr(sentence_transformer, "_packaged_minilm", lambda: None)
    with pytest.raises(OSError, match="out of reach"):
        resolve_encoder(DEFAULT_ENCODER)


def out_of_reach(repo_id: str, revision: str | None) -> str:
    raise OSError("out of reach")
