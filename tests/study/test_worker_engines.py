"""The contract that every engine keeps: the bits of a run in one process.

Engines that are not installed are skipped; all but local processes are slow to start.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import processes
import pytest
from same_runs import assert_same
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.study.workers.engines import Workers, open_workers
from ioca_jax.study.workers.local import LocalProcesses
from ioca_jax.study.workers.port import Engine
from ioca_jax.study.workers.process import WorkerDied

ROOT = pathlib.Path(ioca.__file__).parent.parent
PACKAGES = {
    "ray": "ray",
    "submitit-local": "submitit",
    f"{__name__}:dask": "distributed",
}
SLOW = pytest.mark.slow, pytest.mark.filterwarnings("ignore")  # the engines' own
ENGINES = ["2", *(pytest.param(name, marks=SLOW) for name in PACKAGES)]


def dask() -> Any:
    """An executor over Dask's workers, as the guide has it."""
    guide = (ROOT / "docs/guides/sweeps.md").read_text()
    ((example,), namespace) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL), {}
    exec(compile(example, "sweeps.md", "exec"), namespace)
    return namespace["executor"]()


@pytest.fixture(params=ENGINES)
def engine(request, tmp_path, monkeypatch) -> Iterator[Engine]:
    package = PACKAGES.get(request.param)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    given = os.environ.get("PYTHONPATH", "")
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [given])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with open_workers(request.param, tmp_path) as opened:
        assert opened
        yield opened


def test_results_are_those_of_one_process(engine, tiny_run, tmp_path):
    events: list[Any] = []
    ioca.run_study(
        *(TINY, tmp_path / "run"),
        data=own_data(), draw=False, seeds_at_once=1, workers=engine,
        listeners=[events.append],
    )  # fmt: skip
    assert_same(tmp_path / "run", tiny_run)
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert [kinds.count(kind) for kind in ("unit", "epoch", "scope")] == [3, 3, 9]
    assert [e["finished"] for e in events if e["event"] == "chunk"] == [1, 2, 3]


def wait_for(file: pathlib.Path) -> int:
    """The process that has written its number into a file."""
    end = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
    return int(file.read_text())


# Of the standard library: a worker that calls it does not import JAX.
NAP = "import os, pathlib, time; pathlib.Path({file!r}).write_text(str(os.getpid())); "
NAP += "time.sleep({seconds})"


def test_a_worker_that_is_killed_loses_its_call_alone(tmp_path):
    with LocalProcesses(2) as executor:
        files = [tmp_path / str(number) for number in range(2)]
        calls = [
            executor.submit(exec, NAP.format(file=str(file), seconds=seconds))
            for file, seconds in zip(files, (60, 0.5), strict=True)
        ]
        first, second = map(wait_for, files)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(WorkerDied) as caught:
            calls[0].result()
        assert str(caught.value) == f"process {first} ended by SIGKILL"
        assert calls[1].result() is None
        third = executor.submit(os.getpid).result()
        assert first not in (second, third)
        with pytest.raises(ZeroDivisionError, match="^division by zero$"):
            executor.submit(eval, "1 / 0").result()
        code = "__import__('os')._exit(3)"
        with pytest.raises(WorkerDied, match=r"^process \d+ ended by exit code 3$"):
            executor.submit(eval, code).result()
        assert executor.submit(eval, "print('not a result') or 5").result() == 5


