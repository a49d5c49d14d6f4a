"""A folder of gradients, filled shard by shard by one process or many; a killed run is finished by the next."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets.utils import tqdm
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hf_gip.distributed import all_gather, first_available, rank_and_world, run_on_all, world_group
from hf_gip.features.adam import AdamMoments
from hf_gip.features.gradients import context_length
from hf_gip.features.matrix_files import FileMatrix, is_valid_safetensors, safetensors_rows
from hf_gip.features.per_example_gradients import GradientRecipe, PerExampleGradients
from hf_gip.features.progress import ProgressLabel, announce
from hf_gip.features.tokenization import RowCounts, token_batches
from hf_gip.hashing import hash_json, hash_model, hash_tensors, hash_token_rows
from hf_gip.io import save_safetensors_atomically, write_text_atomically

FORMAT = 1
SHARD_ROWS = 1024  # what a kill costs at most, per process


@dataclass(frozen=True, slots=True)
class GradientStore:
    """A finished store.

    Attributes:
        features: The gradients, (m, dims) float32, memory-mapped: a `MatrixSource` for the selectors.
        rows: Positions of their rows among those given, ascending, (m,).
        left_out: How many rows had no labeled token.
        truncated: How many rows were longer than the context.
        identity: What they were made of: model, recipe, rows.
        made: How many of its shards were missing and made just now, by all processes.
        checks: A second sketch of the same whole gradients, (m, check_dim), where one was asked for.
    """

    features: FileMatrix
    rows: Int64[Tensor, " m"]
    left_out: int
    truncated: int
    identity: dict[str, Any]
    made: int = 0
    checks: FileMatrix | None = None


def store_gradients(
    folder: str | Path,
    model: nn.Module,
    rows: Sequence[Any],
    recipe: GradientRecipe | None = None,
    *,
    scaling: AdamMoments | None = None,
    basis: Float[Tensor, "p r"] | None = None,
    check_dim: int = 0,
    batch_size: int = 8,
    label: ProgressLabel | None = None,
) -> GradientStore:
    """Take the gradients of all rows into a folder, or finish what an earlier run left there.

    The rows are cut into shards of 1,024. Under `torchrun` or `accelerate launch` the processes share them out,
    however many there are and were last time. A shard is written aside, then renamed: a file under its own name is
    complete, and a killed run loses at most the shards in work; one damaged on disk is made again. The store carries
    the identity of model weights, recipe and rows, and is refused to any other.

    Args:
        folder: Where the store is or will be.
        model: As for `gradient_features`; every process holds the same.
        rows: As for `gradient_features`.
        recipe: Which gradients, how projected, *optional*.
        scaling: Adam's moments, as for `gradient_features`, *optional*.
        basis: Directions to project on instead of the sketch, one row per weight, (p, r), *optional*.
        check_dim: Width of a second sketch, drawn apart, by which to check what the first or the basis leaves out,
            *optional*, defaults to `0`, none.
        batch_size: Rows per forward pass, *optional*, defaults to `8`; it changes nothing but the speed.
        label: What a user reads about it, *optional*.

    Returns:
        The finished store, on every process.

    Raises:
        RuntimeError: If several processes were started and have no process group.
        ValueError: If the folder holds a store of something else, or a row's gradient is not finite.
    """
    recipe, label, group = recipe or GradientRecipe(), label or ProgressLabel(), world_group()
    rank, world = rank_and_world()
    per_example = PerExampleGradients(model, recipe, scaling, basis, check_dim)
    identity = {
        "format": FORMAT,
        "model": hash_model(model),
        "recipe": asdict(recipe) | {"max_length": recipe.max_length or context_length(model)},
        "scaling": scaling.fingerprint() if scaling is not None else None,
        "rows": len(rows),
        "tokens": hash_token_rows(rows),
        "width": per_example.width,
        "shard_rows": SHARD_ROWS,
        **({"basis": hash_tensors({"basis": basis})} if basis is not None else {}),
        **({"check_dim": check_dim} if check_dim else {}),
    }
    folder = Path(folder)
    _check_equal_ids(all_gather(hash_json(identity), group))
    run_on_all(lambda: _init_or_check(folder, identity), group)
    shards = range(_shard_count(len(rows)))
    local_missing = [number for number in shards if not is_valid_safetensors(_shard_path(folder, number))]
    # one list for all: a slow rank would already see shards of a quick one
    missing = first_available(local_missing, group) or []
    run_on_all(lambda: _fill(folder, per_example, rows, missing[rank::world], batch_size, identity, label), group)
    run_on_all(lambda: _check_shared(folder, len(rows)), group)
    return replace(open_store(folder), made=len(missing))


def _check_equal_ids(ids: list[str]) -> None:
    """Raise, on every rank, unless all are about to make the same store.

    Raises:
        ValueError: With every rank's id.
    """
    if len(set(ids)) > 1:
        raise ValueError(
            f"`model`, `rows` and options must be the same on every rank, got stores {', '.join(ids)}: load one "
            "checkpoint everywhere, or draw weights from one seed."
        )


def _init_or_check(folder: Path, identity: dict[str, Any]) -> None:
    """Mark the folder as this run's, or check that it already is.

    Raises:
        ValueError: If it is another's.
    """
    marker = folder / "gradients.json"
    try:
        recorded = json.loads(marker.read_bytes())
    except (OSError, ValueError, RecursionError):  # new, or damaged on disk: every shard names its store as well
        recorded = None
    if not isinstance(recorded, dict):
        advice = "free space there or choose another folder (HF_DATASETS_CACHE moves the cache)"
        write_text_atomically(marker, json.dumps(identity, indent=2, sort_keys=True), advice)
        recorded = json.loads(marker.read_text())  # as another rank may have written it
    differing = [name for name in identity if recorded.get(name) != identity[name]]
    if differing:
        raise ValueError(
            f"`folder` must be empty or hold the same store, got {hash_json(recorded)} where this run is "
            f"{hash_json(identity)} (they differ in {', '.join(differing)}): choose another folder."
        )


def _fill(
    folder: Path,
    per_example: PerExampleGradients,
    rows: Sequence[Any],
    shards: Sequence[int],
    batch_size: int,
    identity: dict[str, Any],
    label: ProgressLabel,
) -> None:
    """Make these shards, under a progress bar with rows a second and the time left; the first rank says the cost."""
    length, width = identity["recipe"]["max_length"], per_example.width
    spans = [range(number * SHARD_ROWS, min((number + 1) * SHARD_ROWS, len(rows))) for number in shards]
    total = sum(map(len, spans))
    if rank_and_world()[0] == 0:
        announce(
            per_example,
            rows,
            [row for span in spans for row in span],
            batch_size=batch_size,
            max_length=length,
            note=f"{4 * total * (width + per_example.check_dim) / 1e6:,.0f} MB on disk; if stopped, it goes on there",
            passes=label.passes,
        )
    with tqdm(total=total, unit="row", desc=label.text, disable=not total) as bar:
        for number, span in zip(shards, spans, strict=True):
            counts = RowCounts()
            features, positions = [torch.empty(0, width + per_example.check_dim)], [torch.empty(0, dtype=torch.int64)]
            for batch in token_batches(rows, span, batch_size, length, counts):
                features.append(per_example.compute(batch))
                positions.append(batch.rows)
                bar.update(len(batch.rows))
            order = torch.cat(positions).argsort()
            vectors = torch.cat(features)[order]
            tensors = {"features": vectors[:, :width].contiguous(), "rows": torch.cat(positions)[order]}
            if per_example.check_dim:
                tensors["checks"] = vectors[:, width:].contiguous()
            metadata = {"left_out": str(counts.left_out), "truncated": str(counts.truncated)}
            metadata["identity"] = hash_json(identity)
            save_safetensors_atomically(_shard_path(folder, number), tensors, metadata)
            bar.update(counts.left_out)


def _check_shared(folder: Path, rows: int) -> None:
    """Raise unless this rank sees what all ranks wrote.

    Raises:
        ValueError: If shards are not there.
    """
    missing = [number for number in range(_shard_count(rows)) if not _shard_path(folder, number).exists()]
    if missing:
        raise ValueError(
            f"`folder` must be one that all ranks share, got {len(missing)} of {_shard_count(rows)} shards missing in "
            f"{folder} on rank {rank_and_world()[0]}: put it, or the datasets cache (`HF_DATASETS_CACHE`), on a "
            "shared disk."
        )


def open_store(folder: str | Path) -> GradientStore:
    """Read a finished store; nothing is loaded until it is used.

    Args:
        folder: Where `store_gradients` put it.

    Returns:
        The store.

    Raises:
        FileNotFoundError: If there is none, or shards are missing.
        ValueError: If a shard was made by another run.
    """
    folder = Path(folder)
    if not (folder / "gradients.json").exists():
        raise FileNotFoundError(f"`folder` must hold a gradient store, got none in {folder}: make it first.")
    identity = _read_identity(folder / "gradients.json")
    count = _shard_count(identity["rows"])
    present = sum(1 for _ in folder.glob("gradients-*.safetensors"))
    if present < count:
        raise FileNotFoundError(
            f"`folder` must hold a finished store, got {present} of {count} shards in {folder}: "
            "run `store_gradients` again, it goes on where it stopped."
        )
    paths = [_shard_path(folder, number) for number in range(count)]
    positions, counts = [], {"left_out": 0, "truncated": 0}
    for path in paths:
        try:
            with safe_open(path, "pt") as shard:
                metadata = shard.metadata()
                shard_identity = metadata["identity"]
                positions.append(shard.get_tensor("rows"))
                counts = {name: counts[name] + int(metadata[name]) for name in counts}
        except (SafetensorError, OSError, KeyError, TypeError) as error:
            raise ValueError(f"shard {path.name!r} cannot be read ({error}): delete it and run again.") from None
        if shard_identity != hash_json(identity):
            raise ValueError(
                f"`folder` must hold shards of one store, got {path.name} of {shard_identity} in the store "
                f"{hash_json(identity)}: delete the shard."
            )
    features, rows = safetensors_rows(paths, "features"), torch.cat(positions)
    if rows.shape != (features.n,):
        raise ValueError(
            f"`folder` must name each gradient's row, got {len(rows)} names for {features.n} in {folder}."
        )
    checks = safetensors_rows(paths, "checks") if "check_dim" in identity else None
    return GradientStore(features, rows, **counts, identity=identity, checks=checks)


def _read_identity(path: Path) -> dict[str, Any]:
    """What a store says it was made of.

    Raises:
        ValueError: If it is not readable or names no number of rows.
    """
    try:
        identity = json.loads(path.read_text())
        rows = identity["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        identity, rows = {}, None
    if not isinstance(rows, int) or isinstance(rows, bool) or rows < 1:
        raise ValueError(f"`folder` must hold a gradient store, got an unreadable {path.name}: make it anew.")
    return identity


def _shard_path(folder: Path, number: int) -> Path:
    return folder / f"gradients-{number:05d}.safetensors"


def _shard_count(rows: int) -> int:
    return -(-rows // SHARD_ROWS)
