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
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from ioca_jax.checks import import_extra
from ioca_jax.results.files import writing

_LONG = 600  # seconds of work that is announced before it starts
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


def progress_bar() -> Listener:
    """A listener that shows a line on a terminal: phase, networks done, time left.

    Its steps are the epochs and scopes of chunks. With workers the line has the units
    in place of the phase.
    """
    bar: tqdm | None = None
    done, units = "", False

    def listen(event: Event) -> None:
        nonlocal bar, done, units
        kind = event["event"]
        if kind == "start":
            steps = event["chunks"] * (event["epochs"] + event["scopes"])
            shape = "{desc} |{bar:20}| {elapsed}, about {remaining} left{postfix}"
            bar = tqdm(total=steps, bar_format=shape, disable=None)
        if kind in ("start", "chunk"):
            done = f"{event['finished']} of {event['seeds']} networks done"
        if bar is None:
            return
        if kind == "units":
            units = True
            bar.set_description_str(f"{done}, {describe_units(event)}")
        elif units and kind in ("epoch", "scope"):
            bar.update()
        elif kind == "epoch":
            bar.set_description_str(f"{done}, training", refresh=False)
            if event["validation_accuracy"] is not None:
                error = 100 * (1 - event["validation_accuracy"])
                bar.set_postfix_str(f"validation error {error:.2f} %", refresh=False)
            bar.update()
        elif kind == "scope":
            bar.set_description_str(f"{done}, ablating {event['scope']}", refresh=False)
            bar.update()
        elif kind == "end":
            bar.close()

    return listen


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
