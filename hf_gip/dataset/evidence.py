"""What `Selection.explain` and `.report` need, found again from the caches when it is asked for."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from hf_gip.core.explain import Explanation, explain
from hf_gip.core.selection import Selection
from hf_gip.dataset.signals import Signals


@dataclass(frozen=True, slots=True)
class GipEvidence:
    """The signals of a `gip_select` call, kept to explain its picks.

    Attributes:
        signals: The call's own signals; vectors come from the cache, nothing is held in memory.
    """

    signals: Signals

    def explain(self, selection: Selection, row: int) -> Explanation:
        """Explain `row` of the pool."""
        features = self.signals.features()
        queries = self.signals.queries(features)
        asked = None if queries is None else queries.matrix
        return explain(selection, row, features.matrix, asked, precision=self.signals.precision())

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        from hf_gip.dataset.report import report_with_evidence

        return report_with_evidence(selection, self.signals, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()
