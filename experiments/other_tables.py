"""What the jobs say of their settings, as tables in Markdown."""

import json
from collections.abc import Callable, Mapping

import pandas as pd
import xarray as xr

from ioca_jax.inference import claims, families, interactions
from ioca_jax.inference.class_damage import predict_class_damage
from ioca_jax.inference.self_repair import measure_self_repair
from ioca_jax.report.sections import markdown
from ioca_jax.results.subsets import converged, intact_accuracy

Runs = Mapping[str, xr.Dataset]
_SELECTIONS = ("mrmr", "jmi")
_PAIRS_BY_CLAMP = ("zero", "mean")


def verdict_counts(verdicts: pd.Series) -> str:
    """Of some comparisons, how many hold / fail / are undecided."""
    return " / ".join(str((verdicts == v).sum()) for v in claims.VERDICTS)


def verdict_table(judged: pd.DataFrame, by: str) -> pd.DataFrame:
    """A row per claim, a column per value of ``by``: holds / fails / undecided."""
    cells = judged.pivot_table(
        index="claim", columns=by, values="verdict", aggfunc=verdict_counts, sort=False
    )
    found = claims.claims_of(judged)
    cells = cells.reindex(index=list(found), columns=judged[by].unique())
    described = [f"{name}: {claim.text}" for name, claim in found.items()]
    table = cells.fillna("").reset_index(drop=True)
    table.insert(0, "claim", described)
    return table


def claims_by_clamp(judged: pd.DataFrame) -> pd.DataFrame:
    """A row per claim and architecture, a column per clamp: holds / fails / undecided.

    Claims about measures alone have their counts in the first column of clamps.
    """
    clamps = [clamp for clamp in judged["clamp"].unique() if clamp]
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
    return families.judge_family(rows, values)


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


def about_networks(runs: Runs) -> pd.DataFrame:
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


def redundancy(results: xr.Dataset) -> pd.DataFrame:
    """A row per layer: redundancy (above 0) and synergy of pairs, means over networks.

    By information, by ablation, and the rank correlation of the two over pairs; *: a
    corrected p of at most 0.05.
    """
    behaviour = interactions.joint_behaviour(results).set_index(["layer", "instrument"])
    correlations = interactions.correlate_pairs(results).query(
        f"pair_measure == '{interactions.CO_INFORMATION}' and effect_in == 'loss'"
    )
    rows = []
    for layer, of_layer in correlations.groupby("layer", sort=False):
        found = behaviour.loc[str(layer)]
        effects = found.loc[["pair effects in loss"]].set_index("clamp")
        rhos = of_layer.set_index("clamp")
        row = {
            "layer": layer,
            "co-information, 10⁻³ bits": _starred(
                found.loc["co-information"], 1e3, "+.1f"
            ),
        }
        for clamp in _PAIRS_BY_CLAMP:
            title = f"pair effect in loss, {clamp}, 10⁻⁶ nats"
            row[title] = _starred(effects.loc[clamp], 1e6, "+.0f")
        for clamp in _PAIRS_BY_CLAMP:
            row[f"rank correlation, {clamp}"] = _starred(rhos.loc[clamp], 1, "+.2f")
        rows.append(row)
    return pd.DataFrame(rows)


def class_damage(results: xr.Dataset) -> pd.DataFrame:
    """A row per layer, a column per clamp: own class less others, mean over networks.

    The rank correlation, over neurons, of the selectivity for a class with the accuracy
    that this class loses, less that of other classes.
    """
    table = predict_class_damage(results).query("quantity == 'own class less others'")
    return _by_clamp(table, ["layer"], "+.2f")


def self_repair(results: xr.Dataset) -> pd.DataFrame:
    """A row per layer and clamp: total and direct effects of a neuron on the loss."""
    table = measure_self_repair(results)
    cells = pd.DataFrame(table[["layer", "clamp"]])
    for name in ("total", "direct"):
        cells[f"{name}, nats"] = table[name].map("{:.2g}".format)
    cells["direct less total"] = _stars(table, ".3g")
    cells["95 % interval"] = [
        f"{low:.3g} to {high:.3g}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    return cells


def _starred(row: pd.Series, scale: float, form: str) -> str:
    star = "*" * bool(row["p_corrected"] <= families.ALPHA)
    return f"{row['effect'] * scale:{form}}{star}"


def _stars(table: pd.DataFrame, form: str) -> list[str]:
    return [_starred(row, 1, form) for _, row in table.iterrows()]


def _by_clamp(table: pd.DataFrame, index: list[str], form: str) -> pd.DataFrame:
    """Effects in a column per clamp, with a star where they are significant."""
    cells = table.assign(cell=_stars(table, form)).pivot_table(
        index=index, columns="clamp", values="cell", aggfunc="first", sort=False
    )
    return pd.DataFrame(cells.reset_index())


def _together(runs: Runs, make: Callable[[xr.Dataset], pd.DataFrame]) -> pd.DataFrame:
    """The rows of all settings, each with its setting in front."""
    parts = []
    for setting, results in runs.items():
        part = make(results)
        part.insert(0, "setting", setting)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def report(runs: Runs, judged: pd.DataFrame, orders: pd.DataFrame) -> str:
    """All tables, each under a line that says what it is."""
    by_clamp = claims_by_clamp(judged)
    by_clamp["claim"] = by_clamp["claim"].mask(by_clamp["claim"].duplicated(), "")
    tables = {
        "Claims: comparisons in which each holds / fails / is undecided": by_clamp,
        "The same by setting, over all clamps": verdict_table(judged, "setting"),
        "Normalised areas by mutual information, zero clamp, means over networks": (
            _together(runs, areas_of_orders)
        ),
        "Ascending order by mRMR and JMI less that by mutual information, normalised "
        "area, mean over networks; *: corrected p of at most 0.05": _by_clamp(
            orders, ["setting", "scope", "ranked_by"], "+.3f"
        ),
    }
    measured = {
        "Redundancy of pairs (above 0) and synergy, means over networks": (
            redundancy,
            interactions.has_interactions,
        ),
        "Selectivity for a class and the damage to it: rank correlation with the own "
        "class less that with others": (
            class_damage,
            lambda results: "joint_count" in results,
        ),
        "Self-repair: rise of the loss by one neuron's ablation": (
            self_repair,
            lambda results: "direct_loss" in results,
        ),
    }
    for title, (make, is_there) in measured.items():
        some = {name: results for name, results in runs.items() if is_there(results)}
        if some:
            tables[title] = _together(some, make)
    tables["Networks"] = about_networks(runs)
    parts = [f"{title}\n\n{markdown(table)}" for title, table in tables.items()]
    return "\n\n".join(parts) + "\n"
