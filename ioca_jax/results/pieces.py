"""Studies larger than memory: their seeds are joined and written piece by piece.

``study.nc`` is made with no seeds and grows by one piece after another, or is written
at once if there is one piece. Its variables lie in blocks of as many seeds as a piece
has, and of about a megabyte, so that a piece is written without reading, and one order
of many networks is read without the others.
"""

import dataclasses
import io
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
import xarray as xr
from xarray.conventions import encode_cf_variable

from ioca_jax.results import networks
from ioca_jax.results.files import (
    COMPRESSION,
    LEAST_COMPRESSED,
    MARKS,
    RESULTS_FILE,
    atomic_write,
    encode_results,
    load_results,
    seal,
)
from ioca_jax.results.fingerprint import difference
from ioca_jax.results.subsets import PIECE_BYTES, compact, evenly

# Of the pieces that are written, beside their bytes; a piece has one seed at least.
_PIECE_SEEDS = 256
_BLOCK_BYTES = 2**20
UNFINISHED_NETWORKS = ".networks.part"
_OF_PLACES = ("versions", "source_revision", "device")


class Chunk(NamedTuple):
    """Results and networks of some seeds; leaves of the variables begin with S."""

    results: xr.Dataset
    variables: Any


@runtime_checkable
class Source(Protocol):
    """Where the results and networks of some seeds are stored."""

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds, in the order of the rows."""
        ...

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Attributes of the results."""
        ...

    def take(self, rows: np.ndarray) -> Chunk:
        """Reads some of the seeds, by ascending position."""
        ...


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished run as a source, its results opened lazily."""

    folder: pathlib.Path
    results: xr.Dataset

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "FinishedRun":
        """Opens a folder whose files have not changed; refuses others."""
        results = load_results(folder, lazy=True)
        try:
            networks.verify_networks(folder)
        except BaseException:
            results.close()
            raise
        return cls(pathlib.Path(folder), results)

    def __enter__(self) -> "FinishedRun":
        return self

    def __exit__(self, *error: object) -> None:
        self.results.close()

    @property
    def seeds(self) -> list[int]:
        """In the order of the rows."""
        return self.results["seed"].values.tolist()

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Of the results."""
        return self.results.attrs

    def take(self, rows: np.ndarray) -> Chunk:
        """Reads some of the seeds."""
        results = self.results.isel(seed=evenly(rows)).load()
        return Chunk(results, networks.take_networks(self.folder, rows.tolist()))


@dataclasses.dataclass(frozen=True)
class Joined:
    """The results and networks of some seeds, in their order, from several sources.

    Attributes:
        sources: with no seed in common.
        seeds: that are wanted, all of them in some source.
        attrs: of the results.
    """

    sources: Sequence[Source]
    seeds: tuple[int, ...]
    attrs: Mapping[str, Any]

    def pieces(self) -> Iterator[Chunk]:
        """Consecutive seeds: few enough to be held, the same number in each piece."""
        place_of = {
            seed: (source, row)
            for source, of_source in enumerate(self.sources)
            for row, seed in enumerate(of_source.seeds)
        }
        size = self._size(*place_of[self.seeds[0]])
        for start in range(0, len(self.seeds), size):
            places = np.array([place_of[s] for s in self.seeds[start : start + size]])
            yield self._take(*places.T)

    def _size(self, source: int, row: int) -> int:
        results, variables = self.sources[source].take(np.array([row]))
        weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
        most = PIECE_BYTES // max(1, results.nbytes + weights)
        return max(1, min(most, _PIECE_SEEDS, len(self.seeds)))

    def _take(self, sources: np.ndarray, rows: np.ndarray) -> Chunk:
        """The rows of some sources, as listed."""
        taken, places = [], []
        for source in np.unique(sources):
            here = np.flatnonzero(sources == source)
            here = here[np.argsort(rows[here])]
            taken.append(self.sources[source].take(rows[here]))
            places.append(here)
        datasets, variables = zip(*taken, strict=True)
        joined = xr.concat(
            datasets,
            "seed",
            data_vars="minimal",
            coords="minimal",
            join="exact",
            compat="equals",
            combine_attrs="override",
        )
        back = np.argsort(np.concatenate(places))
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[back], *variables)
        return Chunk(joined.isel(seed=back).assign_attrs(self.attrs), whole)


