"""The port: units of work go to an engine, and are sent again where they are lost.

An engine is whatever has the shape of ``concurrent.futures.Executor``: ``submit`` takes
a function and its arguments, and returns a future with ``done``, ``result`` and
``cancel``. Arguments and results are paths, digests and numbers alone.
"""

import contextlib
import dataclasses
import pathlib
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Any, NamedTuple

from ioca_jax.checks import described
from ioca_jax.results.files import digest_of_file
from ioca_jax.study.plan import Plan

# Times that a lost unit is sent again.
_RETRIES = 3
_POLL_SECONDS = 0.05
# A network file system may show a new folder late.
_VISIBLE_WITHIN_SECONDS = 10.0
_ERRORS = {error.__name__: error for error in (ValueError, OSError, ImportError)}


class Unit(NamedTuple):
    """Some seeds of a run.

    Attributes:
        seeds: of the chunk.
        length: networks that the chunk is filled up to.
        number: of the chunk, counted from 1.
        place: the folder that the chunk becomes.
        events: the file that the unit's events go to; it is there once it has begun.
    """

    seeds: tuple[int, ...]
    length: int
    number: int
    place: pathlib.Path
    events: pathlib.Path


class Counts(NamedTuple):
    """How far the units of a run are: all, done, in progress, failed."""

    units: int
    done: int
    running: int
    failed: int


class Outcome(NamedTuple):
    """A unit that has ended; ``error`` is None if its chunk is in its place.

    ``lost`` is set where the unit is sent again: it has not ended.
    """

    unit: Unit
    error: Exception | None = None
    lost: str | None = None


class Engine:
    """An executor, made when it is first needed and again where it is broken.

    Several threads may send units to one.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        number: int | None = None,
        seeds_at_once: int | None = None,
        closes: bool = True,
    ):
        """Makes the executor.

        Args:
            make: returns the executor.
            number: of processes that share this machine; None for other machines.
            seeds_at_once: of a unit, unless the caller chooses.
            closes: whether the executor is shut down at the end.
        """
        self._make, self._closes = make, closes
        self._lock = threading.Lock()
        self._executor = make()
        self.number, self._seeds_at_once = number, seeds_at_once

    def shared(self, plan: Plan) -> Plan:
        """The plan of one worker, which shares the memory with others here."""
        return dataclasses.replace(
            plan,
            memory_gb=plan.memory_gb / (self.number or 1),
            seeds_at_once=plan.seeds_at_once or self._seeds_at_once,
        )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        if self._closes:
            self._executor.shutdown(wait=False)

    def submit(self, function: Callable, calls: Sequence[tuple]) -> list[Any]:
        """Futures of some calls, sent together where the engine can do that."""
        with self._lock:
            together = getattr(self._executor, "together", contextlib.nullcontext)
            try:
                with together():
                    return [self._executor.submit(function, *call) for call in calls]
            except BrokenExecutor:
                self._executor = self._make()
                return [self._executor.submit(function, *call) for call in calls]


def run_units(
    engine: Engine,
    function: Callable[..., dict],
    job: tuple[str, str],
    units: Sequence[Unit],
    on_change: Callable[[Counts], None] = lambda counts: None,
) -> Generator[Outcome, None, None]:
    """Runs units on an engine; returns each as it ends.

    Args:
        engine: what runs them.
        function: called with the job, seeds, length and number of a unit.
        job: path and digest of what the units share.
        units: that are missing.
        on_change: called when the counts have changed.
    """
    waiting: dict[Any, tuple[Unit, int]] = {}
    done, failed, before = 0, 0, None

    def send(some: Sequence[Unit], tries: int) -> None:
        calls = [(*job, list(u.seeds), u.length, u.number) for u in some]
        futures = engine.submit(function, calls)
        waiting.update((f, (u, tries)) for f, u in zip(futures, some, strict=True))

    try:
        send(units, 1)
        while waiting:
            for future in [future for future in waiting if future.done()]:
                unit, tries = waiting.pop(future)
                outcome = _outcome(unit, future)
                if outcome.lost and tries <= _RETRIES:
                    if not unit.place.exists():
                        unit.events.unlink(missing_ok=True)
                    send([unit], tries + 1)
                elif outcome.lost:
                    outcome = Outcome(unit, _lost(unit, tries, outcome.lost))
                failed += outcome.error is not None
                done += not (outcome.lost or outcome.error)
                yield outcome
            running = sum(unit.events.exists() for unit, _ in waiting.values())
            counts = Counts(len(units), done, running, failed)
            if counts != before:
                on_change(counts)
                before = counts
            if waiting:
                time.sleep(_POLL_SECONDS)
    finally:
        for future in waiting:
            future.cancel()


def _outcome(unit: Unit, future: Any) -> Outcome:
    """What became of a unit whose future is done."""
    try:
        found = future.result()
    except Exception as error:  # of the engine: the unit's own are in the result
        return Outcome(unit, lost=described(error))
    if "error" in found:
        kind = _ERRORS.get(found["kind"], RuntimeError)
        return Outcome(unit, kind(found["error"]))
    end = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    while not _is_there(unit.place, found["digest"]):
        if time.monotonic() > end:
            return Outcome(unit, lost=_unseen(unit.place, found["host"]))
        time.sleep(_POLL_SECONDS)
    return Outcome(unit)


def _is_there(place: pathlib.Path, digest: str) -> bool:
    """Whether a chunk is in its place, by the digest of its checksums."""
    try:
        return digest_of_file(place / "checksums.json") == digest
    except OSError:
        return False


def _unseen(place: pathlib.Path, host: str) -> str:
    return (
        f"{host} has written {place}, which is not there; choose a workdir that all "
        "workers share"
    )


def _lost(unit: Unit, tries: int, last: str) -> OSError:
    seeds = ", ".join(map(str, unit.seeds))
    return OSError(
        f"workers: expected units that end, got that of seeds {seeds} lost {tries} "
        f"times, at last by {last}"
    )
