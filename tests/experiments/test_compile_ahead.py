"""Programs compiled ahead: the table's rows from a CPU's compiler, and refusals."""

import importlib.util
from types import SimpleNamespace

import jax
import pytest

from experiments.benchmark import compile_ahead
from experiments.benchmark.compile_ahead import CompileConfig, Row

SMALL = CompileConfig(
    hidden=(5, 5, 5), num_inputs=6, num_examples=20, num_seeds=2, num_orders=3
)


def test_rows_hold_what_the_compiler_reports():
    row = compile_ahead.compile_row(SMALL, "prefix_sums", "here", jax.devices()[:1])
    assert (row.topology, row.num_devices, row.engine) == ("here", 1, "prefix_sums")
    assert not row.problem
    assert row.seconds > 0
    # At least the arguments: 20 examples of 6, and two networks.
    assert 20 * 7 * 4 + 2 * 4 * 115 < row.peak < 1e6
    assert row.bytes > 20 * 7 * 4
    assert row.operations > 20 * 2 * 6 * 5


def test_programs_that_do_not_compile_are_rows_too(monkeypatch):
    def lower(*_):
        raise RuntimeError("Ran out of memory\nand much more")

    monkeypatch.setattr(compile_ahead.devices, "_sum", SimpleNamespace(lower=lower))
    row = compile_ahead.compile_row(SMALL, "masks", "v5e:1x1", jax.devices()[:1])
    line = "v5e:1x1          1 masks        Ran out of memory"
    assert compile_ahead.table_line(row) == line


def test_lines_stand_under_the_header():
    row = Row("v5e:16x16", 256, "prefix_sums", 12.34, 5e6, 1.5e9, 2e9)
    line = "v5e:16x16      256 prefix_sums       12.3      5.0    1500.0         2"
    assert compile_ahead.table_line(row) == line
    assert len(compile_ahead.HEADER) == len(line)


def test_what_is_missing_gets_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = (
        "^topologies: expected libtpu, which compiles for TPUs without one, got none "
        r"installed; pip install -e '.\[tpu-compile\]'$"
    )
    with pytest.raises(ValueError, match=message):
        compile_ahead.topology_devices("v5e:1x1")
    with pytest.raises(ValueError, match="^engines: expected one or more of rank_one"):
        CompileConfig(engines=("warp",))


def test_topologies_that_are_none_get_one_line(monkeypatch):
    def unknown(**_):
        raise RuntimeError("no such chips\nat all")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compile_ahead.topologies, "get_topology_desc", unknown)
    message = (
        r"^topologies: expected names such as v5e:2x2, got 'v5e' \(no such chips\)$"
    )
    with pytest.raises(ValueError, match=message):
        compile_ahead.topology_devices("v5e")
