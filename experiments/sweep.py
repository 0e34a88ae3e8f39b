r"""Runs a study for every combination of settings, and compares the runs.

For example, four runs on 5,000 real MNIST digits, each with two networks:

  python -m experiments.sweep --dataset=mnist5k --seeds=0:2 --epochs=5 \
      --grid=activation=relu,sigmoid --grid="hidden=100,100;50" --workdir=runs/sweep

Every flag of a study is a setting of all runs, but for those that --grid varies. A run
is named by what varies, and its folder, workdir/NAME, is as run_study leaves it. Beside
the folders lie runs.csv and runs.parquet, a row per run, written anew after every run,
and at the end runs.png, runs.pdf and report.html. What is finished already is not run
again. A run that fails is noted in the table and the others go on; the exit code is
then 1. --dry_run says what would run and about how long it would take.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import pathlib
import re
import shlex
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, NamedTuple

import jax
import pandas as pd
import xarray as xr
from absl import flags
from tqdm import tqdm

import ioca_jax as ioca
from ioca_jax.checks import import_extra
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.plots import compare_runs, save_figure
from ioca_jax.report.overview import sweep_page
from ioca_jax.report.page import PAGE_FILE
from ioca_jax.results.files import atomic_write
from ioca_jax.results.selection import converged, intact_accuracy
from ioca_jax.study.chunks import locked
from ioca_jax.study.events import duration
from ioca_jax.study.folder import RunFolder, check_places, explained, writable
from ioca_jax.study.resources import check_depth, check_fits, count_needs

from . import config_flags

WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Where the runs' folders go.")
GRID = flags.DEFINE_multi_string(
    "grid",
    [],
    "A setting to vary, repeated for each: field=value1,value2 with the name of a "
    "study's flag; the values of flags that are lists are separated by semicolons: "
    '"hidden=100,100;50".',
)
GRID_FILE = flags.DEFINE_string(
    "grid_file",
    None,
    "A text file with one such field=values a line; what follows a # is a comment.",
)
DRY_RUN = flags.DEFINE_boolean(
    "dry_run",
    False,
    "Say what would run and, from short trials, about how long it would take; leave "
    "nothing behind.",
)
FIGURES = flags.DEFINE_boolean(
    "figures",
    True,
    "Draw each run's figures, seconds a run; that of all runs is drawn anyway.",
)
config_flags.define(ioca.StudyConfig)
flags.adopt_module_key_flags(config_flags)  # --help lists them

_WRITTEN = ("runs.csv", "runs.parquet", "runs.png", "runs.pdf", PAGE_FILE)
_FIELDS = {field.name: field for field in fields(ioca.StudyConfig)}
_LONGEST_NAME = 120  # file systems take 255 bytes


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

    @property
    def state(self) -> str:
        """The folder's: ``new``, ``unfinished``, ``finished``, or ``another run``."""
        if not (self.folder / "flags.txt").is_file():
            return "new"
        try:
            finished = RunFolder(self.folder, self.config).is_finished()
        except (ValueError, OSError):
            return "another run"
        reported = (self.folder / "summary.txt").is_file()  # the last of all files
        return "finished" if finished and reported else "unfinished"


def read_grid(lines: Iterable[str]) -> dict[str, list[Any]]:
    """Reads lines ``field=value1,value2`` (semicolons between lists) as values."""
    grid: dict[str, list[Any]] = {}
    for line in lines:
        name, equals, text = (part.strip() for part in line.partition("="))
        if not equals:
            raise ValueError(f"grid: expected field=value1,value2, got {line!r}")
        if name not in _FIELDS:
            raise ValueError(
                f"grid: expected a field out of {', '.join(_FIELDS)}, got {name!r}"
            )
        if name in grid:
            raise ValueError(f"grid: expected every field once, got {name} twice")
        grid[name] = _read_values(name, text)
    if not grid:
        raise ValueError(
            "grid: expected --grid=field=value1,value2 or a --grid_file with such "
            "lines, got none"
        )
    return grid


def _read_values(name: str, text: str) -> list[Any]:
    parser = flags.FLAGS[name].parser
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


def _grid_lines(file: str | None) -> list[str]:
    """The lines of ``--grid`` and of the file."""
    lines = list(GRID.value)
    if file is not None:
        try:
            text = pathlib.Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"grid_file: expected a text file, got {file!r} "
                f"({getattr(error, 'strerror', None) or error})"
            ) from error
        uncommented = (re.sub(r"(^|\s)#.*", "", line) for line in text.splitlines())
        lines += filter(str.strip, uncommented)
    return lines


