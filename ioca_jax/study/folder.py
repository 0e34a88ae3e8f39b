"""A run's folder: which run it belongs to, and what is written into it."""

import contextlib
import dataclasses
import json
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import xarray as xr

from ioca_jax.report.page import PAGE_FILE, run_page
from ioca_jax.report.summary import summarize
from ioca_jax.report.tables import tabulate
from ioca_jax.results.files import (
    RESULTS_FILE,
    WriteError,
    atomic_write,
    load_results,
    sha256,
    writing,
)
from ioca_jax.results.fingerprint import difference
from ioca_jax.results.networks import NETWORKS
from ioca_jax.results.pieces import UNFINISHED_NETWORKS, Joined, save_study
from ioca_jax.sources import can_load
from ioca_jax.study.chunks import (
    LOCK_FILE,
    UNITS,
    count_finished,
    find_chunks,
    locked,
    remove_chunks,
    signals_deferred,
)
from ioca_jax.study.events import EVENTS_FILE
from ioca_jax.study.plan import Identity

# What may differ between shards: where things are, and how much is done at once.
_NOT_OF_THE_RESULTS = ("data_dir", "memory_gb")
# What a run writes, or removes, in its folder.
_FOLDERS = (NETWORKS, UNFINISHED_NETWORKS, "chunks", UNITS, "tables", "figures")
_FILES = (
    *(RESULTS_FILE, "flags.txt", EVENTS_FILE, PAGE_FILE, "summary.txt", LOCK_FILE),
)
# What a finished run's folder has to read, as its end lists it.
_CONTENTS = (
    *(RESULTS_FILE, NETWORKS, "figures", "tables", PAGE_FILE, "summary.txt"),
    *(EVENTS_FILE, "flags.txt"),
)
# Runs of a sweep finish in threads, and neither Matplotlib nor Orbax takes several.
WRITING = threading.Lock()
_SEAL = "# SHA-256 of the other lines: "


class Progress(NamedTuple):
    """What an unfinished folder holds: finished seeds, and files that are damaged.

    ``restored`` were damaged too, and are written again. ``names`` are those of the
    chunks of the seeds.
    """

    seeds: list[int]
    damaged: list[str]
    restored: list[str]
    names: list[str]


