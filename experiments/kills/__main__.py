"""Kills workers and drivers at random moments; counts what is lost and what repeats.

  python -m experiments.kills --engines=2,ray,submitit-local

The port and its engines are the library's. A unit naps in place of training networks,
and writes its folder as a real unit does: under a lock, beside its place, renamed when
it is whole. After a driver is killed the same command goes on, on the same engine or,
at random, on another one. With --overhead, units of ten seconds on one worker are
compared with the same units called in a row instead. Tables are printed in Markdown.
It needs ioca_jax[ray] and, for submitit-local, ioca_jax[slurm].
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
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from experiments.kills.unit import BEGINS, work
from ioca_jax.cli.command import Command, option
from ioca_jax.report.sections import markdown
from ioca_jax.study.chunks import locked
from ioca_jax.study.workers.engines import open_workers
from ioca_jax.study.workers.port import Unit, run_units

# How the processes of workers are called, by engine.
_WORKERS = b"workers/serve.py", b"ray::work", b"ray::IDLE", b"submitit.core._submit"
# submitit's local jobs start all at once, so there are few of them.
_UNITS = {"submitit-local": 10}
_GOES_ON = {"2": "ray", "ray": "2", "submitit-local": "2"}


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the experiment."""

    engines: tuple[str, ...] = option(("2",), "Out of 2, ray and submitit-local.")
    workers_killed: int = option(50, "Workers to kill on each engine.")
    drivers_killed: int = option(6, "Drivers to kill on each engine.")
    seconds: float = option(1.5, "Mean time between two kills.")
    nap: float = option(0.3, "Seconds of a unit.")
    draw_seed: int = option(0, "Of the random moments.")
    overhead: bool = option(False, "Compare seconds, and kill nothing.")


def drive(folder: str, engine: str, number: int, seconds: float) -> int:
    """Runs what is missing in a folder, as a driver does; returns what has failed."""
    path = pathlib.Path(folder)
    with locked(path), open_workers(engine, path) as opened:
        places = [path / f"unit_{seed}" for seed in range(number)]
        units = [
            Unit((seed,), 1, seed + 1, place, place.with_suffix(".begun"))
            for seed, place in enumerate(places)
            if not place.exists()
        ]
        assert opened is not None
        outcomes = list(run_units(opened, work, (folder, str(seconds)), units))
    return sum(outcome.error is not None for outcome in outcomes)


class Kill(NamedTuple):
    """A process that was killed, and what was finished before."""

    engine: str
    victim: str
    process: int
    time: float
    finished: dict[str, int]


class Study:
    """A folder of units, and what happens in it until all are done."""

    def __init__(self, folder: pathlib.Path, engine: str, nap: float):
        """Starts the first driver, of units that take so many seconds."""
        self.folder, self.engine, self.nap = folder, engine, nap
        self.number = _UNITS.get(engine, 150)
        self.kills: list[Kill] = []
        self.failed = 0
        self._start()

    def _start(self) -> None:
        arguments = str(self.folder), self.engine, self.number, self.nap
        code = "import sys; from experiments.kills.__main__ import drive; "
        with (self.folder / "driver.log").open("ab") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-c", f"{code}sys.exit(drive{arguments})"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=log,
                stderr=log,
            )

    def run(self, left: Counter, seconds: float, rng: random.Random) -> None:
        """Kills as many as are left to kill, until the study is done."""
        first = self.engine
        while self._goes_on(rng.uniform(0, 2 * seconds)):
            counts = [left[self.engine, victim] for victim in ("driver", "worker")]
            if not sum(counts):
                continue
            (victim,) = rng.choices(("driver", "worker"), counts)
            workers = workers_of(self.driver.pid)
            if victim == "driver":
                self._kill(victim, self.driver.pid, left)
                self.driver.wait()
                self.engine = rng.choice([first, _GOES_ON[first]])
                self._start()
            elif workers:
                self._kill(victim, rng.choice(workers), left)

    def _goes_on(self, seconds: float) -> bool:
        """Waits; gives the command again where a unit was lost too often."""
        try:
            if not self.driver.wait(seconds):
                return False
            self.failed += 1
            assert self.failed < 5, (self.folder / "driver.log").read_text("utf-8")
            self._start()
        except subprocess.TimeoutExpired:
            pass
        return True

    def _kill(self, victim: str, process: int, left: Counter) -> None:
        finished = finished_at(self.folder)
        kill = Kill(self.engine, victim, process, time.time(), finished)
        with contextlib.suppress(ProcessLookupError):  # it may have ended meanwhile
            os.kill(process, signal.SIGKILL)
            left[self.engine, victim] -= 1
            self.kills.append(kill)


