"""Re-selection during training with `trl` and `transformers`, installed as `hf_gip.callbacks`."""

try:
    from .callback import GIPSelectionCallback
except ImportError as error:
    package = (error.name or "").split(".")[0]
    if package not in {"trl", "transformers", "accelerate"}:
        raise
    raise ImportError(
        f"`hf_gip.callbacks` needs `{package}`, which is not installed: `pip install 'hf-gip[train]'`.", name=package
    ) from error
from .view import PackedView, SelectionView

__all__ = ["GIPSelectionCallback", "PackedView", "SelectionView"]
