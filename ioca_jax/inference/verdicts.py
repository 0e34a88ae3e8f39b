"""What pairs and groups say of redundancy, and of the hypotheses that curves suggest.

Cumulative ablation suggests that neurons are redundant or synergistic; a run with
interactions has looked at pairs and groups directly, by two kinds of *instruments*.
Informational ones count what neurons say of the class together: co-information, and the
redundancy index of groups. Interventional ones ablate two neurons and compare what that
costs with what each alone does. A hypothesis is *confirmed* where both kinds say the
same as it and nothing says the opposite.

One sign everywhere: **positive is redundancy, negative is synergy**. The network is the
unit: a mean over pairs or groups is one number of a network, and means over networks
have intervals and tests as in ``claims``, which refuse too few networks.

Limits. Pair effects in loss are positive a little even of neurons that have nothing to
do with each other, for cross-entropy is convex in the logits; ranks of pairs, and what
sets some neurons apart from others, do not suffer. Co-information is of the class, a
pair effect is of what later layers make of two neurons: they need not agree, and
``correlate_pairs`` says how far they do. Neurons that say much share much whatever
their order, so what is said of a layer's highest ones is beside what its other pairs
show: an interventional instrument therefore speaks of some neurons of a layer only
where they differ from the others. Groups are as large as the examples support, a few
neurons, not a quarter of a layer. A joint information with as few examples as one is
given for, five for each cell of code and class, is still too large by some hundredths
of a bit, which would look like synergy; so groups are judged from
``JUDGED_EXAMPLES_PER_CELL`` = 25 on, where of simulated neurons that are independent
given the class no more than the level is called synergistic.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from ioca_jax.inference.claims import ALPHA, learned, need_seeds, tested
from ioca_jax.inference.comparisons import seeds_needed
from ioca_jax.inference.statistics import (
    correlation_interval,
    significant,
    spearman,
)
from ioca_jax.measures.information import mutual_information_miller_madow
from ioca_jax.results.files import (
    converged,
    in_words,
    neurons_of,
    num_test_examples,
    orderings_of,
)

INFORMATIONAL = ("co-information", "groups")
INTERVENTIONAL = ("pair effects in loss", "pair effects in accuracy")
DIRECTIONS = ("redundant", "synergistic")
JUDGED_EXAMPLES_PER_CELL = 25
LAST_LESS_FIRST = "last less first"

_CO_INFORMATION = "co_information_miller_madow"
_LEAST_FOR_INTERVALS = 3
_EFFECTS = ("loss", "accuracy")
_UNITS = {"loss": "nat", "accuracy": "1"}
_INTERACTIONS = (
    "pair_value",
    "pair_p_value",
    *(f"pair_effect_{name}" for name in _EFFECTS),
    "joint_information_miller_madow",
    "joint_cells",
    "redundancy_index",
    "o_information_with_class",
)


# Pairs --------------------------------------------------------------------------------


def correlate_pairs(results: xr.Dataset) -> pd.DataFrame:
    """Does information know what intervention shows? Ranks pairs by both.

    Over the pairs of each layer of each network; then over networks.

    Args:
        results: a run's results, with interactions.

    Returns:
        A row per layer, clamp, ``pair_measure`` and ``effect_in`` (``loss``,
        ``accuracy``): ``effect``, the mean over networks of Spearman's rank correlation
        between the measure and the pair effect, in [-1, 1], with its interval ``low``
        to ``high``, ``p_value`` and ``p_corrected`` for all rows; and ``networks``,
        those whose pairs are not all alike. Rows without all of them have NaN.

    Raises:
        ValueError: a run without interactions, or too few networks.
    """
    kept = _learned_with_interactions(results)
    measures = kept["pair_measure"].values
    columns = [(str(c), name) for c in kept["clamp"].values for name in _EFFECTS]
    rows, values = [], []
    for layer in np.unique(kept["layer"].values):
        pairs = _pairs_of(kept, layer)
        informational = pairs.take(kept["pair_value"], "pair_measure")
        effects = [
            pairs.take(kept[f"pair_effect_{name}"], "clamp") for name in _EFFECTS
        ]
        by_column = np.stack(effects, axis=2)  # [S, clamps, loss and accuracy, P]
        by_column = by_column.reshape(len(by_column), len(columns), pairs.number)
        rho = spearman(informational[:, :, None], by_column[:, None])
        for column, (clamp, effect_in) in enumerate(columns):
            for index, measure in enumerate(measures):
                of_networks = rho[:, index, column]
                rows.append(
                    {
                        "layer": int(layer),
                        "clamp": clamp,
                        "pair_measure": str(measure),
                        "effect_in": effect_in,
                        "networks": int(np.isfinite(of_networks).sum()),
                    }
                )
                values.append(of_networks)
    return tested(rows, values, interval=correlation_interval)


# What dominates in a layer ------------------------------------------------------------


class _Quantity(NamedTuple):
    """One number of every network that says something of a layer."""

    instrument: str
    unit: str
    clamp: str
    values: Float[np.ndarray, " S"]
    is_judged: bool = True


def joint_behaviour(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """What dominates in each layer, redundancy or synergy, and how that changes.

    Args:
        results: a run's results, with interactions.
        alpha: the level of the tests, of all together.

    Returns:
        A row per ``layer``, ``instrument`` and ``clamp`` (empty where there is none),
        with ``unit``, the mean over networks ``effect``, its interval ``low`` to
        ``high``, ``p_value``, ``p_corrected`` and ``says``: ``redundant``,
        ``synergistic``, ``neither``, or nothing where there is no test: no values, a
        description, or fewer networks than can show anything. Layers are text, and the
        last is ``last less first``, that difference: ``redundant`` is more so than in
        the first. The instruments:

        * ``co-information``: mean over pairs, Miller-Madow, bits;
        * ``significant pairs``: the share of pairs that are significantly redundant
          less that of those significantly synergistic, at 5 % of any in the network;
        * ``redundancy_i_min``, ``synergy_i_min``: means over pairs, bits, plug-in, not
          negative, descriptions without a test (their difference is co-information);
        * ``groups``: the redundancy index less 1, median over random groups of the
          greatest size that has one in every network (and in both layers of a
          difference) and ``JUDGED_EXAMPLES_PER_CELL`` for each of its cells;
        * ``O-information with class``: median over groups, likewise, bits;
        * ``pair effects in loss`` and ``in accuracy``: means over pairs, nats and share
          of the test split.

    Raises:
        ValueError: a run without interactions, or too few networks for an interval.
    """
    kept = _learned_with_interactions(results)
    layers = np.unique(kept["layer"].values).tolist()
    compared = [(str(layer), [layer]) for layer in layers]
    if len(layers) > 1:
        compared.append((LAST_LESS_FIRST, [layers[0], layers[-1]]))
    rows, values, judged = [], [], []
    for name, together in compared:
        first = list(_quantities(kept, together[0], together))
        last = list(_quantities(kept, together[-1], together))
        for one, other in zip(first, last, strict=True):
            about = {"instrument": one.instrument, "clamp": one.clamp, "unit": one.unit}
            rows.append({"layer": name, **about})
            values.append(
                other.values - one.values if len(together) > 1 else one.values
            )
            judged.append(one.is_judged)
    table = _tested_where(judged, rows, values)
    table["says"] = _says(table, alpha, kept.sizes["seed"])
    return table


def _quantities(
    results: xr.Dataset, layer: int, together: Sequence[int]
) -> Iterable[_Quantity]:
    """Of one layer; groups are of a size that all layers ``together`` have."""
    pairs = _pairs_of(results, layer)
    measures = results["pair_measure"].values.tolist()
    found = dict(
        zip(
            measures,
            np.moveaxis(pairs.take(results["pair_value"], "pair_measure"), 1, 0),
            strict=True,
        )
    )
    everything = np.ones((results.sizes["seed"], pairs.number), bool)
    co_information = found[_CO_INFORMATION]
    is_shown = significant(pairs.take(results["pair_p_value"]), ALPHA)
    signs = np.sign(co_information) * is_shown
    mean = _mean_where(co_information, everything)
    yield _Quantity("co-information", "bit", "", mean)
    yield _Quantity("significant pairs", "1", "", _mean_where(signs, everything))
    for name in ("redundancy_i_min", "synergy_i_min"):
        if name in found:
            mean = _mean_where(found[name], everything)
            yield _Quantity(name, "bit", "", mean, is_judged=False)
    index = _median_of_groups(results, "redundancy_index", layer, together)
    yield _Quantity("groups", "1", "", index - 1)
    bits = _median_of_groups(results, "o_information_with_class", layer, together)
    yield _Quantity("O-information with class", "bit", "", bits)
    for clamp in results["clamp"].values:
        for name in _EFFECTS:
            effects = pairs.take(results[f"pair_effect_{name}"].sel(clamp=clamp))
            mean = _mean_where(effects, everything)
            yield _Quantity(f"pair effects in {name}", _UNITS[name], str(clamp), mean)


def _median_of_groups(
    results: xr.Dataset, name: str, layer: int, together: Sequence[int]
) -> Float[np.ndarray, " S"]:
    """Over groups of the greatest size that is judged in all networks and layers.

    An index is a ratio: a mean would be that of the group that says least.
    """
    values = results[name]
    most_cells = results.attrs["num_validation"] // JUDGED_EXAMPLES_PER_CELL
    num_codes, num_classes = results.sizes["code"], results.sizes["class"]
    sizes = [
        size
        for size in values["group_size"].values.tolist()
        if num_codes**size * num_classes <= most_cells
    ]
    scopes = [f"layer_{number}" for number in together]
    has = values.sel(scope=scopes).notnull().any("group").all(("seed", "scope"))
    usable = [size for size in sizes if bool(has.sel(group_size=size))]
    if not usable:
        return np.full(values.sizes["seed"], np.nan)
    of_layer = values.sel(scope=f"layer_{layer}", group_size=max(usable))
    return of_layer.astype(np.float64).median("group").transpose("seed").values


# Hypotheses ---------------------------------------------------------------------------


def weigh_hypotheses(
    results: xr.Dataset, hypotheses: pd.DataFrame, *, alpha: float = ALPHA
) -> pd.DataFrame:
    """Holds what pairs and groups show against what the curves suggest.

    A hypothesis is about the neurons of highest or lowest value of a measure: here the
    quarter of the layer that goes first in that order (at least two neurons). Pairs are
    of such a neuron with any other of its layer. The group is the first k neurons of
    the order, k from 2 to the quarter the greatest that has in every network
    ``JUDGED_EXAMPLES_PER_CELL`` for each cell; its redundancy is what the k say alone,
    summed, less what they say jointly (Miller-Madow, both).

    Args:
        results: a run's results, with interactions.
        hypotheses: out of ``claims.form_hypotheses`` of the same results.
        alpha: the level of the tests, of all together.

    Returns:
        A row per hypothesis (``layer``, ``clamp``, ``measure``, ``end``, ``suggested``,
        which is its verdict) and ``instrument``: ``co-information`` (mean over pairs,
        Miller-Madow, bits), ``groups`` (redundancy, bits),
        ``pair effects in loss`` (nats) and ``in accuracy`` (share) at that clamp; with
        ``unit``; ``neurons``, the size of the quarter or the group (0: none);
        ``effect``, its interval ``low`` to ``high``, ``p_value``, ``p_corrected`` and
        ``says`` as in ``joint_behaviour``; ``beside_others``, the effect less that of
        the layer's pairs without a neuron of the quarter, or, of groups, that of the
        first k of random orders; and ``p_beside_others``, corrected for all rows.
        Pair effects say a direction only where they are further in it than those of the
        others, at the same level.

    Raises:
        ValueError: a run without interactions, too few networks for the level, or a
            hypothesis about an order that the run does not have.
    """
    kept = _learned_with_interactions(results)
    need_seeds(kept, alpha, two_sided=True)
    # At once: by single operations, each would be compiled.
    measure = jax.jit(mutual_information_miller_madow)
    alone = np.asarray(measure(kept["joint_count"].values), np.float64)
    rows, effects, others = [], [], []
    for hypothesis in hypotheses.to_dict("records"):
        about = {
            name: hypothesis[name] for name in ("layer", "clamp", "measure", "end")
        }
        about["suggested"] = hypothesis["verdict"]
        for instrument, unit, neurons, effect, other in _weigh(kept, about, alone):
            rows.append(
                {**about, "instrument": instrument, "unit": unit, "neurons": neurons}
            )
            effects.append(effect)
            others.append(effect - other)
    table = tested(rows, effects)
    table["says"] = _says(table, alpha, kept.sizes["seed"])
    beside = tested(rows, others)
    table["beside_others"] = beside["effect"]
    table["p_beside_others"] = beside["p_corrected"]
    apart = np.sign(table["beside_others"]) == np.sign(table["effect"])
    apart &= significant(table["p_beside_others"].to_numpy(), alpha)
    speaks = table["says"].isin(DIRECTIONS) & table["instrument"].isin(INTERVENTIONAL)
    table.loc[speaks & ~apart, "says"] = "neither"
    return table


_Weighed = tuple[str, str, int, Float[np.ndarray, " S"], Float[np.ndarray, " S"]]


def _weigh(
    results: xr.Dataset, about: Mapping[str, Any], alone: Float[np.ndarray, "S H"]
) -> Iterable[_Weighed]:
    """By instrument, its unit and neurons, and its values here and elsewhere."""
    layer = about["layer"]
    ordered = _order_of(results, layer, about["measure"], about["end"])
    pairs = _pairs_of(results, layer)
    quarter = min(max(2, ordered.shape[1] // 4), ordered.shape[1])
    is_meant = np.zeros(alone.shape, bool)
    np.put_along_axis(is_meant, ordered[:, :quarter], True, axis=1)
    is_pair_meant = is_meant[:, pairs.first] | is_meant[:, pairs.second]

    def of_pairs(instrument: str, unit: str, values: xr.DataArray) -> _Weighed:
        taken = pairs.take(values)
        here, elsewhere = (
            _mean_where(taken, chosen) for chosen in (is_pair_meant, ~is_pair_meant)
        )
        return instrument, unit, quarter, here, elsewhere

    bits = results["pair_value"].sel(pair_measure=_CO_INFORMATION)
    yield of_pairs("co-information", "bit", bits)
    size, here, elsewhere = _group_of(results, about, quarter, alone)
    yield "groups", "bit", size, here, elsewhere
    for name in _EFFECTS:
        effects = results[f"pair_effect_{name}"].sel(clamp=about["clamp"])
        yield of_pairs(f"pair effects in {name}", _UNITS[name], effects)


def _group_of(
    results: xr.Dataset,
    about: Mapping[str, Any],
    quarter: int,
    alone: Float[np.ndarray, "S H"],
) -> tuple[int, Float[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Size of the group that goes first, its redundancy, that of random ones."""
    in_order = (about["measure"], _direction(about["end"]))
    bits = _redundancy_along(results, about["layer"], *in_order, alone)[:, 0]
    usable = np.flatnonzero(np.isfinite(bits).all(axis=0))
    usable = usable[(usable >= 2) & (usable <= quarter)]
    if not usable.size:
        nothing = np.full(len(alone), np.nan)
        return 0, nothing, nothing
    size = int(usable[-1])
    drawn = _redundancy_along(results, about["layer"], "random", "random", alone)
    of_draws = drawn[:, :, size]
    return size, bits[:, size], _mean_where(of_draws, np.isfinite(of_draws))


