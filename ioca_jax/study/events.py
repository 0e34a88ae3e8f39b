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
from collections.abc import Callable, Mapping
from typing import Any

from tqdm.auto import tqdm

from ioca_jax.checks import import_extra
from ioca_jax.results.files import writing

_LONG = 600  # seconds of work that is announced before it starts
_TICK = 1.0  # seconds between two showings of a line
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
    """A line on a terminal that ticks: networks done, phase, time left.

    A listener, and the context in which the line is there; it goes with the context.
    Its steps are the epochs and scopes of chunks. With workers the line has the units
    in place of the phase.
    """

    def __enter__(self) -> "ProgressLine":
        """Shows the line; nothing where there is no terminal and no notebook."""
        self._bar = tqdm(
            desc="loading",
            bar_format="{desc}, {elapsed}",
            disable=None,
            dynamic_ncols=True,
            leave=False,
        )
        self._ended, self._units = threading.Event(), False
        if not self._bar.disable:
            threading.Thread(target=self._tick, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the line."""
        self._ended.set()
        self._bar.close()

    def _tick(self) -> None:
        while not self._ended.wait(_TICK):
            self._bar.refresh()

    def __call__(self, event: Event) -> None:
        """Shows what is going on after an event."""
        kind = event["event"]
        if kind == "start":
            self._epochs, self._scopes = event["epochs"], event["scopes"]
            shape = "{desc} |{bar:10}| {elapsed}, about {remaining} left{postfix}"
            self._bar.bar_format = shape
            self._bar.reset(event["chunks"] * (self._epochs + self._scopes))
        if kind in ("start", "chunk"):
            self._done = f"{event['finished']} of {event['seeds']} networks done"
            self._ablated = 0
            is_last = event["finished"] == event["seeds"]
            self._say("reporting" if is_last else "training" * bool(self._epochs))
        elif kind == "units":
            self._units = True
            self._bar.set_description_str(f"{self._done}, {describe_units(event)}")
        elif kind == "epoch":
            self._bar.update()
            accuracy, error = event["validation_accuracy"], ""
            is_last = event["epoch"] == self._epochs
            if accuracy is not None and not is_last:
                error = f"validation error {100 * (1 - accuracy):.2f} %"
            self._bar.set_postfix_str(error, refresh=False)
            self._say("" if is_last else "training")
        elif kind == "scope":
            self._bar.update()
            self._ablated += 1
            self._say("ablating" if self._ablated < self._scopes else "testing")

    def _say(self, phase: str) -> None:
        if not self._units:
            what = phase or "measuring, ablating"
            self._bar.set_description_str(f"{self._done}, {what}")


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


def log_lines(note: str = "") -> Listener:
    """A listener that writes to stderr: before long work, damaged files, lost units.

    A note, such as that a study has few networks, is written at the start. Without a
    terminal, which shows a bar, also for each of several chunks.
    """
    began, total, done = 0.0, 0, 0

    def listen(event: Event) -> None:
        nonlocal began, total, done
        if event["event"] == "start":
            began, total, done = time.monotonic(), event["chunks"], 0
            if note:
                print(note, file=sys.stderr, flush=True)
            estimated = event.get("estimated_seconds", 0)
            if estimated > _LONG:
                print(
                    f"This takes {duration(estimated)}, by order of magnitude; stop it "
                    "at any time, the same command goes on from what is finished",
                    file=sys.stderr,
                    flush=True,
                )
        elif event["event"] == "damaged":
            remedy = event.get("remedy", "computed again")
            print(f"{event['file']} is damaged: {remedy}", file=sys.stderr)
        elif event["event"] in ("lost", "failed"):
            remedy = "; it is sent again" if event["event"] == "lost" else ""
            what = f"unit {event['chunk']} {event['event']}: {event['reason']}{remedy}"
            print(what, file=sys.stderr, flush=True)
        elif event["event"] == "chunk" and total > 1 and not sys.stderr.isatty():
            taken, done = time.monotonic() - began, done + 1
            left = taken * (total - done) / done
            print(
                f"{event['finished']} of {event['seeds']} networks after {taken:.0f} s"
                f", about {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

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
