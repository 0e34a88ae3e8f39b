"""Sections of a summary: a table of a run as lines of text under its title."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from ioca_jax.inference.claims import VERDICTS, claims_of
from ioca_jax.inference.comparisons import MOST_NETWORKS
from ioca_jax.inference.families import ALPHA
from ioca_jax.inference.interactions import DIRECTIONS
from ioca_jax.inference.statistics import significant
from ioca_jax.inference.verdicts import CONCLUSIONS
from ioca_jax.report.findings import skewness_sentence
from ioca_jax.results.subsets import layer_title, readable

_BEYOND = f"over {MOST_NETWORKS}"


def neurons(title: str, table: pd.DataFrame) -> list[str]:
    """Dead, always active, and significantly informative neurons by layer."""
    of_class = list(table.filter(like="selective_for_"))
    by_permutation = table.filter(like="by_permutation")
    table = table.drop(columns=[*of_class, *by_permutation])
    is_tested = table.shape[1] > 4
    numbers = table.drop(columns="layer").map(lambda number: f"{round(number, 1):g}")
    text = pd.concat([table["layer"], numbers], axis=1)
    lines = section(
        title,
        text.rename(columns=lambda name: name.replace("_", " ", 1)),
        "  (family: above the maximum over neurons in 95 % of permutations of the "
        "labels; discovered: at a false discovery rate of 5 %)" * is_tested,
    )
    return [*lines, *_hard_to_discover(by_permutation, sum(table["neurons"].tolist()))]


def _hard_to_discover(table: pd.DataFrame, number: int) -> Iterator[str]:
    """A line on neurons that are discovered only together, by too few permutations."""
    means = table.filter(like="by_permutation_").sum()
    tested = {name: of for name, of in means.items() if of}
    least = max(table.to_dict("list").get("least_by_permutation", [1]))
    if tested and least > 1:
        of_measures = ", ".join(
            f"{neurons:.3g} neurons for "
            f"{readable(str(name).removeprefix('by_permutation_'))}"
            for name, neurons in tested.items()
        )
        discovered = (
            f"these are discovered only where {least} or more of all {number} neurons "
            "are"
            if least <= number
            else "none of these can be discovered"
        )
        yield (
            f"  (permutations give the p-values of {of_measures}; with so few "
            f"permutations, {discovered}: give more --permutations)"
        )


def variants(title: str, table: pd.DataFrame) -> list[str]:
    """Rank correlations of measures with their variants, by layer."""
    by_layer = table.pivot_table(
        index=["measure", "variant"], columns="layer", values="spearman", sort=False
    )
    text = by_layer.map(lambda rho: f"{rho:.3f}").rename(columns=layer_title)
    return section(
        title,
        text.reset_index(),
        "  (second half: its correlation with the first half of the examples)",
    )


def effects(title: str, table: pd.DataFrame) -> list[str]:
    """Kendall's tau-b of each measure with the effects of single neurons."""
    names = ["layer", "clamp", "measure"]
    return section(title, _estimates(table, names, "tau", ".3f"))


def faithfulness(title: str, table: pd.DataFrame) -> list[str]:
    """CPR and CMD from all points, and by how much they differ from random order."""
    table = table.query("quantity in ('CPR', 'CMD')")
    names = ["scope", "clamp", "metric", "quantity", "ranked_by"]
    text = _estimates(table, names, "less random", ".3f")
    value = table["value"].map(lambda value: f"{value:.3f}" if value == value else "")
    text.insert(len(names), "value", value)
    return section(title, text)


def regret(title: str, table: pd.DataFrame) -> list[str]:
    """By how much orders are below the learned one."""
    names = ["scope", "clamp", "quantity", "ranked_by"]
    text = _estimates(table, names, "regret", ".3f")
    text.insert(len(names), "learned", table["learned"].map("{:.3f}".format))
    return section(title, text)


def annotations(title: str, table: pd.DataFrame) -> list[str]:
    """The differences between values that tests show."""
    names = ["annotation", "value", "scope", "clamp", "ranked_by", "direction"]
    p_values = table["p_corrected"].to_numpy()
    shown = table.loc[significant(p_values, ALPHA)]
    if shown.empty:
        tested = np.isfinite(p_values).any()
        why = "no difference is significant" if tested else "without a test"
        return [f"{title}: {len(table)} comparisons, {why}"]
    text = _estimates(shown, names, "more than others", ".3f")
    return section(title, text, "(those with a corrected p of at most 0.05)")


def hypotheses(title: str, table: pd.DataFrame) -> list[str]:
    """The sentences of what the curves decide."""
    decided = table.query("verdict != 'undecided'")
    ends = table["end"].value_counts()
    suggested = table["verdict"].value_counts()
    numbers = [
        f"{suggested.get(word, 0)} of {ends.get(end, 0)} {word}"
        for end, word in zip(("highest", "lowest"), DIRECTIONS, strict=True)
    ]
    return [
        f"{title}: {', '.join(numbers)}, the others undecided",
        *("  " + decided["sentence"]),
    ]


def joint(title: str, table: pd.DataFrame) -> list[str]:
    """What each instrument shows of a layer."""
    instrument = (table["instrument"] + " " + table["clamp"]).str.strip()
    table = table.assign(instrument=instrument)
    names = ["layer", "instrument", "unit"]
    text = _estimates(table, names, "mean", ".3g")
    return section(title, _with_words(text, "verdict", table["finding"].tolist()))


