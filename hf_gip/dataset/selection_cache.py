"""Finished selections in the datasets cache: a second call, also from a new process, computes nothing."""

import json
import os
from pathlib import Path
from typing import Any

from datasets import config

from hf_gip.disk import CACHE, written
from hf_gip.selection import Selection


def load_selection(fingerprint: str) -> Selection | None:
    """The selection stored under `fingerprint`, or None."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _folder(fingerprint)
    if not (folder / "record.json").exists():
        return None
    try:
        tensors = load_file(folder / "selection.safetensors")
        kept: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return _selection(tensors, kept)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # damaged on disk: made again


def _selection(tensors: dict[str, Any], kept: dict[str, Any]) -> Selection:
    curves = {name.removeprefix("curve."): tensor for name, tensor in tensors.items() if name.startswith("curve.")}
    return Selection(
        tensors["indices"], tensors["gains"], kept["total"], tensors.get("weights"), kept["record"], curves
    )


def store_selection(fingerprint: str, selection: Selection) -> None:
    """Keep `selection` under `fingerprint`; the record is written last, so its presence means the rest is complete."""
    from hf_gip.features.aside import write_aside

    folder = _folder(fingerprint)
    tensors = {"indices": selection.indices, "gains": selection.gains}
    tensors |= {f"curve.{name}": curve for name, curve in selection.curves.items()}
    if selection.weights is not None:
        tensors["weights"] = selection.weights
    tensors, aside = {name: each.contiguous() for name, each in tensors.items()}, folder / f"aside-{os.getpid()}"
    with written(folder, CACHE):
        folder.mkdir(parents=True, exist_ok=True)
        write_aside(folder / "selection.safetensors", tensors, None)
        aside.write_text(json.dumps({"total": selection.total, "record": dict(selection.record)}))
        os.replace(aside, folder / "record.json")


def _folder(fingerprint: str) -> Path:
    return Path(config.HF_DATASETS_CACHE) / "hf_gip" / "selections" / fingerprint
