"""Units on engines: what is lost is sent again, what is done is kept, same bits."""

import dataclasses
import functools
import json
import pathlib
import re
import socket
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor, Future
from types import SimpleNamespace
from typing import Any

import numpy as np
import processes
import pytest
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.study import folder as folders
from ioca_jax.study.chunks import find_chunks
from ioca_jax.study.compute import Computation
from ioca_jax.study.events import describe_units, log_lines
from ioca_jax.study.workers import engines, port
from ioca_jax.study.workers.engines import Workers
from ioca_jax.study.workers.unit import run_unit, unit_of

pytestmark = pytest.mark.usefixtures("unchecked_shapes")


@pytest.fixture
def no_reports(monkeypatch) -> None:
    """Without tables and pages, which take most of the time of a run."""
    monkeypatch.setattr(folders, "write_reports", lambda *_: None)


def assert_same_bits(folder: pathlib.Path, whole: pathlib.Path) -> None:
    first, second = map(ioca.load_results, (folder, whole))
    assert first.drop_attrs(deep=False).identical(second.drop_attrs(deep=False))
    np.testing.assert_equal(*(ioca.load_networks(f)[1] for f in (folder, whole)))
    assert not [*folder.glob("chunks"), *folder.glob("units")]


class Fake(Executor):
    """Calls in this process, in the order in which the port asks for results.

    Attributes:
        calls: of ``submit``, in order.
        loses: for each call, how it is lost: ``before`` or ``after`` its work, or
            ``twice`` where it is done two times; None for a call that is not.
    """

    def __init__(self, *loses):
        self.calls, self.loses = [], list(loses)

    def submit(self, function, /, *args, **kwargs):
        self.calls.append(args)
        how = self.loses.pop(0) if self.loses else None
        future: Future = Future()
        if how == "broken":
            raise BrokenExecutor("a process has died")
        result = None
        if how != "before":
            json.dumps(args)  # nothing but paths, digests and numbers
            result = function(*args)
        if how == "twice":
            assert function(*args) == result
        if how in ("before", "after"):
            future.set_exception(RuntimeError("the machine is gone"))
        else:
            future.set_result(result)
        return future


def run(folder, workers, config=TINY, **given):
    options: Any = {"seeds_at_once": 1} | given
    return ioca.run_study(
        config, folder, data=own_data(), draw=False, workers=workers, **options
    )


def told(folder: pathlib.Path, *names: str) -> list[dict]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [e for e in map(json.loads, lines) if e["event"] in names]


def refusal(work, kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "loses",
    [
        [],
        ["before", "after", "twice"],
        ["broken"],
        ["before", None, None, "after", "before"],
    ],
)
def test_lost_units_are_sent_again_and_repeated_ones_do_no_harm(
    computed, no_reports, tiny_run, tmp_path, loses
):
    executor = Fake(*loses)
    run(tmp_path / "run", executor)
    assert_same_bits(tmp_path / "run", tiny_run)
    lost = [how for how in loses if how in ("before", "after")]
    reasons = [event["reason"] for event in told(tmp_path / "run", "lost")]
    assert reasons == ["RuntimeError: the machine is gone"] * len(lost)
    assert len(executor.calls) == 3 + len(lost) + loses.count("broken")
    assert [c["finished"] for c in told(tmp_path / "run", "chunk")] == [1, 2, 3]
    assert told(tmp_path / "run", "units")[-1]["done"] == 3


def test_a_unit_lost_four_times_is_named_and_the_others_go_on(
    computed, no_reports, tiny_run, tmp_path
):
    folder = tmp_path / "run"
    executor = Fake("before", None, None, "after", "before", "before")
    message = refusal(lambda: run(folder, executor), OSError)
    assert message == (
        "workers: expected units that end, got that of seeds 5 lost 4 times, at last "
        "by RuntimeError: the machine is gone"
    )
    # The second loss came after the chunk was stored: nothing finished is lost.
    assert {chunk.seeds for chunk in find_chunks(folder)[0]} == {(5,), (2,), (8,)}
    again = Fake()
    run(folder, again)
    assert again.calls == []
    assert_same_bits(folder, tiny_run)


def test_another_engine_goes_on_and_so_does_none(
    computed, no_reports, tiny_run, tmp_path
):
    folder = tmp_path / "run"
    lost = ["before", None, "before", *["before"] * 6]
    refusal(lambda: run(folder, Fake(*lost)), OSError)
    assert [chunk.seeds for chunk in find_chunks(folder)[0]] == [(2,)]
    other = Fake(*["before"] * 4)
    refusal(lambda: run(folder, other, seeds_at_once=2), OSError)
    run(folder, None)
    assert_same_bits(folder, tiny_run)


