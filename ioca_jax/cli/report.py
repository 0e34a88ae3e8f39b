"""Writes the page, tables, figures and summary of finished runs again, from study.nc.

ioca report runs/demo

For results that were written by an earlier version, or with --nofigures. The networks
and study.nc itself stay as they are.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from ioca_jax.cli.command import Command, option
from ioca_jax.cli.ending import print_findings
from ioca_jax.results.files import load_results
from ioca_jax.study import folder as run_folder
from ioca_jax.study.chunks import locked


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """Flags of a report."""

    figures: bool = option(True, "Draw figures too, seconds a run.")


def main(options: ReportOptions, folders: Sequence[str]) -> None:
    """Reports each folder's results and prints findings."""
    if not folders:
        raise ValueError("expected the folder of a finished run, got none")
    for folder in map(pathlib.Path, folders):
        results = load_results(folder)
        with (
            run_folder.explained(folder),
            run_folder.writable(folder),
            locked(folder, wait=True),
        ):
            run_folder.write_reports(results, folder, draw=options.figures)
        print_findings(results, folder)
        print(f"Written to {folder}: {run_folder.contents(folder)}")


COMMAND = Command(main, (ReportOptions,), takes_paths=True)
