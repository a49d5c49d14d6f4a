"""The arguments of `gip_select` as signals: checked at once, computed only when a selection is really needed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_gip.core.metrics import find_copies
from hf_gip.core.queries import (
    append_category_dims,
    blend_target_and_pool,
    gram_sqrt,
    precision_from_scores,
    whiten,
)
from hf_gip.core.validation import check_matrix
from hf_gip.dataset.categories import Categories, column_weights, read_cover
from hf_gip.dataset.columns import read_scores, read_vectors
from hf_gip.dataset.limits import Limited, gather_limits
from hf_gip.dataset.options import DEFAULTS, check_options, quality_of
from hf_gip.dataset.requests import (
    beside_request,
    columns_beside,
    encoder_of,
    plain_options,
    read_beside,
    read_features,
    text_request,
)
from hf_gip.features.embed import Features, embed, embed_texts
from hf_gip.hashing import hash_array, hash_rows, rows_digest


@dataclass(frozen=True, slots=True)
class Problem:
    """What `gip` is handed.

    Attributes:
        matrix: One row per example of the whole pool, (n, d).
        queries: What is asked, (m, d), or None for the rows that are not excluded.
        names: What each query is called: its number in the target, `column=value`, or None for the pool's own.
        kept: The rows that are not excluded, or None where all are kept.
        recipe: Where the queries come from, as plain JSON.
    """

    matrix: Tensor
    queries: Tensor | None
    names: list[int | str | None]
    kept: Tensor | None
    recipe: dict[str, Any]

    def rows(self) -> Tensor:
        """The rows that may be chosen."""
        return self.matrix if self.kept is None else self.matrix[self.kept]


@dataclass(frozen=True, slots=True)
class Signals:
    """What a selection is made from.

    Attributes:
        dataset: The pool.
        options: The arguments, values of any library in the form that is read here.
        request: The same as plain JSON, rows, vectors and texts replaced by digests of their content: the cache key.
        scores: One column per judge with NaN where missing, (n, s), or None.
        score_recipe: How many scores each column misses and how they are used, or None.
        categories: The columns whose values are to be covered, or None.
        limited: Quotas, given rows and budget, or None.
        vectors: The vectors brought along, checked and hashed, or None where they are to be read or computed.
    """

    dataset: Dataset
    options: dict[str, Any]
    request: dict[str, Any]
    scores: Tensor | None
    score_recipe: dict[str, Any] | None
    categories: Categories | None
    limited: Limited | None
    vectors: Features | None

    def features(self) -> Features:
        """The pool's vectors: the ones brought along, or text embeddings."""
        if self.vectors is not None:
            return self.vectors
        if self.options["features"] is not None:
            return read_features(self.dataset, self.options["features"])
        options = {name: self.options[name] for name in ("columns", "template", "device", "encoder_id")}
        return embed(self.dataset, encoder_of(self.options), **options)

    def without_column(self) -> "Signals":
        """The same, vectors of a column read anew when they are wanted: what a result keeps of its signals."""
        return replace(self, vectors=None) if isinstance(self.options["features"], str) else self

    def queries(self, features: Features) -> Features | None:
        """The target's vectors, or None for the pool itself."""
        target = self.options["target"]
        if target is None:
            return None
        matrix, recipe = self._like_features(target)
        check_matrix("target", matrix, width=features.matrix.shape[1])
        if self.options["whiten"]:
            matrix = whiten(matrix)
        recipe |= {"m": len(matrix), "whitened": self.options["whiten"], "sha256": hash_array(matrix)}
        return Features(matrix.to(features.matrix.dtype), recipe)

    def precision(self) -> Tensor | None:
        """How far each row is trusted, (n,) in (0, 1], or None without scores."""
        if self.scores is None or self.options["scores_as"] == "queries":
            return None
        weights = list((self.score_recipe or {}).get("weights", {}).values()) or None
        return precision_from_scores(self.scores, quality=quality_of(self.options), weights=weights)

    def problem(self, features: Features, kept: Tensor | None) -> Problem:
        """Target, pool and categories as one matrix of rows and one of queries."""
        asked = self.queries(features)
        queries = None if asked is None else asked.matrix
        names: list[int | str | None] = [] if queries is None or self.options["whiten"] else [*range(len(queries))]
        matrix = features.matrix
        pool = matrix if kept is None else matrix[kept]
        weight = self.options["target_weight"]
        if queries is not None and weight not in (None, 1):
            queries = blend_target_and_pool(queries, pool, weight)
        if self.categories is not None:
            queries = gram_sqrt(pool).to(matrix) if queries is None else queries
            energy = float(torch.linalg.vector_norm(pool, dim=1, dtype=torch.float64).square().mean())
            chosen = (self.categories.codes, list(self.categories.weights.values()))
            matrix, queries = append_category_dims(matrix, queries, *chosen, energy=energy)
            own = len(queries) - len(self.categories.names)
            names = [*names, *[None] * (own - len(names)), *self.categories.names]
        elif queries is not None:
            names += [None] * (len(queries) - len(names))
        recipe = {"kind": "pool"} if asked is None else asked.recipe
        if weight is not None:
            recipe = recipe | {"weight": weight}
        return Problem(matrix, queries, names, kept, recipe)

    def told(self, indices: Tensor) -> dict[str, Any]:
        """What the record says about categories and limits, nothing where there are none."""
        cover = {} if self.categories is None else {"cover": self.categories.recipe}
        return cover if self.limited is None else cover | {"limits": self.limited.record(indices)}

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
        rows, others, cosines = find_copies(features.matrix, matrix, above)
        pairs = [
            [row, other, round(cosine, 4)]
            for row, other, cosine in zip(rows.tolist(), others.tolist(), cosines.tolist(), strict=True)
        ]
        return recipe | {"m": len(matrix), "sha256": hash_array(matrix), "above": above, "pairs": pairs}

    def _like_features(self, target: Any) -> tuple[Tensor, dict[str, Any]]:
        if isinstance(target, Dataset):
            recipe: dict[str, Any] = {"kind": "dataset", "rows": len(target)}
            if isinstance(column := self.options["features"], str):
                matrix = read_vectors(target, column)
                return matrix, recipe | {"given_sha256": hash_array(matrix)}
            columns = columns_beside(target, self.options)
            options = {name: self.options[name] for name in ("device", "encoder_id")}
            embedded = embed(target, encoder_of(self.options), columns=columns, **options)
            return embedded.matrix, recipe | {"columns": columns, "given_sha256": rows_digest(target, columns)}
        if isinstance(target, Tensor):
            return target, {"kind": "matrix", "given_sha256": hash_array(target)}
        vectors = embed_texts(target, encoder_of(self.options), device=self.options["device"])
        return vectors, {"kind": "texts", "texts": list(target)}


