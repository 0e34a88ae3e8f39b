"""At how many ablated neurons a curve is evaluated: its points.

A curve of K neurons has K+1 points. Where that is more than anyone needs, a few are
chosen: evenly spaced, given, or where the curve bends.
"""

import heapq
import operator
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ioca_jax.ablation.metrics import Sums
from ioca_jax.checks import is_known

Points = int | str | Sequence[int] | np.ndarray | None
"""A number of points, ``auto``, steps, or None for all points."""

# Of the area under an accuracy curve: ``auto`` stops where no bound is greater, and no
# area moved by more in the last round, which curves that are not monotone may do.
TOLERANCE, _MOST_MOVED = 0.01, 0.004
_MOST_POINTS = 64  # points that ``auto`` chooses
_AT_ONCE = 8  # points of a round: all rounds are one program


def chosen_steps(points: Points, num_steps: int) -> Int[np.ndarray, " P"]:
    """Numbers of ablated neurons, int32 [P], ascending from 0 to K = ``num_steps``.

    Args:
        points: how many, evenly spaced with both ends; or the numbers themselves, from
            0 to K; None for all of 0 to K.
        num_steps: K.

    Raises:
        ValueError: fewer than 2 points, or steps that do not ascend from 0 to K.
    """
    if points is None:
        return np.arange(num_steps + 1, dtype=np.int32)
    given = np.asarray(points if is_known(points) else None)
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise ValueError(
            "points: expected a number of points, 'auto', or ascending steps from 0 to "
            f"{num_steps}, got {points!r}"
        )
    if not given.ndim:
        if given < 2:
            raise ValueError(f"points: expected at least 2, both ends, got {points}")
        number = min(int(given), num_steps + 1)
        return np.round(np.linspace(0, num_steps, number)).astype(np.int32)
    ends = [*given[:1], *given[-1:]]
    if ends != [0, num_steps] or (np.diff(given.astype(np.int64)) <= 0).any():
        raise ValueError(
            f"points: expected ascending steps from 0 to {num_steps}, all neurons of "
            f"the order, got {', '.join(map(str, given[:8]))}"
            f"{', ...' if len(given) > 8 else ''}"
        )
    return given.astype(np.int32)


def number_of_points(points: Points, num_steps: int) -> int | None:
    """How many points a curve has: None for all, and what ``auto`` often takes."""
    if points is None:
        return None
    if isinstance(points, str) and points == "auto":
        return min(3 * _AT_ONCE, num_steps + 1)
    return len(chosen_steps(points, num_steps))


def points_text(points: Points) -> str:
    """Points as text: ``all``, ``auto``, a number, or a list of steps; checked."""
    if points is None:
        return "all"
    if isinstance(points, str) and points in ("all", "auto"):
        return points
    parts = str(points).split(",") if isinstance(points, str | int) else points
    try:
        numbers = [int(p) if isinstance(p, str) else operator.index(p) for p in parts]
    except (TypeError, ValueError):
        numbers = []
    is_number = len(numbers) == 1 and numbers[0] > 1
    is_list = len(numbers) > 1 and numbers[0] >= 0
    is_list = is_list and all(a < b for a, b in zip(numbers, numbers[1:], strict=False))
    if not is_number and not is_list:
        raise ValueError(
            "points: expected all, auto, a number of points from 2, or ascending steps "
            f"such as 0,10,100, got {points!r}"
        )
    return ",".join(map(str, numbers))


def points_of_scope(text: str, num_neurons: int) -> Points:
    """What ``points_text`` gives, for a scope: its own end is added to a list."""
    if text in ("all", "auto"):
        return None if text == "all" else text
    numbers = [int(part) for part in text.split(",")]
    if len(numbers) == 1:
        return numbers[0]
    within = [number for number in numbers if 0 < number < num_neurons]
    return [0, *within, num_neurons]


def area_bound(
    accuracy: Float[ArrayLike, "*curves P"], steps: Int[np.ndarray, " P"]
) -> Float[Array, "*curves intervals"]:
    """How far each interval may move the area, if accuracy is monotone in it.

    The area is that over the share of neurons ablated.

    A monotone curve lies between the two ends' heights, the trapezoid halfway: it is
    wrong by no more than half of the change at each of the points left out.
    """
    left_out = np.diff(steps) - 1
    return jnp.abs(jnp.diff(accuracy, axis=-1)) * (left_out / (2 * steps[-1]))


def bisect(
    evaluate: Callable[[Int[np.ndarray, " P"]], Sums],
    num_steps: int,
    num_examples: int,
) -> tuple[Sums, Int[np.ndarray, " P"]]:
    """Evaluates curves at points chosen by what the intervals can still change.

    All curves have the same points. A round halves the intervals with the greatest
    ``area_bound``, summed over curves, until no curve's is above ``TOLERANCE`` and the
    areas have settled.

    Args:
        evaluate: of steps [8] to sums [S, M, 8, ...].
        num_steps: K.
        num_examples: N.

    Returns:
        Sums [S, M, P, ...], and the steps, ascending from 0 to K.

    Raises:
        ValueError: sums whose numbers are not known, as while JAX traces.
    """
    new = np.round(np.linspace(0, num_steps, _AT_ONCE)).astype(np.int32)
    new, rounds, steps = np.unique(new), [], np.zeros(0, np.int32)
    place, area = steps, np.inf
    while len(new):
        found = evaluate(np.pad(new, (0, _AT_ONCE - len(new)), mode="edge"))
        if not is_known(found.correct):
            raise ValueError(
                "points: expected a number or steps while JAX traces, got 'auto', "
                "which looks at the curve"
            )
        rounds.append(jax.tree.map(partial(_first, len(new)), found))
        steps = np.concatenate([steps, new])
        place = np.argsort(steps)
        correct = [np.asarray(sums.correct.sum(axis=-1)) for sums in rounds]
        accuracy = np.concatenate(correct, axis=-1)[..., place] / num_examples
        before, area = area, np.trapezoid(accuracy, steps[place]) / num_steps
        bounds = np.asarray(area_bound(accuracy, steps[place]))
        is_bounded = bounds.sum(axis=-1).max() <= TOLERANCE
        if is_bounded and np.abs(area - before).max() <= _MOST_MOVED:
            break
        new = _halves(bounds, steps[place])

    def together(*leaves: Array) -> Array:
        return jnp.concatenate(leaves, axis=2)[:, :, place]

    return jax.tree.map(together, *rounds), steps[place]


def _first(number: int, leaf: Array) -> Array:
    return leaf[:, :, :number]


def _halves(
    bounds: Float[np.ndarray, "*curves intervals"], steps: Int[np.ndarray, " P"]
) -> Int[np.ndarray, " p"]:
    """The next steps to evaluate, ascending; none where there are enough."""
    number = min(_AT_ONCE, _MOST_POINTS - len(steps))
    total = bounds.reshape(-1, bounds.shape[-1]).sum(axis=0)
    heap = [
        (-bound, int(start), int(stop))
        for bound, start, stop in zip(total, steps[:-1], steps[1:], strict=True)
        if stop - start > 1
    ]
    heapq.heapify(heap)
    chosen = []
    while heap and len(chosen) < number:
        bound, start, stop = heapq.heappop(heap)
        middle = (start + stop) // 2
        chosen.append(middle)
        # Half the width and, for want of knowledge, half the change.
        for part in ((bound / 4, start, middle), (bound / 4, middle, stop)):
            if part[2] - part[1] > 1:
                heapq.heappush(heap, part)
    return np.sort(np.array(chosen, np.int32))
