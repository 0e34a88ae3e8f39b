"""How a command ends that leaves a run: findings, and where all of them are."""

import pathlib
import shutil
import textwrap

import xarray as xr

import ioca_jax as ioca
from ioca_jax.report.findings import unbroken
from ioca_jax.report.page import PAGE_FILE
from ioca_jax.report.tables import first_findings

_LONGEST_LINE = 88


def print_findings(results: xr.Dataset, path: pathlib.Path) -> None:
    """Prints what was run, three findings, and where all of them are."""
    summary, page = path / "summary.txt", path / PAGE_FILE
    if summary.is_file():
        for line in summary.read_text("utf-8").splitlines()[:2]:
            print(wrapped(line))
        print()
    for number, sentence in enumerate(_first(results, path / "tables"), 1):
        print(wrapped(f"{number}. {sentence}", "   "))
    if page.is_file():
        print(f"\nAll findings: {page}; as text: {summary}")


def _first(results: xr.Dataset, folder: pathlib.Path) -> list[str]:
    """Three findings, from the tables in the folder: to compute them may take long."""
    files = [folder / f"{name}.csv" for name in ("orders", "claims")]
    tables = {file.stem: ioca.load_table(file) for file in files if file.is_file()}
    return first_findings(ioca.findings(results, tables))


def wrapped(text: str, indent: str = "") -> str:
    """Text in lines that fit the terminal; those behind the first are indented."""
    width = min(_LONGEST_LINE, shutil.get_terminal_size((_LONGEST_LINE, 24)).columns)
    lines = textwrap.fill(unbroken(text), width, subsequent_indent=indent)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
