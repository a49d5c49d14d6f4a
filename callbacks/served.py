"""Whether what reached the collator is what was chosen: asked of the loader before training, and of each epoch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import Trainer

from hf_gip.hashing import hash_lines, hash_token_rows
from hf_gip.manifest.training_run import Epoch


class Served:
    """Which items of a view the collator was given since the last `clear`, and what they held.

    In shared memory: what worker processes read counts. A trainer reads single items for their lengths before it
    trains; whole batches only go to the collator, so these are noted.

    Attributes:
        counts: How often each item was served, (items,).
        digests: The first 8 bytes of the SHA-256 of each item's tokens and labels as served, (items,).
        expected: The same of the items as they were chosen, None before the first selection is shown, (items,).
    """

    def __init__(self, items: int) -> None:
        self.counts = torch.zeros(items, dtype=torch.int64).share_memory_()
        self.digests = torch.zeros(items, dtype=torch.int64).share_memory_()
        self.chosen = torch.zeros(1, dtype=torch.bool).share_memory_()
        self.expected = torch.zeros(items, dtype=torch.int64)

    def expect(self, items: Iterable[Mapping[str, Any]]) -> None:
        """These items are chosen now."""
        self.expected = _digests(items)
        self.chosen.fill_(True)

    def note(self, indices: Sequence[int], items: Sequence[Mapping[str, Any]]) -> None:
        """The collator is given these items.

        Raises:
            RuntimeError: If none were ever chosen.
        """
        if not bool(self.chosen):
            raise RuntimeError(
                "The callback must choose rows before they are trained on, got none chosen: add it to the trainer it "
                "was made with, `trainer.add_callback(callback)`, before `trainer.train()`."
            )
        places = torch.as_tensor(indices)
        self.counts.index_add_(0, places, torch.ones_like(places))
        self.digests[places] = _digests(items)

    def clear(self) -> None:
        """Count anew."""
        self.counts.zero_()

    def content(self) -> str:
        """SHA-256 over the digests of all items chosen, in ascending order."""
        return _content(self.expected)


def check_loader(loader: object, view: object) -> None:
    """Raise unless the loader reads `view`, alone or through subsets.

    Raises:
        RuntimeError: If it reads other rows.
    """
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if dataset is not view:
        rows = f" of {len(dataset)} row(s)" if hasattr(dataset, "__len__") else ""  # type: ignore[arg-type]
        raise RuntimeError(
            "The loader must read the rows that the callback chooses, got one that reads a "
            f"{type(dataset).__name__}{rows}: make it from `self.train_dataset` in `get_train_dataloader`."
        )


def confirm_epoch(trainer: Trainer, loader: Any, served: Served, epoch: int, *, whole: bool) -> Epoch:
    """What reached the collators of all processes in an epoch.

    A whole epoch serves every item once: a loader may leave out the last batch that is not full (`drop_last`), and
    several processes may repeat items to come out even. What is left of an interrupted epoch serves some.

    Args:
        trainer: The trainer; every process takes part.
        loader: What the epoch iterated over.
        served: What this process noted.
        epoch: Which.
        whole: Whether the epoch began and ended in this run.

    Raises:
        RuntimeError: If other rows were served, or not all of them, or some more than once.
    """
    wrong = ((served.counts > 0) & (served.digests != served.expected)).sum()
    noted = torch.cat([served.counts, wrong[None]])
    if trainer.accelerator.num_processes > 1:
        everyone: Any = trainer.accelerator.reduce(noted.to(trainer.accelerator.device), "sum")
        noted = everyone.cpu()
    counts, others = noted[:-1], int(noted[-1])
    there = counts > 0
    missing, repeated = int((~there).sum()), int(counts[there].sum()) - int(there.sum())
    size = getattr(loader, "total_batch_size", None) or getattr(loader, "batch_size", None) or 1
    dropped = len(counts) % size if getattr(getattr(loader, "batch_sampler", None), "drop_last", False) else 0
    if others or (whole and (missing > dropped or repeated > -len(counts) % size)):
        raise RuntimeError(
            f"Epoch {epoch} must serve each of the {len(counts)} item(s) chosen for it once, got {others} with other "
            f"content, {missing} left out and {repeated} repeated: leave sampler and loader to the trainer, or make "
            "them visit every item of `train_dataset` once."
        )
    return Epoch(epoch=epoch, whole=whole, items=int(there.sum()), sha256=_content(served.expected[there]))


def _content(digests: Tensor) -> str:
    return hash_lines(digests.sort().values.tolist())


def _digests(items: Iterable[Mapping[str, Any]]) -> Tensor:
    digests = [int.from_bytes(bytes.fromhex(hash_token_rows([item])), "big", signed=True) for item in items]
    return torch.tensor(digests, dtype=torch.int64)