def _redundancy_along(
    results: xr.Dataset, layer: int, ranked_by: str, direction: str, alone: np.ndarray
) -> Float[np.ndarray, "S orderings points"]:
    """Redundancy of the first k neurons, bits, NaN where it is not judged."""
    where = orderings_of(results, ranked_by, direction)
    scope = f"layer_{layer}"
    joint = results["joint_information_miller_madow"].sel(side="ablated", scope=scope)
    joint = joint.isel(ordering=where).transpose("seed", "ordering", "step").values
    cells = results["joint_cells"].sel(side="ablated", scope=scope).isel(ordering=where)
    cells = cells.transpose("seed", "ordering", "step").values
    enough = cells * JUDGED_EXAMPLES_PER_CELL <= results.attrs["num_validation"]
    order = results["order"].sel(scope=scope).isel(ordering=where)
    order = order.transpose("seed", "ordering", "position").values
    own = np.where(order >= 0, alone[np.arange(len(alone))[:, None, None], order], 0)
    summed = np.cumsum(own, axis=-1)
    known = np.where(enough, joint, np.nan).astype(np.float64)
    return np.concatenate([known[..., :1] * np.nan, summed - known[..., 1:]], axis=-1)


def conclude(weighed: pd.DataFrame) -> pd.DataFrame:
    """What the instruments together say of each hypothesis.

    A direction is *agreed* on where at least one informational and one interventional
    instrument say it, and none says the opposite.

    * *confirmed*: what the curves suggest is agreed on;
    * *contradicted*: its opposite is;
    * *mixed*: some instruments say the one, some the other;
    * *open*: anything else.

    Where the curves suggest nothing, the verdict is the direction agreed on, or
    ``mixed``, or ``open``.

    Args:
        weighed: out of ``weigh_hypotheses``.

    Returns:
        A row per hypothesis: ``layer``, ``clamp``, ``measure``, ``end``,
        ``suggested``; ``redundant``, ``synergistic``, ``neither``: how many instruments
        say so; ``verdict``; ``sentence``.
    """
    keys = ["layer", "clamp", "measure", "end", "suggested"]
    rows = []
    for _, instruments in weighed.groupby(keys, sort=False):
        about = {key: instruments[key].iloc[0] for key in keys}
        said = instruments["says"].tolist()
        counts = {name: said.count(name) for name in (*DIRECTIONS, "neither")}
        verdict = _verdict(
            about["suggested"], dict(zip(instruments["instrument"], said, strict=True))
        )
        sentence = _sentence(about, instruments.to_dict("records"), verdict)
        rows.append({**about, **counts, "verdict": verdict, "sentence": sentence})
    return pd.DataFrame(rows)


