"""Finished seeds are durable: chunks of seeds, and a lock, one run to a folder.

A chunk is a directory under ``chunks/``: its results, its networks, and the checksums
of both, which reveal damage by the disk. It is written beside its place, synced and
renamed, so it is whole or absent. Chunks are removed once all are joined.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from ioca_jax.results.files import digest_of_file, sha256, sync, writing
from ioca_jax.results.pieces import Chunk
from ioca_jax.results.trees import (
    NAMES,
    named,
    names_of,
    nested,
    numbered,
    split_at_slashes,
)
from ioca_jax.results.variables import without_gone

_CHUNKS = "chunks"
# What workers are told, and the events of their units.
UNITS = "units"
# Plain arrays: NetCDF would take ten times as long for a chunk.
_RESULTS = "results.npz"
_NETWORKS = "networks.npz"
_CHECKSUMS = "checksums.json"
_LABELS = "_labels"
LOCK_FILE = ".lock"


@dataclasses.dataclass(frozen=True)
class StoredChunk:
    """A sound chunk in a run's folder: what it holds is read when it is asked for.

    Attributes:
        place: its directory.
        seeds: in the order of its rows.
        attrs: of its results.
        is_older: whether the run was begun by a version that took slashes in names for
            levels of their own.
    """

    place: pathlib.Path
    seeds: tuple[int, ...]
    attrs: dict[str, Any]
    is_older: bool = False

    def load(self) -> Chunk:
        """Reads all of it."""
        with (
            np.load(self.place / _RESULTS) as arrays,
            np.load(self.place / _NETWORKS) as leaves,
        ):
            if NAMES in leaves:
                variables = named(leaves)
            else:
                variables = nested((n.split("/"), leaf) for n, leaf in leaves.items())
            if self.is_older:
                variables = split_at_slashes(variables)
            # A chunk does not name the version of its fields.
            return Chunk(without_gone(_labelled(dict(arrays))), variables)

    def take(self, rows: np.ndarray) -> Chunk:
        """Reads some of its seeds."""
        results, variables = self.load()
        taken = jax.tree.map(lambda leaf: leaf[rows], variables)
        return Chunk(results.isel(seed=rows), taken)


def chunk_name(seeds: Sequence[int]) -> str:
    """The name of the directory that holds a chunk of these seeds."""
    digest = sha256(str([*seeds]).encode())[:8]
    return f"seeds_{seeds[0]}_{len(seeds)}_{digest}"


def save_chunk(chunk: Chunk, workdir: pathlib.Path) -> None:
    """Writes a chunk whole or not at all; a signal to stop waits until it is done."""
    chunks = workdir / _CHUNKS
    place = chunks / chunk_name(chunk.results["seed"].values.tolist())
    part = chunks / f".{place.name}.part"
    with signals_deferred(), writing(place):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            np.savez(part / _RESULTS, allow_pickle=False, **_arrays(chunk.results))
            np.savez(part / _NETWORKS, allow_pickle=False, **numbered(chunk.variables))
            sums = {name: digest_of_file(part / name) for name in (_RESULTS, _NETWORKS)}
            # Without blanks: one changed for another would not be seen.
            text = json.dumps(sums, separators=(",", ":"))
            (part / _CHECKSUMS).write_text(text, "utf-8")
            for path in (*part.iterdir(), part):
                sync(path)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(part, place)
            sync(chunks)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def sound_chunk(place: pathlib.Path) -> bool:
    """Whether a chunk is there, undamaged."""
    return place.is_dir() and _damaged_file(place) is None


def find_chunks(
    workdir: pathlib.Path, preferred: Collection[str] = ()
) -> tuple[list[StoredChunk], list[pathlib.Path]]:
    """A run's sound chunks; removes damaged ones and returns their bad files.

    A worker whose driver has ended may have stored seeds that another chunk has too:
    of chunks that share a seed the first is taken, ``preferred`` names before others.
    """
    chunks, damaged_files = [], []
    taken: set[int] = set()
    places = (workdir / _CHUNKS).glob("seeds_*")
    for place in sorted(places, key=lambda p: (p.name not in preferred, p.name)):
        damaged = _damaged_file(place)
        if damaged:
            damaged_files.append(place / damaged)
            shutil.rmtree(place)
            continue
        with np.load(place / _RESULTS) as arrays:
            seeds = tuple(arrays["seed"].tolist())
            attrs = json.loads(arrays[_LABELS].item())["attrs"]
        if not taken.isdisjoint(seeds):
            continue
        taken.update(seeds)
        # All have the same long configuration: held once.
        attrs = {
            n: sys.intern(v) if isinstance(v, str) else v for n, v in attrs.items()
        }
        with np.load(place / _NETWORKS) as leaves:
            is_older = NAMES not in leaves
        chunks.append(StoredChunk(place, seeds, attrs, is_older))
    if any(chunk.is_older for chunk in chunks):  # one structure for all
        chunks = [dataclasses.replace(chunk, is_older=True) for chunk in chunks]
    return chunks, damaged_files


def count_finished(workdir: pathlib.Path) -> int:
    """The number of seeds in all chunks, by the chunks' names alone."""
    places = (workdir / _CHUNKS).glob("seeds_*_*_*")
    return sum(int(place.name.split("_")[2]) for place in places)


