"""Several processes, real ones on loopback, give the results of one."""

import json
import pathlib
import signal
import socket

import jax
import numpy as np
import processes
import pytest

import ioca_jax as ioca
from ioca_jax import devices as parallel

# Ends as by a kill once two chunks are there.
DYING = """
import os, runpy, signal
from ioca_jax.study import runner
told, intact_accuracy = [], runner.intact_accuracy
def tell_or_die(results):
    told.append(results)
    if len(told) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return intact_accuracy(results)
runner.intact_accuracy = tell_or_die
runpy.run_module("experiments.run_study", run_name="__main__", alter_sys=True)
"""
FLAGS = (
    *("--seeds=0:7", "--hidden=6,5", "--epochs=1", "--random_orders=1"),
    *("--measures=entropy", "--num_devices=4", "--process_timeout=20"),
    "--deterministic",
    "--nofigures",
)


def free_port() -> int:
    with socket.socket() as some:
        some.bind(("localhost", 0))
        return some.getsockname()[1]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> pathlib.Path:
    """Three classes that pixels tell apart."""
    path, rng = tmp_path_factory.mktemp("data") / "small.npz", np.random.default_rng(0)
    y_train, y_test = np.arange(300) % 3, np.arange(100) % 3
    x_train, x_test = (
        (np.eye(16)[y] + rng.uniform(size=(len(y), 16))) / 2 for y in (y_train, y_test)
    )
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def start(dataset):
    """Starts a run; none outlives its test."""
    started = []

    def start_one(*flags: str, dies: bool = False) -> processes.Forked:
        program = ("-c", DYING) if dies else ("-m", "experiments.run_study")
        process = processes.start(*program, *FLAGS, f"--dataset={dataset}", *flags)
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def start_two(start):
    def start_both(*flags: str, dying: int | None = None) -> list[processes.Forked]:
        port = free_port()
        return [
            start(
                *flags,
                f"--coordinator_address=localhost:{port}",
                *("--num_processes=2", f"--process_id={number}"),
                dies=number == dying,
            )
            for number in range(2)
        ]

    return start_both


def results_of(folder):
    results = ioca.load_results(folder)
    return results.assign_attrs(created="", seconds="")


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(start, start_two, tmp_path):
    alone = start(f"--workdir={tmp_path / 'one'}")
    # In chunks that do not divide among the processes, and in two runs.
    both = start_two(f"--workdir={tmp_path / 'two'}", "--seeds_at_once=3")
    outputs = [process.communicate(timeout=200) for process in (alone, *both)]
    assert [p.returncode for p in (alone, *both)] == [0, 0, 0], outputs
    assert "Test error" in outputs[1][0]
    assert "Test error" not in outputs[2][0]  # process 0 speaks for all
    one, two = (results_of(tmp_path / name) for name in ("one", "two"))
    # JAX adds up over devices in another order where there are several processes.
    sums = ["loss", "single_loss"]
    for name in sums:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-6)
    assert two.drop_vars(sums).identical(one.drop_vars(sums))
    again = start_two(f"--workdir={tmp_path / 'two'}")
    outputs = [process.communicate(timeout=200) for process in again]
    assert [process.returncode for process in again] == [0, 0], outputs


@pytest.mark.slow
def test_when_one_process_dies_the_others_stop_and_a_new_start_goes_on(
    start_two, tmp_path
):
    folder = tmp_path / "run"
    flags = (f"--workdir={folder}", "--seeds_at_once=1", "--process_timeout=10")
    both = start_two(*flags, dying=1)
    both[1].communicate(timeout=200)
    assert both[1].returncode == -signal.SIGKILL
    _, err = both[0].communicate(timeout=200)
    assert both[0].returncode == 2
    assert "expected all processes of the run, got word that another one is gone" in err
    before = len(list(folder.glob("chunks/seeds_*")))
    assert before >= 1
    events = folder / "events.jsonl"
    told = len(events.read_text().splitlines())
    again = start_two(f"--workdir={folder}", "--seeds_at_once=1")
    outputs = [process.communicate(timeout=200) for process in again]
    assert [process.returncode for process in again] == [0, 0], outputs
    first = json.loads(events.read_text().splitlines()[told])
    assert (first["event"], first["finished"]) == ("start", before)
    assert ioca.load_results(folder).sizes["seed"] == 7


@pytest.mark.slow
def test_when_the_first_process_dies_the_others_stop(start_two, tmp_path):
    both = start_two(f"--workdir={tmp_path / 'run'}", "--seeds_at_once=1", dying=0)
    _, err = both[1].communicate(timeout=200)
    assert both[0].returncode == -signal.SIGKILL
    assert both[1].returncode != 0
    # Its coordinator is gone: JAX may be the one that says so.
    assert "another one is gone" in err or "another task died" in err


def test_what_the_first_process_refuses_stops_all(start_two, tmp_path):
    (tmp_path / "run").write_text("a file")
    both = start_two(f"--workdir={tmp_path / 'run'}")
    for process in both:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "error: workdir: expected a directory, got" in err


def test_processes_at_different_work_are_refused(start, tmp_path):
    port = free_port()
    both = [
        start(
            *(f"--coordinator_address=localhost:{port}", "--num_processes=2"),
            *(f"--process_id={number}", f"--l2={number}"),
            f"--workdir={tmp_path / 'run'}",
        )
        for number in range(2)
    ]
    for process in both:
        _, err = process.communicate(timeout=100)
        assert process.returncode == 2
        assert "error: l2: expected the same in every process" in err
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_is_not_there_is_waited_for_in_vain():
    port = free_port()
    with pytest.raises(
        TimeoutError,
        match=rf"^coordinator_address: expected a coordinator at localhost:{port} "
        "within 1 s, got .*; is process 0 running",
    ):
        parallel.start_processes(f"localhost:{port}", 2, 1, timeout=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("localhost:1", 2, None), "expected all three or none, got localhost:1, 2, N"),
        (("localhost:1", 2, 2), "process_id: expected from 0 to 1, got 2"),
        (("localhost", 2, 1), "coordinator_address: expected host:port, got 'localh"),
    ],
)
def test_unusable_addresses_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        parallel.start_processes(*arguments)


def test_a_process_alone_joins_nobody(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    parallel.start_processes()
    assert not parallel.is_started()


def test_schedulers_are_asked(monkeypatch):
    """Under Slurm or Open MPI all is left to JAX, which reads their variables."""
    calls = []
    monkeypatch.setattr(
        "jax.distributed.initialize", lambda *a, **k: calls.append((a, k))
    )
    monkeypatch.setattr("jax.config.update", lambda *a: None)
    for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "4")
        parallel.start_processes()
        monkeypatch.delenv(name)
    assert [positional for positional, _ in calls] == [(None, None, None)] * 2


def test_more_devices_than_there_are_are_refused():
    there = len(jax.devices())  # from now on there are no more
    with (
        pytest.raises(
            ValueError,
            match=f"^num_devices: expected at most {there}, the cpu devices of this",
        ),
        parallel.limited_devices(there + 8),
    ):
        pass