def _verdict(suggested: str, said: Mapping[str, str]) -> str:
    everything = set(said.values())
    if everything.issuperset(DIRECTIONS):
        return "mixed"
    for direction in DIRECTIONS:
        saying = {name for name, what in said.items() if what == direction}
        if saying & set(INFORMATIONAL) and saying & set(INTERVENTIONAL):
            if suggested not in DIRECTIONS:
                return direction
            return "confirmed" if direction == suggested else "contradicted"
    return "open"


def _sentence(
    about: Mapping[str, Any],
    instruments: Sequence[Mapping[Hashable, Any]],
    verdict: str,
) -> str:
    """A hypothesis and what became of it, as a researcher could quote it."""
    which = f"the neurons of {about['end']} {in_words(about['measure'])}"
    suggests = (
        f"that {which} are {about['suggested']}"
        if about["suggested"] in DIRECTIONS
        else f"nothing of {which}"
    )
    units = {"bit": " bits", "nat": " nats", "1": ""}
    parts = []
    for what, words in (
        *((direction, direction) for direction in DIRECTIONS),
        ("neither", "nothing"),
        ("", ""),
    ):
        saying = [row for row in instruments if row["says"] == what]
        names = [
            f"{row['instrument']} ({row['effect']:+.2g}{units[row['unit']]})"
            if words
            else str(row["instrument"])
            for row in saying
        ]
        if not names:
            continue
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        is_one = len(saying) == 1 and saying[0]["instrument"] == "co-information"
        verb = ("says" if is_one else "say") if words else ("has" if is_one else "have")
        parts.append(f"{listed} {verb} {words or 'no estimate'}")
    return (
        f"In layer {about['layer']}, clamped to {about['clamp']}, the curves suggest "
        f"{suggests}; of {len(instruments)} instruments {'; '.join(parts)}: {verdict}."
    )


