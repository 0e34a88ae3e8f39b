"""One labelled file for a run: what is in it, and how it is written and read.

``study.nc`` is NetCDF through xarray. ``VARIABLES`` is its schema. Nothing is ever
half-written: a file is written whole beside its place, synced, and renamed.

Nothing damaged is read in silence: behind its NetCDF content, where HDF5 does not look,
the file ends in a *seal*, which has the SHA-256 of the content and that of every file
under ``networks/``. Reading verifies it. Files of version 1 have no seal, and are read
without.
"""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr

RESULTS_FILE = "study.nc"
_ENGINE = "h5netcdf"
_NETWORKS = "networks"
_SEALED = "sealed"  # the attribute of a file that must end in a seal
_MAGIC = b"ioca_jax"


class Variable(NamedTuple):
    """One variable of the schema."""

    dims: tuple[str, ...]
    long_name: str
    units: str


_CURVE = ("seed", "clamp", "scope", "ordering", "step")
_HISTORY = ("seed", "epoch")
_SCORE = ("seed", "measure", "neuron")
_PAIR = ("neuron", "other")
_ALONG = ("seed", "side", "scope", "ordering", "step")
_GROUP = ("seed", "scope", "group_size", "group")
_OF_LAYER = ("seed", "trajectory_epoch", "hidden_layer")
_BY_MEASURE = "as the coordinate unit says"
VARIABLES = {
    "score": Variable(
        _SCORE,
        "measure of a neuron on the validation split, where it is of a game among "
        "neurons of those of its layer",
        _BY_MEASURE,
    ),
    "network_score": Variable(
        _SCORE,
        "the same among all neurons, for measures that are of a game, else NaN",
        _BY_MEASURE,
    ),
    "variant_score": Variable(
        ("seed", "variant", "measure", "neuron"),
        "measure of information by another quantiser or part of the validation split",
        "bit",
    ),
    "p_value": Variable(
        _SCORE,
        "share of permutations of the labels that give a neuron as much, (b+1)/(m+1); "
        "NaN for measures that labels do not decide",
        "1",
    ),
    "p_value_family": Variable(
        _SCORE,
        "share of permutations of the labels that give any neuron of the network as "
        "much, (b+1)/(m+1)",
        "1",
    ),
    "selective_class": Variable(
        ("seed", "neuron"),
        "class that attains the KL selectivity, -1 where that is 0",
        "class",
    ),
    "activation_mean": Variable(
        ("seed", "neuron"),
        "mean output over the validation split, the mean clamp",
        "1",
    ),
    "joint_count": Variable(
        ("seed", "neuron", "code", "class"),
        "validation examples by code of the neuron and true class",
        "count",
    ),
    "order": Variable(
        ("seed", "scope", "ordering", "position"),
        "neuron ablated at each position, -1 past the scope's end",
        "neuron index",
    ),
    "correct": Variable(
        (*_CURVE, "class"),
        "test examples classified correctly, by true class, -1 past the scope's end",
        "count",
    ),
    "loss": Variable(_CURVE, "mean cross-entropy on the test split", "nat"),
    "accuracy": Variable(_CURVE, "share of the test split classified correctly", "1"),
    "single_correct": Variable(
        ("seed", "clamp", "neuron", "class"),
        "test examples classified correctly with this neuron alone ablated, by true "
        "class",
        "count",
    ),
    "single_loss": Variable(
        ("seed", "clamp", "neuron"),
        "mean cross-entropy on the test split with this neuron alone ablated",
        "nat",
    ),
    "pair_value": Variable(
        ("seed", "pair_measure", *_PAIR),
        "what two neurons say of the class, alone and together, on the validation "
        "split; positive co-information is redundancy, negative is synergy; what only "
        "one says is its mutual information less the redundancy",
        "bit",
    ),
    "pair_p_value": Variable(
        ("seed", *_PAIR),
        "share of permutations of the labels under which the co-information of any "
        "pair of the network is as far from 0, (b+1)/(m+1)",
        "1",
    ),
    "chosen_pair": Variable(
        ("seed", "chosen", "member_of_pair"),
        "pairs of a layer of the greatest and of the least co-information",
        "neuron index",
    ),
    "broja": Variable(
        ("seed", "chosen", "part"),
        "what a chosen pair says of the class, decomposed after Bertschinger et al.; "
        "NaN where a layer has no such pair, or no solution was found",
        "bit",
    ),
    "pair_effect_accuracy": Variable(
        ("seed", "clamp", *_PAIR),
        "accuracy on the test split that ablating both neurons costs beyond what each "
        "alone does; positive is redundancy, negative is synergy; NaN across layers",
        "1",
    ),
    "pair_effect_loss": Variable(
        ("seed", "clamp", *_PAIR),
        "the same in mean cross-entropy",
        "nat",
    ),
    "joint_information": Variable(
        _ALONG,
        "joint information with the class of the neurons ablated so far and of those "
        "left, on the validation split, plug-in; NaN where it has too few examples",
        "bit",
    ),
    "joint_information_miller_madow": Variable(
        _ALONG, "the same, corrected by Miller and Madow", "bit"
    ),
    "joint_information_null": Variable(
        _ALONG, "the same, plug-in, mean over permutations of the labels", "bit"
    ),
    "joint_p_value": Variable(
        _ALONG,
        "share of permutations of the labels that give as much, (b+1)/(m+1)",
        "1",
    ),
    "joint_cells": Variable(
        _ALONG,
        "pairs of joint code and class that occur, of which each takes five examples; "
        "past the first point that has too few examples that point's, at least as "
        "many; -1 past the scope's end",
        "count",
    ),
    "group_member": Variable(
        (*_GROUP, "member"),
        "neurons of groups drawn at random, -1 past the group's size",
        "neuron index",
    ),
    "redundancy_index": Variable(
        _GROUP,
        "sum of the neurons' information with the class over their joint one: above 1 "
        "redundancy dominates, below 1 synergy",
        "1",
    ),
    "o_information": Variable(
        _GROUP,
        "O-information of a group's neurons among themselves, Miller-Madow; positive "
        "is redundancy; NaN but for the first groups of three and more",
        "bit",
    ),
    "o_information_with_class": Variable(
        _GROUP, "the same of the neurons and the class", "bit"
    ),
    "o_information_p_value": Variable(
        _GROUP,
        "share of permutations of every neuron's codes on their own that give an "
        "O-information as far from 0, (b+1)/(m+1)",
        "1",
    ),
    "o_information_with_class_p_value": Variable(
        _GROUP,
        "share of permutations of the labels that give an O-information with the class "
        "as far from that without, (b+1)/(m+1)",
        "1",
    ),
    "trajectory_score": Variable(
        ("seed", "trajectory_epoch", "measure", "neuron"),
        "measure of information of a neuron after so many epochs, on the validation "
        "split",
        "bit",
    ),
    "trajectory_accuracy": Variable(
        ("seed", "trajectory_epoch"), "test accuracy after so many epochs", "1"
    ),
    "layer_entropy": Variable(
        _OF_LAYER,
        "entropy of a layer's joint code on the validation split, plug-in: at most the "
        "logarithm of the number of its examples",
        "bit",
    ),
    "layer_information": Variable(
        _OF_LAYER,
        "information of a layer's joint code with the class, Miller-Madow; NaN where "
        "it has too few examples",
        "bit",
    ),
    "layer_information_decoded": Variable(
        _OF_LAYER,
        "information with the class of what a naive Bayes decoder, fitted to the other "
        "half of the validation split, makes of a layer's codes: a lower bound of the "
        "layer's",
        "bit",
    ),
    "layer_cells": Variable(
        _OF_LAYER,
        "pairs of a layer's joint code and class that occur, of which each takes five "
        "examples",
        "count",
    ),
    "layer_redundancy_index": Variable(
        (*_OF_LAYER, "group"),
        "redundancy index of groups drawn at random in a layer",
        "1",
    ),
    "diverged": Variable(("seed",), "whether the training loss ceased finite", "1"),
    "train_loss": Variable(
        _HISTORY, "mean training loss of the epoch's batches, with penalty", "nat"
    ),
    "train_accuracy": Variable(
        _HISTORY, "mean training accuracy of the epoch's batches", "1"
    ),
    "validation_loss": Variable(
        _HISTORY, "mean cross-entropy on the validation split at the epoch's end", "nat"
    ),
    "validation_accuracy": Variable(
        _HISTORY, "accuracy on the validation split at the epoch's end", "1"
    ),
}


