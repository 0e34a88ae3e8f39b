"""A run that ends at any operation on its files goes on to the same results."""

import os
import pathlib
import shutil
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from same_runs import assert_same
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax import plots

# By default some of the operations, by a fixed seed; with IOCA_SLOW all.
SAMPLED = None if os.environ.get("IOCA_SLOW") else 3


class Killed(BaseException):
    """The process is gone: nothing may touch its files any more."""


class Killer:
    """Ends all work on files below a folder from the n-th operation on."""

    folder: str | None = None
    last = sys.maxsize
    count = 0

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook: it is called before the operation, and may prevent it."""
        if self.folder is None or event not in (
            *("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"),
        ):
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor: opened before
        path = os.fsdecode(path)
        # Relative ones are below a directory that is open, as in rmtree.
        if not os.path.isabs(path) or path.startswith(self.folder):
            self.count += 1
            if self.count >= self.last:
                raise Killed


KILLER = Killer()
sys.addaudithook(KILLER.hear)


def operations(folder: pathlib.Path, work: Callable[[], Any], last: int) -> int:
    """Works until the last operation; returns how many there were."""
    KILLER.count, KILLER.last, KILLER.folder = 0, last, str(folder)
    try:
        work()
    except Killed:
        pass
    finally:
        KILLER.folder = None
    return KILLER.count


def kill_everywhere(work: Callable[[pathlib.Path], Any], top, whole) -> None:
    number = operations(top / "never", lambda: work(top / "never"), sys.maxsize)
    assert_same(top / "never", whole)
    assert number > 30
    wanted = np.arange(1, number + 1)
    if SAMPLED:
        wanted = np.random.default_rng(0).choice(wanted, SAMPLED, replace=False)
    for last in wanted.tolist():
        folder = top / f"{last}"
        assert operations(folder, lambda f=folder: work(f), last) >= last
        if (folder / "study.nc").exists():  # it answers rightly, or not at all
            assert ioca.load_results(folder)["seed"].values.tolist() == [*TINY.seeds]
        work(folder)
        assert_same(folder, whole)
        shutil.rmtree(folder)


def test_a_run_may_end_at_any_operation(computed, tiny_run, tmp_path):
    def run(folder):
        ioca.run_study(TINY, folder, data=own_data(), draw=False, seeds_at_once=2)

    kill_everywhere(run, tmp_path, tiny_run)


@pytest.mark.slow
def test_joining_may_end_at_any_operation(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "save_figures", lambda *_: [])
    shutil.copytree(tiny_run, tmp_path / "part")

    def join(folder):
        try:
            ioca.merge_runs([tmp_path / "part"], folder)
        except ValueError as error:
            if "holds a finished run" not in str(error):
                raise

    kill_everywhere(join, tmp_path, tiny_run)
