"""Files of a run's results and networks; every file that is read back is verified."""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import xarray as xr

from ioca_jax.results.selection import compact

RESULTS_FILE = "study.nc"
_ENGINE = "h5netcdf"
_NETWORKS = "networks"
_SEALED = "sealed"  # the attribute of a file that must end in a seal
_MAGIC = b"ioca_jax"


def save_results(results: xr.Dataset, workdir: str | os.PathLike) -> pathlib.Path:
    """Writes ``study.nc`` whole or not at all, sealed with the saved networks."""
    folder = pathlib.Path(workdir)
    networks = sorted((folder / _NETWORKS).rglob("*"))
    digests = {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes())
        for path in networks
        if path.is_file()
    }
    write_results(results, folder / RESULTS_FILE, digests)
    return folder / RESULTS_FILE


def write_results(
    results: xr.Dataset, path: pathlib.Path, digests: Mapping[str, str] | None = None
) -> None:
    """Writes a sealed results file, with the SHA-256 of other files that belong to it.

    Paths of these are relative to the file's folder.
    """
    # By way of memory: HDF5 crashes where a disk is full.
    content = encode_results(results.assign_attrs({_SEALED: "sha256"}))
    notes = json.dumps(dict(digests or {})).encode()
    sealed = content + notes + b"%016x" % len(notes)
    sealed += sha256(sealed).encode() + _MAGIC
    atomic_write(path, lambda part: part.write_bytes(sealed))


def _read_sealed(path: pathlib.Path) -> tuple[bytes, dict[str, str] | None]:
    """A file without its seal, and the digests in that; None without one."""
    content = path.read_bytes()
    if not content.endswith(_MAGIC):
        return content, None
    end = len(content) - len(_MAGIC)
    body, digest = content[: end - 64], content[end - 64 : end]
    if sha256(body).encode() != digest:
        raise ValueError(damaged(path))
    length = int(body[-16:], 16)
    return body[: -16 - length], json.loads(body[-16 - length : -16])


def damaged(path: pathlib.Path, results: pathlib.Path | None = None) -> str:
    """The error of a file that has changed since it was written, with its way out.

    ``results`` is the results file that it belongs to, if it is not one itself.
    """
    return (
        f"{path}: expected the file as it was written, got one that has changed since "
        f"(its checksum differs); put back a copy of it, or delete {results or path} "
        "and give the same command again to compute it anew"
    )


def sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def encode_results(results: xr.Dataset) -> bytes:
    """The content of ``study.nc``, NetCDF."""
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name in results.data_vars
        if results[name].size > 10_000
    }
    return bytes(results.to_netcdf(engine=_ENGINE, encoding=encoding))


def decode_results(content: bytes) -> xr.Dataset:
    """A dataset in memory, from NetCDF."""
    return xr.load_dataset(io.BytesIO(content), engine=_ENGINE)


def load_results(workdir: str | os.PathLike) -> xr.Dataset:
    """Reads a run's results.

    Args:
        workdir: the run's folder, or the path of its ``study.nc``.

    Returns:
        The labelled dataset, in memory; the file is closed.

    Raises:
        FileNotFoundError: no results there.
        ValueError: a file that is not a results file, or has changed since it was
            written.
    """
    path = pathlib.Path(workdir)
    path = path if path.suffix == ".nc" else path / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the results of a finished run at {path}, found none"
        )
    content, digests = _read_sealed(path)
    try:
        results = decode_results(content)
    except Exception as error:  # HDF5 raises many kinds for a broken file
        raise ValueError(
            f"{path}: expected a results file, got one that cannot be read "
            f"({(str(error).splitlines() or ['?'])[0]})"
        ) from error
    if results.attrs.pop(_SEALED, None) and digests is None:
        raise ValueError(damaged(path))
    return results


def join_seeds(
    parts: Sequence[tuple[xr.Dataset, Any]], seeds: Sequence[int]
) -> tuple[xr.Dataset, Any]:
    """Joins the results and networks of some seeds each, of one configuration.

    Parts have no seed in common; the result has the seeds wanted, in their order.
    Attributes are those of the first part, except that the devices and versions of all
    parts are named. Refuses missing and repeated seeds and parts of different data.
    """
    datasets, variables = zip(*parts, strict=True)
    for name, one, parted in (
        ("data_digest", "one dataset", "different images or labels"),
        ("variables_digest", "one set of networks", "networks of another"),
    ):
        if len({part.attrs.get(name) for part in datasets}) > 1:
            raise ValueError(f"expected parts of {one}, got some of {parted}")
    there = np.concatenate([part["seed"].values for part in datasets])
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
    where = np.array([there.tolist().index(seed) for seed in seeds])
    joined = xr.concat(
        datasets,
        "seed",
        data_vars="minimal",
        coords="minimal",
        join="exact",
        compat="equals",
        combine_attrs="override",
    )
    places = {
        name: "; ".join(dict.fromkeys(part.attrs[name] for part in datasets))
        for name in ("versions", "source_revision", "device")
    }
    networks = jax.tree.map(lambda *leaves: np.concatenate(leaves)[where], *variables)
    return joined.isel(seed=where).assign_attrs(places), networks


def save_networks(variables: Any, workdir: str | os.PathLike) -> pathlib.Path:
    """Saves networks, leaves beginning with S, with Orbax under ``networks/``."""
    path = pathlib.Path(workdir).resolve() / _NETWORKS
    with _checkpointer() as checkpointer:
        checkpointer.save(path, jax.tree.map(np.asarray, variables), force=True)
    for below in (path, *path.rglob("*")):
        sync(below)
    return path


def read_networks(workdir: str | os.PathLike) -> Any:
    """Reads what ``save_networks`` saved, as NumPy arrays; refuses changed files."""
    folder = pathlib.Path(workdir).resolve()
    path, results = folder / _NETWORKS, folder / RESULTS_FILE
    if not path.is_dir():
        raise FileNotFoundError(
            f"expected the networks of a finished run at {path}, found none"
        )
    for name, digest in (_read_sealed(results)[1] or {}).items():
        file = folder / name
        if not file.is_file() or sha256(file.read_bytes()) != digest:
            raise ValueError(damaged(file, results))
    with _checkpointer() as checkpointer:
        return jax.tree.map(np.asarray, checkpointer.restore(path))


def _checkpointer() -> Any:
    """Orbax in this process alone, even if others belong to the run."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=own,
            active_processes={own},
            barrier_sync_key_prefix=f"of_{own}",
        )
    )


def atomic_write(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file beside its place, syncs it, and renames it into place."""
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Makes the system write a file, or a directory's list of files, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