# Through training ---------------------------------------------------------------------


def through_training(results: xr.Dataset) -> pd.DataFrame:
    """What layers say of the class as they are trained.

    Of all networks that did not diverge: those at chance too, which may have memorised.

    Args:
        results: a run's results, with trajectories.

    Returns:
        A row per ``layer`` and ``trajectory_epoch``, means over networks:
        ``test_error`` (share), the median over the layer's neurons of each measure of
        information (``median_MEASURE``, bits), ``layer_entropy``, ``layer_information``
        and ``layer_information_decoded`` (bits), and the median over groups of the
        ``redundancy_index``. NaN where not every network has a value.

    Raises:
        ValueError: a run without trajectories, or whose networks all diverged.
    """
    kept = _converged_with_trajectories(results)
    rows = []
    for layer in kept["hidden_layer"].values:
        courses = {"test_error": _test_errors(kept)}
        courses |= {name: course for name, (course, _) in _courses(kept, layer).items()}
        for index, epoch in enumerate(kept["trajectory_epoch"].values):
            means = {n: float(course[:, index].mean()) for n, course in courses.items()}
            rows.append({"layer": int(layer), "trajectory_epoch": int(epoch), **means})
    return pd.DataFrame(rows)


def trends_of_training(results: xr.Dataset, *, alpha: float = ALPHA) -> pd.DataFrame:
    """Whether what ``through_training`` lists grows or shrinks to the last epoch.

    Args:
        results: a run's results, with trajectories.
        alpha: the level of the tests, of all together.

    Returns:
        A row per ``layer`` (text, ``all`` for the test error), ``quantity``,
        ``from_epoch`` (the first looked at after 0, and 0 where it was) and
        ``to_epoch``: ``unit``; ``effect``, the mean over networks of the difference,
        with its interval ``low`` to ``high``, ``p_value``, ``p_corrected``; and
        ``trend``: ``grows``, ``shrinks``, ``neither``, or nothing where there is no
        test.

    Raises:
        ValueError: a run without trajectories or with a single epoch, or too few
            networks for an interval.
    """
    kept = _converged_with_trajectories(results)
    epochs = kept["trajectory_epoch"].values.tolist()
    *earlier, last = sorted(epochs)
    after = [epoch for epoch in earlier if epoch > 0][:1]
    starts = [epoch for epoch in earlier if epoch == 0] + after
    if not starts:
        raise ValueError(
            f"expected trajectories of at least 2 epochs, got epoch {last} alone; look "
            "at more"
        )
    courses = {
        ("all", "test_error"): (_test_errors(kept), "1"),
        **{
            (str(layer), name): course
            for layer in kept["hidden_layer"].values
            for name, course in _courses(kept, layer).items()
        },
    }
    rows, values = [], []
    for (layer, quantity), (course, unit) in courses.items():
        for start in starts:
            about = {"layer": layer, "quantity": quantity, "unit": unit}
            rows.append({**about, "from_epoch": start, "to_epoch": last})
            ends = epochs.index(last), epochs.index(start)
            values.append(course[:, ends[0]] - course[:, ends[1]])
    table = tested(rows, values)
    words = ("grows", "shrinks")
    table["trend"] = _says(table, alpha, kept.sizes["seed"], words)
    return table


