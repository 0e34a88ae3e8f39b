"""Asks whether gradients rank units as ablation does, in every layer.

  python -m experiments.questions.gradient_ranks --workdir=runs/gradient_ranks

D. Ye, "Hidden Heroes and Gradient Bloats" (arXiv 2602.01442), reports of transformers
on two sequence tasks, over up to ten seeds, that gradients overvalue components of
early layers and undervalue those of late ones, and that ablating overvalued components
together does 14 times the damage that their single ablations predict. Here the units
are hidden units and channels of image classifiers, and each statement is a number for
each network, tested over networks.

The gradient is the norm with respect to the weights into a unit, and the first-order
estimate of its ablation (Taylor). Scores are of the validation split, and choose the
units; every ablation is of the test split. results.md, printed at the end, has the
tables; ranks.csv and together.csv all comparisons. About ten minutes on two CPU cores.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from absl import logging
from jaxtyping import Bool, Float, Int

from experiments.other_tables import about_networks
from ioca_jax.cli.command import Command, option
from ioca_jax.inference.statistics import kendall_tau

from . import studies, verdicts
from .studies import CLAMPS, Networks

OVERVALUED, UNDERVALUED = "overvalued", "undervalued"
JOINT, SUM = "joint exceeds", "sum exceeds"
MORE, LESS = "more than random", "less than random"
SHARES = (0.1, 0.25, 0.5)  # of a scope's units, ablated together
SELECTIONS = ("highest gradient", "most overvalued", "most undervalued", "random")
GRADIENTS = ("weights", "taylor")
_DRAWS = 5
_CONTRAST = "first layer less last layer"


def rank_places(values: Float[np.ndarray, "S H"]) -> Float[np.ndarray, "S H"]:
    """The mean rank of each unit among all of its network, as a share of them."""
    return scipy.stats.rankdata(values, axis=1) / values.shape[1]


def judge_ranks(networks: Networks, effects: Float[np.ndarray, "S A H"]):
    """Rank correlations in each scope, and how far each layer is overvalued.

    ``tau``: Kendall's tau of the gradient and the loss gained by the unit's ablation,
    in the whole network and in each layer. ``overvaluation``: a unit's rank by the
    gradient less its rank by that loss, both as shares of the units of the network,
    mean over a layer; and the first layer's less the last layer's, which is above 0
    where early layers are overvalued beside late ones.
    """
    everything = np.arange(effects.shape[-1])
    scopes = {"network": everything, **networks.layers}
    layers = list(networks.layers)
    rows: list[dict[str, Any]] = []
    values = []

    def add(quantity: str, scope: str, of_networks: np.ndarray) -> None:
        about = {"gradient": gradient, "clamp": clamp, "quantity": quantity}
        rows.append({**about, "scope": scope})
        values.append(of_networks)

    for gradient, (at, clamp) in itertools.product(GRADIENTS, enumerate(CLAMPS)):
        measure = "gradient_norm" if gradient == "weights" else f"taylor_{clamp}"
        scores, costs = networks.score(measure), effects[:, at]
        for scope, own in scopes.items():
            # A layer of equal units has no ranks: that is evidence for neither.
            add("tau", scope, np.nan_to_num(kendall_tau(scores[:, own], costs[:, own])))
        difference = rank_places(scores) - rank_places(costs)
        means = {name: difference[:, own].mean(1) for name, own in scopes.items()}
        for layer in layers:
            add("overvaluation", layer, means[layer])
        add("overvaluation", _CONTRAST, means[layers[0]] - means[layers[-1]])
    table = verdicts.judge(rows, values, "positive", "negative")
    is_over = table["quantity"] == "overvaluation"
    words = {"positive": OVERVALUED, "negative": UNDERVALUED}
    return table.assign(
        verdict=table["verdict"].where(~is_over, table["verdict"].replace(words))
    )


def count_inversions(ranks: pd.DataFrame) -> pd.DataFrame:
    """Of the pairs of layers, in how many the correlation's sign is shown to differ.

    A row per gradient and clamp: ``positive below``: the lower layer's tau is
    significantly above 0 and the upper layer's below; ``negative below``: the reverse;
    ``the same``: both significant and of one sign; ``undecided`` pairs.
    """
    taus = ranks.query("quantity == 'tau' and scope != 'network'")
    found = []
    for gradient, clamp in itertools.product(GRADIENTS, CLAMPS):
        about = {"gradient": gradient, "clamp": clamp}
        is_own = (taus["gradient"] == gradient) & (taus["clamp"] == clamp)
        pairs = list(itertools.combinations(taus["verdict"][is_own], 2))
        number = {
            "positive below": pairs.count(("positive", "negative")),
            "negative below": pairs.count(("negative", "positive")),
            "the same": sum(a == b != verdicts.UNDECIDED for a, b in pairs),
        }
        rest = len(pairs) - sum(number.values())
        found.append({**about, **number, verdicts.UNDECIDED: rest})
    return pd.DataFrame(found)


def choose_units(
    networks: Networks, clamp: str, own: Int[np.ndarray, " n"]
) -> dict[str, Int[np.ndarray, "draws S n"]]:
    """Orders of a scope's units by each selection, first those that it takes first."""
    gradient = networks.score("gradient_norm")
    effect = networks.score(f"ablation_loss_{clamp}")
    over = (rank_places(gradient) - rank_places(effect))[:, own]
    rng = np.random.default_rng(0)
    shuffled = [[rng.permutation(own) for _ in gradient] for _ in range(_DRAWS)]

    def descending(scores: np.ndarray) -> np.ndarray:
        return own[np.argsort(-scores, axis=1, kind="stable")][None]

    chosen = (descending(gradient[:, own]), descending(over), descending(-over))
    return dict(zip(SELECTIONS, (*chosen, np.array(shuffled)), strict=True))


