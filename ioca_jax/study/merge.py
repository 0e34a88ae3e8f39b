"""Joins the runs of shards into one run."""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import xarray as xr

from ioca_jax.results.pieces import FinishedRun, join_seeds
from ioca_jax.study.config import config_of
from ioca_jax.study.folder import RunFolder, differing_field, explained
from ioca_jax.study.plan import identify


def merge_runs(
    folders: Sequence[str | os.PathLike],
    workdir: str | os.PathLike,
    *,
    partial: bool = False,
) -> xr.Dataset:
    """Joins the runs of shards into the run of all their seeds.

    Args:
        folders: finished runs of one configuration, shards of its seeds.
        workdir: the folder to write, as ``run_study`` does.
        partial: write it also where seeds are missing, as a run of those there.

    Returns:
        The results.

    Raises:
        ValueError: no runs, runs of different configurations, data or networks, a seed
            in two of them, seeds missing, or a file that has changed since it was
            written.
        FileNotFoundError: a folder without a finished run.

    Example:
        >>> import numpy as np, ioca_jax as ioca
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> data = ioca.Dataset.from_arrays(x[:300], y[:300], x[300:], y[300:])
        >>> config = ioca.StudyConfig(hidden=(8,), seeds=(0, 1, 2, 3), permutations=0)
        >>> for i in range(2):
        ...     folder, shard = f"runs/shard_{i}", ioca.Shard(i, 2)
        ...     _ = ioca.run_study(config, folder, data=data, shard=shard, draw=False)
        >>> results = ioca.merge_runs(["runs/shard_0", "runs/shard_1"], "runs/all")
        >>> results["seed"].values.tolist()
        [0, 1, 2, 3]
    """
    if not folders:
        raise ValueError("expected the folders of one or more finished runs, got none")
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(FinishedRun.open(folder)) for folder in folders]
        return _merge(runs, folders, pathlib.Path(workdir), partial)


def _merge(
    parts: Sequence[FinishedRun],
    folders: Sequence[str | os.PathLike],
    workdir: pathlib.Path,
    partial: bool,
) -> xr.Dataset:
    """``merge_runs`` of opened runs."""
    _check_configurations(folders, parts)
    config = config_of(parts[0].results)
    if partial:
        there = {seed for part in parts for seed in part.seeds}
        seeds = tuple(seed for seed in config.seeds if seed in there)
        config = dataclasses.replace(config, seeds=seeds)
    seconds = [json.loads(part.attrs["seconds"]) for part in parts]
    joined = join_seeds(
        parts,
        config.seeds,
        configuration=json.dumps(dataclasses.asdict(config)),
        seconds=json.dumps(_slowest(seconds) | {"joined": len(parts)}),
    )
    digests = (joined.attrs.get(n) for n in ("variables_digest", "fingerprint"))
    folder = RunFolder(workdir, identify(config, None, *digests))
    data_digest = joined.attrs["data_digest"]
    unchanged = "the runs to join are unchanged", "joins them"
    with explained(workdir, unchanged), contextlib.ExitStack() as stack:
        if folder.open(stack, data_digest) is not None:
            return folder.write(joined, draw=True)
    if not (folder.path / "summary.txt").is_file():  # stopped while reporting
        return folder.report(data_digest, draw=True)
    raise ValueError(
        f"workdir: expected a new folder, got {workdir}, which holds a finished run"
    )


def _slowest(seconds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of shards side by side; one that was only written at last lacks some moments."""
    names = dict.fromkeys(itertools.chain.from_iterable(seconds))
    return {name: max(of.get(name, 0.0) for of in seconds) for name in names}


def _check_configurations(
    folders: Sequence[str | os.PathLike], parts: Sequence[FinishedRun]
) -> None:
    """Refuses runs of different configurations."""
    configs = [json.loads(part.attrs["configuration"]) for part in parts]
    for folder, config in zip(folders, configs, strict=True):
        name = differing_field(config, configs[0])
        if name is not None:
            raise ValueError(
                "expected runs of one configuration, got "
                f"{name}={configs[0].get(name)} in {folders[0]} and "
                f"{name}={config.get(name)} in {folder}"
            )
