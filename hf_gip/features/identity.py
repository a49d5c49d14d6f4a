"""What makes two runs the same run: hashes of models, rows and optimizer states."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_gip.features.adam import AdamMoments


def content_id(value: Mapping[str, Any]) -> str:
    """16 hex digits that depend on every part of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def tensors_id(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits that depend on every number of every tensor, its name and its type."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def model_id(model: nn.Module) -> str:
    """16 hex digits that depend on every weight: seconds per gigabyte, once per run."""
    return tensors_id(model.state_dict())


def moments_id(moments: AdamMoments) -> str:
    """16 hex digits that depend on the optimizer state and how it is used."""
    first = {f"first.{name}": tensor for name, tensor in moments.first.items()}
    second = {f"second.{name}": tensor for name, tensor in moments.second.items()}
    return content_id({"moments": tensors_id(first | second), "betas": list(moments.betas), "eps": moments.eps})


def rows_id(rows: Sequence[Any]) -> str:
    """16 hex digits that depend on every token and label, in order."""
    digest, names = hashlib.sha256(), ("input_ids", "labels")
    for row in rows:
        kept = [list(row[name] if row[name] is not None else ()) if name in row else None for name in names]
        digest.update(json.dumps(kept).encode())
    return digest.hexdigest()[:16]
