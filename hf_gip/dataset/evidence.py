"""What `Selection.explain` and `.report` need, found again from the caches when it is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_gip.core.explain import Explanation, explain
from hf_gip.core.validation import check_device
from hf_gip.dataset.inputs import Problem, Signals, gather_signals
from hf_gip.selection import Selection

AT_HAND = 1e11  # products per figure: some seconds on two cores


@dataclass(frozen=True, slots=True)
class GipEvidence:
    """The signals of a `gip_select` call, kept to explain its picks.

    Attributes:
        signals: The call's own signals; vectors come from the cache, nothing is held in memory.
    """

    signals: Signals

    def explain(self, selection: Selection, row: int) -> Explanation:
        """Explain `row` of the pool."""
        problem, reason = self.problem(selection), self._blocked_reason(selection, row)
        asked, names = problem.queries, problem.names
        if asked is None:  # what covered itself is the pool without the excluded rows
            asked, names = None if problem.kept is None else problem.rows(), None
        found = explain(selection, row, problem.matrix, asked, precision=self.signals.precision(), names=names)
        return replace(found, blocked_reason=reason, served=found.served if problem.queries is not None else ())

    def problem(self, selection: Selection) -> Problem:
        """What `gip` was handed."""
        features, kept = self.signals.features(), None
        if excluded := selection.record["excluded"]:
            asked = torch.ones(len(features.matrix), dtype=torch.bool)
            asked[[copy for copy, _, _ in excluded["pairs"]]] = False
            kept = asked.nonzero().flatten()
        return self.signals.problem(features, kept)

    def _blocked_reason(self, selection: Selection, row: int) -> str:
        """Which limit kept a row out, in words."""
        if row in set(selection.indices.tolist()):
            return ""
        for copy, other, cosine in (selection.record["excluded"] or {"pairs": []})["pairs"]:
            if copy == row:
                return f"It was not allowed: it copies row {other} of `exclude` (cosine {cosine})."
        limited = self.signals.limited
        return "" if limited is None else limited.blocked_reason(selection.indices, row)

    def beside_random(self, selection: Selection) -> str | None:
        """A Markdown table: the picks' figures beside those of random rows; None where that takes minutes."""
        from hf_gip.dataset.comparison import compare

        features = self.signals.features().matrix
        if features.shape[0] * features.shape[1] * len(selection) > AT_HAND:
            return None
        names = ("scores", "target", "features", "columns", "template", "encoder", "encoder_id", "device")
        options = {name: self.signals.options[name] for name in names}
        return str(compare({"chosen": selection}, self.signals.dataset, **options))

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        from hf_gip.dataset.report import report_with_evidence

        return report_with_evidence(selection, self.signals, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()


def recorded_evidence(pool: Dataset, options: Mapping[str, Any]) -> GipEvidence:
    """The evidence of a recorded call: its arguments again, on its pool."""
    return GipEvidence(gather_signals(pool, {**options, "device": check_device(None)}))
