"""A run's results as text: the summary that a run prints."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference import interactions
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.claims import CLAIMS, VERDICTS
from ioca_jax.inference.tables import tabulate
from ioca_jax.results.selection import (
    converged,
    describe_dataset,
    intact_accuracy,
    layers_of,
    neurons_of,
)

_TESTS = ["95 % interval", "corrected p"]


def summarize(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame] | None = None
) -> str:
    """The findings of a run as text.

    Args:
        results: a run's results.
        tables: from ``tabulate``; None computes them.

    Returns:
        Sections separated by empty lines: data, networks, computing time and test
        error; the range of each measure by layer; dead, always active and informative
        neurons; areas under the accuracy curves; and, as far as the tables are there,
        rank correlations, hypotheses, pairs and groups, changes through training, and
        verdicts on the paper's claims.
    """
    tables = tabulate(results) if tables is None else tables
    kept = converged(results)
    sections = [_overview(results)]
    if kept.sizes["seed"]:
        sections += [
            _measures(kept),
            _neurons(tables),
            _areas(kept),
            _variants(tables),
            _effects(tables),
            _hypotheses(tables),
            _joint(tables),
            _pairs(tables),
            _conclusions(tables),
            _trends(tables),
            _claims(tables, kept.sizes["seed"]),
        ]
    return "\n\n".join("\n".join(section) for section in sections if section)


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
    lines = [
        f"{describe_dataset(config)}: {results.sizes['seed']} networks "
        f"{results.attrs['network']}, {trained}, quantiser "
        f"{results.attrs['quantizer']}",
        f"Data {times}; of this, compilation took {seconds['compiling']:.3g} s",
    ]
    diverged = results["seed"].values[results["diverged"].values.astype(bool)]
    if len(diverged):
        seeds = ", ".join(str(seed) for seed in diverged)
        lines.append(
            f"Diverged in training, left out below: {len(diverged)} of "
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
            rows.append([str(layer), str(measure), str(scores["unit"].values), *texts])
    header = ["layer", "measure", "unit", "minimum", "median", "maximum"]
    return _section("Measures, over all neurons and networks", header, rows)


def _neurons(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Dead, always active, and significantly informative neurons by layer."""
    if "neurons" not in tables:
        return []
    table = tables["neurons"]
    table = table.drop(columns=list(table.filter(like="selective_for_")))
    header = [name.replace("_", " ", 1) for name in table.columns]
    rows = [
        [str(layer), *(f"{round(value, 1):g}" for value in values)]
        for layer, *values in table.itertuples(index=False)
    ]
    tested = (
        "  (family: above the maximum over neurons in 95 % of permutations of the "
        "labels; discovered: at a false discovery rate of 5 %)"
    )
    return _section(
        "Number of neurons that are dead, always on, or significantly informative, "
        "mean over networks",
        header,
        rows,
        *([tested] if len(header) > 4 else []),
    )


def _areas(results: xr.Dataset) -> list[str]:
    rows = []
    for (scope, ranked_by, direction), areas in areas_by_order(results).items():
        name = "random" if ranked_by == "random" else f"{ranked_by} {direction}"
        rows.append([scope, name, *(_mean_and_sd(column, 3) for column in areas.T)])
    header = ["scope", "order", *(f"clamp {name}" for name in results["clamp"].values)]
    return _section(
        "Area under the accuracy curve against the share of ablated neurons, mean ± "
        "standard deviation over networks",
        header,
        rows,
    )