def _courses(
    results: xr.Dataset, layer: int | np.integer
) -> dict[str, tuple[Float[np.ndarray, "S epochs"], str]]:
    """By name, a layer's quantities at every epoch looked at, and their units."""
    of_neurons = results["trajectory_score"].isel(neuron=neurons_of(results, layer))
    found = {}
    for measure in results["measure"].values:
        scores = of_neurons.sel(measure=measure)
        if np.isfinite(scores).any():
            found[f"median_{measure}"] = _by_epoch(scores.median("neuron")), "bit"
    of_layer = results.sel(hidden_layer=layer)
    for name in ("layer_entropy", "layer_information", "layer_information_decoded"):
        found[name] = _by_epoch(of_layer[name]), "bit"
    index = of_layer["layer_redundancy_index"].median("group")
    return found | {"redundancy_index": (_by_epoch(index), "1")}


def _test_errors(results: xr.Dataset) -> Float[np.ndarray, "S epochs"]:
    """From counts of examples, so that equal changes are equal."""
    num_examples = num_test_examples(results)
    accuracy = _by_epoch(results["trajectory_accuracy"])
    return (num_examples - np.rint(accuracy * num_examples)) / num_examples


def _by_epoch(values: xr.DataArray) -> Float[np.ndarray, "S epochs"]:
    return values.transpose("seed", "trajectory_epoch").values.astype(np.float64)


