"""Files of a run's results and networks; every file that is read back is verified."""

import contextlib
import hashlib
import json
import os
import pathlib
import resource
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import xarray as xr

from ioca_jax.results.variables import VARIABLES, without_gone

RESULTS_FILE = "study.nc"
ENGINE = "h5netcdf"
SEALED = "sealed"  # the attribute of a file that must end in a seal
SCHEMA = "schema_version"
SCHEMA_VERSION = 5
MARKS = {SEALED: "sha256", SCHEMA: SCHEMA_VERSION}
"""Attributes of every results file that is written."""
# By version, the reader that makes results of the next one. Files up to version 2 do
# not name theirs; they have the same fields.
_READERS: dict[int, Callable[[xr.Dataset], xr.Dataset]] = {
    2: lambda results: results,
    3: without_gone,
    4: without_gone,
}
# Results that would take more than this share of the free memory are opened lazily.
_SHARE_OF_MEMORY = 0.25
_MAGIC = b"ioca_jax"
# What the address space of a small study grows by, on two cores.
_ADDRESSES_OF_COMPILING = 1_500_000_000
_CONTROL_GROUPS = pathlib.Path("/sys/fs/cgroup")
# In versions 2 and 1: limit, usage, and the key of droppable caches in memory.stat.
_MEMORY_OF_GROUPS = (
    ("memory.max", "memory.current", "inactive_file"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def write_results(
    results: xr.Dataset, path: pathlib.Path, digests: Mapping[str, str] | None = None
) -> None:
    """Writes a sealed results file, with the SHA-256 of other files that belong to it.

    Paths of these are relative to the file's folder.
    """
    # By way of memory: HDF5 crashes where a disk is full.
    content = encode_results(results.assign_attrs(MARKS))

    def write(part: pathlib.Path) -> None:
        part.write_bytes(content)
        seal(part, digests or {})

    atomic_write(path, write)


def seal(path: pathlib.Path, digests: Mapping[str, str]) -> None:
    """Appends digests of other files, and that of all the file so far."""
    notes = json.dumps(dict(digests)).encode()
    with path.open("ab") as file:
        file.write(notes + b"%016x" % len(notes))
    digest = digest_of_file(path)
    with path.open("ab") as file:
        file.write(digest.encode() + _MAGIC)


def _read_seal(file: BinaryIO, path: pathlib.Path) -> dict[str, str] | None:
    """The digests in the seal of a file that has not changed; None without a seal."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - len(_MAGIC)))
    if file.read() != _MAGIC:
        return None
    end = size - len(_MAGIC) - 64
    file.seek(max(0, end))
    digest = file.read(64)
    if end < 16 or _digest(file, end) != digest.decode("ascii", "replace"):
        raise ValueError(damaged(path))
    file.seek(end - 16)
    length = int(file.read(16), 16)
    file.seek(end - 16 - length)
    return json.loads(file.read(length))


_WAY_OUT = (
    "put back a copy of it, or delete {} and give the same command again to compute it "
    "anew"
)


def read_digests(path: pathlib.Path) -> dict[str, str]:
    """By path, the SHA-256 of the other files that belong to a results file."""
    with path.open("rb") as file:
        return _read_seal(file, path) or {}


def damaged(path: pathlib.Path, results: pathlib.Path | None = None) -> str:
    """The error of a file that has changed since it was written, with its way out.

    ``results`` is the results file that it belongs to, if it is not one itself.
    """
    return (
        f"{path}: expected the file as it was written, got one that has changed since "
        f"(its checksum differs); {_WAY_OUT.format(results or path)}"
    )


def sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_file(path: pathlib.Path) -> str:
    """The SHA-256 of a file, which is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(file: BinaryIO, size: int) -> str:
    """The SHA-256 of the first bytes of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, 2**20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def encode_results(results: xr.Dataset, **options: Any) -> bytes:
    """The content of ``study.nc``, NetCDF; options of ``to_netcdf``."""
    encoding = {
        name: COMPRESSION
        for name in results.data_vars
        if results[name].size > LEAST_COMPRESSED
    }
    options = {"encoding": encoding} | options
    with _without_locks_of_dask():
        return bytes(results.to_netcdf(engine=ENGINE, **options))


@contextlib.contextmanager
def _without_locks_of_dask() -> Iterator[None]:
    """Lets xarray write into memory while this process is connected to Dask's cluster.

    It would take the cluster's lock for a file, which fails for one in memory.
    """
    dask = sys.modules.get("dask")
    with dask.config.set(scheduler="threads") if dask else contextlib.nullcontext():
        yield


COMPRESSION = {"zlib": True, "complevel": 4}
LEAST_COMPRESSED = 10_000  # values


def load_results(workdir: str | os.PathLike, *, lazy: bool | None = None) -> xr.Dataset:
    """Reads a run's results.

    Args:
        workdir: the run's folder, or the path of its ``study.nc``.
        lazy: whether variables stay in the file until they are used: then select from
            them what is to be read (``isel``), and close the dataset in the end;
            ``chunk`` makes Dask arrays of them, where Dask is installed. False reads
            all into memory and closes the file; None does so unless that would take
            more than a quarter of the free memory.

    Returns:
        The labelled dataset.

    Raises:
        FileNotFoundError: no results there.
        ValueError: a file that is not a results file, is one of a newer version, or has
            changed since it was written.

    Example:
        >>> import ioca_jax as ioca
        >>> results = ioca.load_results("runs/demo")  # of make demo, say
        >>> results["score"].dims
        ('seed', 'measure', 'neuron')
    """
    path = pathlib.Path(workdir)
    path = path if path.suffix == ".nc" else path / RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the results of a finished run at {path}, found none"
        )
    with path.open("rb") as file:
        digests = _read_seal(file, path)
        try:
            # Not kept once they are read: a study may be larger than the memory.
            results = xr.open_dataset(path, engine=ENGINE, cache=False)
            if lazy is None:
                lazy = results.nbytes > _SHARE_OF_MEMORY * free_memory()
            if not lazy:
                with results:
                    results = results.load()
        except ImportError:  # a library is broken, not the file
            raise
        except Exception as error:  # HDF5 raises many kinds for a broken file
            reason = (str(error).splitlines() or ["?"])[0]
            raise ValueError(
                f"{path}: expected a results file, got one that cannot be read "
                f"({reason}); {_WAY_OUT.format(path)}"
            ) from error
    if results.attrs.pop(SEALED, None) and digests is None:
        results.close()
        raise ValueError(damaged(path))
    try:
        return _read_schema(results, path)
    except ValueError:
        results.close()
        raise


def _read_schema(results: xr.Dataset, path: pathlib.Path) -> xr.Dataset:
    """Results as this version has them; refuses files of others, and newer ones."""
    version = results.attrs.get(SCHEMA, min(_READERS))
    if "configuration" not in results.attrs:
        raise ValueError(
            f"{path}: expected results of ioca_jax, got a file of another program, "
            "without the configuration of a study; give the folder of a finished run"
        )
    if str(version) not in map(str, (*_READERS, SCHEMA_VERSION)):
        raise ValueError(
            f"{path}: expected results of schema version {SCHEMA_VERSION} or earlier, "
            f"got version {version}; read it with the version of ioca_jax that wrote "
            "it, or a newer one"
        )
    opened = results
    for earlier in range(int(version), SCHEMA_VERSION):
        results = _READERS[earlier](results)
    unknown = sorted(map(str, results.data_vars.keys() - VARIABLES.keys()))
    if unknown and path.name == RESULTS_FILE:  # other jobs have variables of their own
        raise ValueError(
            f"{path}: expected the variables of schema version {SCHEMA_VERSION}, got "
            f"{unknown[0]}, which it does not have; read it with the version of "
            "ioca_jax that wrote it, or with xarray.open_dataset"
        )
    results.attrs[SCHEMA] = SCHEMA_VERSION
    if results is not opened:
        results.set_close(opened.close)
    return results


def free_memory() -> int:
    """Bytes that this process may still take, within its limits and its group's."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    meminfo = pathlib.Path("/proc/meminfo")
    if meminfo.exists():
        fields = (line.split() for line in meminfo.read_text().splitlines())
        kib = {field[0]: int(field[1]) for field in fields}
        available = 1024 * kib.get("MemAvailable:", available // 1024)
    return min([available, *_left_to_process(), *_left_to_control_group()])


def _left_to_process() -> Iterator[int]:
    """Bytes below the limit of the process's address space (ulimit -v), if it has one.

    Compiling and its threads take addresses too, beside what is counted.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    statm = pathlib.Path("/proc/self/statm")
    if limit != resource.RLIM_INFINITY and statm.exists():
        pages = int(statm.read_text().split()[0])
        taken = pages * os.sysconf("SC_PAGE_SIZE") + _ADDRESSES_OF_COMPILING
        yield max(0, limit - taken)


def _left_to_control_group() -> Iterator[int]:
    """Bytes below the limit of each control group there is; none without a limit.

    Cached files count as free: the system drops them before it refuses memory.
    """
    for limit_file, usage_file, cached in _MEMORY_OF_GROUPS:
        file = _CONTROL_GROUPS / limit_file
        limit = file.read_text().strip() if file.exists() else "max"
        if limit.isdigit():
            usage = int((_CONTROL_GROUPS / usage_file).read_text())
            lines = file.with_name("memory.stat").read_text().splitlines()
            stat = dict(line.split() for line in lines)
            yield max(0, int(limit) - usage + min(usage, int(stat.get(cached, 0))))


class WriteError(OSError):
    """A file or folder that could not be written; the message names it."""


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
    """Errors of the system in the block name what is written, in one line."""
    try:
        yield
    except WriteError:  # of a file within it
        raise
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or ["?"])[0]
        raise WriteError(f"{path}: could not be written ({reason})") from error


def atomic_write(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file beside its place, syncs it, and renames it into place."""
    part = path.with_name(f".{path.name}.part")
    with writing(path):
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
