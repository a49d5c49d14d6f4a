"""`hf-gip select`, `spice` and `gtp`."""

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hf_gip.cli.options import (
    Config,
    Device,
    IdColumn,
    K,
    Out,
    Proxy,
    Revision,
    Rows,
    Source,
    Split,
    TextColumns,
    read_pool,
    save_and_tell,
    show_picks,
)


def select_command(
    source: Annotated[
        str, typer.Argument(help="A Hub id, a .parquet, .jsonl, .csv … file, or a save_to_disk folder.")
    ],
    k: Annotated[int, typer.Option("--k", help="How many rows to choose.")],
    out: Annotated[Path | None, typer.Option("--out", help="A new or empty folder for the result.")] = None,
    push_to: Annotated[
        str | None, typer.Option("--push-to", help="A dataset repository for the result, such as me/rows.")
    ] = None,
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Of a new repository; private unless all rows are known to be public."
        ),
    ] = None,
    scores: Annotated[str | None, typer.Option(help="Numeric columns, larger is better: a,b or a=2,b=1.")] = None,
    scores_as: Annotated[
        Literal["precision", "queries"], typer.Option(help="How far rows are trusted, or what is wanted.")
    ] = "precision",
    target: Annotated[str | None, typer.Option(help="What the rows should serve: a dataset, a file, or .npy.")] = None,
    target_split: Annotated[str | None, typer.Option(help="Split of the target; train, where it has splits.")] = None,
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    columns: Annotated[
        str | None, typer.Option(help="Text columns to embed, instead of the detected ones: a,b.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="A text with column names in braces, instead.")] = None,
    encoder: Annotated[str | None, typer.Option(help="'lexical', or a sentence-transformers id or folder.")] = None,
    features: Annotated[str | None, typer.Option(help="Ready vectors: a column, or a .npy file.")] = None,
    objective: Annotated[
        Literal["projection", "information"], typer.Option(help="Captured energy, or log-det information.")
    ] = "projection",
    noise: Annotated[float | None, typer.Option(help="Ridge in units of the rows' mean energy.")] = None,
    diversity: Annotated[float | None, typer.Option(help="0 (most relevant) to 1 (most spread).")] = None,
    quality: Annotated[float | None, typer.Option(help="Weight of the scores: 0 ignores them, 1 by default.")] = None,
    target_weight: Annotated[float | None, typer.Option(help="Share of the target against the pool, up to 1.")] = None,
    cover_columns: Annotated[
        str | None, typer.Option(help="Categorical columns to cover: source or source=2,lang=1.")
    ] = None,
    group_column: Annotated[str | None, typer.Option(help="A column of groups for the quotas.")] = None,
    max_per_group: Annotated[str | None, typer.Option(help="Most rows a group: 50, or forum=50,wiki=20.")] = None,
    min_per_group: Annotated[str | None, typer.Option(help="Fewest rows a group, likewise.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens of all rows; --k is then a ceiling.")] = None,
    token_column: Annotated[str | None, typer.Option(help="A column of token counts.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Stay away from this: a dataset, a file, or .npy.")] = None,
    exclude_split: Annotated[str | None, typer.Option(help="Its split; test, where it has splits.")] = None,
    exclude_config: Annotated[str | None, typer.Option(help="Its configuration.")] = None,
    exclude_threshold: Annotated[float, typer.Option(help="How close is too close, as a cosine.")] = 0.9,
    id_column: Annotated[str | None, typer.Option(help="A column that names the rows.")] = None,
    split: Annotated[str, typer.Option(help="Split of the source.")] = "train",
    config: Annotated[str | None, typer.Option(help="Configuration of the source.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the source on the Hub.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; a GPU where there is one.")] = None,
    rows: Annotated[
        bool, typer.Option("--include-rows/--no-include-rows", help="Save the rows, or positions and hashes only.")
    ] = True,
) -> None:
    """Choose the k rows that matter and save them to a folder with what chose them, from where, and hashes."""
    from hf_gip.cli.options import (
        check_counts,
        names,
        open_excluded,
        open_target,
        quotas,
        read_pool,
        save_and_tell,
        show_picks,
        vectors,
        weighed,
    )
    from hf_gip.cli.output import console
    from hf_gip.dataset.gip_select import gip_select
    from hf_gip.dataset.loading import describe_source
    from hf_gip.manifest.writer import check_rebuildable

    _check_where(out, push_to)
    check_counts(max_tokens=max_tokens)
    terminal = console()
    pool = read_pool(source, terminal, split=split, config=config, revision=revision)
    if not rows:
        check_rebuildable(describe_source(pool))
    options: dict[str, Any] = {
        "scores": weighed(scores),
        "scores_as": scores_as,
        "target": open_target(target, split=target_split, config=target_config),
        "features": vectors(features) if features is not None and features.endswith(".npy") else features,
        "columns": names(columns),
        "template": template,
        "encoder": encoder,
        "objective": objective,
        "noise": noise,
        "diversity": diversity,
        "quality": quality,
        "target_weight": target_weight,
        "cover_columns": weighed(cover_columns),
        "group_column": group_column,
        "max_per_group": quotas(max_per_group),
        "min_per_group": quotas(min_per_group),
        "max_tokens": max_tokens,
        "token_column": token_column,
        "exclude": open_excluded(exclude, split=exclude_split, config=exclude_config),
        "exclude_threshold": exclude_threshold,
        "id_column": id_column,
        "device": device,
    }
    started = time.perf_counter()
    subset = gip_select(pool, k, **options)
    show_picks(subset, started, terminal)
    if out is not None:
        save_and_tell(subset, out, terminal, rows=rows)
    if push_to is not None:
        from rich.text import Text

        from hf_gip.hub.push import push_to_hub

        done = push_to_hub(subset, push_to, include_rows=rows, private=private, split="train")
        shown = "private" if done.private else "public"
        terminal.print(Text(f"Published {done.commit_url} ({shown}): check it with `hf-gip verify {push_to}`."))


def _check_where(out: Path | None, push_to: str | None) -> None:
    """Raise unless there is a place for the result.

    Raises:
        ValueError: If none was named.
    """
    from hf_gip.manifest.writer import check_empty

    if out is None and push_to is None:
        raise ValueError("the result must go somewhere: give `--out FOLDER`, `--push-to me/rows`, or both.")
    if out is not None:
        check_empty(out)


def spice_command(
    source: Source,
    k: K,
    out: Out,
    model: Proxy,
    columns: TextColumns = None,
    target_modules: Annotated[
        str, typer.Option(help="Whose gradients: lora, last_layer, hidden, or a pattern of layer names.")
    ] = "lora",
    window: Annotated[int, typer.Option(help="Rows looked at together; 0: all at once, with --frozen-proxy.")] = 120,
    update_every: Annotated[int, typer.Option(help="Rows chosen per training step of the proxy.")] = 10,
    frozen: Annotated[
        bool, typer.Option("--frozen-proxy", help="Leave the proxy as it is; its gradients are kept.")
    ] = False,
    conflict_penalty: Annotated[float, typer.Option(help="Weight of the conflict; 0 is D-optimal design.")] = 0.1,
    stop_ratio: Annotated[
        float | None, typer.Option(help="Leave a window at this share of its first gain: fewer than k rows.")
    ] = None,
    fisher: Annotated[
        Literal["full", "diagonal", "diagonal_g4"], typer.Option(help="The Fisher matrix, or approximations.")
    ] = "full",
    max_length: Annotated[int, typer.Option(help="Tokens per row at most.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the shuffle, the LoRA layers and the projection.")] = 0,
    id_column: IdColumn = None,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Device = None,
    rows: Rows = True,
) -> None:
    """Choose the k rows with the most Fisher information and the least gradient conflict, by a proxy's gradients."""
    from hf_gip.cli.options import check_counts, names
    from hf_gip.cli.output import console
    from hf_gip.dataset.spice import spice_select
    from hf_gip.manifest.writer import check_empty

    check_empty(out)
    check_counts(max_length=max_length, batch_size=batch_size)
    _check_windows(window, update_every, frozen, stop_ratio)
    terminal = console()
    pool = read_pool(source, terminal, split=split, config=config, revision=revision)
    options: dict[str, Any] = {
        "columns": names(columns),
        "target_modules": target_modules,
        "window": window or None,
        "update_every": None if frozen else update_every,
        "conflict_penalty": conflict_penalty,
        "stop_ratio": stop_ratio,
        "fisher": fisher,
        "max_length": max_length,
        "batch_size": batch_size,
        "seed": seed,
        "id_column": id_column,
        "device": device,
    }
    started = time.perf_counter()
    subset = spice_select(pool, k, model=model, **options)
    show_picks(subset, started, terminal)
    save_and_tell(subset, out, terminal, rows=rows)


def _check_windows(window: int, update_every: int, frozen: bool, stop_ratio: float | None) -> None:
    """Raise unless the options of the windows are in range and go together; said in the words of the command line.

    Raises:
        ValueError: If one is out of range, or all rows at once are asked for with a proxy in training.
    """
    if stop_ratio is not None and not 0 < stop_ratio < 1:
        raise ValueError(f"`--stop-ratio` must be between 0 and 1, got {stop_ratio}: leave it out never to stop.")
    if window < 0:
        raise ValueError(f"`--window` must be a whole number of rows, or 0 for all at once, got {window}.")
    if update_every < 1 and not frozen:
        raise ValueError(
            f"`--update-every` must be at least 1, got {update_every}: for a proxy left as it is, add "
            "`--frozen-proxy`."
        )
    if not window and not frozen:
        raise ValueError("`--window 0`, all rows at once, needs a proxy that stays as it is: add `--frozen-proxy`.")


def gtp_command(
    source: Source,
    k: K,
    out: Out,
    model: Proxy,
    target: Annotated[
        str | None, typer.Option(help="What the rows should serve: a dataset or a file; the pool itself unless told.")
    ] = None,
    target_split: Annotated[str | None, typer.Option(help="Split of the target; train, where it has splits.")] = None,
    target_config: Annotated[str | None, typer.Option(help="Configuration of the target.")] = None,
    columns: TextColumns = None,
    target_modules: Annotated[
        str, typer.Option(help="Whose gradients: lora, last_layer, or a pattern of layer names.")
    ] = "lora",
    subspace: Annotated[
        Literal["random", "snapshots"], typer.Option(help="A sketch, or the directions in which the weights move.")
    ] = "random",
    projection_dim: Annotated[int, typer.Option(help="Width per checkpoint at most.")] = 4096,
    adam: Annotated[
        bool, typer.Option("--adam", help="The pool's gradients through Adam's moments, as in LESS.")
    ] = False,
    warmup_fraction: Annotated[float, typer.Option(help="Part of the pool that the warm-up run trains on.")] = 0.05,
    warmup_epochs: Annotated[int, typer.Option(help="Passes of the warm-up run, a checkpoint after each.")] = 4,
    warmup_learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 2e-5,
    checkpoints: Annotated[
        list[str] | None, typer.Option("--checkpoint", help="A Trainer's checkpoint folder instead; repeat it.")
    ] = None,
    learning_rates: Annotated[
        str | None, typer.Option(help="Learning rate of each, where the Trainer logged none: 1e-5,5e-6.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens per row at most.")] = 2048,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the warm-up run, the LoRA layers and the projection.")] = 0,
    id_column: IdColumn = None,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Device = None,
    rows: Rows = True,
) -> None:
    """Choose k rows, with weights, whose gradients together follow a target's along a training run."""
    from hf_gip.cli.options import check_counts, names, numbers, open_target_rows
    from hf_gip.cli.output import console
    from hf_gip.dataset.gtp import gtp_select
    from hf_gip.manifest.writer import check_empty

    check_empty(out)
    check_counts(
        projection_dim=projection_dim, warmup_epochs=warmup_epochs, max_length=max_length, batch_size=batch_size
    )
    terminal = console()
    pool = read_pool(source, terminal, split=split, config=config, revision=revision)
    options: dict[str, Any] = {
        "target": open_target_rows(target, split=target_split, config=target_config),
        "columns": names(columns),
        "target_modules": target_modules,
        "subspace": subspace,
        "projection_dim": projection_dim,
        "adam": adam,
        "warmup_fraction": warmup_fraction,
        "warmup_epochs": warmup_epochs,
        "warmup_learning_rate": warmup_learning_rate,
        "checkpoints": checkpoints or None,
        "learning_rates": numbers(learning_rates),
        "max_length": max_length,
        "batch_size": batch_size,
        "seed": seed,
        "id_column": id_column,
        "device": device,
    }
    started = time.perf_counter()
    subset = gtp_select(pool, k, model=model, **options)
    show_picks(subset, started, terminal)
    save_and_tell(subset, out, terminal, rows=rows)
