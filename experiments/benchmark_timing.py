"""Seconds and bytes, measured: blocked, compilation apart, contenders taking turns."""

import json
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
        first: of the first call.
        seconds: of those after it.
        agreement: what its check returned.
    """

    first: float
    seconds: tuple[float, ...]
    agreement: dict[str, float]

    @property
    def median(self) -> float:
        """Of the calls after the first."""
        return statistics.median(self.seconds)

    @property
    def compilation(self) -> float:
        """What the first call took beyond the median."""
        return max(0.0, self.first - self.median)


_PAUSE = 0.2  # seconds


def run_once(contender: Contender) -> tuple[float, Any]:
    """Runs a contender and waits for its results.

    Args:
        contender: whom.

    Returns:
        Seconds for all of the work, and the results.
    """
    # The threads of whoever ran before spin for a while, waiting for more to do.
    time.sleep(_PAUSE)
    start = time.perf_counter()
    state = jax.block_until_ready(contender.setup())
    ready = time.perf_counter()
    results = jax.block_until_ready(contender.run(state))
    end = time.perf_counter()
    return (ready - start) + contender.scale * (end - ready), results


def check_then_time(contenders: Sequence[Contender], repeats: int) -> dict[str, Timing]:
    """Checks all contenders, then times them taking turns: A B C A B C.

    Args:
        contenders: distinct names.
        repeats: calls of each after its first, which is the one checked.

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
    rounds = [[run_once(one)[0] for one in contenders] for _ in range(repeats)]
    return {
        contender.name: Timing(first[i], tuple(row[i] for row in rounds), agreement[i])
        for i, contender in enumerate(contenders)
    }


def peak_bytes(contender: Contender) -> int:
    """The most memory that one run needs beyond what the process held before.

    Only the first such measurement of a process counts: peaks do not go down.

    Args:
        contender: whom, with its inputs in place.

    Returns:
        Bytes: of the device where it tells (GPUs), which leaves PyTorch's out; else of
        the process, its programs' compilation among them.
    """
    jax.block_until_ready(jnp.ones(8) + 1)
    device = jax.devices()[0]

    def peak() -> int:
        statistics_of_device = device.memory_stats()
        if statistics_of_device and contender.ours:
            return statistics_of_device["peak_bytes_in_use"]
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes * (1 if sys.platform == "darwin" else 1024)

    before = peak()
    run_once(contender)
    return peak() - before


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
