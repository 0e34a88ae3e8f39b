"""A run gets the figures for which there are data, in files that are reproducible."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from synthetic import THREE, joint_results, synthetic_results

from ioca_jax import plots
from ioca_jax.plots.save import drawable_figures
from plots.drawn import (
    INTERACTIONS,
    OF_COUNTS,
    PLAIN,
    TRAJECTORIES,
    draw,
    least,
    small,
    tables,
)


def test_the_same_figure_gives_the_same_files(tmp_path):
    saved = [
        plots.save_figure(draw("training_history", least()), tmp_path / name)
        for name in ("first", "second")
    ]
    for one, other in zip(*saved, strict=True):
        start = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-"}[one.suffix]
        content = one.read_bytes()
        assert content.startswith(start)
        assert b"CreationDate" not in content
        assert content == other.read_bytes()
        is_pdf = one.suffix == ".pdf"
        assert (b"/Type42" in content or b"/CIDFontType2" in content) == is_pdf
        assert b"/Type3" not in content  # venues refuse such fonts
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}.{kind}" for name in ("first", "second") for kind in ("png", "pdf")
    }


def test_a_file_is_drawn_once_and_looks_as_savefig_draws_it(tmp_path, monkeypatch):
    draw("training_history", least()).savefig(tmp_path / "expected.png", dpi=200)
    times, once = [], Figure.draw
    monkeypatch.setattr(Figure, "draw", lambda *given: times.append(once(*given)))
    saved = plots.save_figure(draw("training_history", least()), tmp_path / "found")
    assert len(times) == len(saved) == 2
    expected, found = (imread(tmp_path / f"{n}.png") for n in ("expected", "found"))
    np.testing.assert_array_equal(found, expected)


def test_figures_are_saved_under_their_names(tmp_path):
    folder = tmp_path / "new" / "figures"
    paths = plots.save_figures(least(diverged=(0, 1)), str(folder))
    assert [path.name for path in paths] == [
        "training_history.png",
        "training_history.pdf",
    ]
    assert set(folder.iterdir()) == set(paths)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {*PLAIN}),
        ({"diverged": (0, 1, 2), "epochs": 1}, {"training_history"}),
        (
            {"clamps": ("mean",), "measures": ("entropy", "kl_selectivity")},
            {*PLAIN} - {"bias_balancing"},
        ),
        (
            {"measures": ("kl_selectivity",), "hidden": (1,)},
            {*PLAIN} - {"measure_scatter"},
        ),
    ],
    ids=["all", "all diverged", "one clamp", "one measure"],
)
def test_only_figures_with_data_are_drawn(given, expected):
    assert set(drawable_figures(synthetic_results(**given), {})) == expected


def test_networks_trained_elsewhere_have_all_but_the_history():
    names = [f"{s}_{q}" for s in ("train", "validation") for q in ("loss", "accuracy")]
    results = small().drop_vars([*names, "epoch"])
    expected = {*PLAIN, *OF_COUNTS, *INTERACTIONS, *TRAJECTORIES} - {"training_history"}
    assert set(drawable_figures(results, {})) == expected


def test_every_figure_of_the_fewest_data_can_be_drawn():
    results = synthetic_results(
        seeds=1, random_orders=0, hidden=(1,), measures=THREE[:2]
    )
    for name, one in drawable_figures(results, {}).items():
        assert one().axes, name


def test_figures_of_tables_are_drawn_where_tables_are():
    named = {
        "differences": tables()["difference_curves"],
        "orders": tables()["order_effects"],
    }
    assert set(drawable_figures(small(), named)) == {
        *PLAIN,
        *OF_COUNTS,
        *INTERACTIONS,
        *TRAJECTORIES,
        *tables(),
    }


def test_figures_of_interactions_need_their_variables():
    results = joint_results(hidden=(2,), seeds=1, measures=THREE[:1], clamps=("mean",))
    plain = {*PLAIN, *OF_COUNTS} - {"bias_balancing", "measure_scatter"}
    assert set(drawable_figures(results, {})) == plain | INTERACTIONS | TRAJECTORIES
    results = results.drop_vars(["trajectory_score", "pair_effect_loss"])
    some = {"joint_information_curves", "redundancy_indices"}
    assert set(drawable_figures(results, {})) == plain | some


def test_many_measures_have_a_figure_of_curves_for_five_each():
    measures = [f"measure_{index}" for index in range(7)]
    figures = drawable_figures(least(measures=measures), {})
    assert {"ablation_curves", "ablation_curves_2"} <= set(figures)
    assert "ablation_curves_3" not in figures
    assert len(figures["ablation_curves_2"]().axes[0].get_lines()) == 2 * 2 + 1