def test_the_error_of_a_unit_is_the_line_of_a_run_here(computed, tmp_path, monkeypatch):
    def fail(self, seeds, *more):
        if 2 in seeds:
            raise ValueError("score: expected numbers, got none")
        return computed_chunk(self, seeds, *more)

    computed_chunk = Computation.chunk
    monkeypatch.setattr(Computation, "chunk", fail)
    here = refusal(lambda: run(tmp_path / "here", None))
    executor = Fake()
    assert refusal(lambda: run(tmp_path / "run", executor)) == here
    assert here == "score: expected numbers, got none"
    assert len(executor.calls) == 3  # not sent again, the others went on
    finished = {chunk.seeds for chunk in find_chunks(tmp_path / "run")[0]}
    assert finished == {(5,), (8,)}
    (failed,) = told(tmp_path / "run", "failed")
    assert (failed["chunk"], failed["reason"]) == (2, here)


def test_what_is_damaged_or_half_written_is_computed_again(
    computed, no_reports, tiny_run, tmp_path
):
    folder = tmp_path / "run"
    refusal(lambda: run(folder, Fake(*[None, *["before"] * 9])), OSError)
    ((chunk,), _) = find_chunks(folder)
    (chunk.place / "results.npz").write_bytes(b"half of it")
    part = folder / "chunks" / f".{unit_of(folder, [2], 1, 1).place.name}.part"
    part.mkdir()
    (part / "results.npz").write_bytes(b"the other half")
    executor = Fake()
    run(folder, executor)
    assert [call[2] for call in executor.calls] == [[5], [2], [8]]
    assert_same_bits(folder, tiny_run)


def test_chunks_with_a_seed_in_common_are_joined_once(
    computed, no_reports, tiny_run, tmp_path
):
    """A worker that survived its driver stores seeds that are sent again."""
    folder = tmp_path / "run"

    class Orphan(Fake):
        def submit(self, function, /, *args, **kwargs):
            job, digest, seeds, *_ = args
            if seeds == [5, 2]:
                function(job, digest, [2, 8], 2, 1)
            return super().submit(function, *args)

    run(folder, Orphan(), seeds_at_once=2)
    assert_same_bits(folder, tiny_run)


def test_the_first_unit_chooses_the_points_of_all(computed, tmp_path):
    executor = Fake("before", "before", "before", "before")
    config = ioca.StudyConfig(**{**vars(TINY), "points": "auto"})
    refusal(lambda: run(tmp_path / "run", executor, config), OSError)
    assert [call[2] for call in executor.calls] == [[5]] * 4


def test_a_unit_that_is_sent_twice_is_done_once(
    computed, no_reports, tiny_run, tmp_path
):
    """Two processes at once: the second waits, and finds the chunk."""
    folder = tmp_path / "run"
    results = []

    class Both(Fake):
        def submit(self, function, /, *args, **kwargs):
            work = functools.partial(lambda: results.append(function(*args)))
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            events = unit_of(folder.absolute(), args[2], 1, 1).events
            assert events.read_text().count('"event": "unit"') == 1
            return super().submit(function, *args)

    run(folder, Both())
    assert len(results) == 6
    assert all(results[i] == results[i + 1] for i in (0, 2, 4))
    assert_same_bits(folder, tiny_run)


def test_wrong_files_are_refused_by_the_worker(computed, tmp_path):
    folder = tmp_path / "run"

    class Elsewhere(Fake):
        how = ""

        def submit(self, function, /, *args, **kwargs):
            job = pathlib.Path(args[0])
            if self.how == "none":
                job.unlink(missing_ok=True)
            elif self.how == "other":
                job.write_text("{}")
            return super().submit(function, *args)

    for how, seen in (("none", "cannot read job.json (No such file or directory)"),
                      ("other", "sees another job.json")):  # fmt: skip
        executor = Elsewhere()
        executor.how = how
        message = refusal(lambda e=executor: run(folder, e), OSError)
        assert re.fullmatch(
            rf"workdir: expected a folder that all workers share, got {folder}, in "
            rf"which \S+ {re.escape(seen)}",
            message,
        )


