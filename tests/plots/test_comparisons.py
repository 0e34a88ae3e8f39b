"""Runs, settings and pruned networks side by side."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import THREE

from ioca_jax import plots
from plots.drawn import heights, legend_texts, line, panel, panel_names, title


def table_of_runs(
    scopes=("network", "layer_1"), clamps=("zero", "mean"), runs=4, networks=3
) -> pd.DataFrame:
    """A sweep's table, with random numbers in it; the second run failed."""
    generator = np.random.default_rng(7)
    orders = [f"{m}.{d}" for m in THREE for d in ("ascending", "descending")]
    names = [
        f"area.{scope}.{clamp}.{order}"
        for scope in scopes
        for clamp in clamps
        for order in (*orders, "random.random")
    ]
    table = pd.DataFrame(generator.random((runs, len(names))), columns=names)
    told = {
        "name": [f"activation=relu,l2={index}" for index in range(runs)],
        "networks": pd.array([networks] * runs, "Int64"),
        "diverged": pd.array([0] * runs, "Int64"),
        "test_error_mean": generator.uniform(1, 5, runs),
        "test_error_sd": generator.random(runs) if networks > 1 else np.nan,
    }
    table = pd.concat([pd.DataFrame(told), table], axis=1)
    table.loc[1, "networks":] = pd.NA
    return table


def test_compare_runs_draws_a_line_per_run_that_has_results():
    table = table_of_runs(scopes=("network", "layer_1", "layer_2"))
    table.loc[2, "diverged"] = 1
    figure = plots.compare_runs(table)
    kept = table.drop(index=1)
    assert panel_names(figure) == [
        "intact networks",
        "whole network, clamped to zero",
        "layer 1, clamped to zero",
        "layer 2, clamped to zero",
        "whole network, clamped to mean",
        "layer 1, clamped to mean",
        "layer 2, clamped to mean",
    ]
    top = figure.axes[0]
    assert top.get_xlabel().replace("\n", " ") == (
        "test error (%), mean ± standard deviation over networks"
    )
    assert [text.get_text() for text in top.get_yticklabels()] == [
        "activation=relu, l2=0",
        "activation=relu, l2=2\n(1\xa0of\xa03\xa0diverged,\xa0left\xa0out)",
        "activation=relu, l2=3",
    ]
    np.testing.assert_array_equal(top.get_lines()[0].get_ydata(), [0, 1, 2])
    np.testing.assert_array_equal(
        top.get_lines()[0].get_xdata(), kept["test_error_mean"]
    )
    (bars,) = top.collections
    for ends, mean, spread in zip(
        bars.get_paths(), kept["test_error_mean"], kept["test_error_sd"], strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(ends.vertices)[:, 0], [mean - spread, mean + spread], rtol=1e-12
        )
    axes = panel(figure, "layer 1, clamped to mean")
    assert axes.get_xlabel() == "area (mean accuracy)"
    for measure in THREE:
        for direction, described in (
            ("ascending", "lowest"),
            ("descending", "highest"),
        ):
            words = measure.replace("_", " ").replace("kl", "KL")
            points = line(axes, f"{words}, {described} first")
            expected = kept[f"area.layer_1.mean.{measure}.{direction}"]
            np.testing.assert_array_equal(points.get_xdata(), expected)
            # within its run's own line
            assert (abs(heights(points) - [0, 1, 2]) < 0.5).all()
    assert legend_texts(figure)[-1] == "random orders, mean"
    assert len(legend_texts(figure)) == 7


def test_compare_runs_of_runs_with_other_layers_and_orders():
    table = pd.concat(
        [
            table_of_runs(scopes=("network", "layer_1", "layer_2")),
            table_of_runs(clamps=("mean",), networks=1).filter(regex="^(?!.*entropy)"),
        ],
        ignore_index=True,
    )
    table = table.drop(columns=[name for name in table if ".mean.entropy.asc" in name])
    figure = plots.compare_runs(table)
    figure.draw_without_rendering()
    assert len(figure.axes) == 1 + 2 * 3
    assert "empty where a run lacks" in title(figure)
    assert "standard deviation" not in (
        plots.compare_runs(table_of_runs(networks=1)).axes[0].get_xlabel()
    )


def test_compare_runs_needs_a_network_that_converged():
    with pytest.raises(ValueError, match="a network that converged, got 1 without$"):
        plots.compare_runs(table_of_runs().iloc[1:2])


def test_rows_of_two_runs_are_as_high_as_their_labels():
    """The only hidden layer has no panels: they would be those of the network."""
    figure = plots.compare_runs(table_of_runs(runs=3))
    figure.draw_without_rendering()
    assert panel_names(figure) == [
        "intact networks",
        "whole network, clamped to zero",
        "whole network, clamped to mean",
    ]
    zero, mean = (axes.yaxis.label.get_window_extent() for axes in figure.axes[1:])
    assert zero.y0 > mean.y1