def judge(folder: pathlib.Path, kills: list[Kill]) -> list[dict[str, Any]]:
    """A row for each kill: finished units that it lost, and units repeated."""
    at_end = finished_at(folder)
    begins = (folder / BEGINS).read_text("utf-8").splitlines()
    repeated = Counter(_causes(begins, kills))
    return [
        {
            "engine": kill.engine,
            "killed": kill.victim,
            "lost": len(kill.finished.items() - at_end.items()),
            "repeated": repeated[kill.time],
        }
        for kill in kills
    ]


def _causes(begins: list[str], kills: list[Kill]) -> Iterator[float]:
    """For each repeat of a unit, when the process was killed that explains it."""
    last: dict[str, tuple[float, int]] = {}
    for line in sorted(begins):
        now, process, seed = line.split()
        if seed in last:
            began, before = last[seed]
            between = [kill for kill in kills if began <= kill.time <= float(now)]
            own = [kill.time for kill in between if kill.process == before]
            yield (own or [k.time for k in between if k.victim == "driver"])[-1]
        last[seed] = float(now), int(process)


def workers_of(driver: int) -> list[int]:
    """The workers that a process, or one that it has started, has started."""
    parents, workers = {}, []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (folder / "stat").read_text("utf-8").rpartition(")")[2].split()
            parents[int(folder.name)] = int(stat[1])
            command = (folder / "cmdline").read_bytes()
            if any(name in command for name in _WORKERS):
                workers.append(int(folder.name))

    def is_below(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == driver or (parent > 1 and is_below(parent))

    return [worker for worker in workers if is_below(worker)]


def finished_at(folder: pathlib.Path) -> dict[str, int]:
    """When each unit that is finished was written, by its folder's name."""
    files = folder.glob("unit_*/checksums.json")
    return {f.parent.name: f.stat().st_mtime_ns for f in files if f.parent.suffix == ""}


def kill_all(options: Options, folder: pathlib.Path) -> pd.DataFrame:
    """Studies until all are killed that shall be; the counts by engine and victim."""
    rng, rows, failed = random.Random(options.draw_seed), [], 0
    left = Counter({(e, "worker"): options.workers_killed for e in options.engines})
    left.update({(e, "driver"): options.drivers_killed for e in options.engines})
    for engine in options.engines:
        while left[engine, "worker"] + left[engine, "driver"]:
            own = pathlib.Path(tempfile.mkdtemp(dir=folder))
            study = Study(own, engine, options.nap)
            study.run(left, options.seconds, rng)
            assert len(finished_at(study.folder)) == study.number
            rows += judge(study.folder, study.kills)
            failed += study.failed
            print(dict(left), file=sys.stderr, flush=True)
    print(f"{failed} drivers ended by naming a unit that was lost four times.\n")
    counts = (
        pd.DataFrame(rows)
        .groupby(["engine", "killed"])
        .agg(
            kills=("killed", "size"),
            lost=("lost", "sum"),
            repeated=("repeated", "sum"),
            most=("repeated", "max"),
        )
    )
    return counts.reset_index()


def compare(folder: pathlib.Path, number: int = 6, seconds: float = 10) -> pd.DataFrame:
    """Seconds of units called in a row, and of the same by one worker of the port."""
    rows = {}
    for name in ("in a row", "one worker"):
        own = tempfile.mkdtemp(dir=folder)
        start = time.perf_counter()
        if name == "in a row":
            for seed in range(number):
                work(own, str(seconds), [seed], 1, seed + 1)
        else:
            assert not drive(own, "1", number, seconds)
        rows[name] = time.perf_counter() - start
    table = pd.DataFrame(rows.items(), columns=["units", "seconds"])
    return table.assign(ratio=table["seconds"] / rows["in a row"]).round(3)


def main(options: Options) -> None:
    """Prints a table."""
    with tempfile.TemporaryDirectory(prefix="kills_") as name:
        folder = pathlib.Path(name)
        table = compare(folder) if options.overhead else kill_all(options, folder)
        print(markdown(table))


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
