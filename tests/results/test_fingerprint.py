"""What networks compute, compared as texts."""

import json
import pathlib

import numpy as np
import pytest

from ioca_jax.results.fingerprint import difference, make_fingerprint
from ioca_jax.results.pieces import join_seeds
from ioca_jax.study.chunks import StoredChunk

LOGITS = np.random.default_rng(0).normal(5, 2, (64, 10))
LAYERS = {"a": np.random.default_rng(1).normal(size=(64, 33)), "b": np.zeros((64, 2))}


def text(place="here", program="p", logits=LOGITS, layers=LAYERS):
    return make_fingerprint(place, program, logits, layers)


@pytest.mark.parametrize(
    ("place", "program", "allowed"),
    [("here", "q", 1e-5), ("here", "p", 0.02), ("there", "q", 0.02)],
)
def test_what_may_differ_depends_on_what_is_the_same(place, program, allowed):
    # Every number is off by the same share of the standard deviation.
    moved = np.where(np.arange(640).reshape(64, 10) % 2, 1, -1) * LOGITS.std() * allowed
    near, far = (text(place, program, LOGITS + f * moved) for f in (0.9, 1.1))
    assert difference(text(), near) is None
    assert difference(text(), far) == difference(far, text()) == "other logits"


def test_layers_are_compared_by_name():
    assert difference(text(), text(program="q")) is None
    for name, other in (
        ("a", np.abs(LAYERS["a"])),
        ("b", np.full((64, 2), 1e-9)),  # was 0 throughout
    ):
        found = difference(text(), text(program="q", layers=LAYERS | {name: other}))
        assert found == f"other activations of layer {name}"
    assert difference(text(), text(layers=LAYERS | {"c": LOGITS})) == "other layers"


def test_infinite_logits_are_numbers_like_others():
    """Those of classes that a network excludes."""
    masked = np.where(np.arange(10) == 3, -np.inf, LOGITS)
    other = np.where(np.arange(10) == 4, -np.inf, LOGITS)
    assert difference(text(logits=masked), text("there", logits=masked)) is None
    assert difference(text(logits=masked), text(logits=other)) == "other logits"


def test_earlier_versions_have_none():
    assert difference(None, text()) is None
    assert difference(text(), None) is None


def test_large_networks_are_sampled():
    """HDF5 holds attributes of 64 kB; one neuron in a hundred that differs is seen."""
    wide = {f"blocks/{i}/mlp": np.ones((64, 100)) for i in range(200)}
    logits = np.random.default_rng(2).normal(size=(64, 5000))
    whole = make_fingerprint("", "p", logits, wide)
    assert len(whole) < 60_000
    changed = logits * np.where(np.arange(5000) % 100, 1, 0.5)
    other = make_fingerprint("", "q", changed, wide)
    assert difference(whole, other) == "other logits"
    assert len(json.loads(whole)["outputs"]["logits"]) == 1001


def part(seed, **attrs):
    places = dict.fromkeys(("versions", "source_revision", "device"), "")
    return StoredChunk(pathlib.Path(), (seed,), places | attrs)


def test_parts_of_two_functions_are_not_joined():
    ours, theirs = text(), text(program="q", logits=np.sin(LOGITS))
    older, first, other = (
        part(seed, **fingerprint)
        for seed, fingerprint in enumerate(
            ({}, {"fingerprint": ours}, {"fingerprint": theirs})
        )
    )
    assert join_seeds([older, first], (0, 1)).attrs["fingerprint"] == ours
    assert "fingerprint" not in join_seeds([older], (0,)).attrs
    with pytest.raises(ValueError, match=".") as caught:
        join_seeds([older, first, other], (0, 1, 2))
    assert str(caught.value) == (
        "expected parts of one set of networks, got some with the same variables and "
        "other logits; compute all with one function"
    )
