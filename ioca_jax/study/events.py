"""Progress of a long run: events, and listeners, which are functions of one event.

An event is a dictionary whose entry ``event`` is ``start``, ``damaged``, ``epoch``,
``scope``, ``chunk`` or ``end``; with workers also ``units``, how many units are done,
running and failed, ``unit``, that a worker has begun one, ``lost``, that it died and
the unit is sent again, and ``failed``. A worker's events come when its unit has ended,
with the time at which they happened. Figures are means over the networks of a chunk
that have not diverged; None if all have.
"""

import datetime
import json
import os
import pathlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from tqdm.auto import tqdm

from ioca_jax.checks import import_extra
from ioca_jax.results.files import writing

_LONG = 600  # seconds of work that is announced before it starts
_TICK = 1.0  # seconds between two showings of a line
_LOG_TICK = 60.0  # seconds without a line in a log, after which there is one
_WITHOUT_STEPS = ("loading", "testing", "reporting")
Event = Mapping[str, Any]
Listener = Callable[[Event], None]
EVENTS_FILE = "events.jsonl"


def json_lines(path: str | os.PathLike) -> Listener:
    """A listener that appends each event and its time to a file, as a line of JSON."""

    def listen(event: Event) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        with writing(path), pathlib.Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": now, **event}) + "\n")

    return listen


class ProgressLine:
    """A line on a terminal that ticks: networks, phase, time left.

    A listener, and the context in which the line is there; it goes with the context.
    Its steps are the epochs and scopes of chunks. With workers the line has the units
    in place of the phase. The time left is told once a scope is ablated. Without
    terminal and notebook, as in a log, lines are written to stderr: one where a phase
    begins for the first time, one for each chunk or unit, and one after a minute
    without any.
    """

    def __init__(self, name: str = ""):
        """Makes the line; lines in a log begin with the name."""
        self._name = name

    def __enter__(self) -> "ProgressLine":
        """Shows the line."""
        self._bar = tqdm(
            desc="loading",
            bar_format="{desc}, {elapsed}",
            disable=None,
            dynamic_ncols=True,
            leave=False,
        )
        self._ended, self._units = threading.Event(), False
        self._text, self._written = "loading", set[Hashable]()
        self._steps, self._seconds = Counter[str](), Counter[str]()
        self._began = self._last = time.monotonic()
        self._ablated, self._phase = 0, "loading"
        threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the line."""
        self._ended.set()
        self._bar.close()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            if not self._bar.disable:
                self._bar.bar_format = self._shape()
                self._bar.refresh()
            elif time.monotonic() - self._last > _LOG_TICK:
                self._write()

    def __call__(self, event: Event) -> None:
        """Shows what is going on after an event."""
        kind = event["event"]
        if kind == "start":
            self._epochs, self._scopes = event["epochs"], event["scopes"]
            self._chunks = event["chunks"]
            parts = {"epoch": self._epochs, "scope": self._scopes}
            self._total = {part: self._chunks * n for part, n in parts.items()}
            self._bar.reset(sum(self._total.values()))
            self._stepped = time.monotonic()
        elif kind == "chunk":
            self._chunks -= 1
        if kind in ("start", "chunk"):
            self._finished, self._seeds = event["finished"], event["seeds"]
            self._ablated = 0
            is_last = self._finished == self._seeds
            phase = "reporting" if is_last else "training" * bool(self._epochs)
            self._say(phase, self._finished)
        elif kind == "units":
            self._units = True
            self._show(describe_units(event), (event["done"], event["failed"]))
        elif kind == "epoch":
            self._step(kind)
            accuracy, error = event["validation_accuracy"], ""
            is_last = event["epoch"] == self._epochs
            if accuracy is not None and not is_last:
                error = f"validation error {100 * (1 - accuracy):.2f} %"
            self._bar.set_postfix_str(error, refresh=False)
            self._say("" if is_last else "training")
        elif kind == "scope":
            self._step(kind)
            self._ablated += 1
            self._say("ablating" if self._ablated < self._scopes else "testing")

    def _step(self, part: str) -> None:
        now = time.monotonic()
        self._seconds[part] += now - self._stepped  # pyright: ignore[reportArgumentType]
        self._steps[part] += 1
        self._stepped = now
        self._bar.update()

    def _say(self, phase: str, *others: Hashable) -> None:
        if not self._units:
            phase = phase or "measuring, ablating"
            self._show(phase, phase, *others)

    def _show(self, what: str, *news: Hashable) -> None:
        """Shows what is going on; a log has it if some of the news is new."""
        self._text, self._phase = f"{self._networks}, {what}", what
        self._bar.bar_format = self._shape()
        self._bar.set_description_str(self._text)
        if self._bar.disable and not self._written.issuperset(news):
            self._written.update(news)
            self._write()

    @property
    def _networks(self) -> str:
        """Which networks are computed now, or how many are done."""
        left = self._seeds - self._finished
        if self._units or not left:
            return f"{self._finished} of {self._seeds} networks done"
        first, last = self._finished + 1, self._finished - (-left // self._chunks)
        which = f"network {first}" if first == last else f"networks {first} to {last}"
        return f"{which} of {self._seeds}"

    def _shape(self) -> str:
        """The form of the line on a terminal."""
        if self._phase in _WITHOUT_STEPS:
            return "{desc}, {elapsed}"
        return f"{{desc}} |{{bar:10}}| {{elapsed}}{self._left()}{{postfix}}"

    def _left(self) -> str:
        """The time left, as text; empty until a scope is ablated, and when overdue."""
        if not self._steps["scope"] or self._phase in _WITHOUT_STEPS:
            return ""
        seconds = self._stepped - time.monotonic()
        for part, done in self._steps.items():
            seconds += self._seconds[part] / done * (self._total[part] - done)
        return f", about {duration(seconds)} left" if seconds > 0 else ""

    def _write(self) -> None:
        """Writes the line in a log."""
        self._last = time.monotonic()
        line = f"{self._name}{self._text}, after {duration(self._last - self._began)}"
        print(line + self._left(), file=sys.stderr, flush=True)


def describe_units(event: Event) -> str:
    """How far units are, as text."""
    lost = f", {event['failed']} failed" if event["failed"] else ""
    return (
        f"units: {event['done']} of {event['units']} done, {event['running']} running"
        f"{lost}"
    )


def duration(seconds: float) -> str:
    """A duration as text, such as ``3.5 hours``."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def tell(text: str, file: Any) -> None:
    """Prints lines above the one that ticks, if there is one."""
    with tqdm.external_write_mode(file):
        print(text, file=file, flush=True)


