"""A run's results as text: the summary that a run prints."""

import json
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.comparisons import MOST_NETWORKS
from ioca_jax.inference.families import check_results, networks_in_tests
from ioca_jax.report.sections import networks_text, section
from ioca_jax.report.tables import TABLES, few_networks, tabulate
from ioca_jax.results.subsets import (
    converged,
    describe_dataset,
    intact_accuracy,
    layers_of,
    neurons_of,
)


def summarize(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame] | None = None
) -> str:
    """The findings of a run as text.

    Args:
        results: a run's results.
        tables: from ``tabulate``; None computes them.

    Returns:
        Sections separated by empty lines: data, networks, computing time and test
        error; how many more networks tests need, if there are too few; the range of
        each measure by layer; areas under the accuracy curves; and, as far as the
        tables are there, dead, always active and informative neurons,
        rank correlations, hypotheses, pairs and groups, changes through training, and
        verdicts on the paper's claims.

    Raises:
        ValueError: not a run's results.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> "Test error" in ioca.summarize(results)
        True
    """
    check_results(results)
    tables = tabulate(results) if tables is None else tables
    kept = converged(results)
    sections = [_overview(results)]
    if kept.sizes["seed"]:
        sections += [[few_networks(results)], _measures(kept), _areas(kept)]
        sections += [
            table.section(table.title, tables[table.name])
            for table in TABLES
            if table.section and table.name in tables
        ]
        if "claims" in tables:
            networks = networks_in_tests(results).sizes["seed"]
            sections.append(_networks_to_decide(tables["claims"], networks))
    texts = ("\n".join(filter(None, section)) for section in sections)
    return "\n\n".join(filter(None, texts))


def _overview(results: xr.Dataset) -> list[str]:
    """Data, networks, computing time, diverged networks, and test error."""
    config = json.loads(results.attrs["configuration"])
    seconds = json.loads(results.attrs["seconds"])
    # Networks that the caller passed have a digest.
    elsewhere = "variables_digest" in results.attrs
    trained = "trained elsewhere" if elsewhere else f"{config['epochs']} epochs"
    times = ", ".join(
        f"{moment.replace('_', ' ')} after {seconds[moment]:.3g} s"
        for moment in ("loaded", "trained", "first_curves", "computed")
        if moment in seconds  # work that a resumed run found finished has no time
    )
    run = "Data"
    if seconds.get("joined", 1) > 1:
        run = f"In the slowest of {seconds['joined']} joined runs, data"
    lines = [
        f"{describe_dataset(config)}: {results.sizes['seed']} networks "
        f"{results.attrs['network']}, {trained}, quantiser "
        f"{results.attrs['quantizer']}",
        f"{run} {times}; of this, compilation took {seconds['compiling']:.3g} s",
    ]
    diverged = results["seed"].values[results["diverged"].values.astype(bool)]
    if len(diverged):
        seeds = ", ".join(str(seed) for seed in diverged)
        lines.append(
            f"Diverged in training, left out below: {len(diverged)} of "
            f"{results.sizes['seed']} networks (seeds {seeds})"
        )
    kept = converged(results)["seed"].values
    entering = networks_in_tests(results)["seed"].values
    if 0 < len(entering) < len(kept):
        seeds = ", ".join(map(str, np.setdiff1d(kept, entering)))
        lines.append(
            f"At chance, in no test over networks: {len(kept) - len(entering)} of "
            f"{results.sizes['seed']} networks (seeds {seeds})"
        )
    if len(diverged) < results.sizes["seed"]:
        error = 100 * (1 - intact_accuracy(converged(results)))
        lines.append(
            f"Test error: {_mean_and_sd(error, 2)} %, range {error.min():.2f} to "
            f"{error.max():.2f} % (mean ± standard deviation over networks)"
        )
    return lines


def _measures(results: xr.Dataset) -> list[str]:
    rows = []
    for layer in layers_of(results):
        of_layer = results["score"].isel(neuron=neurons_of(results, layer))
        for measure in results["measure"].values:
            scores = of_layer.sel(measure=measure)
            numbers = (scores.min(), scores.median(), scores.max())
            texts = (f"{float(number):.3f}" for number in numbers)
            rows.append([layer, measure, scores["unit"].values, *texts])
    header = ["layer", "measure", "unit", "minimum", "median", "maximum"]
    table = pd.DataFrame(rows, columns=header)
    return section("Measures, over all neurons and networks", table)


def _areas(results: xr.Dataset) -> list[str]:
    rows = []
    for (scope, ranked_by, direction), areas in areas_by_order(results).items():
        name = "random" if ranked_by == "random" else f"{ranked_by} {direction}"
        rows.append([scope, name, *(_mean_and_sd(column, 3) for column in areas.T)])
    header = ["scope", "order", *(f"clamp {name}" for name in results["clamp"].values)]
    return section(
        "Area under the accuracy curve against the share of ablated neurons, mean ± "
        "standard deviation over networks",
        pd.DataFrame(rows, columns=header),
    )


def _networks_to_decide(table: pd.DataFrame, networks: int) -> list[str]:
    """How many networks would decide half of what is undecided, were effects the same.

    The median of the numbers with which each is decided with a probability of 0.5.
    """
    needed = table["networks_for_half"].dropna()
    if needed.empty:
        return []
    number = float(np.median(needed))
    about = "about " * (number <= MOST_NETWORKS) + networks_text(number)
    return [
        f"Undecided are {len(needed)} of {len(table)} comparisons; with effects and "
        f"spread as here, {about} networks would decide half of them (an estimate; "
        f"this run has {networks})"
    ]


def _mean_and_sd(values: np.ndarray, digits: int) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"
