"""Writes the page, tables, figures and summary of finished runs again, from study.nc.

python -m experiments.report runs/demo

For results that were written by an earlier version, or with --nofigures. The networks
and study.nc itself stay as they are.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from ioca_jax.report.page import PAGE_FILE
from ioca_jax.results.files import load_results
from ioca_jax.study.chunks import locked
from ioca_jax.study.folder import explained, writable, write_reports

from . import config_flags

FIGURES = flags.DEFINE_boolean("figures", True, "Draw figures too, seconds a run.")
flags.adopt_module_key_flags(config_flags)  # --help lists them


def main(folders: Sequence[str]) -> None:
    """Reports each folder's results and prints its summary."""
    if not folders:
        raise ValueError("expected the folder of a finished run, got none")
    for folder in map(pathlib.Path, folders):
        results = load_results(folder)
        with explained(folder), writable(folder), locked(folder, wait=True):
            write_reports(results, folder, draw=FIGURES.value)
        print((folder / "summary.txt").read_text("utf-8"), end="")
        print(f"\nWritten to {folder}; the page is {PAGE_FILE}")


if __name__ == "__main__":
    config_flags.run_main(main, takes_paths=True)
