"""The command ``ioca``: each subcommand is a module of ``ioca_jax.cli``."""

import importlib
import os
import sys

JOBS = {
    "demo": "a first run, explained as it goes: two minutes",
    "run": "train networks, or take yours, measure and ablate their neurons, report",
    "sweep": "a run for every combination of settings",
    "merge": "join the runs of shards (run --shard) into one",
    "prune": "prune a run's networks by each of its measures, and train again",
    "report": "write the page, tables, figures and summary of finished runs again",
    "reproduce": "run a job of the project's experiments; alone, list the jobs",
}


def main() -> None:
    """Runs the command that the first argument names."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print("usage: ioca COMMAND [--flag=value ...]\n")
        print("".join(f"  {job:10} {text}\n" for job, text in JOBS.items()))
        print("ioca COMMAND --help explains its flags; ioca --version.")
    elif name == "--version":
        from ioca_jax import __version__

        print(__version__)
    elif name not in JOBS:
        from ioca_jax.checks import nearest

        known = ", ".join(JOBS)
        message = f"expected {known}, got {name!r}{nearest([name], JOBS)}"
        print(f"error: {message}", file=sys.stderr)
        sys.exit(2)
    else:
        sys.path.insert(0, os.getcwd())  # as for python -m: --network may be there
        sys.argv = [f"ioca {name}", *arguments]
        importlib.import_module(f"ioca_jax.cli.{name}").COMMAND.run()


if __name__ == "__main__":
    main()
