"""Kills workers and drivers at random moments; counts what is lost and what repeats.

  python -m experiments.kills --engines=2,ray,submitit-local --seed=0

Port, engines, locks and chunks are the library's. A unit naps for a second in
place of training a network, and stores its chunk as every unit does. After a driver
is killed the same command goes on, on the same engine or, at random, on another one.
A table in Markdown is printed. With --overhead it compares units of ten seconds on one
worker with the same units called in a row instead.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from ioca_jax.cli.command import Command, option
from ioca_jax.report.sections import markdown
from ioca_jax.results.pieces import Chunk
from ioca_jax.study.chunks import find_chunks, locked
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.workers import unit as units
from ioca_jax.study.workers.engines import Workers
from ioca_jax.study.workers.port import run_units

_NAP = 1.0
_BEGINS = "begins.txt"
# How the processes of workers are called, whatever the engine.
_WORKERS = b"workers/serve.py", b"ray::work", b"ray::IDLE", b"submitit.core._submit"
# submitit's local jobs start all at once, so there are few of them.
_UNITS = {"submitit-local": 4}
_GOES_ON = {"2": "ray", "ray": "2", "submitit-local": "2"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the experiment."""

    engines: tuple[str, ...] = option(("2",), "As ioca run --workers takes them.")
    workers_killed: int = option(50, "Workers to kill on each engine.")
    drivers_killed: int = option(6, "Drivers to kill on each engine.")
    seconds: float = option(6.0, "Mean time between two kills.")
    seed: int = option(0, "Of the random moments.")
    overhead: bool = option(False, "Measure what the port costs, and kill nothing.")


@dataclasses.dataclass(frozen=True)
class StandIn:
    """In place of ``Computation``: naps, and returns a chunk."""

    folder: pathlib.Path
    seconds: float
    emit: Callable[..., None] = print
    watch: Any = None

    def chunk(self, seeds: Sequence[int], length: int, number: int) -> Chunk:
        """Notes that it begins, and by whom."""
        del length, number
        with (self.folder / _BEGINS).open("a") as file:
            file.write(f"{seeds[0]} {os.getpid()} {time.time()}\n")
        time.sleep(self.seconds)
        dims = ("seed", "clamp", "scope", "ordering", "step")
        accuracy = np.reshape(seeds, (-1, 1, 1, 1, 1)) / 1024
        results = xr.Dataset({"accuracy": (dims, accuracy)}, {"seed": [*seeds]})
        return Chunk(results, {"weight": np.array(seeds)})


def work(folder: str, seconds: str, *call: Any) -> dict[str, str]:
    """``run_unit`` on the stand-in; it has the arguments that the port sends."""
    stand_in = StandIn(pathlib.Path(folder), float(seconds), watch=Stopwatch())
    units._open_job = lambda *_: stand_in  # pyright: ignore[reportAttributeAccessIssue]
    return units.run_unit(folder, seconds, *call)


def drive(
    folder: str, engine: str | None, number: int, seconds: float = _NAP
) -> list[Exception]:
    """Runs what is missing in a folder, as a driver does; without an engine, here."""
    path = pathlib.Path(folder)
    with locked(path), Workers(engine).open(path) or nullcontext() as opened:
        done = {seed for chunk in find_chunks(path)[0] for seed in chunk.seeds}
        missing = [seed for seed in range(number) if seed not in done]
        (path / units.UNITS).mkdir(exist_ok=True)
        job, calls = (folder, str(seconds)), [([s], 1, s + 1) for s in missing]
        if opened is None:
            return [
                error for call in calls if (error := work(*job, *call).get("error"))
            ]
        sent = [units.unit_of(path, *call) for call in calls]
        return [o.error for o in run_units(opened, work, job, sent) if o.error]


class Kill(NamedTuple):
    """A process that was killed, and what was finished before."""

    engine: str
    victim: str
    process: int
    time: float
    finished: dict[str, int]


