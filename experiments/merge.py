"""Joins the runs of shards (run_study --shard=i/n) into the run of all their seeds.

python -m experiments.merge --workdir=runs/all runs/shard_*
"""

import pathlib
from collections.abc import Sequence

from absl import flags

import ioca_jax as ioca

from . import config_flags

WORKDIR = flags.DEFINE_string("workdir", None, "The folder to write.", required=True)
PARTIAL = flags.DEFINE_boolean(
    "partial", False, "Join what is there though seeds are missing."
)


def main(folders: Sequence[str]) -> None:
    """Joins the runs in the folders, and prints the summary of the whole."""
    ioca.merge_runs(folders, WORKDIR.value, partial=PARTIAL.value)
    print((pathlib.Path(WORKDIR.value) / "summary.txt").read_text("utf-8"), end="")
    print(f"\nJoined {len(folders)} runs in {WORKDIR.value}")


if __name__ == "__main__":
    config_flags.run_main(main, takes_paths=True)
