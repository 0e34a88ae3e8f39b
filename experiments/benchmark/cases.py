"""The benchmark's cases by name."""

from collections.abc import Callable
from functools import partial

from .convolution import cnn_case
from .counting import measures_case, pairs_case
from .curves import (
    _deep_curve,
    _network_curve,
    _study,
    pair_effects_case,
    sharding_case,
)
from .inputs import Case, Settings
from .learning import training_case

CASES: dict[str, Callable[[Settings], Case]] = {
    "network_curve": partial(
        _network_curve, scope="network", goals={"torch_loop": 60, "torch_hoisted": 10}
    ),
    "last_layer_curve": partial(
        _network_curve, scope="last_layer", goals={"torch_loop": 50}
    ),
    "study_one_network": partial(_study, num_seeds=1),
    "study_eight_networks": partial(_study, num_seeds=8),
    "deep_curve": _deep_curve,
    "cnn_curve": partial(cnn_case, "network", {"torch_loop": 10, "masks": 2.5}),
    "cnn_last_layer_curve": partial(cnn_case, "last_layer", {"torch_loop": 50}),
    "measures": measures_case,
    "pairs": pairs_case,
    "pair_effects": partial(pair_effects_case, 0),
    "last_layer_pair_effects": partial(pair_effects_case, -1),
    "training_32": partial(training_case, 32),
    "training_128": partial(training_case, 128),
    "training_512": partial(training_case, 512),
    "sharding": sharding_case,
}
