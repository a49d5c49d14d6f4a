"""SPICE on a dataset: rows in, per-example gradients on a small proxy, the most informative and agreeing rows out.

The rows are walked in shuffled windows. A proxy in training takes steps on what is chosen, and a killed run goes on
with the same picks; a frozen one gives its gradients once.
"""

import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from datasets import Dataset, DatasetDict
from datasets.utils import tqdm
from jaxtyping import Float, Int64
from safetensors import safe_open
from torch import Tensor, distributed, nn

from hf_gip.core import spice as core
from hf_gip.core.explain import SpiceExplanation, explain_spice_candidate, explain_spice_pick
from hf_gip.core.matrix import unit_rows
from hf_gip.core.metrics import curvature, curvature_factor, log_det_guarantee, random_sets, set_quality
from hf_gip.dataset.cache import cache_folder, cached_gradients
from hf_gip.dataset.options import SPICE_PARAMETERS, SpiceOptions
from hf_gip.dataset.select import attach, check_dataset, check_pool_row, environment, report_picks, select_once, splits
from hf_gip.dataset.values import plain_value
from hf_gip.distributed import all_gather, rank_and_world, run_on_all, world_group
from hf_gip.features import proxy as proxies
from hf_gip.features.gradients import context_length
from hf_gip.features.per_example_gradients import GradientRecipe, PerExampleGradients
from hf_gip.features.progress import announce
from hf_gip.features.proxy import ModelRef, ProxyTrainer, linear_schedule, resolve_model, with_lora
from hf_gip.features.tokenization import RowCounts, TokenBatch, TokenRows, columns_read, token_batches, tokenize_rows
from hf_gip.hashing import hash_json, hash_rows
from hf_gip.io import save_safetensors_atomically
from hf_gip.selection import Selection

logger = logging.getLogger(__name__)

Pool = TypeVar("Pool", Dataset, DatasetDict)
Gradients = Callable[[Int64[Tensor, " w"]], Float[Tensor, "w d"]]
VERSION = 3  # of the result: raise it when the same call would choose other rows, so that old caches are left behind
SAVE_SECONDS = 10.0  # what a kill costs at most, besides the window in work
RANDOM_SETS = 3  # that the picks of each window are compared with


