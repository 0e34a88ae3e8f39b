"""The tables of a run: each one's name and title, what it needs, how it is told.

The page, the summary, the findings and the CSV files all read this list.
"""

import os
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference.annotations import compare_values
from ioca_jax.inference.claims import judge_claims
from ioca_jax.inference.class_damage import predict_class_damage
from ioca_jax.inference.comparisons import seeds_needed
from ioca_jax.inference.faithful_orders import (
    compare_faithfulness,
    compare_regret,
    has_learned,
)
from ioca_jax.inference.families import (
    ALPHA,
    check_results,
    networks_in_tests,
    rankings,
    too_few_for_tests,
)
from ioca_jax.inference.hypotheses import form_hypotheses
from ioca_jax.inference.interactions import (
    INTERACTIONS,
    LEAST_FOR_INTERVALS,
    correlate_pairs,
    joint_behaviour,
)
from ioca_jax.inference.neurons import compare_variants, count_neurons
from ioca_jax.inference.order_tests import (
    compare_orders,
    correlate_effects,
    difference_curves,
)
from ioca_jax.inference.self_repair import measure_self_repair
from ioca_jax.inference.trajectories import trajectory_table, trends_of_training
from ioca_jax.inference.verdicts import conclude, judge_hypotheses
from ioca_jax.report import columns as descriptions
from ioca_jax.report import sections
from ioca_jax.report.findings import (
    Rows,
    annotation_sentences,
    area_sentences,
    conclusion_sentences,
    effect_sentences,
    error_sentence,
    faithfulness_sentences,
    joint_sentences,
    judged_claims,
    neuron_sentences,
    order_sentences,
    regret_sentences,
    trend_sentences,
)
from ioca_jax.results.subsets import converged

Tables = Mapping[str, pd.DataFrame]
_RANDOM, _PAPER, _EPOCHS = "random orders", "the paper's measures", "several epochs"
_LEARNED = "a learned order"
_SIGNIFICANT = seeds_needed(ALPHA)
HEADINGS = (
    "Accuracy",
    "Neurons",
    "Annotations",
    "Claims of the paper",
    "Pairs and groups",
    "Training",
)
"""Of the findings, most general first."""


class Table(NamedTuple):
    """One table of a run.

    Attributes:
        name: of its CSV file too.
        title: what it shows.
        columns: what each of its columns means.
        make: from a run's results and the tables before it.
        needs: variables, tables before it, or other things that a run must have.
        networks: the fewest that it is made for.
        at_chance: whether networks that are no better than chance count.
        heading: under which its findings stand.
        sentences: its findings, from its rows.
        section: its part of the summary, from title and table.
        on_page: whether the page shows it as a table, and not only as a chart.
    """

    name: str
    title: str
    columns: descriptions.Columns
    make: Callable[[xr.Dataset, Tables], pd.DataFrame]
    needs: tuple[str, ...] = ()
    networks: int = 1
    at_chance: bool = False
    heading: str = ""
    sentences: Callable[[Rows], Iterable[str]] | None = None
    section: Callable[[str, pd.DataFrame], list[str]] | None = None
    on_page: bool = True


