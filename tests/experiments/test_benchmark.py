"""The benchmark: a tiny run as a process, and what it must refuse. Nothing on time."""

import json
import subprocess
from functools import partial

import command_line
import jax.numpy as jnp
import numpy as np
import processes
import pytest

import ioca_jax as ioca
from experiments.benchmark import (
    cases,
    checks,
    convolution,
    costs,
    curves,
    growth,
    in_torch,
    inputs,
    peers,
    timing,
)
from ioca_jax.ablation.pair_effects import PairEffects

# Runs the benchmark in this process, then tells which of the barred modules came in.
SCRIPT = """
import sys
from absl import app
sys.argv = ["benchmark", *sys.argv[1:]]
from experiments.benchmark import __main__ as benchmark_ablation
from experiments import config_flags
try:
    config_flags.run_main(benchmark_ablation.main)
finally:
    barred = ("tensorflow_datasets", "tensorflow", "mlxtend", "orbax", "array_record")
    print("imported:", [name for name in barred if name in sys.modules])
"""


def run_process(*flags: str) -> subprocess.CompletedProcess:
    script = ("-W", "error", "-c", SCRIPT, "--preset=tiny")
    return processes.run(*script, *flags, timeout=500)


run = partial(command_line.run, "experiments.benchmark", "--preset=tiny")


@pytest.fixture(
    scope="module",
    params=[
        "network_curve,measures,pairs",
        pytest.param(",".join(cases.CASES), marks=pytest.mark.slow),
    ],
)
def report(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "new" / "benchmark.json"
    done = run_process(f"--cases={request.param}", f"--output={path}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # A bare accelerator machine has none of these.
    assert "imported: []" in done.stdout
    written = json.loads(path.read_text())
    assert ",".join(written["cases"]) == request.param
    assert all(f"\n{name}: " in done.stdout for name in written["cases"])
    return written


def test_every_case_is_there_checked_and_timed(report):
    for name, case in report["cases"].items():
        assert case["operations"] > 0
        assert case["bytes"] > 0
        assert case["contenders"]["default"]["ours"]
        for row in case["contenders"].values():
            assert len(row["seconds"]) == inputs.PRESETS["tiny"].repeats
            assert row["min_seconds"] <= row["median_seconds"] <= row["max_seconds"]
            assert row["roofline_share"] > 0
            assert row["units_per_second"] > 0
            keys = row["agreement"].keys()
            (key,) = (keys & {"examples", "bits", "relative_loss"}) or keys
            assert row["agreement"][key] <= (key == "examples") + 1e-3, name
        assert all(ratio > 0 for ratio in case["ratios"].values())


def test_peers_take_part_or_are_said_not_to_be_installed(report):
    for case in report["cases"].values():
        for peer in case["goals"].keys() - {"masks"}:
            there = peers.has_sklearn() if peer == "sklearn" else in_torch.has_torch()
            assert (peer in case["ratios"]) == there
            assert there or case["left_out"][peer] == "not installed"
    assert "of 55 pairs" in report["cases"]["pairs"]["contenders"]["sklearn"]["note"]


def test_the_report_says_where_it_comes_from(report):
    assert report["versions"]["jax"][0].isdigit()
    assert report["ceilings"]["operations"] > 0
    assert report["threads"] >= 1
    for key in ("device", "processor", "revision", "created", "configuration"):
        assert report[key]


@pytest.mark.slow
def test_the_grid_is_a_cross_product_with_memory(tmp_path):
    done = run(
        *("--cases=grid", "--scopes=network,layer_1", "--widths=4", "--depths=2"),
        *("--examples=30", "--num_inputs=5", "--num_seeds=2", "--num_orders=1,3"),
        *("--clamps=zero", "--repeats=1", "--nopeers"),
        f"--output={tmp_path / 'grid.json'}",
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "grid.json").read_text())
    assert list(written["cases"]) == [
        f"grid/{scope}/4x2/n30/s2/o{orders}/zero"
        for scope in ("network", "layer_1")
        for orders in (1, 3)
    ]


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    done = run_process(
        "--ceilings=1e9,1e9", "--memory_of=measures:default", "--nopeers"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["peak_bytes"] >= 0


def test_growth_is_measured_then_extrapolated(tmp_path):
    done = run(
        "--growth", "--seconds_per_point=0", f"--output={tmp_path / 'growth.json'}"
    )
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "growth.json").read_text())["growth"]
    assert written.keys() == growth.GROWTH["tiny"].axes.keys()
    points = [p for axis in written.values() for line in axis.values() for p in line]
    assert all(p["seconds"] > 0 and not p["measured"] for p in points)
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_one_point_of_growth_is_measured():
    settings = inputs.Settings(inputs.PRESETS["tiny"], costs.Ceilings(1e9, 1e9))
    small = growth.GROWTH["tiny"]._replace(axes={"seeds": [2], "seeds_trained": [2]})
    axes = growth.measure_growth(small, settings, 100.0)
    lines = [line for axis in axes.values() for line in axis.values()]
    assert len(lines) == 5
    assert all(points[0]["measured"] for points in lines)