@contextlib.contextmanager
def writable(path: pathlib.Path) -> Iterator[None]:
    """Makes a folder; errors of the system in the block name it in one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        yield
    except (BlockingIOError, WriteError):  # in use; a file that is named
        raise
    except OSError as error:
        raise OSError(
            f"workdir: expected a folder that can be written, got {path} "
            f"({error.strerror or error})"
        ) from error


@contextlib.contextmanager
def explained(
    path: pathlib.Path, otherwise: tuple[str, str] | None = None
) -> Iterator[None]:
    """Errors of writing in the block say what is safe in a folder, and how to go on.

    ``otherwise`` are both, for a folder that has no results of a run and no chunks.
    """
    try:
        yield
    except WriteError as error:
        if (path / RESULTS_FILE).is_file():
            safe, then = f"results and networks in {path} are whole", "reports them"
        else:
            finished = f"{count_finished(path)} networks are finished in {path}"
            safe, then = otherwise or (finished, "goes on from there")
        raise WriteError(
            f"{error}; {safe}; once that is mended, the same command {then}"
        ) from error


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: of the folder.
        run: that it belongs to.
    """

    path: pathlib.Path
    run: Identity

    def is_finished(self) -> bool:
        """Whether the folder holds this run's results; refuses another run's folder."""
        check_places(self.path, folders=_FOLDERS, files=_FILES)
        is_finished = (self.path / RESULTS_FILE).is_file()
        if not self.flags_file.is_file():
            if is_finished:
                raise ValueError(
                    "workdir: expected a new folder or one of this configuration, got "
                    f"{self.path}, which holds {RESULTS_FILE} without flags.txt; "
                    "choose another workdir"
                )
            return False
        ours, theirs = _flag_values(self.run.flags), read_flags(self.flags_file)
        if theirs is None and is_finished:  # damaged; results have it all too
            ours, theirs = self._recorded(), self._recorded_in_results()
        name = None if theirs is None else differing_field(theirs, ours)
        if theirs is not None and name is not None:
            raise ValueError(
                "workdir: expected a new folder or one of this configuration, got "
                f"{self.path}, which holds a run with {name}={theirs.get(name)}, not "
                f"{ours.get(name)}; choose another workdir"
            )
        return is_finished

    @property
    def flags_file(self) -> pathlib.Path:
        """Where the flags are."""
        return self.path / "flags.txt"

    def _damaged_flags(self) -> list[str]:
        """The path of the flags if they are damaged."""
        there = self.flags_file.is_file()
        return (
            [str(self.flags_file)]
            if there and read_flags(self.flags_file) is None
            else []
        )

    def _recorded(self) -> dict[str, Any]:
        """What the results of this run record of it, as JSON holds it."""
        own = {"seeds": list(self.run.seeds)}
        return {**self.run.fields, **own, "variables_digest": self.run.variables_digest}

    def _recorded_in_results(self) -> dict[str, Any]:
        """What the results in the folder record of their run."""
        with load_results(self.path, lazy=True) as results:
            fields = json.loads(results.attrs["configuration"])
            digest = results.attrs.get("variables_digest")
            seeds = results["seed"].values.tolist()
            return fields | {"seeds": seeds, "variables_digest": digest}

    def open(self, stack: contextlib.ExitStack, data_digest: str) -> Progress | None:
        """Makes and locks the folder, checks its chunks, and writes the flags.

        Returns None, and leaves the folder unlocked, if the run is finished; another
        process may have just done it.
        """
        with writable(self.path), contextlib.ExitStack() as own:
            own.enter_context(locked(self.path))
            if self.is_finished():
                return None
            progress = self._check_chunks(data_digest, self._damaged_flags())
            self._write_flags(data_digest)
            stack.enter_context(own.pop_all())
        return progress

    def _check_chunks(self, data_digest: str, restored: list[str]) -> Progress:
        """Refuses chunks of another run."""
        chunks, damaged = find_chunks(self.path)
        own = set(self.run.seeds)
        seeds: list[int] = []
        for chunk in chunks:
            theirs = json.loads(chunk.attrs["configuration"])
            name = differing_field(theirs, self.run.fields)
            if name is None and chunk.attrs["data_digest"] != data_digest:
                name = "data"
            given = chunk.attrs.get("variables_digest")
            if name is None and given != self.run.variables_digest:
                name = "networks"
            if name is None and not own.issuperset(chunk.seeds):
                name = "shard"
            if name is not None:
                raise ValueError(
                    f"workdir: expected chunks of this run, got {self.path} with "
                    f"some of a run with other {name}; choose another workdir"
                )
            self._check_function(chunk.attrs)
            seeds += chunk.seeds
        names = [chunk.place.name for chunk in chunks]
        return Progress(seeds, [str(file) for file in damaged], restored, names)

    def _check_function(self, attrs: Mapping[str, Any]) -> None:
        """Refuses results of another function with the same variables."""
        differs = difference(attrs.get("fingerprint"), self.run.fingerprint)
        if differs is not None:
            raise ValueError(
                "workdir: expected a new folder or one of these networks, got "
                f"{self.path}, which holds results of networks with the same variables "
                f"and {differs}; give the function of that run, or choose another "
                "workdir"
            )

    def _write_flags(self, data_digest: str) -> None:
        fields = self.run.fields
        replay = "ioca run --flagfile=flags.txt --workdir=..."
        from_caller = []
        loads = fields["data_dir"] or can_load(fields["dataset"])
        if not fields["network"] and not loads:
            from_caller.append(f"the data {fields['dataset']} (digest {data_digest})")
        if not fields["network"] and self.run.variables_digest:
            from_caller.append("the networks")
        if from_caller:
            replay = (
                f"from Python alone, as {' and '.join(from_caller)} came from the "
                "caller of ioca_jax.run_study"
            )
        first, others = f"# Replay: {replay}\n", "\n".join([*self.run.flags, ""])
        # Before the flags: it is there also where the end of the file is cut off.
        text = f"{first}{_SEAL}{sha256((first + others).encode())}\n{others}"
        atomic_write(self.flags_file, lambda part: part.write_text(text, "utf-8"))

    def write(self, joined: Joined, draw: bool) -> xr.Dataset:
        """Writes networks, then results, which mark the run finished, then reports."""
        with WRITING:
            with signals_deferred():
                save_study(joined, self.path)
            results = load_results(self.path)
            write_reports(results, self.path, draw)
        remove_chunks(self.path)
        return results

    def report(
        self,
        data_digest: str | None,
        draw: bool,
        on_restored: Callable[[str], None] = lambda file: None,
    ) -> xr.Dataset:
        """Reports the results again and returns them; refuses those of other data.

        Where another process reports them now, it is waited for. Nothing is written on
        a disk that is read-only. ``on_restored`` gets the path of flags that were
        damaged and are written again.
        """
        results = load_results(self.path)
        theirs = results.attrs["data_digest"]
        if data_digest not in (None, theirs):
            raise ValueError(
                f"workdir: expected a new folder or one of these data, got "
                f"{self.path}, which holds a run on other data called "
                f"{self.run.fields['dataset']} (digest {theirs}, not {data_digest}); "
                "choose another workdir"
            )
        self._check_function(results.attrs)
        if can_write(self.path):
            with explained(self.path), locked(self.path, wait=True), WRITING:
                for file in self._damaged_flags():
                    self._write_flags(theirs)
                    on_restored(file)
                write_reports(results, self.path, draw)
                remove_chunks(self.path)
        return results


