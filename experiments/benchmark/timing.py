"""Seconds and bytes, measured: blocked, compilation apart, contenders taking turns.

A timing is the median of bursts; a burst is as many runs as fit a quarter of a second.
"""

import ctypes
import gc
import json
import pathlib
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_MEMORY_TIMEOUT = 900  # seconds


class Contender(NamedTuple):
    """One way to do a case's work.

    Attributes:
        name: ``default`` is what the library does unless told otherwise.
        run: does the work on what ``setup`` gave, and returns its results; these are
            blocked on.
        check: takes what ``run`` returned, raises ``ValueError`` unless this
            contender's results are right, and returns how far they are off.
        ours: whether it is this library.
        setup: done once for all of the work; timed too.
        scale: what a run's time (not its setup's) stands for, where it does but a
            sample of the work.
        note: what a reader of the table must know.
    """

    name: str
    run: Callable[[Any], Any]
    check: Callable[[Any], dict[str, float]]
    ours: bool = False
    setup: Callable[[], Any] = lambda: None
    scale: float = 1.0
    note: str = ""


class Timing(NamedTuple):
    """Seconds of a contender.

    Attributes:
        first: of the first run.
        seconds: of the bursts after it.
        agreement: what its check returned.
    """

    first: float
    seconds: tuple[float, ...]
    agreement: dict[str, float]

    @property
    def median(self) -> float:
        """Of the bursts."""
        return statistics.median(self.seconds)

    @property
    def compilation(self) -> float:
        """What the first run took beyond the median."""
        return max(0.0, self.first - self.median)


_PAUSE = 0.2  # seconds
_BURST = 0.25  # seconds


def run_once(contender: Contender) -> tuple[float, Any]:
    """Runs a contender and waits for its results.

    Args:
        contender: whom.

    Returns:
        Seconds for all of the work, and the results.
    """
    start = time.perf_counter()
    state = jax.block_until_ready(contender.setup())
    ready = time.perf_counter()
    results = jax.block_until_ready(contender.run(state))
    end = time.perf_counter()
    return (ready - start) + contender.scale * (end - ready), results


def run_burst(contender: Contender) -> float:
    """Runs a contender until a quarter of a second has passed.

    What takes long warms caches by itself, so what does not is run again: else its time
    would be that of whatever ran before it.

    Args:
        contender: whom.

    Returns:
        Seconds for all of the work, the median of the runs; where there were several,
        without the first.
    """
    # The threads of whoever ran before spin for a while, waiting for more to do.
    time.sleep(_PAUSE)
    seconds, end = [], time.perf_counter() + _BURST
    while not seconds or time.perf_counter() < end:
        seconds.append(run_once(contender)[0])
    return statistics.median(seconds[1:] or seconds)


def check_then_time(contenders: Sequence[Contender], repeats: int) -> dict[str, Timing]:
    """Checks all contenders, then times them taking turns: A B C A B C.

    Args:
        contenders: distinct names.
        repeats: bursts of each after its first run, which is the one checked.

    Returns:
        Timings by name.

    Raises:
        ValueError: a contender whose results are wrong.
    """
    first, agreement = [], []
    for contender in contenders:
        seconds, results = run_once(contender)
        first.append(seconds)
        agreement.append(contender.check(results))
        del results
    rounds = [[run_burst(one) for one in contenders] for _ in range(repeats)]
    return {
        contender.name: Timing(first[i], tuple(row[i] for row in rounds), agreement[i])
        for i, contender in enumerate(contenders)
    }


def peak_bytes(contender: Contender) -> int:
    """The most memory that one run needs beyond what the process held before.

    Args:
        contender: whom, with its inputs in place.

    Returns:
        Bytes: of the device where it tells (GPUs), which leaves PyTorch's out; else of
        the process, its programs' compilation among them.
    """
    jax.block_until_ready(jnp.ones(8) + 1)
    torch = sys.modules.get("torch")
    device_statistics = jax.devices()[0].memory_stats()
    if device_statistics and contender.ours:
        # What set the case up may have peaked higher: then this is what the run held.
        held = device_statistics["bytes_in_use"]
        run_once(contender)
        statistics_after = jax.devices()[0].memory_stats() or {}
        return statistics_after["peak_bytes_in_use"] - held
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run_once(contender)
        return torch.cuda.max_memory_allocated() - held
    held = _forget_peak()
    run_once(contender)
    return _peak_resident() - held


_STATUS = pathlib.Path("/proc/self/status")


def _forget_peak() -> int:
    """Makes what is resident now the peak, where the system can; returns that peak."""
    gc.collect()
    if _STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)  # freed memory would hide what the run needs
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _peak_resident()


def _peak_resident() -> int:
    if _STATUS.exists():
        (line,) = re.findall(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        return int(line) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def peak_bytes_in_subprocess(arguments: Sequence[str]) -> int | None:
    """Runs a command that prints ``{"peak_bytes": ...}`` as its last line.

    Args:
        arguments: the command.

    Returns:
        Bytes, or None where the command failed.
    """
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=_MEMORY_TIMEOUT
    )
    if done.returncode:
        return None
    return int(json.loads(done.stdout.strip().splitlines()[-1])["peak_bytes"])