# All of it ----------------------------------------------------------------------------


def tabulate(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame]
) -> dict[str, pd.DataFrame]:
    """Every table that a run has looked at pairs, groups and networks enough for.

    Args:
        results: a run's results.
        tables: out of ``claims.tabulate``.

    Returns:
        By name. With interactions and three networks ``pairs`` and ``joint``, with
        hypotheses and six also ``verdicts`` (a row per hypothesis and instrument) and
        ``conclusions`` (a row per hypothesis); with trajectories ``trajectories``, with
        three networks and two epochs also ``trends``. Empty for a run without.
    """
    found = {}
    try:
        networks = learned(results).sizes["seed"]
    except ValueError:
        networks = 0
    if _has_interactions(results) and networks >= _LEAST_FOR_INTERVALS:
        found["pairs"] = correlate_pairs(results)
        found["joint"] = joint_behaviour(results)
        if "hypotheses" in tables and networks >= seeds_needed(ALPHA):
            found["verdicts"] = weigh_hypotheses(results, tables["hypotheses"])
            found["conclusions"] = conclude(found["verdicts"])
    finished = converged(results).sizes["seed"]
    if "trajectory_score" in results and finished:
        found["trajectories"] = through_training(results)
        enough = finished >= _LEAST_FOR_INTERVALS
        if enough and results.sizes["trajectory_epoch"] > 1:
            found["trends"] = trends_of_training(results)
    return found


