"""The options of `gip_select`: their defaults, which of them go together, and how a record names them."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor

    from hf_gip.features.embedding_store import EmbeddingStore
    from hf_gip.features.encoders import Encoder

    Vectors = NDArray[np.floating] | Tensor

NEEDS = (  # option, the option without which it has no effect, and the end of the sentence that says so
    ("quality", "scores", "weighs scores, got no `scores`: name the score columns too."),
    ("whiten", "target", "weighs the directions of a target, got no `target`."),
    ("target_weight", "target", "weighs a target against the pool, got no `target`."),
    ("max_per_group", "group_column", "needs `group_column`, got None: name the column that holds the groups."),
    ("min_per_group", "group_column", "needs `group_column`, got None: name the column that holds the groups."),
    ("token_column", "max_tokens", "is for a budget, got none: give `max_tokens` too."),
)
NOT_BESIDE_QUERIES = ("target", "quality", "cover_columns")
NOT_BESIDE_MATCHING = ("noise", "diversity")


@dataclass(frozen=True, eq=False)
class GipOptions:
    """Every option of `hf_gip.gip_select` with its default; described there.

    Values of numpy, torch, pandas, polars and Arrow become plain ones, and whatever can be checked without the pool
    is checked, both once and here.
    """

    scores: "Sequence[str] | Mapping[str, float] | None" = None
    scores_as: Literal["precision", "queries"] | None = None
    target: "Dataset | Sequence[str] | Vectors | None" = None
    target_weight: float | None = None
    cover_columns: "Sequence[str] | Mapping[str, float] | None" = None
    features: "str | os.PathLike[str] | EmbeddingStore | Vectors | None" = None
    columns: "Sequence[str] | None" = None
    template: str | None = None
    encoder: "str | Encoder | None" = None
    encoder_id: str | None = None
    encoder_kwargs: Mapping[str, Any] | None = None
    objective: Literal["projection", "information"] = "projection"
    pursuit: Literal["orthogonal", "matching"] = "orthogonal"
    noise: float | None = None
    diversity: float | None = None
    quality: float | None = None
    whiten: bool = False
    exclude: "Dataset | Sequence[str] | Vectors | None" = None
    exclude_threshold: float = 0.9
    initial_rows: "Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | Tensor | None" = None
    group_column: str | None = None
    max_per_group: int | Mapping[Any, int] | None = None
    min_per_group: int | Mapping[Any, int] | None = None
    max_tokens: int | None = None
    token_column: str | None = None
    id_column: str | None = None
    device: str | list[str] | None = None

    def __post_init__(self) -> None:
        """Make the values plain and check them.

        Raises:
            TypeError: If an option has the wrong kind.
            ValueError: If a number is out of its range, or two options do not go together.
        """
        from hf_gip.core.validation import check_device
        from hf_gip.dataset.values import as_matrix, plain_options, plain_value
        from hf_gip.features.embedding_store import EmbeddingStore, open_embeddings

        plain = plain_options(vars(self)) | {"device": check_device(self.device, several=True)}
        plain |= {name: plain_value(plain[name]) for name in ("target", "exclude")}
        if isinstance(self.features, os.PathLike):
            plain["features"] = open_embeddings(self.features)
        elif self.features is not None and not isinstance(self.features, str | EmbeddingStore):
            plain["features"] = as_matrix(
                "features", self.features, "a column's name, a matrix with a row per example or a store"
            )
        if self.scores_as is None:
            matched = self.scores is not None and self.pursuit == "matching"
            plain["scores_as"] = "queries" if matched else "precision"
        for name, value in plain.items():
            object.__setattr__(self, name, value)
        self._check_ranges()
        self._check_combinations()
        for name in ("target", "exclude"):
            self._check_target(name)

    @property
    def selection_device(self) -> str:
        """Where the selection runs: the first device of several."""
        return self.device[0] if isinstance(self.device, list) else str(self.device)

    @classmethod
    def from_record(
        cls,
        parameters: Mapping[str, Any],
        recipe: Mapping[str, Any],
        *,
        id_column: str | None = None,
        picks: Sequence[int] = (),
        **resupplied: Any,
    ) -> "GipOptions":
        """The options of a recorded call, defaults as they were resolved then.

        Args:
            parameters: `record["parameters"]`, or those of a manifest.
            recipe: The rest of the record: `features`, `queries`, `scores`, `cover_columns`, `limits`, `excluded`.
            id_column: The column that names the rows, *optional*.
            picks: The recorded picks, of which the first are the initial rows, *optional*.
            resupplied: What a record cannot hold, already checked against its hashes: `target`, `exclude`,
                `features`, `encoder`; and the `device`.

        Raises:
            KeyError: If the record lacks an entry.
        """
        scores, limits, features = recipe.get("scores"), recipe.get("limits") or {}, recipe["features"]
        queries, excluded = recipe["queries"], recipe.get("excluded") or {}
        matching = parameters["pursuit"] == "matching"
        options: dict[str, Any] = {
            "objective": parameters["objective"],
            "pursuit": "matching" if matching else "orthogonal",
            "noise": None if matching else parameters["noise"],
        }
        if scores:
            options |= {"scores": scores.get("weights") or scores["columns"], "scores_as": scores["as"]}
            options["quality"] = scores["quality"] if scores["as"] == "precision" else None
        names = ("group_column", "max_per_group", "min_per_group", "max_tokens", "token_column")
        options |= {name: limits.get(name) for name in names}
        options |= {
            "target": queries.get("texts"),
            "whiten": queries.get("whitened", False),
            "target_weight": queries.get("weight"),
            "cover_columns": (recipe.get("cover_columns") or {}).get("columns"),
            "exclude": excluded.get("texts"),
            "exclude_threshold": excluded.get("above", cls.exclude_threshold),
            "initial_rows": list(picks[: limits.get("initial_rows", 0)]) or None,
            "id_column": id_column,
        }
        if features["kind"] == "column":
            options["features"] = features["column"]
        elif features["kind"] == "text" and resupplied.get("features") is None:
            by = "template" if features["template"] else "columns"
            options |= {by: features[by], "encoder_id": features.get("encoder_id")}
            options["encoder"] = "lexical" if features["encoder"] == "lexical" else None
            if "revision" in features or "files" in features:
                precision = features.get("dtype", "auto")
                options["encoder_kwargs"] = {**(features.get("encoder_kwargs") or {}), "dtype": precision}
        return cls(**{**options, **{name: value for name, value in resupplied.items() if value is not None}})

    def _check_ranges(self) -> None:
        import torch

        from hf_gip.core.gip import check_objective
        from hf_gip.core.queries import default_ridge, precision_from_scores
        from hf_gip.core.validation import check_bool, check_choice, check_fraction, check_int
        from hf_gip.features.encoders import check_encoder_id
        from hf_gip.features.sentence_transformer import check_encoder_kwargs

        check_bool("whiten", self.whiten)
        check_encoder_id(self.encoder_id, self.encoder)
        check_encoder_kwargs(self.encoder_kwargs, self.encoder)
        check_choice("scores_as", self.scores_as, ("precision", "queries"))
        check_choice("pursuit", self.pursuit, ("orthogonal", "matching"))
        check_objective(self.objective, 1.0 if self.noise is None else self.noise)
        if self.quality is not None:
            precision_from_scores(torch.zeros(1, 1), quality=self.quality)  # refuses a bad value
        if self.diversity is not None:
            default_ridge(1, 1, towards_target=False, diversity=self.diversity)  # refuses a bad value
        check_fraction("exclude_threshold", self.exclude_threshold, "a cosine in (0, 1]")
        if self.target_weight is not None:
            check_fraction("target_weight", self.target_weight, "above 0 and at most 1 (the target alone)")
        check_int("max_tokens", self.max_tokens, optional=True)
        for name in ("max_per_group", "min_per_group"):
            quota = getattr(self, name)
            for count in quota.values() if isinstance(quota, Mapping) else [quota]:
                check_quota(name, count)

    def _check_combinations(self) -> None:
        for name, needed, sentence in NEEDS:
            value = getattr(self, name)
            if value is not None and value is not False and getattr(self, needed) is None:
                raise ValueError(f"`{name}` {sentence}")
        if self.group_column is not None and self.max_per_group is None and self.min_per_group is None:
            raise ValueError("`group_column` is for quotas, got none: give `max_per_group` or `min_per_group` too.")
        if self.noise is not None and self.diversity is not None:
            raise ValueError(
                "`noise` and `diversity` must not both be given: `diversity` only moves the default noise."
            )
        for name in ("columns", "template"):
            if self.features is not None and getattr(self, name) is not None:
                raise ValueError(f"`{name}` chooses texts to embed and has no use beside `features`: leave one out.")
        self._check_matching()
        if self.scores_as == "queries":
            self._check_scores_as_queries()

    def _check_matching(self) -> None:
        """Raise where an option needs what the matching pursuit does not have: a ridge, and noise per row.

        Raises:
            ValueError: If there is one.
        """
        if self.pursuit != "matching":
            return
        unused = [name for name in NOT_BESIDE_MATCHING if getattr(self, name) is not None]
        unused += [] if self.objective == "projection" else ["objective"]
        unused += ["scores_as"] if self.scores is not None and self.scores_as == "precision" else []
        if unused:
            raise ValueError(
                f'`{unused[0]}` must be left out beside `pursuit="matching"`, which has no noise, '
                f"got {getattr(self, unused[0])!r}."
            )

    def _check_scores_as_queries(self) -> None:
        """Raise unless the scores, which stand in place of a target, stand alone.

        Raises:
            ValueError: If there are none, or another option says what is wanted as well.
        """
        if self.scores is None:
            raise ValueError('`scores_as="queries"` needs scores, got no `scores`: name the score columns too.')
        unused = [name for name in NOT_BESIDE_QUERIES if getattr(self, name) is not None]
        unused += [] if self.objective == "projection" else ["objective"]
        if unused:
            raise ValueError(
                f'`{unused[0]}` has no meaning beside `scores_as="queries"`, where the scores are what is wanted: '
                "leave one of them out."
            )

    def _check_target(self, name: str) -> None:
        """Raise unless `target` or `exclude`, so named, can become vectors as wide as the features.

        Raises:
            TypeError: If it is neither rows, texts nor a matrix.
            ValueError: If it is empty or shown through a transform, or texts beside a matrix of features.
        """
        from datasets import Dataset
        from torch import Tensor

        from hf_gip.features.text import check_no_transform

        value: Any = getattr(self, name)
        if value is None or isinstance(value, Tensor):
            return
        if not isinstance(value, Dataset | Sequence) or isinstance(value, str | bytes):
            raise TypeError(f"`{name}` must be a Dataset, a list of texts or a matrix, got {type(value).__name__}.")
        if isinstance(self.features, Tensor) and self.encoder is None:
            raise ValueError(
                f"`{name}` must be a matrix of the features' width when `features` is a matrix: embed it the same "
                "way, or name the `encoder` that made the features."
            )
        if not len(value):
            raise ValueError(f"`{name}` must hold at least one row or text, got none.")
        if isinstance(value, Dataset):
            check_no_transform(name, value)
        elif other := [text for text in value if not isinstance(text, str)]:
            raise TypeError(f"`{name}` must be a list of texts, got an element of type {type(other[0]).__name__}.")


def check_quota(name: str, count: Any) -> None:
    """Raise unless `count` is a number of rows or None.

    Raises:
        ValueError: If it is anything else.
    """
    from hf_gip.core.validation import TOO_LARGE, is_int
    from hf_gip.dataset.values import describe_value, plain_value

    count = plain_value(count)
    if count is not None and not (is_int(count) and 0 <= count < TOO_LARGE):
        raise ValueError(f"`{name}` must be whole numbers of at least 0, got {describe_value(count)}.")
