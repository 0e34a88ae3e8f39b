"""A learned order is an order of a study, and others' regret is told against it."""

import dataclasses

import jax
import numpy as np
import pytest
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.ablation import learned

CONFIG = dataclasses.replace(
    TINY, measures=("entropy", "learned_mean"), random_orders=1, epochs=30,
    learning_rate=0.03, activation="tanh",
)  # fmt: skip
GIVEN = own_data()
DATA = ioca.Dataset(
    "learnable",
    *(
        ioca.Split(x, (x[:, 0] > x[:, 1]).astype(np.int32))
        for x, _ in (GIVEN.train, GIVEN.validation, GIVEN.test)
    ),
    num_classes=2,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learned, "_STEPS", 60)
        folder = tmp_path_factory.mktemp("learned") / "run"
        ioca.run_study(CONFIG, folder, data=DATA, draw=False)
        yield folder


def test_it_is_learned_on_the_validation_split_alone(folder):
    results, (model, variables) = ioca.load_results(folder), ioca.load_networks(folder)
    assert model is not None
    x, y = DATA.validation
    network = jax.tree.map(lambda leaf: leaf[0], variables)
    clamp = ioca.measure_neurons(model, network, x, y).clamp
    for index, neurons in ((0, np.arange(7)), (2, np.arange(4, 7))):
        key = jax.random.fold_in(jax.random.key(CONFIG.seeds[0]), index)
        order = ioca.learned_order(
            model, network, x, y, clamp, key=key, neurons=neurons
        )
        stored = results["order"].isel(seed=0, scope=index)
        stored = stored.sel(ordering="learned_mean_ascending").values
        assert stored[stored >= 0].tolist() == order.tolist()
    assert results["unit"].values.tolist() == ["bit", "rank"]


def test_the_run_tells_the_regret(folder):
    table = ioca.load_table(folder / "tables" / "regret.csv")
    assert {*table["ranked_by"]} == {"entropy", "random"}
    assert {*table["quantity"]} == {"CPR", "normalised area"}
    summary = (folder / "summary.txt").read_text()
    assert "Order regret" in summary
    page = (folder / "report.html").read_text()
    assert 'data-table="regret"' in page
    assert "the order learned on the validation split (clamped to mean)" in page
