r"""Tests the paper's claims on convolutional networks and transformers, and by clamp.

  python -m experiments.other_networks --data_dir=data --workdir=runs/other_networks
  python -m experiments.other_networks --data_dir=data --settings=mnist_cnn

Eight networks a setting, a folder each, as ioca run leaves it; --settings takes some of
``SETTINGS``. Ablated neurons output zero, their mean, the constants that minimise the
loss, or their outputs for another example. What is finished is not run again.

Beside the folders lie, over the settings asked for: claims.csv, each comparison that a
claim rests on; orders.csv, whether orders that allow for redundancy are better than
mutual information; and results.md, which says it in tables, and is printed.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import pandas as pd
import xarray as xr
from absl import logging

import ioca_jax as ioca
from ioca_jax.cli.command import Command, option
from ioca_jax.inference import claims
from ioca_jax.results.files import RESULTS_FILE, atomic_write
from ioca_jax.study import events

from . import other_tables, vision_transformer

_COMMON: dict[str, Any] = {
    "seeds": tuple(range(8)),
    "clamps": ("zero", "mean", "optimal", "resample"),
    "measures": ("entropy", "mutual_information", "kl_selectivity", "mrmr", "jmi"),
    "random_orders": 5,
    "num_test": 1000,
    "permutations": 99,
    "interactions": True,
}
_CNN: dict[str, Any] = {
    "architecture": "cnn",
    "channels": (8, 16),
    "hidden": (32,),
    "epochs": 3,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist_dense": {"dataset": "mnist", "epochs": 5},
    "fashion_mnist_dense": {"dataset": "fashion_mnist", "epochs": 5},
    "mnist_cnn": {"dataset": "mnist", **_CNN},
    "mnist_cnn_gelu": {"dataset": "mnist", "activation": "gelu", **_CNN, "epochs": 2},
    "mnist_cnn_batch_norm": {
        "dataset": "mnist",
        "batch_norm": True,
        **_CNN,
        "epochs": 2,
    },
    "fashion_mnist_cnn": {"dataset": "fashion_mnist", **_CNN},
    "cifar10_cnn": {"dataset": "cifar10", **_CNN, "epochs": 2, "batch_size": 64},
    "mnist_transformer": {
        "dataset": "mnist",
        "activation": "gelu",
        "epochs": 3,
        "num_test": 500,
        "direct_effects": True,
    },
}
_KINDS = {"dense": "dense", "cnn": "convolution", "transformer": "transformer"}


def run_setting(name: str, data_dir: str | None, folder: pathlib.Path) -> xr.Dataset:
    """The results of a setting, from its folder where they are finished."""
    config = ioca.StudyConfig(data_dir=data_dir, **_COMMON | SETTINGS[name])
    listeners = [events.log_lines()]
    if not name.endswith("transformer"):
        return ioca.run_study(config, folder, progress=True, listeners=listeners)
    if (folder / RESULTS_FILE).exists():
        return _finished(folder, config)
    data = ioca.load_dataset(**config.data_arguments())
    network, variables = vision_transformer.train_all(config, data)
    return ioca.run_study(
        config,
        folder,
        data=data,
        network=network,
        variables=variables,
        progress=True,
        listeners=listeners,
    )


def _finished(folder: pathlib.Path, config: ioca.StudyConfig) -> xr.Dataset:
    """Results of networks that were trained by a configuration; refuses another's."""
    results = ioca.load_results(folder)
    theirs = json.loads(results.attrs["configuration"])
    for name in ("dataset", "seeds", "epochs", "clamps", "measures", "num_test"):
        ours = json.loads(json.dumps(getattr(config, name)))
        if theirs[name] != ours:
            raise ValueError(
                f"workdir: expected results of this setting, got {folder} with "
                f"{name}={theirs[name]}, not {ours}; choose another workdir"
            )
    return results


def kind_of(setting: str) -> str:
    """The architecture of a setting's networks, in a word."""
    return next(kind for part, kind in _KINDS.items() if part in setting.split("_"))


def run_settings(
    asked: Sequence[str], data_dir: str | None, folder: pathlib.Path
) -> str:
    """Runs what is not finished, judges the claims, and returns the report."""
    unknown = sorted(set(asked) - set(SETTINGS))
    if unknown:
        raise ValueError(
            f"settings: expected some of {', '.join(SETTINGS)}, got {unknown[0]!r}"
        )
    runs = {}
    for number, name in enumerate(asked, 1):
        logging.info("setting %d of %d: %s", number, len(asked), name)
        runs[name] = run_setting(name, data_dir, folder / name)
    tables: dict[str, pd.DataFrame] = {}
    for name, make in {
        "claims": claims.judge_claims,
        "orders": other_tables.compare_with_mutual_information,
    }.items():
        parts = [
            make(run).assign(setting=setting, kind=kind_of(setting))
            for setting, run in runs.items()
        ]
        tables[name] = pd.concat(parts, ignore_index=True)
        file = folder / f"{name}.csv"
        atomic_write(file, partial(tables[name].to_csv, index=False))
    text = other_tables.report(runs, tables["claims"], tables["orders"])
    atomic_write(folder / "results.md", lambda part: part.write_text(text, "utf-8"))
    return text


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the job."""

    workdir: str = option("runs/other_networks", "Where everything goes.")
    data_dir: str | None = option(
        None, "TensorFlow Datasets' directory; its own default if not given."
    )
    settings: tuple[str, ...] = option(
        (), "A setting to run; give it again for more. All if not given."
    )


def main(options: Options) -> None:
    """Runs what is not finished, and judges the claims."""
    asked, folder = options.settings or list(SETTINGS), pathlib.Path(options.workdir)
    print(run_settings(asked, options.data_dir, folder))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
