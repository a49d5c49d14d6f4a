"""What a verification found, check by check."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at.

    Attributes:
        name: What was checked: `manifest`, `files`, `card`, `selection`, `rows`, `source`, `source rows`.
        outcome: `ok`, `failed`, or `not covered` where it could not be looked at.
        sentence: What was found.
        not_covered: Parts of it that could not be looked at, where the rest could.
    """

    name: str
    outcome: Literal["ok", "failed", "not covered"]
    sentence: str
    not_covered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The checks of one subset; true where none failed.

    Attributes:
        subject: The folder or repository checked.
        checks: In the order they were made.
    """

    subject: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no check failed. What could not be looked at is no failure: read `not_covered`."""
        return all(check.outcome != "failed" for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    @property
    def not_covered(self) -> tuple[str, ...]:
        """What could not be checked, each with the name of its check."""
        return tuple(f"{name}: {sentence}" for name, outcome, sentence in self.lines() if outcome == "not covered")

    def lines(self) -> list[tuple[str, str, str]]:
        """Name, outcome and sentence of each check, then of each part that could not be looked at."""
        parts = [(check.name, "not covered", part) for check in self.checks for part in check.not_covered]
        return [(check.name, check.outcome, check.sentence) for check in self.checks] + parts

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{self.subject}: {'verified' if self.ok else 'NOT verified'}"]
        lines += [f"  {outcome:<11}  {name:<{width}}  {sentence}" for name, outcome, sentence in self.lines()]
        return "\n".join(lines)


def verdict(name: str, problems: Sequence[str], fine: str, *not_covered: str) -> Check:
    """A failed check with its first problems, or a good one with what it leaves open."""
    if not problems:
        return Check(name, "ok", fine, not_covered)
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return Check(name, "failed", "; ".join(problems[:SHOWN]) + more + ".")
