r"""Runs a study for every combination of settings, and compares the runs.

For example, four runs on 5,000 real MNIST digits, each with two networks:

  ioca sweep --dataset=mnist5k --seeds=0:2 --epochs=5 \
      --grid=activation=relu,sigmoid --grid="hidden=100,100;50" --workdir=runs/sweep

Every flag of a study is a setting of all runs, but for those that --grid varies. A run
is named by what varies, and its folder, workdir/NAME, is as ioca run leaves it. Beside
the folders lie runs.csv and runs.parquet, a row per run, and runs.png, runs.pdf and
report.html, written anew as runs finish. --workers=4 computes several runs at once;
ioca run --help says where else. What is finished already is not run
again. A run that fails is noted in the table and the others go on; the exit code is
then 1. --dry_run says what would run and about how long it would take.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import pathlib
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd
import xarray as xr
from absl import flags
from tqdm import tqdm

import ioca_jax as ioca
from ioca_jax.checks import import_extra, nearest
from ioca_jax.cli.command import USER_ERRORS, Command, define, option
from ioca_jax.cli.run import few_seeds
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.families import networks_in_tests
from ioca_jax.inference.statistics import mean_interval
from ioca_jax.plots import compare_runs, save_figure
from ioca_jax.report.overview import sweep_page
from ioca_jax.report.page import PAGE_FILE
from ioca_jax.results.files import atomic_write
from ioca_jax.results.subsets import converged, intact_accuracy
from ioca_jax.study.chunks import count_finished, locked, remove_chunks
from ioca_jax.study.events import Listener, ProgressLine, duration
from ioca_jax.study.folder import WRITING, RunFolder, check_places, explained, writable
from ioca_jax.study.plan import Identity, Request, identify
from ioca_jax.study.resources import check_fits, count_needs
from ioca_jax.study.workers.engines import Workers, open_workers
from ioca_jax.study.workers.port import Engine

_WRITTEN = ("runs.csv", "runs.parquet", "runs.png", "runs.pdf", PAGE_FILE)
_FIELDS = {field.name: field for field in dataclasses.fields(ioca.StudyConfig)}
_LONGEST_NAME = 120  # file systems take 255 bytes
# Runs of a sweep that have units on other machines at the same time.
_RUNS_AT_ONCE = 16
# The page is written anew when so many times the time has passed that it took.
_REPORT_SHARE = 10


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Flags of a sweep beside those of its runs."""

    workdir: str = option("runs/sweep", "Where the runs' folders go.")
    grid: tuple[str, ...] = option(
        (),
        "A setting to vary, repeated for each: field=value1,value2 with the name of a "
        "study's flag; the values of flags that are lists are separated by semicolons: "
        '"hidden=100,100;50".',
    )
    grid_file: str | None = option(
        None,
        "A text file with one such field=values a line; what follows a # is a comment.",
    )
    dry_run: bool = option(
        False,
        "Say what would run and, by order of magnitude, how long it would take; leave "
        "nothing behind.",
    )
    figures: bool = option(
        True,
        "Draw each run's figures, seconds a run; that of all runs is drawn anyway.",
    )

    def grid_lines(self) -> list[str]:
        """The lines of ``--grid`` and of the file."""
        lines = list(self.grid)
        if self.grid_file is not None:
            try:
                text = pathlib.Path(self.grid_file).read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ValueError(
                    f"grid_file: expected a text file, got {self.grid_file!r} "
                    f"({getattr(error, 'strerror', None) or error})"
                ) from error
            uncommented = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
            lines += filter(str.strip, uncommented)
        return lines


class Run(NamedTuple):
    """One combination of settings; its name, made of them, is that of its folder."""

    name: str
    folder: pathlib.Path
    settings: dict[str, Any]
    config: ioca.StudyConfig

    @property
    def dataset(self) -> tuple[tuple[str, Any], ...]:
        """What ``load_dataset`` takes, by name."""
        return tuple(self.config.data_arguments().items())

    def load_data(self) -> ioca.Dataset | None:
        """The dataset; None where a function returns networks, and maybe data."""
        return None if self.config.network else _load(self.dataset)

    @property
    def identity(self) -> Identity:
        """What its folder is recognised by."""
        if self.config.network:
            return Request.of(self.config).identity
        return identify(self.config)

    @property
    def is_finished(self) -> bool:
        """Whether the folder holds this run, computed and reported."""
        try:
            finished = RunFolder(self.folder, self.identity).is_finished()
        except (ValueError, OSError):
            return False
        return finished and (self.folder / "summary.txt").is_file()  # the last file


