"""The gallery has every figure that a run writes, each with a small picture."""

import pathlib
import re

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.plots.save import drawable_figures
from plots.drawn import small, tables

GUIDES = pathlib.Path(ioca.__file__).parent.parent / "docs" / "guides"
TEXT = (GUIDES / "gallery.md").read_text()


def test_every_figure_has_its_picture_and_its_function():
    named = {
        "differences": tables()["difference_curves"],
        "orders": tables()["order_effects"],
    }
    pictures = re.findall(r"^```{figure} figures/(\w+)\.png$", TEXT, re.M)
    assert {*pictures} == {*drawable_figures(small(), named), "plot_curve"}
    for name in re.findall(r"^`(\w+)\(", TEXT, re.M):
        assert callable(getattr(plots, name)), name
    files = [GUIDES / "figures" / f"{name}.png" for name in pictures]
    assert sum(file.stat().st_size for file in files) < 600_000
    assert {*files} == {*(GUIDES / "figures").iterdir()}
