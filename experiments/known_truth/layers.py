"""Whether tables of a layer say that it is redundant or synergistic, where it is.

Both layers of such networks consist of three pairs of units. In a *redundant* layer the
units of a pair pass one informative feature; in a *synergistic* one each feature is
independent of the class and their product is informative. A path around the units
classifies, as in uninformative networks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from ioca_jax.report.tables import tabulate

from .nulls import IN_STUDY, LAWS, RIGHT, RIGHT_AROUND, WIDTH, agreeing, draw_studies

INSTRUMENTS = ("co-information", "groups", "O-information with class")


def _redundant(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    once = agreeing(rng, labels, RIGHT, WIDTH)
    return np.hstack([once.repeat(2, axis=1), agreeing(rng, labels, RIGHT_AROUND, 1)])


def _synergistic(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    product = agreeing(rng, labels, RIGHT, WIDTH)
    one = rng.choice([-1, 1], product.shape)
    pairs = np.stack([one, one * product], axis=2).reshape(len(labels), -1)
    return np.hstack([pairs, agreeing(rng, labels, RIGHT_AROUND, 1)])


LAYERS: dict[str, Callable] = {"redundant": _redundant, "synergistic": _synergistic}


def judge_layers(
    name: str, studies: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """A row per study, layer and instrument: whether it finds what the layer is."""
    law = LAWS["uninformative"]._replace(draw_features=LAYERS[name])
    rows = []
    for results in draw_studies(law, studies, rng):
        joint: Any = tabulate(results)["joint"]
        chosen = joint["instrument"].isin(INSTRUMENTS)
        chosen &= joint["layer"].isin(("first", "second"))
        for row in joint[chosen].to_dict("records"):
            about = {"of": "layer", "planted": f"{name} layer"}
            about |= {"instrument": row["instrument"], "networks": IN_STUDY}
            right = {"right": float(row["finding"] == name), "effect": row["effect"]}
            rows.append(about | right)
    return rows