def _sizes(number: int) -> dict[int, float]:
    """How many of a scope's units are ablated together, and as which share."""
    return {max(2, round(share * number)): share for share in SHARES}


def _sets(networks: Networks) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """The sets that are ablated together, as masks [draws, S, A, H] of what is kept."""
    number = networks.model.num_neurons
    for scope, own in {"network": np.arange(number), **networks.layers}.items():
        by_clamp = [choose_units(networks, clamp, own) for clamp in CLAMPS]
        for selection, (size, share) in itertools.product(
            SELECTIONS, _sizes(len(own)).items()
        ):
            orders = np.stack([orders[selection] for orders in by_clamp], axis=2)
            keep = np.ones((*orders.shape[:3], number), bool)
            np.put_along_axis(keep, orders[..., :size], False, axis=-1)
            about = {"scope": scope, "selection": selection}
            yield {**about, "share": share, "units": size}, keep


def judge_together(
    sets: list[tuple[dict[str, Any], Bool[np.ndarray, "draws S A H"]]],
    together: dict[str, Float[np.ndarray, "S A M"]],
    effects: dict[str, Float[np.ndarray, "S A H"]],
) -> pd.DataFrame:
    """What sets of units cost together, less the sum of what each unit costs alone.

    ``together`` has the costs of all draws of all sets, one after another. A row per
    set, clamp and cost: ``joint`` and ``summed``, means over networks, their ``ratio``
    where the sum is positive; ``effect``, joint less summed, with interval and tests;
    ``beside_random``, that less the same of random units, with ``p_beside_random``.
    """
    rows, values, beyond = [], [], []
    for cost, (at, clamp) in itertools.product(("loss", "accuracy"), enumerate(CLAMPS)):
        start, found = 0, []
        for about, keep in sets:
            stop = start + len(keep)
            joint = together[cost][:, at, start:stop].mean(axis=1)
            alone = np.einsum("dsh,sh->s", ~keep[:, :, at], effects[cost][:, at])
            found.append((about, joint, alone / len(keep)))
            start = stop
        random = {
            (about["scope"], about["units"]): joint - summed
            for about, joint, summed in found
            if about["selection"] == "random"
        }
        for about, joint, summed in found:
            means = {"joint": joint.mean(), "summed": summed.mean()}
            rows.append({**about, "cost": cost, "clamp": clamp, **means})
            values.append(joint - summed)
            beyond.append(joint - summed - random[about["scope"], about["units"]])
    table = verdicts.judge(rows, values, JOINT, SUM)
    beside = verdicts.judge(rows, beyond, MORE, LESS)
    return table.assign(
        ratio=np.where(table["summed"] > 0, table["joint"] / table["summed"], np.nan),
        beside_random=beside["effect"],
        p_beside_random=beside["p_corrected"],
        verdict_beside_random=beside["verdict"],
    )


