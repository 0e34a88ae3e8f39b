r"""Tests the paper's claims on convolutional networks and transformers, and by clamp.

  python -m experiments.other_networks --data_dir=data --workdir=runs/other_networks
  python -m experiments.other_networks --data_dir=data --settings=mnist_cnn

Eight networks a setting, a folder each, as run_study leaves it; the settings are fields
of this file's SETTINGS, and --settings takes some of them. Ablated neurons output zero,
their mean, the constants that minimise the loss, or their outputs for another example.
What is finished is not run again.

Beside the folders lie, over the settings asked for: claims.csv, each comparison that a
claim rests on; orders.csv, whether orders that allow for redundancy are better than
mutual information; and results.md, which says it in tables, and is printed.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import xarray as xr
from absl import flags, logging

import ioca_jax as ioca
from ioca_jax.inference import claims, families
from ioca_jax.results.files import RESULTS_FILE, atomic_write
from ioca_jax.results.selection import converged, intact_accuracy
from ioca_jax.study import events

from . import config_flags, transformer
from .markdown import markdown, verdict_counts, verdict_table

WORKDIR = flags.DEFINE_string(
    "workdir", "runs/other_networks", "Where everything goes."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir",
    None,
    "TensorFlow Datasets' directory; its own default if not given.",
)
ASKED = flags.DEFINE_multi_string(
    "settings", None, "A setting to run; give it again for more. All if not given."
)
flags.adopt_module_key_flags(config_flags)  # --help lists them

_COMMON: dict[str, Any] = {
    "seeds": tuple(range(8)),
    "clamps": ("zero", "mean", "optimal", "resample"),
    "measures": ("entropy", "mutual_information", "kl_selectivity", "mrmr", "jmi"),
    "random_orders": 5,
    "num_test": 1000,
    "permutations": 99,
}
_CNN: dict[str, Any] = {
    "architecture": "cnn",
    "channels": (8, 16),
    "hidden": (32,),
    "epochs": 3,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "mnist_dense": {"dataset": "mnist", "epochs": 5, "interactions": True},
    "fashion_mnist_dense": {
        "dataset": "fashion_mnist",
        "epochs": 5,
        "interactions": True,
    },
    "mnist_cnn": {"dataset": "mnist", "interactions": True, **_CNN},
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
_SELECTIONS = ("mrmr", "jmi")


def run_setting(name: str, data_dir: str | None, folder: pathlib.Path) -> xr.Dataset:
    """The results of a setting, from its folder where they are finished."""
    config = ioca.StudyConfig(data_dir=data_dir, **_COMMON | SETTINGS[name])
    listeners = [events.progress_bar(), events.log_lines()]
    if not name.endswith("transformer"):
        return ioca.run_study(config, folder, listeners=listeners)
    if (folder / RESULTS_FILE).exists():
        return _finished(folder, config)
    data = ioca.load_dataset(**config.data_arguments())
    network, variables = transformer.train_all(config, data)
    return ioca.run_study(
        config,
        folder,
        data=data,
        network=network,
        variables=variables,
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


def claims_by_clamp(judged: pd.DataFrame) -> pd.DataFrame:
    """A row per claim and architecture, a column per clamp: holds / fails / undecided.

    Claims about measures alone have their counts in the first column of clamps.
    """
    clamps = [clamp for clamp in _COMMON["clamps"] if clamp in set(judged["clamp"])]
    table = judged.assign(clamp=judged["clamp"].replace("", clamps[0]))
    cells = table.pivot_table(
        index=["claim", "kind"],
        columns="clamp",
        values="verdict",
        aggfunc=verdict_counts,
        sort=False,
    )
    wanted = [
        (claim, kind)
        for claim in claims.claims_of(judged)
        for kind in judged["kind"].unique()
    ]
    cells = cells.reindex(index=wanted, columns=clamps).fillna("").reset_index()
    cells["claim"] = [f"{c}: {claims.CLAIMS[c].text}" for c in cells["claim"]]
    return cells


def compare_with_mutual_information(results: xr.Dataset) -> pd.DataFrame:
    """Whether ascending orders that allow for redundancy are better than without.

    A row per scope, clamp and selection: ``effect``, the normalised area of its
    ascending order less that of mutual information, with interval and tests.
    """
    kept = families.above_chance(results)
    areas = families.normalized_areas(kept)
    rows, values = [], []
    for scope in map(str, kept["scope"].values):
        plain = areas[scope, "mutual_information", "ascending"]
        for selection in _SELECTIONS:
            gain = areas[scope, selection, "ascending"] - plain
            for clamp, of_clamp in zip(families.clamps_of(kept), gain.T, strict=True):
                about = {"scope": scope, "clamp": clamp, "ranked_by": selection}
                rows.append(about)
                values.append(of_clamp)
    return families.test_family(rows, values)


def areas_of_orders(results: xr.Dataset) -> pd.DataFrame:
    """Normalised areas of mutual information's orders and random ones, zero clamp."""
    kept = families.above_chance(results)
    areas = families.normalized_areas(kept)
    at = families.clamps_of(kept).index("zero")
    orders = {
        "lowest first": ("mutual_information", "ascending"),
        "random": ("random", "random"),
        "highest first": ("mutual_information", "descending"),
    }
    return pd.DataFrame(
        {"scope": scope}
        | {
            title: f"{areas[scope, *order][:, at].mean():.3f}"
            for title, order in orders.items()
        }
        for scope in map(str, kept["scope"].values)
    )


