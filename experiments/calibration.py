"""How often intervals contain the mean, and whether they agree with their test.

  python -m experiments.calibration

Prints a table in Markdown: by law and number of networks, the share of nominal 95 %
intervals of ``mean_interval`` that contain the true mean, and the share of data sets in
which the interval and the sign-flip test disagree on whether the mean is 0.
"""

import dataclasses

import numpy as np
import pandas as pd

from ioca_jax.cli.command import Command, option
from ioca_jax.inference.comparisons import sign_flip_test
from ioca_jax.inference.statistics import kendall_step, mean_interval, significant
from ioca_jax.report.sections import markdown

SIZES = (3, 4, 5, 6, 8, 10, 14, 20, 30)
TAU_NEURONS = 6


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the calibration."""

    data_sets: int = option(2000, "Data sets of each law and number of networks.")
    draw_seed: int = option(0, "Seed of the draws.")


def _taus(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Kendall's tau with the order 0, 1, ... of neurons in a random order."""
    later = np.triu_indices(TAU_NEURONS, 1)
    ranks = rng.random((*shape, TAU_NEURONS))
    return np.sign(ranks[..., later[1]] - ranks[..., later[0]]).mean(axis=-1)


def _mostly(
    rng: np.random.Generator, values: np.ndarray, chance: float, other: float
) -> np.ndarray:
    """Values of which this share at random is replaced by another."""
    return np.where(rng.random(values.shape) < chance, other, values)


# By law: how values [S, data sets] are drawn, and their mean.
LAWS = {
    "normal": (lambda rng, shape: rng.normal(size=shape), 0.0),
    "t, 3 degrees of freedom": (lambda rng, shape: rng.standard_t(3, shape), 0.0),
    "log-normal, skewness 1.8": (
        lambda rng, shape: rng.lognormal(0, 0.5, shape),
        np.exp(0.125),
    ),
    "tau of six neurons": (_taus, 0.0),
    "85 % equal": (
        lambda rng, shape: _mostly(rng, rng.exponential(size=shape), 0.85, 0.0),
        0.15,
    ),
    "one in ten an outlier": (
        lambda rng, shape: _mostly(rng, rng.normal(size=shape), 0.1, 10.0),
        1.0,
    ),
}


def calibrate(data_sets: int, draw_seed: int) -> pd.DataFrame:
    """A row per law: coverage by number of networks, and the greatest disagreement."""
    rng = np.random.default_rng(draw_seed)
    rows = []
    for law, (draw, mean) in LAWS.items():
        step = kendall_step(TAU_NEURONS) if law.startswith("tau") else 0.0
        row, disagree = {"law": law}, []
        for size in SIZES:
            values = draw(rng, (size, data_sets)) - mean
            low, high = mean_interval(values, step=step)
            row[str(size)] = f"{((low <= 0) & (high >= 0)).mean():.3f}"
            rejected = significant(sign_flip_test(values).p_value, 0.05)
            if rejected.any():  # not with fewer than six networks
                disagree.append((((low > 0) | (high < 0)) != rejected).mean())
        rows.append(row | {"disagree": f"{max(disagree):.3f}"})
    return pd.DataFrame(rows)


def main(options: Options) -> None:
    """Prints the table."""
    print(markdown(calibrate(options.data_sets, options.draw_seed)))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
