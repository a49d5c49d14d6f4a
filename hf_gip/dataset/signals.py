"""The arguments of `gip_select` as signals: checked at once, computed only when a selection is really needed."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_gip.core.checks import check_matrix
from hf_gip.core.gip import check_names
from hf_gip.core.judge import near_copies
from hf_gip.core.queries import default_noise, precision_from_scores, whiten
from hf_gip.dataset.columns import read_scores, read_vectors
from hf_gip.features.embed import Features, embed, embed_texts
from hf_gip.features.encoders import DEFAULT_ENCODER, name_encoder
from hf_gip.features.text import text_recipe


@dataclass(frozen=True, slots=True)
class Signals:
    """What a selection is made from.

    Attributes:
        dataset: The pool.
        options: The arguments as given.
        request: The same as plain JSON, vectors and texts replaced by digests: the cache key.
        scores: One column per judge with NaN where missing, (n, s), or None.
        score_recipe: How many scores each column misses and how they are used, or None.
    """

    dataset: Dataset
    options: dict[str, Any]
    request: dict[str, Any]
    scores: Tensor | None
    score_recipe: dict[str, Any] | None

    def features(self) -> Features:
        """The pool's vectors: the ones brought along, or text embeddings."""
        given = self.options["features"]
        if given is None:
            options = {name: self.options[name] for name in ("columns", "template", "device")}
            return embed(self.dataset, _encoder(self.options), **options)
        matrix = _vectors(self.dataset, given)
        check_matrix("features", matrix)
        kind = {"kind": "column", "column": given} if isinstance(given, str) else {"kind": "matrix"}
        return Features(matrix, kind | {"sha256": _digest(matrix), "dims": matrix.shape[1]})

    def queries(self, features: Features) -> Features | None:
        """The target's vectors, or None for the pool itself."""
        target = self.options["target"]
        if target is None:
            return None
        matrix, recipe = self._like_features(target)
        check_matrix("target", matrix, width=features.matrix.shape[1])
        if self.options["whiten"]:
            matrix = whiten(matrix)
        recipe |= {"m": len(matrix), "whitened": self.options["whiten"], "sha256": _digest(matrix)}
        return Features(matrix.to(features.matrix.dtype), recipe)

    def precision(self) -> Tensor | None:
        """How far each row is trusted, (n,) in (0, 1], or None without scores."""
        if self.scores is None or self.options["scores_as"] == "queries":
            return None
        return precision_from_scores(self.scores, quality=_quality(self.options))

    def exclusions(self, features: Features) -> dict[str, Any] | None:
        """The rows to leave out as near copies of `exclude`, each with what it copies, or None where none was given.

        Raises:
            ValueError: If too few rows remain for `k`.
        """
        exclude, above = self.options["exclude"], self.options["exclude_above"]
        if exclude is None:
            return None
        matrix, recipe = self._like_features(exclude)
        check_matrix("exclude", matrix, width=features.matrix.shape[1])
        rows, others, cosines = near_copies(features.matrix, matrix, above)
        pairs = [
            [row, other, round(cosine, 4)]
            for row, other, cosine in zip(rows.tolist(), others.tolist(), cosines.tolist(), strict=True)
        ]
        return recipe | {"m": len(matrix), "sha256": _digest(matrix), "above": above, "pairs": pairs}

    def _like_features(self, target: Any) -> tuple[Tensor, dict[str, Any]]:
        if isinstance(target, Dataset):
            if isinstance(self.options["features"], str):
                return read_vectors(target, self.options["features"]), {"kind": "dataset", "rows": len(target)}
            columns = self.options["columns"]
            columns = columns if columns and set(columns) <= set(target.column_names) else None
            found = embed(target, _encoder(self.options), columns=columns, device=self.options["device"])
            return found.matrix, {"kind": "dataset", "rows": len(target), "columns": found.recipe["columns"]}
        if isinstance(target, np.ndarray | Tensor):
            return torch.as_tensor(target), {"kind": "matrix"}
        return embed_texts(target, _encoder(self.options), device=self.options["device"]), {
            "kind": "texts",
            "texts": list(target),
        }


def gather_signals(dataset: Dataset, options: dict[str, Any]) -> Signals:
    """Check every argument against the data and name what the selection depends on; nothing long runs here.

    Raises:
        TypeError: If an argument has the wrong kind.
        ValueError: If an argument does not fit the data or another argument.
    """
    _check_combinations(options)
    _check_scores_as(options)
    if not 0 < options["exclude_above"] <= 1:
        raise ValueError(f"`exclude_above` must be a cosine in (0, 1], got {options['exclude_above']!r}.")
    plain = ("objective", "noise", "diversity", "whiten", "exclude_above")
    request = {name: options[name] for name in plain}
    request["features"] = _features_request(dataset, options)
    for name in ("target", "exclude"):
        request[name] = _vectors_request(name, options)
    scores = recipe = None
    if options["scores"] is not None:
        scores, missing = read_scores(dataset, options["scores"])
        quality = _quality(options)
        recipe = {
            "columns": list(options["scores"]),
            "missing": missing,
            "as": options["scores_as"],
            "quality": quality,
        }
        recipe["unscored_rows"] = int(scores.isnan().all(dim=1).sum())
        precision_from_scores(scores[:1].nan_to_num(), quality=quality)  # refuses a bad `quality`
    return Signals(dataset, options, request | {"scores": recipe}, scores, recipe)


