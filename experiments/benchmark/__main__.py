r"""How fast this library is, beside what a researcher would otherwise write.

Every case is checked first (all contenders agree with a float64 oracle, or the
benchmark stops), then timed: contenders take turns, results are blocked on, compilation
is apart. PyTorch and scikit-learn take part where they are installed. Examples:

  # The table, about half an hour on two CPU cores.
  python -m experiments.benchmark --measure_memory=ours
  # One case, quickly.
  python -m experiments.benchmark --cases=network_curve --preset=quick

``--output`` is a JSON file with everything, the device, versions and revision.
Columns: ``x default`` and ``x loop`` are multiples of the seconds of the library's
default and of the loop over masks or seeds in PyTorch; ``compile`` is the first call
less the median; ``peak`` is memory beyond the inputs.
"""

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
from tqdm import tqdm

from ioca_jax.cli.command import Command, option
from ioca_jax.results.files import atomic_write
from ioca_jax.study.metadata import source_revision, versions

from . import timing
from .cases import CASES
from .inputs import DEFAULT, PRESETS, Case, Settings

_PACKAGES = (
    *("ioca_jax", "jax", "jaxlib", "flax", "optax", "numpy"),
    *("torch", "scikit-learn", "scipy"),
)
_MEMORY_TIMEOUT = 900  # seconds
_LOOP = "torch_loop"
_HEADER = (
    f"  {'who':16} {'median s':>10} {'(min .. max)':>21} {'compile':>8} "
    f"{'ex*steps/s':>10} {'x default':>9} {'x loop':>8} {'peak MB':>8}  note"
)


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """What to measure; the flags are its fields."""

    cases: tuple[str, ...] = option(tuple(CASES), f"Out of {', '.join(CASES)}.")
    preset: str = option("standard", f"Sizes: {', '.join(PRESETS)}.")
    repeats: int | None = option(
        None, "Timed rounds of each; the preset's if not given."
    )
    dataset: str = option(
        "synthetic", "synthetic, or as in run_study; test examples repeat as needed."
    )
    data_dir: str | None = option(None, "As in run_study.")
    activation: str = option("relu", "relu, sigmoid or tanh.")
    memory_gb: float = option(1.0, "Memory budget of this library's engines, in GB.")
    peers: bool = option(True, "Run the peers too.")
    measure_memory: str = option(
        "none",
        "none, or ours: the peak memory of this library, of each contender in a "
        "process of its own.",
    )
    output: str = option("runs/benchmark.json", "The JSON file to write.")
    memory_of: str | None = option(
        None, "case:who. Only prints the peak memory of that one (--measure_memory)."
    )

    def __post_init__(self):
        """Checks the fields that no case checks."""
        for field, choices, given in (
            *(("cases", tuple(CASES), name) for name in self.cases),
            ("preset", tuple(PRESETS), self.preset),
            ("measure_memory", ("none", "ours"), self.measure_memory),
        ):
            if given not in choices:
                raise ValueError(
                    f"{field}: expected one of {', '.join(choices)}, got {given!r}"
                )
        if self.repeats is not None and self.repeats < 1:
            raise ValueError(f"repeats: expected at least 1, got {self.repeats}")

    def settings(self) -> Settings:
        """What all cases share."""
        preset = PRESETS[self.preset]
        repeats = preset.repeats if self.repeats is None else self.repeats
        return Settings(
            dataclasses.replace(preset, repeats=repeats),
            self.dataset,
            self.data_dir,
            self.activation,
            self.memory_gb,
            self.peers,
        )


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
        "threads": os.cpu_count(),
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
    case: Case, timings: Mapping[str, timing.Timing], peaks: Mapping[str, int | None]
) -> dict[str, Any]:
    """One case's entry in the JSON file."""
    default = timings[DEFAULT].median
    loop = timings[_LOOP].median if _LOOP in timings else None
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
            "times_loop": None if loop is None else taken.median / loop,
            "peak_bytes": peaks.get(contender.name),
            "scale": contender.scale,
            "note": contender.note,
            "agreement": taken.agreement,
        }
    return {
        "title": case.title,
        "units": case.units,
        "contenders": contenders,
        "left_out": dict(case.left_out),
    }


def case_table(name: str, entry: Mapping[str, Any]) -> str:
    """One case's part of the table, of an entry that ``record_case`` made."""
    lines = [f"{name}: {entry['title']}", _HEADER]
    for who, row in entry["contenders"].items():
        span = f"({row['min_seconds']:.4g} .. {row['max_seconds']:.4g})"
        loop, peak = row["times_loop"], row["peak_bytes"]
        lines.append(
            f"  {who:16} {row['median_seconds']:10.4g} {span:>21} "
            f"{row['compile_seconds']:8.2f} {row['units_per_second']:10.3g} "
            f"{row['times_default']:9.3g} "
            f"{'-' if loop is None else format(loop, '.3g'):>8} "
            f"{'-' if peak is None else format(peak / 1e6, '.0f'):>8}  {row['note']}"
        )
    lines += [f"  {who:16} {reason}" for who, reason in entry["left_out"].items()]
    return "\n".join(lines)


def _peaks(config: BenchmarkConfig, name: str, case: Case) -> dict[str, int | None]:
    """Peak memory of this library's contenders, each in a process of its own."""
    if config.measure_memory == "none":
        return {}
    peaks: dict[str, int | None] = {}
    for contender in case.contenders:
        if contender.ours:
            command = (sys.executable, "-m", "experiments.benchmark", *sys.argv[1:])
            this = (f"--memory_of={name}:{contender.name}", "--nopeers")
            done = subprocess.run(
                (*command, *this),
                capture_output=True,
                text=True,
                timeout=_MEMORY_TIMEOUT,
            )
            failed = bool(done.returncode)
            peaks[contender.name] = None if failed else int(done.stdout.split()[-1])
    return peaks


def _print_peak(config: BenchmarkConfig) -> None:
    """What a process that measures memory does."""
    case_name, _, who = str(config.memory_of).rpartition(":")
    if case_name not in CASES:
        raise ValueError(
            f"memory_of: expected case:who, the case one of {', '.join(CASES)}, got "
            f"{config.memory_of!r}"
        )
    case = CASES[case_name](config.settings())
    ours = {one.name: one for one in case.contenders if one.ours}
    if who not in ours:
        raise ValueError(f"memory_of: expected one of {', '.join(ours)}, got {who!r}")
    print(timing.peak_bytes(ours[who]))


def main(config: BenchmarkConfig) -> None:
    """Measures what the flags ask for."""
    # PyTorch needs memory on the same GPU, and so do the processes for memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if config.memory_of is not None:
        _print_peak(config)
        return
    path = pathlib.Path(config.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings, entries = config.settings(), {}
    for name in tqdm(config.cases, desc="cases", disable=None):
        case = CASES[name](settings)
        timings = timing.check_then_time(case.contenders, settings.preset.repeats)
        entries[name] = record_case(case, timings, _peaks(config, name, case))
        tqdm.write("\n" + case_table(name, entries[name]))
        configuration = {"configuration": dataclasses.asdict(config)}
        text = json.dumps(environment() | configuration | {"cases": entries}, indent=1)
        # What is done stays, whatever happens to the next case.
        atomic_write(path, lambda part, text=text: part.write_text(text + "\n"))
        del case
    print(f"\nWritten to {path}")


COMMAND = Command(main, (BenchmarkConfig,))

if __name__ == "__main__":
    COMMAND.run()
