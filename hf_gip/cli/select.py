"""`hf-gip select`, `spice` and `gtp`: choose rows and save them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from datasets import Dataset

from hf_gip.cli.options import (
    BatchSize,
    Config,
    Device,
    Devices,
    EncoderKwargs,
    ExcludeConfig,
    ExcludeSplit,
    IdColumn,
    IncludeRows,
    K,
    MaxLength,
    Out,
    Private,
    Proxy,
    Revision,
    Seed,
    SelectEncoder,
    SelectFeatures,
    SelectTarget,
    Source,
    Split,
    TargetConfig,
    TargetModules,
    TargetSplit,
    TextColumns,
    column_or_npy,
    defaults,
    open_excluded,
    open_target,
    open_target_rows,
    parse_floats,
    parse_json,
    parse_list,
    parse_quotas,
    parse_weights,
    read_pool,
    save_result,
)
from hf_gip.dataset.gip_options import GipOptions
from hf_gip.dataset.options import GtpOptions, SpiceOptions

GIP, SPICE, GTP = defaults(GipOptions), defaults(SpiceOptions), defaults(GtpOptions)


def select_command(
    source: Source,
    k: K,
    out: Annotated[Path | None, typer.Option("--out", help="A new or empty folder for the result.")] = None,
    push_to: Annotated[
        str | None, typer.Option("--push-to", help="A dataset repository for the result, such as me/rows.")
    ] = None,
    private: Private = None,
    scores: Annotated[
        str | None, typer.Option(help="Numeric columns, larger is better: a,b or a=2,b=1.")
    ] = GIP.scores,
    scores_as: Annotated[
        Literal["precision", "queries"] | None, typer.Option(help="How far rows are trusted, or what is wanted.")
    ] = GIP.scores_as,
    target: SelectTarget = GIP.target,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    columns: TextColumns = GIP.columns,
    template: Annotated[str | None, typer.Option(help="A text with column names in braces, instead.")] = GIP.template,
    encoder: SelectEncoder = GIP.encoder,
    encoder_kwargs: EncoderKwargs = GIP.encoder_kwargs,
    features: SelectFeatures = GIP.features,
    objective: Annotated[
        Literal["projection", "information"], typer.Option(help="Captured energy, or log-det information.")
    ] = GIP.objective,
    pursuit: Annotated[
        Literal["orthogonal", "matching"], typer.Option(help="matching: the paper's own rank-one pursuit.")
    ] = GIP.pursuit,
    noise: Annotated[float | None, typer.Option(help="Ridge in units of the rows' mean energy.")] = GIP.noise,
    diversity: Annotated[float | None, typer.Option(help="0 (most relevant) to 1 (most spread).")] = GIP.diversity,
    quality: Annotated[
        float | None, typer.Option(help="Weight of the scores: 0 ignores them, 1 by default.")
    ] = GIP.quality,
    target_weight: Annotated[
        float | None, typer.Option(help="Share of the target against the pool, up to 1.")
    ] = GIP.target_weight,
    cover_columns: Annotated[
        str | None, typer.Option(help="Categorical columns to cover: source or source=2,lang=1.")
    ] = GIP.cover_columns,
    group_column: Annotated[str | None, typer.Option(help="A column of groups for the quotas.")] = GIP.group_column,
    max_per_group: Annotated[
        str | None, typer.Option(help="Most rows a group: 50, or forum=50,wiki=20.")
    ] = GIP.max_per_group,
    min_per_group: Annotated[str | None, typer.Option(help="Fewest rows a group, likewise.")] = GIP.min_per_group,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of all rows; --k is then a ceiling.")
    ] = GIP.max_tokens,
    token_column: Annotated[str | None, typer.Option(help="A column of token counts.")] = GIP.token_column,
    exclude: Annotated[
        str | None, typer.Option(help="Stay away from this: a dataset, a file, or .npy.")
    ] = GIP.exclude,
    exclude_split: ExcludeSplit = None,
    exclude_config: ExcludeConfig = None,
    exclude_threshold: Annotated[
        float, typer.Option(help="How close is too close, as a cosine.")
    ] = GIP.exclude_threshold,
    id_column: IdColumn = GIP.id_column,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Devices = GIP.device,
    include_rows: IncludeRows = True,
) -> None:
    """Choose the k rows that matter and save them to a folder with what chose them, from where, and hashes."""
    arguments = locals()
    from hf_gip.cli.output import is_first_rank, show
    from hf_gip.core.validation import check_int
    from hf_gip.dataset.gip import gip_select
    from hf_gip.dataset.loading import describe_source
    from hf_gip.hub.push import push_to_hub
    from hf_gip.manifest.writer import check_rebuildable

    _check_destination(out, push_to)
    if max_tokens is not None:
        check_int("max_tokens", max_tokens)  # before the source is read
    pool = read_pool(source, split=split, config=config, revision=revision)
    if not include_rows:
        check_rebuildable(describe_source(pool))
    options = {name: arguments[name] for name in vars(GIP) if name in arguments} | {
        "scores": parse_weights("--scores", scores),
        "target": open_target(target, split=target_split, config=target_config),
        "features": column_or_npy(features),
        "columns": parse_list(columns),
        "encoder_kwargs": parse_json("--encoder-kwargs", encoder_kwargs),
        "device": parse_list(device) if device is not None and "," in device else device,
        "cover_columns": parse_weights("--cover-columns", cover_columns),
        "max_per_group": parse_quotas("--max-per-group", max_per_group),
        "min_per_group": parse_quotas("--min-per-group", min_per_group),
        "exclude": open_excluded(exclude, split=exclude_split, config=exclude_config),
    }
    subset = _select(gip_select, pool, k, options)
    if out is not None:
        save_result(subset, out, include_rows=include_rows)
    if push_to is not None and is_first_rank():
        commit = push_to_hub(subset, push_to, include_rows=include_rows, private=private, split="train")
        visibility = "private" if commit.private else "public"
        show(f"Published {commit.commit_url} ({visibility}): check it with `hf-gip verify {push_to}`.")


def _check_destination(out: Path | None, push_to: str | None) -> None:
    """Raise unless the result can go somewhere.

    Raises:
        ValueError: If nothing was named.
    """
    from hf_gip.manifest.writer import check_empty

    if out is None and push_to is None:
        raise ValueError("the result must go somewhere: give `--out FOLDER`, `--push-to me/rows`, or both.")
    if out is not None:
        check_empty("--out", out)


def spice_command(
    source: Source,
    out: Out,
    model: Proxy,
    k: Annotated[
        int | None, typer.Option("--k", help="How many rows; with --stop-ratio at most, or left out.")
    ] = None,
    columns: TextColumns = SPICE.columns,
    target_modules: TargetModules = SPICE.target_modules,
    window: Annotated[
        int, typer.Option(help="Rows compared with each other; 0: all at once, with --frozen-proxy.")
    ] = SPICE.window,
    update_every: Annotated[
        int, typer.Option(help="Rows chosen per training step of the proxy.")
    ] = SPICE.update_every,
    frozen_proxy: Annotated[
        bool, typer.Option("--frozen-proxy", help="Leave the proxy as it is; its gradients are cached.")
    ] = False,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Gradients of unit length, or as long as they are.")
    ] = SPICE.normalize,
    alpha: Annotated[
        float, typer.Option(help="Weight of the gradients, in units of 1/mean‖g‖² of a window.")
    ] = SPICE.alpha,
    absolute_alpha: Annotated[
        bool, typer.Option("--absolute-alpha", help="Alpha as it stands, as in the released code.")
    ] = SPICE.absolute_alpha,
    conflict_penalty: Annotated[
        float, typer.Option(help="Weight of the conflict; 0 is D-optimal design.")
    ] = SPICE.conflict_penalty,
    stop_ratio: Annotated[
        float | None, typer.Option(help="Leave a window at this share of its first gain: fewer than k rows.")
    ] = SPICE.stop_ratio,
    fisher: Annotated[
        Literal["full", "diagonal", "diagonal_g4"], typer.Option(help="The Fisher matrix, or approximations.")
    ] = SPICE.fisher,
    max_length: MaxLength = SPICE.max_length,
    batch_size: BatchSize = SPICE.batch_size,
    seed: Seed = SPICE.seed,
    id_column: IdColumn = SPICE.id_column,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Device = SPICE.device,
    include_rows: IncludeRows = True,
) -> None:
    """Choose the k rows with the most Fisher information and the least gradient conflict, by a proxy's gradients."""
    arguments = locals()
    from hf_gip.dataset.spice import spice_select
    from hf_gip.manifest.writer import check_empty

    _check_windows(k, window, update_every, frozen_proxy, stop_ratio, target_modules)
    options = {name: arguments[name] for name in vars(SPICE) if name in arguments} | {
        "columns": parse_list(columns),
        "window": window or None,
        "update_every": None if frozen_proxy else update_every,
    }
    check_empty("--out", out)
    SpiceOptions(**options)  # checks them before the source is read
    pool = read_pool(source, split=split, config=config, revision=revision)
    save_result(_select(spice_select, pool, k, {"model": model, **options}), out, include_rows=include_rows)