def ask(networks: Networks) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables of a setting's networks."""
    number = networks.model.num_neurons
    sets = list(_sets(networks))
    joint = np.concatenate([keep for _, keep in sets]).transpose(1, 2, 0, 3)
    shape = (*joint.shape[:2], number, number)
    masks = np.concatenate([np.broadcast_to(studies.alone(number), shape), joint], 2)
    costs = studies.ablation_costs(
        networks.model, networks.variables, masks, networks.clamps, networks.test
    )
    effects = {name: cost[..., :number] for name, cost in costs.items()}
    together = {name: cost[..., number:] for name, cost in costs.items()}
    return judge_ranks(networks, effects["loss"]), judge_together(
        sets, together, effects
    )


def _tables(ranks: pd.DataFrame, together: pd.DataFrame, setting: str):
    """What results.md says of a setting."""
    names = ["gradient", "clamp", "scope"]
    taus = ranks.query("quantity == 'tau'")
    over = ranks.query("quantity == 'overvaluation'")
    index = ["cost", "selection", "clamp"]
    quarter = together.query(f"share == {SHARES[1]}")
    quarter = quarter.assign(
        ratio=[f"{r:.1f}" if np.isfinite(r) else "sum ≤ 0" for r in quarter["ratio"]],
        **{name: quarter[name].map("{:.3g}".format) for name in ("joint", "summed")},
    )
    whole = quarter.query("scope == 'network'")
    layers = quarter.query("scope != 'network' and cost == 'loss'")
    chosen = together.query("selection != 'random'")
    chosen = chosen.assign(verdict=chosen["verdict_beside_random"])
    columns = ["selection", "units", "joint", "summed", "ratio"]
    return {
        f"{setting}: rank correlation of gradient and effect, Kendall's tau": (
            verdicts.estimates(taus, names, "tau")
        ),
        f"{setting}: pairs of layers whose correlations differ in sign": (
            count_inversions(ranks)
        ),
        f"{setting}: rank by gradient less rank by effect, share of all units": (
            verdicts.estimates(over, names, "overvaluation")
        ),
        f"{setting}: joint exceeds / sum exceeds / undecided, comparisons": (
            verdicts.counts(together, index, "scope", JOINT, SUM)
        ),
        f"{setting}: joint less sum more / less than of as many random units / "
        "undecided, comparisons": verdicts.counts(chosen, index, "scope", MORE, LESS),
        f"{setting}: a quarter of all units, what they cost together less the sum of "
        "what each costs alone (loss in nats, accuracy as a share)": verdicts.estimates(
            whole, ["cost", "clamp", *columns], "joint less sum", "+.3g"
        ),
        f"{setting}: the same of a quarter of each layer, loss": verdicts.estimates(
            layers, ["clamp", "scope", *columns], "joint less sum", "+.3g"
        ),
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the job."""

    workdir: str = option("runs/gradient_ranks", "Where runs and results.md go.")
    settings: tuple[str, ...] = option((), "Networks to ask: dense, convolution; all.")


def main(options: Options) -> None:
    """Runs what is not finished, and prints the tables."""
    folder, tables, asked, runs = pathlib.Path(options.workdir), {}, [], {}
    for setting in studies.check_settings(options.settings):
        logging.info("setting %s", setting)
        networks = studies.study_networks(setting, folder / setting)
        found = ask(networks)
        asked.append([table.assign(setting=setting) for table in found])
        runs[setting] = networks.results
        tables |= _tables(*found, setting)
    tables["Networks"] = about_networks(runs)
    names = ("ranks", "together")
    data = {
        name: pd.concat(parts, ignore_index=True)
        for name, parts in zip(names, zip(*asked, strict=True), strict=True)
    }
    print(verdicts.write_report(folder, tables, data))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
