"""Everything that a figure shows lies on the page, and nothing over something else."""

import itertools
from functools import cache

import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.text import Text
from synthetic import joint_results, with_layer_names

from plots.drawn import INTERACTIONS, PLAIN, TRAJECTORIES, draw


@cache
def wide() -> xr.Dataset:
    """Results with many layers and measures."""
    measures = ["mutual_information", *(f"measure_{index}" for index in range(3))]
    return joint_results(hidden=(2,) * 4, seeds=2, measures=measures)


@cache
def many_layers() -> xr.Dataset:
    """Results of a network of six blocks, whose layers have long names."""
    results = joint_results(
        hidden=(2, 2, 2, 3) * 3,
        seeds=2,
        clamps=["mean"],
        random_orders=1,
        measures=["entropy", "mutual_information", "kl_selectivity"],
    )
    names = [
        f"blocks/{n // 2}/{('up', 'attention/out:input')[n % 2]}" for n in range(12)
    ]
    return with_layer_names(results, names)


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


def overlapping(figure: Figure) -> list[str]:
    """Titles that run into that of a panel of the same row."""
    boxes = [
        (axes.title.get_window_extent(), axes.get_title())
        for axes in figure.axes
        if axes.get_title()
    ]
    return [
        f"{first}, {second}"
        for (one, first), (other, second) in itertools.combinations(boxes, 2)
        if one.overlaps(other)
    ]


@pytest.mark.parametrize(
    "name",
    [
        *("ablation_curves", "class_costs", "joint_information_curves"),
        *("measure_distributions", "pair_agreement", "trajectories"),
    ],
)
def test_twelve_layers_give_figures_that_a_paper_can_print(name):
    figure = draw(name, many_layers())
    width, height = figure.get_size_inches()
    assert width in (6.75, 3.25)  # of the text, and of a column
    assert height < 9
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert min(float(text.get_fontsize()) for text in texts) >= 6
    assert not overlapping(figure)
    if name == "ablation_curves":
        assert figure.axes[0].get_title() == "whole network: 27 neurons"
        assert len(figure.axes) == 13
    if name == "joint_information_curves":  # not all layers are drawn
        assert "7 of 12 layers drawn" in figure.get_suptitle()
        assert figure.axes[0].get_title() == "whole network: 27 neurons"
        assert figure.axes[0].get_xlim()[1] > 27
