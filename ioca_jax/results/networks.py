"""Networks of a run, with Orbax under ``networks/``: whole, or in parts if many.

A large study has a checkpoint for each part of its networks, ``networks/part_0``,
``networks/part_400``, ..., named by the position of its first network.
"""

import contextlib
import logging
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ioca_jax.results.files import (
    RESULTS_FILE,
    damaged,
    digest_of_file,
    read_digests,
    sync,
    writing,
)
from ioca_jax.results.trees import NAMES, is_plain, named, numbered

NETWORKS = "networks"
_PART = "part_"


def save_networks(variables: Any, workdir: str | os.PathLike) -> pathlib.Path:
    """Saves networks, leaves beginning with S, in one checkpoint."""
    return _save(variables, _folder(workdir))


def save_part(variables: Any, workdir: str | os.PathLike, first: int) -> pathlib.Path:
    """Saves some of many networks, the first of them at this position."""
    return _save(variables, _folder(workdir) / f"{_PART}{first}")


def move_networks(source: pathlib.Path, workdir: pathlib.Path) -> None:
    """Moves networks that are whole to their place, and removes what was there.

    The source goes too: once the results are written, nobody would look for it.
    """
    if (workdir / NETWORKS).is_symlink():  # what it leads to stays
        (workdir / NETWORKS).unlink()
    shutil.rmtree(workdir / NETWORKS, ignore_errors=True)
    os.rename(source / NETWORKS, workdir / NETWORKS)
    source.rmdir()
    sync(workdir)


def digests_of_networks(workdir: str | os.PathLike) -> dict[str, str]:
    """The SHA-256 of all files of the networks, by their paths in the run's folder."""
    path = _folder(workdir)
    return {
        file.relative_to(path.parent).as_posix(): digest_of_file(file)
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }


def verify_networks(workdir: str | os.PathLike) -> None:
    """Refuses files that are missing, have changed, or are not the run's own."""
    path = _folder(workdir)
    results = path.parent / RESULTS_FILE
    if not path.is_dir():
        raise FileNotFoundError(
            f"expected the networks of a finished run at {path}, found none"
        )
    digests = read_digests(results)
    for name, digest in digests.items():
        file = path.parent / name
        if not file.is_file() or digest_of_file(file) != digest:
            raise ValueError(damaged(file, results))
    for file in sorted(path.rglob("*")) if digests else ():  # version 1 has none
        if file.is_file() and file.relative_to(path.parent).as_posix() not in digests:
            raise ValueError(
                f"{file}: expected only files that the run has written, got one that "
                "it has not; remove it"
            )


def read_networks(
    workdir: str | os.PathLike, places: Sequence[int] | None = None
) -> Any:
    """Reads networks, as NumPy arrays; refuses changed files.

    Args:
        workdir: the run's folder.
        places: positions of the networks wanted, on the axis S; None reads all.
    """
    verify_networks(workdir)
    return take_networks(workdir, places)


def take_networks(workdir: str | os.PathLike, places: Sequence[int] | None) -> Any:
    """``read_networks`` of verified files; holds one part and what is wanted."""
    path = _folder(workdir)
    names = [part.name for part in path.glob(f"{_PART}*")]
    starts = sorted(int(name.removeprefix(_PART)) for name in names)
    if not starts:
        variables = _restore(path)
        return variables if places is None else _rows(variables, np.array(places, int))
    wanted = None if places is None else np.array(places, int)
    taken, where = [], []
    for start, end in zip(starts, [*starts[1:], np.inf], strict=True):
        if wanted is None:
            taken.append(_restore(path / f"{_PART}{start}"))
            continue
        here = np.flatnonzero((wanted >= start) & (wanted < end))
        if here.size or (start == 0 and not wanted.size):  # leaves without rows
            part = _restore(path / f"{_PART}{start}")
            taken.append(_rows(part, wanted[here] - start))
            where.append(here)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *taken)
    return (
        joined if wanted is None else _rows(joined, np.argsort(np.concatenate(where)))
    )


def _rows(variables: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], variables)


def _folder(workdir: str | os.PathLike) -> pathlib.Path:
    return pathlib.Path(workdir).resolve() / NETWORKS


def _save(variables: Any, path: pathlib.Path) -> pathlib.Path:
    arrays = jax.tree.map(np.asarray, variables)
    arrays = arrays if is_plain(arrays) else numbered(arrays)
    with writing(path):
        try:
            with _unlogged(), _checkpointer() as checkpointer:
                checkpointer.save(path, arrays, force=True)
        except Exception as error:  # Orbax passes on what the libraries below it raise
            raise _system_error(error) from error
        for below in (path.parent, path, *path.rglob("*")):
            sync(below)
    return path


def _system_error(error: Exception) -> OSError:
    """The error of the system that TensorStore's long message is about."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])))
    return error if isinstance(error, OSError) else OSError(str(error))


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Without the tracebacks that Orbax prints of an error which it raises too.

    Its threads log them. TensorStore prints one by ``sys.excepthook`` for each write
    that ends after the failure, also after this block: the hook stays replaced then.
    """
    logger, hook = logging.getLogger("absl"), sys.excepthook
    before = logger.level

    def other_errors(kind: Any, error: BaseException, *more: Any) -> None:
        if str(error) != "Event loop is closed":
            hook(kind, error, *more)

    logger.setLevel(logging.CRITICAL)
    sys.excepthook = other_errors
    try:
        yield
        sys.excepthook = hook
    finally:
        logger.setLevel(before)


def _restore(path: pathlib.Path) -> Any:
    with _checkpointer() as checkpointer:
        arrays = jax.tree.map(np.asarray, checkpointer.restore(path))
    return named(arrays) if NAMES in arrays else arrays


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer()
