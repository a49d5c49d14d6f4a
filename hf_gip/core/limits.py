"""Who may be chosen: rows given from the start, quotas per group, and a budget of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Limits:
    """What a selection must keep to. The greedy stays exact: each pick is the best row that is still allowed.

    A row is allowed while its group is below `max_per_group`, enough picks are left for every group still below
    `min_per_group`, and enough tokens are left for the row and for the cheapest rows those groups still need.

    Attributes:
        include: Rows given from the start: they come first, count, and condition all later picks, (s,).
        groups: Number of each row's group, (n,), from 0; None puts all rows into one.
        names: What each group is called in errors; their numbers where empty.
        max_per_group: Most rows of each group, (g,).
        min_per_group: Fewest rows of each group, (g,).
        tokens: What each row costs, at least 1, (n,).
        budget: Most tokens of all picks together; picks are then ranked by gain per token.
    """

    include: Int64[Tensor, " s"] | None = None
    groups: Int64[Tensor, " n"] | None = None
    names: Sequence[Any] = ()
    max_per_group: Int64[Tensor, " g"] | None = None
    min_per_group: Int64[Tensor, " g"] | None = None
    tokens: Int64[Tensor, " n"] | None = None
    budget: int | None = None

    def among(self, kept: Int64[Tensor, " p"]) -> "Limits":
        """The same limits over the rows `kept`, in their order; `include` must be among them."""
        include = None if self.include is None else torch.searchsorted(kept, self.include)
        groups = None if self.groups is None else self.groups[kept]
        return replace(self, include=include, groups=groups, tokens=None if self.tokens is None else self.tokens[kept])

    def check(self, n: int, k: int) -> None:
        """Raise unless the limits can be met by some `k` of `n` rows (by at most `k` where there is a budget).

        Raises:
            ValueError: If not; the message says by how much.
        """
        self._check_include(n, k)
        if self.groups is not None:
            self._check_quotas(k)
        if self.budget is not None:
            self._check_budget()

    def given(self) -> Int64[Tensor, " s"]:
        """The included rows, none where there are none."""
        return torch.empty(0, dtype=torch.int64) if self.include is None else self.include

    def counts(self, rows: Int64[Tensor, " r"]) -> Int64[Tensor, " g"]:
        """How many of `rows` each group has."""
        if self.groups is None:
            return torch.tensor([len(rows)])
        quotas = [len(quota) for quota in (self.max_per_group, self.min_per_group) if quota is not None]
        return torch.bincount(self.groups[rows], minlength=max([int(self.groups.max()) + 1, len(self.names), *quotas]))

    def name(self, group: int) -> str:
        """What a group is called."""
        return repr(self.names[group]) if self.names else str(group)

    def needed(self, counts: Int64[Tensor, " g"]) -> Int64[Tensor, " g"]:
        """How many rows each group still needs."""
        return torch.zeros_like(counts) if self.min_per_group is None else (self.min_per_group - counts).clamp(min=0)

    def cheapest(self, need: Int64[Tensor, " g"]) -> list[list[int]]:
        """The tokens of the cheapest rows each group still needs, rising."""
        if self.tokens is None or not bool(need.any()):
            return [[] for _ in need]
        free = torch.ones(len(self.tokens), dtype=torch.bool)
        free[self.given()] = False
        groups = torch.zeros_like(self.tokens) if self.groups is None else self.groups
        return [
            self.tokens[free & (groups == group)].sort().values[:count].tolist() if count else []
            for group, count in enumerate(need.tolist())
        ]

    def _check_include(self, n: int, k: int) -> None:
        given = self.given().tolist()
        if not all(0 <= row < n for row in given) or len(set(given)) < len(given):
            raise ValueError(
                f"`include` must hold distinct rows of the pool (0 to {n - 1}), got {len(given)} from {min(given)} to "
                f"{max(given)}."
            )
        if len(given) > k:
            raise ValueError(
                f"`include` must hold at most k={k} rows, got {len(given)}, {len(given) - k} too many: raise `k`."
            )

    def _check_quotas(self, k: int) -> None:
        assert self.groups is not None
        sizes, given = self.counts(torch.arange(len(self.groups))), self.counts(self.given())
        for name, quota in (("max_per_group", self.max_per_group), ("min_per_group", self.min_per_group)):
            if quota is not None and len(quota) != len(sizes):
                raise ValueError(f"`{name}` must hold one number per group ({len(sizes)}), got {len(quota)}.")
        least = torch.zeros_like(sizes) if self.min_per_group is None else self.min_per_group
        most = sizes if self.max_per_group is None else torch.minimum(self.max_per_group, sizes)
        if (over := _first(least > sizes)) is not None:
            raise ValueError(
                f"`min_per_group` must not exceed the rows there are, got {least[over]} for group {self.name(over)} "
                f"of {sizes[over]}: {least[over] - sizes[over]} too many."
            )
        if (over := _first(least > most)) is not None:
            raise ValueError(
                f"`min_per_group` must not exceed `max_per_group`, got {least[over]} and {most[over]} for group "
                f"{self.name(over)}."
            )
        if (over := _first(given > most)) is not None:
            raise ValueError(
                f"`include` must keep to `max_per_group`, got {given[over]} rows of group {self.name(over)} where "
                f"{most[over]} are allowed: {given[over] - most[over]} too many."
            )
        if (least_of_all := int(torch.maximum(least, given).sum())) > k:
            beside = " beside `include`" if len(self.given()) else ""
            raise ValueError(
                f"`min_per_group` must fit into k={k}{beside}, got {least_of_all} rows over {len(sizes)} group(s): "
                f"{least_of_all - k} too many; raise `k` or lower the quotas."
            )
        if self.budget is None and (room := int(most.sum())) < k:
            raise ValueError(
                f"`max_per_group` must leave room for k={k} rows, got {room} over {len(sizes)} group(s): {k - room} "
                "too few; raise the quotas or lower `k`."
            )

    def _check_budget(self) -> None:
        assert self.tokens is not None
        assert self.budget is not None
        given = self.given()
        need = self.needed(self.counts(given))
        least = int(self.tokens[given].sum()) + sum(map(sum, self.cheapest(need)))
        what = "`include` and `min_per_group`"
        if least == 0:
            least, what = int(self.tokens.min()), "the shortest row"
        if least > self.budget:
            raise ValueError(
                f"`budget_tokens` must pay for {what}, {least} tokens at least, got {self.budget}: "
                f"{least - self.budget} too few."
            )


def _first(wrong: Bool[Tensor, " g"]) -> int | None:
    found = wrong.nonzero().flatten()
    return int(found[0]) if len(found) else None