@pytest.mark.parametrize("runs", [2, 40])
def test_compared_runs_fit_on_the_page(runs):
    table = table_of_runs(runs=runs, scopes=("network",))
    table["name"] += ",measures=entropy-mutual_information-kl_selectivity,hidden=9-9"
    figure = plots.compare_runs(table)
    figure.draw_without_rendering()
    below = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert axes.get_window_extent().width > 100  # 1 inch
        assert axes.get_window_extent().y0 > below.y1
        names = [text for text in axes.get_yticklabels() if text.get_visible()]
        boxes = [text.get_window_extent() for text in names]
        assert all(box.x0 >= 0 for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def pruning_results(*, keep=(0.5, 0.1, 0.25), seeds=3, clamps=("zero", "mean")):
    """Results of the shapes that pruning gives, with random numbers in them."""
    ranked_by, stages = ("entropy", "kl_selectivity", "random"), ("pruned", "retrained")
    shape = (seeds, len(ranked_by), len(keep), len(clamps), len(stages))
    generator = np.random.default_rng(7)
    return xr.Dataset(
        {
            "accuracy": (
                ("seed", "ranked_by", "keep", "clamp", "stage"),
                generator.random(shape, np.float32),
            ),
            "intact_accuracy": ("seed", generator.random(seeds, np.float32)),
            "parameters": ("keep", [int(1000 * share) for share in keep]),
            "intact_parameters": ((), 1000),
        },
        {
            "seed": np.arange(seeds),
            "ranked_by": list(ranked_by),
            "keep": list(keep),
            "clamp": list(clamps),
            "stage": list(stages),
        },
        {
            "configuration": json.dumps({"dataset": "mnist5k"}),
            "network": "5-4-3-2 relu",
            "quantizer": "threshold:0",
            "retrain_epochs": 2,
        },
    )


def test_pruning_curves_draw_means_over_parameters():
    results = pruning_results()
    figure = plots.pruning_curves(results)
    assert len(figure.axes) == 4
    axes = panel(figure, "retrained for 2 epochs, clamped to mean")
    accuracy = results["accuracy"].sel(clamp="mean", stage="retrained")
    for label, name in (("KL selectivity", "kl_selectivity"), ("random neurons",) * 2):
        points = line(axes, label)
        np.testing.assert_array_equal(points.get_xdata(), [100, 250, 500])
        expected = accuracy.sel(ranked_by=name.removesuffix(" neurons"))
        expected = expected.mean("seed").sel(keep=[0.1, 0.25, 0.5])
        np.testing.assert_allclose(heights(points), expected, rtol=1e-6)
    intact = results["intact_accuracy"].mean()
    np.testing.assert_allclose(
        heights(line(axes, "intact networks, mean")), intact, rtol=1e-6
    )
    looks = {
        (points.get_marker(), points.get_linestyle())
        for points in axes.get_lines()
        if points.get_label() != "intact networks, mean"
    }
    assert len(looks) == 3
    assert axes.get_xlabel() == "remaining parameters (of 1,000)"
    assert legend_texts(figure) == [
        *("intact networks, mean", "entropy", "KL selectivity", "random neurons"),
        "band: ± standard deviation over 3 networks",
    ]


@pytest.mark.parametrize(
    "fields",
    [{"keep": (0.5,)}, {"seeds": 1, "clamps": ("mean",)}, {"keep": (0.9, 0.85)}],
)
def test_pruning_curves_of_few_sizes_or_networks(fields):
    results = pruning_results(**fields)
    # Retraining at the last size diverged.
    results["accuracy"][:, :, -1, :, 1] = np.nan
    figure = plots.pruning_curves(results)
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [t for t in axes.get_xticks() if low <= t <= high]
        assert ticks, axes.get_title()


def test_claims_have_a_panel_each_and_settings_a_row():
    table = pd.DataFrame(
        {
            "setting": ["one", "two", "two", "one"],
            "claim": ["1", "1", "1", "2"],
            "verdict": ["holds", "fails", "holds", "undecided"],
            "effect": [0.1, -0.2, 0.3, 0.4],
        }
    )
    claims = {"1": ("first claim", "area"), "2": ("second claim", "tau")}
    figure = plots.claims_overview(table, claims)
    first, second = figure.axes
    assert first.get_title() == "1: first claim"
    assert [text.get_text() for text in first.get_yticklabels()] == ["one", "two"]
    assert (first.get_xlabel(), second.get_xlabel()) == ("area", "tau")
    holds, fails, undecided = first.get_lines()[:3]
    np.testing.assert_array_equal(holds.get_xydata(), [[0.1, 0], [0.3, 1]])
    np.testing.assert_array_equal(fails.get_xydata(), [[-0.2, 1]])
    assert not len(heights(undecided))
    np.testing.assert_array_equal(second.get_lines()[2].get_xydata(), [[0.4, 0]])
    assert legend_texts(figure) == ["holds", "fails", "undecided"]
