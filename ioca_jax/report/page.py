"""A report as one HTML file, which opens offline and asks no host for anything."""

import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import pandas as pd
import xarray as xr

from ioca_jax.inference.claims import CLAIMS
from ioca_jax.report.findings import find
from ioca_jax.report.page_data import curve_data, neuron_data
from ioca_jax.results.selection import (
    compact,
    converged,
    describe_dataset,
    layer_title,
    layers_of,
    neurons_of,
    readable,
)

PAGE_FILE = "report.html"
_MOST_CELLS = 3_000  # of a table; all rows are in the run's folder
# Drawn as curves, not shown as a table.
_LEFT_OUT = ("differences",)
_TITLES = {
    "neurons": "Neurons that are dead, always on, or significantly informative, mean "
    "over networks",
    "variants": "Measures by other quantisers and on parts of the examples",
    "orders": "Orders compared with random order: normalised area under the accuracy "
    "curve",
    "effects": "Correlation of each measure with the increase of the loss when one "
    "neuron is ablated",
    "class_damage": "Correlation of selectivity for a class with the accuracy lost in "
    "that class",
    "self_repair": "Direct less total effect of ablating one neuron on the loss, mean "
    "over a layer's neurons; above 0, later layers repair",
    "hypotheses": "Hypotheses on redundancy and synergy that curves suggest",
    "claims": "The paper's claims, by comparison",
    "pairs": "Correlation of pair measures with the effect of ablating the pair",
    "joint": "Redundancy and synergy in each layer",
    "verdicts": "Hypotheses tested on pairs and groups, by instrument",
    "conclusions": "Hypotheses tested on pairs and groups, together",
    "trajectories": "Measures along training, mean over networks",
    "trends": "Changes through training",
}


class Cell(NamedTuple):
    """A table's cell: its text, and its value where the text is rounded."""

    text: str
    value: str = ""
    is_number: bool = False


class Table(NamedTuple):
    """A table as a page shows it."""

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left_out: int = 0
    file: str = ""


