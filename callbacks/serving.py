"""Whether the collator gets what was chosen: the loader is checked before training, each epoch at its end."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset
from transformers import Trainer

from hf_gip.hashing import hash_item, hash_lines
from hf_gip.manifest.training_run import Epoch


class ServingLog:
    """Which items of a view the collator was given since the last `reset`, with digests of their content.

    In shared memory, so that worker processes count, too. A trainer reads single items for their lengths before it
    trains; only the collator reads whole batches, so batches are recorded.

    Args:
        items: How many items the view has.

    Attributes:
        counts: How often each item was served, (items,).
        digests: The first 8 bytes of the SHA-256 of each item's values as served, (items,).
        expected: The same of the items as chosen, (items,).
    """

    def __init__(self, items: int) -> None:
        self.counts = torch.zeros(items, dtype=torch.int64).share_memory_()
        self.digests = torch.zeros(items, dtype=torch.int64).share_memory_()
        self.expected = torch.zeros(items, dtype=torch.int64)
        self._has_expected = torch.zeros(1, dtype=torch.bool).share_memory_()

    def expect(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Set the items that are served from now on."""
        self.expected = _digests(items)
        self._has_expected.fill_(True)

    def record(self, indices: Sequence[int], items: Sequence[Mapping[str, Any]]) -> None:
        """Count a batch that goes to the collator.

        Raises:
            RuntimeError: If no selection was made before.
        """
        if not bool(self._has_expected):
            raise RuntimeError(
                "The callback must choose rows before they are trained on, got none chosen: add it to the trainer it "
                "was made with, `trainer.add_callback(callback)`, before `trainer.train()`."
            )
        index = torch.as_tensor(indices)
        self.counts.index_add_(0, index, torch.ones_like(index))
        self.digests[index] = _digests(items)

    def reset(self) -> None:
        """Start counting at zero."""
        self.counts.zero_()

    def expected_sha256(self) -> str:
        """SHA-256 over the sorted digests of all items as chosen."""
        return _sorted_sha256(self.expected)


def check_loader(loader: object, view: object) -> None:
    """Raise unless the loader reads `view`, directly or through subsets.

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


def check_epoch(trainer: Trainer, loader: Any, log: ServingLog, epoch: int, *, is_whole: bool) -> Epoch:
    """Check what reached the collators of all processes in an epoch, and return its record.

    A whole epoch serves every item once: a loader may leave out the last batch that is not full (`drop_last`), and
    several processes may repeat items to come out even. The rest of an interrupted epoch serves some.

    Args:
        trainer: The trainer; every process takes part.
        loader: What the epoch iterated over.
        log: What this process served.
        epoch: The epoch's number, from 0.
        is_whole: Whether the epoch began and ended in this run.

    Raises:
        RuntimeError: If other rows were served, or not all of them, or some more than once.
    """
    wrong_items = ((log.counts > 0) & (log.digests != log.expected)).sum()
    totals = torch.cat([log.counts, wrong_items[None]])
    if trainer.accelerator.num_processes > 1:
        reduced: Any = trainer.accelerator.reduce(totals.to(trainer.accelerator.device), "sum")
        totals = reduced.cpu()
    counts, wrong = totals[:-1], int(totals[-1])
    served = counts > 0
    missing, repeated = int((~served).sum()), int(counts[served].sum()) - int(served.sum())
    batch_size = getattr(loader, "total_batch_size", None) or getattr(loader, "batch_size", None) or 1
    drops_last = getattr(getattr(loader, "batch_sampler", None), "drop_last", False)
    may_miss, may_repeat = len(counts) % batch_size if drops_last else 0, -len(counts) % batch_size
    if wrong or (is_whole and (missing > may_miss or repeated > may_repeat)):
        raise RuntimeError(
            f"Epoch {epoch} must serve each of the {len(counts)} item(s) chosen for it once, got {wrong} with other "
            f"content, {missing} left out and {repeated} repeated: leave sampler and loader to the trainer, or make "
            "them visit every item of `train_dataset` once."
        )
    sha256 = _sorted_sha256(log.expected[served])
    return Epoch(epoch=epoch, whole=is_whole, items=int(served.sum()), sha256=sha256)


def _digests(items: Iterable[Mapping[str, Any]]) -> Tensor:
    digests = [int.from_bytes(bytes.fromhex(hash_item(item)), "big", signed=True) for item in items]
    return torch.tensor(digests, dtype=torch.int64)


def _sorted_sha256(digests: Tensor) -> str:
    return hash_lines(digests.sort().values.tolist())
