"""Which of several licences binds rows the most."""

import re
from collections.abc import Iterable
from typing import Any

RANKS = (
    re.compile(r"cc0|unlicense|wtfpl|pddl"),  # nothing is asked for
    re.compile(r"mit|apache|bsd|isc|cc-by-\d|odc-by|afl|zlib|cdla-permissive|ms-pl|bsl|ecl|ncsa|postgresql"),  # a name
    re.compile(r"cc-by-sa|a?l?gpl|odbl|cdla-sharing|mpl|epl|eupl|osl|gfdl|cecill|c-uda"),  # the same terms for others
    re.compile(r"cc-by-n[cd]-\d"),
    re.compile(r"cc-by-nc-sa"),
    re.compile(r"cc-by-nc-nd"),
)
PERMISSIVE = 1  # the last rank that asks for no more than a name


def license_names(value: Any) -> list[str]:
    """The licences of a card's `license`, a name or a list of them; `unknown` is none."""
    names = value if isinstance(value, list) else [value]
    return [name for name in names[:20] if isinstance(name, str) and 0 < len(name) <= 200 and name != "unknown"]


def one_or_list(names: list[str]) -> str | list[str]:
    """How a card writes licences."""
    return names[0] if len(names) == 1 else names


def strictest(licenses: Iterable[str]) -> list[str]:
    """The licences that leave the least: several where none implies the others.

    Terms that this library does not know (`other`, `llama3`) count as strict.
    """
    ranks = {name: _rank(name) for name in sorted(set(licenses))}
    top = max((rank for rank in ranks.values() if rank is not None), default=0)
    unknown = [name for name, rank in ranks.items() if rank is None]
    return unknown + [name for name, rank in ranks.items() if rank == top and (top > PERMISSIVE or not unknown)]


def _rank(name: str) -> int | None:
    return next((rank for rank, pattern in enumerate(RANKS) if pattern.match(name.lower())), None)