def make_results(
    arrays: Mapping[str, np.ndarray],
    coordinates: Mapping[str, Any],
    attributes: Mapping[str, str | int | float],
) -> xr.Dataset:
    """Labels arrays by the schema.

    Args:
        arrays: by variable name, each shaped as ``VARIABLES`` says.
        coordinates: labels of the axes.
        attributes: of the whole file.

    Returns:
        The labelled dataset.
    """
    variables = {
        name: (
            VARIABLES[name].dims,
            np.asarray(array),
            {"long_name": VARIABLES[name].long_name, "units": VARIABLES[name].units},
        )
        for name, array in arrays.items()
    }
    results = xr.Dataset(variables, coordinates, attributes)
    if "unit" in results.coords and len(units := np.unique(results["unit"])) == 1:
        for name in results.data_vars:
            if VARIABLES[str(name)].units == _BY_MEASURE:
                results[name].attrs["units"] = str(units[0])
    return results


def save_results(results: xr.Dataset, workdir: str | os.PathLike) -> pathlib.Path:
    """Writes ``study.nc`` whole or not at all, sealed with the networks beside it.

    Args:
        results: the labelled dataset.
        workdir: the run's folder; its networks are saved already.

    Returns:
        The file's path.
    """
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
    """Writes a sealed results file whole or not at all.

    Args:
        results: the labelled dataset.
        path: of the file.
        digests: by path relative to the file's folder, the SHA-256 of other files that
            belong to it.
    """
    # By way of memory: HDF5 crashes where a disk is full.
    content = encode_results(results.assign_attrs({_SEALED: "sha256"}))
    notes = json.dumps(dict(digests or {})).encode()
    sealed = content + notes + b"%016x" % len(notes)
    sealed += sha256(sealed).encode() + _MAGIC
    write_whole(path, lambda part: part.write_bytes(sealed))