def pairs(title: str, table: pd.DataFrame) -> list[str]:
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
    return section(
        title,
        _estimates(table, names, "rho", ".3f"),
        "  (co-information, and of the other measures that of strongest correlation)",
    )


def conclusions(title: str, table: pd.DataFrame) -> list[str]:
    """The sentences of what is suggested, or shown by several instruments."""
    directions = list(DIRECTIONS)
    table = table.query(f"suggested != 'undecided' or verdict in {directions}")
    counts = table["verdict"].value_counts(sort=False)
    words = (*CONCLUSIONS, *(word for word in directions if word in counts))
    found = ", ".join(f"{counts.get(word, 0)} {word}" for word in words)
    return [
        f"{title}: {found}",
        *("  " + table["sentence"]),
    ]


def trends(title: str, table: pd.DataFrame) -> list[str]:
    """Changes to the last epoch, as far as they are known."""
    table = table.dropna(subset=["effect"])
    ends = table["from_epoch"].astype(str) + " to " + table["to_epoch"].astype(str)
    quantity = table["quantity"].str.replace("_", " ")
    table = table.assign(quantity=quantity, epochs=ends)
    names = ["layer", "quantity", "unit", "epochs"]
    text = _estimates(table, names, "change", ".3f")
    text = text.drop(columns="corrected p", errors="ignore")
    return section(title, _with_words(text, "trend", table["trend"].tolist()))


def class_damage(title: str, table: pd.DataFrame) -> list[str]:
    """Correlations of selectivity for a class with the damage to it."""
    names = ["layer", "clamp", "quantity"]
    return section(title, _estimates(table, names, "correlation", ".3f"))


def self_repair(title: str, table: pd.DataFrame) -> list[str]:
    """Direct less total effects, and both."""
    names = ["layer", "clamp"]
    text = _estimates(table, names, "direct less total", ".3g")
    totals = {name: table[name].map("{:.3g}".format) for name in ("total", "direct")}
    return section(
        title,
        text.assign(**totals),
        "direct less total above 0: later layers repair",
    )


def claims(title: str, table: pd.DataFrame) -> list[str]:
    """How often each claim holds, and the networks that would decide it."""
    counts = pd.crosstab(table["claim"], table["verdict"])
    claims = claims_of(table)
    counts = counts.reindex(index=[*claims], columns=[*VERDICTS], fill_value=0)
    by_claim = [table.query("claim == @name") for name in claims]
    needed = table.groupby("claim")["networks_for_half"].median()
    text = counts.assign(
        networks=needed.reindex([*claims]).map(networks_text),
        **{_BEYOND: [_too_small(own) for own in by_claim]},
        text=[claim.text for claim in claims.values()],
    )
    note = (
        "networks: about how many would decide half of the undecided comparisons; "
        f"{_BEYOND}: undecided comparisons that more than {MOST_NETWORKS} networks "
        "would be needed for (at a power of 80 %), whose effects are too small or too "
        "uncertain to plan for, and the range of their 95 % intervals\n"
        + skewness_sentence(table.to_dict("records"))
    )
    if "1, first version" in claims:
        note += "\n1, first version: claim 1 as arXiv 1804.06679v1 has it"
    counted = table.loc[table["undefined"] > 0, "undefined"]
    if len(counted):
        ends = " to ".join(map(str, dict.fromkeys((counted.min(), counted.max()))))
        note += (
            "\nAn undefined tau, of a layer whose neurons are all alike, counts as 0: "
            f"in {len(counted)} comparisons, of {ends} networks each"
        )
    return section(
        f"{title}: number of comparisons (of scope, clamp and measure) by verdict",
        text.reset_index(),
        note,
    )


def networks_text(networks: float) -> str:
    """A number from ``networks_for_power`` as text, empty for NaN."""
    if np.isinf(networks):
        return _BEYOND
    return f"{math.ceil(networks)}" if np.isfinite(networks) else ""


def _too_small(rows: pd.DataFrame) -> str:
    """How many comparisons have no number of networks, and the range of intervals."""
    beyond = rows[np.isinf(rows["networks_for_power"])]
    if beyond.empty:
        return ""
    low, high = beyond["low"].min(), beyond["high"].max()
    return f"{len(beyond)}: {low:+.3f} to {high:+.3f}"


def _estimates(
    table: pd.DataFrame, names: list[str], effect: str, digits: str
) -> pd.DataFrame:
    """Names, means, intervals and corrected p-values as text, empty without a value.

    Without any test there is no column of p-values.
    """

    def number(value: float) -> str:
        return f"{value:+{digits}}" if np.isfinite(value) else ""

    low, high = (table[end].map(number) for end in ("low", "high"))
    text = table.filter(names).rename(columns=lambda name: name.replace("_", " "))
    text[effect] = table["effect"].map(number)
    text["95 % interval"] = (low + " to " + high).where(low != "", "")
    p_values = table["p_corrected"]
    told = [f"{p:.2g}" if np.isfinite(p) else "" for p in p_values]
    return _with_words(text, "corrected p", told)


def _with_words(text: pd.DataFrame, name: str, words: Sequence[str]) -> pd.DataFrame:
    """With a column of words, unless all of them are empty."""
    return text.assign(**{name: words}) if any(words) else text


def section(title: str, table: pd.DataFrame, note: str = "") -> list[str]:
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


def markdown(table: pd.DataFrame) -> str:
    """The table with its columns' names, in Markdown's syntax."""
    lines = [table.columns.tolist(), ["---"] * len(table.columns)]
    lines += table.astype(str).values.tolist()
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