def gather_signals(dataset: Dataset, options: Mapping[str, Any]) -> Signals:
    """Check every argument against the data and name what the selection depends on; nothing long runs here.

    Raises:
        TypeError: If an argument has the wrong kind.
        ValueError: If an argument does not fit the data or another argument.
    """
    options = plain_options({**DEFAULTS, **options})
    check_options(options)
    # before vectors are read or an encoder is opened, which takes seconds
    scores, recipe = (None, None) if options["scores"] is None else _scores(dataset, options)
    categories = None if options["cover"] is None else read_cover(dataset, options["cover"])
    columns = [*(recipe or {}).get("columns", ()), *({} if categories is None else categories.weights)]
    plain = ("objective", "noise", "diversity", "whiten", "exclude_above", "target_weight")
    request = {name: options[name] for name in plain}
    vectors = None
    if options["features"] is None:
        request["features"] = text_request(dataset, options)
        columns += request["features"]["columns"]
    else:
        vectors = read_features(dataset, options["features"])
        request["features"] = vectors.recipe
        if not isinstance(options["features"], str):
            options["features"] = vectors.matrix
    for name in ("target", "exclude"):
        options[name] = read_beside(name, options)
        request[name] = beside_request(options[name], options)
    limited = gather_limits(dataset, options)
    request |= {
        "scores": recipe,
        "cover": None if categories is None else categories.recipe,
        "limits": None if limited is None else limited.request,
        "rows": hash_rows(dataset, [*columns, *([] if limited is None else limited.columns)]),
    }
    return Signals(dataset, options, request, scores, recipe, categories, limited, vectors)


def _scores(dataset: Dataset, options: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    weights = column_weights("scores", options["scores"], "['helpfulness']")
    scores, missing = read_scores(dataset, list(weights))
    quality = quality_of(options)
    recipe = {"columns": list(weights), "missing": missing, "as": options["scores_as"], "quality": quality}
    recipe["unscored_rows"] = int(scores.isnan().all(dim=1).sum())
    if isinstance(options["scores"], Mapping):
        recipe["weights"] = weights
    return scores, recipe
