"""`hf-gip spice`: a dataset and a small proxy model in, the rows that teach most and conflict least out."""

import time
from typing import Annotated, Any, Literal

import typer

from hf_gip.cli.pools import (
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


def spice_command(
    source: Source,
    k: K,
    out: Out,
    model: Proxy,
    columns: TextColumns = None,
    parameters: Annotated[
        str, typer.Option(help="Whose gradients: lora, last_layer, hidden, or a pattern of layer names.")
    ] = "lora",
    window: Annotated[int, typer.Option(help="Rows looked at together; 0: all at once, with --frozen.")] = 120,
    update_every: Annotated[int, typer.Option(help="Rows chosen per training step of the proxy.")] = 10,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Leave the proxy as it is; its gradients are kept.")
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
    from hf_gip.cli.inputs import check_counts, names
    from hf_gip.cli.output import console
    from hf_gip.dataset.spice_select import spice_select
    from hf_gip.manifest.layout import check_empty

    check_empty(out)
    check_counts(max_length=max_length, batch_size=batch_size)
    _check_windows(window, update_every, frozen, stop_ratio)
    terminal = console()
    pool = read_pool(source, terminal, split=split, config=config, revision=revision)
    options: dict[str, Any] = {
        "columns": names(columns),
        "parameters": parameters,
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
            f"`--update-every` must be at least 1, got {update_every}: for a proxy left as it is, add `--frozen`."
        )
    if not window and not frozen:
        raise ValueError("`--window 0`, all rows at once, needs a proxy that stays as it is: add `--frozen`.")
