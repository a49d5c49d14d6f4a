"""A subset to a local folder and back."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, NamedSplit

from hf_gip.disk import check_path
from hf_gip.hashing import hash_columns
from hf_gip.manifest.layout import SHARD_BYTES, check_rebuildable, check_subset, check_unchanged, write_layout
from hf_gip.manifest.schema import SELECTION_PATH, Manifest, read_manifest
from hf_gip.manifest.selection_file import SCHEMA, read_selection

if TYPE_CHECKING:
    from hf_gip.selection import Selection


def save_subset(
    subset: Dataset,
    folder: str | os.PathLike[str],
    *,
    include_rows: bool = True,
    max_shard_size: int | str = SHARD_BYTES,
    config_name: str = "default",
    split: str = "train",
) -> Manifest:
    """Save a selected subset with proof of how it was chosen.

    The folder holds Parquet that `load_dataset(folder)` reads, `gip/selection.parquet` (position, gain and hash of
    each row), a card, and `gip/manifest.json`: method, parameters, source, versions and hashes. It is written aside
    and renamed, so a folder is whole or absent; the same subset gives the same bytes.

    Args:
        subset: The result of `gip_select` and its siblings.
        folder: A new or empty folder.
        include_rows: False saves positions and hashes only, for sources on the Hub that must not be passed on.
        max_shard_size: Size of a Parquet file before compression, in bytes or such as `"500MB"`.
        config_name: Configuration under which `load_dataset` finds the rows.
        split: Split under which it finds them.

    Returns:
        The manifest.

    Raises:
        FileExistsError: If `folder` is not empty.
        TypeError: If `subset` is no `Dataset`, or `folder` no path.
        ValueError: If `subset` carries no selection, was changed since, or is to be saved without rows that the Hub
            does not have.
    """
    check_subset(subset)
    check_unchanged(subset)
    if not include_rows:
        check_rebuildable(getattr(subset, "selection").record["source"])  # noqa: B009
    return write_layout(
        subset,
        folder,
        include_rows=include_rows,
        max_shard_size=max_shard_size,
        config_name=config_name,
        split=split,
    )


def load_folder(folder: str | os.PathLike[str]) -> Dataset:
    """The rows of a saved folder, with `.selection` restored; check it with `verify` first where it is not yours.

    Raises:
        FileNotFoundError: If the folder holds no manifest.
        TypeError: If `folder` is no path.
        ValueError: If it was saved without its rows, or a file does not fit the manifest.
    """
    check_path("folder", folder, "a folder written by `save_subset`")
    root = Path(folder)
    manifest = read_manifest(root)
    if not manifest.include_rows:
        raise ValueError(
            f"folder {root.name!r} holds positions and hashes without the rows: take them from its source."
        )
    rows = Dataset.from_parquet([str(root / path) for path in manifest.shards()], split=NamedSplit(manifest.split))
    if not isinstance(rows, Dataset) or len(rows) != manifest.k:
        raise ValueError(f"folder {root.name!r} must hold {manifest.k} rows, got {len(rows)}: run `hf-gip verify`.")
    return restore_selection(rows, manifest, root)


def restore_selection(rows: Dataset, manifest: Manifest, folder: Path) -> Dataset:
    """Put the selection of `folder` onto its rows.

    Raises:
        ValueError: If the selection file is not valid or has another number of picks.
    """
    selection = read_picks(manifest, folder)
    if len(selection) != len(rows):
        raise ValueError(f"the selection must have one pick per row ({len(rows)}), got {len(selection)}.")
    selection = replace(selection, record={**selection.record, "column_hashes": hash_columns(rows)})
    setattr(rows, "selection", selection)  # noqa: B010 — an attribute of this instance
    return rows


def read_picks(manifest: Manifest, folder: Path) -> "Selection":
    """The selection of a saved folder, without its rows.

    Raises:
        ValueError: If the selection file is not valid.
    """
    import torch

    from hf_gip.selection import Selection

    table = read_selection(folder / SELECTION_PATH)
    tensors = {
        name: torch.from_numpy(table[name].to_numpy().copy())
        for name in table.column_names
        if name in ("index", "gain") or name not in SCHEMA.names
    }
    weights = None if table["weight"].null_count else torch.from_numpy(table["weight"].to_numpy().copy())
    indices, gains = tensors.pop("index"), tensors.pop("gain")
    return Selection(indices, gains, manifest.total, weights, record_of(manifest), tensors)


def record_of(manifest: Manifest) -> dict[str, Any]:
    """The selection's record as the manifest kept it."""
    kept = manifest.model_dump()
    names = ("method", "parameters", "source", "versions")
    return {**kept["recipe"], **{name: kept[name] for name in names}}