def check_device(device: str | None) -> str:
    """The device asked for, or the best one here.

    Raises:
        ValueError: If CUDA was asked for and there is none, or the name is unknown.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f"`device` must be a torch device such as 'cpu' or 'cuda', got {device!r}.") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("`device` is 'cuda' but torch sees no GPU here: leave `device` out, or install a CUDA torch.")
    return device


def _check_combinations(options: dict[str, Any]) -> None:
    check_names(options["objective"], "orthogonal", 1.0 if options["noise"] is None else options["noise"], None)
    if options["noise"] is not None and options["diversity"] is not None:
        raise ValueError("`noise` and `diversity` must not both be given: `diversity` only moves the default noise.")
    if options["diversity"] is not None:
        default_noise(1, 1, towards_target=False, diversity=options["diversity"])  # refuses a bad value
    if options["quality"] is not None and options["scores"] is None:
        raise ValueError("`quality` weighs scores, got no `scores`: name the score columns too.")
    if options["whiten"] and options["target"] is None:
        raise ValueError("`whiten` weighs the directions of a target, got no `target`.")
    if options["features"] is not None:
        for name in ("columns", "template"):
            if options[name] is not None:
                raise ValueError(f"`{name}` chooses texts to embed and has no use beside `features`: leave one out.")


def _check_scores_as(options: dict[str, Any]) -> None:
    """Scores in place of a target stand alone.

    Raises:
        ValueError: If the name is unknown, there are no scores, or another option says what is wanted as well.
    """
    if options["scores_as"] == "precision":
        return
    if options["scores_as"] != "queries":
        raise ValueError(f'`scores_as` must be "precision" or "queries", got {options["scores_as"]!r}.')
    if options["scores"] is None:
        raise ValueError('`scores_as="queries"` needs scores, got no `scores`: name the score columns too.')
    wanted = {"target": options["target"] is not None, "quality": options["quality"] is not None}
    wanted["objective"] = options["objective"] != "projection"
    if given := [name for name, found in wanted.items() if found]:
        raise ValueError(
            f'`{given[0]}` has no meaning beside `scores_as="queries"`, where the scores are what is wanted: leave '
            "one of them out."
        )


def _quality(options: dict[str, Any]) -> float:
    return 1.0 if options["quality"] is None else float(options["quality"])


def _encoder(options: dict[str, Any]) -> Any:
    return DEFAULT_ENCODER if options["encoder"] is None else options["encoder"]


def _vectors(dataset: Dataset, given: Any) -> Tensor:
    matrix = read_vectors(dataset, given) if isinstance(given, str) else torch.as_tensor(given)
    if len(matrix) != len(dataset):
        raise ValueError(
            f"`features` must have one row per example ({len(dataset)}), got {len(matrix)}: pass the vectors of this "
            "very dataset, in its order."
        )
    return matrix


def _features_request(dataset: Dataset, options: dict[str, Any]) -> dict[str, Any]:
    given = options["features"]
    if given is None:
        recipe = text_recipe(dataset, options["columns"], options["template"])
        identity = name_encoder(_encoder(options), device=options["device"]).identity
        return {**identity, "columns": list(recipe.columns), "template": recipe.template}
    if isinstance(given, str):
        if given not in dataset.column_names:
            raise ValueError(f"`features` must name a column of the dataset {dataset.column_names}, got {given!r}.")
        return {"column": given}
    return {"sha256": _digest(_vectors(dataset, given))}


def _vectors_request(name: str, options: dict[str, Any]) -> Any:
    """A digest of a dataset, texts or vectors given beside the pool.

    Raises:
        TypeError: If it is none of these.
        ValueError: If it is empty, or cannot be brought to the features' width.
    """
    given = options[name]
    if given is None:
        return None
    if isinstance(given, np.ndarray | Tensor):
        return {"sha256": _digest(torch.as_tensor(given))}
    if isinstance(given, str) or not isinstance(given, Dataset | Sequence):
        raise TypeError(f"`{name}` must be a Dataset, a list of texts or a matrix, got {type(given).__name__}.")
    if isinstance(options["features"], np.ndarray | Tensor) and options["encoder"] is None:
        raise ValueError(
            f"`{name}` must be a matrix of the features' width when `features` is a matrix: embed it the same way, or "
            "name the `encoder` that made the features."
        )
    if not len(given):
        raise ValueError(f"`{name}` must hold at least one row or text, got none.")
    if isinstance(given, Dataset):
        return {"fingerprint": given._fingerprint}
    if wrong := [text for text in given if not isinstance(text, str)]:
        raise TypeError(f"`{name}` must be a list of texts, got an element of type {type(wrong[0]).__name__}.")
    return {"texts": hashlib.sha256(json.dumps(list(given)).encode()).hexdigest()}


def _digest(matrix: Tensor) -> str:
    contiguous = matrix.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{tuple(contiguous.shape)} {contiguous.dtype}".encode())
    digest.update(contiguous.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
