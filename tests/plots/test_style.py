"""Everything that a figure shows lies on the page, and nothing over something else."""

from functools import cache

import pytest
import xarray as xr
from synthetic import joint_results

from plots.drawn import INTERACTIONS, PLAIN, TRAJECTORIES, draw


@cache
def wide() -> xr.Dataset:
    """Results with many layers and measures."""
    measures = ["mutual_information", *(f"measure_{index}" for index in range(3))]
    return joint_results(hidden=(2,) * 4, seeds=2, measures=measures)


@pytest.mark.parametrize("name", sorted({*PLAIN, *INTERACTIONS, *TRAJECTORIES}))
def test_many_layers_and_measures_fit_on_the_page(name):
    results = wide()
    if name not in ("bias_balancing", "pair_matrices"):
        results = results.isel(clamp=[0])
    figure = draw(name, results)
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert panels
    for axes in panels:
        box = axes.get_window_extent()
        assert min(box.width, box.height) > 70  # 0.7 inches
    shown = [axes.get_tightbbox() for axes in figure.axes]
    shown = [box for box in shown if box is not None]
    for box in shown:
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
    if figure.legends:
        below = figure.legends[0].get_window_extent()
        assert page.x0 <= below.x0
        assert below.x1 <= page.x1
        assert not any(box.overlaps(below) for box in shown)
