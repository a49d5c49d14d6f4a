"""Choose the training rows that matter.

Importing this package gives `datasets.Dataset` its method `gip_select`. Everything else loads when first used.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from hf_gip.interrupt import exit_on_interrupt

with exit_on_interrupt():
    from hf_gip.dataset.gip import gip_select, register  # imports `datasets`, which takes half a second

if TYPE_CHECKING:
    from hf_gip.core.baselines import less, rds
    from hf_gip.core.constraints import Constraints
    from hf_gip.core.explain import explain
    from hf_gip.core.gip import gip, gip_dual
    from hf_gip.core.gtp import gtp
    from hf_gip.core.matrix import MatrixSource
    from hf_gip.core.spice import spice
    from hf_gip.dataset.comparison import Comparison, compare
    from hf_gip.dataset.gradient_trajectories import gradient_trajectories
    from hf_gip.dataset.gtp import gtp_select
    from hf_gip.dataset.llm_scoring import ChatEndpoint, LocalModel, score_with_llm
    from hf_gip.dataset.loading import open_dataset
    from hf_gip.dataset.report import write_report
    from hf_gip.dataset.spice import spice_select
    from hf_gip.features.adam import adam_moments
    from hf_gip.features.bergson import bergson_rows
    from hf_gip.features.embed import embed
    from hf_gip.features.embedding_store import EmbeddingStore, open_embeddings, store_embeddings
    from hf_gip.features.gradient_store import store_gradients
    from hf_gip.features.gradients import gradient_features
    from hf_gip.features.matrix_files import column_rows, npy_rows
    from hf_gip.hub.load import load_subset, reproduce, verify
    from hf_gip.hub.push import push_to_hub
    from hf_gip.manifest.writer import save_subset
    from hf_gip.plots import plot_gains, plot_map
    from hf_gip.selection import Explanation, Selection

__version__ = version("hf-gip")

_HOME = {  # public name: the module it lives in, imported on first use
    "ChatEndpoint": "hf_gip.dataset.llm_scoring",
    "Comparison": "hf_gip.dataset.comparison",
    "Constraints": "hf_gip.core.constraints",
    "EmbeddingStore": "hf_gip.features.embedding_store",
    "Explanation": "hf_gip.selection",
    "LocalModel": "hf_gip.dataset.llm_scoring",
    "MatrixSource": "hf_gip.core.matrix",
    "Selection": "hf_gip.selection",
    "adam_moments": "hf_gip.features.adam",
    "bergson_rows": "hf_gip.features.bergson",
    "column_rows": "hf_gip.features.matrix_files",
    "compare": "hf_gip.dataset.comparison",
    "embed": "hf_gip.features.embed",
    "explain": "hf_gip.core.explain",
    "gip": "hf_gip.core.gip",
    "gip_dual": "hf_gip.core.gip",
    "gradient_features": "hf_gip.features.gradients",
    "gradient_trajectories": "hf_gip.dataset.gradient_trajectories",
    "gtp": "hf_gip.core.gtp",
    "gtp_select": "hf_gip.dataset.gtp",
    "less": "hf_gip.core.baselines",
    "load_subset": "hf_gip.hub.load",
    "npy_rows": "hf_gip.features.matrix_files",
    "open_dataset": "hf_gip.dataset.loading",
    "open_embeddings": "hf_gip.features.embedding_store",
    "plot_gains": "hf_gip.plots",
    "plot_map": "hf_gip.plots",
    "push_to_hub": "hf_gip.hub.push",
    "rds": "hf_gip.core.baselines",
    "reproduce": "hf_gip.hub.load",
    "save_subset": "hf_gip.manifest.writer",
    "score_with_llm": "hf_gip.dataset.llm_scoring",
    "spice": "hf_gip.core.spice",
    "spice_select": "hf_gip.dataset.spice",
    "store_embeddings": "hf_gip.features.embedding_store",
    "store_gradients": "hf_gip.features.gradient_store",
    "verify": "hf_gip.hub.load",
    "write_report": "hf_gip.dataset.report",
}

__all__ = [
    "ChatEndpoint",
    "Comparison",
    "Constraints",
    "EmbeddingStore",
    "Explanation",
    "LocalModel",
    "MatrixSource",
    "Selection",
    "adam_moments",
    "bergson_rows",
    "column_rows",
    "compare",
    "embed",
    "explain",
    "gip",
    "gip_dual",
    "gip_select",
    "gradient_features",
    "gradient_trajectories",
    "gtp",
    "gtp_select",
    "less",
    "load_subset",
    "npy_rows",
    "open_dataset",
    "open_embeddings",
    "plot_gains",
    "plot_map",
    "push_to_hub",
    "rds",
    "reproduce",
    "save_subset",
    "score_with_llm",
    "spice",
    "spice_select",
    "store_embeddings",
    "store_gradients",
    "verify",
    "write_report",
]

register()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `hf_gip` has no attribute `{name}`.")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
