r"""What a study of many networks costs to write, to open and to report.

Networks of a finished run, repeated with other seeds, stand for a large study. Each
step runs in a process of its own; ``peak`` is the most memory that process held, the
libraries (``import``) included. Example:

  python -m experiments.run_study --dataset=mnist5k --seeds=0:1000 --hidden=16,16 \
      --epochs=3 --clamps=mean --measures=mutual_information --random_orders=2 \
      --num_test=200 --nofigures --workdir=runs/thousand
  python -m experiments.benchmark.large_studies --study=runs/thousand \
      --networks=1000,10000 --workdir=runs/large
"""

import dataclasses
import json
import multiprocessing
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import flags

import ioca_jax as ioca
from ioca_jax.results.pieces import Chunk, FinishedRun, join_seeds, save_study
from ioca_jax.study.folder import write_reports

from .. import config_flags

STUDY = flags.DEFINE_string("study", None, "A finished run.", required=True)
NETWORKS = flags.DEFINE_list("networks", ["10000"], "Numbers of networks.")
WORKDIR = flags.DEFINE_string("workdir", "runs/large", "Where to write the studies.")
FIGURES = flags.DEFINE_boolean("figures", False, "Draw figures too.")
flags.adopt_module_key_flags(config_flags)  # --help lists them


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A run as a source of as many networks as are wanted, by other seeds."""

    run: FinishedRun
    seeds: range

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the run, with its seeds."""
        config = json.loads(self.run.attrs["configuration"])
        text = json.dumps(config | {"seeds": list(self.seeds)})
        return dict(self.run.attrs) | {"configuration": text}

    def take(self, rows: np.ndarray) -> Chunk:
        """Networks in turn; rows are consecutive."""
        number = len(self.run.seeds)
        results, variables = self.run.take(np.unique(rows % number))
        seeds = np.asarray(self.seeds)[rows]
        if len(seeds) != results.sizes["seed"]:
            raise ValueError(f"study: expected more than {number} networks; run more")
        return Chunk(results.assign_coords(seed=seeds), variables)


def write(study: str, folder: pathlib.Path, networks: int) -> None:
    """Writes the study of so many networks."""
    folder.mkdir(parents=True, exist_ok=True)
    with FinishedRun.open(study) as run:
        source = Repeated(run, range(networks))
        save_study(join_seeds([source], source.seeds), folder)


def load(folder: pathlib.Path) -> None:
    """Reads all results."""
    ioca.load_results(folder, lazy=False)


def select(folder: pathlib.Path) -> None:
    """Opens the results lazily, and reads a variable of one network."""
    with ioca.load_results(folder, lazy=True) as results:
        assert np.isfinite(results["score"].isel(seed=-1).values).all()


def report(folder: pathlib.Path, draw: bool) -> None:
    """Writes tables and summary of results that stay in their file."""
    with ioca.load_results(folder, lazy=True) as results:
        write_reports(results, folder, draw)


def nothing() -> None:
    """What the libraries take alone."""


def _measure(pipe: Any, step: Callable[..., None], arguments: tuple) -> None:
    start = time.perf_counter()
    step(*arguments)
    seconds = time.perf_counter() - start
    status = pathlib.Path("/proc/self/status").read_text()
    (peak,) = (line.split()[1] for line in status.splitlines() if "VmHWM" in line)
    pipe.send((seconds, int(peak) / 1e3))


def measure(step: Callable[..., None], *arguments: Any) -> tuple[float, float]:
    """Seconds and MB of a step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_measure, args=(theirs, step, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{step.__name__} failed, as it says above") from None
    finally:
        process.join()


def main() -> None:
    """Prints a row for each step of each size."""
    print(f"{'networks':>8}  {'step':8} {'seconds':>8} {'peak MB':>8}")
    for networks in map(int, NETWORKS.value):
        folder = pathlib.Path(WORKDIR.value) / str(networks)
        steps = {
            "import": (nothing,),
            "write": (write, STUDY.value, folder, networks),
            "load": (load, folder),
            "select": (select, folder),
            "report": (report, folder, FIGURES.value),
        }
        for name, (step, *arguments) in steps.items():
            seconds, peak = measure(step, *arguments)
            line = f"{networks:8,}  {name:8} {seconds:8.1f} {peak:8.0f}"
            print(line, flush=True)
        size = (folder / "study.nc").stat().st_size / 1e6
        with ioca.load_results(folder, lazy=True) as results:
            held = results.nbytes / 1e6
        print(f"{networks:8,}  study.nc {size:.1f} MB, {held:.0f} MB in memory")


if __name__ == "__main__":
    config_flags.run_main(main)