def test_a_chunk_that_the_driver_does_not_see_is_lost(computed, tmp_path, monkeypatch):
    monkeypatch.setattr(port, "_VISIBLE_WITHIN_SECONDS", 0.0)

    class Apart(Fake):
        def submit(self, function, /, *args, **kwargs):
            future = super().submit(function, *args)
            place = unit_of(tmp_path / "run", args[2], 1, 1).place
            place.rename(tmp_path / f"elsewhere_{len(self.calls)}")
            return future

    one = ioca.StudyConfig(**{**vars(TINY), "seeds": (5,)})
    message = refusal(lambda: run(tmp_path / "run", Apart(), one), OSError)
    place = unit_of(tmp_path / "run", [5], 1, 1).place
    assert re.fullmatch(
        r"workers: expected units that end, got that of seeds 5 lost 4 times, at last "
        rf"by \S+ has written {place}, which is not there; choose a workdir that all "
        "workers share",
        message,
    )


DEVICES = """
import json
import sys
from concurrent.futures import Future

import jax
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.study.compute import Computation
from ioca_jax.study.workers.unit import run_unit


class Prints:
    def submit(self, function, *call):
        print(json.dumps(call))
        future = Future()
        future.set_result({"kind": "ValueError", "error": "not computed"})
        return future


def chunk(*_):
    raise ValueError(f"{jax.device_count()} devices")


Computation.chunk = chunk
folder, *calls = sys.argv[1:]
if calls:
    print(run_unit(*json.loads(calls[0]))["error"])
else:
    jax.config.update("jax_num_cpu_devices", 3)
    try:
        ioca.run_study(TINY, folder, data=own_data(), draw=False, workers=Prints())
    except ValueError as error:
        assert str(error) == "not computed"
"""


def test_a_worker_computes_on_as_many_devices_as_its_driver_has(tmp_path):
    """Sums over examples are split by devices: other bits come of another number."""
    call, *_ = processes.call("-c", DEVICES, tmp_path / "run").splitlines()
    assert processes.call("-c", DEVICES, tmp_path / "run", call) == "3 devices\n"


def not_an_executor():
    return 5


def no_executor_at_all():
    raise RuntimeError("no scheduler")


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("4x", f"workers: expected {engines._EXPECTED}, got '4x'"),
        (0, f"workers: expected {engines._EXPECTED}, got '0'"),
        (2.5, f"workers: expected {engines._EXPECTED}, or an executor, got float"),
        (
            f"{__name__}:not_an_executor",
            f"workers: expected {__name__}:not_an_executor to return a "
            "concurrent.futures.Executor, got int",
        ),
        (
            f"{__name__}:no_executor_at_all",
            f"workers: expected {__name__}:no_executor_at_all to return an executor, "
            "got RuntimeError: no scheduler; --verbosity=1 shows where",
        ),
        (
            "nowhere.at_all:function",
            "workers: expected package.module:function, got 'nowhere.at_all:function', "
            "which cannot be imported (ModuleNotFoundError: No module named "
            "'nowhere'); --verbosity=1 shows where",
        ),
    ],
)
def test_what_is_no_engine_is_refused(tmp_path, workers, message):
    assert refusal(lambda: run(tmp_path / "run", workers)) == message
    assert not (tmp_path / "run").exists()


def test_more_gpus_than_there_are_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    workers = Workers("2", worker_gpus=2)
    assert refusal(lambda: run(tmp_path / "run", workers)) == (
        "worker_gpus: expected at most 3 GPUs for 2 workers, as this machine has, got 4"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("ray", "ray", "ray"),
        ("submitit", "submitit", "slurm"),
        ("submitit-local", "submitit", "slurm"),
    ],
)
def test_an_engine_that_is_not_installed_names_its_extra(
    tmp_path, monkeypatch, engine, package, extra
):
    monkeypatch.setitem(sys.modules, package, None)
    assert refusal(lambda: run(tmp_path / "run", engine), ImportError) == (
        f"workers: expected the package {package}, found none; install it with pip "
        f"install 'ioca_jax[{extra}]'"
    )


def test_slurm_needs_the_command_that_sends_jobs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", SimpleNamespace())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refusal(lambda: run(tmp_path / "run", "submitit")) == (
        "workers: expected a machine from which Slurm takes jobs, got one without "
        "sbatch; start on a login node, or try --workers=submitit-local"
    )


def cluster(*machines: dict[str, float]) -> Any:
    """A stand-in for Ray, connected to machines with these resources."""
    nodes = [{"Alive": True, "Resources": machine} for machine in machines]
    return SimpleNamespace(is_initialized=lambda: True, nodes=lambda: nodes)


