"""Select again from the source with the recorded parameters, and say where the results differ."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import datasets
import pyarrow as pa
from datasets import Dataset

from hf_gip.manifest.again_gip import gip_again
from hf_gip.manifest.again_gtp import gtp_again
from hf_gip.manifest.again_spice import spice_again
from hf_gip.manifest.check_source import check_source
from hf_gip.manifest.given import check_taken
from hf_gip.manifest.schema import Manifest

SELECT_AGAIN = {
    "gip": gip_again,
    "spice": spice_again,
    "gtp": gtp_again,
}  # method: selects again as the manifest says, in a file of its own
SAME_OBJECTIVE = 1e-4  # relative: what float32 on another machine may cost


@dataclass(frozen=True, slots=True)
class Reproduction:
    """A published selection beside the same selection made again.

    Attributes:
        verdict: `same picks`: the same rows in the same order, and the same objective; `same objective`: other rows
            or another order, equally good; `different`: neither.
        k: Rows published.
        common: Rows in both selections.
        first_difference: The first rank at which they differ, or None.
        published: The objective in the manifest.
        again: The objective reached now.
        not_covered: What could not be compared with the manifest.
    """

    verdict: Literal["same picks", "same objective", "different"]
    k: int
    common: int
    first_difference: int | None
    published: float
    again: float
    not_covered: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the objective was reached again."""
        return self.verdict != "different"

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        where = "" if self.first_difference is None else f", first difference at rank {self.first_difference}"
        return (
            f"{self.verdict}: {self.common:,} of {self.k:,} rows in common{where}; objective {self.again:.8g}, "
            f"published {self.published:.8g} ({self.again / self.published - 1 if self.published else 0:+.1e})"
            + "".join(f"\n  not covered: {part}" for part in self.not_covered)
        )


def reproduce_from(
    manifest: Manifest, picks: pa.Table, source: Dataset, given: dict[str, Any], *, device: str | None = None
) -> Reproduction:
    """Select again as `manifest` says, and compare with the published `picks`.

    Raises:
        ValueError: If the source is not the recorded one, the method is unknown, or something must be given again or
            left out.
    """
    checks = check_source(manifest, picks, source)
    if failed := [check.sentence for check in checks if check.outcome == "failed"]:
        raise ValueError(f"`source` must be the recorded one: {failed[0]}")
    indices = picks["index"].to_pylist()
    select_again = SELECT_AGAIN.get(manifest.method)
    if select_again is None:
        raise ValueError(
            f"`reproduce` selects again by {', '.join(SELECT_AGAIN)}, got a subset chosen by {manifest.method!r}."
        )
    check_taken(manifest.method, given)
    try:
        with _no_cached_selection():
            selection = select_again(manifest, source, {**given, "include": indices}, device=device)
    except (KeyError, TypeError, AttributeError) as error:  # valid by the schema, yet not by the method
        raise ValueError(f"the manifest does not say how to select again: {error!r} is missing or wrong.") from None
    done = compare_picks(indices, selection.indices.tolist(), manifest.objective, selection.objective)
    open_parts = [part for check in checks for part in check.not_covered]
    return replace(done, not_covered=(*open_parts, *_unlike(manifest.recipe, selection.record)))


def _unlike(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of the encoder, the vectors and the proxy is not what the manifest names, or has no hash there."""
    for part in ("features", "proxy"):
        one, other = ({**(record.get(part) or {})} for record in (recorded, now))
        renamed = {"encoder", "model"} if one.get("files") and one["files"] == other.get("files") else set()
        for name in sorted((one.keys() | other.keys()) - renamed):
            if one.get(name) != other.get(name):
                yield f"`{part}.{name}`, {other.get(name)!r} now and {one.get(name)!r} in the manifest"
    for part in ("features", "queries", "excluded"):
        one = recorded.get(part) or {}
        if one.get("kind") in ("matrix", "dataset") and not {"sha256", "given_sha256"} & one.keys():
            yield f"`{part}`, of which the manifest holds no hash"


def compare_picks(published: list[int], again: list[int], objective: float, reached: float) -> Reproduction:
    """Two selections by their rows and objectives."""
    pairs = enumerate(zip(published, again, strict=False))
    first = next((rank for rank, (one, other) in pairs if one != other), None)
    if abs(reached - objective) > SAME_OBJECTIVE * abs(objective):
        verdict = "different"
    else:
        verdict = "same picks" if first is None and len(published) == len(again) else "same objective"
    common = len(set(published) & set(again))
    return Reproduction(verdict, len(published), common, first, objective, reached)


@contextmanager
def _no_cached_selection() -> Iterator[None]:
    """Select in earnest; a cached selection would agree with itself."""
    was = datasets.is_caching_enabled()
    datasets.disable_caching()
    try:
        yield
    finally:
        if was:
            datasets.enable_caching()
