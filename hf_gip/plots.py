"""Figures of a selection, drawn with matplotlib."""

from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    class Selection(Protocol):
        """What is drawn of a selection."""

        @property
        def indices(self) -> Tensor: ...  # noqa: D102

        @property
        def gains(self) -> Tensor: ...  # noqa: D102

        @property
        def total(self) -> float | None: ...  # noqa: D102

        def __len__(self) -> int: ...


MAP_ROWS = 20_000  # the map's plane is fitted to at most so many rows, evenly spaced
FEW_VALUES = 20
INK, ACCENT, POOL = "#1f2937", "#d97706", "#cbd5e1"


def plot_gains(
    selection: "Selection", *, random: "Mapping[int, Sequence[float]] | None" = None, ax: "Axes | None" = None
) -> "Figure":
    """Draw what each pick added, and how much of the total was reached by then.

    Args:
        selection: What a selector returned.
        random: Size → shares of the total that random subsets of it reach, drawn as a band from least to most,
            *optional*.
        ax: Axes to draw into, instead of a new figure, *optional*.

    Returns:
        The figure.
    """
    ax = ax or _new_axes()
    steps = range(1, len(selection) + 1)
    ax.plot(steps, selection.gains.numpy(), color=INK, linewidth=1.2)
    ax.set(xlabel="picks", ylabel="gain of the pick", yscale="log", title="What each pick added")
    if selection.total:
        share = ax.twinx()
        share.plot(steps, (selection.gains.cumsum(0) / selection.total).numpy(), color=ACCENT, linewidth=1.8)
        if random:
            sizes = sorted(random)
            lowest, highest = ([end(random[size]) for size in sizes] for end in (min, max))
            share.fill_between(sizes, lowest, highest, color=ACCENT, alpha=0.3, linewidth=1, label="random subsets")
            share.legend(loc="lower right", frameon=False)
        share.set(ylabel="share captured")
        share.set_ylim(0, 1)
        share.yaxis.label.set_color(ACCENT)
    return _figure(ax)


