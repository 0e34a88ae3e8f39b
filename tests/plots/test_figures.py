"""Figures show what the results hold, survive what a run can give, and are safe."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from synthetic import THREE, joint_results, synthetic_results

from ioca_jax import plots as figures
from ioca_jax.plots import save

ALL_FIGURES = {
    "ablation_curves",
    "measure_distributions",
    "bias_balancing",
    "measure_scatter",
    "training_history",
    "single_effects",
    "class_curves",
    "class_costs",
}
# What these need to be told beside the results.
ARGUMENTS = {
    "class_curves": {"ranked_by": "mutual_information"},
    "class_costs": {"measure": "mutual_information"},
}


def draw_figure(name: str, results: xr.Dataset, **given) -> Figure:
    return getattr(figures, name)(results, **ARGUMENTS.get(name, {}) | given)


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return synthetic_results()


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_title() == title)
    return axes


def line(axes: Axes, label: str) -> Line2D:
    (found,) = (line for line in axes.get_lines() if line.get_label() == label)
    return found


def heights(drawn: Line2D) -> np.ndarray:
    return np.asarray(drawn.get_ydata())


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for made in figure.legends for text in made.get_texts()]


def bands(axes: Axes) -> list[tuple[float, float]]:
    """The lower and upper end of every band at no neuron ablated."""
    ends = []
    for band in axes.collections:
        vertices = np.asarray(band.get_paths()[0].vertices)
        at_start = vertices[vertices[:, 0] == 0, 1]
        ends.append((at_start.min(), at_start.max()))
    return ends


def test_ablation_curves_draw_means_over_seeds_to_the_end_of_the_scope(results):
    figure = figures.ablation_curves(results)
    assert [axes.get_title() for axes in figure.axes] == [
        "whole network, clamped to zero",
        "layer 1, clamped to zero",
        "layer 2, clamped to zero",
        "whole network, clamped to mean",
        "layer 1, clamped to mean",
        "layer 2, clamped to mean",
    ]
    accuracy = results["accuracy"].values
    for clamp, clamp_name in enumerate(("zero", "mean")):
        for scope, (name, size) in enumerate(
            (("whole network", 7), ("layer 1", 4), ("layer 2", 3))
        ):
            axes = panel(figure, f"{name}, clamped to {clamp_name}")
            assert len(axes.get_lines()) == 7
            for ordering, label in enumerate(
                f"{measure}, {direction} first"
                for measure in ("entropy", "mutual information", "KL selectivity")
                for direction in ("lowest", "highest")
            ):
                expected = accuracy[:, clamp, scope, ordering, : size + 1].mean(axis=0)
                drawn = line(axes, label)
                np.testing.assert_array_equal(drawn.get_xdata(), np.arange(size + 1))
                # float32 means of three, summed in another order
                np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)


def test_random_is_the_mean_over_draws_and_seeds_black_and_dotted(results):
    axes = panel(figures.ablation_curves(results), "layer 1, clamped to mean")
    drawn = line(axes, "random order, mean of 2 draws")
    expected = results["accuracy"].values[:, 1, 1, 6:, :5].mean(axis=(0, 1))
    np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)
    assert drawn.get_color() == "black"
    assert drawn.get_linestyle() == ":"


def test_bands_are_one_standard_deviation_over_seeds(results):
    figure = figures.ablation_curves(results)
    of_seed = results["accuracy"].values[:, 0, 1, :, 0]
    of_seed = np.column_stack([of_seed[:, :6], of_seed[:, 6:].mean(axis=1)])
    mean, spread = of_seed.mean(axis=0), of_seed.std(axis=0, ddof=1)
    expected = np.stack([mean - spread, mean + spread], axis=1)
    drawn = bands(panel(figure, "layer 1, clamped to zero"))
    np.testing.assert_allclose(drawn, expected, rtol=1e-5)  # float32, differences
    assert legend_texts(figure)[-1] == "band: ± standard deviation over 3 networks"


def test_lines_of_a_panel_differ_without_colour():
    figure = figures.ablation_curves(
        synthetic_results(measures=[f"measure_{index}" for index in range(7)])
    )
    lines = figure.axes[0].get_lines()
    looks = {(drawn.get_marker(), drawn.get_linestyle()) for drawn in lines}
    assert len(looks) == len(lines) == 15


def test_lines_of_many_measures_differ_in_colour_or_marker():
    figure = figures.ablation_curves(
        synthetic_results(measures=[f"measure_{index}" for index in range(10)])
    )
    lines = figure.axes[0].get_lines()
    looks = {
        (str(drawn.get_color()), drawn.get_marker(), drawn.get_linestyle())
        for drawn in lines
    }
    assert len(looks) == len(lines) == 21


def test_bias_balancing_draws_measure_and_random_under_both_clamps(results):
    figure = figures.bias_balancing(results)
    assert [axes.get_title() for axes in figure.axes] == ["layer 1", "layer 2"]
    accuracy = results["accuracy"].values
    axes = panel(figure, "layer 2")
    for clamp, name in enumerate(("zero", "mean")):
        for label, orderings in (
            ("mutual information, lowest first", [2]),
            ("random order, mean of 2 draws", [6, 7]),
        ):
            drawn = line(axes, f"{label}, clamped to {name}")
            expected = accuracy[:, clamp, 2][:, orderings, :4].mean(axis=(0, 1))
            np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)
    assert len(axes.get_lines()) == 4


def test_bias_balancing_of_another_measure(results):
    axes = figures.bias_balancing(results, measure="entropy").axes[0]
    drawn = line(axes, "entropy, lowest first, clamped to zero")
    expected = results["accuracy"].values[:, 0, 1, 0, :5].mean(axis=0)
    np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "measure", "message"),
    [
        (
            {"clamps": ("zero",)},
            "entropy",
            "bias_balancing: expected a run with the clamp 'mean', got one with zero$",
        ),
        (
            {"measures": ("entropy", "kl_selectivity")},
            "mutual_information",
            "expected a run with the measure 'mutual_information', got one with "
            "entropy, kl_selectivity$",
        ),
    ],
)
def test_bias_balancing_says_what_the_run_lacks(given, measure, message):
    with pytest.raises(ValueError, match=message):
        figures.bias_balancing(synthetic_results(**given), measure=measure)


def test_distributions_show_every_neuron_of_every_network_in_its_layer(results):
    figure = figures.measure_distributions(results)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == [
        "entropy (bits)",
        "mutual information (bits)",
        "KL selectivity (bits)",
    ]
    for index, axes in enumerate(figure.axes):
        points = [
            np.asarray(drawn.get_offsets())
            for drawn in axes.collections
            if len(np.asarray(drawn.get_offsets())) > 1
        ]
        assert len(points) == 2
        for layer, neurons in ((1, slice(0, 4)), (2, slice(4, 7))):
            x, y = points[layer - 1].T
            np.testing.assert_array_equal(np.round(x), layer)
            expected = results["score"].values[:, index, neurons].ravel()
            np.testing.assert_allclose(y, expected, rtol=0, atol=1e-9)  # rounded
        assert axes.get_xticks().tolist() == [1, 2]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("noise", [0, 1e-30])
def test_distributions_survive_dead_layers_and_single_neurons(seeds, noise):
    hidden = (3, 1)
    shape = (seeds, 3, sum(hidden))
    scores = np.random.default_rng(0).random(shape, np.float32) * np.float32(noise)
    results = synthetic_results(hidden=hidden, seeds=seeds, scores=scores)
    figure = figures.measure_distributions(results)
    figure.draw_without_rendering()
    assert len(figure.axes) == 3


def test_scatter_has_a_panel_per_pair_and_a_colour_and_marker_per_layer(results):
    figure = figures.measure_scatter(results)
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes] == [
        ("entropy (bits)", "mutual information (bits)"),
        ("entropy (bits)", "KL selectivity (bits)"),
        ("mutual information (bits)", "KL selectivity (bits)"),
    ]
    first, second = figure.axes[2].collections
    scores = results["score"].values
    for drawn, neurons in ((first, slice(0, 4)), (second, slice(4, 7))):
        expected = np.stack(
            [scores[:, 1, neurons].ravel(), scores[:, 2, neurons].ravel()], axis=1
        )
        np.testing.assert_array_equal(np.asarray(drawn.get_offsets()), expected)
    colours = [np.asarray(drawn.get_edgecolor()) for drawn in (first, second)]
    assert not np.array_equal(colours[0], colours[1])
    outlines = [np.asarray(drawn.get_paths()[0].vertices) for drawn in (first, second)]
    assert len(outlines[0]) != len(outlines[1])
    assert legend_texts(figure) == ["layer 1", "layer 2"]


def test_scatter_needs_two_measures():
    with pytest.raises(ValueError, match="two measures or more, got one with entropy$"):
        figures.measure_scatter(synthetic_results(measures=("entropy",)))


def test_history_draws_the_mean_and_every_network(results):
    figure = figures.training_history(results)
    loss, accuracy = figure.axes
    assert loss.get_ylabel() == "loss (nats; in training with penalty)"
    assert accuracy.get_ylabel() == "accuracy (share correct)"
    for axes, quantity in ((loss, "loss"), (accuracy, "accuracy")):
        assert axes.get_xlabel() == "epochs of training"
        assert len(axes.get_lines()) == 2 * (1 + 3)
        for label, split in (
            ("training, mean over the epoch", "train"),
            ("validation, at the epoch's end", "validation"),
        ):
            values = results[f"{split}_{quantity}"].values
            drawn = line(axes, label)
            np.testing.assert_array_equal(drawn.get_xdata(), [1, 2, 3, 4])
            np.testing.assert_allclose(heights(drawn), values.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", ["ablation_curves", "bias_balancing"])
def test_axes_of_curves_say_what_and_in_what(results, name):
    figure = getattr(figures, name)(results)
    assert figure.axes[0].get_ylabel() == "test accuracy (share correct)"
    below = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert below[-2:] == ["neurons ablated (of 4)", "neurons ablated (of 3)"]


@pytest.mark.parametrize("name", sorted(ALL_FIGURES))
def test_titles_say_what_was_trained(results, name):
    title = draw_figure(name, results).get_suptitle()
    assert "mnist5k, 5-4-3-2 relu, quantiser threshold:0, 3 networks" in title


def test_title_of_a_file_is_its_name_as_it_is():
    figure = figures.training_history(synthetic_results(dataset="/data/$a$ b.npz"))
    assert "\n$a$ b.npz, 5-4-3-2 relu" in figure.get_suptitle()
    figure.draw_without_rendering()


def test_titles_tell_of_label_noise():
    noisy = synthetic_results()
    noisy.attrs["configuration"] = json.dumps({"dataset": "x", "label_noise": 0.5})
    title = figures.training_history(noisy).get_suptitle()
    assert "x with label noise 0.5, 5-4-3-2 relu" in title.replace("\n", " ")


@pytest.mark.parametrize("name", sorted(ALL_FIGURES))
def test_diverged_networks_are_left_out(name):
    """Nothing that is drawn changes but the title, which says so."""
    results = synthetic_results(seeds=4, diverged=(1,))
    figure = draw_figure(name, results)
    without = draw_figure(name, results.isel(seed=[0, 2, 3]))
    title = figure.get_suptitle().replace("\n", " ")
    assert "3 networks (1 diverged, left out)" in title
    assert legend_texts(figure) == legend_texts(without)
    for axes, others in zip(figure.axes, without.axes, strict=True):
        assert axes.get_xlabel() == others.get_xlabel()
        for one, other in zip(axes.get_lines(), others.get_lines(), strict=True):
            np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
        for one, other in zip(axes.collections, others.collections, strict=True):
            np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())
            for path, same in zip(one.get_paths(), other.get_paths(), strict=True):
                np.testing.assert_array_equal(path.vertices, same.vertices)


def test_files_are_whole_and_of_their_kinds(results, tmp_path):
    folder = tmp_path / "new" / "figures"
    paths = figures.save_figures(results, folder)
    names = {f"{name}.{kind}" for name in ALL_FIGURES for kind in ("png", "pdf")}
    assert sorted(path.name for path in paths) == sorted(names)
    assert {path.name for path in folder.iterdir()} == names
    for path in paths:
        start = {".png": b"\x89PNG\r\n\x1a\n", ".pdf": b"%PDF-"}[path.suffix]
        assert path.read_bytes().startswith(start)
        assert b"CreationDate" not in path.read_bytes()


def test_the_same_results_give_the_same_bytes(tmp_path):
    results = synthetic_results(measures=THREE[:1], clamps=("zero",), hidden=(2,))
    first = figures.save_figures(results, tmp_path / "first")
    second = figures.save_figures(results, str(tmp_path / "second"))
    assert len(first) == 12
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"diverged": (0, 1, 2), "epochs": 1}, {"training_history"}),
        (
            {"clamps": ("mean",), "measures": ("entropy", "kl_selectivity")},
            ALL_FIGURES - {"bias_balancing"},
        ),
        (
            {"measures": ("kl_selectivity",), "hidden": (1,)},
            ALL_FIGURES - {"measure_scatter"},
        ),
        (
            {"seeds": 1, "random_orders": 0, "hidden": (1,), "measures": THREE[:2]},
            ALL_FIGURES,
        ),
    ],
    ids=["all diverged", "one clamp", "one measure", "least"],
)
def test_only_figures_with_data_are_saved(given, expected, tmp_path):
    paths = figures.save_figures(synthetic_results(**given), tmp_path)
    assert {path.stem for path in paths} == expected


def test_networks_that_all_diverged_have_a_history_only():
    results = synthetic_results(seeds=2, diverged=(0, 1))
    figure = figures.training_history(results)
    assert "2 networks, diverged" in figure.get_suptitle()
    drawn = line(figure.axes[0], "training, mean over the epoch")
    # what is not finite is not drawn
    np.testing.assert_array_equal(np.isfinite(heights(drawn)), [1, 0, 0, 0])
    for name in ALL_FIGURES - {"training_history"}:
        with pytest.raises(ValueError, match="converged, got 2 that diverged"):
            draw_figure(name, results)


def test_a_single_network_has_no_spread():
    figure = figures.ablation_curves(synthetic_results(seeds=1))
    assert not any(axes.collections for axes in figure.axes)
    assert not any("deviation" in text for text in legend_texts(figure))
    history = figures.training_history(synthetic_results(seeds=1))
    assert [len(axes.get_lines()) for axes in history.axes] == [2, 2]


def test_no_random_orders_no_random_line():
    results = synthetic_results(random_orders=0)
    for draw, lines in ((figures.ablation_curves, 6), (figures.bias_balancing, 2)):
        figure = draw(results)
        assert [len(axes.get_lines()) for axes in figure.axes] == [lines] * len(
            figure.axes
        )
        assert not any("random" in text for text in legend_texts(figure))


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
    table = table_of_runs()
    table.loc[2, "diverged"] = 1
    figure = figures.compare_runs(table)
    kept = table.drop(index=1)
    assert [axes.get_title() for axes in figure.axes] == [
        "intact networks",
        "whole network, clamped to zero",
        "layer 1, clamped to zero",
        "whole network, clamped to mean",
        "layer 1, clamped to mean",
    ]
    top = figure.axes[0]
    assert top.get_xlabel() == (
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
    assert axes.get_xlabel() == "area (mean share correct)"
    for measure in THREE:
        for direction, described in (
            ("ascending", "lowest"),
            ("descending", "highest"),
        ):
            words = measure.replace("_", " ").replace("kl", "KL")
            drawn = line(axes, f"{words}, {described} first")
            expected = kept[f"area.layer_1.mean.{measure}.{direction}"]
            np.testing.assert_array_equal(drawn.get_xdata(), expected)
            # within its run's own line
            assert (abs(heights(drawn) - [0, 1, 2]) < 0.5).all()
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
    figure = figures.compare_runs(table)
    figure.draw_without_rendering()
    assert len(figure.axes) == 1 + 2 * 3
    assert "empty where a run lacks" in figure.get_suptitle().replace("\n", " ")
    assert "standard deviation" not in (
        figures.compare_runs(table_of_runs(networks=1)).axes[0].get_xlabel()
    )


def test_compare_runs_needs_a_network_that_converged():
    with pytest.raises(ValueError, match="a network that converged, got 1 without$"):
        figures.compare_runs(table_of_runs().iloc[1:2])


@pytest.mark.parametrize("runs", [2, 40])
def test_compared_runs_fit_on_the_page(runs):
    table = table_of_runs(runs=runs, scopes=("network",))
    table["name"] += ",measures=entropy-mutual_information-kl_selectivity,hidden=9-9"
    figure = figures.compare_runs(table)
    figure.draw_without_rendering()
    below = figure.legends[0].get_window_extent()
    for axes in figure.axes:
        assert axes.get_window_extent().width > 100  # 1 inch
        assert axes.get_window_extent().y0 > below.y1
        names = [text for text in axes.get_yticklabels() if text.get_visible()]
        boxes = [text.get_window_extent() for text in names]
        assert all(box.x0 >= 0 for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_many_layers_and_measures_fit_on_the_page():
    """No legend or panel is outside the figure or over another."""
    measures = [f"measure_{index}" for index in range(4)]
    results = synthetic_results(hidden=(2,) * 5, measures=measures)
    for name in sorted(ALL_FIGURES - {"training_history"}):
        given = {"bias_balancing": "measure", "class_curves": "ranked_by"}
        given["class_costs"] = "measure"
        which = {given[name]: "measure_0"} if name in given else {}
        figure = draw_figure(name, results, **which)
        figure.draw_without_rendering()
        page = figure.bbox
        boxes = [axes.get_window_extent() for axes in figure.axes if axes.get_ylabel()]
        assert all(box.height > 100 for box in boxes)
        if not figure.legends:
            continue
        below = figure.legends[0].get_window_extent()
        assert page.x0 <= below.x0
        assert below.x1 <= page.x1
        boxes = [axes.get_window_extent() for axes in figure.axes]
        assert all(box.width > 100 for box in boxes)  # 1 inch
        assert all(box.height > 100 for box in boxes)
        assert not any(box.overlaps(below) for box in boxes)


def test_single_effects_are_rises_of_the_loss(results):
    figure = figures.single_effects(results, clamp="zero")
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "entropy (bits)",
        "mutual information (bits)",
        "KL selectivity (bits)",
    ]
    rise = results["single_loss"].values[:, 0] - 0.5
    for index, axes in enumerate(figure.axes):
        for drawn, neurons in zip(
            axes.collections, (slice(0, 4), slice(4, 7)), strict=True
        ):
            x, y = np.asarray(drawn.get_offsets()).T
            scores = results["score"].values[:, index, neurons]
            np.testing.assert_array_equal(x, scores.ravel())
            np.testing.assert_allclose(y, rise[:, neurons].ravel(), rtol=1e-6)


def test_class_curves_are_shares_of_each_class(results):
    figure = figures.class_curves(results, "random", "random")
    assert "in random order" in figure.get_suptitle()
    axes = panel(figure, "layer 2, clamped to mean")
    for label in (0, 1):
        correct = results["correct"].values[:, 1, 2, 6:, :4, label]
        expected = correct.mean(axis=(0, 1)) / 20
        np.testing.assert_allclose(heights(line(axes, f"class {label}")), expected)
    assert legend_texts(figure) == ["class 0", "class 1"]


def test_class_costs_are_of_neurons_arranged_by_the_measure(results):
    figure = figures.class_costs(results, "entropy", clamp="mean")
    for layer, neurons in ((1, np.arange(4)), (2, np.arange(4, 7))):
        (image,) = panel(figure, f"layer {layer}").get_images()
        scores = results["score"].values[0, 0, neurons]
        arranged = neurons[np.argsort(scores)]
        change = results["single_correct"].values[0, 1][arranged] - 15
        np.testing.assert_allclose(np.asarray(image.get_array()), 100 * change.T / 20)


def test_figures_by_class_say_what_the_run_lacks(results):
    with pytest.raises(
        ValueError, match="orders by 'variance', got one with entropy, "
    ):
        figures.class_curves(results, "variance")
    with pytest.raises(ValueError, match="measure 'variance', got one with entropy, "):
        figures.class_costs(results, "variance")


@pytest.fixture(scope="module")
def tables(results) -> dict[str, pd.DataFrame]:
    generator = np.random.default_rng(3)
    rows = [
        {"scope": scope, "clamp": clamp, "ranked_by": m, "direction": d, "step": step}
        for scope, size in (("network", 7), ("layer_1", 4), ("layer_2", 3))
        for clamp in ("zero", "mean")
        for m in THREE
        for d in ("ascending", "descending")
        for step in range(size + 1)
    ]
    differences = pd.DataFrame(rows)
    differences[["low", "mean", "high"]] = np.sort(
        generator.normal(size=(len(rows), 3)), axis=1
    )
    orders = differences.query("step == 0").assign(effect=differences["mean"])
    p_values = generator.choice([0.01, 0.2], len(orders))
    return {"differences": differences, "orders": orders.assign(p_corrected=p_values)}


def test_difference_curves_draw_the_table(results, tables):
    table = tables["differences"]
    figure = figures.difference_curves(results, table)
    axes = panel(figure, "layer 1, clamped to mean")
    here = table.query("scope == 'layer_1' and clamp == 'mean'")
    order = here.query("ranked_by == 'kl_selectivity' and direction == 'descending'")
    np.testing.assert_array_equal(
        heights(line(axes, "KL selectivity, highest first")), order["mean"]
    )
    first = here.query("ranked_by == 'entropy' and direction == 'ascending'")
    ends = first[["low", "high"]].to_numpy()
    np.testing.assert_allclose(bands(axes)[0], ends[0])
    assert legend_texts(figure)[-1] == "band: 95 %, for all steps at once"


def test_order_effects_are_filled_where_a_test_says_so(results, tables):
    table = tables["orders"]
    figure = figures.order_effects(results, table)
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["entropy", "mutual information", "KL selectivity"]
    axes = panel(figure, "layer 2, clamped to zero")
    shown, hollow = axes.get_lines()[:2]  # of the ascending ones
    here = table.query("scope == 'layer_2' and clamp == 'zero'")
    here = here.query("direction == 'ascending'")
    for drawn, chosen in ((shown, True), (hollow, False)):
        expected = here[(here["p_corrected"] <= 0.05) == chosen]["effect"]
        np.testing.assert_array_equal(drawn.get_xdata(), expected)
    assert hollow.get_markerfacecolor() == "white"
    (intervals, _) = axes.collections
    ends = [np.asarray(path.vertices)[:, 0] for path in intervals.get_paths()]
    np.testing.assert_allclose(ends, here[["low", "high"]])


def test_figures_of_tables_are_saved_where_tables_are(results, tables, tmp_path):
    paths = figures.save_figures(results, tmp_path, tables)
    of_tables = {"difference_curves", "order_effects"}
    assert {path.stem for path in paths} == ALL_FIGURES | of_tables


def test_many_measures_have_a_figure_of_curves_for_five_each(tmp_path):
    measures = [f"measure_{index}" for index in range(7)]
    paths = figures.save_figures(synthetic_results(measures=measures), tmp_path)
    names = {path.stem for path in paths}
    assert {"ablation_curves", "ablation_curves_2"} <= names
    assert "ablation_curves_3" not in names


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
    figure = figures.pruning_curves(results)
    assert len(figure.axes) == 4
    axes = panel(figure, "retrained 2 epochs, clamped to mean")
    accuracy = results["accuracy"].sel(clamp="mean", stage="retrained")
    for label, name in (("KL selectivity", "kl_selectivity"), ("random neurons",) * 2):
        drawn = line(axes, label)
        np.testing.assert_array_equal(drawn.get_xdata(), [100, 250, 500])
        expected = accuracy.sel(ranked_by=name.removesuffix(" neurons"))
        expected = expected.mean("seed").sel(keep=[0.1, 0.25, 0.5])
        np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)
    intact = results["intact_accuracy"].mean()
    np.testing.assert_allclose(
        heights(line(axes, "intact networks, mean")), intact, rtol=1e-6
    )
    looks = {
        (drawn.get_marker(), drawn.get_linestyle())
        for drawn in axes.get_lines()
        if drawn.get_label() != "intact networks, mean"
    }
    assert len(looks) == 3
    assert axes.get_xlabel() == "parameters left (of 1,000)"
    assert legend_texts(figure) == [
        *("intact networks, mean", "entropy", "KL selectivity", "random neurons"),
        "band: ± standard deviation over 3 networks",
    ]


@pytest.mark.parametrize(
    "fields",
    [{"keep": (0.5,)}, {"seeds": 1, "clamps": ("mean",)}, {"keep": (0.9, 0.85)}],
)
def test_pruning_curves_of_few_sizes_or_networks(fields, tmp_path):
    results = pruning_results(**fields)
    # Retraining at the last size diverged.
    results["accuracy"][:, :, -1, :, 1] = np.nan
    figure = figures.pruning_curves(results)
    paths = figures.save_figure(figure, tmp_path / "pruning")
    assert all(path.stat().st_size > 10_000 for path in paths)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [t for t in axes.get_xticks() if low <= t <= high]
        assert ticks, axes.get_title()


INTERACTIONS = {
    "pair_matrices",
    "pair_agreement",
    "joint_information_curves",
    "redundancy_indices",
}
TRAJECTORIES = {"trajectories", "information_plane"}
CO_INFORMATION = "co_information_miller_madow"


@pytest.fixture(scope="module")
def joint() -> xr.Dataset:
    return joint_results(hidden=(4, 3))


def matrix_of(axes: Axes) -> np.ndarray:
    (image,) = axes.get_images()
    return np.ma.filled(np.ma.asarray(image.get_array(), np.float64), np.nan)


def test_pair_matrices_are_the_values_in_the_arranged_order(joint):
    figure = figures.pair_matrices(joint, clamp="zero", arranged_by="entropy")
    assert "in the network of seed 0" in figure.get_suptitle().replace("\n", " ")
    scores = joint["score"].values[0, 0]
    arranged = np.append(np.argsort(scores[:4]), 4 + np.argsort(scores[4:]))
    values = joint["pair_value"].isel(seed=0)
    for title, expected in (
        ("co-information, Miller-Madow", values.sel(pair_measure=CO_INFORMATION)),
        ("redundancy by I_min, plug-in", values.sel(pair_measure="redundancy_i_min")),
        ("synergy by I_min, plug-in", values.sel(pair_measure="synergy_i_min")),
        (
            "pair effect in test loss, clamped to zero",
            joint["pair_effect_loss"].isel(seed=0).sel(clamp="zero"),
        ),
    ):
        axes = panel(figure, title)
        expected = expected.values[np.ix_(arranged, arranged)].astype(np.float64)
        np.fill_diagonal(expected, np.nan)
        np.testing.assert_array_equal(matrix_of(axes), expected)
        low, high = axes.get_images()[0].get_clim()
        assert low in (-high, 0)  # 0 is the middle, or the end
        names = [text.get_text() for text in axes.get_xticklabels()]
        assert names == ["layer 1", "layer 2"]
        assert axes.get_xticks().tolist() == [1.5, 5]
        borders = [np.asarray(border.get_xdata())[0] for border in axes.get_lines()]
        assert borders[0] == 3.5


def test_neurons_of_great_co_information_are_neighbours():
    results = joint_results(hidden=(4,), seeds=1)
    planted = np.array([[9, 0, 3, 1], [0, 9, 1, 3], [3, 1, 9, 0], [1, 3, 0, 9]])
    index = results["pair_measure"].values.tolist().index(CO_INFORMATION)
    results["pair_value"].values[0, index] = planted
    matrix = matrix_of(figures.pair_matrices(results).axes[0])
    # 0 beside 2, 1 beside 3, and in the middle two that have 1 rather than 0
    assert [matrix[0, 1], matrix[1, 2], matrix[2, 3]] == [3, 1, 3]


def test_pair_agreement_has_every_pair_of_a_layer_once(joint):
    table = pd.DataFrame(
        {
            "layer": [1, 2, 2],
            "clamp": "mean",
            "pair_measure": CO_INFORMATION,
            "effect_in": ["loss", "loss", "accuracy"],
            "effect": [0.25, -0.5, 0.75],
            "low": [0.125, -0.6, 0.7],
            "high": [0.5, -0.4, 0.8],
            "p_corrected": [0.03125, 0.5, 0.01],
        }
    )
    figure = figures.pair_agreement(joint, table=table)
    pairs = joint["pair_value"].sel(pair_measure=CO_INFORMATION).values
    effects = joint["pair_effect_loss"].sel(clamp="mean").values
    titles = [
        "layer 1\nrank correlation 0.25 [0.12, 0.50], p 0.031",
        "layer 2\nrank correlation -0.50 [-0.60, -0.40], p 0.5",
    ]
    for title, neurons in zip(titles, (range(4), range(4, 7)), strict=True):
        (points,) = panel(figure, title).collections
        drawn = np.asarray(points.get_offsets())
        first, second = np.array(list(itertools.combinations(neurons, 2))).T
        np.testing.assert_array_equal(drawn[:, 0], pairs[:, first, second].ravel())
        np.testing.assert_array_equal(drawn[:, 1], effects[:, first, second].ravel())


def test_many_pairs_are_counted():
    results = joint_results(hidden=(60,), measures=THREE[:1], clamps=("mean",))
    axes, bar = figures.pair_agreement(results).axes
    (mesh,) = axes.collections
    assert isinstance(mesh, QuadMesh)
    assert (
        np.nansum(np.ma.filled(np.ma.asarray(mesh.get_array()), 0)) == 3 * 60 * 59 / 2
    )
    assert bar.get_ylabel() == "pairs"
    # The least bin is where the least value is, on a scale that is not linear.
    corners = np.asarray(mesh.get_coordinates())
    effects = results["pair_effect_loss"].values
    lowest, highest = corners[..., 1].min(), corners[..., 1].max()
    np.testing.assert_allclose(lowest, np.nanmin(effects), rtol=1e-6)
    np.testing.assert_allclose(highest, np.nanmax(effects), rtol=1e-6)


def test_joint_information_is_drawn_where_every_network_has_an_estimate():
    results = joint_results(hidden=(20, 3), measures=THREE[1:2])
    # One network has no estimate of two random neurons.
    information = results["joint_information_miller_madow"]
    information.values[1, 0, 1, 3, 2] = np.nan
    figure = figures.joint_information_curves(results, clamp="zero")
    above = panel(figure, "layer 1")
    below = figure.axes[figure.axes.index(above) + 3]
    values = information.values[:, :, 1]
    thick = [drawn for drawn in above.get_lines() if drawn.get_marker() != "None"]
    expected = [
        ("ascending, ablated", [0, 1, 2, 3], values[:, 0, 0].mean(0)),
        ("ascending, left", [17, 18, 19, 20], values[:, 1, 0].mean(0)),
        ("descending, ablated", [0, 1, 2, 3], values[:, 0, 1].mean(0)),
        ("descending, left", [17, 18, 19, 20], values[:, 1, 1].mean(0)),
        ("random, ablated", [0, 1, 3], values[:, 0, 2:].mean((0, 1))),
        ("random, left", [17, 18, 19, 20], values[:, 1, 2:].mean((0, 1))),
    ]
    for drawn, (name, steps, means) in zip(thick, expected, strict=True):
        np.testing.assert_array_equal(drawn.get_xdata(), steps, name)
        np.testing.assert_allclose(heights(drawn), means[steps], rtol=1e-5)
    accuracy = results["accuracy"].values[:, 0, 1, 0, :21].mean(0)
    np.testing.assert_allclose(heights(below.get_lines()[0]), accuracy, rtol=1e-6)
    # Steps 4 to 16 have none: they are shaded, named, and take little room.
    for axes in (above, below):
        (shade,) = axes.patches
        assert isinstance(shade, Rectangle)
        edges = shade.get_corners()[:, 0]
        assert (edges.min(), edges.max()) == (3.5, 16.5)
        start, end = (axes.transData.transform((x, 0))[0] for x in (3.5, 16.5))
        assert (end - start) < axes.get_window_extent().width / 3
    assert [text.get_text() for text in above.texts] == ["too few\nexamples"]
    assert any("compressed" in text for text in legend_texts(figure))
    assert not panel(figure, "layer 2").patches


def test_redundancy_indices_tell_of_groups_far_away():
    results = joint_results(hidden=(4, 3), groups=200)
    index = results["redundancy_index"]
    index.values[0, 1, 0, 0], index.values[1, 1, 0, :] = 1e6, np.nan
    figure = figures.redundancy_indices(results)
    axes = panel(figure, "layer 1")
    points = [
        np.asarray(drawn.get_offsets())[:, 1]
        for drawn in axes.collections
        if len(np.asarray(drawn.get_offsets())) > 1
    ]
    for drawn, place in zip(points, (0, 1), strict=True):
        medians = np.median(index.values[:, 1, place], axis=-1)
        np.testing.assert_allclose(drawn, medians[np.isfinite(medians)], rtol=1e-6)
    assert axes.get_ylim()[1] < 3
    assert any("outside the scale" in text.get_text() for text in axes.texts)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["2", "3"]
    assert legend_texts(figure)[-1] == "1 (above 1: redundancy, below: synergy)"


def labelled(figure: Figure, label: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == label)
    return axes


def test_trajectories_are_medians_of_neurons_and_means_of_networks(joint):
    results = joint.copy(deep=True)
    # This measure is not of information, and these groups have no index.
    results["trajectory_score"].values[:, :, 2] = np.nan
    results["layer_redundancy_index"].values[0, 0, 0] = np.nan
    results["layer_information"].values[:, 1:, 1] = 2.5
    figure = figures.trajectories(results)
    assert len(figure.axes) == 2 + 4
    scores = results["trajectory_score"].values[:, :, 1, 4:]
    axes = labelled(figure, "mutual information (bits)")
    drawn = axes.get_lines()[1]
    np.testing.assert_array_equal(drawn.get_xdata(), [0, 1, 4])
    expected = np.median(scores, axis=-1).mean(axis=0)
    np.testing.assert_allclose(heights(drawn), expected, rtol=1e-6)
    low, high = np.quantile(scores[:, 0], [0.25, 0.75], axis=-1).mean(axis=1)
    np.testing.assert_allclose(bands(axes)[1], [low, high], rtol=1e-6)
    axes = labelled(figure, "H of the quantised layer,\nplug-in (bits)")
    entropy = results["layer_entropy"].values.mean(axis=0)
    np.testing.assert_allclose(heights(axes.get_lines()[0]), entropy[:, 0], rtol=1e-6)
    np.testing.assert_allclose(heights(axes.get_lines()[2]), np.log2(1000))
    assert "most that 1,000 examples can show" in legend_texts(figure)
    axes = labelled(figure, "I(layer;Y) (bits)")
    least, _, estimate = axes.get_lines()
    decoded = results["layer_information_decoded"].values.mean(axis=0)
    np.testing.assert_allclose(heights(least), decoded[:, 0], rtol=1e-6)
    np.testing.assert_array_equal(estimate.get_xydata(), [[1, 2.5], [4, 2.5]])
    axes = labelled(figure, "redundancy index\n(above 1: redundancy)")
    index = np.median(results["layer_redundancy_index"].values[:, :, 0], axis=-1)
    expected = np.nanmean(index, axis=0)
    np.testing.assert_allclose(heights(axes.get_lines()[0]), expected, rtol=1e-6)
    test, training = labelled(figure, "error (share wrong)").get_lines()
    for drawn, name in ((test, "trajectory_accuracy"), (training, "train_accuracy")):
        expected = 1 - results[name].values.mean(axis=0)
        np.testing.assert_allclose(heights(drawn), expected, rtol=1e-5)


def test_information_plane_has_a_line_per_layer_and_a_point_per_network(joint):
    axes, bar = figures.information_plane(joint).axes
    x, y = (
        joint[name].values for name in ("layer_entropy", "layer_information_decoded")
    )
    *lines, ceiling = axes.get_lines()
    assert len(lines) == 2
    for layer, drawn in enumerate(lines):
        means = np.stack([x[..., layer].mean(0), y[..., layer].mean(0)], axis=1)
        np.testing.assert_allclose(np.asarray(drawn.get_xydata()), means, rtol=1e-6)
        networks, mean = axes.collections[2 * layer : 2 * layer + 2]
        every = np.stack([x[..., layer].ravel(), y[..., layer].ravel()], axis=1)
        np.testing.assert_array_equal(np.asarray(networks.get_offsets()), every)
        np.testing.assert_array_equal(mean.get_array(), [0, 1, 4])
    np.testing.assert_allclose(np.asarray(ceiling.get_xdata()), np.log2(1000))
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["epoch 0", "epoch 4"] * 2
    assert [text.get_text() for text in bar.get_yticklabels()] == ["0", "1", "4"]


@pytest.mark.parametrize("name", sorted(INTERACTIONS | TRAJECTORIES))
def test_figures_of_joint_results_say_what_the_run_lacks(results, name):
    what = "trajectory epochs" if name in TRAJECTORIES else "interactions"
    message = f"^{name}: expected a run with {what}, got one without; run it with"
    with pytest.raises(ValueError, match=message):
        getattr(figures, name)(results)
    diverged = joint_results(hidden=(2,), seeds=2, diverged=(0, 1))
    with pytest.raises(ValueError, match="converged, got 2 that diverged"):
        getattr(figures, name)(diverged)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("pair_matrices", {"clamp": "median"}, "clamp 'median', got one with zero, m"),
        ("pair_agreement", {"clamp": "median"}, "clamp 'median', got one with zero, m"),
        ("pair_matrices", {"arranged_by": "cost"}, "measure 'cost', got one with ent"),
        ("joint_information_curves", {"clamp": "median"}, "clamp 'median', got one"),
        ("joint_information_curves", {"measure": "cost"}, "measure 'cost', got one"),
    ],
)
def test_figures_of_joint_results_know_their_names(joint, name, given, message):
    with pytest.raises(ValueError, match=f"^{name}: expected a run with the {message}"):
        getattr(figures, name)(joint, **given)


@pytest.mark.parametrize(
    ("hidden", "fill"), [((1,), np.nan), ((3,), -1.0), ((3,), 0.0)]
)
def test_figures_of_joint_results_survive_the_least(hidden, fill):
    results = joint_results(
        hidden=hidden,
        seeds=2,
        diverged=(0,),
        random_orders=0,
        measures=THREE[1:2],
        clamps=("mean",),
        trajectory_epochs=(0,),
        group_sizes=(2,),
        epochs=1,
    )
    for name in ("pair_value", "pair_effect_loss", "redundancy_index"):
        results[name].values[:] = fill
    for name in ("joint_information_miller_madow", "layer_redundancy_index"):
        results[name].values[:] = fill
    for name in sorted(INTERACTIONS | TRAJECTORIES):
        figure = getattr(figures, name)(results)
        figure.draw_without_rendering()
        assert "1 network (1 diverged" in figure.get_suptitle().replace("\n", " ")


def test_figures_of_joint_results_are_saved_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "save_figure", lambda figure, stem: [stem])
    results = joint_results(hidden=(2,), seeds=1, measures=THREE[:1], clamps=("mean",))
    plain = ALL_FIGURES - {"bias_balancing", "measure_scatter"}
    names = {path.name for path in figures.save_figures(results, tmp_path)}
    assert names == plain | INTERACTIONS | TRAJECTORIES
    results = results.drop_vars(["trajectory_score", "pair_effect_loss"])
    names = {path.name for path in figures.save_figures(results, tmp_path)}
    assert names == plain | {"joint_information_curves", "redundancy_indices"}