class Section(NamedTuple):
    """A heading of an overview, with a text, tables and pictures below it."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()


def make_table(name: str, table: pd.DataFrame, title: str, file: str = "") -> Table:
    """A table for a page, cut to its first rows where it is very long."""
    rows = max(10, _MOST_CELLS // max(1, table.shape[1]))
    shown = [
        [_cell(value) for value in row]
        for row in table.head(rows).itertuples(index=False, name=None)
    ]
    columns = [str(column) for column in table.columns]
    return Table(name, title, columns, shown, max(0, len(table) - rows), file)


def _cell(value: Any) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if (
        value is None
        or value is pd.NA
        or (isinstance(value, float) and math.isnan(value))
    ):
        return Cell("", "", True)
    text, exact = f"{value:.4g}", f"{value:.8g}"
    return Cell(text, "" if text == exact else exact, True)


def run_page(
    results: xr.Dataset,
    tables: Mapping[str, pd.DataFrame],
    flags: str = "",
) -> str:
    """A run's report as HTML.

    Args:
        results: a run's results.
        tables: from ``tabulate``.
        flags: the content of ``flags.txt``, how the run is repeated.

    Returns:
        One page of less than 3 MB, which asks no host for anything.
    """
    config = json.loads(results.attrs["configuration"])
    kept = converged(results)
    data: dict[str, Any] = {
        "claims": {name: claim._asdict() for name, claim in CLAIMS.items()}
    }
    if kept.sizes["seed"]:
        data |= {"curves": curve_data(kept), "neurons": neuron_data(kept)}
    shown = {
        name: make_table(name, table, _TITLES.get(name, name), f"tables/{name}.csv")
        for name, table in tables.items()
        if name not in _LEFT_OUT and len(table)
    }
    return (
        _templates()
        .get_template("run.html")
        .render(
            title=f"{describe_dataset(config)}, {results.attrs['network']}",
            findings=find(results, tables),
            facts=_facts(results, config),
            layers=make_table("layers", _layers(results), "Layers"),
            tables=shown,
            data=data,
            flags=flags,
            configuration=json.dumps(config, indent=2),
            provenance=_provenance(results),
        )
    )


def overview_page(
    title: str,
    findings: Mapping[str, Sequence[str]],
    sections: Sequence[Section],
    runs: Mapping[str, str] | None = None,
    command: str = "",
) -> str:
    """A report on several runs as HTML.

    Args:
        title: of the page.
        findings: sentences by heading.
        sections: of tables.
        runs: by name, relative addresses of the runs' pages.
        command: that made it.

    Returns:
        One page, as ``run_page``.
    """
    return (
        _templates()
        .get_template("overview.html")
        .render(
            title=title,
            findings=findings,
            sections=sections,
            runs=runs or {},
            command=command,
            data={},
        )
    )


@functools.cache
def _templates() -> jinja2.Environment:
    folder = pathlib.Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # tojson escapes <, > and & in strings, so that no text ends the script element.
    environment.policies["json.dumps_kwargs"] = {
        "separators": (",", ":"),
        "allow_nan": False,
    }
    environment.filters["readable"] = readable
    return environment


def _facts(results: xr.Dataset, config: Mapping[str, Any]) -> dict[str, str]:
    """What was run, by name."""
    attrs = results.attrs
    seconds = json.loads(attrs["seconds"])
    elsewhere = "variables_digest" in attrs
    draws = int((results["ranked_by"] == "random").sum())
    diverged = int(results["diverged"].sum())
    seeds = compact(sorted(results["seed"].values.tolist())).replace(",", ", ")
    sizes = [
        f"{attrs[f'num_{split}']:,} {split}"
        for split in ("train", "validation", "test")
        if f"num_{split}" in attrs
    ]
    facts = {
        "Data": f"{describe_dataset(config)}"
        + (f" ({', '.join(sizes)} examples)" if sizes else "")
        + f", {results.sizes['class']} classes",
        "Network": str(attrs["network"]),
        "Networks": f"{results.sizes['seed']} (seeds {seeds})"
        + (f", {diverged} diverged and left out" if diverged else ""),
        "Training": "trained elsewhere" if elsewhere else f"{config['epochs']} epochs",
        "Measures": ", ".join(readable(str(m)) for m in results["measure"].values),
        "Quantiser": str(attrs["quantizer"]),
        "Ablated neurons output": ", ".join(map(str, results["clamp"].values)),
        "Random orders": str(draws) if draws else "none",
    }
    if "computed" in seconds:
        facts["Computing time"] = f"{seconds['computed']:.3g} s" + (
            f", {seconds['compiling']:.3g} s of it compiling"
            if "compiling" in seconds
            else ""
        )
    return facts


def _layers(results: xr.Dataset) -> pd.DataFrame:
    layers = layers_of(results)
    return pd.DataFrame(
        {
            "layer": [layer_title(layer) for layer in layers],
            "neurons": [len(neurons_of(results, layer)) for layer in layers],
        }
    )


def _provenance(results: xr.Dataset) -> dict[str, str]:
    """Versions, devices and digests, as far as the results have them."""
    names = {
        "versions": "Versions",
        "source_revision": "Revision of the source",
        "device": "Device",
        "precision": "Precision",
        "data_digest": "Digest of the data",
        "variables_digest": "Digest of the networks",
        "created": "Created",
    }
    attrs = dict(results.attrs)
    if "versions" in attrs:
        # Of several machines where parts were merged.
        parts = map(json.loads, attrs["versions"].split("; "))
        told = (", ".join(f"{n} {v}" for n, v in part.items()) for part in parts)
        attrs["versions"] = "; ".join(told)
    return {title: str(attrs[name]) for name, title in names.items() if name in attrs}
