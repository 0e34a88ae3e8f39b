"""The benchmark: a tiny run as a process, and what it must refuse. Nothing on time."""

import json
import subprocess
from functools import partial

import command_line
import numpy as np
import processes
import pytest

import ioca_jax as ioca
from experiments.benchmark import (
    cases,
    convolution,
    counting,
    curves,
    in_torch,
    inputs,
    oracles,
    timing,
)

# Runs the benchmark in this process, then tells which of the barred modules came in.
SCRIPT = """
import sys
sys.argv = ["benchmark", *sys.argv[1:]]
from experiments.benchmark import __main__ as benchmark_ablation
try:
    benchmark_ablation.COMMAND.run()
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
        rows = case["contenders"]
        assert rows["default"]["ours"]
        for row in rows.values():
            assert len(row["seconds"]) == inputs.PRESETS["tiny"].repeats
            assert row["min_seconds"] <= row["median_seconds"] <= row["max_seconds"]
            assert row["units_per_second"] > 0
            assert row["times_default"] > 0
            assert (row["times_loop"] is None) == ("torch_loop" not in rows)
            keys = row["agreement"].keys()
            (key,) = keys & {"examples", "bits", "relative losses"}
            assert row["agreement"][key] <= (key == "examples") + 1e-3, name


def test_peers_take_part_or_are_said_not_to_be_installed(report):
    for name, peer, installed in (
        ("network_curve", "torch_loop", in_torch.has_torch()),
        ("measures", "sklearn", counting.has_sklearn()),
    ):
        case = report["cases"][name]
        assert (peer in case["contenders"]) == installed
        assert installed or case["left_out"][peer] == "not installed"
    if counting.has_sklearn():
        note = report["cases"]["pairs"]["contenders"]["sklearn"]["note"]
        assert note == "5 of 55 pairs, time scaled"


def test_the_report_says_where_it_comes_from(report):
    assert report["versions"]["jax"][0].isdigit()
    assert report["threads"] >= 1
    for key in ("device", "processor", "revision", "created", "configuration"):
        assert report[key]


@pytest.mark.slow
def test_memory_is_measured_in_a_process_of_its_own():
    done = run_process("--memory_of=measures:default", "--nopeers")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[0]) >= 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cases=network"], "cases: expected one of network_curve, "),
        (
            ["--preset=huge"],
            "preset: expected one of standard, quick, tiny, got 'huge'",
        ),
        (["--repeats=0"], "repeats: expected at least 1, got 0"),
        (
            ["--measure_memory=all"],
            "measure_memory: expected one of none, ours, got 'all'",
        ),
        (
            ["--memory_of=pairs:nobody", "--nopeers"],
            "memory_of: expected one of default, got 'nobody'",
        ),
    ],
)
def test_wrong_input_gets_one_line(flags, message, tmp_path):
    done = run(*flags, f"--output={tmp_path / 'x' / 'b.json'}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}")
    assert not (tmp_path / "x" / "b.json").exists()


ORACLE = oracles.CurveOracle(
    correct=np.array([[[[5, 3], [4, 4]]]]),
    loss=np.array([[[0.5, 0.25]]]),
    near_ties=np.array([[[0, 1]]]),
)


def test_examples_near_a_tie_may_be_counted_either_way():
    agreement = oracles.check_curve("x", [[[[5, 3], [4, 3]]]], ORACLE.loss, ORACLE)
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
        oracles.check_curve("x", [[correct]], [[loss]], ORACLE)


def test_planted_disagreements_of_values_are_refused():
    message = (
        "^x: expected bits within 1e-05 of the oracle's, got a difference of 2e-05$"
    )
    with pytest.raises(ValueError, match=message):
        oracles.check_values("x", "bits", [0.5, 0.25002], [0.5, 0.25], 1e-5)
    with pytest.raises(ValueError, match="^x: .* got a difference of nan$"):
        oracles.check_values("x", "bits", [np.nan], [0.5], 1e-5)
    with pytest.raises(ValueError, match="^x: expected cells within 0 of the oracle's"):
        oracles.check_values("x", "cells", [1, 2, 4], np.array([1, 2, 3]), 0)
    assert oracles.check_values("x", "bits", [0.5], [0.5], 1e-5) == {"bits": 0}


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
    bits = oracles.bits_oracle(counts)
    assert bits["entropy"].tolist() == [1, 1, 0]
    assert bits["mutual_information"].tolist() == [1, 0, 0]
    assert bits["kl_selectivity"].tolist() == [1, 0, 0]
    # Two copies of the class, and the inputs of an XOR.
    pairs = np.array(
        [[[2, 0], [0, 0], [0, 0], [0, 2]], [[1, 0], [0, 1], [0, 1], [1, 0]]]
    )
    bits = oracles.pair_bits_oracle(pairs, 2)
    assert bits["joint_information"].tolist() == [1, 1]
    assert bits["co_information"].tolist() == [1, -1]


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


def test_points_that_are_checked_are_among_those_a_peer_evaluates():
    """A peer's wrong figure at a checked point is refused, with the sample's scale."""
    orders = np.arange(12).reshape(1, 1, 12)

    def oracle_of(masks):
        kept = masks.sum(axis=-1)
        return oracles.CurveOracle(kept[..., None], kept / 10, np.zeros_like(kept))

    def prepare(masks, wrong=0):
        kept = masks.sum(axis=-1)
        return (lambda: None), lambda _: (kept[..., None] + wrong, kept / 10)

    points = curves.Points(orders, 12, num_masks=3, num_checked=4, oracle_of=oracle_of)
    peer = points.by_mask("x", prepare)
    assert peer.note == "5 of 13 masks, time scaled"  # 0, 6, 12 and 0, 4, 8, 12
    assert peer.scale == 13 / 5
    assert peer.check(peer.run(None))["examples"] == 0
    wrong = points.by_mask("x", lambda masks: prepare(masks, 1))
    with pytest.raises(ValueError, match="^x: expected the oracle's correct counts"):
        wrong.check(wrong.run(None))
