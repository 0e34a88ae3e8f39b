"""Units as jobs of Slurm by submitit: those of a study are sent as one array.

A job that is preempted, or runs out of time, is queued again by Slurm; one that is
killed is sent again by the port. ``submitit-local`` runs the same jobs on this machine,
all at once, to try them out.
"""

import pathlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from functools import partial
from typing import Any

from ioca_jax.checks import import_extra
from ioca_jax.study.workers.engines import Workers


class Requeued:
    """A function that submitit queues again, with the same arguments, if preempted."""

    def __init__(self, function: Callable):
        """Keeps the function."""
        self._function = function

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        return self._function(*args)

    def checkpoint(self, *args: Any) -> Any:
        """What submitit queues: the chunk is whole or absent, so nothing is kept."""
        submitit = import_extra("submitit", "slurm", "workers")
        return submitit.helpers.DelayedSubmission(self, *args)


class SlurmJobs(Executor):
    """An executor over jobs of submitit."""

    def __init__(self, submitit: Any, workers: Workers, folder: pathlib.Path):
        """Sets what a job takes; its logs and its call go into the folder."""
        is_local = workers.workers == "submitit-local"
        self._jobs = submitit.AutoExecutor(
            folder / "submitit", cluster="local" if is_local else "slurm"
        )
        slurm = {"slurm_partition": workers.worker_partition}
        self._jobs.update_parameters(
            name="ioca_jax",
            timeout_min=workers.worker_minutes,
            gpus_per_node=workers.worker_gpus,
            cpus_per_task=workers.worker_cpus,
            **({} if is_local or not workers.worker_partition else slurm),
        )

    @contextmanager
    def together(self) -> Iterator[None]:
        """Sends what is submitted in the block as one array job."""
        with self._jobs.batch():
            yield

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Any:
        """Sends a job, which has the methods of a future that the port calls."""
        return self._jobs.submit(Requeued(function), *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leaves the jobs: those that are not needed any more are cancelled."""


def make(workers: Workers, folder: pathlib.Path) -> Callable[[], SlurmJobs]:
    """How to make the executor; refuses what is not installed."""
    submitit = import_extra("submitit", "slurm", "workers")
    if workers.workers == "submitit" and shutil.which("sbatch") is None:
        raise ValueError(
            "workers: expected a machine from which Slurm takes jobs, got one without "
            "sbatch; start on a login node, or try --workers=submitit-local"
        )
    return partial(SlurmJobs, submitit, workers, folder)
