"""Every public name has an example in its docstring, and every example runs."""

import doctest
import importlib
import pathlib
import pkgutil

import jax
import numpy as np
import pytest

import ioca_jax as ioca

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(ioca.__path__, "ioca_jax.")
    if not info.name.endswith("__main__")
]
EXAMPLES = {
    test.name: test
    for module in MODULES
    for test in doctest.DocTestFinder().find(module, globs={})
    if test.examples
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Where ``runs/demo`` is, a small run with networks enough for every test."""
    folder = tmp_path_factory.mktemp("examples")
    x = np.random.default_rng(0).normal(size=(300, 2))
    y = (x[:, 0] > 0).astype(int)
    data = ioca.Dataset.from_arrays(x[:200], y[:200], x[200:], y[200:])
    config = ioca.StudyConfig(
        hidden=(4, 3), epochs=5, learning_rate=0.03, random_orders=2, permutations=0
    )
    ioca.run_study(config, folder / "runs" / "demo", data=data, draw=False)
    return folder


def uses(name: str, text: str) -> bool:
    return any(text in example.source for example in EXAMPLES[name].examples)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if uses(name, "runs/") else name
        for name in EXAMPLES
    ],
)
def test_examples_run(name, request, tmp_path, monkeypatch):
    jax.devices()  # use_all_cores then comes too late to change anything
    reads_a_run = uses(name, "runs/demo")
    monkeypatch.chdir(request.getfixturevalue("demo") if reads_a_run else tmp_path)
    found: list[str] = []
    doctest.DocTestRunner().run(EXAMPLES[name], out=found.append)
    assert not found, "".join(found)


def test_every_public_name_has_an_example():
    for name in ioca.__all__:
        found = doctest.DocTestFinder(recurse=False).find(getattr(ioca, name), name)
        assert any(test.examples for test in found), name