def remove_chunks(workdir: pathlib.Path) -> None:
    """Removes the chunks; all seeds must be in ``study.nc``."""
    for name in (_CHUNKS, UNITS):
        shutil.rmtree(workdir / name, ignore_errors=True)


def _damaged_file(place: pathlib.Path) -> str | None:
    """The first file of a chunk whose checksum differs."""
    try:
        sums = json.loads((place / _CHECKSUMS).read_text("utf-8"))
        expected = [(name, sums[name]) for name in (_RESULTS, _NETWORKS)]
    except (OSError, ValueError, KeyError, TypeError):
        return _CHECKSUMS
    for name, digest in expected:
        try:
            if digest_of_file(place / name) != digest:
                return name
        except OSError:
            return name
    return None


def _arrays(results: xr.Dataset) -> dict[str, np.ndarray]:
    """A dataset as arrays; one of them is JSON with names, axes and attributes."""
    names = [*results.coords, *results.data_vars]
    labels = {
        "attrs": results.attrs,
        "coords": list(results.coords),
        "dims": {name: results[name].dims for name in names},
        "of_variables": {name: results[name].attrs for name in names},
    }
    arrays = {}
    for name in names:
        values = results[name].values
        arrays[name] = values.astype(str) if values.dtype == object else values
    return arrays | {_LABELS: np.array(json.dumps(labels, default=np.generic.item))}


def _labelled(arrays: dict[str, np.ndarray]) -> xr.Dataset:
    """The dataset that ``_arrays`` took apart."""
    labels = json.loads(arrays.pop(_LABELS).item())
    parts = {
        name: (labels["dims"][name], array, labels["of_variables"][name])
        for name, array in arrays.items()
    }
    coords = {name: parts.pop(name) for name in labels["coords"]}
    return xr.Dataset(parts, coords, labels["attrs"])


def storable(leaf: Any) -> np.ndarray:
    """A leaf as NumPy's own type: random keys as integers, bfloat16 as float32."""
    dtype: Any = getattr(leaf, "dtype", None)
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def named_arrays(variables: Any) -> dict[str, Any]:
    """Any pytree of arrays as nested dictionaries of NumPy arrays, by their names."""
    leaves = jax.tree.leaves_with_path(variables)
    return nested((names_of(path), storable(leaf)) for path, leaf in leaves)


@contextlib.contextmanager
def locked(workdir: pathlib.Path, *, wait: bool = False) -> Iterator[None]:
    """Keeps other runs out of a folder for as long as this process lives.

    A folder in use is refused, or waited for: reports take seconds.
    """
    with (workdir / LOCK_FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            raise BlockingIOError(
                f"workdir: expected a folder that no other run uses, got {workdir}, in "
                f"use by {file.read().strip() or 'another process'}; wait for it, or "
                "choose another workdir"
            ) from None
        with writing(workdir / LOCK_FILE):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield
        file.truncate(0)


_SIGNALS: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def signals_deferred() -> Iterator[None]:
    """Defers Ctrl-C and SIGTERM to the end of the block, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in _SIGNALS
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)
