"""Asks whether units matter more once others are gone, and finds backups by it.

  python -m experiments.questions.backups --workdir=runs/backups

Z. Gong et al., "Conditional Co-Ablation" (arXiv 2607.01940), score a unit by the growth
of its ablation effect once a primary set of units has been ablated, and find so the
backup heads of GPT-2 small that single ablations miss (ROC-AUC 0.91 instead of 0.33).
Here growth is asked of trained image classifiers, and of networks written by hand
(``planted_backups``), in which the backups are known, or there are none.

Growth is the effect without the others less the effect in the intact network; effects
are in loss (nats) and in the divergence of output distributions (KL, nats), which needs
no labels. The others are the units of greatest single effect on the loss of the
validation split, random ones, or the planted principals. results.md, printed at the
end, has the tables; growth.csv and roles.csv all comparisons. About ten minutes on two
CPU cores.
"""

import dataclasses
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import pandas as pd
import scipy.stats
from absl import logging
from jaxtyping import Bool, Float

from experiments.other_tables import about_networks
from ioca_jax.cli.command import Command, option

from . import planted_backups, studies, verdicts
from .planted_backups import BACKUPS, ROLES, Planted
from .studies import CLAMPS, Networks

GROWS, SHRINKS = "grows", "shrinks"
FINDS, MISSES = "above chance", "below chance"
_SHARE = 0.1  # of a trained network's units that are gone
_PLANTED = 12  # networks of each kind
_COSTS = ("loss", "kl")
_PRIMARY = ("principals", "greatest effect")


def with_greatest(
    scores: Float[np.ndarray, "*batch H"], number: int
) -> Bool[np.ndarray, "*batch H"]:
    """Where the greatest scores are, the first of equal ones."""
    order = np.argsort(-scores, axis=-1, kind="stable")
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, order[..., :number], True, axis=-1)
    return found


def judge_growth(networks: Networks) -> pd.DataFrame:
    """Whether effects grow in trained networks, mean over the units that are left.

    A row per scope, set that is gone, clamp and cost: ``alone`` and ``after``, means
    over units and networks; ``growing`` and ``shrinking``, the shares of the units;
    ``effect``, the mean growth, with interval, tests and verdict. Rows of the set
    ``greatest effect less random`` compare the growth after the two.
    """
    number = networks.model.num_neurons
    size = max(2, round(_SHARE * number))
    first_order = [networks.score(f"ablation_loss_{clamp}") for clamp in CLAMPS]
    shape = networks.clamps.shape
    drawn = np.random.default_rng(0).random((shape[0], 1, number))
    sets = {
        "greatest effect": np.stack(first_order, axis=1),
        "random": np.broadcast_to(drawn, shape),
    }
    masks = np.broadcast_to(studies.alone(number), (shape[0], 1, number, number))
    about = networks.model, networks.variables
    alone = studies.ablation_costs(*about, masks, networks.clamps, networks.test)
    after = {}
    for name, scores in sets.items():
        gone = with_greatest(scores, size)
        after[name] = studies.costs_once_others_are_gone(
            *about, gone, networks.clamps, networks.test
        )
    scopes = {"network": np.arange(number), **networks.layers}
    rows: list[dict[str, Any]] = []
    values = []
    for (scope, own), cost, (at, clamp) in itertools.product(
        scopes.items(), _COSTS, enumerate(CLAMPS)
    ):
        where = {"scope": scope, "cost": cost, "clamp": clamp}
        before = alone[cost][:, at, own]
        growth = {
            name: found[cost][:, at, own] - before for name, found in after.items()
        }
        for name, values_of in growth.items():
            left = np.isfinite(values_of)
            means = {
                "alone": np.mean(before[left]),
                "after": np.mean(after[name][cost][:, at, own][left]),
                "growing": np.mean(values_of[left] > 0),
                "shrinking": np.mean(values_of[left] < 0),
            }
            rows.append({**where, "gone": name, **means})
            values.append(np.nanmean(values_of, axis=1))
        top, random = (np.nanmean(growth[name], axis=1) for name in sets)
        rows.append({**where, "gone": "greatest effect less random"})
        values.append(top - random)
    return verdicts.judge(rows, values, GROWS, SHRINKS)


def area_under_roc(scores: Float[np.ndarray, " n"], found: Bool[np.ndarray, " n"]):
    """The chance that a unit to find has a greater score than another; ties half."""
    ranks = scipy.stats.rankdata(scores)
    positives = found.sum()
    above = ranks[found].sum() - positives * (positives + 1) / 2
    return above / (positives * (len(scores) - positives))


@dataclasses.dataclass(frozen=True)
class Measured:
    """A planted network's units, of one kind of network and primary set.

    Attributes:
        role: of each unit.
        gone: [A, H], the primary set under each clamp.
        scores: by score and cost, float64 [A, H]; NaN for the primary set.
    """

    role: np.ndarray
    gone: Bool[np.ndarray, "A H"]
    scores: dict[tuple[str, str], Float[np.ndarray, "A H"]]


