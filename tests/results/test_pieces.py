"""Studies that are written, opened and reported by pieces are those held whole."""

import dataclasses
import pathlib
import resource
import shutil
import signal
import tracemalloc
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import pandas as pd
import processes
import pytest
import xarray as xr
from synthetic import planted_joint_results, planted_results

import ioca_jax as ioca
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.neurons import count_neurons
from ioca_jax.report.tables import tabulate
from ioca_jax.results import files, networks, pieces, subsets

PLACES = {"versions": "1", "source_revision": "a", "device": "cpu"}


@dataclasses.dataclass(frozen=True)
class Held:
    """A source in memory."""

    results: xr.Dataset
    variables: Any

    @property
    def seeds(self) -> list[int]:
        return self.results["seed"].values.tolist()

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.results.attrs

    def take(self, rows: np.ndarray) -> pieces.Chunk:
        taken = jax.tree.map(lambda leaf: leaf[rows], self.variables)
        return pieces.Chunk(self.results.isel(seed=rows), taken)


def held(results: xr.Dataset) -> Held:
    seeds = results["seed"].values
    leaf = np.arange(6 * len(seeds), dtype=np.float32).reshape(-1, 2, 3)
    kernel = {"kernel": leaf, "bias": seeds.astype(np.float32)}
    return Held(results.assign_attrs(PLACES), {"params": {"hidden_0": kernel}})


@pytest.fixture
def small_pieces(monkeypatch):
    """Of three networks or so."""
    for module in (pieces, subsets):
        monkeypatch.setattr(module, "PIECE_BYTES", 400_000)


def test_pieces_join_to_the_whole(small_pieces, tmp_path):
    whole = held(planted_joint_results(seeds=11))
    order = [7, 0, 3, 10, 1, 2, 9, 8, 4, 6, 5]
    sources = [whole.take(np.array(rows)) for rows in ([10, 3, 5], [0, 1, 2, 4, 6])]
    sources.append(whole.take(np.array([7, 8, 9])))
    joined = pieces.join_seeds([Held(*s) for s in sources], order, seconds="{}")
    sizes = [piece.results.sizes["seed"] for piece in joined.pieces()]
    assert len(sizes) > 3
    assert set(sizes[:-1]) == {max(sizes)}
    pieces.save_study(joined, tmp_path)

    expected = whole.results.isel(seed=order).assign_attrs(seconds="{}")
    files.write_results(expected, tmp_path / "whole.nc")
    found = ioca.load_results(tmp_path)
    assert found.identical(ioca.load_results(tmp_path / "whole.nc"))
    dtypes = {name: variable.dtype for name, variable in expected.data_vars.items()}
    assert {name: found[name].dtype for name in dtypes} == dtypes
    parts = sorted(path.name for path in (tmp_path / "networks").iterdir())
    assert len(parts) == len(sizes)
    for places in (None, [10, 0, 4, 3], []):
        variables = networks.read_networks(tmp_path, places)
        rows = order if places is None else np.array(order)[np.array(places, int)]
        np.testing.assert_equal(variables, whole.take(np.array(rows)).variables)

    # And apart again, as shards are.
    run = pieces.FinishedRun.open(tmp_path)
    again = pieces.join_seeds([run], range(0, 11, 2), seconds="{}")
    (tmp_path / "some").mkdir()
    pieces.save_study(again, tmp_path / "some")
    some = ioca.load_results(tmp_path / "some")
    assert some.identical(found.sel(seed=list(range(0, 11, 2))))


def test_a_study_of_one_piece_is_that_of_several_in_a_file_of_fixed_length(
    monkeypatch, tmp_path
):
    source = held(planted_results(seeds=2))
    joined = pieces.join_seeds([source], range(2), seconds="{}")
    found = {}
    for name, size, unlimited in (
        ("one", 2**30, set()),
        ("several", 1, {"seed"}),
    ):
        monkeypatch.setattr(pieces, "PIECE_BYTES", size)
        (tmp_path / name).mkdir()
        pieces.save_study(joined, tmp_path / name)
        found[name] = ioca.load_results(tmp_path / name)
        assert found[name].encoding["unlimited_dims"] == unlimited
    assert found["one"].identical(found["several"])
    assert found["one"].identical(source.results.assign_attrs(found["one"].attrs))


