"""A run: a configuration and a folder become results, and nothing finished is lost.

The seeds are worked on in chunks, each durable once it is done; the same call in the
same folder goes on where an earlier one stopped. Where several processes belong to the
run (``devices.start_processes``) each works on a share of every chunk, and the first
writes. Networks may come from elsewhere; the seeds then only label them, and nothing is
trained. The folder gets ``flags.txt``, ``events.jsonl``, ``networks/``, ``study.nc``,
``figures/`` and ``summary.txt``.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
import xarray as xr

from ioca_jax import plots
from ioca_jax.checks import check_classes
from ioca_jax.data import Dataset
from ioca_jax.devices import (
    broadcast,
    check_agreement,
    device_mesh,
    gather,
    is_primary,
    on_primary,
)
from ioca_jax.inference.tables import tabulate
from ioca_jax.networks.mlp import MLP
from ioca_jax.networks.training import Trained, check_fit, seeds_that_fit, train
from ioca_jax.report.summary import summarize
from ioca_jax.results.files import (
    RESULTS_FILE,
    atomic_write,
    decode_results,
    encode_results,
    join_seeds,
    load_results,
    read_networks,
    save_networks,
    save_results,
)
from ioca_jax.results.selection import intact_accuracy
from ioca_jax.sources import can_load, load_dataset
from ioca_jax.study.chunks import (
    Chunk,
    count_finished,
    load_chunks,
    locked,
    remove_chunks,
    save_chunk,
    signals_deferred,
)
from ioca_jax.study.config import StudyConfig
from ioca_jax.study.events import EVENTS_FILE, Listener, json_lines
from ioca_jax.study.given import GivenNetworks, accept_networks, describe_data
from ioca_jax.study.metadata import Stopwatch
from ioca_jax.study.orders import scopes_of
from ioca_jax.study.pipeline import study_networks
from ioca_jax.study.resources import Needs, check_fits, count_needs

# Seeds on a device at a time: enough that what a chunk costs beside is little, few
# enough that little is lost with a chunk. Accelerators want many at once.
_SEEDS_ON_A_CPU, _SEEDS_ON_AN_ACCELERATOR = 4, 64
# What may differ between shards: where things are, and how much is done at once.
_NOT_OF_THE_RESULTS = ("data_dir", "memory_gb")


@dataclasses.dataclass(frozen=True)
class Shard:
    """A share of a run's seeds: every ``number``-th, from the ``index``-th on.

    Attributes:
        index: counted from 0.
        number: of shards.
    """

    index: int = 0
    number: int = 1

    def __post_init__(self):
        """Checks the range."""
        if not 0 <= self.index < self.number:
            raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {self}")

    def __str__(self):
        """``i/n``, as the command line takes it."""
        return f"{self.index}/{self.number}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``i/n``.

        Args:
            text: such as ``0/4``.

        Returns:
            The shard.

        Raises:
            ValueError: not of that form, or out of range.
        """
        index, _, number = text.partition("/")
        try:
            numbers = int(index), int(number)
        except ValueError:
            raise ValueError(
                f"shard: expected i/n, such as 0/4, got {text!r}"
            ) from None
        return cls(*numbers)

    def seeds(self, config: StudyConfig) -> tuple[int, ...]:
        """The seeds of this shard.

        Args:
            config: the whole run's.

        Returns:
            Its share.

        Raises:
            ValueError: more shards than seeds.
        """
        if self.number > len(config.seeds):
            raise ValueError(
                f"shard: expected at most {len(config.seeds)} shards, one for each "
                f"seed, got {self}"
            )
        return config.seeds[self.index :: self.number]


