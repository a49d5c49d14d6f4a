"""Which rows may be chosen: initial rows, quotas per group, a budget of tokens; and what is left of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from hf_gip.distributed import RowPartition, partition_rows, tensor_checksum


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a selection must keep to. The greedy stays exact: each pick is the best row that is still allowed.

    A row is allowed while its group is below `max_per_group`, enough picks are left for every group still below
    `min_per_group`, and enough tokens are left for the row and for the cheapest rows those groups still need.

    Attributes:
        initial_rows: Rows chosen from the start: they come first, count, and condition all later picks, (s,).
        groups: Number of each row's group, (n,), from 0; None puts all rows into one.
        group_names: What each group is called in errors; their numbers where empty.
        max_per_group: Most rows of each group, (g,).
        min_per_group: Fewest rows of each group, (g,).
        tokens: What each row costs, at least 1, (n,).
        max_tokens: Most tokens of all picks together; picks are then ranked by gain per token.
    """

    initial_rows: Int64[Tensor, " s"] | None = None
    groups: Int64[Tensor, " n"] | None = None
    group_names: Sequence[Any] = ()
    max_per_group: Int64[Tensor, " g"] | None = None
    min_per_group: Int64[Tensor, " g"] | None = None
    tokens: Int64[Tensor, " n"] | None = None
    max_tokens: int | None = None

    def restrict(self, rows: Int64[Tensor, " p"]) -> "Constraints":
        """The same constraints over some rows, in their order; `initial_rows` must be among them."""
        initial = None if self.initial_rows is None else torch.searchsorted(rows, self.initial_rows)
        groups = None if self.groups is None else self.groups[rows]
        tokens = None if self.tokens is None else self.tokens[rows]
        return replace(self, initial_rows=initial, groups=groups, tokens=tokens)

    def check(self, n: int, k: int) -> None:
        """Raise unless some `k` of `n` rows can keep to them (at most `k` where there is a budget).

        Raises:
            ValueError: If not; the message says by how much.
        """
        for name in ("groups", "tokens"):
            values = getattr(self, name)
            if values is not None and len(values) != n:
                raise ValueError(f"`{name}` must hold one number for each of all {n} rows, got {len(values)}.")
        self._check_initial_rows(n, k)
        if self.groups is not None:
            self._check_quotas(k)
        if self.max_tokens is not None:
            self._check_budget()

    def checksum(self) -> tuple[object, ...]:
        """What tells ranks that hold unlike constraints."""
        tensors = (self.initial_rows, self.groups, self.max_per_group, self.min_per_group, self.tokens)
        return (self.max_tokens, *map(tensor_checksum, tensors))

    def initial(self) -> Int64[Tensor, " s"]:
        """The initial rows, also where there are none."""
        return torch.empty(0, dtype=torch.int64) if self.initial_rows is None else self.initial_rows

    def group_counts(self, rows: Int64[Tensor, " r"]) -> Int64[Tensor, " g"]:
        """How many of `rows` each group has."""
        if self.groups is None:
            return torch.tensor([len(rows)])
        quotas = [len(quota) for quota in (self.max_per_group, self.min_per_group) if quota is not None]
        num_groups = max([int(self.groups.max()) + 1, len(self.group_names), *quotas])
        return torch.bincount(self.groups[rows], minlength=num_groups)

    def missing(self, counts: Int64[Tensor, " g"]) -> Int64[Tensor, " g"]:
        """How many rows each group still needs."""
        return torch.zeros_like(counts) if self.min_per_group is None else (self.min_per_group - counts).clamp(min=0)

    def cheapest(self, missing: Int64[Tensor, " g"]) -> list[list[int]]:
        """The tokens of the cheapest rows each group still needs, rising."""
        if self.tokens is None or not bool(missing.any()):
            return [[] for _ in missing]
        free = torch.ones(len(self.tokens), dtype=torch.bool)
        free[self.initial()] = False
        groups = torch.zeros_like(self.tokens) if self.groups is None else self.groups
        return [
            self.tokens[free & (groups == group)].sort().values[:count].tolist() if count else []
            for group, count in enumerate(missing.tolist())
        ]

    def group(self, group: int) -> str:
        """What a group is called in messages."""
        return repr(self.group_names[group]) if self.group_names else str(group)

    def _check_initial_rows(self, n: int, k: int) -> None:
        rows = self.initial().tolist()
        if not all(0 <= row < n for row in rows) or len(set(rows)) < len(rows):
            raise ValueError(
                f"`initial_rows` must hold distinct rows of the pool (0 to {n - 1}), got {len(rows)} from "
                f"{min(rows)} to "
                f"{max(rows)}."
            )
        if len(rows) > k:
            raise ValueError(
                f"`initial_rows` must hold at most k={k} rows, got {len(rows)}, {len(rows) - k} too many: raise `k`."
            )

    def _check_quotas(self, k: int) -> None:
        assert self.groups is not None
        sizes, initial = self.group_counts(torch.arange(len(self.groups))), self.group_counts(self.initial())
        for name, quota in (("max_per_group", self.max_per_group), ("min_per_group", self.min_per_group)):
            if quota is not None and len(quota) != len(sizes):
                raise ValueError(f"`{name}` must hold one number per group ({len(sizes)}), got {len(quota)}.")
        low = torch.zeros_like(sizes) if self.min_per_group is None else self.min_per_group
        high = sizes if self.max_per_group is None else torch.minimum(self.max_per_group, sizes)
        if (bad := _first_true(low > sizes)) is not None:
            raise ValueError(
                f"`min_per_group` must not exceed the rows there are, got {low[bad]} for group {self.group(bad)} "
                f"of {sizes[bad]}: {low[bad] - sizes[bad]} too many."
            )
        if (bad := _first_true(low > high)) is not None:
            raise ValueError(
                f"`min_per_group` must not exceed `max_per_group`, got {low[bad]} and {high[bad]} for group "
                f"{self.group(bad)}."
            )
        if (bad := _first_true(initial > high)) is not None:
            raise ValueError(
                f"`initial_rows` must keep to `max_per_group`, got {initial[bad]} rows of group {self.group(bad)} "
                "where "
                f"{high[bad]} are allowed: {initial[bad] - high[bad]} too many."
            )
        if (required := int(torch.maximum(low, initial).sum())) > k:
            beside = " beside `initial_rows`" if len(self.initial()) else ""
            raise ValueError(
                f"`min_per_group` must fit into k={k}{beside}, got {required} rows over {len(sizes)} group(s): "
                f"{required - k} too many; raise `k` or lower the quotas."
            )
        if self.max_tokens is None and (room := int(high.sum())) < k:
            raise ValueError(
                f"`max_per_group` must leave room for k={k} rows, got {room} over {len(sizes)} group(s): {k - room} "
                "too few; raise the quotas or lower `k`."
            )

    def _check_budget(self) -> None:
        assert self.tokens is not None
        assert self.max_tokens is not None
        initial = self.initial()
        reserve = self.cheapest(self.missing(self.group_counts(initial)))
        required, reason = (
            int(self.tokens[initial].sum()) + sum(map(sum, reserve)),
            "`initial_rows` and `min_per_group`",
        )
        if required == 0:
            required, reason = int(self.tokens.min()), "the shortest row"
        if required > self.max_tokens:
            raise ValueError(
                f"`max_tokens` must pay for {reason}, {required} tokens at least, got {self.max_tokens}: "
                f"{required - self.max_tokens} too few."
            )