def join_seeds(
    sources: Sequence[Source], seeds: Sequence[int], **attributes: str
) -> Joined:
    """Joins the results and networks of some seeds each, of one configuration.

    Sources have no seed in common; the result has the seeds wanted, in their order.
    Attributes are those of the first source and those given, except that the devices
    and versions of all sources are named. Refuses missing and repeated seeds and
    sources of different data.
    """
    for name, one, parted in (
        ("data_digest", "one dataset", "different images or labels"),
        ("variables_digest", "one set of networks", "networks of another"),
        ("steps", "one choice of points", "another; give --points as a list"),
    ):
        if len({source.attrs.get(name) for source in sources}) > 1:
            raise ValueError(f"expected parts of {one}, got some of {parted}")
    fingerprint = _shared_fingerprint(sources)
    there = np.concatenate([source.seeds for source in sources])
    values, times = np.unique(there, return_counts=True)
    if times.max(initial=0) > 1:
        raise ValueError(
            f"seeds: expected each in one part, got {values[times.argmax()]} twice"
        )
    missing = sorted(set(seeds) - set(there.tolist()))
    if missing:
        raise ValueError(
            f"seeds: expected results of all {len(seeds)}, "
            f"{len(missing)} are missing: {compact(missing)}"
        )
    places = {
        name: "; ".join(dict.fromkeys(source.attrs[name] for source in sources))
        for name in _OF_PLACES
    }
    attrs = dict(sources[0].attrs) | places | fingerprint | attributes
    return Joined(sources, tuple(seeds), attrs)


def _shared_fingerprint(sources: Sequence[Source]) -> dict[str, str]:
    """What the networks compute, where it is stored; refuses several functions."""
    stored = [s.attrs["fingerprint"] for s in sources if "fingerprint" in s.attrs]
    for other in stored[1:]:
        differs = difference(stored[0], other)
        if differs is not None:
            raise ValueError(
                "expected parts of one set of networks, got some with the same "
                f"variables and {differs}; compute all with one function"
            )
    return {"fingerprint": stored[0]} if stored else {}


def save_study(joined: Joined, workdir: str | os.PathLike) -> None:
    """Writes ``networks/``, then ``study.nc``, sealed with them; each whole or not.

    Networks are written in a folder beside their place; those that are there stay until
    all are written.
    """
    folder = pathlib.Path(workdir)
    beside = folder / UNFINISHED_NETWORKS

    def write(part: pathlib.Path) -> None:
        _write_pieces(joined, beside, part)
        networks.move_networks(beside, folder)

    try:
        shutil.rmtree(beside, ignore_errors=True)
        atomic_write(folder / RESULTS_FILE, write)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_pieces(joined: Joined, folder: pathlib.Path, part: pathlib.Path) -> None:
    start, total = 0, len(joined.seeds)
    fixed: xr.Dataset | None = None
    for results, variables in joined.pieces():
        size = results.sizes["seed"]
        encoding = _encoding(results, total)
        marked = results.assign_attrs(MARKS)
        if size == total:
            networks.save_networks(variables, folder)
            # A file with an unlimited dimension takes h5netcdf twice the time to open.
            options = {"encoding": encoding, "unlimited_dims": []}
            part.write_bytes(encode_results(marked, **options))
            break
        networks.save_part(variables, folder, start)
        others = results.drop_dims("seed")
        if fixed is None:
            fixed = others
            options = {"encoding": encoding, "unlimited_dims": ["seed"]}
            empty = marked.isel(seed=slice(0, 0))
            part.write_bytes(encode_results(empty, **options))
        elif not others.equals(fixed):
            raise ValueError(
                "expected parts that differ in their seeds alone, got some with "
                "other coordinates; join runs of one version"
            )
        _append(results, part, start)
        start += size
    seal(part, networks.digests_of_networks(folder))


def _encoding(results: xr.Dataset, num_seeds: int) -> dict[Any, dict[str, Any]]:
    """How variables of as many seeds are stored, written as many as here at once."""
    encoding = {}
    for name, variable in results.variables.items():
        if "seed" not in variable.dims:
            continue
        rows, *shape = variable.shape
        assert variable.dims[0] == "seed"
        encoding[name] = {"chunksizes": _block(rows, shape, variable.dtype.itemsize)}
        size = num_seeds * variable.size // rows
        if name in results.data_vars and size > LEAST_COMPRESSED:
            encoding[name] |= COMPRESSION
    return encoding


def _block(rows: int, shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """All rows, and of the last axes as much as makes about a megabyte."""
    left = max(1, _BLOCK_BYTES // (itemsize * rows))
    sizes: list[int] = []
    for length in reversed(shape):
        sizes.append(max(1, min(length, left)))
        left //= sizes[-1]
    return rows, *reversed(sizes)


def _append(results: xr.Dataset, path: pathlib.Path, start: int) -> None:
    """Writes the next seeds into a file."""
    import h5netcdf

    end = start + results.sizes["seed"]
    with _PatientFile(path, "r+b") as raw:
        try:
            with h5netcdf.File(raw, "r+") as file:
                file.resize_dimension("seed", end)
                for name, variable in results.variables.items():
                    if "seed" in variable.dims:
                        encoded = encode_cf_variable(variable)
                        file.variables[name][start:end] = encoded.values
        finally:
            if raw.error:
                raise raw.error


class _PatientFile(io.FileIO):
    """A file that keeps an error of writing: HDF5 crashes where a disk is full."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        size = len(view)
        try:
            while len(view) and not self.error:
                view = view[super().write(view) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = error
            return size or 0