def plot_map(
    features: "Tensor",
    selection: "Selection",
    queries: "Tensor | None" = None,
    *,
    projection: Literal["pca", "umap"] = "pca",
    ax: "Axes | None" = None,
) -> "Figure":
    """Draw the pool in the plane, with the picks (and the target) on it.

    Args:
        features: The pool's vectors, (n, d).
        selection: What a selector chose from them.
        queries: The target's vectors, (m, d), drawn as crosses, *optional*.
        projection: `"pca"`, the first two principal components, *optional*, defaults to `"pca"`; or `"umap"`, which
            keeps neighbours (by cosine) together: `pip install umap-learn`; minutes for a large pool, of which some
            20,000 rows are drawn.
        ax: Axes to draw into, instead of a new figure, *optional*.

    Returns:
        The figure.

    Raises:
        ImportError: If matplotlib or umap-learn is not installed.
        ValueError: If the projection is another one.
    """
    if projection not in ("pca", "umap"):
        raise ValueError(f'`projection` must be "pca" or "umap", got {projection!r}.')
    ax = ax or _new_axes()
    pool = _wide(features)
    sample = pool[:: max(1, len(pool) // MAP_ROWS)]
    plane = _principal_plane(sample) if projection == "pca" else _neighbour_plane(sample)
    drawn = pool if projection == "pca" else sample
    for points, style in (
        (drawn, {"s": 4, "color": POOL, "label": f"pool ({len(pool):,})"}),
        (pool[selection.indices], {"s": 14, "color": INK, "label": f"chosen ({len(selection):,})"}),
        (queries, {"s": 40, "color": ACCENT, "marker": "x", "label": "target"}),
    ):
        if points is not None:
            at = plane.transform(_wide(points).numpy())
            ax.scatter(at[:, 0], at[:, 1], rasterized=True, **style)
    labels = ("first principal component", "second") if projection == "pca" else ("UMAP 1", "UMAP 2")
    ax.set(xlabel=labels[0], ylabel=labels[1], title="The pool and the picks")
    ax.legend(loc="best", frameon=False)
    return _figure(ax)


def _wide(points: "Tensor") -> "Tensor":
    """The points with at least two coordinates: a single one is drawn on a line."""
    from torch.nn.functional import pad

    return pad(points.detach().float().cpu(), (0, max(0, 2 - points.shape[1])))


def _principal_plane(rows: "Tensor") -> Any:
    import numpy as np
    from sklearn.decomposition import PCA

    repeated = rows if len(rows) > 1 else rows.repeat(2, 1)
    with np.errstate(invalid="ignore"):  # equal rows have no variance to take shares of
        return PCA(2, svd_solver="randomized", random_state=0).fit(repeated.numpy())


def _neighbour_plane(rows: "Tensor") -> Any:
    from importlib import import_module

    try:
        umap = import_module("umap")
    except ImportError as error:
        raise ImportError('`projection="umap"` needs umap-learn: pip install umap-learn.') from error
    neighbors = min(15, len(rows) - 1)
    return umap.UMAP(n_neighbors=neighbors, metric="cosine", random_state=0, n_jobs=1).fit(rows.numpy())


def plot_histogram(pool: "Tensor", chosen: "Tensor", name: str, *, ax: "Axes | None" = None) -> "Figure":
    """Draw how a figure of the rows (a score, a length) is spread over the pool and over the picks.

    Args:
        pool: One value per row of the pool; NaN where there is none.
        chosen: One value per pick.
        name: What the values are.
        ax: Axes to draw into, instead of a new figure.

    Returns:
        The figure.
    """
    import numpy as np

    ax = ax or _new_axes()
    pool_values, chosen_values = (values[~values.isnan()].double().numpy() for values in (pool, chosen))
    if len(marks := np.unique(pool_values)) <= FEW_VALUES:  # ratings: a bin for each
        edges = np.r_[marks[0] - 0.5, (marks[1:] + marks[:-1]) / 2, marks[-1] + 0.5]
    else:
        edges = np.linspace(
            pool_values.min(), np.quantile(pool_values, 0.995), 41
        )  # a few very long rows would flatten the rest
    share = (np.full(len(values), 1 / max(1, len(values))) for values in (pool_values, chosen_values))
    ax.hist(np.clip(pool_values, edges[0], edges[-1]), bins=list(edges), weights=next(share), color=POOL, label="pool")
    chosen_values = np.clip(chosen_values, edges[0], edges[-1])
    ax.hist(
        chosen_values, bins=list(edges), weights=next(share), color=INK, label="chosen", histtype="step", linewidth=1.6
    )
    ax.set(xlabel=name, ylabel="share of rows", title=f"{name}: pool and chosen")
    ax.legend(loc="best", frameon=False)
    return _figure(ax)


def plot_overlap(folder: "str | PathLike[str]", *, ax: "Axes | None" = None) -> "Figure":
    """Draw how much of each selection of a training run was in the one before, and in the first.

    Args:
        folder: The run's `output_dir`, where `GIPSelectionCallback` wrote `gip/selection_epoch_*.parquet`.
        ax: Axes to draw into, instead of a new figure.

    Returns:
        The figure.

    Raises:
        FileNotFoundError: If the run has fewer than two selections.
    """
    from pathlib import Path

    import pyarrow.parquet as pq

    paths = sorted((Path(folder) / "gip").glob("selection_epoch_*.parquet"))
    if len(paths) < 2:
        raise FileNotFoundError(
            f"folder {Path(folder).name!r} must hold at least two selections in gip/, got {len(paths)}: give the "
            "`output_dir` of a run that selected again."
        )
    tables = [pq.read_table(path, columns=["index", "epoch"]) for path in paths]
    rounds = [set(table["index"].to_pylist()) for table in tables]
    epochs = [table["epoch"][0].as_py() for table in tables]
    ax = ax or _new_axes()
    for earlier, color, label in (
        (rounds[:-1], INK, "the one before"),
        ([rounds[0]] * len(rounds), ACCENT, "the first"),
    ):
        share = [len(a & b) / len(a | b) for a, b in zip(earlier, rounds[1:], strict=False)]
        ax.plot(epochs[1:], share, marker="o", color=color, label=f"rows shared with {label}")
    ax.set(xlabel="epoch", ylabel="|A ∩ B| / |A ∪ B|", ylim=(-0.02, 1.02), title="How selections overlap")
    ax.set_xticks(epochs[1:])
    ax.legend(loc="best", frameon=False)
    return _figure(ax)


def _new_axes() -> "Axes":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'hf-gip[plot]'.") from error
    return Figure(figsize=(7, 4.5), layout="constrained").add_subplot()


def _figure(ax: "Axes") -> "Figure":
    figure = ax.get_figure(root=True)
    assert figure is not None  # an axes that was just drawn into has one
    return figure
