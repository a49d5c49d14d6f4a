"""What a checkpoint keeps of the callback, and whether a run may go on from it."""

from typing import Any

from transformers import Trainer

from .pool import Pool


def identity(trainer: Trainer, pool: Pool, k: int, target: str | None) -> dict[str, Any]:
    """What must not change between a checkpoint and the run that goes on from it; `target` is a digest."""
    batch = trainer.get_total_train_batch_size(trainer.args)
    return {"k": k, "pool": len(pool), "rows": pool.fingerprint, "target": target, "batch": batch}


def check_saved(stored: Any, now: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint holds, if this run is the one it belongs to.

    Raises:
        RuntimeError: If the checkpoint has nothing of the callback.
        ValueError: If the budget, the rows, the target or the steps of an epoch are others.
    """
    saved = stored.get("attributes", {}).get("saved") if isinstance(stored, dict) else None
    if saved is None:
        raise RuntimeError(
            "The checkpoint was written without this callback, on other rows and another number of steps: start a "
            "new run from its weights instead of resuming it."
        )
    if (saved["k"], saved["pool"]) != (now["k"], now["pool"]):
        raise ValueError(
            f"`k` and the pool must be those of the checkpoint, got k={now['k']} of {now['pool']} row(s) where it "
            f"has k={saved['k']} of {saved['pool']}: pass the same."
        )
    if saved["rows"] != now["rows"]:
        raise ValueError(
            f"The training set must be the checkpoint's, got as many rows ({now['pool']}) with other tokens: pass the "
            "same rows, tokenizer and `max_length`, or start a new run from its weights."
        )
    if saved["target"] != now["target"]:
        was, new = (
            "none" if each is None else f"one of digest {each[:8]}…" for each in (saved["target"], now["target"])
        )
        raise ValueError(
            f"`target` must be the checkpoint's, got {new} where it has {was}: pass the same rows, or start a new run "
            "from its weights."
        )
    if saved["batch"] != now["batch"]:
        raise ValueError(
            f"An optimizer step must take as many rows as in the checkpoint, got {now['batch']} where it has "
            f"{saved['batch']}, so that epochs begin elsewhere: keep processes × batch × accumulation."
        )
    return saved
