"""A first run: eight small networks on 5,000 MNIST digits, explained as it goes.

ioca demo --workdir=runs/demo

It is ioca run with the settings of the paper's network 784-100-100-10, and says what
each phase does, three findings, and where everything is.
"""

import dataclasses
import pathlib
import textwrap

import pandas as pd

import ioca_jax as ioca
from ioca_jax.cli.command import Command, option
from ioca_jax.report.findings import clearest_comparisons
from ioca_jax.report.tables import tabulate
from ioca_jax.study.events import Event

CONFIG = ioca.StudyConfig(
    hidden=(100, 100), activation="relu", epochs=20, metrics=("brier",)
)
# What the demonstration tells of, in this order.
_CLAIMS = ("2, highest first", "1", "4")


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """Flags of the demonstration."""

    workdir: str = option("runs/demo", "The run's folder.")


def explain(event: Event) -> None:
    """Says what a phase does when it begins."""
    kind = event["event"]
    if kind == "start":
        left = event["seeds"] - event["finished"]
        print(
            f"1. Training {left} networks 784-100-100-10 (ReLU) on 3,000 MNIST digits, "
            f"{event['epochs']} epochs, several networks at once.",
            flush=True,
        )
    elif kind == "epoch" and event["epoch"] == CONFIG.epochs and event["chunk"] == 1:
        print(
            "2. Measuring every hidden neuron on the validation digits: entropy,\n"
            "   mutual information with the class, KL selectivity. Then ablating\n"
            "   neurons one after another, in ascending and descending order of each\n"
            "   measure and in 10 random orders, on the test digits.",
            flush=True,
        )
    elif kind == "chunk":
        print(f"   {event['finished']} of {event['seeds']} networks done.", flush=True)
        if event["finished"] == event["seeds"]:
            print("3. Testing over networks, and drawing figures.", flush=True)


def main(options: DemoOptions) -> None:
    """Runs the study and prints what it found."""
    folder = pathlib.Path(options.workdir)
    results = ioca.run_study(CONFIG, folder, listeners=[explain])
    claims = tabulate(results).get(
        "claims", pd.DataFrame(columns=["claim", "p_corrected"])
    )
    networks = results.sizes["seed"]
    print(f"\nThree findings over {networks} networks, of {len(claims)} comparisons:\n")
    for number, sentence in enumerate(clearest_comparisons(claims, _CLAIMS), 1):
        print(textwrap.fill(f"{number}. {sentence}", 88, subsequent_indent="   "))
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
