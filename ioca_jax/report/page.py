"""A report as one HTML file, which opens offline and asks no host for anything."""

import functools
import json
import pathlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import jinja2
import pandas as pd
import xarray as xr

from ioca_jax.inference.claims import CLAIMS
from ioca_jax.inference.comparisons import MOST_NETWORKS
from ioca_jax.inference.families import MARGIN
from ioca_jax.report.findings import unbroken
from ioca_jax.report.page_data import curve_data, neuron_data
from ioca_jax.report.page_tables import Source, claim_text, heading, make_tables
from ioca_jax.report.tables import TABLES, few_networks, findings, first_findings
from ioca_jax.results.subsets import (
    compact,
    converged,
    describe_dataset,
    describe_quantizer,
    layer_title,
    layers_of,
    neurons_of,
    readable,
)

PAGE_FILE = "report.html"
_LARGEST_PICTURE = 600_000  # bytes
_CLAIMS = {claim_text(name): claim._asdict() for name, claim in CLAIMS.items()}


class Chart(NamedTuple):
    """Means with intervals, from a table of the page.

    Attributes:
        table: its name.
        by: columns that the reader chooses a value of, separated by spaces.
        label: columns that name a row.
        unit: of the values, if the table has no column for it.
        value: the column that is drawn.
    """

    table: str
    by: str
    label: str
    unit: str = ""
    value: str = "effect"


class Picture(NamedTuple):
    """A figure within the page."""

    address: str
    alt: str


class Section(NamedTuple):
    """A heading of an overview, and what is below it."""

    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[str] = ()


def embed(file: pathlib.Path, alt: str) -> list[Picture]:
    """A PNG file as a picture that is a part of the page; none if it is too large."""
    content = file.read_bytes()
    if len(content) > _LARGEST_PICTURE:
        return []
    return [Picture(f"data:image/png;base64,{b64encode(content).decode()}", alt)]


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
    data: dict[str, Any] = {"claims": _CLAIMS}
    if kept.sizes["seed"]:
        data |= {"curves": curve_data(kept), "neurons": neuron_data(kept)}
    sources = {
        table.name: Source(
            *(tables[table.name], table.title, f"tables/{table.name}.csv"),
            columns=table.columns,
        )
        for table in TABLES
        if table.on_page and table.name in tables and len(tables[table.name])
    }
    shown = make_tables({"layers": Source(_layers(results), "Layers"), **sources})
    found = findings(results, tables)
    return (
        _templates()
        .get_template("run.html")
        .render(
            title=f"{describe_dataset(config)}, {results.attrs['network']}",
            findings=found,
            first=first_findings(found),
            few=few_networks(results),
            facts=_facts(results, config),
            layers=shown.pop("layers"),
            most_networks=MOST_NETWORKS,
            margin=MARGIN,
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
    sources: Mapping[str, Source],
    runs: Mapping[str, str],
    command: str,
    few: str = "",
    about: str = "",
) -> str:
    """A report on several runs as HTML.

    Args:
        title: of the page.
        findings: sentences by heading.
        sections: with the names of their tables.
        sources: the tables.
        runs: by name, the runs' folders relative to the page's.
        command: that made it.
        few: that runs have too few networks for tests, if they do.
        about: what was done, if it is not the ablation of several runs.

    Returns:
        One page, as ``run_page``.
    """
    pages = {name: f"{quote(folder)}/{PAGE_FILE}" for name, folder in runs.items()}
    return (
        _templates()
        .get_template("overview.html")
        .render(
            title=title,
            findings=findings,
            first=[text for told in findings.values() for text in told][:3],
            sections=sections,
            tables=make_tables(sources),
            runs=pages,
            command=command,
            few=few,
            about=about,
            data={"claims": _CLAIMS},
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
    environment.filters |= {"heading": heading, "unbroken": unbroken}
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
        "Training": "trained elsewhere" if elsewhere else _epochs(config["epochs"]),
        "Measures": ", ".join(readable(str(m)) for m in results["measure"].values),
        "Activations": f"{describe_quantizer(attrs['quantizer'])} (for measures)",
        "Clamps": ", ".join(map(str, results["clamp"].values)),
        "Random orders": str(draws) if draws else "none",
    }
    if "computed" in seconds:
        facts["Computing time"] = f"{seconds['computed']:.3g} s" + (
            f", {seconds['compiling']:.3g} s of it compiling"
            if "compiling" in seconds
            else ""
        )
        if seconds.get("joined", 1) > 1:
            facts["Computing time"] += f", in the slowest of {seconds['joined']} runs"
    return facts


def _epochs(number: int) -> str:
    return f"{number} epoch{'s' if number != 1 else ''}"


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
    if "device" in attrs:
        # The kind of a CPU is the name of its platform.
        devices = str(attrs["device"]).split(", ")
        kinds = (" ".join(dict.fromkeys(device.split())) for device in devices)
        attrs["device"] = ", ".join(kinds)
    if attrs.get("source_revision") == "unknown":
        del attrs["source_revision"]
    return {title: str(attrs[name]) for name, title in names.items() if name in attrs}