def _check_windows(
    k: int | None, window: int, update_every: int, frozen_proxy: bool, stop_ratio: float | None, target_modules: str
) -> None:
    """Check what Python says with None and the command line with another flag.

    Raises:
        ValueError: If an option is out of range, or needs another.
    """
    if k is None and stop_ratio is None:
        raise ValueError("`--k` must be a number of rows where no `--stop-ratio` ends a window, got neither.")
    if stop_ratio is not None and not 0 < stop_ratio < 1:
        raise ValueError(f"`--stop-ratio` must be between 0 and 1, got {stop_ratio}: leave it out never to stop.")
    if window < 0:
        raise ValueError(f"`--window` must be a whole number of rows, or 0 for all at once, got {window}.")
    if frozen_proxy:
        return
    if update_every < 1:
        raise ValueError(
            f"`--update-every` must be at least 1, got {update_every}: for a proxy left as it is, add "
            "`--frozen-proxy`."
        )
    if not window:
        raise ValueError("`--window 0`, all rows at once, needs a proxy that stays as it is: add `--frozen-proxy`.")
    if target_modules == "hidden":
        raise ValueError("`--target-modules hidden` are no weights to train: add `--frozen-proxy`.")


def gtp_command(
    source: Source,
    k: K,
    out: Out,
    model: Proxy,
    target: Annotated[
        str | None, typer.Option(help="What the rows should serve: a dataset or a file; by default the pool itself.")
    ] = None,
    target_split: TargetSplit = None,
    target_config: TargetConfig = None,
    columns: TextColumns = GTP.columns,
    target_modules: TargetModules = GTP.target_modules,
    subspace: Annotated[
        Literal["random", "snapshots"], typer.Option(help="A sketch, or the directions in which the weights move.")
    ] = GTP.subspace,
    projection_dim: Annotated[int, typer.Option(help="Width per checkpoint at most.")] = GTP.projection_dim,
    adam: Annotated[
        bool, typer.Option("--adam", help="The pool's gradients through Adam's moments, as in LESS.")
    ] = GTP.adam,
    normalize: Annotated[
        bool, typer.Option("--normalize/--no-normalize", help="Unit gradients; without, raw ones.")
    ] = GTP.normalize,
    warmup_fraction: Annotated[
        float, typer.Option(help="Part of the pool that the warm-up run trains on.")
    ] = GTP.warmup_fraction,
    warmup_epochs: Annotated[
        int, typer.Option(help="Passes of the warm-up run, a checkpoint after each.")
    ] = GTP.warmup_epochs,
    warmup_learning_rate: Annotated[float, typer.Option(help="Its peak.")] = GTP.warmup_learning_rate,
    checkpoints: Annotated[
        list[str] | None, typer.Option("--checkpoint", help="A Trainer's checkpoint folder instead; repeat it.")
    ] = GTP.checkpoints,
    learning_rates: Annotated[
        str | None, typer.Option(help="Learning rate of each, where the Trainer logged none: 1e-5,5e-6.")
    ] = GTP.learning_rates,
    max_length: MaxLength = GTP.max_length,
    batch_size: BatchSize = GTP.batch_size,
    seed: Seed = GTP.seed,
    id_column: IdColumn = GTP.id_column,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Device = GTP.device,
    include_rows: IncludeRows = True,
) -> None:
    """Choose k rows, with weights, whose gradients together follow a target's along a training run."""
    arguments = locals()
    from hf_gip.core.validation import check_int
    from hf_gip.dataset.gtp import gtp_select
    from hf_gip.manifest.writer import check_empty

    options = {name: arguments[name] for name in vars(GTP) if name in arguments} | {
        "columns": parse_list(columns),
        "checkpoints": checkpoints or None,
        "learning_rates": parse_floats("--learning-rates", learning_rates),
    }
    check_empty("--out", out)
    check_int("projection_dim", projection_dim)  # None, which Python takes, is no word here
    GtpOptions(**options)  # checks them before the source is read
    pool = read_pool(source, split=split, config=config, revision=revision)
    rows = open_target_rows(target, split=target_split, config=target_config)
    subset = _select(gtp_select, pool, k, {"model": model, "target": rows, **options})
    save_result(subset, out, include_rows=include_rows)


def _select(function: Callable[..., Dataset], pool: Dataset, k: int | None, options: dict[str, Any]) -> Dataset:
    """The subset, and what was reached."""
    from hf_gip.cli.output import show_picks

    started = time.perf_counter()
    subset = function(pool, k, **options)
    show_picks(subset, started)
    return subset
