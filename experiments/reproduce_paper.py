r"""Runs the paper's experiments, and holds each of its claims to account.

  python -m experiments.reproduce_paper --data_dir=data --workdir=runs/paper
  python -m experiments.reproduce_paper --quick --workdir=runs/paper_quick

Networks are trained on MNIST, Fashion-MNIST and CIFAR-10, with ReLU and with sigmoid,
plain, with an L2 penalty, with dropout and with batch norm: a setting each, a folder
each, as run_study leaves it. --quick takes 5,000 MNIST digits and smaller networks.
What is finished is not run again.

Widths, depths, regularisers and lengths of training are our choice: the paper's are not
known to us beyond the network of its first version, 784-100-100-10 with sigmoid.
"""

import itertools
import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags

import ioca_jax as ioca
from experiments import config_flags
from ioca_jax import events

WORKDIR = flags.DEFINE_string("workdir", "runs/paper", "Where everything goes.")
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TensorFlow Datasets' directory; its own default if not given."
)
QUICK = flags.DEFINE_boolean(
    "quick", False, "Small networks on 5,000 MNIST digits: minutes, not hours."
)
flags.adopt_module_key_flags(config_flags)  # --help lists them

# Ten networks: the least p-value of a sign-flip test is then 2 / 2^10.
_SEEDS = tuple(range(10))
_MNIST = {"hidden": (100, 100), "epochs": 10}
_DATASETS: dict[str, dict[str, Any]] = {
    "mnist": _MNIST,
    "fashion_mnist": _MNIST,
    "cifar10": {
        "hidden": (128, 128, 128),
        "epochs": 10,
        "batch_size": 128,
        "random_orders": 5,
    },
}
_QUICK_DATASETS: dict[str, dict[str, Any]] = {
    "mnist5k": {"hidden": (40, 40), "epochs": 10, "random_orders": 5}
}
_ACTIVATIONS = ("relu", "sigmoid")
_REGULARISERS: dict[str, dict[str, Any]] = {
    "plain": {"l2": 0.0},
    "l2": {},  # by activation, below
    "dropout": {"l2": 0.0, "dropout_rate": 0.2},
    "batch_norm": {"l2": 0.0, "batch_norm": True},
}
# A sigmoid's networks hardly learn with the penalty that a ReLU's do with.
_L2 = {"relu": 1e-4, "sigmoid": 1e-5}


def settings_of(
    datasets: Mapping[str, Mapping[str, Any]], data_dir: str | None
) -> dict[str, ioca.StudyConfig]:
    """Every combination of dataset, regulariser and activation.

    Args:
        datasets: by name, what its networks are.
        data_dir: TensorFlow Datasets' directory.

    Returns:
        By name, the study.
    """
    settings = {}
    for dataset, regulariser, activation in itertools.product(
        datasets, _REGULARISERS, _ACTIVATIONS
    ):
        fields = {"l2": _L2[activation]} | _REGULARISERS[regulariser]
        settings[f"{dataset}_{activation}_{regulariser}"] = ioca.StudyConfig(
            dataset=dataset,
            data_dir=data_dir,
            seeds=_SEEDS,
            activation=activation,
            robustness=True,
            **fields,
            **datasets[dataset],
        )
    return settings


def main() -> None:
    """Runs what is not finished, and judges the claims."""
    folder = pathlib.Path(WORKDIR.value)
    datasets = _QUICK_DATASETS if QUICK.value else _DATASETS
    for name, config in settings_of(datasets, DATA_DIR.value).items():
        listeners = [events.progress_bar(), events.log_lines()]
        ioca.run_study(config, folder / name, listeners=listeners)
        print(name, flush=True)


if __name__ == "__main__":
    config_flags.run_main(main)
