"""SPICE over windows of a pool, a proxy trained on the picks as it goes; a killed run goes on with the same picks."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets.utils import tqdm
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor, distributed

from hf_gip.core.metrics import curvature, greedy_guarantee, random_sets, set_quality
from hf_gip.core.spice import spice, window_quotas
from hf_gip.distributed import all_gather, rank_and_world, run_on_all
from hf_gip.features.per_example_gradients import GradientReader
from hf_gip.features.proxy import ProxyTrainer
from hf_gip.features.tokenization import Tally, TokenBatch, token_batches
from hf_gip.io import CACHE, write_aside, written
from hf_gip.selection import Selection

logger = logging.getLogger(__name__)

SAVE_SECONDS = 10.0  # what a kill costs at most, besides the window in work
DRAWS = 3  # random sets that the picks are compared with
Gradients = Callable[[Int64[Tensor, " w"]], Float[Tensor, "w d"]]


@dataclass(frozen=True, slots=True)
class Rule:
    """How rows are chosen from a window: the options of `hf_gip.spice` of the same names, and a seed."""

    alpha: float
    conflict_penalty: float
    stop_ratio: float | None
    fisher: Any
    seed: int


@dataclass
class Progress:
    """What has been chosen so far, and how it compares; plain JSON but for the proxy's weights, kept beside it."""

    window: int = 0
    steps: int = 0
    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    conflict: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    buffer: list[int] = field(default_factory=list)
    compared: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False


class WindowedRun:
    """Goes through windows of `order`, `window` rows each, and takes each one's share of `k`."""

    def __init__(self, order: Int64[Tensor, " n"], k: int, window: int, rule: Rule) -> None:
        window = min(window, len(order))
        self.windows = order.split(window)
        self.shares = window_quotas(len(order), k, window).tolist()
        self.rule = rule
        self.done = Progress()

    def run(self, gradients: Gradients, after: Callable[[Progress], None]) -> Progress:
        """Choose from every window that is still to do; `after` is called behind each."""
        waiting = [len(rows) if share else 0 for rows, share in zip(self.windows, self.shares, strict=True)]
        with tqdm(total=sum(waiting), initial=sum(waiting[: self.done.window]), unit="row", desc="SPICE") as bar:
            for number in range(self.done.window, len(self.windows)):
                if self.shares[number]:
                    self.choose(self.windows[number], self.shares[number], gradients)
                self.done.window = number + 1
                after(self.done)
                bar.update(waiting[number])
        return self.done

    def waits(self, number: int) -> bool:
        """Whether this window is still to be looked at."""
        return number >= self.done.window and self.shares[number] > 0

    def choose(self, rows: Int64[Tensor, " w"], share: int, gradients: Gradients) -> None:
        """Add the picks of one window, and how they compare with random ones and with those without a penalty."""
        G, rule, done = gradients(rows), self.rule, self.done
        options = {"alpha": rule.alpha, "fisher": rule.fisher}
        got = spice(G, share, conflict_penalty=rule.conflict_penalty, stop_ratio=rule.stop_ratio, **options)
        k = len(got)
        free = spice(G, k, conflict_penalty=0.0, **options) if rule.conflict_penalty else got
        drawn = random_sets(len(G), k, DRAWS, seed=rule.seed + len(done.rows))
        sets = {"chosen": [got.indices], "without_penalty": [free.indices], "random": drawn}
        found = {name: [set_quality(G[some], rule.alpha) for some in several] for name, several in sets.items()}
        done.compared.append(
            {
                "log_det": {name: [each.log_det for each in several] for name, several in found.items()},
                "conflict": {name: [each.conflict for each in several] for name, several in found.items()},
                "curvature": curvature(G, rule.alpha),
            }
        )
        picks = rows[got.indices].tolist()
        done.rows += picks
        done.buffer += picks
        done.gains += got.gains.tolist()
        done.conflict += got.curves["conflict"].tolist()
        done.overlap += got.curves["overlap"].tolist()
        done.stopped |= bool(got.record["stopped_early"])


