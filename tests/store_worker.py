"""Workers that fill a store of embeddings slowly enough to be killed at it."""

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from datasets import Dataset, disable_progress_bars

import hf_gip
from hf_gip.features.encoders import LexicalEncoder

SHARD_ROWS = 16


def pool(rows: int = 400) -> Dataset:
    """Rows of words, some empty, some twice."""
    texts = [
        "" if i % 41 == 40 else f"about {i % 7} ships, {i * 7 % 101} crews and {i % 150} ports" for i in range(rows)
    ]
    return Dataset.from_dict({"text": texts, "topic": ["abc"[i % 3] for i in range(rows)]})


class SlowEncoder(LexicalEncoder):
    """The lexical encoder at some 50 calls a second."""

    def encode(self, sentences: Sequence[str]) -> Any:
        time.sleep(0.02)
        return super().encode(sentences)


def fill(store: str, rank: int = 0, world_size: int = 1, **options: Any) -> Any:
    """Fill the store of `pool`."""
    words: dict[str, Any] = {"encoder": SlowEncoder(), "encoder_id": "slow", "shard_rows": SHARD_ROWS} | options
    return hf_gip.store_embeddings(pool(), store, rank=rank, world_size=world_size, **words)


class Workers:
    """Processes that fill a store, forked from one that has imported everything."""

    def __init__(self, store: str) -> None:
        command = [sys.executable, "-c", "import store_worker; store_worker.fork_workers()", store]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._parent = subprocess.Popen(command, cwd=os.path.dirname(__file__), env=environment, **pipes)
        self._pids: list[int] = []

    def start(self, rank: int, world_size: int) -> None:
        """One more worker."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        print(rank, world_size, file=self._parent.stdin, flush=True)
        self._pids.append(int(self._parent.stdout.readline()))

    def kill(self) -> None:
        """Kill all workers, as `kill -9` does, and wait until they are gone."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self.alive():
            time.sleep(0.01)

    def alive(self) -> bool:
        """Whether a worker is still at it."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 0)
                return True
        return False

    def close(self) -> None:
        """End the process that forks."""
        self._parent.communicate()


def fork_workers() -> None:
    """Fork a worker for every line of standard input, RANK WORLD_SIZE, and print its process id."""
    disable_progress_bars()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # none stays as a zombie
    importlib.import_module("hf_gip.features.embedding_store")
    SlowEncoder().encode(["a first text, which takes longest"])
    for line in sys.stdin:
        if pid := os.fork():
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            continue
        rank, world_size = map(int, line.split())
        fill(sys.argv[1], rank, world_size)
        os._exit(0)
