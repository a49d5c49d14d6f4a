"""What `Selection.explain` and `.report` need of a GTP selection, found again in the caches when it is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from hf_gip.core.explain import GtpExplanation, explain_gtp
from hf_gip.core.gtp import target_rows
from hf_gip.core.matrix import ConcatenatedMatrix
from hf_gip.dataset.gradient_trajectories import Plan, plan_trajectories
from hf_gip.selection import Selection


@dataclass(frozen=True, slots=True)
class GtpEvidence:
    """A `gtp_select` call, kept to explain its picks.

    Attributes:
        dataset: The pool.
        plan: The call; its gradients come from the cache, or are taken again where caching is off.
    """

    dataset: Dataset
    plan: Plan

    def explain(self, selection: Selection, row: int) -> GtpExplanation:
        """Explain `row` of the pool.

        Raises:
            ValueError: If `row` is no row of the pool or took no part.
        """
        if isinstance(row, bool) or not 0 <= row < len(self.dataset):
            raise ValueError(f"`row` must be a row of the pool, 0 to {len(self.dataset) - 1}, got {row!r}.")
        found = self.plan.gather(1)
        if not bool((found.rows == row).any()):
            raise ValueError(f"`row` must have a labelled token, got row {row}, which took no part.")
        scales = [rate**0.5 for rate in found.learning_rates]
        pool, targets = ConcatenatedMatrix(found.features, scales), found.goals()
        goals = pool.means()[0][None] if targets is None else target_rows(targets, found.features, scales)
        places = torch.searchsorted(found.rows, torch.cat([torch.tensor([row]), selection.indices]))
        values = pool.rows(places).cpu()
        return explain_gtp(selection, row, values[0], values[1:], goals)

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        from hf_gip.dataset.report import write_report

        chosen = self.dataset.select(selection.indices.numpy())
        setattr(chosen, "selection", replace(selection, context=None))  # noqa: B010 — an attribute of this instance
        return write_report(chosen, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()


def recorded_gtp_evidence(pool: Dataset, options: Mapping[str, Any]) -> GtpEvidence:
    """The evidence of a recorded call: its arguments again, on its pool."""
    unused = {
        "warmup_fraction": 0.05,
        "warmup_epochs": 4,
        "warmup_learning_rate": 2e-5,
    }  # of a warm-up run, where checkpoints were given
    asked = {"batch_size": 8, "device": None, **unused, **options}
    return GtpEvidence(pool, plan_trajectories(pool, {name: each for name, each in asked.items() if name != "ridge"}))
