"""A run's results as text: the summary that a run prints."""

import json
import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr
from scipy.stats import norm

from ioca_jax.inference import interactions
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.claims import VERDICTS, claims_of
from ioca_jax.inference.families import ALPHA
from ioca_jax.inference.tables import tabulate
from ioca_jax.results.selection import (
    converged,
    describe_dataset,
    intact_accuracy,
    layer_title,
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
        error; the range of each measure by layer; dead, always active and informative
        neurons; areas under the accuracy curves; and, as far as the tables are there,
        rank correlations, hypotheses, pairs and groups, changes through training, and
        verdicts on the paper's claims.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> "Test error" in ioca.summarize(results)
        True
    """
    tables = tabulate(results) if tables is None else tables
    kept = converged(results)
    sections = [_overview(results)]
    if kept.sizes["seed"]:
        found = {n: write(tables[n]) for n, write in _SECTIONS.items() if n in tables}
        neurons = found.pop("neurons", [])
        sections += [_measures(kept), neurons, _areas(kept), *found.values()]
        networks = kept.sizes["seed"]
        if "claims" in tables:
            sections.append(_networks_to_decide(tables["claims"], networks))
        else:
            sections.append(
                [
                    "Tests of hypotheses need 5 networks and tests of claims need 6, "
                    "as a two-sided sign-flip test of n has p of at least 2^(1-n); "
                    f"this run has {networks}: {max(0, 6 - networks)} more are needed"
                ]
            )
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
            rows.append([layer, measure, scores["unit"].values, *texts])
    header = ["layer", "measure", "unit", "minimum", "median", "maximum"]
    table = pd.DataFrame(rows, columns=header)
    return _section("Measures, over all neurons and networks", table)


def _neurons(table: pd.DataFrame) -> list[str]:
    """Dead, always active, and significantly informative neurons by layer."""
    table = table.drop(columns=list(table.filter(like="selective_for_")))
    is_tested = table.shape[1] > 4
    numbers = table.drop(columns="layer").map(lambda number: f"{round(number, 1):g}")
    table = pd.concat([table["layer"], numbers], axis=1)
    return _section(
        "Number of neurons that are dead, always on, or significantly informative, "
        "mean over networks",
        table.rename(columns=lambda name: name.replace("_", " ", 1)),
        "  (family: above the maximum over neurons in 95 % of permutations of the "
        "labels; discovered: at a false discovery rate of 5 %)" * is_tested,
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
        pd.DataFrame(rows, columns=header),
    )


def _variants(table: pd.DataFrame) -> list[str]:
    by_layer = table.pivot_table(
        index=["measure", "variant"], columns="layer", values="spearman", sort=False
    )
    text = by_layer.map(lambda rho: f"{rho:.3f}").rename(columns=layer_title)
    return _section(
        "Spearman's rho within the layer, of each measure with its variants: other "
        "quantisers and other examples",
        text.reset_index(),
        "  (second half: its correlation with the first half of the examples)",
    )


def _effects(table: pd.DataFrame) -> list[str]:
    return _section(
        "Kendall's tau-b within the layer, of each measure with the increase of the "
        "test loss when one neuron is ablated",
        _estimates(table, ["layer", "clamp", "measure"], "tau", ".3f"),
    )


def _hypotheses(table: pd.DataFrame) -> list[str]:
    decided = table.query("verdict != 'undecided'")
    return [
        f"Hypotheses on curves: {len(decided)} of {len(table)} decided",
        *("  " + decided["sentence"]),
    ]


def _joint(table: pd.DataFrame) -> list[str]:
    instrument = (table["instrument"] + " " + table["clamp"]).str.strip()
    table = table.assign(instrument=instrument)
    names = ["layer", "instrument", "unit"]
    return _section(
        "Pairs and groups: above 0 redundancy, below 0 synergy; mean over networks",
        _estimates(table, names, "mean", ".3g").assign(verdict=table["finding"]),
    )


def _pairs(table: pd.DataFrame) -> list[str]:
    """Correlations of co-information, and of the best of the other pair measures."""
    known = table.dropna(subset=["effect"])
    sizes = {
        str(measure): effects.abs().mean()
        for measure, effects in known.groupby("pair_measure", sort=False)["effect"]
        if "co_information" not in str(measure)
    }
    strongest = max(sizes, key=lambda measure: sizes[measure], default="")
    shown = ["co_information_miller_madow", strongest]
    table = table.query(f"pair_measure in {shown}")
    names = ["layer", "clamp", "pair_measure", "effect_in"]
    return _section(
        "Spearman's rho over the pairs of a layer, of co-information and of the other "
        "measure with the strongest correlation, with the effect of ablating the pair",
        _estimates(table, names, "rho", ".3f"),
    )


def _conclusions(table: pd.DataFrame) -> list[str]:
    directions = list(interactions.DIRECTIONS)
    table = table.query(f"suggested != 'undecided' or verdict in {directions}")
    counts = table["verdict"].value_counts(sort=False)
    found = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    return [
        f"Hypotheses on curves, tested on pairs and groups: {found or 'none decided'}",
        *("  " + table["sentence"]),
    ]


def _trends(table: pd.DataFrame) -> list[str]:
    table = table.dropna(subset=["effect"])
    ends = table["from_epoch"].astype(str) + " to " + table["to_epoch"].astype(str)
    quantity = table["quantity"].str.replace("_", " ")
    table = table.assign(quantity=quantity, epochs=ends)
    names = ["layer", "quantity", "unit", "epochs"]
    text = _estimates(table, names, "change", ".3f").drop(columns="corrected p")
    return _section(
        "Changes through training, mean over networks",
        text.assign(trend=table["trend"]),
    )


def _class_damage(table: pd.DataFrame) -> list[str]:
    names = ["layer", "clamp", "quantity"]
    return _section(
        "Rank correlation of a neuron's selectivity for a class with the accuracy lost "
        "in that class when it alone is ablated, mean over classes and networks",
        _estimates(table, names, "correlation", ".3f"),
    )


def _self_repair(table: pd.DataFrame) -> list[str]:
    names = ["layer", "clamp"]
    text = _estimates(table, names, "direct less total", ".3g")
    totals = {name: table[name].map("{:.3g}".format) for name in ("total", "direct")}
    return _section(
        "Rise of the loss (nats) when one neuron is ablated: in total, and directly, "
        "with later layers held; means over a layer's neurons and over networks",
        text.assign(**totals),
        "direct less total above 0: later layers repair",
    )


def _claims(table: pd.DataFrame) -> list[str]:
    counts = pd.crosstab(table["claim"], table["verdict"])
    claims = claims_of(table)
    counts = counts.reindex(index=[*claims], columns=[*VERDICTS], fill_value=0)
    undecided = table[table["verdict"] == "undecided"].groupby("claim")
    needed = undecided["networks_for_power"].median().reindex([*claims])
    text = counts.assign(
        networks=[f"{n:.0f}" if np.isfinite(n) else "" for n in needed],
        text=[claim.text for claim in claims.values()],
    )
    return _section(
        "The paper's claims: number of comparisons (of scope, clamp and measure) by "
        "verdict",
        text.reset_index(),
        "networks: about how many would decide half of the undecided comparisons",
    )


def _networks_to_decide(table: pd.DataFrame, networks: int) -> list[str]:
    """How many networks would decide half of what is undecided, were effects the same.

    A z-value grows with the root of the number of networks.
    """
    undecided = table.loc[table["verdict"] == "undecided", "p_corrected"].dropna()
    if undecided.empty:
        return []
    z = norm.isf(undecided.to_numpy() / 2)
    ratio = norm.isf(ALPHA / 2) / max(float(np.median(z)), 0.1)
    return [
        f"Undecided are {len(undecided)} of {len(table)} comparisons; with effects and "
        f"spread as here, about {math.ceil(networks * ratio**2):,} networks would "
        f"decide half of them (an estimate; this run has {networks})"
    ]


def _estimates(
    table: pd.DataFrame, names: list[str], effect: str, digits: str
) -> pd.DataFrame:
    """Names, means, intervals and corrected p-values as text, empty without a value."""

    def number(value: float) -> str:
        return f"{value:+{digits}}" if np.isfinite(value) else ""

    low, high = (table[end].map(number) for end in ("low", "high"))
    text = table.filter(names).rename(columns=lambda name: name.replace("_", " "))
    text[effect] = table["effect"].map(number)
    text["95 % interval"] = (low + " to " + high).where(low != "", "")
    p_values = table["p_corrected"]
    text["corrected p"] = [f"{p:.2g}" if np.isfinite(p) else "" for p in p_values]
    return text


def _mean_and_sd(values: np.ndarray, digits: int) -> str:
    if len(values) < 2:
        return f"{values.mean():.{digits}f}"
    return f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}"


def _section(title: str, table: pd.DataFrame, note: str = "") -> list[str]:
    """A title, aligned columns, and a note; a repeated first cell is left blank."""
    if table.empty:
        return []
    text = table.astype(str)
    first = text.iloc[:, 0]
    text = text.assign(**{str(first.name): first.mask(first == first.shift(), "")})
    columns = [text[name].tolist() for name in text]
    columns = [[name, *cells] for name, cells in zip(text, columns, strict=True)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(map(str.ljust, row, widths)).rstrip()
        for row in zip(*columns, strict=True)
    ]
    return list(filter(None, [title, *(f"  {line}" for line in lines), note]))


_SECTIONS = {
    "neurons": _neurons,
    "variants": _variants,
    "effects": _effects,
    "class_damage": _class_damage,
    "self_repair": _self_repair,
    "hypotheses": _hypotheses,
    "joint": _joint,
    "pairs": _pairs,
    "conclusions": _conclusions,
    "trends": _trends,
    "claims": _claims,
}
