"""Growth of effects and planted backups, against networks run in NumPy."""

import jax
import numpy as np
import pytest
import reference
import xarray as xr
from sklearn.metrics import roc_auc_score

import ioca_jax as ioca
from experiments.questions import backups, planted_backups, studies
from experiments.questions.planted_backups import BACKUPS, ROLES, plant

EXAMPLES = 200


def shares(model, variables, keep, clamp, x) -> np.ndarray:
    logits, _ = reference.forward(model, variables, x, keep, clamp)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def costs_by_hand(model, variables, gone, clamp, split) -> dict[str, np.ndarray]:
    """What each further unit costs, in loss and in divergence, unit by unit."""
    keep = ~gone
    before = shares(model, variables, keep, clamp, split.x)
    own = np.arange(len(split.y)), np.asarray(split.y)
    found: dict[str, list[float]] = {"loss": [], "kl": []}
    for unit in range(len(gone)):
        without = keep & (np.arange(len(gone)) != unit)
        after = shares(model, variables, without, clamp, split.x)
        found["loss"].append(float(np.log(before[own] / after[own]).mean()))
        divergence = before * np.log(before / after)
        found["kl"].append(divergence.sum(axis=1).mean())
    return {name: np.array(values) for name, values in found.items()}


@pytest.fixture(scope="module")
def planted():
    return [plant(3, examples_seed=seed, num_examples=EXAMPLES) for seed in (0, 1)]


@pytest.fixture(scope="module")
def measured(planted):
    return backups.measure_planted(*planted)


