"""Results become the summary that a run prints: what a person reads first."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.inference import claims, verdicts
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.claims import CLAIMS, VERDICTS
from ioca_jax.results.files import (
    converged,
    dataset_in_words,
    intact_accuracy,
    neurons_of,
)


def tabulate(results: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Every table that a run has the networks, the orders and the interactions for.

    Args:
        results: a run's results.

    Returns:
        By name, those of ``claims.tabulate`` and of ``verdicts.tabulate``.
    """
    tables = claims.tabulate(results)
    return tables | verdicts.tabulate(results, tables)


def summarize(
    results: xr.Dataset, tables: Mapping[str, pd.DataFrame] | None = None
) -> str:
    """Says in words and small tables what a run found.

    Args:
        results: a run's results.
        tables: out of ``tabulate``, if the caller has them already.

    Returns:
        Lines of text: the time it took, test error over seeds, each measure's range by
        layer, neurons that say nothing, the area under the accuracy curve of every
        scope and order, how measures rank with what single ablations cost, hypotheses,
        what pairs and groups say of layers and of hypotheses, and what holds of the
        paper's claims.
    """
    tables = tabulate(results) if tables is None else tables
    config = json.loads(results.attrs["configuration"])
    kept = converged(results)
    lines = [
        f"{dataset_in_words(config)}: {results.sizes['seed']} networks "
        f"{results.attrs['network']}, {config['epochs']} epochs, quantiser "
        f"{results.attrs['quantizer']}",
        _times(json.loads(results.attrs["seconds"])),
    ]
    diverged = results["seed"].values[results["diverged"].values.astype(bool)]
    if len(diverged):
        named = ", ".join(str(seed) for seed in diverged)
        lines.append(
            f"Diverged in training, left out below: {len(diverged)} of "
            f"{results.sizes['seed']} networks (seeds {named})"
        )
    if not kept.sizes["seed"]:
        return "\n".join(lines)
    error = 100 * (1 - intact_accuracy(kept))
    lines += [
        f"Test error: {_mean_and_sd(error, 2)} %, from {error.min():.2f} to "
        f"{error.max():.2f} (mean ± standard deviation over seeds)",
        "",
        "Measures, over all neurons and seeds",
        *_table(
            ["layer", "measure", "unit", "least", "median", "greatest"],
            _measure_rows(kept),
        ),
        "",
        *_neurons(tables.get("neurons")),
        "Area under the accuracy curve over the share of neurons ablated, mean ± "
        "standard deviation over seeds",
        *_table(
            ["scope", "order", *(f"clamp {c}" for c in kept["clamp"].values)],
            _area_rows(kept),
        ),
        *_inference(tables, kept.sizes["seed"]),
    ]
    return "\n".join(lines)


def _times(seconds: Mapping[str, float]) -> str:
    moments = ("loaded", "trained", "first_curves", "computed")
    told = ", ".join(
        f"{moment.replace('_', ' ')} after {seconds[moment]:.3g} s"
        for moment in moments
        if moment in seconds  # what was finished already took no time
    )
    return f"Data {told}; compiling took {seconds['compiling']:.3g} s of it"


def _measure_rows(results: xr.Dataset) -> list[list[str]]:
    rows = []
    for layer in np.unique(results["layer"].values):
        of_layer = results["score"].isel(neuron=neurons_of(results, layer))
        for measure in results["measure"].values:
            scores = of_layer.sel(measure=measure).values
            numbers = (scores.min(), np.median(scores), scores.max())
            unit = str(of_layer["unit"].sel(measure=measure).values)
            rows.append(
                [str(layer), str(measure), unit, *(f"{n:.3f}" for n in numbers)]
            )
    return rows


def _area_rows(results: xr.Dataset) -> list[list[str]]:
    rows = []
    for (scope, ranked, direction), areas in areas_by_order(results).items():
        name = ranked if ranked == "random" else f"{ranked} {direction}"
        rows.append([scope, name, *(_mean_and_sd(column, 3) for column in areas.T)])
    return rows


def _neurons(table: pd.DataFrame | None) -> list[str]:
    """How many neurons say nothing, and how many more than chance."""
    if table is None:
        return []
    table = table.drop(columns=list(table.filter(like="selective_for_")))
    header = [name.replace("_", " ", 1) for name in table.columns]
    rows = [
        [f"{value:g}" if value == int(value) else f"{value:.1f}" for value in row]
        for row in table.itertuples(index=False)
    ]
    described = (
        "Neurons, means over networks: dead, always on, and those whose measure chance "
        "does not explain"
    )
    how = (
        "  (family: above what any neuron shows in 95 % of permutations of the labels; "
        "discovered: at a false discovery rate of 5 %)"
    )
    tested = [how] if len(header) > 4 else []
    return [described, *_table(header, rows), *tested, ""]


