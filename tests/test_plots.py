"""The pictures show the numbers of the selection, and say so when matplotlib is missing."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples
import torch

from hf_gip.core.gip import gip
from hf_gip.plots import plot_gains, plot_histogram, plot_map, plot_overlap


def test_the_gains_and_the_share_are_drawn_as_they_are(tmp_path: Path) -> None:
    selection = gip(samples.rows(30, 6), samples.queries(3, 6), 8, noise=0.1)
    figure = selection.plot()
    gains, share = figure.axes
    assert gains.lines[0].get_ydata() == pytest.approx(selection.gains.numpy())
    assert share.lines[0].get_ydata()[-1] == pytest.approx(selection.captured)
    figure.savefig(tmp_path / "gains.png")
    assert (tmp_path / "gains.png").read_bytes().startswith(b"\x89PNG")


def test_the_share_is_left_out_where_no_total_is_known() -> None:
    selection = gip(samples.rows(30, 6), samples.queries(3, 6), 3, objective="information", noise=0.1)
    assert selection.total is None
    assert len(plot_gains(selection).axes) == 1


def test_the_map_shows_pool_picks_and_target() -> None:
    X, Q = samples.rows(30, 6), samples.queries(3, 6)
    (axes,) = plot_map(X, gip(X, Q, 4, noise=0.1), Q).axes
    pool, chosen, target = (points.get_offsets() for points in axes.collections)
    assert (len(pool), len(chosen), len(target)) == (30, 4, 3)
    first = torch.as_tensor(pool[:, 0].data).var()
    assert first >= torch.as_tensor(pool[:, 1].data).var()  # the first component holds the most variance


@pytest.mark.parametrize(("n", "d"), [(9, 1), (1, 4), (1, 1)])
def test_the_map_of_one_row_or_one_coordinate_is_drawn(n: int, d: int) -> None:
    X = samples.rows(n, d).float() + 1
    (axes,) = plot_map(X, gip(X, X[:1], 1, noise=0.1), X[:1]).axes
    assert [len(points.get_offsets()) for points in axes.collections] == [n, 1, 1]


@pytest.mark.heavy
def test_umap_keeps_neighbours_together() -> None:
    pytest.importorskip("umap")
    centres = torch.eye(3, 12) * 8
    X = torch.randn(60, 12, generator=torch.Generator().manual_seed(0)) + centres.repeat(20, 1)
    (axes,) = plot_map(X, gip(X, X[:2], 5, noise=0.1), X[:2], projection="umap").axes
    pool, chosen, target = (torch.as_tensor(points.get_offsets().data) for points in axes.collections)
    assert (len(pool), len(chosen), len(target)) == (60, 5, 2)
    near = torch.cdist(pool, pool).fill_diagonal_(torch.inf).argmin(1)
    assert float((near % 3 == torch.arange(60) % 3).float().mean()) > 0.95
    assert axes.get_xlabel() == "UMAP 1"


def test_another_projection_or_none_installed_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    X = samples.rows(30, 6).float()
    selection = gip(X, None, 3, noise=0.1)
    with pytest.raises(ValueError, match=r'^`projection` must be "pca" or "umap", got \'tsne\'\.$'):
        plot_map(X, selection, projection="tsne")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError) as caught:
        plot_map(X, selection, projection="umap")
    assert str(caught.value) == '`projection="umap"` needs umap-learn: pip install umap-learn.'


def test_a_missing_matplotlib_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    selection = gip(samples.rows(10, 4), None, 3, noise=0.1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError) as caught:
        selection.plot()
    assert str(caught.value) == "pictures need matplotlib: pip install 'hf-gip[plot]'."


def test_ratings_get_a_bar_each_and_missing_ones_none() -> None:
    pool = torch.tensor([1.0, 2.0, 2.0, 5.0, torch.nan])
    (axes,) = plot_histogram(pool, pool[1:3], "rating").axes
    assert [bar.get_height() for bar in axes.patches[:3]] == [0.25, 0.5, 0.25]
    assert axes.get_xlabel() == "rating"


def test_the_random_band_spans_least_to_most() -> None:
    selection = gip(samples.rows(30, 6), samples.queries(3, 6), 8, noise=0.1)
    band = plot_gains(selection, random={4: [0.1, 0.3], 8: [0.2, 0.4]}).axes[1].collections[0]
    assert band.get_paths()[0].get_extents().bounds == pytest.approx((4, 0.1, 4, 0.3))


def test_overlap_of_a_run_is_read_from_its_selections(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"^folder 'run' must hold at least two selections in gip/, got 0: give "
    ):
        plot_overlap(tmp_path / "run")
    (tmp_path / "run" / "gip").mkdir(parents=True)
    for epoch, rows in enumerate([[1, 2, 3, 4], [3, 4, 5, 6], [5, 6, 3, 4]]):
        table = pa.table({"index": rows, "epoch": [epoch] * 4})
        pq.write_table(table, tmp_path / "run" / "gip" / f"selection_epoch_{epoch:05d}.parquet")
    before, first = plot_overlap(tmp_path / "run").axes[0].lines
    assert before.get_ydata().tolist() == pytest.approx([2 / 6, 1.0])
    assert first.get_ydata().tolist() == pytest.approx([2 / 6, 2 / 6])