class Study:
    """A folder of units, and what happens in it until all are done."""

    def __init__(self, folder: pathlib.Path, engine: str):
        """Starts the first driver."""
        self.folder, self.engine = folder, engine
        self.number = _UNITS.get(engine, 40)
        self.kills: list[Kill] = []
        self.failed = 0
        self._start()

    def _start(self) -> None:
        code = "import sys; from experiments.kills import drive; "
        code += f"sys.exit(bool(drive{(str(self.folder), self.engine, self.number)}))"
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stderr=log,
            )

    def run(self, left: Counter, seconds: float, rng: random.Random) -> None:
        """Kills as many as are left to kill, until the study is done."""
        first = self.engine
        while self._goes_on(rng.uniform(0, 2 * seconds)):
            workers = processes_below(self.driver.pid)
            counts = [left[self.engine, victim] for victim in ("driver", "worker")]
            if not sum(counts):
                continue
            (victim,) = rng.choices(("driver", "worker"), counts)
            if victim == "worker" and not workers:
                continue
            left[self.engine, victim] -= 1
            self._kill(victim, rng.choice(workers or [0]))
            if victim == "driver":
                self.driver.wait()
                self.engine = rng.choice([first, _GOES_ON[first]])
                self._start()

    def _goes_on(self, seconds: float) -> bool:
        """Waits; starts the command again where a unit was lost too often."""
        try:
            if not self.driver.wait(seconds):
                return False
            self.failed += 1
            assert self.failed < 5, (self.folder / "driver.log").read_text()
            self._start()
        except subprocess.TimeoutExpired:
            pass
        return True

    def _kill(self, victim: str, worker: int) -> None:
        process = self.driver.pid if victim == "driver" else worker
        finished, now = finished_at(self.folder), time.time()
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:  # it has ended meanwhile
            return
        self.kills.append(Kill(self.engine, victim, process, now, finished))

    def judge(self) -> list[dict[str, Any]]:
        """A row for each kill: finished units that it lost, and units repeated."""
        chunks, _ = find_chunks(self.folder)
        assert sorted(chunk.seeds for chunk in chunks) == [
            (s,) for s in range(self.number)
        ]
        for chunk in chunks:
            assert chunk.load().variables["weight"].tolist() == [*chunk.seeds]
        at_end, repeated = finished_at(self.folder), Counter(self._causes())
        return [
            {
                "engine": kill.engine,
                "killed": kill.victim,
                "finished units lost": len(kill.finished.items() - at_end.items()),
                "units repeated": repeated[kill.process],
            }
            for kill in self.kills
        ]

    def _causes(self) -> Iterator[int]:
        """For each repeat of a unit, the killed process that explains it."""
        text = (self.folder / _BEGINS).read_text()
        rows = sorted(
            [float(n) for n in line.split()][::-1] for line in text.splitlines()
        )
        last: dict[float, tuple[float, float]] = {}
        for now, process, seed in rows:
            if seed in last:
                began, before = last[seed]
                kills = [k for k in self.kills if began <= k.time <= now]
                own = [k for k in kills if k.process == before]
                (*_, cause) = own or [k for k in kills if k.victim == "driver"]
                yield cause.process
            last[seed] = now, process


def processes_below(driver: int) -> list[int]:
    """The workers that a process, or one that it has started, has started."""
    parents, workers = {}, []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
            if any(name in command for name in _WORKERS):
                workers.append(int(folder.name))

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == driver or (parent > 1 and is_below(parent))

    return [worker for worker in workers if is_below(worker)]


def finished_at(folder: pathlib.Path) -> dict[str, int]:
    """When each chunk that is there was written, by its name."""
    files = folder.glob("chunks/seeds_*/checksums.json")
    return {file.parent.name: file.stat().st_mtime_ns for file in files}


def kill_all(options: Options, folder: pathlib.Path) -> pd.DataFrame:
    """Studies until all are killed that shall be; the counts by engine and victim."""
    rng, rows, failed = random.Random(options.seed), [], 0
    left = Counter({(e, "worker"): options.workers_killed for e in options.engines})
    left.update({(e, "driver"): options.drivers_killed for e in options.engines})
    for engine in options.engines:
        while left[engine, "worker"] + left[engine, "driver"]:
            own = pathlib.Path(tempfile.mkdtemp(dir=folder))
            study = Study(own, engine)
            study.run(left, options.seconds, rng)
            rows += study.judge()
            failed += study.failed
            print(dict(left), file=sys.stderr, flush=True)
    print(f"Units lost four times, by as many kills, ended {failed} drivers.")
    counted = pd.DataFrame(rows).groupby(["engine", "killed"])
    columns = {
        "kills": ("killed", "size"),
        "finished units lost": ("finished units lost", "sum"),
        "units repeated": ("units repeated", "sum"),
        "most by one kill": ("units repeated", "max"),
    }
    return counted.agg(**columns).reset_index()


def compare(folder: pathlib.Path, number: int = 6, seconds: float = 10) -> pd.DataFrame:
    """Seconds of units called in a row, and of the same through one worker."""
    rows = []
    for engine in (None, "1"):
        own = pathlib.Path(tempfile.mkdtemp(dir=folder))
        start, began = time.time(), time.perf_counter()
        assert not drive(str(own), engine, number, seconds)
        took = time.perf_counter() - began
        lines = (own / _BEGINS).read_text().splitlines()
        first = float(lines[0].split()[-1]) - start
        row = {"units": engine or "in a row", "first begins after": first}
        rows.append(row | {"all": took, "each": (took - first) / number})
    return pd.DataFrame(rows).round(2)


def main(options: Options) -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory(prefix="kills_") as folder:
        measure = compare if options.overhead else partial(kill_all, options)
        print(markdown(measure(pathlib.Path(folder))))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