def read_grid(lines: Iterable[str]) -> dict[str, list[Any]]:
    """Reads lines ``field=value1,value2`` (semicolons between lists) as values."""
    known = flags.FlagValues()
    define(ioca.StudyConfig, known)
    grid: dict[str, list[Any]] = {}
    for line in lines:
        name, equals, text = (part.strip() for part in line.partition("="))
        if not equals:
            raise ValueError(f"grid: expected field=value1,value2, got {line!r}")
        if name not in _FIELDS:
            raise ValueError(
                "grid: expected a flag of a study, as ioca sweep --help lists, got "
                f"{name!r}{nearest([name], _FIELDS)}"
            )
        if name in grid:
            raise ValueError(f"grid: expected every field once, got {name} twice")
        grid[name] = _read_values(name, text, known[name].parser)
    if not grid:
        raise ValueError(
            "grid: expected --grid=field=value1,value2 or a --grid_file with such "
            "lines, got none"
        )
    return grid


def _read_values(name: str, text: str, parser: flags.ArgumentParser) -> list[Any]:
    separator = ";" if isinstance(_FIELDS[name].default, tuple) else ","
    values = []
    for part in (part.strip() for part in text.split(separator)):
        if not part:
            raise ValueError(
                f"grid: expected one or more values of {name}, separated by "
                f"{separator!r}, got {text!r}"
            )
        try:
            value = parser.parse(part)
        except (ValueError, TypeError):
            kind = parser.syntactic_help or "true or false"
            raise ValueError(
                f"grid: expected values of {name} that are each {kind}, got {part!r}"
            ) from None
        if value in values:
            raise ValueError(
                f"grid: expected every value of {name} once, got {_shown(value)} twice"
            )
        values.append(value)
    return values


def plan(
    base: ioca.StudyConfig, grid: Mapping[str, Sequence[Any]], workdir: pathlib.Path
) -> list[Run]:
    """Every combination, checked; runs on one dataset follow each other."""
    runs: dict[str, Run] = {}
    configs = set()
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = _name(settings)
        try:
            config = dataclasses.replace(base, **settings)
        except ValueError as error:
            raise ValueError(
                f"grid: expected settings of a study, got {name} ({error})"
            ) from error
        if name in runs or config in configs:
            raise ValueError(f"grid: expected runs that differ, got {name} twice")
        configs.add(config)
        runs[name] = Run(name, workdir / name, settings, config)
    datasets = list(dict.fromkeys(run.dataset for run in runs.values()))
    return sorted(runs.values(), key=lambda run: datasets.index(run.dataset))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _name(settings: Mapping[str, Any]) -> str:
    parts = (
        f"{name}={_shown(value).replace(',', '-')}" for name, value in settings.items()
    )
    name = re.sub(r"[^\w.=,+-]+", "-", ",".join(parts), flags=re.ASCII)
    if len(name) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:12]
        name = f"{name[: _LONGEST_NAME - 13]}-{digest}"
    return name


@functools.lru_cache(maxsize=1)
def _load(dataset: tuple[tuple[str, Any], ...]) -> ioca.Dataset:
    """The dataset of runs that follow each other, loaded once."""
    return ioca.load_dataset(**dict(dataset))


def sweep(
    runs: Sequence[Run], workdir: pathlib.Path, draw: bool, workers: Workers
) -> pd.DataFrame:
    """Runs what is not finished; writes the table and the page as runs finish."""
    rows: dict[str, dict[str, Any]] = {}
    table, written_at, took = pd.DataFrame(), 0.0, 0.0
    unfinished = sum(not run.is_finished for run in runs)
    if unfinished and len({run.dataset for run in runs}) == 1:
        runs[0].load_data()  # outside of any run: without it none can be
    if unfinished:
        _tell_few(runs, sys.stderr)
    with (
        open_workers(workers, workdir) as engine,
        tqdm(
            total=unfinished, desc="runs", unit="run", smoothing=0, disable=None
        ) as bar,
    ):
        for row in _rows(runs, draw, engine, bar):
            rows[row["name"]] = row
            table = pd.DataFrame([rows[run.name] for run in runs if run.name in rows])
            table = table.astype(dict.fromkeys(_COUNTS, "Int64"))
            _write_table(table, workdir)
            if bar.disable:
                print(_line(row), flush=True)
            bar.update(row["status"] != "skipped")
            began = time.monotonic()
            is_last = len(rows) == len(runs)
            if not is_last and began - written_at > _REPORT_SHARE * took:
                report(table, workdir)
                written_at = time.monotonic()
                took = written_at - began
    return table