def test_more_than_a_machine_of_the_cluster_has_is_refused(tmp_path, monkeypatch):
    machines = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 16.0}
    monkeypatch.setitem(sys.modules, "ray", cluster(*machines))
    for field, most, wanted in (("worker_gpus", 2, 3), ("worker_cpus", 16, 17)):
        workers = dataclasses.replace(Workers("ray"), **{field: wanted})
        assert refusal(lambda w=workers: run(tmp_path / "run", w)) == (
            f"{field}: expected at most {most}, the most that a machine of the Ray "
            f"cluster has, got {wanted}"
        )


def test_a_cluster_that_does_not_answer_is_refused_within_seconds(
    tmp_path, monkeypatch
):
    ray = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.socket() as taken:  # bound and not listening: nobody else gets it
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for given in (address, f"ray://{address}"):
            monkeypatch.setenv("RAY_ADDRESS", given)
            assert refusal(lambda: run(tmp_path / "run", "ray"), OSError) == (
                f"RAY_ADDRESS: expected a Ray cluster that answers, got {given} "
                "(Connection refused); start one with ray start --head, or unset "
                "RAY_ADDRESS"
            )
    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    assert refusal(lambda: run(tmp_path / "run", "ray")) == (
        "RAY_ADDRESS: expected host:port or ray://host:port, got 'somewhere'"
    )


def test_a_network_that_is_an_object_is_refused(tmp_path):
    x = np.zeros((2, 12), np.float32)
    network = ioca.trace_network(
        lambda v, x: np.tanh(1) * jnp_tanh(x @ v["a"]) @ v["b"],
        {"a": np.ones((12, 3), np.float32), "b": np.ones((3, 4), np.float32)},
        x,
    )
    rng = np.random.default_rng(0)
    variables = {
        "a": rng.normal(size=(3, 12, 3)).astype(np.float32),
        "b": rng.normal(size=(3, 3, 4)).astype(np.float32),
    }
    given = {"network": network, "variables": variables}
    assert refusal(lambda: run(tmp_path / "run", Fake(), **given)) == (
        "workers: expected networks that other processes can make, got a Network as an "
        "argument; name a function that returns it, "
        "StudyConfig(network='package.module:function')"
    )


def jnp_tanh(x):
    import jax.numpy as jnp

    return jnp.tanh(x)


def test_what_is_seen_while_it_runs(capsys):
    counts = {"event": "units", "units": 5, "done": 2, "running": 2, "failed": 0}
    assert describe_units(counts) == "units: 2 of 5 done, 2 running"
    assert describe_units({**counts, "failed": 1}).endswith(", 2 running, 1 failed")
    listen = log_lines()
    listen({"event": "start", "chunks": 5})
    listen({"event": "lost", "chunk": 3, "reason": "SIGKILL"})
    listen({"event": "failed", "chunk": 4, "reason": "score: expected numbers"})
    assert capsys.readouterr().err == (
        "unit 3 lost: SIGKILL; it is sent again\n"
        "unit 4 failed: score: expected numbers\n"
    )


def test_counts_of_units(tmp_path):
    units = [unit_of(tmp_path, [seed], 1, 1 + seed) for seed in range(3)]
    units[0].place.mkdir(parents=True)
    (units[0].place / "checksums.json").write_text("{}")
    digest = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    answers = iter(
        [{"host": "a", "digest": digest}, {"kind": "ValueError", "error": "no"}]
    )
    waiting: Future = Future()

    class Given(Executor):
        def submit(self, function, /, *args, **kwargs):
            future: Future = Future()
            answer = next(answers, None)
            if answer is None:  # the last one runs for a while
                units[2].events.parent.mkdir(parents=True, exist_ok=True)
                units[2].events.touch()
                return waiting
            future.set_result(answer)
            return future

    counts = []

    def on_change(now):
        counts.append(now)
        waiting.cancel()
        waiting.set_running_or_notify_cancel()

    with port.Engine(Given) as engine:
        outcomes = port.run_units(engine, run_unit, ("job", "x"), units, on_change)
        ended = [next(outcomes) for _ in range(3)]
        assert [str(outcome.error) for outcome in ended[:2]] == ["None", "no"]
        assert "CancelledError" in str(ended[2].lost)
        outcomes.close()
    assert counts == [port.Counts(units=3, done=1, running=1, failed=1)]
