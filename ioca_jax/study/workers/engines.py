"""Which engine runs the units: local processes, Ray, Slurm, or an executor."""

import contextlib
import dataclasses
import importlib
import os
import pathlib
from collections.abc import Callable
from functools import partial
from typing import Any

from ioca_jax.checks import check_integer, described, import_named
from ioca_jax.study.chunks import UNITS
from ioca_jax.study.resources import seeds_on_devices
from ioca_jax.study.workers.port import Engine

_ADAPTERS = {
    "ray": "ioca_jax.study.workers.on_ray",
    "submitit": "ioca_jax.study.workers.on_slurm",
    "submitit-local": "ioca_jax.study.workers.on_slurm",
}
_EXPECTED = (
    "a number of processes, ray, submitit, submitit-local or package.module:function"
)


def _flag(default: Any, help_text: str) -> Any:
    """A field that becomes a flag of the command line."""
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class Workers:
    """Where the units of a study are computed; the command line's flags are its fields.

    Example:
        >>> from ioca_jax.study.workers.engines import Workers
        >>> Workers("4").number
        4
    """

    workers: str | None = _flag(
        None,
        "Where chunks of seeds are computed: in so many processes of this machine; ray "
        "(RAY_ADDRESS, or a cluster of this machine alone); submitit (Slurm; "
        "submitit-local tries its jobs on this machine); or package.module:function, "
        "a function without arguments that returns a concurrent.futures.Executor. In "
        "this process if not given.",
    )
    worker_gpus: int = _flag(
        0, "GPUs of each worker; with 0 local workers compute on the CPU."
    )
    worker_cpus: int = _flag(1, "CPU cores of each worker of Ray or Slurm.")
    worker_partition: str | None = _flag(
        None, "Slurm's partition; its default if not given."
    )
    worker_minutes: int = _flag(240, "Time limit of a unit on Slurm, in minutes.")

    def __post_init__(self):
        """Checks the fields, as far as that takes no engine."""
        check_integer("worker_gpus", self.worker_gpus, least=0)
        check_integer("worker_cpus", self.worker_cpus, least=1)
        check_integer("worker_minutes", self.worker_minutes, least=1)
        name = self.workers
        if name is None or name in _ADAPTERS or ":" in name:
            return
        if not name.isdecimal() or int(name) < 1:
            raise ValueError(f"workers: expected {_EXPECTED}, got {name!r}")

    @property
    def number(self) -> int | None:
        """Of local processes."""
        return int(self.workers) if self.workers and self.workers.isdecimal() else None

    def open(self, folder: pathlib.Path) -> Engine | None:
        """Makes the engine, None for this process; refuses one that is not there.

        ``folder`` is that of the run or sweep.
        """
        prepared = self.prepare(folder)
        return prepared and prepared()

    def prepare(self, folder: pathlib.Path) -> Callable[[], Engine] | None:
        """How to make the engine; starts nothing, and refuses what is not installed."""
        if self.workers is None:
            return None
        if self.number is not None:
            return self._local(self.number)
        if self.workers in _ADAPTERS:
            adapter = importlib.import_module(_ADAPTERS[self.workers])
            make = adapter.make(self, folder.absolute() / UNITS)
            devices = self.worker_gpus or self.worker_cpus
            return self._engine(make, devices)
        function = import_named("workers", self.workers)
        return self._engine(partial(_own_executor, self.workers, function), 1)

    def _engine(
        self, make: Callable[[], Any], devices: int, number: int | None = None
    ) -> Callable[[], Engine]:
        seeds = seeds_on_devices(devices, on_cpu=not self.worker_gpus)
        return partial(Engine, make, number=number, seeds_at_once=seeds)

    def _local(self, number: int) -> Callable[[], Engine]:
        from ioca_jax.study.workers.local import LocalProcesses, visible_gpus

        wanted, there = number * self.worker_gpus, len(visible_gpus())
        if wanted > there:
            raise ValueError(
                f"worker_gpus: expected at most {there} GPUs for {number} workers, as "
                f"this machine has, got {wanted}"
            )
        make = partial(LocalProcesses, number, self.worker_gpus)
        cores = max(1, len(os.sched_getaffinity(0)) // number)
        return self._engine(make, self.worker_gpus or cores, number)


def open_workers(
    workers: Any, folder: pathlib.Path
) -> contextlib.AbstractContextManager[Engine | None]:
    """The engine that ``run_study`` is given in any form; None for this process."""
    if isinstance(workers, Engine):  # its owner closes it
        return contextlib.nullcontext(workers)
    if workers is None or isinstance(workers, str | int):
        workers = Workers(None if workers is None else str(workers))
    if isinstance(workers, Workers):
        return workers.open(folder) or contextlib.nullcontext()
    _check_executor("workers", workers, f"{_EXPECTED}, or an executor")
    return Engine(lambda: workers, closes=False)


def _own_executor(name: str, make: Callable[[], Any]) -> Any:
    """Calls a function that makes an executor."""
    try:
        made = make()
    except (Exception, SystemExit) as error:  # of the caller's own function
        raise ValueError(
            f"workers: expected {name} to return an executor, got {described(error)}; "
            "--verbosity=1 shows where"
        ) from error
    _check_executor("workers", made, f"{name} to return a concurrent.futures.Executor")
    return made


def _check_executor(field: str, made: Any, expected: str) -> None:
    if not callable(getattr(made, "submit", None)):
        raise ValueError(f"{field}: expected {expected}, got {type(made).__name__}")