def _read_sealed(path: pathlib.Path) -> tuple[bytes, dict[str, str] | None]:
    """A file's content, and the digests of what belongs to it, None without a seal."""
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
    """What to tell of a file that is not as it was written.

    Args:
        path: of the file.
        results: of the results file that it belongs to, if it is not one itself.

    Returns:
        One line, with what to do.
    """
    return (
        f"{path}: expected the file as it was written, got one that has changed since "
        f"(its checksum differs); put back a copy of it, or delete {results or path} "
        "and give the same command again to compute it anew"
    )


def sha256(content: bytes) -> str:
    """A digest of bytes.

    Args:
        content: the bytes.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(content).hexdigest()


def encode_results(results: xr.Dataset) -> bytes:
    """The content of ``study.nc``.

    Args:
        results: the labelled dataset.

    Returns:
        NetCDF.
    """
    encoding = {
        name: {"zlib": True, "complevel": 4}
        for name in results.data_vars
        if results[name].size > 10_000
    }
    return bytes(results.to_netcdf(engine=_ENGINE, encoding=encoding))


def decode_results(content: bytes) -> xr.Dataset:
    """What ``encode_results`` encoded.

    Args:
        content: NetCDF.

    Returns:
        The labelled dataset, in memory.
    """
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

    Args:
        parts: results that have no seed in common, and their networks' variables.
        seeds: the seeds wanted, in their order.

    Returns:
        The results and variables of those seeds. Attributes are those of the first
        part, but where parts come from different places all of these are named.

    Raises:
        ValueError: a seed that is in none, or in two, or parts of different data.
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


def compact(numbers: Sequence[int]) -> str:
    """Numbers as the command line takes them, ``0:3,7``.

    Args:
        numbers: integers, ascending.

    Returns:
        The text.
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1]:
            parts[-1][1] += 1
        else:
            parts.append([number, number + 1])
    return ",".join(str(a) if b == a + 1 else f"{a}:{b}" for a, b in parts)


def intact_accuracy(results: xr.Dataset) -> np.ndarray:
    """Test accuracy before anything is ablated.

    Args:
        results: a run's results.

    Returns:
        float32 [S].
    """
    return results["accuracy"].isel(clamp=0, scope=0, ordering=0, step=0).values


def num_test_examples(results: xr.Dataset) -> int:
    """How many examples accuracies are shares of.

    Args:
        results: a run's results.

    Returns:
        The size of the test split.
    """
    return int(results["class_size"].sum())


def count_correct(correct: np.ndarray) -> np.ndarray:
    """Test examples classified correctly, over all classes.

    Accuracies are compared as these counts, of which sums and differences are exact.

    Args:
        correct: int32 [..., C], by true class, -1 past a scope's end.

    Returns:
        Whole numbers, float64 [...]; NaN past a scope's end.
    """
    return np.where(correct[..., 0] < 0, np.nan, correct.sum(axis=-1))