def plan(
    base: ioca.StudyConfig, grid: Mapping[str, Sequence[Any]], workdir: pathlib.Path
) -> list[Run]:
    """Every combination, checked.

    Runs on one dataset follow each other, and among them those that share programs.
    """
    runs: dict[str, Run] = {}
    configs = set()
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        name = _name(settings)
        try:
            config = replace(base, **settings)
        except ValueError as error:
            raise ValueError(
                f"grid: expected settings of a study, got {name} ({error})"
            ) from error
        if name in runs or config in configs:
            raise ValueError(f"grid: expected runs that differ, got {name} twice")
        configs.add(config)
        runs[name] = Run(name, workdir / name, settings, config)
    return _grouped(
        _grouped(
            runs.values(), lambda run: (_trial(run.config), len(run.config.seeds))
        ),
        lambda run: run.dataset,
    )


def _loader(dataset: tuple[tuple[str, Any], ...]) -> Callable[[], ioca.Dataset]:
    """A function that loads the dataset at its first call, and keeps it."""
    return functools.cache(functools.partial(ioca.load_dataset, **dict(dataset)))


def _grouped(runs: Iterable[Run], key: Callable[[Run], Any]) -> list[Run]:
    """Runs of the same key together, otherwise in order."""
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run)
    return list(itertools.chain.from_iterable(groups.values()))


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


def sweep(runs: Sequence[Run], workdir: pathlib.Path) -> pd.DataFrame:
    """Runs what is not finished, one after another; writes the table after each."""
    rows, table = [], pd.DataFrame()
    unfinished = sum(run.state != "finished" for run in runs)
    bar = tqdm(total=unfinished, desc="runs", unit="run", smoothing=0, disable=None)
    with bar:
        for dataset, group in itertools.groupby(runs, lambda run: run.dataset):
            load = _loader(dataset)
            if unfinished and all(run.dataset == dataset for run in runs):
                load()  # outside of any run: without it none can be
            for run in group:
                bar.set_postfix_str(run.name)
                row = _run_one(run, load)
                rows.append(row)
                table = pd.DataFrame(rows)
                table = table.astype({"networks": "Int64", "diverged": "Int64"})
                _write_table(table, workdir)
                if bar.disable:
                    print(_line(row), flush=True)
                bar.update(row["status"] != "skipped")
    return table


def _run_one(run: Run, load: Callable[[], ioca.Dataset]) -> dict[str, Any]:
    """The run's row of the table."""
    shown = {
        name: _shown(value) if isinstance(value, tuple) else value
        for name, value in run.settings.items()
    }
    start = time.perf_counter()
    try:
        skipped = run.state == "finished"
        results = (
            ioca.load_results(run.folder)
            if skipped
            else ioca.run_study(run.config, run.folder, data=load(), draw=FIGURES.value)
        )
        found = _found(results)
    except Exception as error:  # whatever stops one run must not stop the others
        seconds = round(time.perf_counter() - start, 3)
        row = {"status": "failed", "reason": _reason(error), "seconds": seconds}
        return {"name": run.name} | shown | row | _NOTHING
    row = {"status": "skipped" if skipped else "finished", "reason": ""}
    return {"name": run.name} | shown | row | found


_NOTHING = {
    "networks": None,
    "diverged": None,
    "test_error_mean": float("nan"),
    "test_error_sd": float("nan"),
}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, config_flags.USER_ERRORS):
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
    }
    if not kept.sizes["seed"]:
        return row
    errors = pd.Series(100 * (1 - intact_accuracy(kept)))
    row |= {"test_error_mean": errors.mean(), "test_error_sd": errors.std()}
    for (scope, *order), areas in areas_by_order(kept).items():
        for clamp, area in zip(kept["clamp"].values, areas.mean(axis=0), strict=True):
            row[".".join(["area", scope, clamp, *order])] = area
    return row


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


class Costs(NamedTuple):
    """Seconds of a trial: for an epoch, for the curves of a network, for the rest."""

    epoch: float
    curves: float
    rest: float
    compiling_training: float
    compiling_curves: float