def test_backups_are_dormant_until_their_principals_are_gone(planted):
    """Without the noise that is added to weights, exactly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planted_backups, "_JITTER", 0.0)
        exact = plant(3, num_examples=EXAMPLES)
    keep = exact.role != "principal"
    _, intact = reference.forward(exact.model, exact.variables, exact.split.x)
    zeros = np.zeros(len(keep))
    _, ablated = reference.forward(
        exact.model, exact.variables, exact.split.x, keep, zeros
    )
    is_backup, is_reserve = exact.role == "backup", exact.role == "reserve"
    assert not intact[:, is_backup].any()
    np.testing.assert_array_equal(ablated[:, is_backup], ablated[:, is_reserve])
    assert set(exact.role) == set(ROLES)
    without = plant(3, backups=False, num_examples=EXAMPLES)
    out = np.asarray(without.variables["params"]["dense_2"]["kernel"])
    assert abs(out[is_backup[-len(out) :]]).max() < 0.2  # noise alone
    assert (exact.split.x != plant(4, num_examples=EXAMPLES).split.x).any()


@pytest.mark.parametrize("primary", ["principals", "greatest effect"])
def test_growth_is_that_of_numpy(planted, measured, primary):
    (network, other), found = planted, measured[primary]
    nothing = np.zeros(len(network.role), bool)
    _, outputs = reference.forward(network.model, network.variables, other.split.x)
    clamps = np.stack([np.zeros(len(nothing)), outputs.mean(axis=0)])
    for at, clamp in enumerate(clamps):
        about = network.model, network.variables
        gone = network.role == "principal"
        if primary == "greatest effect":
            first = costs_by_hand(*about, nothing, clamp, other.split)["loss"]
            gone = np.isin(np.arange(len(gone)), np.argsort(-first)[:4])
        np.testing.assert_array_equal(found.gone[at], gone)
        alone = costs_by_hand(*about, nothing, clamp, network.split)
        after = costs_by_hand(*about, gone, clamp, network.split)
        for cost in ("loss", "kl"):
            growth = np.where(gone, np.nan, after[cost] - alone[cost])
            np.testing.assert_allclose(
                found.scores["growth", cost][at], growth, atol=3e-6
            )
            np.testing.assert_allclose(
                found.scores["single effect", cost][at][~gone],
                alone[cost][~gone],
                atol=3e-6,
            )


def test_areas_and_roles_are_those_of_scikit_learn(measured):
    """Six networks that are one network, moved a little: the tests need six."""
    rng = np.random.default_rng(0)
    several = []
    for _ in range(6):
        moved = {
            name: backups.Measured(
                found.role,
                found.gone,
                {
                    key: s + 1e-4 * rng.normal(size=s.shape)
                    for key, s in found.scores.items()
                },
            )
            for name, found in measured.items()
        }
        several.append(moved)
    table = backups.judge_detection(several).set_index(
        ["gone", "cost", "clamp", "score"]
    )
    assert len(table) == 2 * 2 * 2 * 3
    row = table.loc[("principals", "kl", "zero", "growth")]
    areas = []
    for moved in several:
        scores = moved["principals"].scores["growth", "kl"][0]
        left = np.isfinite(scores)
        labels = np.isin(moved["principals"].role, BACKUPS)
        areas.append(roc_auc_score(labels[left], scores[left]))
    assert row["effect"] == pytest.approx(np.mean(areas))
    assert row["low"] <= np.mean(areas) <= row["high"]
    assert row["verdict"] == "above chance"
    assert table.loc[("principals", "kl", "zero", "single effect"), "effect"] < 0.5

    roles = backups.judge_roles(several)
    of_backups = roles.query(
        "gone == 'principals' and clamp == 'zero' and cost == 'kl'"
    )
    effects = dict(zip(of_backups["role"], of_backups["effect"], strict=True))
    verdicts = dict(zip(of_backups["role"], of_backups["verdict"], strict=True))
    assert effects.keys() == set(ROLES) - {"principal"}
    growth = [
        moved["principals"].scores["growth", "kl"][0][
            moved["principals"].role == "backup"
        ]
        for moved in several
    ]
    assert effects["backup"] == pytest.approx(np.mean(growth))
    assert verdicts["backup"] == "grows"
    assert verdicts["passes principal"] == "shrinks"
    assert sum(of_backups["share_of_top"].tolist()) == pytest.approx(1)


def test_growth_in_trained_networks_is_that_of_numpy():
    rng = np.random.default_rng(1)
    model, seeds = ioca.MLP(hidden=(5, 4), num_classes=3), 6
    x = rng.normal(size=(60, 6)).astype(np.float32)
    split = ioca.Split(x, (np.arange(60) % 3).astype(np.int32))
    keys = jax.random.split(jax.random.key(1), seeds)
    variables = jax.vmap(lambda key: model.init(key, x))(keys)
    measures = [f"ablation_loss_{clamp}" for clamp in studies.CLAMPS]
    score = rng.random((seeds, 2, 9))
    results = xr.Dataset(
        {"score": (("seed", "measure", "neuron"), score)}, {"measure": measures}
    )
    clamps = rng.random((seeds, 2, 9)).astype(np.float32)
    networks = studies.Networks(results, model, variables, clamps, split)
    table = backups.judge_growth(networks)
    assert len(table) == 3 * 3 * 2 * 2
    growths, alone = [], []
    for seed in range(seeds):
        one = jax.tree.map(lambda leaf, seed=seed: np.asarray(leaf[seed]), variables)
        gone = np.isin(np.arange(9), np.argsort(-score[seed, 1])[:2])
        about = model, one
        before = costs_by_hand(*about, np.zeros(9, bool), clamps[seed, 1], split)
        after = costs_by_hand(*about, gone, clamps[seed, 1], split)
        upper = ~gone & (np.arange(9) >= 5)
        growths.append((after["kl"] - before["kl"])[upper])
        alone.append(before["kl"][upper])
    (row,) = table.query(
        "scope == 'layer_2' and gone == 'greatest effect' and cost == 'kl' "
        "and clamp == 'mean'"
    ).to_dict("records")
    assert row["effect"] == pytest.approx(
        np.mean([g.mean() for g in growths]), abs=2e-6
    )
    together = np.concatenate(growths)
    assert row["growing"] == pytest.approx((together > 1e-7).mean())
    assert row["shrinking"] == pytest.approx((together < -1e-7).mean())
    assert row["alone"] == pytest.approx(np.concatenate(alone).mean(), abs=2e-6)
