"""Who writes into a run's folder holds its lock, and removes nothing too early."""

import shutil
from collections.abc import Callable

import command_line
import numpy as np
import pytest
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.results import pieces
from ioca_jax.study import chunks
from ioca_jax.study import folder as folders


@pytest.fixture
def folder(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def identity(path) -> list[tuple[str, int, int]]:
    """Of every file: a file that is written anew is another."""
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return [(str(f), f.stat().st_ino, f.stat().st_mtime_ns) for f in files]


def test_a_merge_that_finds_a_finished_run_changes_nothing(
    folder, tmp_path, monkeypatch
):
    """Another one finished while this one was about to take the lock."""
    target = tmp_path / "all"
    before = []

    def late(path, **options):
        monkeypatch.setattr(folders, "locked", chunks.locked)
        ioca.merge_runs([folder], target)
        before.extend(identity(target / "networks"))
        return chunks.locked(path, **options)

    monkeypatch.setattr(plots, "save_figures", lambda *_: [])
    monkeypatch.setattr(folders, "locked", late)
    message = (
        f"^workdir: expected a new folder, got {target}, which holds a finished run$"
    )
    with pytest.raises(ValueError, match=message):
        ioca.merge_runs([folder], target)
    assert before
    assert identity(target / "networks") == before


def test_networks_stay_until_others_are_whole(folder, monkeypatch):
    _, before = ioca.load_networks(folder)
    with pieces.FinishedRun.open(folder) as run:
        joined = pieces.join_seeds([run], TINY.seeds[:2])

        def fail(*_):
            raise OSError("the disk is gone")

        monkeypatch.setattr(pieces, "seal", fail)  # all is written by then
        with pytest.raises(OSError, match="the disk is gone"):
            pieces.save_study(joined, folder)
    np.testing.assert_equal(ioca.load_networks(folder)[1], before)
    assert not list(folder.glob(".*.part"))


def test_reports_are_written_under_the_lock(folder, tmp_path, monkeypatch):
    written = []

    def report_again(results, path, draw):
        message = "expected a folder that no other run uses"
        with pytest.raises(BlockingIOError, match=message), chunks.locked(path):
            pass
        written.append(path)

    def expect(work: Callable, path) -> None:
        work()
        assert written.pop() == path
        assert not written
        with chunks.locked(path):  # it is free again
            pass

    monkeypatch.setattr(folders, "write_reports", report_again)
    expect(lambda: ioca.run_study(TINY, folder, data=own_data(), draw=False), folder)
    expect(lambda: command_line.run("experiments.report", folder), folder)
    expect(lambda: ioca.merge_runs([folder], tmp_path / "all"), tmp_path / "all")
    # Stopped while reporting: the summary, which is last, is not there.
    expect(lambda: ioca.merge_runs([folder], tmp_path / "all"), tmp_path / "all")


def test_a_report_waits_for_another_one(folder, monkeypatch):
    """The operating system is asked to wait, which this test does not."""
    asked = []
    flock = chunks.fcntl.flock
    monkeypatch.setattr(
        chunks.fcntl,
        "flock",
        lambda file, how: (asked.append(how), flock(file, how)),
    )
    ioca.run_study(TINY, folder, data=own_data(), draw=False)
    assert asked == [chunks.fcntl.LOCK_EX]
