"""Local workers: processes of this machine, each with its share of cores and GPUs.

Each is a fresh Python, whose devices are set before it imports JAX. It works on one
call after another; where it dies, the call fails and the next call starts another. A
worker whose driver has died ends the call that it is at, and then itself.
"""

import os
import pathlib
import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from ioca_jax.study.workers.process import Process


class LocalProcesses(Executor):
    """An executor over so many processes."""

    def __init__(self, number: int, gpus: int = 0):
        """Shares out cores and GPUs; processes start with their first call.

        Args:
            number: of processes.
            gpus: of each process; 0 for processes that run on the CPU.
        """
        cores = sorted(os.sched_getaffinity(0))
        shares = np.array_split(cores, number) if number <= len(cores) else []
        visible = visible_gpus()
        self._idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
        self._all = []
        for index in range(number):
            own = shares[index].tolist() if shares else [cores[index % len(cores)]]
            devices = visible[index * gpus : (index + 1) * gpus]
            self._all.append(Process(own, devices))
            self._idle.put(self._all[-1])
        self._threads = ThreadPoolExecutor(number, "worker")

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Calls a function of a module in some process."""
        return self._threads.submit(self._call, function, args, kwargs)

    def _call(self, *call: Any) -> Any:
        process = self._idle.get()
        try:
            return process.call(call)
        finally:
            self._idle.put(process)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Ends the processes, at once if not ``wait``."""
        if not wait:
            for process in self._all:
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=cancel_futures)
        for process in self._all:
            process.close()


def visible_gpus() -> list[str]:
    """The GPUs of this machine that this process may use, as CUDA names them.

    JAX is not asked: it would take them.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name for name in chosen.split(",") if name.strip()]
    found = pathlib.Path("/dev").glob("nvidia[0-9]*")
    return [str(index) for index, _ in enumerate(sorted(found))]