def test_a_kill_after_the_results_leaves_nothing_beside_them(monkeypatch, tmp_path):
    joined = pieces.join_seeds([held(planted_results(seeds=2))], range(2))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # not reached
    pieces.save_study(joined, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["networks", "study.nc"]


def test_parts_that_differ_in_more_than_seeds_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
    one = held(planted_results(seeds=2))
    other = one.results.assign_coords(class_size=("class", [50_000, 50_001]))
    first = one.take(np.arange(1))
    second = Held(other, one.variables).take(np.arange(1, 2))
    joined = pieces.join_seeds([Held(*first), Held(*second)], range(2))
    with pytest.raises(ValueError, match="^expected parts that differ in their seeds"):
        pieces.save_study(joined, tmp_path)
    assert not (tmp_path / "study.nc").exists()


def test_a_full_disk_ends_in_an_error_and_leaves_no_results(small_pieces, tmp_path):
    joined = pieces.join_seeds([held(planted_results(seeds=20))], range(20))
    (tmp_path / "big").mkdir()
    pieces.save_study(joined, tmp_path / "big")
    whole = (tmp_path / "big" / "study.nc").stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        for share in (0.3, 0.6, 0.9):
            limit = int(share * whole), before[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            with pytest.raises(OSError, match="File too large"):
                pieces.save_study(joined, tmp_path)
            assert not list(tmp_path.glob("*study.nc*"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def stored(small_pieces, tmp_path) -> pathlib.Path:
    results = planted_joint_results(seeds=7).assign_attrs(PLACES)
    results["diverged"].values[4] = True
    pieces.save_study(pieces.join_seeds([held(results)], range(7)), tmp_path)
    return tmp_path


def test_tables_of_a_study_in_its_file_are_those_in_memory(stored, monkeypatch):
    monkeypatch.setattr(subsets, "PIECE_BYTES", 2**30)
    expected = tabulate(ioca.load_results(stored))
    monkeypatch.setattr(subsets, "PIECE_BYTES", 60_000)
    with ioca.load_results(stored, lazy=True) as results:
        tables = tabulate(results)
    assert list(tables) == list(expected)
    assert {"claims", "verdicts", "trends"} <= tables.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(tables[name], table, check_exact=True)


def test_results_stay_in_their_file_where_they_would_fill_the_memory(
    stored, monkeypatch
):
    eager = ioca.load_results(stored)
    monkeypatch.setattr(files, "free_memory", lambda: 4 * eager.nbytes - 8)
    with ioca.load_results(stored) as results:
        assert not results["correct"].variable._in_memory
        assert results.isel(seed=[3]).identical(eager.isel(seed=[3]))
    monkeypatch.setattr(files, "free_memory", lambda: 4 * eager.nbytes + 8)
    assert ioca.load_results(stored)["correct"].variable._in_memory


def test_work_on_many_networks_holds_few_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(subsets, "PIECE_BYTES", 400_000)
    names = ["correct", "accuracy", "joint_count", "diverged"]
    results = planted_joint_results(seeds=11)[names]
    many = xr.concat([results] * 30, "seed", data_vars="minimal")
    many = many.assign_coords(seed=np.arange(330)).assign_attrs(PLACES)
    pieces.save_study(pieces.join_seeds([held(many)], range(330)), tmp_path)
    with ioca.load_results(tmp_path, lazy=True) as stored:
        for work in (areas_by_order, count_neurons):
            work(stored.isel(seed=slice(3)))  # compiled, imported
            tracemalloc.start()
            work(stored)
            held_bytes = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert held_bytes < many.nbytes / 3, work


_WORK = """
import pathlib, sys
from ioca_jax.inference.areas import areas_by_order
from ioca_jax.inference.neurons import count_neurons
from ioca_jax.inference.order_tests import difference_curves
from ioca_jax.results import subsets
from ioca_jax.results.files import load_results

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])

subsets.PIECE_BYTES = 2**22
with load_results(sys.argv[1], lazy=True) as results:
    for number in (8, 3000):
        before = peak()
        some = results.isel(seed=slice(number))
        areas_by_order(some), count_neurons(some), difference_curves(some)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_process_holds_less_than_the_study(tmp_path):
    """Of 3,000 networks, 150 MB; what was imported and compiled is left out."""
    results = planted_results(seeds=50)
    counts = np.full((50, 50, 2, 2), 100, np.int32)
    results["joint_count"] = (("seed", "neuron", "code", "class"), counts)
    many = xr.concat([results] * 60, "seed", data_vars="minimal")
    many = many.assign_coords(seed=np.arange(3000)).assign_attrs(PLACES)
    pieces.save_study(pieces.join_seeds([held(many)], range(3000)), tmp_path)
    done = processes.run("-c", _WORK, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 0.6 * many.nbytes