def _inference(tables: Mapping[str, pd.DataFrame], networks: int) -> list[str]:
    """What is said over networks, as far as they are enough."""
    lines: list[str] = []
    if "variants" in tables:
        by_layer = tables["variants"].pivot_table(
            index=["measure", "variant"], columns="layer", values="spearman", sort=False
        )
        header = ["measure", "measured by", *(f"layer {n}" for n in by_layer.columns)]
        lines += [
            "",
            "Rank correlation (Spearman, within the layer) with the same measure by "
            "other quantisers and on other examples",
            *_table(
                header,
                [
                    [*names, *(f"{v:.3f}" for v in row)]
                    for names, row in zip(by_layer.index, by_layer.values, strict=True)
                ],
            ),
            "  (the second half is held against the first)",
        ]
    if "effects" in tables:
        rows = [
            [
                str(row["layer"]),
                row["clamp"],
                row["measure"],
                f"{row['effect']:+.3f}",
                f"{row['low']:+.3f} to {row['high']:+.3f}",
                f"{row['p_corrected']:.2g}",
            ]
            for row in tables["effects"].to_dict("records")
        ]
        header = ["layer", "clamp", "measure", "tau", "95 % interval", "corrected p"]
        lines += [
            "",
            "Rank correlation (Kendall's tau-b, within the layer) with the loss that "
            "ablating one neuron costs",
            *_table(header, rows),
        ]
    if "hypotheses" in tables:
        decided = tables["hypotheses"].query("verdict != 'undecided'")
        number = len(tables["hypotheses"])
        lines += [
            "",
            f"Hypotheses that curves suggest: {len(decided)} of {number} tested, the "
            "others are undecided",
            *(f"  {sentence}" for sentence in decided["sentence"]),
        ]
    lines += _pairs_and_groups(tables)
    lines += _along_training(tables.get("trends"))
    if "claims" in tables:
        counts = tables["claims"].groupby("claim", sort=False)["verdict"].value_counts()
        rows = [
            [
                claim,
                *(str(counts.get((claim, verdict), 0)) for verdict in VERDICTS),
                CLAIMS[claim].text,
            ]
            for claim in CLAIMS
        ]
        lines += [
            "",
            "The paper's claims, by comparison (each scope, clamp and measure)",
            *_table(["claim", *VERDICTS, "what is claimed"], rows),
        ]
    elif networks:
        lines += [
            "",
            f"Tests of hypotheses take 5 networks, tests of claims 6; these are "
            f"{networks}.",
        ]
    return lines


def _pairs_and_groups(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """What dominates in layers, whether information knows it, what became of curves."""
    lines: list[str] = []
    tests = ["95 % interval", "corrected p"]
    if "joint" in tables:
        rows = [
            [
                row["layer"],
                " ".join(filter(None, [row["instrument"], row["clamp"]])),
                row["unit"],
                *_estimate(row, ".3g"),
                row["says"],
            ]
            for row in tables["joint"].to_dict("records")
        ]
        lines += [
            "",
            "Pairs and groups: positive is redundancy, negative synergy; means over "
            "networks",
            *_table(["layer", "instrument", "unit", "mean", *tests, "says"], rows),
        ]
    if "pairs" in tables:
        pairs = tables["pairs"]
        mean_size = {
            str(name): float(np.abs(of_measure["effect"].to_numpy()).mean())
            for name, of_measure in pairs.groupby("pair_measure", sort=False)
        }
        others = [
            name
            for name, size in mean_size.items()
            if np.isfinite(size) and "co_information" not in name
        ]
        best = max(others, key=lambda name: mean_size[name], default="")
        shown = ("co_information_miller_madow", best)
        rows = [
            [
                *(str(row[name]) for name in ("layer", "clamp", "pair_measure")),
                row["effect_in"],
                *_estimate(row, ".3f"),
            ]
            for row in pairs.to_dict("records")
            if row["pair_measure"] in shown
        ]
        header = ["layer", "clamp", "of pairs", "effect in", "rho", *tests]
        lines += [
            "",
            "Rank correlation (Spearman, over the layer's pairs) of information with "
            "the effect of ablating a pair: co-information, and the one of the others "
            "that ranks most alike",
            *_table(header, rows),
        ]
    if "conclusions" in tables:
        told = [
            row
            for row in tables["conclusions"].to_dict("records")
            if row["suggested"] != "undecided" or row["verdict"] in verdicts.DIRECTIONS
        ]
        counts = Counter(row["verdict"] for row in told)
        found = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
        lines += [
            "",
            "Hypotheses, by what pairs and groups say: "
            + (found or "neither suggests anything"),
            *(f"  {row['sentence']}" for row in told),
        ]
    return lines


def _estimate(row: Mapping[Hashable, Any], digits: str) -> list[str]:
    """Mean, interval and corrected p-value, empty where there are none."""
    if not np.isfinite(row["effect"]):
        return ["", "", ""]
    low, high, p = row["low"], row["high"], row["p_corrected"]
    return [
        f"{row['effect']:+{digits}}",
        f"{low:+{digits}} to {high:+{digits}}",
        f"{p:.2g}" if np.isfinite(p) else "",
    ]


def _along_training(table: pd.DataFrame | None) -> list[str]:
    """What grew and what shrank along training."""
    if table is None:
        return []
    rows = [
        [
            str(row["layer"]),
            row["quantity"].replace("_", " "),
            row["unit"],
            f"{row['from_epoch']} to {row['to_epoch']}",
            *_estimate(row, ".3f")[:2],
            row["trend"],
        ]
        for row in table.to_dict("records")
        if np.isfinite(row["effect"])
    ]
    header = ["layer", "quantity", "unit", "epochs", "change", "95 % interval", ""]
    return ["", "Along training, mean over networks", *_table(header, rows)]


def _mean_and_sd(values: np.ndarray, digits: int) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, a repeated leading cell left blank."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines, above = [], None
    for row in (header, *rows):
        shown = ["" if row[0] == above else row[0], *row[1:]]
        above = row[0]
        cells = [cell.ljust(width) for cell, width in zip(shown, widths, strict=True)]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
