"""What a network computes, as a text that is stored with its results and compared.

Equal variables do not make equal networks: a function may be changed in between. So
results of networks that are given carry the first network's outputs for some examples.
Outputs, unlike equations, survive a new version of JAX and another device up to
rounding; equations decide how much rounding is allowed for.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jax.typing import ArrayLike

# Shares of the outputs' standard deviation. Where the program or what runs it is the
# same as before, products may be computed in bfloat16 or TF32 here and not there. Where
# only the program differs, somebody has changed the function.
_ANOTHER_DEVICE = 0.02
_ANOTHER_PROGRAM = 1e-5
_LOGITS = "logits"
_MOST_LOGITS, _MOST_OF_LAYERS = 1000, 2000  # numbers: HDF5 holds 64 kB of text


def make_fingerprint(
    place: str, program: str, logits: ArrayLike, layers: Mapping[str, ArrayLike]
) -> str:
    """JSON of what a network computes.

    Args:
        place: versions and device, on which rounding depends.
        program: a digest of the network's equations and constants.
        logits: [n, C] for some examples.
        layers: by name, activations [n, num_neurons] for the same examples.
    """
    most = max(4, _MOST_OF_LAYERS // len(layers))
    parts = {_LOGITS: _summary(logits, _MOST_LOGITS)}
    parts |= {f"layer {name}": _summary(of, most) for name, of in layers.items()}
    return json.dumps({"place": place, "program": program, "outputs": parts})


def _summary(outputs: ArrayLike, most: int) -> list[float]:
    """The standard deviation of some numbers, and the numbers, or so many of them."""
    flat = np.asarray(outputs, np.float64).ravel()
    finite = flat[np.isfinite(flat)]
    # A prime step meets every neuron and every class, whatever their number.
    places = np.arange(most) * 7919 % flat.size if flat.size > most else slice(None)
    return [
        float(f"{n:.8g}") for n in (finite.std() if len(finite) else 0, *flat[places])
    ]


def difference(theirs: str | None, ours: str | None) -> str | None:
    """How two networks differ, as text; None if they compute the same.

    Results of earlier versions have no fingerprint: nothing is known to differ.
    """
    if theirs is None or ours is None or theirs == ours:
        return None
    one, other = json.loads(theirs), json.loads(ours)
    is_changed = one["place"] == other["place"] and one["program"] != other["program"]
    allowed = _ANOTHER_PROGRAM if is_changed else _ANOTHER_DEVICE
    if one["outputs"].keys() != other["outputs"].keys():
        return "other layers"
    for name, numbers in one["outputs"].items():
        share = _distance(numbers, other["outputs"][name])
        if not share <= allowed:
            return f"other {'' if name == _LOGITS else 'activations of '}{name}"
    return None


def _distance(one: Any, other: Any) -> float:
    """The root mean square of differences, as a share of the standard deviation."""
    (scale, *one), (_, *other) = one, other
    if len(one) != len(other):
        return math.inf
    differ = [a - b for a, b in zip(one, other, strict=True) if a != b]
    apart = math.sqrt(sum(d * d for d in differ) / max(1, len(one)))
    if apart == 0:
        return 0.0
    return apart / scale if scale else math.inf