def log_lines(note: str = "") -> Listener:
    """A listener that writes to stderr: before long work, damaged files, lost units.

    A note, such as that a study has few networks, is written at the start.
    """

    def listen(event: Event) -> None:
        if event["event"] == "start":
            if note:
                tell(note, sys.stderr)
            estimated = event.get("estimated_seconds", 0)
            if estimated > _LONG:
                tell(
                    f"This takes {duration(estimated)}, by order of magnitude; stop it "
                    "at any time, the same command goes on from what is finished",
                    sys.stderr,
                )
        elif event["event"] == "damaged":
            remedy = event.get("remedy", "computed again")
            tell(f"{event['file']} is damaged: {remedy}", sys.stderr)
        elif event["event"] in ("lost", "failed"):
            remedy = "; it is sent again" if event["event"] == "lost" else ""
            what = f"unit {event['chunk']} {event['event']}: {event['reason']}{remedy}"
            tell(what, sys.stderr)

    return listen


def tensorboard(folder: str | os.PathLike) -> Listener:
    """A listener that writes losses and accuracies as TensorBoard summaries."""
    package = import_extra("tensorboardX", "tensorboard", "tensorboard")
    writer: Any = None

    def add(tag: str, value: float | None, step: int) -> None:
        if value is not None:  # all networks diverged
            writer.add_scalar(tag, value, step)

    def listen(event: Event) -> None:
        nonlocal writer
        writer = writer or package.SummaryWriter(str(folder))
        if event["event"] == "epoch":
            for name in ("train_loss", "validation_loss", "validation_accuracy"):
                tag = f"from_seed_{event['first_seed']}/{name}"
                add(tag, event[name], event["epoch"])
        elif event["event"] == "chunk":
            add("test_error", event["test_error"], event["finished"])
            writer.flush()
        elif event["event"] == "end":
            writer.close()

    return listen
