"""The page of a pruning."""

import pathlib
from collections.abc import Iterator, Mapping

import pandas as pd
import xarray as xr

from ioca_jax.report.page import Chart, Section, embed, overview_page
from ioca_jax.report.page_tables import Source
from ioca_jax.results.subsets import describe_dataset, readable

LEAST_FOR_INTERVALS = 3  # networks
_DIFFERENCE = "difference_to_random"
_ABOUT = (
    "Networks of a study, pruned by each measure of their neurons. Of each layer the "
    "neurons of greatest value stay. The others are removed, and what they are clamped "
    "to, zero or their mean output, goes into the biases of the next layer. Then the "
    "networks are trained again. Accuracy is read on the test split."
)


def pruning_page(
    results: xr.Dataset,
    table: pd.DataFrame,
    config: Mapping[str, object],
    folder: pathlib.Path,
    study: Mapping[str, str],
    command: str,
) -> str:
    """A pruning's report as HTML.

    Args:
        results: of the pruning.
        table: of ``pruning.csv``, a row per measure, clamp, stage and share.
        config: of the study whose networks were pruned.
        folder: of the pruning, with ``pruning.png``.
        study: the study's name and its folder relative to the pruning's, if it has a
            page.
        command: that made it.

    Returns:
        One page that links to the study's.
    """
    networks = results.sizes["seed"]
    epochs = int(results.attrs["retrain_epochs"])
    retrained = f"retrained for {epochs} epoch{'s' * (epochs != 1)}"
    shown = table.assign(
        stage=table["stage"].replace("retrained", retrained),
        keep=[f"{100 * share:g} %" for share in table["keep"]],
    )
    compared = shown[shown["ranked_by"] != "random"].assign(
        effect=100 * shown[f"{_DIFFERENCE}_mean"],
        low=100 * shown[f"{_DIFFERENCE}_low"],
        high=100 * shown[f"{_DIFFERENCE}_high"],
    )
    columns = ["ranked_by", "clamp", "stage", "keep", "effect", "low", "high"]
    title = "Differences to random pruning, percentage points of test accuracy"
    sources = {
        "differences": Source(compared.filter(columns), title, "pruning.csv"),
        "pruning": Source(shown, "Accuracies and differences", "pruning.csv"),
    }
    chart = Chart(
        *("differences", "stage clamp keep", "ranked_by"),
        unit="test accuracy less that of random pruning, percentage points",
    )
    alt = "Test accuracy of pruned networks against their remaining parameters"
    findings = {
        f"Test accuracy {name}": list(_accuracies(table, stage, name))
        for stage, name in (("retrained", retrained), ("pruned", "once pruned"))
    }
    return overview_page(
        f"Pruning of {describe_dataset(config)}, {results.attrs['network']}",
        {"Intact networks": [_intact(results, table)], **findings},
        [
            Section(
                "Which measure to prune by",
                "Random pruning keeps as many neurons and is trained as long: the "
                "difference to it is what a measure is worth. To the right of 0 the "
                "measure is better. Lines are 95 % intervals over networks.",
                charts=[chart],
                pictures=embed(folder / "pruning.png", alt),
                tables=["differences"],
            ),
            Section("Accuracies", tables=["pruning"]),
        ],
        sources,
        study,
        command,
        f"{networks} networks: an interval needs {LEAST_FOR_INTERVALS} or more."
        if networks < LEAST_FOR_INTERVALS
        else "",
        _ABOUT,
    )


def _intact(results: xr.Dataset, table: pd.DataFrame) -> str:
    """What there was before, and how little of it is kept at least."""
    accuracy = 100 * float(results["intact_accuracy"].astype(float).mean())
    row = table.loc[table["keep"].idxmin()]
    return (
        f"{results.sizes['seed']} networks of {int(results['intact_parameters']):,} "
        f"parameters have a mean test accuracy of {accuracy:.2f} %. Keeping "
        f"{100 * row['keep']:g} % of each layer leaves {row['parameters']:,} "
        f"parameters, {100 * row['share_of_parameters']:.3g} % of them."
    )


def _accuracies(table: pd.DataFrame, stage: str, name: str) -> Iterator[str]:
    """By clamp, what the smallest share leaves of the accuracy, by measure."""
    least = table["keep"].min()
    own = table[(table["stage"] == stage) & (table["keep"] == least)]
    for clamp, rows in own.groupby("clamp", sort=False):
        by = rows.set_index("ranked_by")
        accuracy = 100 * by["accuracy_mean"]
        measures = accuracy.drop("random").dropna()
        if measures.empty:
            continue
        low, high = (measures.idxmin(), measures.idxmax())
        yield (
            f"{name.capitalize()}, with {100 * least:g} % of each layer kept and "
            f"removed neurons clamped to {clamp}, mean test accuracy is from "
            f"{measures[low]:.2f} % "
            f"({readable(str(low))}) to {measures[high]:.2f} % "
            f"({readable(str(high))}), and {accuracy['random']:.2f} % with random "
            f"pruning.{_better(by.drop('random'))}"
        )


def _better(rows: pd.DataFrame) -> str:
    """How many measures differ from random pruning, where there are intervals."""
    low, high = rows[f"{_DIFFERENCE}_low"], rows[f"{_DIFFERENCE}_high"]
    if not low.notna().to_numpy().any():
        return ""
    return (
        f" Of {len(rows)} measures, {(low > 0).sum()} are better than random pruning "
        f"and {(high < 0).sum()} worse (95 % intervals, each measure by itself)."
    )
