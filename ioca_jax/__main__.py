"""The command ``ioca``: each subcommand is a job of ``experiments``, with its flags."""

import importlib.util
import os
import runpy
import sys

JOBS = {
    "demo": "a first run, explained as it goes: two minutes",
    "run": "train networks, or take yours, measure and ablate their neurons, report",
    "sweep": "a run for every combination of settings",
    "merge": "join the runs of shards (run --shard) into one",
    "prune": "prune a run's networks by each of its measures, and train again",
    "report": "write the page, tables, figures and summary of finished runs again",
    "benchmark": "time the library on this machine",
}


def main() -> None:
    """Runs the job that the first argument names, as ``python -m`` would."""
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
        sys.exit(f"error: expected {known}, got {name!r}{nearest([name], JOBS)}")
    else:
        # Inside the package in a wheel, beside it in a checkout.
        inside = importlib.util.find_spec("ioca_jax.experiments")
        package = "ioca_jax.experiments" if inside else "experiments"
        module = "run_study" if name == "run" else name
        sys.path.insert(0, os.getcwd())  # as for python -m: --network may be there
        sys.argv = [f"ioca {name}", *arguments]
        runpy.run_module(f"{package}.{module}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