def _rows(
    runs: Sequence[Run], draw: bool, engine: Engine | None, bar: tqdm
) -> Iterator[dict[str, Any]]:
    """The rows of the table as runs finish.

    Without workers one run follows another. With workers a thread for each of several
    runs sends units, so that none of the workers is idle at the end of a run.
    """

    def row_of(run: Run) -> dict[str, Any]:
        if engine is not None and not bar.disable:  # runs share a terminal's line
            return _run_one(run, draw, engine)
        with ProgressLine(f"{run.name}: ") as line:
            return _run_one(run, draw, engine, [line])

    if engine is None:
        for run in runs:
            bar.set_postfix_str(run.name)
            yield row_of(run)
        return
    at_once = engine.number + 1 if engine.number else _RUNS_AT_ONCE
    threads = ThreadPoolExecutor(at_once, "run")
    try:
        sent = [threads.submit(row_of, run) for run in runs]
        for future in as_completed(sent):
            yield future.result()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _run_one(
    run: Run,
    draw: bool,
    engine: Engine | None,
    listeners: Sequence[Listener] = (),
) -> dict[str, Any]:
    """The run's row of the table."""
    shown = {
        name: _shown(value) if isinstance(value, tuple) else value
        for name, value in run.settings.items()
    }
    start = time.perf_counter()
    try:
        skipped = run.is_finished
        if skipped:
            results = ioca.load_results(run.folder)
        else:
            results = ioca.run_study(
                run.config,
                run.folder,
                data=run.load_data(),
                draw=draw,
                workers=engine,
                listeners=listeners,
            )
        found = _found(results)
    except Exception as error:  # whatever stops one run must not stop the others
        seconds = round(time.perf_counter() - start, 3)
        row = {"status": "failed", "reason": _reason(error), "seconds": seconds}
        return {"name": run.name} | shown | row | _NOTHING
    row = {"status": "skipped" if skipped else "finished", "reason": ""}
    return {"name": run.name} | shown | row | found


_COUNTS = ("networks", "diverged", "above_chance")
_NOTHING = {
    **dict.fromkeys(_COUNTS),
    **{f"test_error_{name}": float("nan") for name in ("mean", "sd", "low", "high")},
}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, USER_ERRORS):
        text = f"{type(error).__name__}: {text}"
    return textwrap.shorten(text, 300) or type(error).__name__