def run_study(
    config: StudyConfig,
    workdir: str | os.PathLike,
    *,
    data: Dataset | None = None,
    network: MLP | None = None,
    variables: Any = None,
    shard: Shard | None = None,
    seeds_at_once: int | None = None,
    draw: bool = True,
    listeners: Sequence[Listener] = (),
) -> xr.Dataset:
    """Runs a study, goes on with one, or returns what it left in the folder.

    Args:
        config: what to run. Of data and networks that are given, the run's own
            configuration tells these, whatever this one asks for.
        workdir: the run's folder.
        data: the dataset, if the caller has it already; data of one's own too.
        network: the shape of trained networks, with ``variables``; None trains some.
        variables: theirs; leaves begin with S, in the order of ``config.seeds``.
        shard: the share of the seeds to run here; ``merge_runs`` joins shards.
        seeds_at_once: seeds in a chunk, the most that an interruption costs; None takes
            some for each device. Results do not depend on it, on a CPU to the last bit.
        draw: whether to draw figures too, seconds a run; a later call that finds the
            results there draws them.
        listeners: called with every event, as in ``ioca_jax.study.events``.

    Returns:
        The results, as in ``study.nc``.

    Raises:
        ValueError: a configuration or networks that do not fit the dataset, a
            validation split of a single class, or a folder that holds the results of
            another configuration, of other data or of other networks; a study that
            takes more memory or disk than there is.
        OSError: a folder that cannot be written or is in use, or data that is not
            there.
    """
    folder, shard = pathlib.Path(workdir), shard or Shard()
    config, given = accept_networks(config, network, variables)
    if data is None and os.path.isfile(config.dataset):
        data = load_dataset(**config.data_arguments())  # a file may have changed
    if data is not None:
        config = describe_data(config, data)
    seeds = shard.seeds(config)
    run = _Run(config, shard, seeds, folder, given, seeds_at_once, draw, listeners)
    check_agreement(run.identity())
    if on_primary(run.is_finished):
        return _broadcast_result(lambda: run.report(data and data.digest))
    return run.compute(data)


def _broadcast_result(function: Callable[[], xr.Dataset]) -> xr.Dataset:
    """Calls a function in the first process, and gives its results to all."""
    if jax.process_count() == 1:
        return function()
    made: list[xr.Dataset] = []
    on_primary(lambda: made.append(function()))
    return decode_results(broadcast(encode_results(made[0]) if made else b""))


