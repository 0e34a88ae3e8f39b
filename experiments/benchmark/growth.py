"""How cost grows: measured where it fits the time, extrapolated where it does not.

Along each axis (width, depth, examples, seeds) one number grows and the others stay. A
point is measured if the counted operations, at the rate of the last measured point of
its engine, predict that it fits; else its seconds are that prediction. Figures draw the
former filled and the latter hollow. What is measured is checked first against what the
axis's first line gave: the cases hold that one against an oracle.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import ioca_jax as ioca
from ioca_jax.results.files import atomic_write

from . import costs, curves, inputs, learning
from .timing import Contender, check_then_time

_REPEATS = 3
_TOLERANCE = 1e-3
# What the first point of a line is taken to reach of the roofline.
_FIRST_SHARE = 0.05
_SHARE_OF_MEMORY = 0.25
_BATCH_SIZE = 32
_MARKERS = ("o", "s", "^", "D", "v", "P")


class Growth(NamedTuple):
    """What grows, and from where.

    Attributes:
        axes: by name, the values: ``width``, ``depth``, ``examples``, ``seeds`` of
            curves, ``seeds_trained``.
        width: of the layers where it does not grow.
        depth: likewise the number of hidden layers.
        num_examples: likewise.
        num_inputs: D.
    """

    axes: Mapping[str, Sequence[int]]
    width: int = 128
    depth: int = 2
    num_examples: int = 1000
    num_inputs: int = 784


_STANDARD = Growth(
    {
        "width": [2**power for power in range(5, 13)],
        "depth": list(range(1, 9)),
        "examples": [1000, 3000, 10_000, 30_000, 100_000, 300_000, 1_000_000],
        "seeds": [1, 3, 10, 30, 100, 300, 1000],
        "seeds_trained": [1, 3, 10, 30, 100, 300, 1000],
    }
)
GROWTH = {
    "standard": _STANDARD,
    "accelerator": _STANDARD,
    "quick": Growth(
        {
            "width": [2**power for power in range(5, 9)],
            "depth": [1, 2, 3],
            "examples": [1000, 3000, 10_000],
            "seeds": [1, 3, 10],
            "seeds_trained": [1, 3, 10],
        },
        width=64,
    ),
    "tiny": Growth(
        {
            "width": [3, 6],
            "depth": [1, 2],
            "examples": [40, 80],
            "seeds": [1, 2],
            "seeds_trained": [1, 2],
        },
        width=4,
        num_examples=40,
        num_inputs=5,
    ),
}
_LABELS = {
    "width": "neurons in each hidden layer",
    "depth": "hidden layers",
    "examples": "examples",
    "seeds": "networks ablated",
    "seeds_trained": "networks trained, one epoch",
}


@dataclasses.dataclass(frozen=True)
class _Point:
    """One point of one line, not yet measured."""

    cost: costs.Cost
    prepare: Callable[[], Callable[[Any], Any]]
    # What its results come to, for lines to be compared: numbers of any shape.
    outcome: Callable[[Any], np.ndarray]


def _curve_point(
    growth: Growth, axis: str, value: int, engine: str, settings: inputs.Settings
) -> _Point:
    width = value if axis == "width" else growth.width
    depth = value if axis == "depth" else growth.depth
    work = curves.CurveWork(
        (width,) * depth,
        value if axis == "examples" else growth.num_examples,
        growth.num_inputs,
        num_seeds=value if axis == "seeds" else 1,
    )
    model = ioca.MLP(work.hidden, inputs.NUM_CLASSES)
    widths = (work.num_inputs, *work.hidden, inputs.NUM_CLASSES)
    cost = costs.curve_cost(
        widths,
        model.layer_of_neuron,
        work.num_examples,
        num_seeds=work.num_seeds,
        engine=engine,
    )

    def prepare():
        arrays = curves.curve_arrays(work, settings)
        return curves.curve_program(arrays, work.layers, engine, settings.memory_gb)

    return _Point(cost, prepare, lambda curves: np.asarray(curves[1]))


def _training_point(
    growth: Growth, num_seeds: int, line: str, settings: inputs.Settings
) -> _Point:
    hidden = (growth.width,) * growth.depth
    widths = (growth.num_inputs, *hidden, inputs.NUM_CLASSES)
    steps = growth.num_examples // _BATCH_SIZE

    def prepare():
        data = inputs.examples(settings, growth.num_examples, growth.num_inputs)
        data = learning.training_data(data, growth.num_examples)
        model = ioca.MLP(hidden, data.num_classes, settings.activation)
        config = ioca.TrainConfig(epochs=1, batch_size=_BATCH_SIZE)
        seeds = tuple(range(num_seeds))
        together = [seeds] if line == "all_at_once" else [(seed,) for seed in seeds]
        return lambda _: [
            ioca.train(model, data, config, some).variables for some in together
        ]

    def outcome(trained):
        return np.concatenate([jax.tree.leaves(one)[0] for one in trained])

    cost = costs.training_cost(widths, _BATCH_SIZE, steps, num_seeds)
    return _Point(cost, prepare, outcome)


def check_agreement(line: str, outcome: np.ndarray, expected: np.ndarray) -> None:
    """Refuses a line whose results are not the first line's.

    Args:
        line: whose they are.
        outcome: losses, or trained weights.
        expected: those of the first line.

    Raises:
        ValueError: one that is more than 1e-3 (1 + its size) off.
    """
    off = np.abs(outcome - expected) / (1 + np.abs(expected))
    if not np.max(off) <= _TOLERANCE:  # negated, so that NaN is refused
        raise ValueError(
            f"{line}: expected results within {_TOLERANCE:g} of the first line's, got "
            f"one {np.max(off):.3g} off"
        )


def measure_growth(
    growth: Growth, settings: inputs.Settings, seconds_per_point: float
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Measures or extrapolates every point.

    Args:
        growth: the axes.
        settings: shared with the cases.
        seconds_per_point: the most that one run of a measured point may take.

    Returns:
        By axis and line, ``value``, ``seconds``, ``measured``, and where measured
        ``compile_seconds``, in the order of values.

    Raises:
        ValueError: lines that do not agree.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    first: dict[tuple[str, int], np.ndarray] = {}

    def line_of(axis: str, line: str, values: Sequence[int]) -> list[dict[str, Any]]:
        points, operations_per_second = [], _FIRST_SHARE * settings.ceilings.operations
        for value in values:
            if axis == "seeds_trained":
                point = _training_point(growth, value, line, settings)
            else:
                point = _curve_point(growth, axis, value, line, settings)
            seconds = point.cost.operations / operations_per_second
            fits = point.cost.bytes < _SHARE_OF_MEMORY * memory
            row = {"value": value, "measured": fits and seconds <= seconds_per_point}
            if row["measured"]:

                def check(results, axis=axis, value=value, point=point):
                    outcome = point.outcome(results)
                    expected = first.setdefault((axis, value), outcome)
                    check_agreement(line, outcome, expected)
                    return {}

                contender = Contender(line, point.prepare(), check, ours=True)
                timing = check_then_time([contender], _REPEATS)[line]
                seconds = timing.median
                operations_per_second = point.cost.operations / seconds
                row["compile_seconds"] = timing.compilation
            points.append(row | {"seconds": seconds})
        return points

    return {
        axis: {
            line: line_of(axis, line, values)
            for line in (
                ("all_at_once", "loop_over_seeds")
                if axis == "seeds_trained"
                else curves.ENGINES
            )
        }
        for axis, values in growth.axes.items()
    }


def crossovers(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Where one line becomes cheaper than another.

    Args:
        lines: of one axis, as ``measure_growth`` gives them.

    Returns:
        Sentences: who is always the cheapest, if anyone is, and where pairs of lines
        cross.
    """
    found, names = [], list(lines)
    for name in names:
        others = [lines[other] for other in names if other != name]
        if others and all(
            own["seconds"] < other["seconds"]
            for line in others
            for own, other in zip(lines[name], line, strict=True)
        ):
            found.append(f"{name} is the cheapest throughout")
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            pairs = list(zip(lines[first], lines[second], strict=True))
            for (a, b), (next_a, next_b) in zip(pairs[:-1], pairs[1:], strict=True):
                before, after = (
                    a["seconds"] < b["seconds"],
                    next_a["seconds"] < (next_b["seconds"]),
                )
                if before != after:
                    cheap, dear = (first, second) if after else (second, first)
                    found.append(
                        f"{cheap} is cheaper than {dear} from {next_a['value']} on "
                        f"(dearer at {a['value']})"
                    )
    return found