def _first_true(flags: Bool[Tensor, " g"]) -> int | None:
    positions = flags.nonzero().flatten()
    return int(positions[0]) if len(positions) else None


class Unconstrained:
    """No constraints: what the greedy loop asks for."""

    def rank(self, gain: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """What rows are ranked by: their gain."""
        return gain

    def max_block(self, width: int) -> int:
        """How many picks may be drafted at once: as many as the engine likes."""
        return width

    def count_allowed(self, rows: Int64[Tensor, " b"]) -> int:
        """How many of these picks, in this order, are allowed: all."""
        return len(rows)

    def update(self, rows: Int64[Tensor, " b"]) -> None:
        """Count these picks: there is nothing to count."""


class ConstraintState(Unconstrained):
    """Which rows may still be picked. A row is blocked once its tokens exceed its group's ceiling, which only falls.

    The ceiling of group g is the tokens that remain, less the reserve for the rows that groups still need, plus the
    dearest row that g itself has in that reserve (any row of g may stand in for it). It is −1 for a group that is
    full, and for one that needs no more once all remaining picks are needed elsewhere.

    Every rank counts the picks of all ranks, and ranks the rows that it holds.
    """

    def __init__(
        self,
        constraints: Constraints,
        n: int,
        k: int,
        device: torch.device,
        *,
        log_gain: bool,
        partition: RowPartition | None = None,
    ) -> None:
        self.partition = partition = partition or partition_rows(n, None)
        initial = constraints.initial()
        counts = constraints.group_counts(initial)
        self.pending = initial.tolist()  # initial rows still to come
        self.remaining, self.max_tokens, self.log_gain = k - len(initial), constraints.max_tokens, log_gain
        groups = torch.zeros(n, dtype=torch.int64) if constraints.groups is None else constraints.groups
        quota = torch.full_like(counts, n) if constraints.max_per_group is None else constraints.max_per_group
        self.room = quota - counts
        self.missing = constraints.missing(counts)
        self.reserve = constraints.cheapest(self.missing)
        tokens = torch.zeros(n, dtype=torch.int64) if constraints.tokens is None else constraints.tokens
        self.group_of, self.tokens_of = groups, tokens  # on the CPU, to look single rows up
        local = slice(partition.offset, partition.offset + partition.counts[partition.rank])
        self.groups, self.tokens = groups[local].to(device), tokens[local].to(device, torch.float64)
        if self.max_tokens is not None:
            self.max_tokens -= int(tokens[initial].sum())
        self.ceiling = self._ceiling()

    def rank(self, gain: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The gain, per token where there is a budget; −∞ for rows that are not allowed."""
        if self.pending:  # the next initial row, whatever it adds
            row = self.partition.local(torch.tensor(self.pending[:1]))  # none, where another rank holds it
            return torch.full_like(gain, -torch.inf).index_fill_(0, row.to(gain.device), 1.0)
        blocked = (self.tokens > self.ceiling[self.groups]) | (gain == -torch.inf)
        if self.max_tokens is not None:
            gain = (gain.clamp(min=0).log1p() if self.log_gain else gain) / self.tokens.to(gain.dtype)
        return gain.masked_fill(blocked, -torch.inf)

    def max_block(self, width: int) -> int:
        """One where the rank is no plain gain: the engine compares gains."""
        return 1 if self.pending or self.max_tokens is not None else width

    def count_allowed(self, rows: Int64[Tensor, " b"]) -> int:
        """How many of these picks, in this order, are allowed.

        That is all a block needs: its picks are then the best of all rows, hence of those that are allowed.
        """
        if self.pending:
            return len(rows)
        trial = object.__new__(ConstraintState)
        trial.__dict__.update(self.__dict__)
        trial.room, trial.missing = self.room.clone(), self.missing.clone()
        trial.reserve = [list(tokens) for tokens in self.reserve]
        for count, row in enumerate(rows.tolist()):
            if int(self.tokens_of[row]) > float(trial.ceiling[int(self.group_of[row])]):
                return count
            trial._count(row)
            trial.ceiling = trial._ceiling()
        return len(rows)

    def update(self, rows: Int64[Tensor, " b"]) -> None:
        """Count these picks."""
        if self.pending:  # counted from the start
            self.pending = self.pending[len(rows) :]
            return
        for row in rows.tolist():
            self._count(row)
        self.ceiling = self._ceiling()

    def _count(self, row: int) -> None:
        group, tokens = int(self.group_of[row]), int(self.tokens_of[row])
        self.remaining -= 1
        self.room[group] -= 1
        self.missing[group] = max(0, int(self.missing[group]) - 1)
        if reserve := self.reserve[group]:
            reserve.remove(tokens if tokens <= reserve[-1] else reserve[-1])
        if self.max_tokens is not None:
            self.max_tokens -= tokens

    def _ceiling(self) -> Float[Tensor, " g"]:
        if self.max_tokens is None:
            ceiling = torch.full((len(self.missing),), torch.inf, dtype=torch.float64)
        else:
            dearest = torch.tensor([tokens[-1] if tokens else 0 for tokens in self.reserve], dtype=torch.float64)
            ceiling = dearest + (self.max_tokens - sum(map(sum, self.reserve)))
        full = self.room <= 0
        if int(self.missing.sum()) >= self.remaining:
            full |= self.missing == 0
        return ceiling.masked_fill(full, -1.0).to(self.tokens.device)