def spice_select(
    dataset: Pool,
    k: int | Mapping[str, int | None] | None,
    *,
    model: str | nn.Module,
    tokenizer: Any = None,
    columns: Sequence[str] | None = SpiceOptions.columns,
    target_modules: str = SpiceOptions.target_modules,
    projection_dim: int | None = SpiceOptions.projection_dim,
    window: int | None = SpiceOptions.window,
    update_every: int | None = SpiceOptions.update_every,
    normalize: bool = SpiceOptions.normalize,
    alpha: float = SpiceOptions.alpha,
    absolute_alpha: bool = SpiceOptions.absolute_alpha,
    conflict_penalty: float = SpiceOptions.conflict_penalty,
    stop_ratio: float | None = SpiceOptions.stop_ratio,
    fisher: core.Fisher = SpiceOptions.fisher,
    max_length: int = SpiceOptions.max_length,
    batch_size: int = SpiceOptions.batch_size,
    seed: int = SpiceOptions.seed,
    id_column: str | None = SpiceOptions.id_column,
    device: str | None = SpiceOptions.device,
) -> Pool:
    """Choose `k` rows with the most Fisher information and the least gradient conflict, as SPICE does.

    The rows are shuffled and walked in windows of 120. Of each window every row's gradient is taken on a small proxy
    model, its share of `k` is chosen greedily (`hf_gip.spice`), and after every `update_every` rows chosen the proxy
    takes one AdamW step on them ([paper](https://huggingface.co/papers/2601.23155)). The union of all windows' picks
    is the subset. A small model of the target's family is the proxy to use: Qwen2-0.5B for Qwen2-7B.

    A step inside a window is followed by new gradients of the window's remaining rows; what was chosen before keeps
    the gradient it was chosen by. The learning rate, at its peak that of the released code (2e-4), rises over the
    first 3 % of the picks and then falls to 0 in a straight line.

    With `update_every=None` the proxy stays as it is: its gradients are taken once, kept in the datasets cache, and
    serve every later call, whatever its `k` or penalty; then `window=None` chooses from all rows at once. Finished
    selections are cached, and a killed run goes on where it was, with the same picks. Ranks with a process group and
    one datasets cache share the gradients and return the same rows.

    Costs one training step of the proxy per row whose gradient is taken (`benchmarks/gradients.py`): each once, and
    again after each step inside its window. At the defaults, a tenth of the rows and a step every 10 of a window's 12
    picks, that is about twice; a window's picks divisible by `update_every` leave it at once. In memory it takes one
    forward pass per batch, besides n · `projection_dim` numbers where the proxy is frozen.

    Args:
        dataset: The pool: rows of text, or tokenized ones with `input_ids` and, where not every token counts,
            `labels`. Rows without a label are left out and counted. Of a `DatasetDict` each split named in `k` is
            replaced by its subset.
        k: How many rows; for a `DatasetDict` a mapping from split to rows, or a number for its `train` split. With
            `stop_ratio`, how many at most; None: as many as `stop_ratio` lets pass.
        model: The proxy: a Hub id, a local folder, or a live model, which is left as it was.
        tokenizer: For rows of text with a live model; otherwise the model's own.
        columns: Text columns, instead of the detected layout; every token of the text counts, as in the paper.
        target_modules: Whose gradients: `"lora"` (put on where the model has none), `"last_layer"`, `"hidden"` or a
            pattern of layer names, see `hf_gip.gradient_features`. The same weights are trained.
        projection_dim: Width the gradients are projected to; None keeps them whole.
        window: Rows looked at together; None, all of them, needs a frozen proxy.
        update_every: Rows chosen per step of the proxy, the paper's T: 1, 10 or 50 there. It counts picks, across
            windows and inside them; in the released code it counts windows. None: never.
        normalize: Give every gradient unit length. Raw lengths mostly say how short an answer is, and the longest
            gradients win.
        alpha: Weight α of the gradients against the identity, in units of 1/mean‖g‖² of the window.
        absolute_alpha: Take α as it stands, as the released code does.
        conflict_penalty: Weight λ of the conflict.
        stop_ratio: Leave a window once a pick would bring at most this share of the window's first one: fewer rows
            than `k`, as many as the record then says. With `k=None` it alone decides, the paper's "SPICE+", whose
            value is 0.5. None: exactly `k` rows.
        fisher: `"full"`, `"diagonal"` as in the paper, or `"diagonal_g4"` as in the released code.
        max_length: Tokens per row at most, within the model's context; longer rows are cut and counted.
        batch_size: Rows per forward pass.
        seed: Of the shuffle, the LoRA layers and the projection.
        id_column: A column that names the rows in the manifest, instead of their position.
        device: Torch device; a GPU where there is one unless told. A live model stays where it is.

    Returns:
        An ordinary `Dataset` of the chosen rows in pick order. Its `selection` holds information gain, conflict and
        overlap ε of every pick, and a record that compares the subset with random ones and with λ = 0.

    Raises:
        TypeError: If `dataset` or `model` is of the wrong kind.
        ValueError: If an argument does not fit the data or the model, or a row's gradient is not finite.
    """
    options = SpiceOptions(
        columns=columns,
        target_modules=target_modules,
        projection_dim=projection_dim,
        window=window,
        update_every=update_every,
        normalize=normalize,
        alpha=alpha,
        absolute_alpha=absolute_alpha,
        conflict_penalty=conflict_penalty,
        stop_ratio=stop_ratio,
        fisher=fisher,
        max_length=max_length,
        batch_size=batch_size,
        seed=seed,
        id_column=id_column,
        device=device,
    )
    if isinstance(dataset, DatasetDict):
        subsets = {
            name: spice_select(dataset[name], n, model=model, tokenizer=tokenizer, **vars(options))
            for name, n in splits(dataset, k)
        }
        return cast("Pool", DatasetDict({**dataset, **subsets}))
    k = cast("int | None", plain_value(k))
    check_dataset(dataset, 1 if k is None else k, options.id_column)
    core.check_spice_k(k, len(dataset), options.stop_ratio)
    text_columns = columns_read(dataset, options.columns)  # refuses wrong ones before a model is opened
    proxy = resolve_model(model, tokenizer, device=str(options.device))
    request = {
        **{name: value for name, value in vars(options).items() if name not in ("batch_size", "device")},
        "method": "spice",
        "version": VERSION,
        "k": k,
        "proxy": proxy.identity,
        "rows": hash_rows(dataset, text_columns),
    }
    folder = cache_folder("runs", hash_json(request))
    selection = select_once(request, lambda: _select(dataset, k, proxy, options, folder), shared=True)
    clear_state(folder)
    return attach(dataset, replace(selection, context=SpiceContext(dataset, proxy, options)))