def draw_growth(axes: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draws seconds over what grows, a panel for each axis, log-log.

    Args:
        axes: as ``measure_growth`` gives them.

    Returns:
        The figure: a line for each engine, measured points filled, extrapolated hollow.
    """
    columns = min(3, len(axes))
    rows = -(-len(axes) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.3 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    for panel, (axis, lines) in zip(panels, axes.items(), strict=False):
        for index, (name, points) in enumerate(lines.items()):
            style = {"color": f"C{index}", "marker": _MARKERS[index % len(_MARKERS)]}
            values = [p["value"] for p in points]
            panel.plot(values, [p["seconds"] for p in points], label=name, **style)
            guessed = [p for p in points if not p["measured"]]
            panel.plot(
                [p["value"] for p in guessed],
                [p["seconds"] for p in guessed],
                linestyle="none",
                markerfacecolor="white",
                **style,
            )
        panel.set(xscale="log", yscale="log", xlabel=_LABELS[axis], ylabel="seconds")
        values = [p["value"] for p in next(iter(lines.values()))]
        if values[-1] < 10 * values[0]:
            panel.set_xticks(values, [str(value) for value in values])
            panel.minorticks_off()
        panel.legend(frameon=False, fontsize="small")
    figure.suptitle("filled: measured; hollow: extrapolated by counted operations")
    return figure


def save_figure(figure: Figure, path: pathlib.Path) -> None:
    """Writes a PNG file whole.

    Args:
        figure: what to write.
        path: where.
    """
    atomic_write(path, lambda part: figure.savefig(part, format="png", dpi=150))
