"""A line on a terminal says what a run is at, and ticks."""

import io
import re
import sys
import time

import pytest

from ioca_jax.study import events

START = {"event": "start", "seeds": 4, "finished": 0, "chunks": 2}
COUNTS = {"event": "units", "units": 2, "done": 1, "running": 1, "failed": 0}


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass as events come."""
    times = [0.0]
    monkeypatch.setattr(events.time, "monotonic", lambda: times[0])
    return times


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


def test_a_line_says_the_phase_and_the_networks_and_the_time_left(monkeypatch, clock):
    terminal = a_terminal(monkeypatch, 60)
    chunk = {"event": "chunk", "seeds": 4}
    said, left = [], []
    with events.ProgressLine() as show:
        for event in (
            *(START | {"epochs": 2, "scopes": 2}, epoch(1), epoch(2)),
            *({"event": "scope"}, {"event": "scope"}, chunk | {"finished": 2}),
            chunk | {"finished": 4},
        ):
            clock[0] += 1
            show(event)
            line = last_line(terminal)
            said.append(re.split(r" \||, 00:00", line)[0])
            left += re.findall(", about .* left$", line)
            assert ("validation error 25.00 %" in line) == (event == epoch(1))
            assert len(line) < 100
    assert said == [
        "networks 1 to 2 of 4, training",
        "networks 1 to 2 of 4, training",
        "networks 1 to 2 of 4, measuring, ablating",
        "networks 1 to 2 of 4, ablating",
        "networks 1 to 2 of 4, testing",
        "networks 3 to 4 of 4, training",
        "4 of 4 networks done, reporting",
    ]
    # Three scopes and two epochs of a second; a second after their like, four.
    assert left == [", about 5.0 s left", ", about 3.0 s left"]


def test_lines_stand_above_the_one_that_ticks(monkeypatch):
    terminal = a_terminal(monkeypatch, 60)
    with events.ProgressLine():
        events.tell("a note", sys.stderr)
    assert re.fullmatch(
        "\rloading, 00:00\r +\ra note\n\rloading, 00:00\r +\r", terminal.getvalue()
    )


def test_a_line_has_the_units_of_workers_in_place_of_the_phase(monkeypatch):
    terminal = a_terminal(monkeypatch, 60)
    with events.ProgressLine() as show:
        show(START | {"epochs": 0, "scopes": 2})
        assert "networks 1 to 2 of 4, measuring, ablating |" in last_line(terminal)
        for event in (COUNTS, {"event": "scope"}):
            show(event)
            assert "units: 1 of 2 done, 1 running |" in last_line(terminal)


def in_a_log(clock: list[float], shown: list[tuple[float, dict]]) -> None:
    with events.ProgressLine("a run: ") as show:
        for at, event in shown:
            clock[0] = at
            show(event)


def test_a_log_has_a_line_for_each_phase_and_each_chunk(clock, capsys):
    chunk = {"event": "chunk", "seeds": 4}
    course = [epoch(1), epoch(2), {"event": "scope"}, {"event": "scope"}]
    in_a_log(
        clock,
        [
            (5, START | {"epochs": 2, "scopes": 2}),
            *zip((6, 7, 15, 17), course, strict=True),
            (25, chunk | {"finished": 2}),
            *zip((26, 27, 28, 29), course, strict=True),
            (30, chunk | {"finished": 4}),
        ],
    )
    # Epochs take 1 s. After a scope in 8 s 3 are left, 26 s with 2 epochs; after two
    # in 10 s 2 are left, and 12 s, of which 8 s have passed.
    assert capsys.readouterr().err.splitlines() == [
        "a run: networks 1 to 2 of 4, training, after 5.0 s",
        "a run: networks 1 to 2 of 4, measuring, ablating, after 7.0 s",
        "a run: networks 1 to 2 of 4, ablating, after 15 s, about 26 s left",
        "a run: networks 1 to 2 of 4, testing, after 17 s",
        "a run: networks 3 to 4 of 4, training, after 25 s, about 4.0 s left",
        "a run: 4 of 4 networks done, reporting, after 30 s",
    ]


def test_a_log_has_a_line_after_a_minute_without_one(monkeypatch, capsys):
    monkeypatch.setattr(events, "_TICK", 0.01)
    monkeypatch.setattr(events, "_LOG_TICK", 0.2)
    monkeypatch.setattr(events, "duration", lambda seconds: "a while")
    deadline, text = time.monotonic() + 10, ""
    with events.ProgressLine() as show:
        show(START | {"epochs": 0, "scopes": 2})
        while text.count("\n") < 3:
            assert time.monotonic() < deadline, text
            text += capsys.readouterr().err
    line = "networks 1 to 2 of 4, measuring, ablating, after a while\n"
    assert text.startswith(3 * line)


def test_a_log_has_a_line_for_each_unit_of_workers(clock, capsys):
    in_a_log(
        clock,
        [
            (1, START | {"epochs": 0, "scopes": 2}),
            (2, COUNTS | {"done": 0, "running": 1}),
            (3, COUNTS | {"done": 0, "running": 2}),
            (9, {"event": "scope"}),
            (9, {"event": "scope"}),
            (9, {"event": "chunk", "seeds": 4, "finished": 2}),
            (10, COUNTS),
        ],
    )
    assert capsys.readouterr().err.splitlines() == [
        "a run: networks 1 to 2 of 4, measuring, ablating, after 1.0 s",
        "a run: 0 of 4 networks done, units: 0 of 2 done, 1 running, after 2.0 s",
        "a run: 2 of 4 networks done, units: 1 of 2 done, 1 running, after 10 s, "
        "about 7.0 s left",
    ]
