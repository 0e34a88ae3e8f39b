"""Whether intervals, tests and numbers of networks keep what they promise.

  python -m experiments.calibration

Simulates data sets whose truth is known, judges them by the library's functions, and
prints tables in Markdown: how often intervals contain the mean and disagree with their
test; false verdicts where differences are skewed, and how often the skewness is warned
of; false verdicts where networks are near copies or share a part; and the power that
the numbers of networks deliver. A family is one of 44 comparisons, as of a study of two
layers, whose differences are correlated by 0.3.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.stats

from ioca_jax.cli.command import Command, option
from ioca_jax.inference.comparisons import (
    bootstrap_test,
    networks_for_undecided,
    sign_flip_test,
)
from ioca_jax.inference.statistics import (
    family_skewness,
    kendall_step,
    mean_interval,
    significant,
)
from ioca_jax.report.sections import markdown

SIZES = (3, 4, 5, 6, 8, 10, 14, 20)
FAMILY_SIZES = (8, 10, 20)
PILOTS = (8, 10)
COMPARISONS = 44
CORRELATION = 0.3
TAU_NEURONS = 6
LEVEL = 0.05
STEP = 0.001
# Numbers of networks above these bounds are counted apart, up to the last.
BOUNDS = (20, 50, 200)
_RESAMPLES = 1023
_BOOTSTRAPS = 499
# Eight positive differences with one that lies apart.
ROW = (0.024, 0.107, 0.108, 0.109, 0.115, 0.140, 0.146, 0.147)


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the calibration."""

    data_sets: int = option(
        1000,
        "Data sets of each law and number of networks. Skewness is judged in a fifth "
        "of them, the bootstrap in a tenth, and there are a twentieth as many pilots.",
    )
    draw_seed: int = option(0, "Seed of the draws.")


Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


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


class Law(NamedTuple):
    """How values [S, data sets] are drawn, their mean, and their least difference."""

    draw: Draw
    mean: float = 0.0
    step: float = 0.0


LAWS = {
    "normal": Law(lambda rng, shape: rng.normal(size=shape)),
    "t, 3 degrees of freedom": Law(lambda rng, shape: rng.standard_t(3, shape)),
    "log-normal, skewness 1.8": Law(
        lambda rng, shape: rng.lognormal(0, 0.5, shape), np.exp(0.125)
    ),
    "tau of six neurons": Law(_taus, step=kendall_step(TAU_NEURONS)),
    "accuracies in steps of 1/1000": Law(
        lambda rng, shape: STEP * np.rint(rng.normal(0, 0.7, shape)), step=STEP
    ),
    "85 % equal": Law(
        lambda rng, shape: _mostly(rng, rng.exponential(size=shape), 0.85, 0.0), 0.15
    ),
    "one in ten an outlier": Law(
        lambda rng, shape: _mostly(rng, rng.normal(size=shape), 0.1, 10.0), 1.0
    ),
}


def intervals(rng: np.random.Generator, data_sets: int) -> pd.DataFrame:
    """A row per law: coverage by number of networks, and the greatest disagreement."""
    rows = []
    for name, law in LAWS.items():
        row, disagree = {"law": name}, []
        for size in SIZES:
            values = law.draw(rng, (size, data_sets)) - law.mean
            low, high = mean_interval(values, step=law.step)
            row[str(size)] = _share((low <= 0) & (high >= 0))
            rejected = significant(sign_flip_test(values).p_value, LEVEL)
            if rejected.any():  # not with fewer than six networks
                disagree.append((((low > 0) | (high < 0)) != rejected).mean())
        rows.append(row | {"disagree": f"{max(disagree, default=0.0):.3f}"})
    return pd.DataFrame(rows)


def row_with_one_apart() -> pd.DataFrame:
    """The interval and the test of eight positive differences."""
    values = np.array(ROW)[:, None]
    low, high = mean_interval(values)
    row = {
        "differences": ", ".join(map(str, ROW)),
        "mean": f"{values.mean():+.3f}",
        "95 % interval": f"{low[0]:+.3f} to {high[0]:+.3f}",
        "p": f"{sign_flip_test(values).p_value[0]:.4f}",
    }
    return pd.DataFrame([row])


def _tau_quantiles(chance: np.ndarray) -> np.ndarray:
    """Quantiles of Kendall's tau of six neurons in a random order."""
    ways = np.ones(1)
    for size in range(2, TAU_NEURONS + 1):
        ways = np.convolve(ways, np.ones(size))
    reached = np.cumsum(ways) / ways.sum()
    pairs = len(ways) - 1
    return 1 - 2 * np.searchsorted(reached, chance) / pairs


