"""Units as tasks of Ray, which gives each its GPUs and, with GPUs, a fresh process.

``RAY_ADDRESS`` names a cluster (``host:6379``, or ``ray://host:10001`` from outside);
without it Ray starts one on this machine. Tasks of a worker that dies fail, and the
port sends them again.
"""

import contextlib
import logging
import os
import pathlib
import socket
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from ioca_jax.checks import import_extra
from ioca_jax.study.workers.engines import Workers

_ANSWERS_WITHIN_SECONDS = 5.0


class RayTasks(Executor):
    """An executor over the tasks of the cluster that this process is connected to."""

    def __init__(self, ray: Any, workers: Workers):
        """Connects, and refuses more than any machine of the cluster has."""
        self._ray = ray
        self._starts = not ray.is_initialized()
        if self._starts:
            _connect(ray)
        try:
            _check_resources(ray, workers)
        except ValueError:
            self.shutdown()
            raise
        self._options: dict[str, Any] = {
            "num_cpus": workers.worker_cpus,
            "num_gpus": workers.worker_gpus,
            "max_retries": 0,
            # With GPUs a process that ends frees the memory that JAX has taken.
            "max_calls": 1 if workers.worker_gpus else 0,
            "runtime_env": {"env_vars": _environment(workers)},
        }

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Sends a task."""
        task = self._ray.remote(**self._options)(function)
        return task.remote(*args, **kwargs).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnects, which ends the tasks, unless the caller was connected before."""
        if self._starts:
            self._ray.shutdown()


def make(workers: Workers, folder: pathlib.Path) -> Callable[[], RayTasks]:
    """How to make the executor; refuses Ray that is not installed."""
    del folder  # Ray keeps its files elsewhere
    return partial(RayTasks, import_extra("ray", "ray", "workers"), workers)


def _environment(workers: Workers) -> dict[str, str]:
    """Of a worker, before it starts."""
    own = {n: text for n, text in os.environ.items() if n.startswith(("JAX_", "XLA_"))}
    own["JAX_NUM_CPU_DEVICES"] = str(workers.worker_cpus)
    if not workers.worker_gpus:
        own["JAX_PLATFORMS"] = "cpu"
    return own


def _connect(ray: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    if address and address not in ("auto", "local"):
        _check_answers(address)
    # Nothing of the working directory is sent: workers share the file system.
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        ray.init(address=address, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise OSError(_unanswered(address, str(error).splitlines()[0])) from error


def _check_answers(address: str) -> None:
    """Refuses an address where nothing listens: Ray itself tries for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        number = int(port)
    except ValueError:
        raise ValueError(
            f"RAY_ADDRESS: expected host:port or ray://host:port, got {address!r}"
        ) from None
    try:
        with contextlib.closing(
            socket.create_connection((host, number), _ANSWERS_WITHIN_SECONDS)
        ):
            return
    except OSError as error:
        raise OSError(_unanswered(address, error.strerror or str(error))) from error


def _unanswered(address: str | None, reason: str) -> str:
    return (
        f"RAY_ADDRESS: expected a Ray cluster that answers, got {address or 'none'} "
        f"({reason}); start one with ray start --head, or unset RAY_ADDRESS"
    )


def _check_resources(ray: Any, workers: Workers) -> None:
    """Refuses units that no machine of the cluster could ever start."""
    for field, name in (("worker_gpus", "GPU"), ("worker_cpus", "CPU")):
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        most = int(max((of.get(name, 0) for of in machines), default=0))
        wanted = getattr(workers, field)
        if wanted > most:
            raise ValueError(
                f"{field}: expected at most {most}, the most that a machine of the Ray "
                f"cluster has, got {wanted}"
            )
