"""One unit of work: what a worker is told, and what it does.

A job is a file of JSON in the run's folder, the same for all units of a run: the
configuration, where the data are, and digests that both must have.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ioca_jax.checks import described
from ioca_jax.data import Dataset, Split
from ioca_jax.devices import keep_programs
from ioca_jax.results.files import atomic_write, digest_of_file, sha256
from ioca_jax.results.subsets import intact_accuracy
from ioca_jax.results.trees import named, numbered
from ioca_jax.sources import load_dataset
from ioca_jax.study.chunks import (
    UNITS,
    chunk_name,
    locked,
    named_arrays,
    save_chunk,
    sound_chunk,
)
from ioca_jax.study.compute import Computation, mean
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.events import EVENTS_FILE, json_lines
from ioca_jax.study.given_networks import import_networks
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.plan import (
    Identity,
    Plan,
    Request,
    accept_networks,
    make_plan,
)
from ioca_jax.study.workers.port import Unit

_SPLITS = ("train", "validation", "test")
_CACHE = "jax_compilation_cache_dir"
_CPU_DEVICES = "jax_num_cpu_devices"


@dataclasses.dataclass(frozen=True)
class Job:
    """What all units of a run share; every field is as JSON holds it.

    Attributes:
        folder: of the run.
        config: fields of the configuration, as results record them.
        seeds: of the run, or of its shard.
        data: ``load`` and arguments of ``load_dataset``, ``file`` and a path, or
            ``network``: the function that returns the networks returns them too.
        variables: the file of networks that were given as arrays; None for others.
        data_digest: that the data must have.
        variables_digest: that the networks must have; None if they are trained.
        fingerprint: of what these compute.
        memory_gb: that one worker may take.
        cpu_devices: of the driver's JAX on a CPU. On as many a worker computes the
            same bits: sums over examples are split by them.
        cache: where JAX keeps compiled programs; empty for nowhere.
        modules: where the driver looks for modules.
    """

    folder: str
    config: Mapping[str, Any]
    seeds: Sequence[int]
    data: Sequence[Any]
    variables: str | None
    data_digest: str
    variables_digest: str | None
    fingerprint: str | None
    memory_gb: float
    cpu_devices: int
    cache: str
    modules: Sequence[str]


def write_job(request: Request, plan: Plan, folder: pathlib.Path) -> tuple[str, str]:
    """Writes what the units of a run share; returns the file and its digest."""
    folder = folder.absolute()
    units = folder / UNITS
    units.mkdir(exist_ok=True)
    own, given = request.identity, plan.given
    job = Job(
        folder=str(folder),
        config=own.fields,
        seeds=own.seeds,
        data=_sent_data(request.config, plan.data, units),
        variables=_sent_variables(request, units) if given else None,
        data_digest=plan.data.digest,
        variables_digest=own.variables_digest,
        fingerprint=own.fingerprint,
        memory_gb=plan.memory_gb,
        cpu_devices=max(1, getattr(jax.config, _CPU_DEVICES)),
        cache=getattr(jax.config, _CACHE) or "",
        modules=[os.path.abspath(path) for path in sys.path],
    )
    text = json.dumps(dataclasses.asdict(job))
    file = units / "job.json"
    atomic_write(file, lambda part: part.write_text(text, "utf-8"))
    return str(file), sha256(text.encode())


def check_sendable(request: Request) -> None:
    """Refuses networks that are Python objects: these have no path."""
    given = request.given
    if given and not given.is_built_in and not request.config.network:
        raise ValueError(
            "workers: expected networks that other processes can make, got a "
            f"{type(given.network).__name__} as an argument; name a function that "
            "returns it, StudyConfig(network='package.module:function')"
        )


def _sent_data(
    config: StudyConfig, data: Dataset, units: pathlib.Path
) -> tuple[str, Any]:
    """How a worker gets the data: loaded again, from a file, or from a function."""
    if data.loaded_by is not None:
        loaded = dict(data.loaded_by)
        if loaded["name"].endswith(".npz"):  # workers have another current directory
            loaded["name"] = os.path.abspath(loaded["name"])
        if loaded["data_dir"]:
            data_dir = os.path.expanduser(loaded["data_dir"])
            loaded["data_dir"] = os.path.abspath(data_dir)
        return "load", loaded
    if config.network and import_networks(config.network)[2] is data:
        return "network", None
    tree = {split: getattr(data, split)._asdict() for split in _SPLITS}
    if data.annotations:
        tree["annotations"] = {
            name: dict(zip(_SPLITS, arrays, strict=True))
            for name, arrays in data.annotations.items()
        }
    if jax.tree.structure(tree) != jax.tree.structure(named(numbered(tree))):
        raise ValueError(
            "workers: expected examples that are an array or dictionaries of arrays, "
            f"got {type(data.train.x).__name__}; give them as a dictionary"
        )
    file = units / "data.npz"
    _write_arrays(file, numbered(tree))
    return "file", [str(file), data.name, data.num_classes]


def _sent_variables(request: Request, units: pathlib.Path) -> str | None:
    if request.config.network or request.given is None:
        return None
    file = units / "networks.npz"
    _write_arrays(file, numbered(named_arrays(request.given.variables)))
    return str(file)


def _write_arrays(file: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    def write(part: pathlib.Path) -> None:
        with part.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **arrays)

    atomic_write(file, write)


def unit_of(
    folder: pathlib.Path, seeds: Sequence[int], length: int, number: int
) -> Unit:
    """A unit of a run, with its place."""
    name = chunk_name(seeds)
    events = folder / UNITS / name / EVENTS_FILE
    return Unit(tuple(seeds), length, number, folder / "chunks" / name, events)


def run_unit(
    job: str, digest: str, seeds: list[int], length: int, number: int
) -> dict[str, str]:
    """Computes and stores one chunk, unless it is there; this is what workers call.

    One process at a time works on a unit. Another that was sent the same unit waits,
    and finds it done.

    Returns:
        ``host`` and the ``digest`` of the chunk's checksums; or, of what stopped it,
        ``kind``, the type, and ``error``, the text.
    """
    try:
        computation = _open_job(job, digest)
        unit = unit_of(computation.folder, seeds, length, number)
        work = unit.events.parent
        work.mkdir(exist_ok=True)
        with locked(work, wait=True):
            if not sound_chunk(unit.place):
                _compute(computation, unit)
        sums = digest_of_file(unit.place / "checksums.json")
        return {"host": socket.gethostname(), "digest": sums}
    except Exception as error:
        logging.getLogger(__name__).debug("traceback of the error", exc_info=True)
        kinds = (ValueError, OSError, ImportError)
        kind = next((k for k in kinds if isinstance(error, k)), RuntimeError)
        text = described(error) if kind is RuntimeError else str(error)
        return {"kind": kind.__name__, "error": text}


def _compute(computation: Computation, unit: Unit) -> None:
    with contextlib.suppress(FileNotFoundError):
        unit.events.unlink()
    emit = json_lines(unit.events)
    own = dataclasses.replace(
        computation, emit=lambda **event: emit(event), watch=Stopwatch()
    )
    emit({"event": "unit", "chunk": unit.number, "host": socket.gethostname()})
    chunk = own.chunk(unit.seeds, unit.length, unit.number)
    save_chunk(chunk, computation.folder)
    error = mean(1 - intact_accuracy(chunk.results))
    emit({"event": "chunk", "chunk": unit.number, "test_error": error})


@functools.lru_cache(maxsize=1)
def _open_job(file: str, digest: str) -> Computation:
    """Plans the study of a job; refuses one whose files are not the driver's."""
    path = pathlib.Path(file)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise OSError(
            f"workdir: expected a folder that all workers share, got {path.parents[1]}"
            f", in which {socket.gethostname()} cannot read {path.name} "
            f"({error.strerror})"
        ) from error
    if sha256(text.encode()) != digest:
        raise OSError(
            f"workdir: expected a folder that all workers share, got {path.parents[1]}"
            f", in which {socket.gethostname()} sees another {path.name}"
        )
    job = Job(**json.loads(text))
    sys.path += [folder for folder in job.modules if folder not in sys.path]
    with contextlib.suppress(RuntimeError):  # JAX is running, with the devices it has
        jax.config.update(_CPU_DEVICES, job.cpu_devices)
    if job.cache and not getattr(jax.config, _CACHE):
        keep_programs(job.cache)
    lists = {n: tuple(v) for n, v in job.config.items() if isinstance(v, list)}
    config = StudyConfig(**{**job.config, **lists})
    network, variables, own_data = None, None, None
    if job.variables:
        with np.load(job.variables) as arrays:
            variables = named(arrays)
    elif config.network:
        network, variables, own_data = import_networks(config.network)
    data = _received_data(job, own_data)
    if job.variables:
        network = config.model(data.num_classes, data.train.x.shape[1:])
    config, given = accept_networks(config, network, variables)
    _check("data", data.digest, job.data_digest)
    _check("networks", given.digest if given else None, job.variables_digest)
    plan = dataclasses.replace(make_plan(config, data, given), memory_gb=job.memory_gb)
    plan = dataclasses.replace(plan, fields=job.config)
    own = Identity({}, (), tuple(job.seeds), job.variables_digest, job.fingerprint)
    return Computation(
        plan, own, pathlib.Path(job.folder), lambda **event: None, Stopwatch()
    )


def _check(what: str, found: str | None, expected: str | None) -> None:
    if found != expected:
        raise ValueError(
            f"{what}: expected the digest {expected}, as where the study was started, "
            f"got {found} on {socket.gethostname()}; give all machines the same files"
        )


def _received_data(job: Job, own: Dataset | None) -> Dataset:
    how, what = job.data
    if how == "load":
        return load_dataset(**what)
    if how == "network":
        assert own is not None
        return own
    file, name, num_classes = what
    with np.load(file) as arrays:
        tree = named(arrays)
    splits = [Split(**tree[split]) for split in _SPLITS]
    annotations = {
        name: tuple(of[split] for split in _SPLITS)
        for name, of in tree.get("annotations", {}).items()
    }
    return Dataset(name, *splits, num_classes=num_classes, annotations=annotations)