def _found(results: xr.Dataset) -> dict[str, Any]:
    """The columns of a run's results."""
    kept = converged(results)
    networks = results.sizes["seed"]
    row = {
        "seconds": json.loads(results.attrs["seconds"])["computed"],
        **_NOTHING,
        "networks": networks,
        "diverged": networks - kept.sizes["seed"],
        "above_chance": networks_in_tests(results).sizes["seed"],
    }
    if not kept.sizes["seed"]:
        return row
    errors = pd.Series(100 * (1 - intact_accuracy(kept)))
    row |= {"test_error_mean": errors.mean(), "test_error_sd": errors.std()}
    ends = map(float, _interval(errors.to_numpy()))
    row |= zip(("test_error_low", "test_error_high"), ends, strict=True)
    for (scope, *order), areas in areas_by_order(kept).items():
        low, high = _interval(areas)
        ends = {"area": areas.mean(axis=0), "area_low": low, "area_high": high}
        for end, values in ends.items():
            for clamp, value in zip(kept["clamp"].values, values, strict=True):
                row[".".join([end, scope, clamp, *order])] = value
    return row


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of means over networks [S, ...], NaN for fewer than three."""
    if len(values) < 3:
        unknown = np.full(values.shape[1:], np.nan)
        return unknown, unknown
    return mean_interval(values)


def _write_table(table: pd.DataFrame, workdir: pathlib.Path) -> None:
    atomic_write(workdir / "runs.csv", lambda part: table.to_csv(part, index=False))
    atomic_write(
        workdir / "runs.parquet",
        lambda part: table.to_parquet(part, engine="pyarrow", index=False),
    )


def _line(row: Mapping[str, Any]) -> str:
    told = f"{row['name']}: {row['status']}, {row['seconds']:.1f} s"
    if row["status"] == "failed":
        return f"{told}: {row['reason']}"
    if row["diverged"]:
        told += f", {row['diverged']} of {row['networks']} networks diverged"
    if row["diverged"] < row["networks"]:
        told += f", test error {row['test_error_mean']:.2f} %"
    return told


def dry_run(runs: Sequence[Run]) -> bool:
    """Prints what would run and about how long; returns whether some would fail."""
    total, fails = 0.0, False
    _tell_few(runs)
    for run in runs:
        try:
            if RunFolder(run.folder, run.identity).is_finished():
                print(f"{run.name}: finished already", flush=True)
                continue
            request = Request.of(run.config, data=run.load_data())
            needs, seeds = count_needs(request.plan()), len(run.config.seeds)
            finished = count_finished(run.folder)
            check_fits(needs, seeds, run.folder, finished)
        except Exception as error:
            print(f"{run.name}: would fail: {_reason(error)}", flush=True)
            fails = True
            continue
        seconds = needs.seconds(seeds - finished)
        print(f"{run.name}: would run, about {duration(seconds)}", flush=True)
        total += seconds
    print(
        f"About {duration(total)} in all by order of magnitude, without compiling: "
        "about a minute more for each network not compiled yet"
    )
    return fails


def _tell_few(runs: Sequence[Run], file: TextIO | None = None) -> None:
    """A line for each number of seeds of the runs that is too small for tests."""
    for line in filter(None, dict.fromkeys(few_seeds(run.config) for run in runs)):
        print(line, file=file, flush=True)


def report(table: pd.DataFrame, workdir: pathlib.Path) -> list[str]:
    """Draws and writes what is made from the table; returns the names of all files."""
    written = ["runs.csv", "runs.parquet"]
    if table["test_error_mean"].notna().to_numpy().any():
        with WRITING:
            paths = save_figure(compare_runs(table), workdir / "runs")
        written += [path.name for path in paths]
    command = shlex.join(["ioca", "sweep", *sys.argv[1:]])
    page = sweep_page(table, workdir, command)
    atomic_write(workdir / PAGE_FILE, lambda part: part.write_text(page, "utf-8"))
    return [*written, PAGE_FILE]


def main(options: SweepOptions, base: ioca.StudyConfig, workers: Workers) -> None:
    """Runs what the flags describe, or says what would run."""
    workdir = pathlib.Path(options.workdir)
    runs = plan(base, read_grid(options.grid_lines()), workdir)
    import_extra("pyarrow", "sweep", "runs.parquet")
    workers.prepare(workdir)
    if options.dry_run:
        sys.exit(int(dry_run(runs)))
    safe = f"the runs in {workdir} are whole", "goes on from them"
    with explained(workdir, safe), contextlib.ExitStack() as stack:
        check_places(workdir, files=_WRITTEN)
        with writable(workdir):
            stack.enter_context(locked(workdir))
        table = sweep(runs, workdir, options.figures, workers)
        written = report(table, workdir)
        remove_chunks(workdir)  # what an engine has kept of its units
    count = table["status"].value_counts()
    told = (f"{count.get(s, 0)} {s}" for s in ("finished", "skipped", "failed"))
    print(f"{', '.join(told)}. Written to {workdir}: {', '.join(written)}")
    failed = table[table["status"] == "failed"]
    for name, reason in zip(failed["name"], failed["reason"], strict=True):
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if len(failed):
        sys.exit(1)


COMMAND = Command(
    main,
    (SweepOptions, ioca.StudyConfig, Workers),
    when_interrupted=lambda options, *_: (
        "interrupted: the same command goes on from what is finished in "
        f"{options.workdir}"
    ),
)
