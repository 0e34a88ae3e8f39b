"""One local worker: a fresh Python that calls functions, and may die."""

import contextlib
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

# Run as a file: nothing of the library, and so no JAX, is imported before a call.
_SERVE = pathlib.Path(__file__).with_name("serve.py")


class WorkerDied(RuntimeError):
    """A process that ended before its call did."""


class Process:
    """A process that is started when it has something to do."""

    def __init__(self, cores: list[int], gpus: list[str]):
        """Keeps what the process may use.

        Args:
            cores: of the CPU.
            gpus: as CUDA names them; none for a process that runs on the CPU.
        """
        self._cores, self._gpus = cores, gpus
        self._process: subprocess.Popen | None = None
        self._is_ended = False

    def call(self, call: Any) -> Any:
        """Returns what a call returns, or raises what it raises."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        assert process.stdin and process.stdout
        try:
            pickle.dump(call, process.stdin)
            process.stdin.flush()
            is_returned, value = pickle.load(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            code, self._process = _end(process), None
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            raise WorkerDied(f"process {process.pid} ended by {how}") from None
        if not is_returned:
            raise value
        return value

    def kill(self) -> None:
        """Kills the process, and starts none any more."""
        self._is_ended = True
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Kills the process and waits for its end."""
        self.kill()
        if self._process is not None:
            _end(self._process)

    def _start(self) -> subprocess.Popen:
        if self._is_ended:
            raise WorkerDied("the driver has ended it")
        with _affinity(self._cores):  # which a new process inherits
            return subprocess.Popen(
                [sys.executable, "-P", str(_SERVE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment(),
                start_new_session=True,  # Ctrl-C is the driver's
            )

    def _environment(self) -> dict[str, str]:
        """Of the process: what must be known before JAX is imported."""
        own = dict(os.environ)
        paths = [os.path.abspath(path) for path in sys.path]
        own["PYTHONPATH"] = os.pathsep.join(paths)
        for name in ("JAX_NUM_CPU_DEVICES", "OMP_NUM_THREADS"):
            own[name] = str(len(self._cores))
        if self._gpus:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(self._gpus)
        else:
            own["JAX_PLATFORMS"] = "cpu"
        return own


def _end(process: subprocess.Popen) -> int:
    """Kills a process, unless it has ended; returns its exit code."""
    process.kill()
    for pipe in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(OSError):  # what is left cannot be written
            pipe.close()
    return process.wait()


@contextlib.contextmanager
def _affinity(cores: list[int]) -> Iterator[None]:
    """Binds this thread to cores."""
    thread = threading.get_native_id()
    before = os.sched_getaffinity(thread)
    os.sched_setaffinity(thread, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(thread, before)
