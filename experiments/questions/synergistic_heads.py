"""Asks whether synergistic heads matter most, and only in trained networks.

  python -m experiments.questions.synergistic_heads --workdir=runs/synergistic_heads

P. Urbina-Rodriguez et al., "A Brain-like Synergistic Core in LLMs Drives Behaviour and
Learning" (arXiv 2601.06851), report of language models that synergy between heads is
greatest in middle layers, that ablating synergistic heads changes behaviour more than
ablating others does, and that randomly initialised networks have no such organisation.
Here twelve small vision transformers with eight heads are trained on 5,000 MNIST
digits; each statement is a number for each network, tested over networks, and of the
same twelve networks before training.

Synergy is measured on the validation split and heads are ablated on the test split.
results.md, printed at the end, has the tables; heads.csv all comparisons. About eight
minutes on two CPU cores.
"""

import dataclasses
import itertools
import pathlib
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Bool, Float, Int

import ioca_jax as ioca
from experiments import vision_transformer
from ioca_jax.cli.command import Command, option
from ioca_jax.inference.statistics import spearman
from ioca_jax.measures.pairs import pair_information, pair_null

from . import studies, verdicts

CLAMPS = ("zero", "mean")
COSTS = ("kl", "loss")
SCORES = ("synergy less redundancy", "synergy", "mutual information")
MORE, LESS = "matter more", "matter less"
_HEADS = ("blocks/*/out:input",)
_CODES = 3
_DRAWS = 3
_CONFIG = {
    "dataset": "mnist5k",
    "num_validation": 1500,
    "num_test": 500,
    "batch_size": 50,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the question."""

    workdir: str = option("runs/synergistic_heads", "Where the tables go.")
    num_networks: int = option(12, "Networks, of seeds 0, 1, ...")
    epochs: int = option(20, "Passes over the 2,500 training digits.")


class Heads(NamedTuple):
    """What heads are scored by, and what it costs to ablate them.

    Attributes:
        scores: by ``SCORES``, float [S, H], bits.
        alone: costs of ablating each head alone, by name [S, A, H].
        along: by score, mean cost over the steps of the descending order less the mean
            over random orders, as a share of the cost of ablating all heads, by name
            [S, A].
        accuracy: of the intact networks [S].
    """

    scores: dict[str, Float[np.ndarray, "S H"]]
    alone: dict[str, Float[np.ndarray, "S A H"]]
    along: dict[str, dict[str, Float[np.ndarray, "S A"]]]
    accuracy: Float[np.ndarray, " S"]


@partial(jax.jit, static_argnames="num_classes")
def score_heads(
    codes: Int[Array, "N H"], labels: Int[Array, " N"], num_classes: int
) -> dict[str, Float[Array, " H"]]:
    """Means over the pairs of each head with the others, less their chance level, bits.

    Synergy less redundancy is the negative co-information, the same by any
    decomposition; synergy is by ``mmi``, which takes the most redundancy, and so the
    most synergy, that a decomposition may have. Both are plug-in values.
    """
    names = ("co_information", "synergy_mmi")
    sizes = {"num_codes": _CODES, "num_classes": num_classes, "measures": names}
    values = pair_information(codes, labels, **sizes)
    null = pair_null(codes, labels, **sizes, key=jax.random.key(0))
    others = 1 - jnp.eye(codes.shape[1])

    def mean_over_others(name: str) -> Array:
        return ((values[name] - null[name]) * others).sum(axis=1) / others[0].sum()

    co_information, synergy = map(mean_over_others, names)
    return {SCORES[0]: -co_information, SCORES[1]: synergy}


def descending_masks(scores: Float[np.ndarray, "S H"]) -> Bool[np.ndarray, "S H H"]:
    """Masks that ablate the head of greatest score, the first two, ..., all."""
    places = np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1)
    return places[:, None] > np.arange(scores.shape[1])[:, None]


def measure_heads(
    network: ioca.Network, variables: Any, data: ioca.Dataset, num_networks: int
) -> Heads:
    """Scores and costs of the heads of all networks."""
    found: list[dict[str, np.ndarray]] = []
    clamps = []
    for seed in range(num_networks):
        one = jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables)
        measured = ioca.measure_neurons(
            *(network, one, *data.validation), quantizer=f"quantile:{_CODES}"
        )
        outputs = network.apply(one, data.validation.x)[1]
        codes = ioca.encode(outputs, measured.edges)
        labels = jnp.asarray(data.validation.y)
        scores = score_heads(codes, labels, network.num_classes)
        scores[SCORES[2]] = measured.scores["mutual_information"]
        found.append(jax.device_get(scores))
        clamps.append(np.stack([0 * measured.clamp, measured.clamp]))
    scores = {name: np.stack([one[name] for one in found]) for name in SCORES}
    size, shape = network.num_neurons, (num_networks, network.num_neurons)
    rng = np.random.default_rng(0)
    orders = [*scores.values(), *(rng.random(shape) for _ in range(_DRAWS))]
    alone = np.broadcast_to(~np.eye(size, dtype=bool), (num_networks, size, size))
    masks = np.concatenate([alone, *map(descending_masks, orders)], axis=1)
    costs = studies.ablation_costs(
        network, variables, masks[:, None], np.stack(clamps), data.test
    )
    intact = [
        ioca.evaluate_masks(
            network,
            jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables),
            np.ones(size, bool),
            clamps[seed][0],
            *data.test,
        ).accuracy
        for seed in range(num_networks)
    ]
    return Heads(
        scores,
        {name: costs[name][..., :size] for name in COSTS},
        {
            score: {name: _beyond_random(costs[name], at, size) for name in COSTS}
            for at, score in enumerate(SCORES)
        },
        np.array(intact, np.float64),
    )


def _beyond_random(
    costs: Float[np.ndarray, "S A M"], at: int, size: int
) -> Float[np.ndarray, "S A"]:
    """The mean cost along an order less that of random orders, beside that of all."""
    by_order = costs[..., size:].reshape(*costs.shape[:2], -1, size)
    means = by_order.mean(axis=-1)
    random = means[..., len(SCORES) :].mean(axis=-1)
    return (means[..., at] - random) / by_order[..., 0, -1]


def judge_heads(trained: Heads, untrained: Heads) -> pd.DataFrame:
    """Whether heads of greater score matter more: one family of tests over networks.

    A row per score, clamp, cost, networks and quantity: ``correlation``, Spearman's, of
    the score with what ablating the head alone costs; ``order``, the mean cost along
    the descending order less that along random orders, as a share of the cost of
    ablating all heads. Untrained networks have no loss to gain: their cost is the
    divergence of the ablated network's output distribution from the intact network's.
    """
    rows, values = [], []
    for score, cost, (at, clamp) in itertools.product(SCORES, COSTS, enumerate(CLAMPS)):
        by_networks = {"trained": trained}
        by_networks |= {"untrained": untrained} if cost == "kl" else {}
        found = {}
        for name, heads in by_networks.items():
            rho = spearman(heads.scores[score], heads.alone[cost][:, at])
            found[name] = {
                "correlation": np.nan_to_num(rho),
                "order": heads.along[score][cost][:, at],
            }
        if cost == "kl":
            found["trained less untrained"] = {
                quantity: found["trained"][quantity] - found["untrained"][quantity]
                for quantity in ("correlation", "order")
            }
        for name, quantities in found.items():
            for quantity, of_networks in quantities.items():
                about = {"networks": name, "score": score, "cost": cost}
                rows.append({**about, "clamp": clamp, "quantity": quantity})
                values.append(of_networks)
    return verdicts.judge(rows, values, MORE, LESS)


def judge_levels(trained: Heads, untrained: Heads) -> pd.DataFrame:
    """The mean over heads of each score, in bits, before and after training."""
    rows, values = [], []
    for score in SCORES:
        means = {
            "trained": trained.scores[score].mean(axis=1),
            "untrained": untrained.scores[score].mean(axis=1),
        }
        means["trained less untrained"] = means["trained"] - means["untrained"]
        for name, of_networks in means.items():
            rows.append({"score": score, "networks": name})
            values.append(of_networks)
    return verdicts.judge(rows, values, "above 0", "below 0")


def main(options: Options) -> None:
    """Trains the networks, measures their heads, and writes the tables."""
    config = ioca.StudyConfig(
        **_CONFIG, seeds=tuple(range(options.num_networks)), epochs=options.epochs
    )
    data = ioca.load_dataset(**config.data_arguments())
    by_networks = {}
    for name, epochs in (("trained", config.epochs), ("untrained", 0)):
        variables = vision_transformer.train(config, data, epochs)
        one = jax.tree.map(lambda leaf: leaf[0], variables)
        network = ioca.trace_network(
            vision_transformer.apply, one, data.test.x, layers=_HEADS
        )
        number = options.num_networks
        by_networks[name] = measure_heads(network, variables, data, number)
        accuracy = by_networks[name].accuracy
        print(
            f"{name}: accuracy {accuracy.mean():.3f} ± {accuracy.std(ddof=1):.3f}",
            flush=True,
        )
    heads = judge_heads(**by_networks)
    levels = judge_levels(**by_networks)
    by = ("networks", "score", "cost")
    tables = {
        f"Tests by verdict: heads of greater score {MORE} / {LESS} / undecided": (
            verdicts.counts(heads, by, "quantity", MORE, LESS)
        ),
        "Whether heads of greater score matter more": verdicts.estimates(
            heads, (*by, "clamp", "quantity"), "mean"
        ),
        "Scores, bits, mean over the heads of a network": verdicts.estimates(
            levels, ("score", "networks"), "mean", "+.4f"
        ),
    }
    folder = pathlib.Path(options.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    print(verdicts.write_report(folder, tables, {"heads": heads, "levels": levels}))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
