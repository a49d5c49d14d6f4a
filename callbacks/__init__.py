"""The door to `trl` and `transformers`: installed as `hf_gip.callbacks`."""

try:
    from .callback import GIPSelectionCallback
except ImportError as error:
    missing = (error.name or "").split(".")[0]
    if missing not in {"trl", "transformers", "accelerate"}:
        raise
    raise ImportError(
        f"`hf_gip.callbacks` needs `{missing}`, which is not installed: `pip install 'hf-gip[train]'`.", name=missing
    ) from error
from .view import PackedView, SelectionView

__all__ = ["GIPSelectionCallback", "PackedView", "SelectionView"]
