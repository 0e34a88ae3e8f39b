"""A first run: eight small networks on 5,000 MNIST digits, explained as it goes.

ioca demo --workdir=runs/demo

It is ioca run with the settings of the paper's network 784-100-100-10, and says what
each phase does, three findings, and where everything is.
"""

import dataclasses
import pathlib
import sys

import ioca_jax as ioca
from ioca_jax.cli.command import Command, option
from ioca_jax.cli.ending import print_findings
from ioca_jax.study.events import Event, tell

CONFIG = ioca.StudyConfig(
    hidden=(100, 100), activation="relu", epochs=20, metrics=("brier",)
)


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Flags of the demonstration."""

    workdir: str = option("runs/demo", "The run's folder.")


def explain(event: Event) -> None:
    """Says what a phase does when it begins."""
    kind = event["event"]
    if kind == "start":
        left = event["seeds"] - event["finished"]
        tell(
            f"1. Training {left} networks 784-100-100-10 (ReLU) on 3,000 MNIST\n"
            f"   digits, {event['epochs']} epochs, several networks at once.",
            sys.stdout,
        )
    elif kind == "epoch" and event["epoch"] == CONFIG.epochs and event["chunk"] == 1:
        tell(
            "2. Measuring every hidden neuron on the validation digits: entropy,\n"
            "   mutual information with the class, KL selectivity. Then ablating\n"
            "   neurons one after another, in ascending and descending order of each\n"
            "   measure and in 10 random orders, on the test digits.",
            sys.stdout,
        )
    elif kind == "chunk" and event["finished"] == event["seeds"]:
        tell("3. Testing over networks, and drawing figures.", sys.stdout)


def main(options: DemoOptions) -> None:
    """Runs the study and prints what it found."""
    folder = pathlib.Path(options.workdir)
    results = ioca.run_study(CONFIG, folder, progress=True, listeners=[explain])
    print()
    print_findings(results, folder)
    print("\nWritten:\n")
    for name, what in {
        "report.html": "everything on one page; open it in a browser",
        "figures": "curves, distributions, tests",
        "summary.txt": "all findings as text",
        "tables": "CSV",
        "study.nc": "all results; ioca_jax.load_results reads it",
    }.items():
        if (folder / name).exists():
            print(f"  {folder / name}: {what}")


COMMAND = Command(main, (DemoOptions,))
