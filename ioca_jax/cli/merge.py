"""Joins the runs of shards (ioca run --shard=i/n) into the run of all their seeds.

ioca merge --workdir=runs/all runs/shard_*
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import ioca_jax as ioca
from ioca_jax.cli.command import Command, option
from ioca_jax.cli.ending import print_findings
from ioca_jax.study.folder import contents


@dataclasses.dataclass(frozen=True)
class MergeOptions:
    """Flags of a merge."""

    workdir: str | None = option(None, "The folder to write.")
    partial: bool = option(False, "Join what is there though seeds are missing.")


def main(options: MergeOptions, folders: Sequence[str]) -> None:
    """Joins the runs in the folders, and prints findings of the whole."""
    if options.workdir is None:
        raise ValueError("workdir: expected --workdir=FOLDER to write, got none")
    results = ioca.merge_runs(folders, options.workdir, partial=options.partial)
    path = pathlib.Path(options.workdir)
    print_findings(results, path)
    print(f"Joined {len(folders)} runs in {options.workdir}: {contents(path)}")


COMMAND = Command(main, (MergeOptions,), takes_paths=True)
