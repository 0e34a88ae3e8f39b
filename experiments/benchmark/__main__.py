r"""How fast, beside what a researcher would otherwise write, and beside the machine.

Every case is checked first (all agree with a float64 oracle, or the benchmark stops),
then timed: contenders take turns, results are blocked on, compilation is apart. The
table's cases are those of ``benchmark_cases.CASES``; PyTorch and scikit-learn take part
where they are installed. Examples:

  # The table, about ten minutes on two CPU cores.
  python -m experiments.benchmark --measure_memory=ours
  # The same on a GPU.
  python -m experiments.benchmark --preset=accelerator
  # Any work: the cross product of the lists, engines side by side.
  python -m experiments.benchmark --cases=grid --widths=64,256 --depths=2,4 \
      --scopes=network,last_layer --examples=1000 --num_orders=1,10
  # How cost grows.
  python -m experiments.benchmark --growth --output=runs/growth.json

``--output`` is a JSON file with everything, the device, versions and revision;
``--growth`` puts a PNG file beside it. Columns: ``x default`` is how many times the
default's seconds; ``roofline`` is the floor of ``benchmark_costs`` over the seconds;
``compile`` is the first call less the median; ``peak`` is memory beyond the inputs.
"""

import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import platform
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
from absl import flags
from tqdm import tqdm

from ioca_jax.ablation.curves import ENGINES
from ioca_jax.results.files import atomic_write
from ioca_jax.study.metadata import source_revision, versions

from .. import config_flags
from . import costs, timing
from . import growth as benchmark_growth
from .cases import CASES
from .curves import CurveWork, curve_case
from .inputs import DEFAULT, PRESETS, Case, Preset, Settings

_PACKAGES = (
    *("ioca_jax", "jax", "jaxlib", "flax", "optax", "numpy"),
    *("torch", "scikit-learn", "scipy"),
)
_MEMORY = ("none", "ours", "all")
_HEADER = (
    f"  {'who':16} {'median s':>10} {'(min .. max)':>21} {'compile':>8} "
    f"{'ex*steps/s':>10} {'x default':>9} {'roofline':>8} {'peak MB':>8}  note"
)


