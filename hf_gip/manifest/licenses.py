"""Which of several licenses binds rows the most."""

import re
from collections.abc import Iterable
from typing import Any

RANKS = (
    re.compile(r"cc0|unlicense|wtfpl|pddl"),  # no condition
    re.compile(r"mit|apache|bsd|isc|cc-by-\d|odc-by|afl|zlib|cdla-permissive|ms-pl|bsl|ecl|ncsa|postgresql"),  # a name
    re.compile(r"cc-by-sa|a?l?gpl|odbl|cdla-sharing|mpl|epl|eupl|osl|gfdl|cecill|c-uda"),  # the same terms for others
    re.compile(r"cc-by-n[cd]-\d"),
    re.compile(r"cc-by-nc-sa"),
    re.compile(r"cc-by-nc-nd"),
)
PERMISSIVE = 1  # the last rank that requires no more than a name


def license_names(value: Any) -> list[str]:
    """The licenses of a card's `license`, a name or a list of them; `unknown` is none."""
    names = value if isinstance(value, list) else [value]
    return [name for name in names[:20] if isinstance(name, str) and 0 < len(name) <= 200 and name != "unknown"]


def one_or_list(names: list[str]) -> str | list[str]:
    """How a card writes licenses."""
    return names[0] if len(names) == 1 else names


def strictest(licenses: Iterable[str]) -> list[str]:
    """The licenses that leave the least: several where none implies the others.

    Terms that this library does not know (`other`, `llama3`) count as strict.
    """
    ranks = {name: _rank(name) for name in sorted(set(licenses))}
    highest = max((rank for rank in ranks.values() if rank is not None), default=0)
    unknown = [name for name, rank in ranks.items() if rank is None]
    ranked = [name for name, rank in ranks.items() if rank == highest]
    return unknown + ranked if highest > PERMISSIVE or not unknown else unknown


def _rank(name: str) -> int | None:
    return next((rank for rank, pattern in enumerate(RANKS) if pattern.match(name.lower())), None)
