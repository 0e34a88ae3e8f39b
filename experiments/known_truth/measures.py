"""Which measures find the planted units, and what their orders lose.

AUROC is the chance that a planted unit has a higher score than a unit of no importance,
ties counted half. Order regret is by how much the ascending order of a measure is below
the order by planted importance, in normalised area under the accuracy curve.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Bool, Float

import ioca_jax as ioca
from ioca_jax.checks import number_counted
from ioca_jax.inference.areas import normalized_area
from ioca_jax.inference.statistics import kendall_tau
from ioca_jax.study.clamps import constant_clamps
from ioca_jax.study.config import UNITS as MEASURES
from ioca_jax.study.inputs import Inputs
from ioca_jax.study.orders import draw_orders, orderings_of, ranked_orders
from ioca_jax.study.plan import Request
from ioca_jax.study.scores import score_neurons

from .networks import Planted
from .weights import KINDS, UNITS

ORACLE, RANDOM = "planted importance", "random numbers"
ALL = "important"
NOTHING = ("irrelevant", "constant", "dead")
CLAMPS = ("zero", "mean")
Rows = list[dict[str, Any]]
_DRAWS = 10


class _FirstLayer(Inputs):
    """The inputs of a study of the planted layer alone."""

    @property
    def scopes(self) -> dict[str, np.ndarray]:
        return dict(list(self.plan.scopes.items())[1:2])  # after the whole network


def measures_of(network: ioca.Network, own: tuple[str, ...]) -> tuple[str, ...]:
    """All measures of the library that a network has, and the user's own."""
    lacking = set()
    if network.chain(-1) is None:
        lacking.add("incoming_weight_norm")
    if network.chain(0) is None:
        lacking.add("outgoing_weight_norm")
    return tuple(name for name in (*MEASURES, *own) if name not in lacking)


def auroc(scores: Float[np.ndarray, " H"], positive: Bool[np.ndarray, " H"]) -> float:
    """Chance that a positive unit has the higher score, ties counted half."""
    ranks = scipy.stats.rankdata(scores)
    wins = ranks[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return float(wins / (positive.sum() * (~positive).sum()))


def find_planted(planted: Planted, own: tuple[str, ...]) -> Rows:
    """A row per network, measure and quantity: AUROC by kind, tau, regret by clamp."""
    seeds = tuple(range(len(planted.places)))
    config = ioca.StudyConfig(
        seeds=seeds,
        measures=measures_of(planted.network, own),
        random_orders=_DRAWS,
        permutations=0,
    )
    request = Request.of(
        config,
        data=planted.data,
        network=planted.network,
        variables=planted.variables,
    )
    plan = request.plan()
    assert plan.given is not None
    inputs = _FirstLayer.of(plan, plan.given.take(seeds, seeds))
    scores, curves = _scores_and_curves(inputs, planted)
    rows = []
    for measure, values in scores.items():
        for place in seeds:
            about = {"architecture": planted.name, "measure": measure, "network": place}
            found = _of_network(planted, values[place], place)
            found |= {name: area[place] for name, area in curves[measure].items()}
            rows += [about | {"quantity": q, "value": v} for q, v in found.items()]
    return rows


def _of_network(planted: Planted, scores: np.ndarray, place: int) -> dict[str, float]:
    """AUROC by kind against units of no use; tau with the sizes of graded units."""
    kind_at = np.empty(len(UNITS), object)
    kind_at[planted.places[place]] = [unit.kind for unit in UNITS]
    importance = planted.importance()[place]
    found = {ALL: auroc(scores, importance > 0)}
    for kind in KINDS:
        if kind not in NOTHING:
            among = np.isin(kind_at, (kind, *NOTHING))
            found[kind] = auroc(scores[among], kind_at[among] == kind)
    graded = kind_at == "graded"
    found["tau of graded"] = float(kendall_tau(scores[graded], importance[graded]))
    return found


@partial(jax.jit, static_argnames=("network", "quantizer", "measures", "number"))
def _measure(network, variables, split, *, quantizer, measures, number):
    options = {"quantizer": quantizer, "measures": measures, "num_counted": number}
    return jax.lax.map(
        lambda one: ioca.measure_neurons(network, one, *split, **options), variables
    )


def _scores_and_curves(inputs: Inputs, planted: Planted) -> Any:
    """Scores [S, H1] by measure, and regret [S] of their ascending orders by clamp."""
    plan, trained = inputs.plan, inputs.trained
    statistics = _measure(
        *(inputs.network, trained.variables, inputs.validation),
        quantizer=plan.quantizer,
        measures=plan.scores,
        number=number_counted(inputs.validation.y),
    )
    constants = constant_clamps(inputs, statistics.clamp)
    ((scope, neurons),) = inputs.scopes.items()
    drawn = {scope: draw_orders(inputs.seeds, neurons, orderings_of((), _DRAWS), 1)}
    scores = dict(score_neurons(inputs, statistics, constants, drawn).of_layers)
    rng = np.random.default_rng(len(scores))
    extra = {
        ORACLE: planted.importance(),
        RANDOM: rng.normal(size=planted.places.shape),
    }
    for name, values in extra.items():
        of_others = ((0, 0), (0, inputs.network.num_neurons - values.shape[1]))
        scores[name] = jnp.asarray(np.pad(values, of_others), jnp.float32)
    scores = {name: scores[name] for name in (*plan.units, *extra)}
    ascending = [
        one for one in orderings_of(list(scores), 0) if one.direction == "ascending"
    ]
    ties = draw_orders(inputs.seeds, neurons, ascending, 1)
    orders = ranked_orders(scores, ties, ascending)
    clamps = jnp.stack([constants[name] for name in CLAMPS], axis=1)
    curves = ioca.ablation_curves(
        *(inputs.network, trained.variables, orders[:, None], clamps[:, :, None]),
        *inputs.test,
        layers=inputs.layers_of(scope),
    )
    accuracy = np.asarray(curves.accuracy, np.float64)
    area = ioca.area_under_curve(accuracy)
    normalised = normalized_area(area, accuracy[..., 0], 0.5)
    width = planted.places.shape[1]
    oracle = normalised[..., list(scores).index(ORACLE)]
    regret = {}
    for index, name in enumerate(scores):
        lost = oracle - normalised[..., index]
        regret[name] = {f"regret, {c}": lost[:, at] for at, c in enumerate(CLAMPS)}
    return {n: np.asarray(v)[:, :width] for n, v in scores.items()}, regret
