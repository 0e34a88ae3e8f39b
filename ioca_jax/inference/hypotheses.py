"""Hypotheses on redundancy and synergy that ablation curves suggest.

Neurons of high value whose ablation does no more harm than that of random neurons may
be redundant; neurons of low value whose ablation does more harm may be synergistic.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.checks import check_number
from ioca_jax.inference.families import (
    ALPHA,
    MARGIN,
    above_chance,
    add_tests,
    clamps_of,
    effect_table,
    need_random_orders,
    need_seeds,
    normalized_areas,
)
from ioca_jax.inference.statistics import significant
from ioca_jax.results.subsets import layer_title, layers_by_scope, readable


def form_hypotheses(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """Hypotheses on joint behaviour that curves suggest, each with a test.

    * High-valued neurons whose ablation does no more harm than that of random ones are
      *redundant* with others: the area in descending order is not more than ``margin``
      below that of random orders.
    * Low-valued neurons whose ablation does more harm than that of random ones are
      *synergistic*, they carry information only jointly: the area in ascending order
      is below that of random orders.

    Each is a one-sided sign-flip test over networks, corrected for all rows; others are
    *undecided*. These are hypotheses: cumulative ablation does not prove them.

    Args:
        results: a run's results, with random orders.
        margin: of normalised area, at least 0.
        alpha: the level of the tests, of all together.

    Returns:
        A row per layer, clamp, measure and end (``highest``, ``lowest``): ``effect``,
        the harm beyond that of random orders, in normalised area, with its interval;
        ``p_value``, ``p_corrected``; ``verdict``; ``sentence``.

    Raises:
        ValueError: too few networks for the level, no random orders, or a negative
            margin.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> table = ioca.form_hypotheses(results)
        >>> set(table["verdict"]) <= {"redundant", "synergistic", "undecided"}
        True

    Source:
        The rule is claim 6 of arXiv 1804.06679; margin and tests are ours.
    """
    check_number("margin", margin, least=0.0)
    kept = above_chance(results)
    need_random_orders(kept)
    need_seeds(kept, alpha, two_sided=False)
    areas, layers = normalized_areas(kept), layers_by_scope(kept)
    rows, harms, shown = [], [], []
    for (scope, ranked, direction), area in areas.items():
        if scope == "network" or ranked == "random":
            continue
        highest = direction == "descending"
        for index, clamp in enumerate(clamps_of(kept)):
            harm = areas[scope, "random", "random"][:, index] - area[:, index]
            rows.append(
                {
                    "layer": layers[scope],
                    "clamp": clamp,
                    "measure": ranked,
                    "end": "highest" if highest else "lowest",
                }
            )
            harms.append(harm)
            shown.append(margin - harm if highest else harm)
    table = effect_table(rows, harms)
    table = add_tests(table, shown, alternative="greater", alpha=alpha)
    is_shown = significant(table["p_corrected"].to_numpy(), alpha)
    kinds = {"highest": "redundant", "lowest": "synergistic"}
    suggested = [kinds[row["end"]] for row in rows]
    table["verdict"] = np.where(is_shown, suggested, "undecided")
    table["sentence"] = [
        _sentence(row, kept.sizes["seed"], margin) for row in table.to_dict("records")
    ]
    return table


def _sentence(row: Mapping[Hashable, Any], networks: int, margin: float) -> str:
    """A hypothesis as a researcher could quote it."""
    less = "less" if row["effect"] >= 0 else "more"
    numbers = (
        f"normalised area {abs(row['effect']):.3f} {less} than in random order, 95 % "
        f"interval of the harm {row['low']:.3f} to {row['high']:.3f}, corrected p = "
        f"{row['p_corrected']:.2g}, {networks} networks"
    )
    undecided = "as little harm as" if row["end"] == "highest" else "more harm than"
    result, conclusion = {
        "redundant": (
            f"does no more harm than random ones, to within {margin:g}",
            "they are redundant with others",
        ),
        "synergistic": (
            "does more harm than random ones",
            "they carry information jointly with others",
        ),
        "undecided": (
            f"is not shown to do {undecided} random ones",
            "nothing is suggested",
        ),
    }[row["verdict"]]
    return (
        f"In {layer_title(row['layer'])}, clamped to {row['clamp']}, ablating the "
        f"neurons of {row['end']} {readable(row['measure'])} {result} ({numbers}): "
        f"{conclusion}."
    )
