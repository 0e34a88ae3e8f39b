"""A results file names the version of its fields; files of others are refused."""

import json
import lzma
import pathlib
import shutil

import command_line
import h5netcdf
import h5py
import numpy as np
import pytest
import xarray as xr
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.results import files
from ioca_jax.results.pieces import Chunk
from ioca_jax.study import chunks

FOREIGN = (
    "expected results of ioca_jax, got a file of another program, without the "
    "configuration of a study; give the folder of a finished run"
)


@pytest.fixture
def folder(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def refusal(read) -> str:
    with pytest.raises(ValueError, match=".") as caught:
        read()
    return str(caught.value)


def test_files_that_are_written_have_the_version(folder, tmp_path):
    files.write_results(ioca.load_results(folder), tmp_path / "other.nc")
    for path in (folder / "study.nc", tmp_path / "other.nc"):
        with h5netcdf.File(path) as file:
            assert file.attrs["schema_version"] == 5
        assert ioca.load_results(path).attrs["schema_version"] == 5


def test_files_of_other_programs_are_refused(folder):
    path = folder / "study.nc"
    weather = xr.Dataset({"score": ("seed", np.arange(3.0))}, {"seed": [0, 1, 2]})
    weather.to_netcdf(path, engine="h5netcdf")
    expected = f"{path}: {FOREIGN}"
    assert refusal(lambda: ioca.load_results(folder)) == expected
    assert refusal(lambda: ioca.load_results(folder, lazy=True)) == expected
    assert refusal(lambda: ioca.load_networks(folder)) == expected
    assert refusal(lambda: ioca.merge_runs([folder], folder / "all")) == expected
    again = refusal(lambda: ioca.run_study(TINY, folder, data=own_data()))
    assert again == expected
    done = command_line.run("experiments.report", folder)
    assert (done.returncode, done.stderr) == (2, f"error: {expected}\n")
    with h5py.File(path, "w") as file:
        file["numbers"] = np.arange(4)
    assert refusal(lambda: ioca.load_results(folder)).startswith(f"{path}: expected ")


@pytest.mark.parametrize("version", [6, 99, 1, "next"])
def test_files_of_other_versions_are_refused(folder, version):
    path = folder / "study.nc"
    results = ioca.load_results(folder).assign_attrs(schema_version=version)
    path.write_bytes(files.encode_results(results.assign(new=("seed", [1, 2, 3]))))
    assert refusal(lambda: ioca.load_results(folder)) == (
        f"{path}: expected results of schema version 5 or earlier, got version "
        f"{version}; read it with the version of ioca_jax that wrote it, or a newer one"
    )


def test_unknown_fields_are_named(folder):
    path = folder / "study.nc"
    results = ioca.load_results(folder)
    files.write_results(results.assign(curvature=("seed", [1, 2, 3])), path)
    assert refusal(lambda: ioca.load_results(folder)) == (
        f"{path}: expected the variables of schema version 5, got curvature, which it "
        "does not have; read it with the version of ioca_jax that wrote it, or with "
        "xarray.open_dataset"
    )
    fields = json.loads(results.attrs["configuration"]) | {"schedule": "cosine"}
    files.write_results(results.assign_attrs(configuration=json.dumps(fields)), path)
    assert refusal(lambda: ioca.load_networks(folder)) == (
        "study.nc: expected a configuration of this version of ioca_jax, got one with "
        "schedule; read it with the version that wrote it, or a newer one"
    )


# A run of version 2.0.0: three networks 12-4-3-4 on random data, with interactions,
# two points of a trajectory, direct effects and robustness.
VERSION_2 = pathlib.Path(__file__).parent / "study_of_version_2.nc.xz"
GONE = {
    *("broja", "chosen_pair", "chosen_for", "chosen_layer", "member_of_pair", "part"),
    *("joint_p_value", "pair_p_value", "o_information", "o_information_p_value"),
    *("o_information_with_class_p_value", "group_member", "member", "layer_cells"),
}


def test_a_file_that_version_2_wrote_is_read_and_reported(tmp_path):
    (tmp_path / "study.nc").write_bytes(lzma.decompress(VERSION_2.read_bytes()))
    with h5py.File(tmp_path / "study.nc") as file:  # by another reader
        assert '"ioca_jax": "2.0.0"' in str(file.attrs["versions"])
        assert "schema_version" not in file.attrs
        stored = {n: v[()] for n, v in file.items() if v.dtype.kind in "fi"}
        axes = {name for name, item in file.items() if item.is_scale}
    results = ioca.load_results(tmp_path)
    assert results.attrs["schema_version"] == 5
    values = {name for name in stored if name not in axes | GONE}
    assert {"score", "order", "pair_value", "trajectory_score"} < values
    for name in values:
        np.testing.assert_array_equal(results[name], stored[name], name)
    assert not GONE & set(results.variables)
    done = command_line.run("ioca_jax.__main__", "report", "--nofigures", tmp_path)
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / "summary.txt").read_text("utf-8")
    # At step 0 of any order nothing is ablated; there are 50 test examples.
    errors = 100 - 100 * stored["correct"][:, 0, 0, 0, 0].sum(axis=-1) / 50
    mean, deviation = errors.mean(), errors.std(ddof=1)
    assert f"Test error: {mean:.2f} ± {deviation:.2f} %" in summary
    assert "12-4-3-4 relu" in (tmp_path / "report.html").read_text()


def test_files_of_version_2_are_read(folder):
    """These are sealed, and do not name their version."""
    results = ioca.load_results(folder)
    path = folder / "study.nc"
    digests = files.read_digests(path)
    unnamed = results.drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in results.attrs.items() if k != "schema_version"}
    )
    path.write_bytes(files.encode_results(unnamed.assign_attrs(sealed="sha256")))
    files.seal(path, digests)
    assert ioca.load_results(folder).identical(results)
    with ioca.load_results(folder, lazy=True) as read:
        assert read.load().identical(results)
    assert ioca.load_networks(folder)[1]["params"].keys() == {
        *("dense_0", "dense_1", "dense_2")
    }
    merged = ioca.merge_runs([folder], folder / "all")
    assert merged.attrs["schema_version"] == 5
    xr.testing.assert_equal(merged, results)


@pytest.mark.parametrize("version", [3, 4])
def test_what_earlier_versions_stored_is_left_out(folder, tmp_path, version):
    """Also of unfinished runs, whose chunks do not name their version."""
    results = ioca.load_results(folder)
    pairs = results.sizes["seed"], results.sizes["neuron"]
    older = results.assign(
        network_score=results["score"],
        pair_p_value=(("seed", "neuron", "other"), np.ones((*pairs, pairs[-1]))),
        broja=(("seed", "chosen", "part"), np.zeros((results.sizes["seed"], 4, 4))),
    ).assign_coords(chosen_for=("chosen", list("abcd")), part=list("abcd"))
    path = tmp_path / "older.nc"
    marks = {"sealed": "sha256", "schema_version": version}
    path.write_bytes(files.encode_results(older.assign_attrs(marks)))
    files.seal(path, {})
    with ioca.load_results(path, lazy=True) as read:
        assert read.load().identical(results)
    chunks.save_chunk(
        Chunk(older, {"kernel": np.zeros(results.sizes["seed"])}), tmp_path
    )
    (chunk,), damaged = chunks.find_chunks(tmp_path)
    assert not damaged
    assert chunk.load().results.identical(results)
