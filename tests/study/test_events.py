"""A line on a terminal says what a run is at, and ticks."""

import io
import sys
import time

import pytest

from ioca_jax.study import events

START = {"event": "start", "seeds": 4, "finished": 0, "chunks": 2}
COUNTS = {"event": "units", "units": 2, "done": 1, "running": 1, "failed": 0}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def a_terminal(monkeypatch: pytest.MonkeyPatch, tick: float) -> Terminal:
    """In place of stderr; no fixture: pytest sets stderr after these."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(events, "_TICK", tick)
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


def last_line(terminal: Terminal) -> str:
    return terminal.getvalue().rpartition("\r")[2].strip()


def test_a_line_ticks_before_and_between_events(monkeypatch):
    terminal = a_terminal(monkeypatch, 0.02)
    with events.ProgressLine():
        deadline = time.monotonic() + 10
        while terminal.getvalue().count("loading, 00:00") < 3:
            assert time.monotonic() < deadline, terminal.getvalue()
    assert last_line(terminal) == ""  # the line is removed


def epoch(number: int) -> dict:
    return {"event": "epoch", "epoch": number, "validation_accuracy": 0.75}


def test_a_line_says_the_phase_and_the_networks_that_are_done(monkeypatch):
    terminal = a_terminal(monkeypatch, 60)
    chunk = {"event": "chunk", "seeds": 4}
    said = []
    with events.ProgressLine() as show:
        for event in (
            *(START | {"epochs": 2, "scopes": 2}, epoch(1), epoch(2)),
            *({"event": "scope"}, {"event": "scope"}, chunk | {"finished": 2}),
            chunk | {"finished": 4},
        ):
            show(event)
            line = last_line(terminal)
            said.append(line.partition(" |")[0])
            assert ("validation error 25.00 %" in line) == (event == epoch(1))
            assert len(line) < 100
    assert said == [
        "0 of 4 networks done, training",
        "0 of 4 networks done, training",
        "0 of 4 networks done, measuring, ablating",
        "0 of 4 networks done, ablating",
        "0 of 4 networks done, testing",
        "2 of 4 networks done, training",
        "4 of 4 networks done, reporting",
    ]


def test_a_line_has_the_units_of_workers_in_place_of_the_phase(monkeypatch):
    terminal = a_terminal(monkeypatch, 60)
    with events.ProgressLine() as show:
        show(START | {"epochs": 0, "scopes": 2})
        assert "0 of 4 networks done, measuring, ablating |" in last_line(terminal)
        for event in (COUNTS, {"event": "scope"}):
            show(event)
            assert "units: 1 of 2 done, 1 running |" in last_line(terminal)
