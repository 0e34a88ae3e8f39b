"""What all figures have in common: their titles, their networks, their errors."""

import json
import re

import numpy as np
import pytest
from synthetic import THREE, joint_results, synthetic_results, with_layer_names

from ioca_jax import plots
from ioca_jax.results.subsets import steps_of_scopes
from plots.drawn import (
    INTERACTIONS,
    PLAIN,
    TRAJECTORIES,
    draw,
    drawn,
    least,
    legend_texts,
    panel_names,
    small,
    title,
)


@pytest.mark.parametrize("name", sorted({*PLAIN, *INTERACTIONS, *TRAJECTORIES}))
def test_titles_name_data_network_and_quantiser(name):
    # Losses in training are of no codes.
    quantiser = "" if name == "training_history" else "binarised at 0, "
    text = f"mnist5k, 5-4-3-2 relu, {quantiser}3 networks"
    assert text in title(drawn(name))


def test_title_of_a_file_is_its_name_as_it_is():
    figure = draw("training_history", synthetic_results(dataset="/data/$a$ b.npz"))
    assert "\n$a$ b.npz, 5-4-3-2 relu" in figure.get_suptitle()
    figure.draw_without_rendering()
    figure = draw("training_history", synthetic_results(dataset="emnist/letters"))
    assert "\nemnist/letters, 5-4-3-2 relu" in figure.get_suptitle()


def test_layers_that_are_numbered_from_0_have_their_neurons():
    results = with_layer_names(synthetic_results(), ["layer_0", "layer_1"])
    figure = draw("ablation_curves", results)
    titles = {axes.get_title() for axes in figure.axes} - {""}
    assert titles == {
        *("whole network: 7 neurons", "layer 0: 4 neurons", "layer 1: 3 neurons")
    }
    steps = {name: own[-1] for name, own in steps_of_scopes(results).items()}
    assert steps == {"network": 7, "layer_0": 4, "layer_1": 3}


def test_titles_name_label_noise():
    noisy = synthetic_results()
    noisy.attrs["configuration"] = json.dumps({"dataset": "x", "label_noise": 0.5})
    assert "x with label noise 0.5, 5-4-3-2 relu" in title(
        draw("training_history", noisy)
    )


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_diverged_networks_are_left_out(name):
    """Nothing that is drawn changes but the title, which has their number."""
    results = least(seeds=3, diverged=(1,))
    figure = draw(name, results)
    without = draw(name, results.isel(seed=[0, 2]))
    assert "2 networks (1 diverged, left out)" in title(figure)
    assert legend_texts(figure) == legend_texts(without)
    for axes, others in zip(figure.axes, without.axes, strict=True):
        assert axes.get_xlabel() == others.get_xlabel()
        for one, other in zip(axes.get_lines(), others.get_lines(), strict=True):
            np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
        for one, other in zip(axes.collections, others.collections, strict=True):
            np.testing.assert_array_equal(one.get_offsets(), other.get_offsets())
            for path, same in zip(one.get_paths(), other.get_paths(), strict=True):
                np.testing.assert_array_equal(path.vertices, same.vertices)


def test_figures_need_a_network_that_converged():
    results = joint_results(hidden=(2,), seeds=2, diverged=(0, 1))
    for name in {*PLAIN, *INTERACTIONS, *TRAJECTORIES} - {"training_history"}:
        message = f"^{name}: expected a network that converged, got 2 that diverged"
        with pytest.raises(ValueError, match=message):
            draw(name, results)


@pytest.mark.parametrize("name", sorted(INTERACTIONS | TRAJECTORIES))
def test_figures_name_the_variables_that_are_missing(name):
    what = "trajectory epochs" if name in TRAJECTORIES else "interactions"
    message = f"^{name}: expected results with .*, got results without; run the study "
    with pytest.raises(ValueError, match=f"{message}with {what}$"):
        getattr(plots, name)(least())


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("single_effects", {"clamp": "median"}, "clamp to be one of zero, mean"),
        ("class_costs", {"clamp": "median"}, "clamp to be one of zero, mean"),
        ("pair_matrices", {"clamp": "median"}, "clamp to be one of zero, mean"),
        ("pair_agreement", {"clamp": "median"}, "clamp to be one of zero, mean"),
        ("joint_information_curves", {"clamp": "median"}, "clamp to be one of zero"),
        ("joint_information_curves", {"measure": "cost"}, "measure to be one of ent"),
    ],
)
def test_figures_name_the_labels_that_the_results_have(name, given, message):
    (wrong,) = given.values()
    with pytest.raises(ValueError, match=f"^{name}: expected {message}.* got '{wrong}"):
        draw(name, small(), **given)


@pytest.mark.parametrize(("hidden", "fill"), [((1,), np.nan), ((3,), 0.0)])
def test_figures_of_the_fewest_neurons_groups_and_epochs(hidden, fill):
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
    for name in (
        *("pair_value", "pair_effect_loss", "redundancy_index"),
        *("joint_information_miller_madow", "layer_redundancy_index"),
    ):
        results[name].values[:] = fill
    for name in sorted(INTERACTIONS | TRAJECTORIES):
        figure = draw(name, results)
        figure.draw_without_rendering()
        assert "1 network (1 diverged" in title(figure)


@pytest.mark.slow
def test_figures_of_many_layers_with_long_names_draw_some_of_them():
    names = [f"backbone/stage_{n}/block/Conv_1:input" for n in range(20)]
    results = joint_results(hidden=(2,) * 20, seeds=2, measures=THREE[1:])
    results = with_layer_names(results, names)
    drawn_layers = np.linspace(0, 19, 15).round().astype(int)  # four rows of panels
    scopes = ["whole network"] + [
        f"backbone/s\N{HORIZONTAL ELLIPSIS}{names[n][-11:]}" for n in drawn_layers
    ]
    one_block = ("bias_balancing", "class_costs", "measure_scatter", "pair_agreement")
    one_block = (*one_block, "redundancy_indices")
    for name in sorted({*PLAIN, *INTERACTIONS, *TRAJECTORIES} - {"training_history"}):
        figure = draw(name, results)
        left_out = re.search(r"2 networks, \d+ of 20 layers drawn$", title(figure))
        assert bool(left_out) != (name in one_block)
        assert len(figure.axes) <= 33
        assert figure.get_figheight() < 9
    figure = draw("ablation_curves", results)
    assert panel_names(figure) == [
        f"{scope}, clamped to {clamp}" for clamp in ("zero", "mean") for scope in scopes
    ]
    # What is drawn is what the whole results have for that scope.
    lines = figure.axes[2].get_lines()
    expected = results["accuracy"].sel(scope=names[1], clamp="zero").mean("seed")
    np.testing.assert_allclose(
        np.asarray(lines[0].get_ydata()), expected.values[0, :3], rtol=1e-6
    )
    assert "layers drawn" not in title(draw("training_history", results))