class TrainedProxy:
    """Gradients of a proxy that takes one optimiser step for every `update_every` rows chosen."""

    def __init__(
        self,
        reader: GradientReader,
        rows: Sequence[Any],
        update_every: int,
        max_length: int,
        batch_size: int,
        folder: Path | None,
    ) -> None:
        self.reader, self.rows, self.update_every = reader, rows, update_every
        self.max_length, self.batch_size = max_length, batch_size
        self.trainer = ProxyTrainer(reader)
        self.folder, self.saved = folder, time.monotonic()
        self.rank, self.world = rank_and_world()

    def gradients(self, rows: Int64[Tensor, " w"]) -> Float[Tensor, "w d"]:
        """One row per row asked for, in their order; several ranks share the batches out, and each gets all rows.

        Raises:
            ValueError: On every rank, if a gradient is not finite on one of them.
        """
        found = torch.zeros(len(rows), self.reader.width)
        place = {row: number for number, row in enumerate(rows.tolist())}

        def read() -> None:
            for batch in islice(self.batches(list(place)), self.rank, None, self.world):
                found[[place[row] for row in batch.rows.tolist()]] = self.reader.read(batch)

        run_on_all(read)
        if self.world > 1:
            shared = found.to(next(self.reader.model.parameters()).device)
            distributed.all_reduce(shared)  # every row is zero on all ranks but one: the sum is exact
            found = shared.cpu()
        return found

    def batches(self, rows: list[int]) -> Iterator[TokenBatch]:
        """The rows as padded batches."""
        return token_batches(self.rows, rows, self.batch_size, self.max_length, Tally())

    def after(self, done: Progress) -> None:
        """Take the steps that are due, and save now and then."""
        while len(done.buffer) >= self.update_every:
            self.trainer.step(list(self.batches(done.buffer[: self.update_every])))
            del done.buffer[: self.update_every]
            done.steps += 1
        if self.folder is not None and self.rank == 0 and time.monotonic() - self.saved >= SAVE_SECONDS:
            self.save(done)
            self.saved = time.monotonic()

    def save(self, done: Progress) -> None:
        """Write everything the run needs to go on, aside and then renamed."""
        assert self.folder is not None
        with written(self.folder, CACHE):
            self.folder.mkdir(parents=True, exist_ok=True)
        write_aside(self.folder / "state.safetensors", self.trainer.state(), {"progress": json.dumps(vars(done))})

    def resumed(self) -> Progress:
        """Where a killed run stood, the proxy's weights included; a fresh start where there was none.

        Raises:
            RuntimeError: If ranks stand at different windows.
        """
        done = run_on_all(self.saved_progress)
        stands = all_gather(done.window)
        if len(set(stands)) > 1:
            raise RuntimeError(
                f"ranks must go on from one state, got windows {', '.join(map(str, stands))}: let them share the "
                "datasets cache (`HF_DATASETS_CACHE`)."
            )
        return done

    def saved_progress(self) -> Progress:
        """What this rank's folder holds, the proxy's weights put in place."""
        path = None if self.folder is None else self.folder / "state.safetensors"
        if path is None or not path.exists():
            return Progress()
        with safe_open(path, "pt") as state:
            names = list(state.keys())
            self.trainer.restore({name: state.get_tensor(name) for name in names})
            done = Progress(**json.loads(state.metadata()["progress"]))
        logger.info("going on after window %d with %d rows chosen", done.window, len(done.rows))
        return done


def forget(folder: Path | None) -> None:
    """Remove the state of a run that has finished, and what a kill left half-written; the first rank does."""
    if folder is not None and rank_and_world()[0] == 0 and folder.exists():
        shutil.rmtree(folder)


def summary(done: Progress) -> dict[str, Any]:
    """The picks beside random ones and beside those without a penalty, over all windows, as plain JSON.

    `log_det` adds up the windows' log det(I + αF_S), each under the proxy of its time; `conflict` is the mean over
    picks of max(0, −cos(g, mean of the earlier picks of its window)). `random` gives one figure per draw.
    """
    names = ("chosen", "without_penalty", "random")
    log_det = {
        name: [sum(one) for one in zip(*(each["log_det"][name] for each in done.compared), strict=True)]
        for name in names
    }
    conflict = {
        name: [
            sum(one) / max(len(done.rows), 1)
            for one in zip(*(each["conflict"][name] for each in done.compared), strict=True)
        ]
        for name in names
    }
    curvatures = [each["curvature"] for each in done.compared]
    return {
        "windows": len(done.compared),
        "log_det": {name: values if name == "random" else values[0] for name, values in log_det.items()},
        "conflict": {name: values if name == "random" else values[0] for name, values in conflict.items()},
        "curvature": {"mean": sum(curvatures) / len(curvatures), "max": max(curvatures)},
        "greedy_guarantee": greedy_guarantee(max(curvatures)),
    }


def as_selection(done: Progress, record: dict[str, Any]) -> Selection:
    """The run's picks with what each brought."""
    curves = {
        "conflict": torch.tensor(done.conflict, dtype=torch.float64),
        "overlap": torch.tensor(done.overlap, dtype=torch.float64),
    }
    indices = torch.tensor(done.rows, dtype=torch.int64)
    return Selection(indices, torch.tensor(done.gains, dtype=torch.float64), record=record, curves=curves)
