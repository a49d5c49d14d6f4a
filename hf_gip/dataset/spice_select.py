"""SPICE on a dataset: rows in, per-example gradients on a small proxy, the most informative and agreeing rows out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from datasets import Dataset, DatasetDict

from hf_gip.dataset.cache import cache_folder
from hf_gip.dataset.select import attach, check_dataset, environment, select_once, splits
from hf_gip.hashing import hash_json, hash_rows

if TYPE_CHECKING:
    from torch import nn

    from hf_gip.core.spice import Fisher
    from hf_gip.features.proxy import NamedModel
    from hf_gip.selection import Selection

logger = logging.getLogger(__name__)

Pool = TypeVar("Pool", Dataset, DatasetDict)
VERSION = 2  # of the result: raise it when the same call would choose other rows, so that old caches are left behind


def spice_select(
    dataset: Pool,
    k: int | Mapping[str, int],
    *,
    model: "str | nn.Module",
    tokenizer: Any = None,
    columns: Sequence[str] | None = None,
    target_modules: str = "lora",
    projection_dim: int | None = 1024,
    window: int | None = 120,
    update_every: int | None = 10,
    alpha: float = 1.0,
    conflict_penalty: float = 0.1,
    stop_ratio: float | None = None,
    fisher: "Fisher" = "full",
    max_length: int = 2048,
    batch_size: int = 8,
    seed: int = 0,
    id_column: str | None = None,
    device: str | None = None,
) -> Pool:
    """Choose `k` rows with the most Fisher information and the least gradient conflict, as SPICE does.

    The rows are shuffled and walked in windows of 120. Of each window every row's gradient is taken on a small proxy
    model, its share of `k` is chosen greedily (`hf_gip.spice`), and after every `update_every` rows chosen the proxy
    takes one AdamW step on them ([paper](https://huggingface.co/papers/2601.23155)). The union of all windows' picks
    is the subset. A small model of the target's family is the proxy to use: Qwen2-0.5B for Qwen2-7B.

    With `update_every=None` the proxy stays as it is: its gradients are taken once, kept in the datasets cache, and
    serve every later call, whatever its `k` or penalty; then `window=None` chooses from all rows at once. Finished
    selections are cached, and a killed run goes on where it was, with the same picks. Ranks with a process group and
    one datasets cache share the gradients and return the same rows.

    Costs one training step of the proxy per row that is looked at (`benchmarks/gradients.py`), and one forward pass
    in memory per batch, besides n · `projection_dim` numbers where the proxy is frozen.

    Args:
        dataset: The pool: rows of text, or tokenised ones with `input_ids` and, where not every token counts,
            `labels`. Rows without a label are left out and counted. Of a `DatasetDict` each split named in `k` is
            replaced by its subset.
        k: How many rows; for a `DatasetDict` a mapping from split to rows, or a number for its `train` split.
        model: The proxy: a Hub id, a local folder, or a live model, which is left as it was.
        tokenizer: For rows of text with a live model; otherwise the model's own.
        columns: Text columns, instead of the detected layout; every token of the text counts, as in the paper.
        target_modules: Whose gradients: `"lora"` (put on where the model has none), `"last_layer"`, `"hidden"` or a
            pattern of layer names, see `hf_gip.gradient_features`. The same weights are trained.
        projection_dim: Width the gradients are projected to; None keeps them whole.
        window: Rows looked at together; None, all of them, needs a frozen proxy.
        update_every: Rows chosen per step of the proxy, counted in selections across windows: 1, 10 or 50 in the
            paper. None: never.
        alpha: Weight α of the gradients against the identity.
        conflict_penalty: Weight λ of the conflict.
        stop_ratio: Leave a window once a pick would bring at most this share of the window's first one: fewer rows
            than `k`, as many as the record then says. 0.5 is the paper's, as "SPICE+". None: exactly `k` rows.
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
    options: dict[str, Any] = {name: value for name, value in locals().items() if name not in ("dataset", "k")}
    if isinstance(dataset, DatasetDict):
        chosen = {name: spice_select(dataset[name], n, **options) for name, n in splits(dataset, k)}
        return cast("Pool", DatasetDict({**dataset, **chosen}))
    from hf_gip.core.validation import check_device
    from hf_gip.dataset.inputs import plain_options, plain_value
    from hf_gip.features.proxy import name_model
    from hf_gip.features.tokenization import columns_read

    k, options = plain_value(k), plain_options(options)
    check_dataset(dataset, k, id_column)
    _check_options(options)
    read = columns_read(dataset, options["columns"])  # refuses wrong ones before a model is opened
    options["device"] = check_device(device)
    named = name_model(model, tokenizer, device=options["device"])
    plain = {
        name: value for name, value in options.items() if name not in ("model", "tokenizer", "device", "batch_size")
    }
    request = {"method": "spice", "version": VERSION, "k": k, "proxy": named.identity, **plain}
    request["rows"] = hash_rows(dataset, read)
    folder = cache_folder("runs", hash_json(request))
    selection = select_once(request, lambda: _select(dataset, cast("int", k), named, options, folder), shared=True)
    from hf_gip.dataset.spice_evidence import SpiceEvidence
    from hf_gip.features.spice_run import forget

    forget(folder)
    selection = replace(selection, context=SpiceEvidence(dataset, named, options))
    return attach(dataset, selection)


def _select(
    dataset: Dataset, k: int, named: "NamedModel", options: dict[str, Any], folder: Path | None
) -> "Selection":
    from hf_gip.features.gradients import context_length
    from hf_gip.features.proxy import prepared
    from hf_gip.features.spice_run import Rule, as_selection, summary
    from hf_gip.features.tokenization import tokenised

    started = time.perf_counter()
    model, tokenizer = named.load()
    length = min(options["max_length"], context_length(model))
    tokens = tokenised(dataset, tokenizer, options["columns"], length)
    if k > len(tokens.usable):
        raise ValueError(
            f"`k` must be at most the number of rows with a labelled token ({len(tokens.usable)} of {len(dataset)}), "
            f"got {k}."
        )
    rule = Rule(
        float(options["alpha"]),
        float(options["conflict_penalty"]),
        *(options[name] for name in ("stop_ratio", "fisher", "seed")),
    )
    with prepared(model, options["target_modules"], options["seed"]) as ready:
        run = _frozen if options["update_every"] is None else _trained
        done = run(ready, tokens, k, rule, options | {"max_length": length}, folder)
    if len(done.rows) < k:
        logger.warning("`stop_ratio` ended %s before `k`: %d of %d rows chosen", "windows", len(done.rows), k)
    plain = ("projection_dim", "window", "update_every", "alpha", "conflict_penalty", "stop_ratio", "fisher", "seed")
    record = {
        "method": "spice",
        "parameters": {"k": k, **{name: options[name] for name in plain}},
        "stopped_early": done.stopped,
        "proxy": named.identity | {"steps": done.steps},
        "features": {"kind": "gradients", "target_modules": options["target_modules"], **tokens.recipe},
        "rows": {"left_out": tokens.left_out, "truncated": tokens.truncated},
        "diagnostics": summary(done),
        **environment(dataset, options["id_column"]),
        "timings": {"select_seconds": time.perf_counter() - started},
    }
    return as_selection(done, record)


def _trained(model: Any, tokens: Any, k: int, rule: Any, options: dict[str, Any], folder: Path | None) -> Any:
    """The paper's pipeline: window by window, the proxy trained on what was chosen."""
    import torch

    from hf_gip.features.per_example_gradients import GradientReader, GradientRecipe
    from hf_gip.features.progress import announce
    from hf_gip.features.spice_run import TrainedProxy, WindowedRun

    length, seed = options["max_length"], options["seed"]
    reader = GradientReader(
        model, GradientRecipe(options["target_modules"], options["projection_dim"], None, False, seed, length)
    )
    proxy = TrainedProxy(reader, tokens.rows, options["update_every"], length, options["batch_size"], folder)
    order = tokens.usable[torch.randperm(len(tokens.usable), generator=torch.Generator().manual_seed(seed))]
    run = WindowedRun(order, k, options["window"], rule)
    try:
        run.done = proxy.resumed()
        left = [row for number, rows in enumerate(run.windows) if run.waits(number) for row in rows.tolist()]
        if proxy.rank == 0:
            announce(
                reader,
                tokens.rows,
                left[:: proxy.world],
                batch_size=options["batch_size"],
                max_length=length,
                extra=k - len(run.done.rows),
                note=f"{len(run.windows)} windows, a step of the proxy per {options['update_every']} picks",
            )
        return run.run(proxy.gradients, proxy.after)
    finally:
        proxy.trainer.undo()


def _frozen(model: Any, tokens: Any, k: int, rule: Any, options: dict[str, Any], folder: Path | None) -> Any:
    """One shot: all gradients into a store, then windows of shuffled rows, or all rows at once."""
    import tempfile

    import torch

    from hf_gip.dataset.cache import cached_gradients
    from hf_gip.features.per_example_gradients import GradientRecipe
    from hf_gip.features.spice_run import WindowedRun

    length, seed = options["max_length"], options["seed"]
    recipe = GradientRecipe(options["target_modules"], options["projection_dim"], None, False, seed, length)
    order = tokens.usable
    with tempfile.TemporaryDirectory() as scratch:
        store = cached_gradients(model, tokens.rows, recipe, options["batch_size"], Path(scratch))
        matrix = store.features.load()
        place = torch.full((len(tokens.rows),), -1)
        place[store.rows] = torch.arange(len(store.rows))
        if options["window"] is not None:
            order = order[torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))]
        run = WindowedRun(order, k, options["window"] or len(order), rule)
        return run.run(lambda rows: matrix[place[rows]].to(options["device"]), lambda done: None)


def _check_options(options: Mapping[str, Any]) -> None:
    from hf_gip.core.spice import check_spice_options
    from hf_gip.core.validation import check_int, check_seed
    from hf_gip.features.per_example_gradients import check_target_modules

    check_spice_options(*(options[name] for name in ("alpha", "conflict_penalty", "stop_ratio", "fisher", "window")))
    every, window = options["update_every"], options["window"]
    check_int("update_every", every, optional=True)
    if every is not None and window is None:
        raise ValueError(
            "`window` must be a number of rows where the proxy is trained between windows, got None: add "
            "`update_every=None` to choose from all rows at once."
        )
    check_target_modules(options["target_modules"])
    if every is not None and options["target_modules"] == "hidden":
        raise ValueError("`target_modules='hidden'` are no weights to train: add `update_every=None`.")
    check_int("max_length", options["max_length"])
    check_int("batch_size", options["batch_size"])
    check_int("projection_dim", options["projection_dim"], optional=True)
    check_seed(options["seed"])