class _Pairs(NamedTuple):
    """The pairs of a layer, each once."""

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]

    @property
    def number(self) -> int:
        return len(self.first)

    def take(self, values: xr.DataArray, *between: str) -> Float[np.ndarray, "S *b P"]:
        """Their values, of every network."""
        square = values.transpose("seed", *between, "neuron", "other").values
        return square[..., self.first, self.second].astype(np.float64)


def _pairs_of(results: xr.Dataset, layer: int | np.integer) -> _Pairs:
    of_layer = neurons_of(results, layer)
    first, second = np.triu_indices(len(of_layer), 1)
    return _Pairs(of_layer[first], of_layer[second])


def _order_of(
    results: xr.Dataset, layer: int, measure: str, end: str
) -> Int[np.ndarray, "S K"]:
    """The layer's neurons, those meant first."""
    where = orderings_of(results, measure, _direction(end))
    if not where.size:
        raise ValueError(
            f"hypotheses: expected orders that the run has, got {end} {measure}; form "
            "them from the same results"
        )
    order = results["order"].sel(scope=f"layer_{layer}").isel(ordering=where[0])
    width = len(neurons_of(results, layer))
    return order.transpose("seed", "position").values[:, :width]


def _direction(end: str) -> str:
    return "descending" if end == "highest" else "ascending"


def _tested_where(
    judged: Sequence[bool], rows: Sequence[dict], values: Sequence[np.ndarray]
) -> pd.DataFrame:
    """As ``tested``; rows that are not judged take no part in the correction."""
    tables = []
    for is_judged in set(judged):
        chosen = [n for n, this in enumerate(judged) if this == is_judged]
        table = tested([rows[n] for n in chosen], [values[n] for n in chosen])
        if not is_judged:
            table[["p_value", "p_corrected", "p_bootstrap"]] = np.nan
        tables.append(table.set_index(np.array(chosen)))
    return pd.concat(tables).sort_index()


def _says(
    table: pd.DataFrame,
    alpha: float,
    networks: int,
    words: tuple[str, str] = DIRECTIONS,
) -> np.ndarray:
    """What a two-sided test says, and nothing where it could not have said anything."""
    is_tested = table["p_corrected"].notna() & (networks >= seeds_needed(alpha))
    untold = np.where(is_tested, "neither", "")
    said = np.where(table["effect"] > 0, *words)
    return np.where(
        is_tested & significant(table["p_corrected"].to_numpy(), alpha), said, untold
    )


def _mean_where(
    values: Float[np.ndarray, "S P"], chosen: Bool[np.ndarray, "S P"]
) -> Float[np.ndarray, " S"]:
    """Mean over the chosen, NaN where there are none or one of them is."""
    number = chosen.sum(axis=1)
    total = np.where(chosen, values, 0).sum(axis=1)
    return total / np.where(number > 0, number, np.nan)


def _has_interactions(results: xr.Dataset) -> bool:
    return all(name in results for name in _INTERACTIONS)


def _learned_with_interactions(results: xr.Dataset) -> xr.Dataset:
    if not _has_interactions(results):
        raise ValueError(
            "expected a run with interactions, got one without; run it with "
            "interactions"
        )
    return learned(results)


def _converged_with_trajectories(results: xr.Dataset) -> xr.Dataset:
    if "trajectory_score" not in results:
        raise ValueError(
            "expected a run with trajectories, got one without; run it with "
            "trajectories"
        )
    kept = converged(results)
    if not kept.sizes["seed"]:
        raise ValueError(
            "expected a network that did not diverge, got none; train otherwise"
        )
    return kept
