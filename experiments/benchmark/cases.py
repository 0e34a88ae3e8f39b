"""The benchmark's cases by name."""

from collections.abc import Callable
from functools import partial

from .chosen_points import points_case
from .convolution import cnn_curve
from .counting import measures_case, pairs_case
from .curves import curve_case
from .inputs import Case, Settings
from .training import training_case

_ENGINES = (
    *("rank_one", "prefix_sums", "incremental"),
    *("traced", "traced_vmap", "traced_norm", "masks"),
)


def study_curves(settings: Settings, *, several: bool) -> Case:
    """A study's curves, many orders of each network."""
    preset = settings.preset
    return curve_case(
        settings,
        num_seeds=preset.num_seeds if several else 1,
        num_orders=preset.num_orders,
        peers=() if several else ("torch_loop",),
    )


CASES: dict[str, Callable[[Settings], Case]] = {
    "network_curve": partial(curve_case, engines=_ENGINES),
    "last_layer_curve": partial(curve_case, scope="last_layer", engines=_ENGINES),
    "study_one_network": partial(study_curves, several=False),
    "study_eight_networks": partial(study_curves, several=True),
    "deep_curve": partial(curve_case, deep=True, engines=("masks",)),
    "cnn_curve": partial(cnn_curve, "network"),
    "cnn_last_layer_curve": partial(cnn_curve, "last_layer"),
    "resnet_points": partial(points_case, "resnet"),
    "transformer_points": partial(points_case, "transformer"),
    "measures": measures_case,
    "pairs": pairs_case,
    "training_32": partial(training_case, 32),
    "training_128": partial(training_case, 128),
    "training_512": partial(training_case, 512),
}
