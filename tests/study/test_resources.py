"""What a study takes is counted before it starts, and refused where it cannot fit."""

import dataclasses
from collections import namedtuple
from typing import Any

import jax
import pytest
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.study import events, resources, timing
from ioca_jax.study.given_networks import GivenNetworks
from ioca_jax.study.plan import make_plan

GB = 10**9


@pytest.fixture
def free(monkeypatch):
    """A machine with 8 GB of memory and 50 GB of disk left."""
    disk = namedtuple("disk", "total free")
    monkeypatch.setattr(resources, "free_memory", lambda: 8 * GB)
    usage = disk(total=90 * GB, free=50 * GB)
    monkeypatch.setattr(resources.shutil, "disk_usage", lambda _: usage)


def needs_of(config, data, **more):
    return resources.count_needs(make_plan(config, data, **more))


def test_bytes_are_those_of_the_results(tiny_run):
    results, (_, variables) = ioca.load_results(tiny_run), ioca.load_networks(tiny_run)
    needs = needs_of(TINY, own_data())
    # Seeds are of no account; p-values are counted though none are there.
    there = sum(v.nbytes for v in results.data_vars.values()) / 3
    assert there <= needs.results <= there * 1.3
    weights = variables["params"].values()
    assert needs.network == sum(w.nbytes for leaf in weights for w in leaf.values()) / 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"seeds": (*range(1_000_000),)},
            "disk: expected a study that fits in the 50.0 GB that are free, got one "
            "that takes .* GB or more, .* GB too much, most of it for results and "
            "weights of 1,000,000 networks; give fewer seeds ",
        ),
        (
            {"random_orders": 1_000_000, "seeds": (0,)},
            "memory: .* results and weights of one network; give fewer random_orders",
        ),
        (
            {"random_orders": 10**12},
            "memory: .* results and weights of [0-9]+ networks at a time; give fewer "
            "seeds_at_once, random_orders or hidden neurons",
        ),
        (
            {"permutations": 10_000_000},
            "memory: .* got one that takes 40.0 GB or more, 32.0 GB too much, most of "
            "it for permuted labels; give fewer permutations",
        ),
        (
            {"hidden": (10**6,), "seeds": (0,), "measures": ("entropy",)}
            | {"random_orders": 0, "clamps": ("zero",)},
            "memory: .* most of it for training of one network; give fewer hidden ne",
        ),
    ],
)
def test_what_cannot_fit_is_refused_at_once(fields, message, free, mnist5k, tmp_path):
    config = ioca.StudyConfig(**fields)
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        ioca.run_study(config, tmp_path / "run", data=mnist5k)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_disk_that_is_too_small_is_told(free, monkeypatch, mnist5k, tmp_path):
    monkeypatch.setattr(resources, "free_memory", lambda: 10**15)
    config = ioca.StudyConfig(seeds=tuple(range(40_000)))
    needs = needs_of(config, mnist5k)
    message = "^disk: expected a study that fits in the 50.0 GB that are free, got one"
    with pytest.raises(ValueError, match=message):
        resources.check_fits(needs, 40_000, tmp_path / "not" / "there")
    # What is finished lies on the disk already, and a shard needs its own seeds only.
    resources.check_fits(needs, 40_000, tmp_path, num_finished=39_000)
    resources.check_fits(needs, 10_000, tmp_path)


def test_networks_that_do_not_fit_at_a_time_may_fit_one_by_one(free, mnist5k, tmp_path):
    config = ioca.StudyConfig(random_orders=20_000, seeds=tuple(range(8)))
    one, eight = (needs_of(config, mnist5k, seeds_at_once=n) for n in (1, 8))
    assert (one.chunk, eight.chunk) == (1, 8)
    assert 3 * one.results < 8 * GB < 3 * 8 * one.results
    memory, _ = resources.check_fits(one, 8, tmp_path)
    with pytest.raises(ValueError, match="of 8 networks at a time; give fewer seeds_a"):
        resources.check_fits(eight, 8, tmp_path)
    resources.check_fits(eight, 8, tmp_path, num_finished=7)
    more, _ = resources.check_fits(eight, 8, tmp_path, num_finished=6)
    assert more - memory == 3 * (one.results + one.network)


def test_what_fits_is_not_refused(free, mnist5k, tmp_path):
    some: list[dict[str, Any]] = [
        {},
        {"seeds": (*range(100),)},
        {"hidden": (1000,) * 3},
    ]
    for fields in some:
        config = ioca.StudyConfig(**fields)
        resources.check_fits(needs_of(config, mnist5k), 5, tmp_path)