def summed_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> tuple[xr.DataArray, int]:
    """Correct classifications [seed, step] to the scope's end, of all random draws.

    Args:
        results: a run's results.
        clamp: which.
        scope: which.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        The counts, whole numbers as float64, and how many examples they are out of.
    """
    where = orderings_of(results, ranked_by, direction)
    correct = results["correct"].sel(clamp=clamp, scope=scope).isel(ordering=where)
    correct = correct.transpose("ordering", "seed", "step", "class")
    counts = correct[0, ..., 0].copy(data=count_correct(correct.values).sum(axis=0))
    counts = counts.drop_vars(["ordering", "ranked_by", "direction", "draw", "class"])
    is_point = ~np.isnan(counts.values).all(axis=0)
    return counts[:, is_point], len(where) * num_test_examples(results)


def mean_curve(
    results: xr.Dataset, clamp: str, scope: str, ranked_by: str, direction: str
) -> xr.DataArray:
    """Accuracy [seed, step] to the scope's end, mean over random draws.

    Args:
        results: a run's results.
        clamp: which.
        scope: which.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        The curves, float64.
    """
    counts, examples = summed_curve(results, clamp, scope, ranked_by, direction)
    return counts / examples


def in_words(name: str) -> str:
    """A stored name as a reader would write it.

    Args:
        name: of a measure, a scope, ...

    Returns:
        The same with spaces.
    """
    return name.replace("_", " ").replace("kl ", "KL ")


def orderings_of(results: xr.Dataset, ranked_by: str, direction: str) -> np.ndarray:
    """Where orders of one kind lie on the axis ``ordering``.

    Args:
        results: a run's results.
        ranked_by: a measure, or ``random``.
        direction: ``ascending``, ``descending``, or ``random``.

    Returns:
        int [orders]: one, or all random draws; none if the run lacks it.
    """
    chosen = results["ranked_by"].values == ranked_by
    return np.flatnonzero(chosen & (results["direction"].values == direction))


def dataset_in_words(configuration: Mapping[str, Any]) -> str:
    """What networks were trained on, for titles.

    Args:
        configuration: of a run, by field.

    Returns:
        The dataset's name, and its label noise if there is any.
    """
    name = pathlib.Path(configuration["dataset"]).name
    noise = configuration.get("label_noise", 0.0)
    return f"{name} with label noise {noise:g}" if noise else name


def neurons_of(results: xr.Dataset, layer: int | np.integer | str) -> np.ndarray:
    """Where a layer's neurons lie on the neuron axis.

    Args:
        results: a run's results.
        layer: as the coordinate ``layer`` has it.

    Returns:
        int [width].
    """
    return np.flatnonzero(results["layer"].values == layer)


def layers_of(results: xr.Dataset) -> list[Any]:
    """The layers as the coordinate ``layer`` has them.

    Args:
        results: a run's results.

    Returns:
        A label per layer, first layer first.
    """
    return list(dict.fromkeys(results["layer"].values.tolist()))


def converged(results: xr.Dataset) -> xr.Dataset:
    """The seeds whose training did not diverge.

    Args:
        results: a run's results.

    Returns:
        The same without the diverged seeds.
    """
    return results.isel(seed=np.flatnonzero(~results["diverged"].values.astype(bool)))


def save_networks(variables: Any, workdir: str | os.PathLike) -> pathlib.Path:
    """Saves trained networks with Orbax under ``networks/``.

    Args:
        variables: a pytree whose leaves begin with S.
        workdir: the run's folder.

    Returns:
        The checkpoint's directory.
    """
    path = pathlib.Path(workdir).resolve() / _NETWORKS
    with _checkpointer() as checkpointer:
        checkpointer.save(path, jax.tree.map(np.asarray, variables), force=True)
    for below in (path, *path.rglob("*")):
        sync(below)
    return path


def read_networks(workdir: str | os.PathLike) -> Any:
    """Reads what ``save_networks`` saved.

    Args:
        workdir: the run's folder.

    Returns:
        The variables as NumPy arrays; leaves begin with S.

    Raises:
        FileNotFoundError: no networks there.
        ValueError: a file of them has changed since it was written.
    """
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
    """Orbax as this process uses it: alone, whatever others belong to the run."""
    import orbax.checkpoint as ocp

    own = jax.process_index()
    return ocp.StandardCheckpointer(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=own,
            active_processes={own},
            barrier_sync_key_prefix=f"of_{own}",
        )
    )


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any]) -> None:
    """Writes a file beside its place, syncs it, and renames it into place.

    Args:
        path: the file's place.
        write: writes the file at the path that it is given.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        sync(part)
        os.replace(part, path)
        sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Has the system write a file, or a directory's list of files, to the disk.

    Args:
        path: which.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