def _select(dataset: Dataset, k: int | None, proxy: ModelRef, options: SpiceOptions, folder: Path | None) -> Selection:
    """Choose the rows; a run in training keeps its state in `folder`.

    Raises:
        ValueError: If fewer than `k` rows, or none, have a labeled token.
    """
    started = time.perf_counter()
    model, tokens, options = _open(dataset, proxy, options)
    if len(tokens.usable) < (k or 1):
        raise ValueError(
            f"`k` must be at most the number of rows with a labeled token ({len(tokens.usable)} of {len(dataset)}), "
            f"got {k}."
        )
    with with_lora(model, options.target_modules, options.seed) as adapted:
        if options.update_every is None:
            state = _run_frozen(adapted, tokens, k, options)
        else:
            state = _run_trained(adapted, tokens, k, options, folder)
    if k is None and len(state.rows) == len(tokens.usable):
        logger.warning("`stop_ratio` ended no window: all %d rows chosen; raise it, or give `k`", len(state.rows))
    elif k is not None and len(state.rows) < k:
        logger.warning("`stop_ratio` ended windows before `k`: %d of %d rows chosen", len(state.rows), k)
    record = {
        "method": "spice",
        "parameters": {"k": k, **{name: getattr(options, name) for name in SPICE_PARAMETERS}},
        "stopped_early": state.stopped_early,
        "proxy": proxy.identity | {"steps": state.steps},
        "features": {"kind": "gradients", "target_modules": options.target_modules, **tokens.recipe},
        "rows": {"left_out": tokens.left_out, "truncated": tokens.truncated},
        "diagnostics": _diagnostics(state, options),
        **environment(dataset, options.id_column),
        "timings": {"select_seconds": time.perf_counter() - started},
    }
    curves = {name: torch.tensor(getattr(state, name), dtype=torch.float64) for name in ("conflict", "overlap")}
    gains = torch.tensor(state.gains, dtype=torch.float64)
    return Selection(torch.tensor(state.rows, dtype=torch.int64), gains, record=record, curves=curves)


def _open(dataset: Dataset, proxy: ModelRef, options: SpiceOptions) -> tuple[nn.Module, TokenRows, SpiceOptions]:
    """The model, the rows' tokens, and the options with `max_length` within the model's context."""
    model, tokenizer = proxy.load()
    options = replace(options, max_length=min(options.max_length, context_length(model)))
    return model, tokenize_rows(dataset, tokenizer, options.columns, options.max_length), options


def _gradient_recipe(options: SpiceOptions) -> GradientRecipe:
    return GradientRecipe(
        options.target_modules, options.projection_dim, seed=options.seed, max_length=options.max_length
    )


def _shuffled(rows: Int64[Tensor, " n"], seed: int) -> Int64[Tensor, " n"]:
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))]


# --- the two pipelines -----------------------------------------------------------------------------------------------


