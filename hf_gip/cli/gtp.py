"""`hf-gip gtp`: a dataset, a model and a target in, the few weighted rows that together follow the target out."""

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
    parameters: Annotated[
        str, typer.Option(help="Whose gradients: lora, last_layer, or a pattern of layer names.")
    ] = "lora",
    subspace: Annotated[
        Literal["random", "snapshots"], typer.Option(help="A sketch, or the directions in which the weights move.")
    ] = "random",
    dims: Annotated[int, typer.Option(help="Width per checkpoint at most.")] = 4096,
    adam: Annotated[
        bool, typer.Option("--adam", help="The pool's gradients through Adam's moments, as in LESS.")
    ] = False,
    share: Annotated[float, typer.Option(help="Part of the pool that the warm-up run trains on.")] = 0.05,
    epochs: Annotated[int, typer.Option(help="Passes of the warm-up run, a checkpoint after each.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 2e-5,
    checkpoints: Annotated[
        list[str] | None, typer.Option("--checkpoint", help="A Trainer's checkpoint folder instead; repeat it.")
    ] = None,
    rates: Annotated[
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
    from hf_gip.cli.inputs import check_counts, names, numbers, open_target_rows
    from hf_gip.cli.output import console
    from hf_gip.dataset.gtp_select import gtp_select
    from hf_gip.manifest.layout import check_empty

    check_empty(out)
    check_counts(dims=dims, epochs=epochs, max_length=max_length, batch_size=batch_size)
    terminal = console()
    pool = read_pool(source, terminal, split=split, config=config, revision=revision)
    options: dict[str, Any] = {
        "target": open_target_rows(target, split=target_split, config=target_config),
        "columns": names(columns),
        "parameters": parameters,
        "subspace": subspace,
        "dims": dims,
        "adam": adam,
        "share": share,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "checkpoints": checkpoints or None,
        "rates": numbers(rates),
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