TABLES = (
    Table(
        "neurons",
        "Number of neurons that are dead, always on, or informative by a permutation "
        "test, mean over networks",
        descriptions.NEURONS,
        lambda results, _: count_neurons(results),
        needs=("joint_count",),
        heading="Neurons",
        sentences=neuron_sentences,
        section=sections.neurons,
    ),
    Table(
        "variants",
        "Spearman's rho within the layer, of each measure with its variants: other "
        "quantisers and other examples",
        descriptions.VARIANTS,
        lambda results, _: compare_variants(results),
        needs=("variant_score",),
        section=sections.variants,
    ),
    Table(
        "orders",
        "Orders compared with random order: normalised area under the accuracy curve",
        descriptions.ORDERS,
        lambda results, _: compare_orders(results),
        needs=(_RANDOM,),
        networks=LEAST_FOR_INTERVALS,
        heading="Accuracy",
        sentences=order_sentences,
    ),
    Table(
        "differences",
        "Accuracy less that of random order, by number of ablated neurons",
        descriptions.DIFFERENCES,
        lambda results, _: difference_curves(results),
        needs=(_RANDOM,),
        networks=LEAST_FOR_INTERVALS,
        on_page=False,
    ),
    Table(
        "faithfulness",
        "Faithfulness of the neurons that ascending orders keep: CPR and CMD by "
        "metric, compared with random order",
        descriptions.FAITHFULNESS,
        lambda results, _: compare_faithfulness(results),
        networks=LEAST_FOR_INTERVALS,
        heading="Accuracy",
        sentences=faithfulness_sentences,
        section=sections.faithfulness,
    ),
    Table(
        "regret",
        "Order regret: CPR and normalised area of the learned order, less those of "
        "each ascending order and of random order",
        descriptions.REGRET,
        lambda results, _: compare_regret(results),
        needs=(_LEARNED,),
        networks=LEAST_FOR_INTERVALS,
        heading="Accuracy",
        sentences=regret_sentences,
        section=sections.regret,
    ),
    Table(
        "annotations",
        "Accuracy that examples of a value of an annotation lose along an order, less "
        "that of examples of the other values",
        descriptions.ANNOTATIONS,
        lambda results, _: compare_values(results),
        needs=("correct_by_value",),
        networks=LEAST_FOR_INTERVALS,
        heading="Annotations",
        sentences=annotation_sentences,
        section=sections.annotations,
    ),
    Table(
        "effects",
        "Kendall's tau-b within the layer, of each measure with the increase of the "
        "test loss when one neuron is ablated",
        descriptions.EFFECTS,
        lambda results, _: correlate_effects(results),
        needs=(_RANDOM,),
        networks=LEAST_FOR_INTERVALS,
        heading="Neurons",
        sentences=effect_sentences,
        section=sections.effects,
    ),
    Table(
        "class_damage",
        "Rank correlation of a neuron's selectivity for a class with the accuracy lost "
        "in that class when it alone is ablated, mean over classes and networks",
        descriptions.CLASS_DAMAGE,
        lambda results, _: predict_class_damage(results),
        needs=(_RANDOM, "joint_count"),
        networks=LEAST_FOR_INTERVALS,
        section=sections.class_damage,
    ),
    Table(
        "self_repair",
        "Rise of the loss (nats) when one neuron is ablated: in total, and directly, "
        "with later layers held; means over a layer's neurons and over networks",
        descriptions.SELF_REPAIR,
        lambda results, _: measure_self_repair(results),
        needs=("direct_loss",),
        networks=LEAST_FOR_INTERVALS,
        section=sections.self_repair,
    ),
    Table(
        "hypotheses",
        "Hypotheses on redundancy and synergy that curves suggest",
        descriptions.HYPOTHESES,
        lambda results, _: form_hypotheses(results),
        needs=(_RANDOM,),
        networks=seeds_needed(ALPHA, two_sided=False),
        section=sections.hypotheses,
    ),
    Table(
        "pairs",
        "Spearman's rho over the pairs of a layer, of each measure with the effect of "
        "ablating the pair",
        descriptions.PAIRS,
        lambda results, _: correlate_pairs(results),
        needs=INTERACTIONS,
        networks=LEAST_FOR_INTERVALS,
        section=sections.pairs,
    ),
    Table(
        "joint",
        "Pairs and groups: above 0 redundancy, below 0 synergy; mean over networks",
        descriptions.JOINT,
        lambda results, _: joint_behaviour(results),
        needs=INTERACTIONS,
        networks=LEAST_FOR_INTERVALS,
        heading="Pairs and groups",
        sentences=joint_sentences,
        section=sections.joint,
    ),
    Table(
        "verdicts",
        "Hypotheses on curves, tested on pairs and groups, by instrument",
        descriptions.VERDICTS,
        lambda results, tables: judge_hypotheses(results, tables["hypotheses"]),
        needs=(*INTERACTIONS, "hypotheses"),
        networks=_SIGNIFICANT,
    ),
    Table(
        "conclusions",
        "Hypotheses on curves, tested on pairs and groups",
        descriptions.CONCLUSIONS,
        lambda _, tables: conclude(tables["verdicts"]),
        needs=("verdicts",),
        heading="Pairs and groups",
        sentences=conclusion_sentences,
        section=sections.conclusions,
    ),
    Table(
        "trajectories",
        "Measures along training, mean over networks",
        descriptions.TRAJECTORIES,
        lambda results, _: trajectory_table(results),
        needs=("trajectory_score",),
        at_chance=True,
    ),
    Table(
        "trends",
        "Changes through training, mean over networks",
        descriptions.TRENDS,
        lambda results, _: trends_of_training(results),
        needs=("trajectory_score", _EPOCHS),
        networks=LEAST_FOR_INTERVALS,
        at_chance=True,
        heading="Training",
        sentences=trend_sentences,
        section=sections.trends,
    ),
    Table(
        "claims",
        "The paper's claims",
        descriptions.CLAIMS,
        lambda results, _: judge_claims(results),
        needs=(_RANDOM, _PAPER),
        networks=_SIGNIFICANT,
        heading="Claims of the paper",
        sentences=judged_claims,
        section=sections.claims,
    ),
)


