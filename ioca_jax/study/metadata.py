"""Where results come from: versions, the source's revision, and the time they took."""

import functools
import importlib.metadata
import pathlib
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import jax

_COMPILATION = "/jax/core/compile/backend_compile_duration"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions of packages by name, or ``not installed``."""
    return {name: _version(name) for name in packages}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"  # run from a checkout


@functools.cache
def source_revision() -> str:
    """The commit of this library's source, ``-dirty`` if changed, or ``unknown``."""
    here = pathlib.Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # installed without its repository
    return described.stdout.strip()


class Stopwatch:
    """Seconds since it was made, by moment, and the seconds of compilation."""

    def __init__(self):
        """Starts."""
        self._start = time.perf_counter()
        self._compiling = 0.0
        self.seconds: dict[str, float] = {}

    def mark(self, moment: str) -> None:
        """Records the seconds until a moment, the first time that it is reached."""
        self.seconds.setdefault(moment, self.now())

    def now(self) -> float:
        """Seconds since it was made, to the millisecond."""
        return round(time.perf_counter() - self._start, 3)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Sums the time of compilation within the block, ``seconds["compiling"]``."""
        _count_compilation()
        _LISTENING.add(self)
        try:
            yield
        finally:
            _LISTENING.remove(self)
            self.seconds["compiling"] = round(self._compiling, 3)

    def add(self, compiling: float) -> None:
        """Adds seconds of compilation."""
        self._compiling += compiling


_LISTENING: set[Stopwatch] = set()


@functools.cache
def _count_compilation() -> None:
    """Tells every stopwatch that listens of compilation, from now on.

    JAX before 0.9 has no public function that removes a listener.
    """

    # Orbax reports whole seconds as integers.
    def listen(event: str, duration_secs: float | int, **kwargs: str | int) -> None:
        del kwargs
        if event == _COMPILATION:
            for watch in tuple(_LISTENING):
                watch.add(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