def _run_frozen(model: nn.Module, tokens: TokenRows, k: int | None, options: SpiceOptions) -> "SpiceState":
    """One shot: all gradients into a store, then windows of shuffled rows, or all rows at once."""
    order = tokens.usable if options.window is None else _shuffled(tokens.usable, options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        recipe = _gradient_recipe(options)
        store = cached_gradients(model, tokens.rows, recipe, options.batch_size, Path(scratch))
        matrix = store.features.load()
    position = torch.full((len(tokens.rows),), -1)
    position[store.rows] = torch.arange(len(store.rows))
    return WindowedRun(order, k, options).run(lambda rows: matrix[position[rows]].to(str(options.device)))


def _run_trained(
    model: nn.Module, tokens: TokenRows, k: int | None, options: SpiceOptions, folder: Path | None
) -> "SpiceState":
    """The paper's pipeline: window by window, the proxy trained on what was chosen."""
    proxy = TrainedProxy(PerExampleGradients(model, _gradient_recipe(options)), tokens.rows, options, folder)
    run = WindowedRun(_shuffled(tokens.usable, options.seed), k, options)
    try:
        run.state = proxy.resume()
        remaining = [row for number in run.remaining() for row in run.windows[number].tolist()]
        if proxy.rank == 0:
            announce(
                proxy.per_example,
                tokens.rows,
                remaining[:: proxy.world],
                batch_size=options.batch_size,
                max_length=options.max_length,
                extra=run.work_besides(),
                note=f"{len(run.windows)} windows, a step of the proxy per {options.update_every} picks",
            )
        return run.run(proxy.gradients, proxy)
    finally:
        proxy.trainer.restore_initial()


@dataclass
class SpiceState:
    """What has been chosen so far, and how it compares; plain JSON but for the proxy's weights, kept beside it.

    Attributes:
        window: How many windows are done.
        steps: Training steps of the proxy so far.
        rows: The picks.
        gains: What each added.
        conflict: Its conflict with the earlier picks of its window.
        overlap: Its overlap ε with them.
        untrained: Picks that the proxy has not been trained on yet.
        comparisons: The picks of each window beside random ones and those without a penalty.
        stopped_early: Whether `stop_ratio` ended a window.
    """

    window: int = 0
    steps: int = 0
    rows: list[int] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    conflict: list[float] = field(default_factory=list)
    overlap: list[float] = field(default_factory=list)
    untrained: list[int] = field(default_factory=list)
    comparisons: list[dict[str, Any]] = field(default_factory=list)
    stopped_early: bool = False

    def add(self, rows: list[int], trace: core.SpiceTrace) -> None:
        """Add what a greedy run chose, by its `rows` in the pool."""
        self.rows += rows
        self.untrained += rows
        self.gains += trace.gains
        self.conflict += trace.conflicts
        self.overlap += trace.overlaps
        self.stopped_early |= trace.stopped


class WindowedRun:
    """Goes through `order` in windows of `options.window` rows, and takes each one's share of `k`, or all it has."""

    def __init__(self, order: Int64[Tensor, " n"], k: int | None, options: SpiceOptions) -> None:
        """Cut the windows; nothing is chosen yet."""
        window = min(options.window or len(order), len(order))
        self.windows = order.split(window)
        self.quotas = core.window_quotas(len(order), len(order) if k is None else k, window).tolist()
        self.options = options
        self.state = SpiceState()

    def remaining(self) -> list[int]:
        """Numbers of the windows that are still to be looked at."""
        return [number for number in range(self.state.window, len(self.windows)) if self.quotas[number]]

    def work_besides(self) -> int:
        """Rows' worth of work besides each row's first gradient: the proxy's steps, and new gradients after them."""
        every, picks, work = cast("int", self.options.update_every), len(self.state.untrained), 0
        for number in self.remaining():
            steps, picks = divmod(picks + self.quotas[number], every)
            work += every * steps + (steps - (picks == 0)) * len(self.windows[number])
        return work

    def run(self, gradients: Gradients, proxy: "TrainedProxy | None" = None) -> SpiceState:
        """Choose from every window that is still to do; `proxy`, if it is trained, learns from the picks."""
        sizes = [len(rows) if quota else 0 for rows, quota in zip(self.windows, self.quotas, strict=True)]
        with tqdm(total=sum(sizes), initial=sum(sizes[: self.state.window]), unit="row", desc="SPICE") as bar:
            for number in range(self.state.window, len(self.windows)):
                if self.quotas[number]:
                    self.choose(number, gradients, proxy)
                self.state.window = number + 1
                if proxy is not None:
                    proxy.save(self.state)
                bar.update(sizes[number])
        return self.state

    def choose(self, number: int, gradients: Gradients, proxy: "TrainedProxy | None") -> None:
        """Add the picks of one window; after every `update_every` picks the proxy takes a step.

        A step changes the gradients of the rows still free. Those chosen keep the gradient they were chosen by.
        """
        rows, quota, state, options = self.windows[number], self.quotas[number], self.state, self.options
        score = core.SpiceOptions(options.alpha, options.conflict_penalty, options.stop_ratio, options.fisher)
        first, scale = self.in_units_of_alpha(gradients(rows))
        free, current, chosen = torch.arange(len(rows)), first, first[:0]
        picks: list[int] = []
        trace = core.SpiceTrace()
        while len(picks) < quota and not trace.stopped:
            due = quota if proxy is None else cast("int", options.update_every) - len(state.untrained)
            trace = core.continue_greedy(
                current, min(due, quota - len(picks)), score, chosen=chosen, first_gain=trace.first_gain
            )
            new = torch.tensor(trace.rows, dtype=torch.int64)
            picks += free[new].tolist()
            state.add(rows[free[new]].tolist(), trace)
            chosen = torch.cat([chosen, current[new.to(current.device)]])
            is_free = torch.ones(len(free), dtype=torch.bool).index_fill_(0, new, value=False)
            free, current = free[is_free], current[is_free.to(current.device)]
            if proxy is not None and len(state.untrained) == options.update_every:
                proxy.step(state, (sum(self.quotas[:number]) + len(picks)) / sum(self.quotas))
                if len(picks) < quota and not trace.stopped:
                    current, _ = self.in_units_of_alpha(gradients(rows[free]), scale)
        self.compare(first, torch.tensor(picks))

    def in_units_of_alpha(
        self, gradients: Float[Tensor, "w d"], scale: float | None = None
    ) -> tuple[Float[Tensor, "w d"], float]:
        """The gradients, of unit length if that is wanted, times `scale`; by default one over their mean length."""
        G = unit_rows(gradients) if self.options.normalize else gradients
        if scale is None:
            energy = torch.linalg.vector_norm(G, dim=1, dtype=torch.float64).square()
            scale = 1.0 if self.options.absolute_alpha else 1 / math.sqrt(float(core.mean_energy(energy)[0]))
        return G * scale, scale

    def compare(self, G: Float[Tensor, "w d"], picks: Int64[Tensor, " k"]) -> None:
        """Note how the picks of a window compare with random ones and with those without a penalty.

        All under the gradients that the window began with, in units of α.
        """
        options, k = self.options, len(picks)
        alpha, unpenalized = options.alpha, picks
        if options.conflict_penalty:
            score = core.SpiceOptions(alpha, 0.0, None, options.fisher)
            unpenalized = torch.tensor(core.continue_greedy(G, k, score).rows)
        subsets = {
            "chosen": [picks],
            "without_penalty": [unpenalized],
            "random": random_sets(len(G), k, RANDOM_SETS, seed=options.seed + len(self.state.rows) - k),
        }
        quality = {name: [set_quality(G[rows], alpha) for rows in each] for name, each in subsets.items()}
        guarantee = log_det_guarantee(G, picks, torch.tensor([alpha]))
        self.state.comparisons.append(
            {
                "log_det": {name: [one.log_det for one in each] for name, each in quality.items()},
                "conflict": {name: [one.conflict for one in each] for name, each in quality.items()},
                "curvature": curvature(G, alpha),
                "greedy_guarantee": guarantee.share,
                "fisher_norm": guarantee.fisher_norm,
            }
        )


class TrainedProxy:
    """Gradients of a proxy that takes one optimizer step for every `update_every` rows chosen."""

    def __init__(
        self, per_example: PerExampleGradients, rows: Any, options: SpiceOptions, folder: Path | None
    ) -> None:
        """Start from the model's own weights; the state of the run goes to `folder`."""
        self.per_example, self.rows, self.options = per_example, rows, options
        self.trainer = ProxyTrainer(per_example)
        (self.rank, self.world), self.group = rank_and_world(), world_group()
        self._state_path = None if folder is None else folder / "state.safetensors"
        self._last_save = time.monotonic()

    def gradients(self, rows: Int64[Tensor, " w"]) -> Float[Tensor, "w d"]:
        """The gradients of `rows`, in their order; several ranks share the batches out, and each gets all rows.

        Raises:
            ValueError: On every rank, if a gradient is not finite on one of them.
        """
        shard = self.rank, self.world
        compute = partial(_compute_rows, self.per_example, self.rows, rows.tolist(), self.options, shard)
        matrix = run_on_all(compute, self.group)
        if self.group is None:
            return matrix
        on_device = matrix.to(next(self.per_example.model.parameters()).device)
        distributed.all_reduce(on_device, group=self.group)  # every row is zero on all ranks but one: the sum is exact
        return on_device.cpu()

    def step(self, state: SpiceState, progress: float) -> None:
        """Take one step on the untrained picks, after a share `progress` of all picks."""
        self.trainer.optimizer.param_groups[0]["lr"] = proxies.LEARNING_RATE * linear_schedule(progress)
        self.trainer.step(list(_batches(self.rows, state.untrained, self.options)))
        state.untrained.clear()
        state.steps += 1

    def save(self, state: SpiceState) -> None:
        """Save the state of the run now and then."""
        if self._state_path and self.rank == 0 and time.monotonic() - self._last_save >= SAVE_SECONDS:
            metadata = {"state": json.dumps(vars(state))}
            save_safetensors_atomically(self._state_path, self.trainer.state(), metadata)
            self._last_save = time.monotonic()

    def resume(self) -> SpiceState:
        """Where a killed run stood, the proxy's weights included; a fresh start where there was none.

        Raises:
            RuntimeError: If ranks stand at different windows.
        """
        state = run_on_all(self._read_state, self.group)
        windows = all_gather(state.window, self.group)
        if len(set(windows)) > 1:
            raise RuntimeError(
                f"ranks must go on from one state, got windows {', '.join(map(str, windows))}: let them share the "
                "datasets cache (`HF_DATASETS_CACHE`)."
            )
        return state

    def _read_state(self) -> SpiceState:
        """What this rank's folder holds, the proxy's weights put in place."""
        if self._state_path is None or not self._state_path.exists():
            return SpiceState()
        with safe_open(self._state_path, "pt") as file:
            self.trainer.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 — no mapping
            state = SpiceState(**json.loads(file.metadata()["state"]))
        logger.info("going on after window %d with %d rows chosen", state.window, len(state.rows))
        return state


def _compute_rows(
    per_example: PerExampleGradients,
    rows: Any,
    positions: list[int],
    options: SpiceOptions,
    shard: tuple[int, int] = (0, 1),
) -> Float[Tensor, "p d"]:
    """Gradients of `rows[positions]`, in that order; of every `shard[1]`th batch from `shard[0]` on, else zeros."""
    matrix = torch.zeros(len(positions), per_example.width)
    index = {row: number for number, row in enumerate(positions)}
    for batch in islice(_batches(rows, positions, options), shard[0], None, shard[1]):
        matrix[[index[row] for row in batch.rows.tolist()]] = per_example.compute(batch)
    return matrix


def _batches(rows: Any, positions: list[int], options: SpiceOptions) -> Iterator[TokenBatch]:
    return token_batches(rows, positions, options.batch_size, options.max_length, RowCounts())


def clear_state(folder: Path | None) -> None:
    """Remove the state of a run that has finished, and what a kill left half-written; the first rank does."""
    if folder is not None and rank_and_world()[0] == 0 and folder.exists():
        shutil.rmtree(folder)


def _diagnostics(state: SpiceState, options: SpiceOptions) -> dict[str, Any]:
    """The picks beside random ones and beside those without a penalty, over all windows, as plain JSON.

    `log_det` adds up the windows' log det(I + αF_S), each under the proxy of its time; `conflict` is the mean over
    picks of max(0, −cos(g, mean of the earlier picks of its window)). `random` gives one figure per draw.

    `greedy_guarantee` is the share of the best log-determinant, of as many rows in each window, that the picks reach
    at least, whatever the penalty. `curvature_factor`, (1 − e⁻ᶜ)/c, is the paper's; `notes` say where it and the
    paper's bound on ε do not apply. `fisher_norm` is the largest α‖F_S‖ of a window.
    """

    def total(figure: str, count: int) -> dict[str, Any]:
        sums = {}
        for name in ("chosen", "without_penalty", "random"):
            windows = zip(*(window[figure][name] for window in state.comparisons), strict=True)
            sums[name] = [sum(values) / count for values in windows]
        return {name: values if name == "random" else values[0] for name, values in sums.items()}

    curvatures = [window["curvature"] for window in state.comparisons]
    fisher_norm = max(window["fisher_norm"] for window in state.comparisons)
    reached = [window["log_det"]["chosen"][0] for window in state.comparisons]
    bounds = [log_det / window["greedy_guarantee"] for log_det, window in zip(reached, state.comparisons, strict=True)]
    notes = []
    if options.conflict_penalty:
        notes.append("`curvature_factor` holds for `conflict_penalty=0` alone; `greedy_guarantee` holds for any.")
    if fisher_norm >= 1:
        notes.append(f"the paper's bound on ε needs α‖F_S‖ below 1, and it is {fisher_norm:.3g}: lower `alpha`.")
    return {
        "windows": len(state.comparisons),
        "log_det": total("log_det", 1),
        "conflict": total("conflict", max(len(state.rows), 1)),
        "curvature": {"mean": sum(curvatures) / len(curvatures), "max": max(curvatures)},
        "curvature_factor": curvature_factor(max(curvatures)),
        "greedy_guarantee": sum(reached) / sum(bounds) if sum(bounds) else 1.0,
        "fisher_norm": fisher_norm,
        "notes": notes,
    }


# --- explanations ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SpiceContext:
    """A `spice_select` call, kept to explain and report its picks; what that needs is computed when asked for.

    Attributes:
        dataset: The pool.
        proxy: The proxy model, opened when needed.
        options: The call's options.
    """

    dataset: Dataset
    proxy: ModelRef
    options: SpiceOptions

    def explain(self, selection: Selection, row: int) -> SpiceExplanation:
        """Explain `row` of the pool; one left out costs the gradients of the picks it competed with.

        Raises:
            ValueError: If `row` is no row of the pool or took no part, was left out and the proxy has moved on, or its
                window gave no pick to compare it with.
        """
        check_pool_row(row, self.dataset)
        if self.options.update_every is not None or row in selection.indices.tolist():
            return explain_spice_pick(selection, row)
        model, tokens, options = _open(self.dataset, self.proxy, self.options)
        if not bool((tokens.usable == row).any()):
            raise ValueError(f"`row` must have a labeled token, got row {row}, which took no part.")
        windows = (tokens.usable,)
        if options.window is not None:
            windows = _shuffled(tokens.usable, options.seed).split(options.window)
        rivals = next(rows for window in windows if row in (rows := set(window.tolist())))
        steps = [step for step, pick in enumerate(selection.indices.tolist()) if pick in rivals]
        if not steps:
            raise ValueError(f"`row` must have competed with a pick, got row {row}, whose window gave none.")
        picks = selection.indices[steps].tolist()
        with with_lora(model, options.target_modules, options.seed) as adapted:
            per_example = PerExampleGradients(adapted, _gradient_recipe(options))
            G = _compute_rows(per_example, tokens.rows, [*picks, row], options).double()
        G = unit_rows(G) if options.normalize else G
        # The unit of α is a mean over rows not read here: what a pick brought alone, log(1 + α‖g‖²), gives it back.
        alone = (selection.gains - selection.curves["overlap"])[steps]
        longest = int(alone.argmax())
        length = float(G[longest].norm())
        scale = float(torch.expm1(alone[longest]) / options.alpha) ** 0.5 / length if length else 1.0
        return explain_spice_candidate(row, scale * G[-1], picks, scale * G[:-1], dict(selection.record["parameters"]))

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        return report_picks(self.dataset, selection, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()