def tabulate(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """All of ``TABLES`` for which a run has what they need, by name."""
    check_results(results)
    trained, kept = converged(results), networks_in_tests(results)
    there = {*map(str, results.data_vars), *_properties(kept)}
    found: dict[str, pd.DataFrame] = {}
    for table in TABLES:
        own = trained if table.at_chance else kept
        if own.sizes["seed"] >= table.networks and there.issuperset(table.needs):
            made = table.make(own, found)
            if len(made):
                found[table.name] = made
                there.add(table.name)
    return found


def few_networks(results: xr.Dataset) -> str:
    """One line if too few networks of a run enter tests for any to reject, or ``""``.

    Networks that diverged or are at chance do not enter, but for tests of changes
    through training, which those at chance enter too.
    """
    entering, total = networks_in_tests(results).sizes["seed"], results.sizes["seed"]
    why = too_few_for_tests(entering)
    if not why:
        return ""
    number = f"{total} network{'s' * (total != 1)}"
    trained = converged(results).sizes["seed"]
    if entering < total:
        left_out = {"at chance": trained - entering, "diverged": total - trained}
        reasons = ", ".join(f"{n} {state}" for state, n in left_out.items() if n)
        number = f"{entering} of {number} above chance (left out: {reasons})"
    if "trajectory_score" in results and not too_few_for_tests(trained):
        why += (
            f"; changes through training are tested over the {trained} that converged"
        )
    return f"{number}: {why}."


def _properties(results: xr.Dataset) -> set[str]:
    """What a run has beside its variables."""
    has = {
        _RANDOM: "random" in results["ranked_by"].values,
        _PAPER: bool(rankings(results)),
        _LEARNED: has_learned(results),
        _EPOCHS: results.sizes.get("trajectory_epoch", 0) > 1,
    }
    return {name for name, there in has.items() if there}


def findings(results: xr.Dataset, tables: Tables | None = None) -> dict[str, list[str]]:
    """What a run found, most general first, as its page says it.

    Args:
        results: a run's results.
        tables: from ``tabulate``; None computes them.

    Returns:
        By heading, sentences: on the test error and the orders that differ most from
        random order; on single neurons; on the paper's claims; on redundancy and
        synergy; on training. Headings without any sentence are left out.

    Raises:
        ValueError: not a run's results.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> list(ioca.findings(results))[:2]
        ['Accuracy', 'Neurons']
    """
    check_results(results)
    tables = tabulate(results) if tables is None else tables
    kept = converged(results)
    number = results.sizes["seed"]
    if not kept.sizes["seed"]:
        return {"Accuracy": [f"All {number} networks diverged in training."]}
    found: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    found["Accuracy"].append(error_sentence(results, kept))
    orders = tables.get("orders", pd.DataFrame({"p_corrected": []}))
    if not np.isfinite(orders["p_corrected"].to_numpy(np.float64)).any():
        found["Accuracy"] += area_sentences(kept)
    for table in TABLES:
        if table.sentences and table.name in tables and len(tables[table.name]):
            rows = tables[table.name].to_dict("records")
            found[table.heading] += table.sentences(rows)
    return {heading: told for heading, told in found.items() if told}


def first_findings(found: Mapping[str, Sequence[str]]) -> list[str]:
    """Three of a run's ``findings``: the test error, an order, and a claim if judged.

    They stand first on the page and at the end of a run.
    """
    accuracy, claims = found["Accuracy"], found.get("Claims of the paper", [])
    return [*accuracy[:2], *claims[:1], *accuracy[2:]][:3]


# Of all tables. A layer may be called 0, null or True: its name is no value.
_TEXT = {
    *(
        "annotation",
        "claim",
        "clamp",
        "direction",
        "effect_in",
        "end",
        "finding",
        "instrument",
    ),
    *("layer", "layer_name", "measure", "metric", "name", "pair_measure", "quantity"),
    *("ranked_by", "reason", "scope", "sentence", "setting", "status", "suggested"),
    *("trend", "unit", "variant", "verdict"),
}
_INTEGER = re.compile(r"-?\d+")


def load_table(path: str | os.PathLike) -> pd.DataFrame:
    """Reads a table that a run or a sweep has written as CSV.

    ``pandas.read_csv`` takes a layer called ``0`` for a number, and one called ``NA``
    or ``null`` for a missing value.

    Args:
        path: of the file, such as ``tables/orders.csv`` in a run's folder.

    Returns:
        The table. Columns of names and sentences are text, ``layer`` also where layers
        are numbered; others are integers, floats (NaN where nothing stands) or
        booleans.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is not CSV.

    Example:
        >>> import ioca_jax as ioca
        >>> neurons = ioca.load_table("runs/demo/tables/neurons.csv")  # of make demo
        >>> neurons["layer"].tolist()
        ['1', '2']
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"expected a table (CSV) at {path}, found none")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except ValueError as error:
        reason = (str(error).splitlines() or ["?"])[0]
        raise ValueError(
            f"{path}: expected a table (CSV), got a file that cannot be read ({reason})"
        ) from error
    columns: dict[str, list[str]] = table.to_dict("list")
    return pd.DataFrame(
        {n: cells if n in _TEXT else _values(cells) for n, cells in columns.items()}
    )


def _values(cells: list[str]) -> list[Any]:
    """Cells of one column as integers, booleans or floats; as text if they are not."""
    if all(map(_INTEGER.fullmatch, cells)):
        return list(map(int, cells))
    if all(cell in ("True", "False") for cell in cells):
        return [cell == "True" for cell in cells]
    try:
        return [float(cell or "nan") for cell in cells]
    except ValueError:
        return cells