def dry_run(runs: Sequence[Run]) -> int:
    """Prints what would run and about how long; returns how many would fail."""
    # What earlier programs kept would make compiling look too cheap, or be added to.
    jax.config.update("jax_enable_compilation_cache", False)
    costs: dict[ioca.StudyConfig, Costs] = {}
    working, compiled, failing = 0.0, {}, 0
    for dataset, group in itertools.groupby(runs, lambda run: run.dataset):
        load = _loader(dataset)
        for run in group:
            if run.state == "finished":
                print(f"{run.name}: finished already", flush=True)
                continue
            trial, config = _trial(run.config), run.config
            try:
                if run.state == "another run":
                    raise ValueError(f"{run.folder} holds another run")
                if config.network:
                    raise ValueError("no estimate for networks that are not trained")
                data = load()
                model = config.model(data.num_classes, data.train.x.shape[1:])
                check_depth(model)
                needs = count_needs(config, model, data)
                check_fits(needs, len(config.seeds), run.folder)
                if trial not in costs:
                    costs[trial] = _try_out(trial, data)
            except Exception as error:
                print(f"{run.name}: would fail: {_reason(error)}", flush=True)
                failing += 1
                continue
            cost, networks = costs[trial], len(config.seeds)
            rounds = -(-networks // jax.local_device_count())
            seconds = (
                cost.epoch * config.epochs * rounds + cost.curves * networks + cost.rest
            )
            working += seconds
            compiled |= {
                (trial, networks): cost.compiling_curves,
                (trial, networks, config.train_config()): cost.compiling_training,
            }
            print(f"{run.name}: would run, about {duration(seconds)}", flush=True)
    compiling = sum(compiled.values())
    print(
        f"About {duration(working + compiling)} in all, {duration(compiling)} of it "
        f"compiling. This is an estimate, scaled from {len(costs)} short trial"
        f"{'' if len(costs) == 1 else 's'} of one epoch and few networks."
    )
    return failing


def _trial(config: ioca.StudyConfig) -> ioca.StudyConfig:
    """A short study with the same costs per network and epoch."""
    networks = min(len(config.seeds), jax.local_device_count())
    return replace(
        config,
        epochs=1,
        trajectory_epochs=(0, 1)[: len(config.trajectory_epochs)],
        seeds=tuple(range(networks)),
        l2=0.0,
        learning_rate=1e-3,
    )


def _try_out(trial: ioca.StudyConfig, data: ioca.Dataset) -> Costs:
    """Runs a trial twice, as the first time compiles."""
    training, curves, rest = [], [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            results = ioca.run_study(trial, folder, data=data, draw=FIGURES.value)
            seconds = json.loads(results.attrs["seconds"])
            training.append(seconds["trained"] - seconds["loaded"])
            curves.append(seconds["computed"] - seconds["trained"])
            rest.append(time.perf_counter() - start - seconds["computed"])
    # What a run calls training ends with saving, which epochs do not multiply.
    start = time.perf_counter()
    trained = ioca.train(
        trial.model(data.num_classes, data.train.x.shape[1:]),
        data,
        trial.train_config(),
        trial.seeds,
        memory_gb=trial.memory_gb,
    )
    jax.block_until_ready(trained.variables)
    epoch = time.perf_counter() - start
    return Costs(
        epoch=epoch,
        curves=curves[1] / len(trial.seeds),
        rest=rest[1] + max(0.0, training[1] - epoch),
        compiling_training=max(0.0, training[0] - training[1]),
        compiling_curves=max(0.0, curves[0] - curves[1]),
    )


def report(table: pd.DataFrame, workdir: pathlib.Path) -> list[str]:
    """Draws and writes what is made from the table; returns the names of all files."""
    written = ["runs.csv", "runs.parquet"]
    if table["test_error_mean"].notna().to_numpy().any():
        paths = save_figure(compare_runs(table), workdir / "runs")
        written += [path.name for path in paths]
    command = shlex.join(["ioca", "sweep", *sys.argv[1:]])
    page = sweep_page(table, workdir, command)
    atomic_write(workdir / PAGE_FILE, lambda part: part.write_text(page, "utf-8"))
    return [*written, PAGE_FILE]


def main() -> None:
    """Runs what the flags describe, or says what would run."""
    import_extra("pyarrow", "sweep", "runs.parquet")
    workdir = pathlib.Path(WORKDIR.value)
    base = config_flags.parse(ioca.StudyConfig)
    runs = plan(base, read_grid(_grid_lines(GRID_FILE.value)), workdir)
    if DRY_RUN.value:
        sys.exit(1 if dry_run(runs) else 0)
    safe = f"the runs in {workdir} are whole", "goes on from them"
    with explained(workdir, safe), contextlib.ExitStack() as stack:
        check_places(workdir, files=_WRITTEN)
        with writable(workdir):
            stack.enter_context(locked(workdir))
        table = sweep(runs, workdir)
        written = report(table, workdir)
    count = table["status"].value_counts()
    told = (f"{count.get(s, 0)} {s}" for s in ("finished", "skipped", "failed"))
    print(f"{', '.join(told)}. Written to {workdir}: {', '.join(written)}")
    failed = table[table["status"] == "failed"]
    for name, reason in zip(failed["name"], failed["reason"], strict=True):
        print(f"failed: {name}: {reason}", file=sys.stderr)
    if len(failed):
        sys.exit(1)


if __name__ == "__main__":
    config_flags.run_main(
        main,
        when_interrupted=lambda: (
            "interrupted: the same command goes on from what is finished in "
            f"{WORKDIR.value}"
        ),
    )
