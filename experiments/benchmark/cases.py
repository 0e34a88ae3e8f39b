"""The benchmark's cases by name."""

from collections.abc import Callable
from functools import partial

from .convolution import cnn_curve
from .counting import measures_case, pairs_case
from .curves import deep_curve, network_curve, study_curves
from .inputs import Case, Settings
from .training import training_case

CASES: dict[str, Callable[[Settings], Case]] = {
    "network_curve": partial(network_curve, "network"),
    "last_layer_curve": partial(network_curve, "last_layer"),
    "study_one_network": partial(study_curves, 1),
    "study_eight_networks": lambda settings: study_curves(
        settings.preset.num_seeds, settings
    ),
    "deep_curve": deep_curve,
    "cnn_curve": partial(cnn_curve, "network"),
    "cnn_last_layer_curve": partial(cnn_curve, "last_layer"),
    "measures": measures_case,
    "pairs": pairs_case,
    "training_32": partial(training_case, 32),
    "training_128": partial(training_case, 128),
    "training_512": partial(training_case, 512),
}
