"""Hypotheses on redundancy and synergy that ablation curves suggest.

Neurons of high value whose ablation does no more harm than that of random neurons may
be redundant; neurons of low value whose ablation does more harm may be synergistic.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference.families import (
    ALPHA,
    MARGIN,
    above_chance,
    add_tests,
    effect_table,
    need_random_orders,
    need_seeds,
    normalized_areas,
)
from ioca_jax.inference.statistics import (
    significant,
)
from ioca_jax.results.selection import layer_of_scope, layer_title, readable


def form_hypotheses(
    results: xr.Dataset, *, margin: float = MARGIN, alpha: float = ALPHA
) -> pd.DataFrame:
    """What the curves suggest of joint behaviour, by a rule with a stated test.

    * High-valued neurons whose ablation does no more harm than that of random ones are
      *redundant* with others: the area with the highest first is not more than
      ``margin`` below that of random orders.
    * Low-valued neurons whose ablation does more harm than that of random ones are
      *synergistic*, they carry information only jointly: the area with the lowest
      first is below that of random orders.

    Each is a one-sided sign-flip test over networks, corrected for all rows; what is
    not shown is *undecided*. These are hypotheses: cumulative ablation does not prove
    them.

    Args:
        results: a run's results, with random orders.
        margin: of normalised area, at least 0.
        alpha: the level of the tests, of all together.

    Returns:
        A row per layer, clamp, measure and end (``highest``, ``lowest``): ``effect``,
        by how much more harm than random, in normalised area, with its interval;
        ``p_value``, ``p_corrected``; ``verdict``; ``sentence``.

    Raises:
        ValueError: too few networks for the level, no random orders, or a negative
            margin.

    Source:
        The rule is claim 6 of arXiv 1804.06679; margin and tests are ours.
    """
    if not margin >= 0:
        raise ValueError(f"margin: expected a number not negative, got {margin}")
    kept = above_chance(results)
    need_random_orders(kept)
    need_seeds(kept, alpha, two_sided=False)
    areas = normalized_areas(kept)
    rows, harms, shown = [], [], []
    for (scope, ranked, direction), area in areas.items():
        if scope == "network" or ranked == "random":
            continue
        highest = direction == "descending"
        for index, clamp in enumerate(kept["clamp"].values):
            harm = areas[scope, "random", "random"][:, index] - area[:, index]
            rows.append(
                {
                    "layer": layer_of_scope(scope),
                    "clamp": str(clamp),
                    "measure": ranked,
                    "end": "highest" if highest else "lowest",
                }
            )
            harms.append(harm)
            shown.append(margin - harm if highest else harm)
    table = add_tests(effect_table(rows, harms), shown, alternative="greater")
    is_shown = significant(table["p_corrected"].to_numpy(), alpha)
    suggested = np.where(table["end"] == "highest", "redundant", "synergistic")
    table["verdict"] = np.where(is_shown, suggested, "undecided")
    table["sentence"] = [
        _sentence(row, kept.sizes["seed"], margin) for row in table.to_dict("records")
    ]
    return table


def _sentence(row: Mapping[Hashable, Any], networks: int, margin: float) -> str:
    """A hypothesis as a researcher could quote it."""
    measure = readable(row["measure"])
    less = "less" if row["effect"] >= 0 else "more"
    numbers = (
        f"normalised area {abs(row['effect']):.3f} {less} than in random order, 95 % "
        f"interval of the harm {row['low']:.3f} to {row['high']:.3f}, corrected p = "
        f"{row['p_corrected']:.2g}, {networks} networks"
    )
    where = f"In {layer_title(row['layer'])}, clamped to {row['clamp']}"
    harm = {
        "redundant": f"does no more harm than random ones, to within {margin:g}",
        "synergistic": "does more harm than random ones",
    }
    said = harm.get(
        row["verdict"],
        "is not shown to do "
        + ("as little harm as" if row["end"] == "highest" else "more harm than")
        + " random ones",
    )
    follows = {
        "redundant": "they are redundant with others",
        "synergistic": "they carry information jointly with others",
    }
    conclusion = follows.get(row["verdict"], "nothing is suggested")
    return (
        f"{where}, ablating the neurons of {row['end']} {measure} {said} ({numbers}): "
        f"{conclusion}."
    )