def _field(default: Any, help_text: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help_text})


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; the flags are its fields."""

    cases: tuple[str, ...] = _field(
        tuple(CASES),
        f"Out of {', '.join(CASES)}, and grid (the cross product of --engines ... "
        "--clamps).",
    )
    preset: str = _field(
        "standard",
        f"Sizes and times: {', '.join(PRESETS)}; accelerator is "
        "standard with larger arrays for the ceilings.",
    )
    repeats: int | None = _field(
        None, "Timed rounds of each; the preset's if not given."
    )
    seconds_per_run: float | None = _field(
        None, "Beyond it peers work on a sample; the preset's if not given."
    )
    checked_points: int | None = _field(
        None, "Points of curves held against the oracle; the preset's if not given."
    )
    dataset: str = _field(
        "synthetic", "synthetic, or as in run_study; test examples repeat as needed."
    )
    data_dir: str | None = _field(None, "As in run_study.")
    activation: str = _field("relu", "relu, sigmoid or tanh.")
    memory_gb: float = _field(1.0, "Memory budget of this library's engines, in GB.")
    peers: bool = _field(True, "Run the peers too.")
    measure_memory: str = _field(
        "none",
        "none, ours, or all: peak memory, of each contender in a process of its own.",
    )
    engines: tuple[str, ...] = _field(
        ENGINES, f"Grid: engines out of {', '.join(ENGINES)}."
    )
    scopes: tuple[str, ...] = _field(
        ("network",), "Grid: network, layer_1, ..., last_layer."
    )
    widths: tuple[int, ...] = _field((100,), "Grid: neurons in each hidden layer.")
    depths: tuple[int, ...] = _field((2,), "Grid: numbers of hidden layers.")
    examples: tuple[int, ...] = _field((1000,), "Grid: numbers of examples.")
    num_inputs: int = _field(784, "Grid: inputs of synthetic images.")
    num_seeds: tuple[int, ...] = _field((1,), "Grid: networks in one call.")
    num_orders: tuple[int, ...] = _field((1,), "Grid: orders in one call.")
    clamps: tuple[str, ...] = _field(("mean",), "Grid: zero, mean.")
    growth: bool = _field(False, "Measure how cost grows, instead of cases.")
    seconds_per_point: float = _field(
        10.0, "With --growth: what takes longer is extrapolated."
    )
    output: str = _field("runs/benchmark.json", "The JSON file to write.")
    ceilings: tuple[str, ...] = _field(
        (), "Operations and bytes a second; measured if not given."
    )
    memory_of: str | None = _field(
        None, "case:who. Only prints the peak memory of that one (--measure_memory)."
    )

    def __post_init__(self):
        """Checks the fields that no case checks."""
        known = (*CASES, "grid")
        for name in self.cases:
            if name not in known:
                raise ValueError(
                    f"cases: expected one or more of {', '.join(known)}, got {name!r}"
                )
        for field, choices in (
            ("preset", (*PRESETS,)),
            ("measure_memory", _MEMORY),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field}: expected one of {', '.join(choices)}, got "
                    f"{getattr(self, field)!r}"
                )
        for field in ("repeats", "checked_points"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field}: expected at least 1, got {value}")
        if len(self.ceilings) not in (0, 2):
            raise ValueError(
                "ceilings: expected two numbers, operations and bytes a second, got "
                f"{','.join(self.ceilings)!r}"
            )

    def sizes(self) -> Preset:
        """The preset with what the flags change in it."""
        names = ("repeats", "seconds_per_run", "checked_points")
        given = {name: getattr(self, name) for name in names}
        return dataclasses.replace(
            PRESETS[self.preset],
            **{name: value for name, value in given.items() if value is not None},
        )

    def settings(self) -> Settings:
        """What all cases share; measures the ceilings if they are not given."""
        preset = self.sizes()
        if self.ceilings:
            ceilings = costs.Ceilings(*map(float, self.ceilings))
        else:
            ceilings = costs.measure_ceilings(preset.matrix, preset.vector)
        return Settings(
            preset,
            ceilings,
            self.dataset,
            self.data_dir,
            self.activation,
            self.memory_gb,
            self.peers,
        )

    def builders(
        self,
    ) -> dict[str, Callable[[Settings], Case]]:
        """By name, what makes the cases that the flags select."""
        chosen: dict[str, Callable[[Settings], Case]] = {}
        for name in self.cases:
            chosen |= {name: CASES[name]} if name in CASES else self._grid()
        return chosen

    def _grid(
        self,
    ) -> dict[str, Callable[[Settings], Case]]:
        lists = (
            *(self.scopes, self.widths, self.depths, self.examples),
            *(self.num_seeds, self.num_orders, self.clamps),
        )
        return {
            f"grid/{scope}/{width}x{depth}/n{examples}/s{seeds}/o{orders}/{clamp}": (
                partial(
                    curve_case,
                    CurveWork(
                        (width,) * depth,
                        examples,
                        self.num_inputs,
                        scope,
                        seeds,
                        orders,
                        clamp,
                        self.engines,
                    ),
                )
            )
            for scope, width, depth, examples, seeds, orders, clamp in (
                itertools.product(*lists)
            )
        }


def environment() -> dict[str, Any]:
    """Where and with what this runs, for the record."""
    torch = sys.modules.get("torch")
    device = jax.devices()[0]
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": source_revision(),
        "command": sys.argv[1:],
        "device": f"{device.platform} {device.device_kind}",
        "processor": _processor(),
        "threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch else None,
        "torch_device": ("cuda" if torch.cuda.is_available() else "cpu")
        if torch
        else None,
        "python": platform.python_version(),
        "versions": versions(_PACKAGES),
        "precision": "float32, matrix products highest",
    }


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if "model name" in line}
    return ", ".join(sorted(names)) or platform.processor() or platform.machine()


def record_case(
    case: Case,
    timings: Mapping[str, timing.Timing],
    ceilings: costs.Ceilings,
    peaks: Mapping[str, int | None],
) -> dict[str, Any]:
    """One case's entry in the JSON file.

    Args:
        case: the case.
        timings: by contender, in seconds.
        ceilings: of the machine.
        peaks: by contender, bytes, as far as measured.

    Returns:
        What is in the table, and what it was computed from.
    """
    floor = case.cost.floor(ceilings)
    default = timings[DEFAULT].median
    contenders = {}
    for contender in case.contenders:
        taken = timings[contender.name]
        contenders[contender.name] = {
            "ours": contender.ours,
            "median_seconds": taken.median,
            "min_seconds": min(taken.seconds),
            "max_seconds": max(taken.seconds),
            "seconds": list(taken.seconds),
            "first_call_seconds": taken.first,
            # Compiling is not repeated, however much a run stands for.
            "compile_seconds": taken.compilation / contender.scale,
            "units_per_second": case.units / taken.median,
            "times_default": taken.median / default,
            "roofline_share": floor / taken.median,
            "peak_bytes": peaks.get(contender.name),
            "scale": contender.scale,
            "note": contender.note,
            "agreement": taken.agreement,
        }
    return {
        "title": case.title,
        "sizes": case.sizes,
        "units": case.units,
        "operations": case.cost.operations,
        "bytes": case.cost.bytes,
        "floor_seconds": floor,
        "contenders": contenders,
        "ratios": {
            name: entry["times_default"]
            for name, entry in contenders.items()
            if name != DEFAULT
        },
        "goals": dict(case.goals),
        "most_seconds": case.most_seconds,
        "left_out": dict(case.left_out),
    }


def case_table(name: str, entry: Mapping[str, Any]) -> str:
    """One case's part of the table.

    Args:
        name: the case's.
        entry: as ``record_case`` makes it.

    Returns:
        Lines of text.
    """
    lines = [f"{name}: {entry['title']}", _HEADER]
    for who, row in entry["contenders"].items():
        span = f"({row['min_seconds']:.4g} .. {row['max_seconds']:.4g})"
        peak = row["peak_bytes"]
        lines.append(
            f"  {who:16} {row['median_seconds']:10.4g} {span:>21} "
            f"{row['compile_seconds']:8.2f} {row['units_per_second']:10.3g} "
            f"{row['times_default']:9.3g} {row['roofline_share']:8.2%} "
            f"{'-' if peak is None else format(peak / 1e6, '.0f'):>8}  {row['note']}"
        )
    lines += [f"  {who:16} {reason}" for who, reason in entry["left_out"].items()]
    for who, goal in entry["goals"].items():
        if who in entry["ratios"]:
            ratio = entry["ratios"][who]
            verdict = "reached" if ratio >= goal else "not reached"
            lines.append(f"  goal: {goal:g} x {who}: {ratio:.3g} x, {verdict}")
    if (most := entry["most_seconds"]) is not None:
        seconds = entry["contenders"][DEFAULT]["median_seconds"]
        verdict = "reached" if seconds <= most else "not reached"
        lines.append(f"  goal: {most:g} s: {seconds:.3g} s, {verdict}")
    return "\n".join(lines)


def _peaks(
    config: BenchmarkConfig,
    name: str,
    case: Case,
    ceilings: costs.Ceilings,
) -> dict[str, int | None]:
    """Peak memory of contenders, each in a process of its own."""
    if config.measure_memory == "none":
        return {}
    peaks = {}
    for contender in case.contenders:
        if contender.ours or config.measure_memory == "all":
            command = [
                *(sys.executable, "-m", "experiments.benchmark"),
                *sys.argv[1:],
                f"--ceilings={ceilings.operations},{ceilings.bytes}",
                f"--memory_of={name}:{contender.name}",
                f"--peers={'false' if contender.ours else 'true'}",
            ]
            peaks[contender.name] = timing.peak_bytes_in_subprocess(command)
    return peaks


def _print_peak(config: BenchmarkConfig) -> None:
    """What a process that measures memory does."""
    case_name, _, who = str(config.memory_of).rpartition(":")
    builders = config.builders()
    if case_name not in builders:
        raise ValueError(
            f"memory_of: expected case:who, the case one of {', '.join(builders)}, got "
            f"{config.memory_of!r}"
        )
    case = builders[case_name](config.settings())
    contenders = {contender.name: contender for contender in case.contenders}
    if who not in contenders:
        raise ValueError(
            f"memory_of: expected one of {', '.join(contenders)}, got {who!r}"
        )
    print(json.dumps({"peak_bytes": timing.peak_bytes(contenders[who])}))


def _save(report: Mapping[str, Any], path: pathlib.Path) -> None:
    text = json.dumps(report, indent=1)
    atomic_write(path, lambda part: part.write_text(text + "\n"))


def _run_cases(config: BenchmarkConfig, path: pathlib.Path) -> None:
    settings = config.settings()
    report: dict[str, Any] = {
        "ceilings": settings.ceilings._asdict(),
        "configuration": dataclasses.asdict(config),
        "cases": {},
    }
    print(
        f"ceilings: {settings.ceilings.operations / 1e9:.4g} GFLOP/s (float32 matrix "
        f"product), {settings.ceilings.bytes / 1e9:.4g} GB/s (triad)"
    )
    builders = config.builders()
    for name, build in tqdm(builders.items(), desc="cases", disable=None):
        case = build(settings)
        timings = timing.check_then_time(case.contenders, settings.preset.repeats)
        peaks = _peaks(config, name, case, settings.ceilings)
        entry = record_case(case, timings, settings.ceilings, peaks)
        report["cases"][name] = entry
        tqdm.write("\n" + case_table(name, entry))
        _save(environment() | report, path)  # what is done stays, whatever comes
        del case


def _run_growth(config: BenchmarkConfig, path: pathlib.Path) -> None:
    settings = config.settings()
    growth = benchmark_growth.GROWTH[config.preset]
    axes = benchmark_growth.measure_growth(growth, settings, config.seconds_per_point)
    crossovers = {
        axis: benchmark_growth.crossovers(lines) for axis, lines in axes.items()
    }
    for axis, lines in axes.items():
        print(f"\n{axis}: seconds (~ extrapolated)")
        for line, points in lines.items():
            cells = (
                f"{p['value']}: {'' if p['measured'] else '~'}{p['seconds']:.3g}"
                for p in points
            )
            print(f"  {line:16} {', '.join(cells)}")
        for sentence in crossovers[axis]:
            print(f"  {sentence}")
    report = {
        "ceilings": settings.ceilings._asdict(),
        "configuration": dataclasses.asdict(config),
        "growth": axes,
        "crossovers": crossovers,
    }
    _save(environment() | report, path)
    figure = benchmark_growth.draw_growth(axes)
    benchmark_growth.save_figure(figure, path.with_suffix(".png"))


config_flags.define(BenchmarkConfig)
flags.adopt_module_key_flags(config_flags)  # --help lists them


def main() -> None:
    """Measures what the flags ask for."""
    config = config_flags.parse(BenchmarkConfig)
    # PyTorch needs memory on the same GPU, and so do the processes for memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.memory_of is not None:
        _print_peak(config)
        return
    path = pathlib.Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    (_run_growth if config.growth else _run_cases)(config, path)
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    config_flags.run_main(main)
