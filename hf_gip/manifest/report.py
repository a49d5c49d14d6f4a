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
        outcome: `ok`, `failed`, or `skipped` where it could not be looked at.
        sentence: What was found.
    """

    name: str
    outcome: Literal["ok", "failed", "skipped"]
    sentence: str


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
        """Whether no check failed. A skipped check is no failure: read which."""
        return all(check.outcome != "failed" for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.outcome == "failed")

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{self.subject}: {'verified' if self.ok else 'NOT verified'}"]
        lines += [f"  {check.outcome:<7}  {check.name:<{width}}  {check.sentence}" for check in self.checks]
        return "\n".join(lines)


def verdict(name: str, problems: Sequence[str], fine: str) -> Check:
    """A failed check with its first problems, or a good one."""
    if not problems:
        return Check(name, "ok", fine)
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return Check(name, "failed", "; ".join(problems[:SHOWN]) + more + ".")
