"""Seconds and bytes, measured: blocked, compilation apart, contenders taking turns.

A timing is the median of bursts; a burst is as many runs as fit a quarter of a second.
"""

import ctypes
import gc
import pathlib
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_PAUSE = 0.2  # seconds
_BURST = 0.25  # seconds


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
        scale: what a run's time (not its setup's) is multiplied by, where it does only
            a sample of the work.
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
        """The median of the bursts."""
        return statistics.median(self.seconds)

    @property
    def compilation(self) -> float:
        """What the first run took beyond the median."""
        return max(0.0, self.first - self.median)


def run_once(contender: Contender) -> tuple[float, Any]:
    """Seconds for all of the work, results waited for, and the results."""
    start = time.perf_counter()
    state = jax.block_until_ready(contender.setup())
    ready = time.perf_counter()
    results = jax.block_until_ready(contender.run(state))
    end = time.perf_counter()
    return (ready - start) + contender.scale * (end - ready), results


def run_burst(contender: Contender) -> float:
    """Median seconds of the runs that fit a quarter of a second.

    A short run is repeated and its first time omitted: that time would depend on whose
    data the caches hold.
    """
    # The threads of whoever ran before spin for a while, waiting for more to do.
    time.sleep(_PAUSE)
    seconds, end = [], time.perf_counter() + _BURST
    while not seconds or time.perf_counter() < end:
        seconds.append(run_once(contender)[0])
    return statistics.median(seconds[1:] or seconds)


def check_then_time(contenders: Sequence[Contender], repeats: int) -> dict[str, Timing]:
    """Checks all contenders, then times them taking turns: A B C A B C.

    ``repeats`` are bursts of each after its first run, which is the one checked.
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
    """The most memory that one run of ours needs beyond what the process held before.

    Bytes of the device where it reports them (GPUs); else of the process, with the
    memory of compilation.
    """
    jax.block_until_ready(jnp.ones(8) + 1)
    device = jax.devices()[0]
    if statistics_before := device.memory_stats():
        run_once(contender)
        after = device.memory_stats() or {}
        return after["peak_bytes_in_use"] - statistics_before["bytes_in_use"]
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
