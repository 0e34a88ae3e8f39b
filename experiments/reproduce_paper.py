r"""Runs the paper's experiments, and holds each of its claims to account.

  python -m experiments.reproduce_paper --data_dir=data --workdir=runs/paper
  python -m experiments.reproduce_paper --quick --workdir=runs/paper_quick

Networks are trained on MNIST, Fashion-MNIST and CIFAR-10, with ReLU and with sigmoid,
plain, with an L2 penalty, with dropout and with batch norm: a setting each, a folder
each, as ioca run leaves it. --quick takes 5,000 MNIST digits and smaller networks.
What is finished is not run again.

Beside the folders lie, over all settings: claims.csv, each comparison that a claim
rests on; activations.csv, whether bias balancing depends on the activation function;
hypotheses.csv, what the curves suggest; published.csv and published.png, our curves and
the points read off the paper's plots; claims.png; report.html, all of it on one page;
and results.md, which says it in tables, and is printed.

Widths, depths, regularisers and lengths of training are our choice: the paper's are not
known to us beyond the network of its first version, 784-100-100-10 with sigmoid.
"""

import dataclasses
import itertools
import json
import pathlib
import shlex
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
import xarray as xr
from absl import logging

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.cli.command import Command, option
from ioca_jax.inference import claims, families, hypotheses
from ioca_jax.inference.comparisons import independent_test
from ioca_jax.inference.statistics import false_discovery
from ioca_jax.plots import save_figure
from ioca_jax.report.findings import judged_claims
from ioca_jax.report.page import PAGE_FILE, Chart, Section, embed, overview_page
from ioca_jax.report.page_tables import Source
from ioca_jax.report.sections import markdown
from ioca_jax.results.files import atomic_write
from ioca_jax.results.subsets import mean_curve
from ioca_jax.study import events

