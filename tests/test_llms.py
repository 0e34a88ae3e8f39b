"""llms.txt is true: its names and signatures are the library's, its code runs."""

import ast
import inspect
import pathlib
import re

import numpy as np
import pytest

import ioca_jax as ioca

TEXT = (pathlib.Path(__file__).parents[1] / "llms.txt").read_text("utf-8")
SIGNATURES = dict(re.findall(r"^ioca\.(\w+)(\((?:[^()]|\(\))*\))", TEXT, re.MULTILINE))
OF_FLAX = ("parent", "name")  # Flax adds them to modules


def parameters(text: str) -> list[inspect.Parameter]:
    """Of a signature as text; a default that is ``...`` is whatever it is."""
    function = ast.parse(f"def f{text}: pass").body[0]
    namespace: dict = {}
    exec(compile(ast.Module([function], []), "llms.txt", "exec"), namespace)
    return list(inspect.signature(namespace["f"]).parameters.values())


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_those_of_the_library(name):
    real = [
        one
        for one in inspect.signature(getattr(ioca, name)).parameters.values()
        if one.name not in OF_FLAX
        or not hasattr(getattr(ioca, name), "init_with_output")
    ]
    stated = parameters(SIGNATURES[name])
    assert [(one.name, one.kind) for one in stated] == [
        (one.name, one.kind) for one in real
    ]
    for ours, theirs in zip(stated, real, strict=True):
        assert (ours.default is ours.empty) == (theirs.default is theirs.empty)
        if ours.default is not ...:
            assert ours.default == theirs.default, ours.name


def test_every_public_name_is_there_and_no_other():
    named = set(re.findall(r"`?ioca\.(\w+)", TEXT))
    assert named == set(ioca.__all__)


@pytest.fixture(scope="module")
def recipes():
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_recipe_for_one_network_runs(recipes):
    namespace: dict = {}
    exec(compile(recipes[0], "llms.txt", "exec"), namespace)
    correct = namespace["curve"].correct.sum(axis=1)  # of 100 test examples
    np.testing.assert_allclose(namespace["curve"].accuracy, correct / 100, rtol=1e-6)


@pytest.mark.slow
def test_the_recipe_for_many_networks_runs(recipes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    for example in recipes:
        exec(compile(example, "llms.txt", "exec"), namespace)
    assert len(namespace["orders"]) == 24
