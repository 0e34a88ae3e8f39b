"""Networks written by hand in which backups act only when their principals are gone.

For each class, a network reads three noisy copies of whether an example is of it. One
copy goes to a principal, which passes it on, and to a reserve: a backup in the second
layer outputs the reserve less the principal, which is nothing until the principal is
ablated. The second copy goes to an independent unit, the third to two duplicates, which
share its weight. Some units report features that are not about the class, some are
dead. The second layer passes everything on to the logits.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

import ioca_jax as ioca

CLASSES, UNRELATED, DEAD = 4, 6, 4
NOISE = 0.5  # standard deviation of a copy
_GAIN = 2.5  # of a logit
_JITTER = 0.03  # standard deviation of what is added to every weight
ROLES = (
    *("principal", "reserve", "independent", "first duplicate", "second duplicate"),
    *("unrelated", "dead", "passes principal", "backup", "passes independent"),
    *("passes duplicates", "passes unrelated", "dead above"),
)
BACKUPS = ("reserve", "backup")
_FIRST = ("principal", "reserve", "independent", "first duplicate", "second duplicate")
_SECOND = ("passes principal", "backup", "passes independent", "passes duplicates")
WIDTHS = tuple(len(own) * CLASSES + UNRELATED + DEAD for own in (_FIRST, _SECOND))
_INPUTS = 3 * CLASSES + UNRELATED


class Planted(NamedTuple):
    """A network with its own examples, and the role of each of its units."""

    model: ioca.MLP
    variables: Any
    split: ioca.Split
    role: np.ndarray


def plant(
    seed: int,
    *,
    backups: bool = True,
    examples_seed: int = 0,
    num_examples: int = 1000,
) -> Planted:
    """Draws a network and examples; without ``backups``, nothing reads the reserves."""
    rng = np.random.default_rng(seed)
    strength = rng.uniform(0.6, 1.0, CLASSES) if backups else np.zeros(CLASSES)
    first, first_bias, of_first = _first_layer()
    second, second_bias, of_second = _second_layer(of_first, strength > 0)
    out = np.zeros((WIDTHS[1], CLASSES))
    for label in range(CLASSES):
        for role in _SECOND:
            weight = strength[label] if role == "backup" else rng.uniform(0.8, 1.2)
            out[of_second[role][label], label] = _GAIN * weight
    kernels, biases = (first, second, out), (first_bias, second_bias, np.zeros(CLASSES))
    params = {
        f"dense_{layer}": {
            "kernel": (kernel + rng.normal(0, _JITTER, kernel.shape)).astype(
                np.float32
            ),
            "bias": bias.astype(np.float32),
        }
        for layer, (kernel, bias) in enumerate(zip(kernels, biases, strict=True))
    }
    role = np.empty(sum(WIDTHS), object)
    for offset, places in ((0, of_first), (WIDTHS[0], of_second)):
        for name, where in places.items():
            role[offset + where] = name
    model = ioca.MLP(hidden=WIDTHS, num_classes=CLASSES)
    of_examples = np.random.default_rng((seed, examples_seed, backups))
    split = _draw(of_examples, num_examples)
    return Planted(model, {"params": params}, split, role)


def _draw(rng: np.random.Generator, number: int) -> ioca.Split:
    """Examples: three noisy copies of the class, and unrelated features."""
    labels = rng.integers(0, CLASSES, number)
    copies = np.tile(np.eye(CLASSES)[labels], 3)
    copies = copies + NOISE * rng.normal(size=copies.shape)
    unrelated = rng.normal(size=(number, UNRELATED))
    x = np.concatenate([copies, unrelated], axis=1)
    return ioca.Split(x.astype(np.float32), labels.astype(np.int32))


def _places(roles: tuple[str, ...], unrelated: str, dead: str) -> dict[str, np.ndarray]:
    """By role, its units: one for each class, then the others."""
    places = {name: np.arange(CLASSES) + CLASSES * at for at, name in enumerate(roles)}
    start = CLASSES * len(roles)
    places[unrelated] = start + np.arange(UNRELATED)
    places[dead] = start + UNRELATED + np.arange(DEAD)
    return places


def _first_layer() -> tuple[Float[np.ndarray, "D w"], Float[np.ndarray, " w"], dict]:
    """Kernel, bias and places: which of the inputs each unit reads."""
    places = _places(_FIRST, "unrelated", "dead")
    kernel, bias = np.zeros((_INPUTS, WIDTHS[0])), np.zeros(WIDTHS[0])
    copy_of = dict(zip(_FIRST, (0, 0, 1, 2, 2), strict=True))
    for name, copy in copy_of.items():
        kernel[CLASSES * copy + np.arange(CLASSES), places[name]] = 1
    kernel[3 * CLASSES + np.arange(UNRELATED), places["unrelated"]] = 1
    bias[places["dead"]] = -10
    return kernel, bias, places


def _second_layer(
    below: dict[str, np.ndarray], reads_reserve: np.ndarray
) -> tuple[Float[np.ndarray, "w u"], Float[np.ndarray, " u"], dict]:
    """Kernel, bias and places: which units of the first layer each unit reads."""
    places = _places(_SECOND, "passes unrelated", "dead above")
    kernel, bias = np.zeros(WIDTHS), np.zeros(WIDTHS[1])
    reads = {
        "passes principal": {"principal": 1.0},
        "backup": {"reserve": 1.0, "principal": -1.0},
        "passes independent": {"independent": 1.0},
        "passes duplicates": {"first duplicate": 0.5, "second duplicate": 0.5},
        "passes unrelated": {"unrelated": 1.0},
    }
    for name, parts in reads.items():
        for part, weight in parts.items():
            is_there = reads_reserve if name == "backup" else 1.0
            kernel[below[part], places[name]] = weight * is_there
    bias[places["dead above"]] = -10
    return kernel, bias, places