from . import other_networks
from .other_tables import about_networks, verdict_table


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the job."""

    workdir: str = option("runs/paper", "Where everything goes.")
    data_dir: str | None = option(
        None, "TensorFlow Datasets' directory; its own default if not given."
    )
    quick: bool = option(
        False, "Small networks on 5,000 MNIST digits: minutes, not hours."
    )
    other_networks: bool = option(
        False,
        "Afterwards also the settings of experiments.other_networks, in a folder of "
        "that name: two hours more.",
    )


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
_LONG = ("claims", "hypotheses", "published")  # tables of a row per comparison
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
    """Every combination of dataset, regulariser and activation."""
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


# Points read off Figure 1 of the paper's first version.
STEPS = (0, 20, 40, 60, 79)
# By layer, clamp and order, at these numbers of neurons ablated of 100, to about 0.01;
# one is below the plot's edge.
PUBLISHED = {
    ("layer_1", "zero", "mutual_information"): (0.977, 0.932, 0.835, 0.69, 0.497),
    ("layer_1", "zero", "random"): (0.977, 0.915, 0.775, 0.625, float("nan")),
    ("layer_1", "mean", "mutual_information"): (0.977, 0.960, 0.920, 0.825, 0.61),
    ("layer_1", "mean", "random"): (0.977, 0.958, 0.908, 0.775, 0.51),
    ("layer_2", "zero", "mutual_information"): (0.977, 0.975, 0.965, 0.935, 0.838),
    ("layer_2", "zero", "random"): (0.977, 0.974, 0.965, 0.935, 0.813),
    ("layer_2", "mean", "mutual_information"): (0.977, 0.975, 0.970, 0.958, 0.83),
    ("layer_2", "mean", "random"): (0.977, 0.975, 0.969, 0.95, 0.80),
}


def published_points(results: xr.Dataset) -> pd.DataFrame:
    """The published points beside ours, which are means over networks."""
    rows = []
    for (scope, clamp, ranked_by), accuracies in PUBLISHED.items():
        direction = "random" if ranked_by == "random" else "ascending"
        curve = mean_curve(results, clamp, scope, ranked_by, direction)
        for step, accuracy in zip(STEPS, accuracies, strict=True):
            ours = float(curve.sel(step=step).mean())
            rows.append((scope, clamp, ranked_by, direction, step, accuracy, ours))
    names = ["scope", "clamp", "ranked_by", "direction", "step", "accuracy", "ours"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(difference=table["ours"] - table["accuracy"])


# The network of that version: the other settings are ours.
_PUBLISHED_SETTING = "mnist_sigmoid_l2"


def compare_activations(runs: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Whether the gain of the mean clamp depends on the activation function (claim 5).

    A row per dataset, regulariser and hidden layer: the gain in normalised area for
    each activation, their ``difference``, ``p_value`` of a permutation test between
    networks, and ``q_value``, its false discovery rate over all rows.
    """
    rows = []
    for name, results in runs.items():
        if "_relu_" not in name:
            continue
        other = runs[name.replace("_relu_", "_sigmoid_")]
        gains = [
            claims.clamp_gains(families.above_chance(r), "mean", "zero")
            for r in (results, other)
        ]
        for scope in gains[0]:
            test = independent_test(gains[0][scope], gains[1][scope])
            rows.append(
                {
                    "setting": name.replace("_relu_", "_"),
                    "scope": scope,
                    "relu": gains[0][scope].mean(),
                    "sigmoid": gains[1][scope].mean(),
                    "difference": float(test.difference),
                    "p_value": float(test.p_value),
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(q_value=false_discovery(table["p_value"].to_numpy()))


def _test_errors(runs: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """A row per setting."""
    below = [
        results.sizes["seed"] - families.above_chance(results).sizes["seed"]
        for results in runs.values()
    ]
    return about_networks(runs).assign(**{"at chance or diverged": below})


def _suggested(hypotheses: pd.DataFrame) -> pd.DataFrame:
    """How many hypotheses curves suggest, by layer, end and measure."""
    counts = (
        hypotheses.assign(hypothesis=hypotheses["end"] + " " + hypotheses["measure"])
        .pivot_table(
            index=["dataset", "activation", "layer"],
            columns="hypothesis",
            values="verdict",
            aggfunc=lambda v: f"{(v != 'undecided').sum()} of {len(v)}",
            sort=False,
        )
        .reset_index()
    )
    counts.columns = [
        name.replace("highest", "redundant: highest").replace(
            "lowest", "synergistic: lowest"
        )
        for name in counts.columns.str.replace("_", " ")
    ]
    return counts


def _sources(
    runs: Mapping[str, xr.Dataset], tables: Mapping[str, pd.DataFrame]
) -> dict[str, Source]:
    """All that was found, as tables."""
    judged = tables["claims"]
    sources = {
        "errors": Source(_test_errors(runs), "Test error of each setting"),
        "verdicts": Source(
            verdict_table(judged, "network"),
            "Claims: comparisons in which each holds / fails / is undecided",
        ),
        "by_regulariser": Source(
            verdict_table(judged, "regulariser"),
            "The same by regulariser, over all datasets and activation functions",
        ),
        "claims": Source(judged, "Claims, by comparison", "claims.csv"),
        "suggested": Source(
            _suggested(tables["hypotheses"]),
            "Hypotheses that the curves suggest, of those tested",
        ),
        "hypotheses": Source(tables["hypotheses"], "Hypotheses", "hypotheses.csv"),
        "activations": Source(
            tables["activations"],
            "What bias balancing saves (normalised area in random order), and whether "
            "it depends on the activation function",
            "activations.csv",
        ),
    }
    if "published" in tables:
        published = tables["published"]
        curves = published.groupby(["scope", "clamp", "ranked_by"], sort=False)
        worst = curves["difference"].agg(lambda d: d.loc[d.abs().idxmax()])
        worst = worst.reset_index().rename(columns={"difference": "largest difference"})
        title = "Our curves less the published points"
        sources["worst"] = Source(worst.round(3), title)
        title = "Our curves and the published points"
        sources["published"] = Source(published, title, "published.csv")
    return sources


def _report(sources: Mapping[str, Source]) -> str:
    """The short tables, as Markdown."""
    parts = [
        f"{source.title}\n\n{markdown(source.table.round(4))}"
        for name, source in sources.items()
        if name not in _LONG
    ]
    return "\n\n".join(parts) + "\n"


def _page(
    runs: Mapping[str, xr.Dataset],
    sources: Mapping[str, Source],
    folder: pathlib.Path,
) -> str:
    """All that was found, as HTML; the figures of the folder are in it."""
    judged = sources["claims"].table
    chart = Chart("claims", "claim network regulariser", "scope clamp measure")
    alt = "For each claim and setting, a mark per comparison: holds, fails or undecided"
    sections = [
        Section(
            "Claims",
            "Each claim is tested over networks for every scope, clamp and measure. A "
            "filled marker is a comparison that is decided (corrected p at most 0.05); "
            "lines are 95 % intervals.",
            [chart],
            embed(folder / "claims.png", alt),
            ["verdicts", "by_regulariser", "claims"],
        ),
        Section("Hypotheses", tables=["suggested", "hypotheses"]),
        Section("Bias balancing", tables=["activations"]),
        Section("Test errors", tables=["errors"]),
    ]
    if "published" in sources:
        pictures = embed(folder / "published.png", "Our curves and published points")
        section = Section("Published", pictures=pictures, tables=["worst", "published"])
        sections.append(section)
    return overview_page(
        f"The paper's claims in {len(runs)} settings",
        {"Claims of the paper": list(judged_claims(judged.to_dict("records")))},
        sections,
        sources,
        {name: name for name in runs},
        shlex.join(["python", "-m", "experiments.reproduce_paper", *sys.argv[1:]]),
    )


def _tables(runs: Mapping[str, xr.Dataset]) -> dict[str, pd.DataFrame]:
    """What is said over all settings, by the name of its file."""
    judged, formed = [], []
    for name, results in runs.items():
        config = json.loads(results.attrs["configuration"])
        about = {
            "setting": name,
            "dataset": config["dataset"],
            "activation": config["activation"],
            "network": f"{config['dataset']} {config['activation']}",
            "regulariser": name.split(f"_{config['activation']}_")[1],
        }
        judged.append(claims.judge_claims(results).assign(**about))
        formed.append(hypotheses.form_hypotheses(results).assign(**about))
    tables = {
        "claims": pd.concat(judged, ignore_index=True),
        "hypotheses": pd.concat(formed, ignore_index=True),
        "activations": compare_activations(runs),
    }
    if _PUBLISHED_SETTING in runs:
        tables["published"] = published_points(runs[_PUBLISHED_SETTING])
    return tables


def main(options: Options) -> None:
    """Runs what is not finished, and judges the claims."""
    folder = pathlib.Path(options.workdir)
    datasets = _QUICK_DATASETS if options.quick else _DATASETS
    settings = settings_of(datasets, options.data_dir)
    runs = {}
    for number, (name, config) in enumerate(settings.items(), 1):
        logging.info("setting %d of %d: %s", number, len(settings), name)
        listeners = [events.log_lines()]
        runs[name] = ioca.run_study(
            config, folder / name, progress=True, listeners=listeners
        )
    tables = _tables(runs)
    for name, table in tables.items():
        file = folder / f"{name}.csv"
        atomic_write(file, partial(table.to_csv, index=False))
    judged = tables["claims"]
    found = claims.claims_of(judged)
    texts = {name: (claim.text, claim.effect) for name, claim in found.items()}
    save_figure(plots.claims_overview(judged, texts), folder / "claims")
    if "published" in tables:
        drawn = plots.published_points(runs[_PUBLISHED_SETTING], tables["published"])
        save_figure(drawn, folder / "published")
    sources = _sources(runs, tables)
    page = _page(runs, sources, folder)
    atomic_write(folder / PAGE_FILE, lambda part: part.write_text(page, "utf-8"))
    text = _report(sources)
    atomic_write(folder / "results.md", lambda part: part.write_text(text, "utf-8"))
    print(text)
    if options.other_networks:
        asked, into = list(other_networks.SETTINGS), folder / "other_networks"
        print(other_networks.run_settings(asked, options.data_dir, into))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