def test_lines_that_disagree_are_refused():
    growth.check_agreement("b", np.array([1.0, 2.0]), np.array([1.0, 2.001]))
    with pytest.raises(
        ValueError, match="^b: expected results within 0.001 of the fir"
    ):
        growth.check_agreement("b", np.array([1.0, 2.0]), np.array([1.0, 2.1]))
    with pytest.raises(ValueError, match="got one nan off"):
        growth.check_agreement("b", np.array([np.nan]), np.array([1.0]))


def test_crossovers_are_found():
    def line(*seconds):
        return [
            {"value": 10**i, "seconds": s, "measured": True}
            for i, s in enumerate(seconds)
        ]

    assert growth.crossovers({"a": line(1, 2, 9), "b": line(2, 3, 4)}) == [
        "b is cheaper than a from 100 on (dearer at 10)"
    ]
    assert growth.crossovers({"a": line(1, 2), "b": line(2, 3)}) == [
        "a is the cheapest throughout"
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cases=network"], "cases: expected one or more of network_curve, "),
        (["--preset=huge"], "preset: expected one of standard, "),
        (
            ["--cases=grid", "--engines=warp", "--ceilings=1,1"],
            "engines: expected one or more of ",
        ),
        (["--cases=grid", "--scopes=layer_9"], "scopes: expected one or more of "),
        (["--repeats=0"], "repeats: expected at least 1, got 0"),
        (["--ceilings=1"], "ceilings: expected two numbers"),
        (["--memory_of=pairs:nobody", "--ceilings=1,1"], "memory_of: expected one of"),
    ],
)
def test_wrong_input_gets_one_line(flags, message, tmp_path):
    done = run(*flags, f"--output={tmp_path / 'x' / 'b.json'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "x" / "b.json").exists()


ORACLE = peers.CurveOracle(
    correct=np.array([[[[5, 3], [4, 4]]]]),
    loss=np.array([[[0.5, 0.25]]]),
    near_ties=np.array([[[0, 1]]]),
)


def test_examples_near_a_tie_may_be_counted_either_way():
    agreement = checks.check_curve("x", [[[[5, 3], [4, 3]]]], ORACLE.loss, ORACLE)
    assert agreement == {"examples": 1, "near_ties": 1, "loss": 0}


@pytest.mark.parametrize(
    ("correct", "loss", "message"),
    [
        ([[5, 2], [4, 4]], [0.5, 0.25], r"got 1 off at .* \(0, 0, 0\), where 0 are"),
        # The sum over classes agrees, the classes do not.
        ([[5, 3], [5, 3]], [0.5, 0.25], r"got 2 off at .* \(0, 0, 1\), where 1 are"),
        ([[5, 3], [4, 4]], [0.5, 0.26], "got one 0.01 nats off"),
        ([[5, 3], [4, 4]], [0.5, np.nan], "got one nan nats off"),
    ],
)
def test_a_planted_disagreement_is_refused(correct, loss, message):
    with pytest.raises(ValueError, match=f"x: expected .*{message}"):
        checks.check_curve("x", [[correct]], [[loss]], ORACLE)


def test_planted_disagreements_of_counts_and_bits_are_refused():
    with pytest.raises(ValueError, match="got 1 of 3 cells different"):
        checks.check_counts("x", [1, 2, 4], np.array([1, 2, 3]))
    with pytest.raises(ValueError, match="got one 2e-05 bits off"):
        checks.check_bits("x", [0.5, 0.25002], [0.5, 0.25])
    with pytest.raises(ValueError, match="x: expected losses after 5 steps"):
        checks.check_losses("x", [1.0, 1.01], [1.0, 1.0])
    assert checks.check_bits("x", [0.5], [0.5]) == {"bits": 0}


def test_planted_disagreements_of_pairs_are_refused():
    # Of one pair: intact, the first, the second, both. Both are needed: an XOR.
    oracle = peers.CurveOracle(
        correct=np.array([[[[6, 4], [4, 1], [3, 2], [3, 2]]]]),
        loss=np.array([[[0.5, 1.0, 1.0, 1.0]]]),
        near_ties=np.array([[[0, 0, 1, 0]]]),
    )
    nothing = np.zeros((1, 2))

    def check(examples, loss):
        arrays = (np.array([examples / 10]), np.array([loss]), nothing, nothing)
        effects = PairEffects(*map(jnp.asarray, arrays))
        return checks.check_effects("x", effects, oracle, 10)

    assert check(-5.0, -0.5) == {"examples": 0, "near_ties": 1, "loss": 0}
    assert check(-4.0, -0.5)["examples"] == 1
    for examples, loss, message in (
        (-3.0, -0.5, "got one 2 examples off"),
        (np.nan, -0.5, "got one nan examples off"),
        (-5.0, -0.50001, "got one 1e-05 nats off"),
        (-5.0, np.nan, "got one nan nats off"),
    ):
        with pytest.raises(ValueError, match=f"x: expected .*{message}"):
            check(examples, loss)


def test_contenders_take_turns(monkeypatch):
    monkeypatch.setattr(timing, "_PAUSE", 0)
    monkeypatch.setattr(timing, "_BURST", 0)
    calls = []

    def contender(name):
        return timing.Contender(name, lambda _: calls.append(name), lambda _: {})

    timings = timing.check_then_time([contender("a"), contender("b")], repeats=3)
    assert calls == ["a", "b"] * 4
    assert all(len(taken.seconds) == 3 for taken in timings.values())


def test_the_oracle_of_bits_is_right():
    # A fair bit that tells the class; one that tells nothing; a dead neuron.
    counts = np.array([[[2, 0], [0, 2]], [[1, 1], [1, 1]], [[2, 2], [0, 0]]])
    bits = peers.bits_oracle(counts)
    assert bits["entropy"].tolist() == [1, 1, 0]
    assert bits["mutual_information"].tolist() == [1, 0, 0]
    assert bits["kl_selectivity"].tolist() == [1, 0, 0]
    # Two copies of the class, and the inputs of an XOR.
    pairs = np.array(
        [[[2, 0], [0, 0], [0, 0], [0, 2]], [[1, 0], [0, 1], [0, 1], [1, 0]]]
    )
    bits = peers.pair_bits_oracle(pairs, 2)
    assert bits["joint_information"].tolist() == [1, 1]
    assert bits["co_information"].tolist() == [1, -1]
    assert bits["redundancy_mmi"].tolist() == [1, 0]
    assert bits["unique_mmi"].tolist() == [0, 0]
    assert bits["synergy_mmi"].tolist() == [0, 1]


def test_counted_operations_are_those_counted_by_hand():
    # 4 inputs, hidden layers of 3 and 2, 2 classes; two neurons of the first layer and
    # one of the second.
    widths, layers = (4, 3, 2, 2), [0, 1, 0]
    score = 4 * 2
    forward = 2 * 4 * 3 + 3 + 2 * 3 * 2 + 2 + 2 * 2 * 2 + score
    first_step = 2 * 2 + 2 + 2 * 2 * 2 + score
    second_step = 2 * 2 + score
    third_step = 2 * 1 + 1 + 2 * 1 * 2 + score  # one neuron of the second is left
    one = forward + first_step + second_step + third_step
    assert costs.rank_one_operations(widths, layers) == one
    assert costs.rank_one_operations(widths, []) == forward
    above = 3 + 2 * 3 * 2 + 2 + 2 * 2 * 2 + score
    assert costs.masks_operations(widths, layers) == 2 * 4 * 3 + 4 * above
    middle = 2 + 2 * 2 * 2 + score
    assert costs.incremental_operations(widths, layers) == forward + 2 * above + middle
    assert costs.prefix_sums_operations(widths, layers) == forward + 3 * first_step
    assert costs.prefix_sums_operations(widths, [1]) == forward + second_step

    # Two networks, three orders each: the forward pass is shared by a network's.
    cost = costs.curve_cost(widths, layers, 10, num_orders=3, num_seeds=2)
    assert cost.operations == 10 * 2 * (forward + 3 * (one - forward))
    weights = (4 + 1) * 3 + (3 + 1) * 2 + (2 + 1) * 2
    results = 3 * 4 * (2 + 1)
    assert cost.bytes == 4 * (10 * (4 + 1) + 2 * (weights + results))


def test_counted_operations_of_the_other_work():
    cost = costs.pairs_cost(3, 2, 2, 10, 5)
    assert cost.operations == 2 * 10 * 3 + 10 * 3 * 4 * 2
    assert cost.bytes == 4 * (10 * (3 + 1) + 3 * 5)
    # Two neurons and their pair, in the first of two hidden layers of 2, of 4 inputs.
    score = 4 * 2
    above = 2 + 2 * 2 * 2 + score
    forward = 2 * 4 * 2 + 2 + 2 * 2 * 2 + above
    cost = costs.pair_effects_cost((4, 2, 2, 2), 0, 10)
    assert cost.operations == 10 * (forward + 3 * (2 * 2 + above))
    assert costs.measures_cost(3, 2, 2, 10).bytes == 4 * (10 * (3 + 1) + 3 * 2 * 2)
    # One layer: forwards and the weights' gradient, none for the images.
    assert costs.training_cost((4, 2), 5, 1, 1).operations == (
        5 * 2 * (2 * 4 * 2) + 12 * (4 + 1) * 2
    )
    assert costs.Cost(6.0, 1.0).floor(costs.Ceilings(2.0, 1.0)) == 3
    assert costs.Cost(6.0, 4.0).floor(costs.Ceilings(2.0, 1.0)) == 4


def test_the_cnns_oracle_is_flaxs_network():
    x = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
    network, variables = convolution.traced_cnn(x)
    rng = np.random.default_rng(1)
    keep = rng.random(network.num_neurons) < 0.5
    clamp = rng.normal(size=network.num_neurons).astype(np.float32)
    logits, _ = network.apply(variables, x, ioca.Ablation(keep, clamp))
    weights = convolution.weights_of(variables)
    keeps, clamps = (np.split(array, [32, 96]) for array in (keep, clamp))
    expected = convolution.forward(weights, keeps, clamps, x.astype(np.float64))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_spaced_points_have_both_ends():
    assert curves.spaced(11, 3).tolist() == [0, 5, 10]
    assert curves.spaced(4, 100).tolist() == [0, 1, 2, 3]


def test_masks_are_the_librarys():
    order = np.array([3, 0, 4])
    masks = curves.masks_at(order[None, None], np.arange(4), 5)
    np.testing.assert_array_equal(masks[0, 0], ioca.cumulative_masks(order, 5))
