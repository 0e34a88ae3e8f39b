"""A write that fails is told in one line, and what is finished stays."""

import errno
import os
import re
import resource
import shutil
import signal
import sys

import command_line
import numpy as np
import pytest
from same_runs import assert_same
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.results import networks
from ioca_jax.study import chunks
from ioca_jax.study import run as runs

pytestmark = [
    pytest.mark.usefixtures("unchecked_shapes"),
    # A thread of TensorStore may report a failed write after Orbax has closed the event
    # loop: then Python notes an exception that nobody can catch.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def run(folder) -> None:
    ioca.run_study(TINY, folder, data=own_data(), draw=False, seeds_at_once=2)


@pytest.fixture
def failing_fsync(monkeypatch):
    """Lets the system fail from the n-th ``os.fsync`` on; counts them."""
    calls, sync = [], os.fsync

    def fail_from(number: int, code: int = errno.EIO) -> list:
        def fsync(descriptor):
            calls.append(descriptor)
            if len(calls) >= number:
                raise OSError(code, os.strerror(code))
            sync(descriptor)

        calls.clear()
        monkeypatch.setattr(os, "fsync", fsync)
        return calls

    return fail_from


@pytest.fixture
def largest_file():
    """Sets the size of the largest file that can be written: a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_any_failed_fsync_names_the_file_and_what_is_safe(
    computed, tiny_run, failing_fsync, tmp_path, capfd
):
    calls = failing_fsync(sys.maxsize)
    run(tmp_path / "whole")
    number = len(calls)
    assert number > 30
    # Runs differ by a few calls: the checkpoint library splits its files as it likes.
    latest = number - 8
    some = np.random.default_rng(0).choice(np.arange(1, latest), 2, replace=False)
    codes = errno.EIO, errno.ENOSPC, errno.EIO
    for last, code in zip([*some.tolist(), latest], codes, strict=True):
        folder = tmp_path / f"{last}"
        failing_fsync(last, code)
        with pytest.raises(OSError, match="could not be written") as caught:
            run(folder)
        failing_fsync(sys.maxsize)
        if (folder / "study.nc").exists():
            safe = f"results and networks in {folder} are whole"
            then = "reports them"
        else:
            finished = sum(len(c.seeds) for c in chunks.find_chunks(folder)[0])
            safe = f"{finished} networks are finished in {folder}"
            then = "goes on from there"
        message = re.escape(
            f": could not be written ({os.strerror(code)}); {safe}; once that is "
            f"mended, the same command {then}"
        )
        assert re.fullmatch(f"{folder}/.+{message}", str(caught.value))
        run(folder)
        assert_same(folder, tiny_run)
    assert capfd.readouterr().err == ""


def test_networks_that_do_not_fit_on_the_disk(tmp_path, largest_file, capfd):
    """Orbax logs the tracebacks of its threads."""
    weights = np.random.default_rng(0).normal(size=(2, 300, 300)).astype(np.float32)
    variables = {"params": {"kernel": weights, "bias": np.zeros((2, 3))}}
    hook = sys.excepthook
    largest_file(100_000)
    message = f"^{tmp_path}/networks: could not be written \\(File too large\\)$"
    with pytest.raises(OSError, match=message):
        networks.save_networks(variables, tmp_path)
    largest_file(resource.RLIM_INFINITY)
    assert capfd.readouterr().err == ""
    monkeypatched, sys.excepthook = sys.excepthook, hook
    assert monkeypatched is not hook
    networks.save_networks(variables, tmp_path)
    assert sys.excepthook is hook
    assert sorted(path.name for path in tmp_path.iterdir()) == ["networks"]


def test_a_chunk_that_does_not_fit_leaves_the_others(
    computed, tiny_run, largest_file, tmp_path, monkeypatch
):
    folder = tmp_path / "run"
    save = runs.save_chunk

    def save_and_fill(chunk, path):
        save(chunk, path)
        largest_file(1000)

    monkeypatch.setattr(runs, "save_chunk", save_and_fill)
    with pytest.raises(OSError, match="could not be written") as caught:
        run(folder)
    largest_file(resource.RLIM_INFINITY)
    assert re.fullmatch(
        rf"{folder}/chunks/seeds_8_1_\w+: could not be written \(.+\); 2 networks are "
        rf"finished in {folder}; once that is mended, the same command goes on from "
        "there",
        str(caught.value),
    )
    monkeypatch.setattr(runs, "save_chunk", save)
    run(folder)
    assert_same(folder, tiny_run)


def test_commands_end_with_the_line(tiny_run, failing_fsync, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    failing_fsync(1, errno.ENOSPC)
    done = command_line.run("experiments.report", folder, "--nofigures")
    assert done.returncode == 2
    assert re.fullmatch(
        rf"error: {folder}/tables/\w+.csv: could not be written \(No space left on "
        rf"device\); results and networks in {folder} are whole; once that is mended, "
        r"the same command reports them\n",
        done.stderr,
    )
    done = command_line.run(
        "experiments.merge", f"--workdir={tmp_path / 'all'}", folder
    )
    assert done.stderr == (
        f"error: {tmp_path}/all/flags.txt: could not be written (No space left on "
        "device); the runs to join are unchanged; once that is mended, the same "
        "command joins them\n"
    )