def test_workers_share_out_cores_and_gpus_before_they_start(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7,9,11")
    cores = os.sched_getaffinity(0)
    code = (
        "__import__('time').sleep(0.5) or (__import__('os').sched_getaffinity(0), "
        "dict(__import__('os').environ), 'jax' in __import__('sys').modules)"
    )
    with LocalProcesses(2, gpus=2) as executor:
        calls = [executor.submit(eval, code) for _ in range(2)]
        (one, env, has_jax), (other, env_of_other, _) = (c.result() for c in calls)
    assert os.sched_getaffinity(0) == cores
    assert not has_jax
    assert sorted(e["CUDA_VISIBLE_DEVICES"] for e in (env, env_of_other)) == [
        *("4,7", "9,11")
    ]
    assert "JAX_PLATFORMS" not in env.keys() - os.environ.keys()
    if len(cores) > 1:
        assert one | other == cores
        assert not one & other
    assert env["JAX_NUM_CPU_DEVICES"] == str(len(one))
    with LocalProcesses(len(cores) + 1) as executor:
        affinity, env, _ = executor.submit(eval, code).result()
    assert len(affinity) == 1
    assert env["JAX_PLATFORMS"] == "cpu"


def test_a_worker_ends_its_call_and_itself_after_its_driver(tmp_path):
    file, done = tmp_path / "pid", tmp_path / "done"
    code = NAP.format(file=str(file), seconds=1)
    code += f"; pathlib.Path({str(done)!r}).touch()"
    driver = processes.start(
        "-c",
        "from ioca_jax.study.workers.local import LocalProcesses; "
        f"LocalProcesses(1).submit(exec, {code!r}).result()",
    )
    worker = wait_for(file)
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 60
    while pathlib.Path(f"/proc/{worker}").exists():
        assert time.monotonic() < end, "it goes on"
        time.sleep(0.01)
    assert done.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_each_unit_its_gpu_and_a_process_of_its_own(tmp_path):
    ray = pytest.importorskip("ray")

    def hold() -> tuple[int, str, float, float]:
        start = time.time()
        time.sleep(0.5)
        return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], start, time.time()

    ray.init(num_cpus=4, num_gpus=2, include_dashboard=False)  # pretended
    try:
        with open_workers(Workers("ray", worker_gpus=1), tmp_path) as engine:
            assert engine
            held = [future.result() for future in engine.submit(hold, [()] * 6)]
    finally:
        ray.shutdown()
    assert len({process for process, *_ in held}) == 6
    assert {gpu for _, gpu, *_ in held} == {"0", "1"}
    for own in ("0", "1"):
        times = sorted((start, end) for _, gpu, start, end in held if gpu == own)
        for (_, end), (start, _) in itertools.pairwise(times):
            assert end <= start


DRIVER = """
import sys
from synthetic import TINY, own_data
import ioca_jax as ioca
if __name__ == "__main__":
    ioca.run_study(TINY, sys.argv[1], data=own_data(), draw=False, seeds_at_once=1,
                   workers=sys.argv[2])
"""


def workers_of(driver: int) -> list[int]:
    """The local workers that a process has started."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if b"workers/serve.py" in command and parent == driver:
                found.append(int(folder.name))
    return found


def start_driver(folder: pathlib.Path, engine: str) -> subprocess.Popen:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), *sys.path])
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(folder), engine],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.slow
def test_killed_workers_cost_a_unit_each(tiny_run, tmp_path):
    """One worker after another is killed at random moments of the study."""
    rng, folder = random.Random(0), tmp_path / "run"
    driver, killed = start_driver(folder, "2"), 0
    while driver.poll() is None and killed < 3:
        time.sleep(rng.uniform(1, 5))
        workers = workers_of(driver.pid)
        if workers:
            os.kill(rng.choice(workers), signal.SIGKILL)
            killed += 1
    assert driver.wait(600) == 0
    assert_same(folder, tiny_run)
    events = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    kinds = [event["event"] for event in events]
    assert kinds.count("lost") <= killed
    assert kinds.count("chunk") == 3


@pytest.mark.slow
def test_a_driver_killed_again_and_again_loses_nothing_finished(tiny_run, tmp_path):
    folder, finished = tmp_path / "run", set()
    for number in range(1, 3):
        driver = start_driver(folder, "2")
        end = time.monotonic() + 300
        while len(set(folder.glob("chunks/seeds_*"))) < number:
            assert time.monotonic() < end, "no chunk came"
            assert driver.poll() is None
            time.sleep(0.02)
        driver.kill()
        driver.wait()
        assert finished <= {place.name for place in folder.glob("chunks/seeds_*")}
        finished = {place.name for place in folder.glob("chunks/seeds_*")}
    assert start_driver(folder, "2").wait(600) == 0
    assert_same(folder, tiny_run)