@dataclasses.dataclass(frozen=True)
class _Run:
    """One call of ``run_study``, in one of the processes that make it."""

    config: StudyConfig
    shard: Shard
    seeds: tuple[int, ...]
    folder: pathlib.Path
    given: GivenNetworks | None
    seeds_at_once: int | None
    draw: bool
    listeners: Sequence[Listener]

    def __post_init__(self):
        if self.seeds_at_once is not None and self.seeds_at_once < 1:
            raise ValueError(
                f"seeds_at_once: expected at least 1, got {self.seeds_at_once}"
            )

    def compute(self, data: Dataset | None) -> xr.Dataset:
        watch = Stopwatch()
        config = self.config
        if data is None:
            data = load_dataset(**config.data_arguments())
        model = config.model(data.num_classes)
        if self.given:
            self.given.check_fit(data, len(config.seeds))
        else:
            check_fit(model, data, config.train_config())
        needs = count_needs(config, model, data, trains=self.given is None)
        on_primary(lambda: self._check_fits(needs))
        check_classes(data.validation.y)
        config.check_interactions(model, data)
        check_agreement({"data": data.digest})
        with contextlib.ExitStack() as stack:
            held: list[tuple[list[Chunk], list[pathlib.Path]]] = []
            if on_primary(lambda: self._open(stack, data.digest, held)):
                # Somebody finished it meanwhile.
                return _broadcast_result(lambda: self.report(data.digest))
            watch.mark("loaded")
            with watch.listening():
                chunks, damaged = held[0] if held else ([], [])  # the first has them
                for file in damaged:
                    self._emit(event="damaged", file=str(file))
                chunks += self._compute_chunks(model, data, chunks, needs, watch)
            watch.mark("computed")
            return _broadcast_result(lambda: self._finish(chunks, watch))

    def _check_fits(self, needs: Needs) -> None:
        finished = count_finished(self.folder)
        check_fits(needs, len(self.seeds), self.folder, finished)

    def _finish(self, chunks: Sequence[Chunk], watch: Stopwatch) -> xr.Dataset:
        """Joins all chunks and writes the run."""
        joined, variables = join_seeds(chunks, self.seeds)
        results = joined.assign_attrs(seconds=json.dumps(watch.seconds))
        _write_run(results, variables, self.folder, self.draw)
        remove_chunks(self.folder)
        self._emit(event="end", seconds=watch.seconds)
        return results

    def report(self, data_digest: str | None) -> xr.Dataset:
        """The results that the folder holds, reported again; refuses other data's."""
        results = load_results(self.folder)
        theirs = results.attrs["data_digest"]
        if data_digest not in (None, theirs):
            raise ValueError(
                f"workdir: expected a new folder or one of these data, got "
                f"{self.folder}, which holds a run on other data called "
                f"{self.config.dataset} (digest {theirs}, not {data_digest}); choose "
                "another workdir"
            )
        _write_report(results, self.folder, self.draw)
        remove_chunks(self.folder)
        return results

    def _emit(self, **event: Any) -> None:
        if is_primary():
            for listener in (json_lines(self.folder / EVENTS_FILE), *self.listeners):
                listener(event)

    def identity(self) -> dict[str, str]:
        """What decides the results and how work is cut up."""
        ours = _flag_values(self._flags())
        return {n: v for n, v in ours.items() if n not in _NOT_OF_THE_RESULTS} | {
            "seeds_at_once": str(self.seeds_at_once)
        }

    def _load_chunks(self, digest: str) -> tuple[list[Chunk], list[pathlib.Path]]:
        """The folder's chunks; refuses those of another run."""
        chunks, damaged = load_chunks(self.folder)
        config = json.loads(json.dumps(dataclasses.asdict(self.config)))
        for chunk in chunks:
            theirs = json.loads(chunk.results.attrs["configuration"])
            name = _differing_field(theirs, config)
            if name is None and chunk.results.attrs["data_digest"] != digest:
                name = "data"
            given = chunk.results.attrs.get("variables_digest")
            if name is None and given != (self.given and self.given.digest):
                name = "networks"
            if name is not None:
                raise ValueError(
                    f"workdir: expected chunks of this run, got {self.folder} with "
                    f"some of a run with other {name}; choose another workdir"
                )
        return chunks, damaged

    def _compute_chunks(
        self,
        model: MLP,
        data: Dataset,
        there: Sequence[Chunk],
        needs: Needs,
        watch: Stopwatch,
    ) -> list[Chunk]:
        """The chunks of those seeds that no chunk has yet."""
        chunks = []
        finished = on_primary(
            lambda: [s for c in there for s in c.results["seed"].values.tolist()]
        )
        missing = [seed for seed in self.seeds if seed not in finished]
        most = jax.process_count() * seeds_that_fit(
            *(model, data, self.config.train_config(), self.config.memory_gb),
            len(self.config.trajectory_epochs),
        )
        size = min(most, self.seeds_at_once or self._default_size())
        number = -(-len(missing) // size)
        parts = np.array_split(missing, number) if missing else []
        # The first is the longest: all are filled up to its program.
        share = -(-max(map(len, parts), default=0) // jax.process_count())
        self._emit(
            event="start",
            seeds=len(self.seeds),
            finished=len(finished),
            chunks=len(parts),
            epochs=0 if self.given else self.config.epochs,
            scopes=len(scopes_of(model)) + self.config.interactions,
            estimated_seconds=round(needs.seconds(len(missing)), 1),
        )
        for number, part in enumerate(parts, 1):
            seeds = part.tolist()
            # Filled up with seeds that are not wanted, so that all share a program.
            others = (s for s in itertools.count() if s not in self.seeds)
            fill = share * jax.process_count() - len(seeds)
            filled = [*seeds, *itertools.islice(others, fill)]
            own = filled[jax.process_index() * share :][:share]
            chunk = self._compute_chunk(seeds, own, number, model, data, watch)
            finished += seeds
            chunks.append(chunk)
            if is_primary():
                save_chunk(chunk, self.folder)
            accuracy = intact_accuracy(chunk.results)  # NaN where training diverged
            self._emit(
                event="chunk",
                chunk=number,
                finished=len(finished),
                seeds=len(self.seeds),
                test_error=_mean(1 - accuracy),
                seconds=watch.now(),
            )
        return chunks

    def _default_size(self) -> int:
        on_cpu = jax.default_backend() == "cpu"
        each = _SEEDS_ON_A_CPU if on_cpu else _SEEDS_ON_AN_ACCELERATOR
        return each * device_mesh().size * jax.process_count()

    def _compute_chunk(
        self,
        seeds: Sequence[int],
        own: Sequence[int],
        number: int,
        model: MLP,
        data: Dataset,
        watch: Stopwatch,
    ) -> Chunk:
        """Trains and studies this process's share of some seeds; gathers all shares."""
        wanted = sum(seed in seeds for seed in own)

        def on_epoch(epoch: int, metrics: dict[str, np.ndarray]) -> None:
            means = {name: _mean(values[:wanted]) for name, values in metrics.items()}
            told = {"chunk": number, "first_seed": seeds[0], "epoch": epoch}
            self._emit(event="epoch", **told, **means)

        def on_scope(scope: str) -> None:
            watch.mark("first_curves")
            self._emit(event="scope", chunk=number, scope=scope)

        if self.given:
            trained = self._take(self.given, own)
        else:
            trained = train(
                *(model, data, self.config.train_config(), own),
                keep_epochs=self.config.trajectory_epochs,
                memory_gb=self.config.memory_gb,
                on_epoch=on_epoch,
            )
            watch.mark("trained")
        results = study_networks(self.config, model, data, trained, on_scope=on_scope)
        if self.given:
            results.attrs["variables_digest"] = self.given.digest
        arrays = {name: results[name].values for name in results.data_vars}
        tree = jax.tree.map(np.asarray, (arrays, trained.variables))
        arrays, variables = jax.tree.map(
            lambda leaf: np.asarray(leaf)[: len(seeds)], gather(tree)
        )
        template = results.isel(seed=[0] * len(seeds)).assign_coords(seed=list(seeds))
        return Chunk(template.copy(data=arrays), variables)

    def _take(self, given: GivenNetworks, seeds: Sequence[int]) -> Trained:
        """The networks of seeds; the first stands for seeds that are not wanted."""
        place_of = {seed: place for place, seed in enumerate(self.config.seeds)}
        return given.take([place_of.get(seed, 0) for seed in seeds], np.array(seeds))

    def is_finished(self) -> bool:
        """Whether the folder holds these results; refuses another run's folder."""
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(
                f"workdir: expected a directory, got {self.folder}, which is a file"
            )
        file = self.folder / "flags.txt"
        if not file.is_file():
            if (self.folder / RESULTS_FILE).exists():
                raise ValueError(
                    "workdir: expected a new folder or one of this configuration, got "
                    f"{self.folder}, which holds {RESULTS_FILE} without flags.txt; "
                    "choose another workdir"
                )
            return False
        theirs = _flag_values(file.read_text().splitlines())
        ours = _flag_values(self._flags())
        name = _differing_field(theirs, ours)
        if name is not None:
            raise ValueError(
                "workdir: expected a new folder or one of this configuration, got "
                f"{self.folder}, which holds a run with {name}={theirs.get(name)}, not "
                f"{ours.get(name)}; choose another workdir"
            )
        return (self.folder / RESULTS_FILE).is_file()

    def _flags(self) -> list[str]:
        flags = self.config.flags()
        if self.shard != Shard():
            flags.append(f"--shard={self.shard}")
        if self.given:
            flags.append(f"--variables_digest={self.given.digest}")
        return flags

    def _write_flags(self, data_digest: str) -> None:
        name = self.config.dataset
        replay = "python -m experiments.run_study --flagfile=flags.txt --workdir=..."
        loads = can_load(name) or self.config.data_dir
        from_caller = [
            *([] if loads else [f"the data {name} (digest {data_digest})"]),
            *(["the networks"] if self.given else []),
        ]
        if from_caller:
            replay = (
                f"from Python alone, as {' and '.join(from_caller)} came from the "
                "caller of ioca_jax.run_study"
            )
        text = "\n".join([f"# Replay: {replay}", *self._flags(), ""])
        atomic_write(self.folder / "flags.txt", lambda part: part.write_text(text))

    def _open(self, stack: contextlib.ExitStack, digest: str, held: list) -> bool:
        """Makes the folder, keeps others out, reads its chunks, and leaves the flags.

        Tells whether it was finished before others were kept out.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(self.folder))
            if self.is_finished():
                return True
            held.append(self._load_chunks(digest))
            self._write_flags(digest)
            return False
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(
                f"workdir: expected a folder that can be written, got {self.folder} "
                f"({error.strerror or error})"
            ) from error


def _differing_field(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str | None:
    """The first field of the results that is not the same."""
    names = sorted((theirs.keys() | ours.keys()) - set(_NOT_OF_THE_RESULTS))
    return next((n for n in names if theirs.get(n) != ours.get(n)), None)


def is_of_configuration(flags_file: pathlib.Path, config: StudyConfig) -> bool:
    """Whether a folder's flags are those of a configuration, whole.

    Args:
        flags_file: its ``flags.txt``.
        config: the configuration.

    Returns:
        Whether they give the same results.
    """
    theirs = _flag_values(flags_file.read_text(errors="replace").splitlines())
    return _differing_field(theirs, _flag_values(config.flags())) is None


def _mean(values: np.ndarray) -> float | None:
    """The mean over networks that have not diverged; JSON knows no NaN."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None


def _flag_values(lines: Sequence[str]) -> dict[str, str]:
    pairs = (line[2:].partition("=") for line in lines if line.startswith("--"))
    # A single seed was written without its comma once.
    return {name: value.removesuffix(",") for name, _, value in pairs}


def _write_run(
    results: xr.Dataset, variables: Any, folder: pathlib.Path, draw: bool
) -> None:
    """Networks, then results, which say that all is there, then reports of them."""
    with signals_deferred():
        save_networks(variables, folder)
        save_results(results, folder)
    _write_report(results, folder, draw)


def _write_report(results: xr.Dataset, folder: pathlib.Path, draw: bool) -> None:
    """Everything that is made from the results alone."""
    tables = tabulate(results)
    (folder / "tables").mkdir(exist_ok=True)
    for name, table in tables.items():
        file = folder / "tables" / f"{name}.csv"
        atomic_write(file, partial(table.to_csv, index=False))
    if draw:
        plots.save_figures(results, folder / "figures", tables)
    text = summarize(results, tables) + "\n"
    atomic_write(folder / "summary.txt", lambda part: part.write_text(text))


def load_networks(workdir: str | os.PathLike) -> tuple[MLP, Any]:
    """Reads a run's trained networks.

    Args:
        workdir: the run's folder.

    Returns:
        The networks' shape and their variables, whose leaves begin with S.

    Raises:
        FileNotFoundError: no finished run there.
        ValueError: a file that has changed since it was written.
    """
    results = load_results(workdir)
    config = config_of(results)
    return config.model(results.sizes["class"]), read_networks(workdir)


def config_of(results: xr.Dataset) -> StudyConfig:
    """The configuration that gave results.

    Args:
        results: a run's results.

    Returns:
        The configuration.
    """
    fields = json.loads(results.attrs["configuration"])
    lists = {name: tuple(v) for name, v in fields.items() if isinstance(v, list)}
    return StudyConfig(**(fields | lists))


def merge_runs(
    folders: Sequence[str | os.PathLike],
    workdir: str | os.PathLike,
    *,
    partial: bool = False,
) -> xr.Dataset:
    """Joins the runs of shards into the run of all their seeds.

    Args:
        folders: finished runs of one configuration, shards of its seeds.
        workdir: the folder to write, as ``run_study`` does.
        partial: write it also where seeds are missing, as a run of those there.

    Returns:
        The results.

    Raises:
        ValueError: no runs, runs of different configurations, data or networks, a seed
            in two of them, seeds missing, or a file that has changed since it was
            written.
        FileNotFoundError: a folder without a finished run.
    """
    if not folders:
        raise ValueError("expected the folders of one or more finished runs, got none")
    parts = [load_results(folder) for folder in folders]
    configs = [json.loads(part.attrs["configuration"]) for part in parts]
    for folder, config in zip(folders, configs, strict=True):
        name = _differing_field(config, configs[0])
        if name is not None:
            raise ValueError(
                "expected runs of one configuration, got "
                f"{name}={configs[0].get(name)} in {folders[0]} and "
                f"{name}={config.get(name)} in {folder}"
            )
    config = config_of(parts[0])
    if partial:
        there = {seed for part in parts for seed in part["seed"].values.tolist()}
        seeds = tuple(seed for seed in config.seeds if seed in there)
        config = dataclasses.replace(config, seeds=seeds)
    networks = [read_networks(folder) for folder in folders]
    pairs = list(zip(parts, networks, strict=True))
    results, variables = join_seeds(pairs, config.seeds)
    seconds = [json.loads(part.attrs["seconds"]) for part in parts]
    results = results.assign_attrs(
        configuration=json.dumps(dataclasses.asdict(config)),
        # Of shards side by side: the slowest one's.
        seconds=json.dumps({k: max(s[k] for s in seconds) for k in seconds[0]}),
    )
    digest = results.attrs.get("variables_digest")
    model = config.model(results.sizes["class"])
    given = GivenNetworks(model, variables, digest) if digest else None
    folder = pathlib.Path(workdir)
    run = _Run(config, Shard(), config.seeds, folder, given, None, True, ())
    if run.is_finished():
        if not (folder / "summary.txt").is_file():  # stopped while it was reported
            return run.report(results.attrs["data_digest"])
        raise ValueError(
            f"workdir: expected a new folder, got {workdir}, which holds a finished run"
        )
    with contextlib.ExitStack() as stack:
        run._open(stack, results.attrs["data_digest"], [])
        _write_run(results, variables, run.folder, run.draw)
    return results


def how_to_go_on(workdir: str | os.PathLike) -> str:
    """What a person must know whose run was interrupted.

    Args:
        workdir: the run's folder.

    Returns:
        One line: what is finished, and how to go on.
    """
    folder = pathlib.Path(workdir)
    finished = count_finished(folder)
    if not finished and (folder / RESULTS_FILE).is_file():
        return f"interrupted: {folder} is finished; the same command reports it"
    return (
        f"interrupted: {finished} networks are finished in {folder}; the same command "
        "goes on from there"
    )