def check_places(
    path: pathlib.Path, *, folders: Sequence[str] = (), files: Sequence[str] = ()
) -> None:
    """Refuses a folder where what is to be written has something else in its place.

    Args:
        path: of the folder, which need not exist yet.
        folders: names in it that are directories, if they exist.
        files: names in it that are files, if they exist.
    """
    try:
        _check_folder("workdir", path)
        for name in folders:
            _check_folder(f"workdir, {name}", path / name)
        for name in files:
            file = path / name
            if file.is_dir() or (file.is_symlink() and not file.exists()):
                kind = "a directory" if file.is_dir() else "a link to nothing"
                raise FileExistsError(
                    f"workdir, {name}: expected a file, or none yet, got {file}, which "
                    f"is {kind}; move it, or choose another workdir"
                )
    except OSError as error:
        if error.strerror is None:  # ours
            raise
        raise OSError(
            f"workdir: expected a folder that can be written, got {path} "
            f"({error.strerror})"
        ) from error


def _check_folder(name: str, path: pathlib.Path) -> None:
    if path.is_dir() or not (path.exists() or path.is_symlink()):
        return
    kind = "a file" if path.exists() else "a link to nothing"
    raise NotADirectoryError(
        f"{name}: expected a directory, got {path}, which is {kind}; move it, or "
        "choose another workdir"
    )


def contents(path: pathlib.Path) -> str:
    """The names of a run's files and folders that are there, as text.

    Without figures, or of joined runs, some are not.
    """
    return ", ".join(name for name in _CONTENTS if (path / name).exists())


def can_write(folder: pathlib.Path) -> bool:
    """Whether this process may write into a folder; not on a disk that is read-only."""
    return os.access(folder, os.W_OK | os.X_OK)


def write_reports(results: xr.Dataset, path: pathlib.Path, draw: bool) -> None:
    """Writes everything that is made from the results alone into a run's folder."""
    tables = tabulate(results)
    with writing(path / "tables"):
        (path / "tables").mkdir(exist_ok=True)
    for name, table in tables.items():
        file = path / "tables" / f"{name}.csv"
        atomic_write(file, partial(table.to_csv, index=False))
    if draw:
        from ioca_jax import plots  # matplotlib takes half a second

        plots.save_figures(results, path / "figures", tables)
    flags = path / "flags.txt"
    replay = flags.read_text("utf-8", errors="replace") if flags.is_file() else ""
    replay = "".join(
        line for line in replay.splitlines(keepends=True) if not line.startswith(_SEAL)
    )
    page = run_page(results, tables, replay)
    atomic_write(path / PAGE_FILE, lambda part: part.write_text(page, "utf-8"))
    text = summarize(results, tables) + "\n"
    atomic_write(path / "summary.txt", lambda part: part.write_text(text, "utf-8"))


def differing_field(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first field that results depend on and that is not the same.

    Fields that older runs lack have the value that leaves results as they were.
    """
    as_before = {"architecture": "mlp", "points": "all"}
    theirs, ours = (as_before | dict(fields) for fields in (theirs, ours))
    names = sorted((theirs.keys() | ours.keys()) - set(_NOT_OF_THE_RESULTS))
    differ = (n for n in names if _plain(theirs.get(n)) != _plain(ours.get(n)))
    return next(differ, None)


def _plain(value: Any) -> Any:
    """A field's value; a field that is missing is one that is off or empty."""
    return "" if not value or value == "False" else value


def read_flags(file: pathlib.Path) -> dict[str, str] | None:
    """The flags in a file by name; None if it has changed since it was written.

    Files of version 2 have no digest.
    """
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.splitlines(keepends=True)
    seals = [line for line in lines if line.startswith(_SEAL)]
    others = "".join(line for line in lines if line not in seals)
    if seals and seals != [f"{_SEAL}{sha256(others.encode())}\n"]:
        return None
    return _flag_values(others.splitlines()) or None


def _flag_values(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in lines if line.startswith("--"))
    # A single seed was written without its comma once.
    return {name: value.removesuffix(",") for name, _, value in pairs}