def _variants(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    if "variants" not in tables:
        return []
    by_layer = tables["variants"].pivot_table(
        index=["measure", "variant"], columns="layer", values="spearman", sort=False
    )
    rows = [
        [*names, *(f"{value:.3f}" for value in row)]
        for names, row in zip(by_layer.index, by_layer.values, strict=True)
    ]
    header = ["measure", "variant", *(f"layer {name}" for name in by_layer.columns)]
    return _section(
        "Spearman's rho within the layer, of each measure with its variants: other "
        "quantisers and other examples",
        header,
        rows,
        "  (second half: its correlation with the first half of the examples)",
    )


def _effects(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = [
        [str(row["layer"]), row["clamp"], row["measure"], *_estimate(row, ".3f")]
        for row in _records(tables, "effects")
    ]
    return _section(
        "Kendall's tau-b within the layer, of each measure with the increase of the "
        "test loss when one neuron is ablated",
        ["layer", "clamp", "measure", "tau", *_TESTS],
        rows,
    )


def _hypotheses(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    if "hypotheses" not in tables:
        return []
    decided = tables["hypotheses"].query("verdict != 'undecided'")
    return [
        f"Hypotheses on curves: {len(decided)} of {len(tables['hypotheses'])} decided",
        *(f"  {sentence}" for sentence in decided["sentence"]),
    ]


def _joint(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = [
        [
            row["layer"],
            " ".join(filter(None, [row["instrument"], row["clamp"]])),
            row["unit"],
            *_estimate(row, ".3g"),
            row["finding"],
        ]
        for row in _records(tables, "joint")
    ]
    header = ["layer", "instrument", "unit", "mean", *_TESTS, "verdict"]
    return _section(
        "Pairs and groups: above 0 redundancy, below 0 synergy; mean over networks",
        header,
        rows,
    )


def _pairs(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """Correlations of co-information, and of the best of the other pair measures."""
    if "pairs" not in tables:
        return []
    pairs = tables["pairs"].dropna(subset=["effect"])
    sizes = {
        str(measure): effects.abs().mean()
        for measure, effects in pairs.groupby("pair_measure", sort=False)["effect"]
        if "co_information" not in str(measure)
    }
    strongest = max(sizes, key=lambda measure: sizes[measure], default="")
    rows = [
        [
            *(str(row[name]) for name in ("layer", "clamp", "pair_measure")),
            row["effect_in"],
            *_estimate(row, ".3f"),
        ]
        for row in _records(tables, "pairs")
        if row["pair_measure"] in ("co_information_miller_madow", strongest)
    ]
    header = ["layer", "clamp", "pair measure", "effect in", "rho", *_TESTS]
    return _section(
        "Spearman's rho over the pairs of a layer, of co-information and of the other "
        "measure with the strongest correlation, with the effect of ablating the pair",
        header,
        rows,
    )


def _conclusions(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    if "conclusions" not in tables:
        return []
    rows = [
        row
        for row in _records(tables, "conclusions")
        if row["suggested"] != "undecided" or row["verdict"] in interactions.DIRECTIONS
    ]
    counts = Counter(row["verdict"] for row in rows)
    found = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return [
        f"Hypotheses on curves, tested on pairs and groups: {found or 'none decided'}",
        *(f"  {row['sentence']}" for row in rows),
    ]


def _trends(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    rows = [
        [
            str(row["layer"]),
            row["quantity"].replace("_", " "),
            row["unit"],
            f"{row['from_epoch']} to {row['to_epoch']}",
            *_estimate(row, ".3f")[:2],
            row["trend"],
        ]
        for row in _records(tables, "trends")
        if np.isfinite(row["effect"])
    ]
    header = ["layer", "quantity", "unit", "epochs", "change", "95 % interval", "trend"]
    return _section(
        "Changes through training, mean over networks",
        header,
        rows,
    )


def _claims(tables: Mapping[str, pd.DataFrame], networks: int) -> list[str]:
    if "claims" not in tables:
        return [
            "Tests of hypotheses need 5 networks and tests of claims need 6; this run "
            f"has {networks}"
        ]
    counts = tables["claims"].groupby("claim", sort=False)["verdict"].value_counts()
    rows = [
        [name, *(str(counts.get((name, v), 0)) for v in VERDICTS), claim.text]
        for name, claim in CLAIMS.items()
    ]
    return _section(
        "The paper's claims: number of comparisons (of scope, clamp and measure) by "
        "verdict",
        ["claim", *VERDICTS, "text"],
        rows,
    )


def _records(
    tables: Mapping[str, pd.DataFrame], name: str
) -> list[dict[Hashable, Any]]:
    """The rows of a table, none without the table."""
    return tables[name].to_dict("records") if name in tables else []


def _estimate(row: Mapping[Hashable, Any], digits: str) -> list[str]:
    """Mean, interval and corrected p-value, empty where there are none."""
    if not np.isfinite(row["effect"]):
        return ["", "", ""]
    low, high, p = row["low"], row["high"], row.get("p_corrected", np.nan)
    return [
        f"{row['effect']:+{digits}}",
        f"{low:+{digits}} to {high:+{digits}}",
        f"{p:.2g}" if np.isfinite(p) else "",
    ]


def _mean_and_sd(values: np.ndarray, digits: int) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str
) -> list[str]:
    """A title, aligned columns, and notes; a repeated first cell is left blank."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines, above = [title], None
    for row in (header, *rows):
        shown = ["" if row[0] == above else row[0], *row[1:]]
        above = row[0]
        cells = [cell.ljust(width) for cell, width in zip(shown, widths, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return [*lines, *notes]