def _log_normal(sigma: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda z: np.exp(sigma * z) - np.exp(sigma**2 / 2)


# By law: differences with the mean 0 from standard normal ones.
FAMILY_LAWS = {
    "normal": lambda z: z,
    "t, 3 degrees of freedom": lambda z: scipy.stats.t.ppf(scipy.stats.norm.cdf(z), 3),
    "tau of six neurons": lambda z: _tau_quantiles(scipy.stats.norm.cdf(z)),
    "log-normal, skewness 0.8": _log_normal(0.256),
    "log-normal, skewness 1.8": _log_normal(0.5),
}


def _family(rng: np.random.Generator, size: int) -> np.ndarray:
    """Standard normal differences [S, comparisons] of one family."""
    common = rng.normal(size=(size, 1))
    own = rng.normal(size=(size, COMPARISONS))
    return np.sqrt(CORRELATION) * common + np.sqrt(1 - CORRELATION) * own


def _share(events: Iterable) -> str:
    """The share of events that happened."""
    return f"{np.mean(list(events)):.3f}"


def skewed(rng: np.random.Generator, data_sets: int) -> pd.DataFrame:
    """A row per law and number of networks: shares of families without any effect.

    Those with any false verdict by sign flips and by the bootstrap, and those whose
    skewness is unusual.
    """
    rows = []
    for (law, transform), size in itertools.product(FAMILY_LAWS.items(), FAMILY_SIZES):
        families = [transform(_family(rng, size)) for _ in range(data_sets)]
        found = [family_skewness(values) for values in families[::5]]
        bootstraps = [
            bootstrap_test(values, resamples=_BOOTSTRAPS).p_corrected.min()
            for values in families[::10]
        ]
        rows.append(
            {
                "law": law,
                "networks": size,
                "false, sign flips": _share(map(_any_rejected, families)),
                "false, bootstrap": _share(significant(np.array(bootstraps), LEVEL)),
                "mean skewness": f"{np.mean([f.together for f in found]):.2f}",
                "usual up to": f"{np.mean([f.usual for f in found]):.2f}",
                "warned": _share(f.together > f.usual for f in found),
            }
        )
    return pd.DataFrame(rows)


def _any_rejected(values: np.ndarray) -> bool:
    test = sign_flip_test(values, resamples=_RESAMPLES)
    return bool(significant(test.p_corrected, LEVEL).any())


def dependent(rng: np.random.Generator, data_sets: int) -> pd.DataFrame:
    """False verdicts in families of eight networks that are not independent."""
    shares = {}
    for copies in (0, 1, 2, 3):
        shares[f"{copies} of 8 near copies of another"] = [
            _any_rejected(_with_copies(rng, copies)) for _ in range(data_sets)
        ]
    for common in (0.1, 0.3):
        shares[f"all correlated by {common}"] = [
            _any_rejected(
                np.sqrt(common) * _family(rng, 1)
                + np.sqrt(1 - common) * _family(rng, 8)
            )
            for _ in range(data_sets)
        ]
    rows = [{"networks": name, "false": _share(s)} for name, s in shares.items()]
    return pd.DataFrame(rows)


def _with_copies(rng: np.random.Generator, copies: int) -> np.ndarray:
    """Eight networks; the last ones are the first with a tenth of its deviation."""
    values = _family(rng, 8)
    near = values[:1] + 0.1 * _family(rng, copies)
    return np.concatenate([values[: 8 - copies], near])


def power(rng: np.random.Generator, data_sets: int) -> pd.DataFrame:
    """A row per size of the pilot: how often the numbers of networks decide.

    Effects are 0.3 to 2 standard deviations. By the number of networks stated for a
    power of 0.8, the share that as many new networks decide; and for the number that
    would decide half, the share that it decides.
    """
    effects = np.linspace(0.3, 2, COMPARISONS)
    rows = []
    for pilot in PILOTS:
        stated, decided, halves, of_half = [], [], [], []
        for _ in range(max(1, data_sets // 20)):
            values = effects + _family(rng, pilot)
            p_values = sign_flip_test(values).p_corrected
            numbers = networks_for_undecided(values, p_values)
            for number in np.unique(numbers[np.isfinite(numbers)]):
                asked = numbers == number
                stated += [number] * asked.sum()
                decided += _decided(rng, effects, int(number))[asked].tolist()
            half = np.median(
                networks_for_undecided(values, p_values, power=0.5)[~np.isnan(numbers)]
            )
            halves.append(half)
            new = _decided(rng, effects, int(np.ceil(min(half, BOUNDS[-1]))))
            of_half.append(new[~np.isnan(numbers)].mean())
        row: dict[str, int | str] = {"pilot": pilot}
        for low, high in zip((0, *BOUNDS), BOUNDS, strict=False):
            own = [d for d, n in zip(decided, stated, strict=True) if low < n <= high]
            row[f"power 80 %: {low + 1} to {high}"] = f"{_share(own)} ({len(own)})"
        row["half decided by (median)"] = f"{np.median(halves):.0f}"
        rows.append(row | {"decided": _share(of_half)})
    return pd.DataFrame(rows)


def _decided(rng: np.random.Generator, effects: np.ndarray, number: int) -> np.ndarray:
    """Which comparisons a new study of so many networks decides."""
    test = sign_flip_test(effects + _family(rng, number), resamples=_RESAMPLES)
    return significant(test.p_corrected, LEVEL)


# By title. Each has draws of its own.
TABLES = {
    "Share of 95 % intervals that contain the mean": intervals,
    "Families without an effect, by skewness": skewed,
    "Families without an effect, of eight dependent networks": dependent,
    "Networks needed, and power delivered": power,
}


def calibrate(data_sets: int, draw_seed: int) -> dict[str, pd.DataFrame]:
    """The tables by title."""
    made = {
        title: make(np.random.default_rng([draw_seed, index]), data_sets)
        for index, (title, make) in enumerate(TABLES.items())
    }
    return made | {"Eight positive differences": row_with_one_apart()}


def main(options: Options) -> None:
    """Prints the tables."""
    for title, table in calibrate(options.data_sets, options.draw_seed).items():
        print(f"{title}\n\n{markdown(table)}\n", flush=True)


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