def measure_planted(planted: Planted, other: Planted) -> dict[str, Measured]:
    """Scores of a network's units, by the primary set that is gone.

    ``other`` has the same network and other examples, on which clamps are measured and
    the units of greatest effect chosen: as many as there are principals.
    """
    model, role = planted.model, planted.role
    variables = jax.tree.map(lambda leaf: leaf[None], planted.variables)
    means = np.asarray(model.apply(planted.variables, other.split.x)[1]).mean(axis=0)
    clamps = np.stack([np.zeros_like(means), means])[None]
    masks = studies.alone(len(role))
    first, alone = (
        studies.ablation_costs(model, variables, masks, clamps, split)
        for split in (other.split, planted.split)
    )
    principals = np.broadcast_to(role == "principal", (1, *first["loss"].shape[1:]))
    chosen = with_greatest(first["loss"], planted_backups.CLASSES)
    found = {}
    for name, gone in zip(_PRIMARY, (principals, chosen), strict=True):
        after = studies.costs_once_others_are_gone(
            model, variables, gone, clamps, planted.split
        )
        scores = {}
        for cost in _COSTS:
            before = np.where(gone, np.nan, alone[cost])[0]
            scores["single effect", cost] = before
            scores["effect after", cost] = after[cost][0]
            scores["growth", cost] = after[cost][0] - before
        found[name] = Measured(role, gone[0], scores)
    return found


def judge_detection(measured: list[dict[str, Measured]]) -> pd.DataFrame:
    """How well each score finds the backups: AUROC over networks, tested against 1/2.

    To find: the units of the roles ``BACKUPS``, among the units that are left.
    """
    rows, values = [], []
    for primary, cost, (at, clamp) in itertools.product(
        _PRIMARY, _COSTS, enumerate(CLAMPS)
    ):
        for score in ("single effect", "effect after", "growth"):
            areas = []
            for found in (of_network[primary] for of_network in measured):
                own = found.scores[score, cost][at]
                left = np.isfinite(own)
                to_find = np.isin(found.role, BACKUPS)[left]
                areas.append(area_under_roc(own[left], to_find) - 0.5)
            about = {"gone": primary, "cost": cost, "clamp": clamp, "score": score}
            rows.append(about)
            values.append(np.array(areas))
    table = verdicts.judge(rows, values, FINDS, MISSES)
    ends = ["effect", "low", "high"]
    return table.assign(**(table[ends] + 0.5))


def judge_roles(measured: list[dict[str, Measured]]) -> pd.DataFrame:
    """Which roles growth flags: the mean growth of each role's units, in every network.

    ``share_of_top``: of the units of greatest growth, as many as there are backups, the
    share of the role; the mean over networks.
    """
    rows, values = [], []
    number = len(BACKUPS) * planted_backups.CLASSES
    for primary, cost, (at, clamp) in itertools.product(
        _PRIMARY, _COSTS, enumerate(CLAMPS)
    ):
        of_networks = [of_network[primary] for of_network in measured]
        growth = np.stack([found.scores["growth", cost][at] for found in of_networks])
        top = with_greatest(np.nan_to_num(growth, nan=-np.inf), number)
        for role in ROLES:
            own = np.stack([found.role == role for found in of_networks])
            left = own & np.isfinite(growth)
            if not left.any(axis=1).all():  # in some network all of them are gone
                continue
            about = {"gone": primary, "cost": cost, "clamp": clamp, "role": role}
            rows.append({**about, "share_of_top": (top & own).sum() / top.sum()})
            values.append(np.where(left, growth, 0).sum(1) / left.sum(1))
    return verdicts.judge(rows, values, GROWS, SHRINKS)


def ask_planted(number: int = _PLANTED) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detection in networks with backups; growth by role in those with and without."""
    measured = {
        kind: [
            measure_planted(
                planted_backups.plant(seed, backups=has),
                planted_backups.plant(seed, backups=has, examples_seed=1),
            )
            for seed in range(number)
        ]
        for kind, has in (("with backups", True), ("without backups", False))
    }
    roles = [
        judge_roles(found).assign(networks=kind) for kind, found in measured.items()
    ]
    return judge_detection(measured["with backups"]), pd.concat(roles)


def _tables(detection: pd.DataFrame, roles: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What results.md says of planted networks."""
    index = ["networks", "role"]
    shown = roles.query("gone == 'principals' and cost == 'kl' and clamp == 'zero'")
    shown = shown.assign(share_of_top=shown["share_of_top"].map("{:.2f}".format))
    names = ["gone", "cost", "clamp", "score"]
    by = roles.assign(by=roles["gone"] + ", " + roles["cost"])
    return {
        "Planted backups: area under the ROC of finding them": verdicts.estimates(
            detection, names, "AUROC", ".3f"
        ),
        "Planted networks: growth by role, grows / shrinks / undecided over clamps": (
            verdicts.counts(by, index, "by", GROWS, SHRINKS)
        ),
        "Planted networks: growth in KL without the principals, zero clamp, nats": (
            verdicts.estimates(shown, [*index, "share_of_top"], "growth", "+.2g")
        ),
    }


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the job."""

    workdir: str = option("runs/backups", "Where runs and results.md go.")
    settings: tuple[str, ...] = option((), "Networks to ask: dense, convolution; all.")


def main(options: Options) -> None:
    """Runs what is not finished, and prints the tables."""
    folder = pathlib.Path(options.workdir)
    logging.info("planted networks")
    detection, roles = ask_planted()
    tables, asked, runs = _tables(detection, roles), [], {}
    for setting in studies.check_settings(options.settings):
        logging.info("setting %s", setting)
        networks = studies.study_networks(setting, folder / setting)
        growth = judge_growth(networks)
        runs[setting] = networks.results
        asked.append(growth.assign(setting=setting))
        names = ["scope", "gone", "cost", "clamp"]
        shares = ["alone", "after", "growing", "shrinking"]
        text = growth.assign(
            **{name: growth[name].map("{:.2g}".format) for name in shares}
        ).replace("nan", "")
        title = f"{setting}: growth once others are gone, nats, mean over units"
        tables[title] = verdicts.estimates(text, [*names, *shares], "growth", "+.2g")
    tables["Networks"] = about_networks(runs)
    data = {"growth": pd.concat(asked), "roles": roles, "detection": detection}
    print(verdicts.write_report(folder, tables, data))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
