"""How long a first ablation curve takes in a fresh process, beside ``import jax``.

A process imports JAX, then this library, loads 5,000 MNIST digits and computes the
curve of the README's network, untrained, from NumPy arrays; once with an empty
compilation cache and once with the cache that the first process has filled. The table
gives seconds of wall and of processor time of each stage, medians over ``--repeats``,
and how many programs were compiled or fetched.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile

import numpy as np

from ioca_jax.cli.command import Command, option

_STAGES = ("import jax", "import ioca_jax", "data", "curve", "curve again")
_PROGRAM = """
import json, sys, time
laps = []
def lap():
    laps.append((time.perf_counter(), time.process_time()))
lap()
import jax
lap()
import ioca_jax as ioca
lap()
import numpy as np
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, _, **more: compiled.append(more.get("fun_name"))
    if event == "/jax/core/compile/backend_compile_duration" else None
)
data = ioca.load_dataset("mnist5k")
lap()
rng, sizes = np.random.default_rng(0), (784, 30, 20, 10)
model = ioca.MLP(hidden=sizes[1:-1], num_classes=10, activation="relu")
layers = {}
for index, (v, w) in enumerate(zip(sizes, sizes[1:])):
    kernel = rng.normal(scale=v**-0.5, size=(v, w)).astype(np.float32)
    layers[f"dense_{index}"] = {"kernel": kernel, "bias": np.zeros(w, np.float32)}
for _ in range(2):
    order, clamp = rng.permutation(50), np.zeros(50, np.float32)
    curve = ioca.ablation_curve(model, {"params": layers}, order, clamp, *data.test)
    np.asarray(curve.accuracy)
    lap()
print(json.dumps({"laps": laps, "programs": len(compiled)}))
"""


@dataclasses.dataclass(frozen=True)
class FirstCurveConfig:
    """How often to measure."""

    repeats: int = option(5, "Processes with each cache.")


def measure(cache: str) -> tuple[np.ndarray, int]:
    """Runs a process: seconds [stages, 2] of wall and processor, and its programs."""
    command = (sys.executable, "-c", _PROGRAM, cache)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return np.diff(np.array(found["laps"]), axis=0), found["programs"]


def table(name: str, seconds: np.ndarray, programs: int) -> str:
    """The medians of seconds [repeats, stages, 2], and the sum against its goal."""
    medians = np.median(seconds, axis=0)
    lines = [f"{name}, {programs} programs {'wall s':>16} {'processor s':>12}"]
    rows = [*zip(_STAGES, medians, strict=True), ("start to curve", medians[:4].sum(0))]
    lines += [f"  {stage:30} {row[0]:9.3f} {row[1]:12.3f}" for stage, row in rows]
    ratio = medians[:4].sum(0) / (medians[0] + medians[4])
    last = "times import and curve again"
    return "\n".join([*lines, f"  {last:30} {ratio[0]:9.2f} {ratio[1]:12.2f}"])


def main(config: FirstCurveConfig) -> None:
    """Measures with an empty cache and with a full one, in turns."""
    found = {"empty cache": [], "full cache": []}
    for _ in range(config.repeats):
        with tempfile.TemporaryDirectory() as cache:
            for runs in found.values():
                runs.append(measure(cache))
    for name, runs in found.items():
        print(table(name, np.stack([seconds for seconds, _ in runs]), runs[0][1]))


COMMAND = Command(main, (FirstCurveConfig,))

if __name__ == "__main__":
    COMMAND.run()