def test_long_work_is_told_before_it_starts(mnist5k, capsys):
    short, long = (
        needs_of(ioca.StudyConfig(hidden=hidden), mnist5k)
        for hidden in ((100, 100), (200_000,))
    )
    assert short.seconds(5) < 60
    assert long.seconds(5) > 3600
    assert short.seconds(10) == pytest.approx(2 * short.seconds(5))
    many = needs_of(ioca.StudyConfig(permutations=1_000_000), mnist5k)
    assert many.seconds(5) > 600
    model = ioca.StudyConfig().model(mnist5k.num_classes)
    variables = model.init(jax.random.key(0), mnist5k.test.x[:1])
    several = GivenNetworks(model, jax.tree.map(lambda a: a[None], variables), "")
    given = needs_of(ioca.StudyConfig(seeds=(0,)), mnist5k, given=several)
    assert (given.training, given.network) == (0, short.network)
    assert given.operations < short.operations
    listen = events.log_lines()
    for estimated in (599.0, 3 * 3600.0):
        listen({"event": "start", "chunks": 1, "estimated_seconds": estimated})
    assert capsys.readouterr().err == (
        "This takes 3.0 hours, by order of magnitude; stop it at any time, the same "
        "command goes on from what is finished\n"
    )


def test_operations_are_counted_at_every_pixel():
    data = own_data(num_inputs=64)
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    images = {n: ioca.Split(x.reshape(-1, 8, 8), y) for n, (x, y) in splits.items()}
    config = ioca.StudyConfig(
        architecture="cnn", channels=(6, 4), hidden=(5,), epochs=3, permutations=0,
        measures=("entropy",), random_orders=1, clamps=("mean", "resample"),
    )  # fmt: skip
    first, second = 2 * 9 * 1 * 6 * 64, 2 * 9 * 6 * 4 * 16
    dense = [2 * 4 * 4 * 5, 2 * 5 * 4]
    training = 3 * (first + second + sum(dense)) * len(data.train.y) * config.epochs
    above = [second + sum(dense), sum(dense), dense[1]]
    a_curve = sum(n * o for n, o in zip((6, 4, 5), above, strict=True))
    # Three orders, each neuron in two scopes, and once alone; two clamps.
    curves = len(data.test.y) * 2 * (2 * 3 + 1) * a_curve
    found = needs_of(config, dataclasses.replace(data, **images)).operations
    assert (training + curves) / 2 < found < 2 * (training + curves)
    # An MLP's neurons are cheaper with constants than with donors.
    constant, resampled = (
        needs_of(ioca.StudyConfig(clamps=(clamp,)), data).operations
        for clamp in ("mean", "resample")
    )
    assert resampled > 1.5 * constant


def test_timed_passes_are_counted_at_every_point_and_layer(monkeypatch):
    data = own_data(num_inputs=36)
    splits = {name: getattr(data, name) for name in ("train", "validation", "test")}
    images = {n: ioca.Split(x.reshape(-1, 6, 6), y) for n, (x, y) in splits.items()}
    data = dataclasses.replace(data, **images)
    config = ioca.StudyConfig(
        architecture="cnn", channels=(2,), hidden=(3,), permutations=0,
        measures=("entropy",), random_orders=2, clamps=("zero", "mean", "resample"),
    )  # fmt: skip
    passes = [timing.Pass(100.0, 90.0), timing.Pass(1.0, 1.0)]
    # Four orders; from the dense layer on the network is a chain under constants.
    network = 12 * 6 * (2 / 5 * 100 + 3 / 5 * 1)
    convolution, dense = 12 * 3 * 100, 4 * 4 * 1 + 8 * 1
    singles = 3 * 3 * 100 + 1 * 4 * 1
    expected = network + convolution + dense + singles
    plan = make_plan(config, data)
    found = timing.seconds_of_example(plan, passes)
    assert found == pytest.approx(expected)
    # Curves that share what two channels add take these passes once a scope.
    monkeypatch.setattr(timing, "is_worthwhile", lambda *_: True)
    monkeypatch.setattr(timing, "OPERATIONS_A_READ", 0)
    saved = 8 * (6 * 2 / 5 + 3) * 10 - 2 * 2 * 10
    found = timing.seconds_of_example(plan, passes)
    assert found == pytest.approx(expected - saved)
    # Curves of a long study are timed; the rest is by operations.
    monkeypatch.setattr(resources, "seconds_of_curves", lambda plan: 500.0)
    before = resources.count_needs(plan)
    monkeypatch.setattr(resources, "_WORTH_TIMING", 0)
    after = resources.count_needs(plan)
    assert (before.curves, after.curves) == (0, 500)  # too few examples for two cores
    assert after.operations < before.operations
    assert after.seconds(3) == pytest.approx(1500, rel=0.01)


def test_more_interactions_and_looks_along_training_take_more(mnist5k):
    plain = ioca.StudyConfig()
    before = needs_of(plain, mnist5k).results
    some: list[tuple[dict[str, Any], int]] = [
        ({"robustness": True}, 4 * 10 * 3 * 200),
        ({"trajectory_epochs": (0, 1)}, 4 * 2 * 3 * 200),
        ({"interactions": True}, 4 * 7 * 200 * 200),
    ]
    for fields, least in some:
        more = needs_of(dataclasses.replace(plain, **fields), mnist5k).results
        assert before + least <= more <= before + 20 * least, fields