def about_networks(runs: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """A row per setting: networks, test error, minutes."""
    rows = []
    for name, results in runs.items():
        error = 100 * (1 - intact_accuracy(converged(results)))
        seconds = json.loads(results.attrs["seconds"])
        rows.append(
            {
                "setting": name,
                "network": results.attrs["network"],
                "networks": results.sizes["seed"],
                "test error (%)": f"{error.mean():.2f} ± {error.std(ddof=1):.2f}",
                "minutes": f"{seconds['computed'] / 60:.1f}",
            }
        )
    return pd.DataFrame(rows)


def _report(runs: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame]) -> str:
    judged, orders = tables["claims"], tables["orders"]
    gains = orders.assign(
        cell=[
            f"{effect:+.3f}{'*' * (p <= families.ALPHA)}"
            for effect, p in zip(orders["effect"], orders["p_corrected"], strict=True)
        ]
    )
    gains = gains.pivot_table(
        index=["setting", "scope", "ranked_by"],
        columns="clamp",
        values="cell",
        aggfunc="first",
        sort=False,
    ).reset_index()
    areas = [areas_of_orders(run).assign(setting=name) for name, run in runs.items()]
    together = pd.concat(areas, ignore_index=True)
    together.insert(0, "setting", together.pop("setting"))
    by_clamp = claims_by_clamp(judged)
    by_clamp["claim"] = by_clamp["claim"].mask(by_clamp["claim"].duplicated(), "")
    parts = [
        "Claims: comparisons in which each holds / fails / is undecided",
        markdown(by_clamp),
        "The same by setting, over all clamps",
        markdown(verdict_table(judged, "setting")),
        "Normalised areas by mutual information, zero clamp, means over networks",
        markdown(together),
        "Ascending order by mRMR and JMI less that by mutual information, normalised "
        "area, mean over networks; *: corrected p of at most 0.05",
        markdown(gains),
        "Networks",
        markdown(about_networks(runs)),
    ]
    return "\n\n".join(parts) + "\n"


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
        "orders": compare_with_mutual_information,
    }.items():
        parts = [
            make(run).assign(setting=setting, kind=kind_of(setting))
            for setting, run in runs.items()
        ]
        tables[name] = pd.concat(parts, ignore_index=True)
        file = folder / f"{name}.csv"
        atomic_write(file, partial(tables[name].to_csv, index=False))
    text = _report(runs, tables)
    atomic_write(folder / "results.md", lambda part: part.write_text(text, "utf-8"))
    return text


def main() -> None:
    """Runs what is not finished, and judges the claims."""
    asked = ASKED.value or list(SETTINGS)
    print(run_settings(asked, DATA_DIR.value, pathlib.Path(WORKDIR.value)))


if __name__ == "__main__":
    config_flags.run_main(main)
