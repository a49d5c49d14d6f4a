"""What `Selection.explain` and `.report` need of a SPICE selection, found again when it is asked for."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from jaxtyping import Float, Int64
from torch import Tensor

from hf_gip.core.explain import SpiceExplanation, explain_spice_candidate, explain_spice_pick
from hf_gip.selection import Selection

if TYPE_CHECKING:
    from hf_gip.features.proxy import NamedModel


@dataclass(frozen=True, slots=True)
class SpiceEvidence:
    """A `spice_select` call, kept to explain its picks.

    Attributes:
        dataset: The pool.
        named: The proxy, by name; opened when needed.
        options: The call's options, as resolved.
    """

    dataset: Dataset
    named: "NamedModel"
    options: Mapping[str, Any]

    def explain(self, selection: Selection, row: int) -> SpiceExplanation:
        """Explain `row` of the pool; one left out costs the gradients of the picks it competed with.

        Raises:
            ValueError: If `row` is no row of the pool or took no part, or was left out and the proxy has moved on.
        """
        if isinstance(row, bool) or not 0 <= row < len(self.dataset):
            raise ValueError(f"`row` must be a row of the pool, 0 to {len(self.dataset) - 1}, got {row!r}.")
        if self.options["update_every"] is not None or row in selection.indices.tolist():
            return explain_spice_pick(selection, row)
        usable, rows, model = self._opened()
        rivals = self._window_of(row, usable)
        picks = [pick for pick in selection.indices.tolist() if pick in rivals]
        found = self._gradients(rows, [*picks, row], model)
        return explain_spice_candidate(row, found[-1], picks, found[:-1], dict(selection.record["parameters"]))

    def report(self, selection: Selection, path: str | PathLike[str]) -> Path:
        """Write the page about `selection`."""
        from hf_gip.dataset.report import write_report

        chosen = self.dataset.select(selection.indices.numpy())
        setattr(chosen, "selection", replace(selection, context=None))  # noqa: B010 — an attribute of this instance
        return write_report(chosen, path)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        """Stay behind when a dataset travels to another process: the pool would travel along."""
        return type(None), ()

    def _opened(self) -> tuple[Int64[Tensor, " m"], Dataset, Any]:
        from hf_gip.features.gradients import context_length
        from hf_gip.features.tokenization import tokenised

        model, tokenizer = self.named.load()
        length = min(self.options["max_length"], context_length(model))
        tokens = tokenised(self.dataset, tokenizer, self.options["columns"], length)
        return tokens.usable, tokens.rows, model

    def _window_of(self, row: int, usable: Int64[Tensor, " m"]) -> set[int]:
        """The rows it was compared with.

        Raises:
            ValueError: If it has nothing to learn from.
        """
        if not bool((usable == row).any()):
            raise ValueError(f"`row` must have a labelled token, got row {row}, which took no part.")
        window = self.options["window"]
        if window is None:
            return set(usable.tolist())
        shuffled = torch.randperm(len(usable), generator=torch.Generator().manual_seed(self.options["seed"]))
        return next(rows for part in usable[shuffled].split(window) if row in (rows := set(part.tolist())))

    def _gradients(self, rows: Any, wanted: list[int], model: Any) -> Float[Tensor, "j d"]:
        from hf_gip.features.gradients import context_length
        from hf_gip.features.per_example_gradients import GradientReader, GradientRecipe
        from hf_gip.features.proxy import prepared
        from hf_gip.features.tokenization import Tally, token_batches

        options = self.options
        length = min(options["max_length"], context_length(model))
        recipe = GradientRecipe(
            options["target_modules"], options["projection_dim"], None, False, options["seed"], length
        )
        with prepared(model, options["target_modules"], options["seed"]) as ready:
            reader = GradientReader(ready, recipe)
            found = torch.empty(len(wanted), reader.width)
            place = {row: number for number, row in enumerate(wanted)}
            for batch in token_batches(rows, wanted, options["batch_size"], length, Tally()):
                found[[place[row] for row in batch.rows.tolist()]] = reader.read(batch)
        return found


def recorded_spice_evidence(pool: Dataset, options: Mapping[str, Any]) -> SpiceEvidence:
    """The evidence of a recorded call: its arguments again, on its pool."""
    from hf_gip.core.validation import check_device
    from hf_gip.features.proxy import name_model

    named = name_model(options["model"], options["tokenizer"], device=check_device(None))
    return SpiceEvidence(pool, named, {"batch_size": 8, **options})
