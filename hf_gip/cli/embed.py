"""`hf-gip embed`: fill a store of embeddings, alone or as one of many workers."""

import time
from typing import Annotated, Literal

import typer

from hf_gip.cli.options import (
    Config,
    Devices,
    EncoderKwargs,
    Revision,
    SelectEncoder,
    Source,
    Split,
    TextColumns,
    parse_json,
    parse_list,
    read_pool,
)


def embed_command(
    source: Source,
    store: Annotated[
        str,
        typer.Argument(help="A folder, or a path that fsspec knows: hf://buckets/me/vectors, s3://bucket/vectors."),
    ],
    encoder: SelectEncoder = None,
    encoder_kwargs: EncoderKwargs = None,
    columns: TextColumns = None,
    template: Annotated[str | None, typer.Option(help="A text with column names in braces, instead.")] = None,
    dtype: Annotated[Literal["float16", "float32"], typer.Option(help="Type of the stored numbers.")] = "float16",
    shard_rows: Annotated[
        int | None, typer.Option(help="Rows of a shard, 4096 by default: what a kill costs at most.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(help="Number of this worker, from 0; by default what the launcher says.")
    ] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of workers, likewise.")] = None,
    split: Split = "train",
    config: Config = None,
    revision: Revision = None,
    device: Devices = None,
) -> None:
    """Embed the rows, or this worker's share of them, into a store for `hf-gip select --features STORE`.

    Workers share nothing but the store. A killed one loses the shard it was at; the same command goes on there.
    RANK and WORLD_SIZE of torchrun, accelerate or `hf jobs run --env`, and Slurm's variables, say which worker it is.
    """
    from hf_gip.cli.output import plural, show, since
    from hf_gip.features.embedding_store import resolve_worker, store_embeddings
    from hf_gip.features.sentence_transformer import DEFAULT_ENCODER

    rank, world_size = resolve_worker(rank, world_size)  # before the source is read
    pool = read_pool(source, split=split, config=config, revision=revision)
    started = time.perf_counter()
    progress = store_embeddings(
        pool,
        store,
        encoder or DEFAULT_ENCODER,
        columns=parse_list(columns),
        template=template,
        dtype=dtype,
        shard_rows=shard_rows,
        rank=rank,
        world_size=world_size,
        device=parse_list(device) if device is not None and "," in device else device,
        encoder_kwargs=parse_json("--encoder-kwargs", encoder_kwargs),
    )
    then = (
        "select by it with `hf-gip select --features`."
        if progress.complete == progress.shards
        else "the others are another worker's, or for this command again."
    )
    show(
        f"Embedded {plural(progress.made, 'shard')}{since(started)}: {progress.complete:,} of {progress.shards:,} "
        f"are in {store!r}; {then}"
    )
