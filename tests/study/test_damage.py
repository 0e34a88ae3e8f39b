"""A byte changed in any file that is read back is found, and the file is named."""

import dataclasses
import os
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
import xarray as xr
from same_runs import assert_same
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.results import files, networks, pieces
from ioca_jax.study import chunks, events
from ioca_jax.study.folder import read_flags

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    return tmp_path / "run"


def flip(path: pathlib.Path, place: int, mask: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def places(path: pathlib.Path, number: int, last: int = 0) -> list[int]:
    """Some bytes at random, and the last ones."""
    size = path.stat().st_size
    some = RNG.integers(size, size=number).tolist() if size else []
    return sorted({*some, *range(max(0, size - last), size)})


def assert_found(path: pathlib.Path, place: int, read, named: pathlib.Path) -> None:
    mask = int(RNG.integers(1, 256))
    flip(path, place, mask)
    with pytest.raises(ValueError, match="put back a copy of it, or delete") as caught:
        read()
    assert str(caught.value).startswith(f"{named}: expected "), (path, place, mask)
    assert "\n" not in str(caught.value)
    flip(path, place, mask)


def test_every_byte_of_the_results_is_guarded(folder):
    path = folder / "study.nc"
    for place in places(path, 200, last=100):
        assert_found(path, place, lambda: ioca.load_results(folder), path)
    ioca.load_results(folder)
    os.truncate(path, path.stat().st_size - 8)  # the mark of the seal
    with pytest.raises(ValueError, match=f"^{path}: expected the file as it was wr"):
        ioca.load_results(folder)


@pytest.mark.parametrize("share", [0, 0.5])
def test_a_file_that_was_cut_off(folder, share):
    path = folder / "study.nc"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match="put back a copy of it, or delete") as caught:
        ioca.load_results(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")


def damaged_flags(content: bytes) -> list[bytes]:
    """Flipped, cut off, and no text."""
    flipped = bytearray(content)
    flipped[int(RNG.integers(content.index(b"--"), len(content)))] ^= 2
    # In a value: it was another configuration's.
    other = content.replace(b"--batch_size=10", b"--batch_size=30")
    return [other, bytes(flipped), content[:-20], b"", b"\xff\xfe"]


def heard_of(config, folder, **options) -> list[dict]:
    heard = []
    ioca.run_study(
        *(config, folder),
        data=own_data(), draw=False, listeners=[heard.append], **options,
    )  # fmt: skip
    return heard


@pytest.mark.usefixtures("unchecked_shapes")
def test_damaged_flags_of_an_unfinished_run_cost_nothing(
    computed, tiny_run, folder, tmp_path
):
    def stop(event):
        if event["event"] == "chunk":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        ioca.run_study(
            *(TINY, tmp_path / "stopped"),
            data=own_data(), seeds_at_once=2, listeners=[stop],
        )  # fmt: skip
    content = (tmp_path / "stopped" / "flags.txt").read_bytes()
    again = tmp_path
    for number, changed in enumerate(damaged_flags(content)[::2]):
        again = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "stopped", again)
        (again / "flags.txt").write_bytes(changed)
        if number == 0:  # a chunk tells what the run is
            other = dataclasses.replace(TINY, batch_size=30)
            message = "with some of a run with other batch_size; choose another workdir"
            with pytest.raises(ValueError, match=message):
                heard_of(other, again)
            with pytest.raises(ValueError, match="with some of a run with other shard"):
                heard_of(TINY, again, shard=ioca.Shard(1, 2))
        heard = heard_of(TINY, again)
        assert heard[0] == {
            "event": "damaged",
            "file": str(again / "flags.txt"),
            "remedy": "written again",
        }
        assert [e["finished"] for e in heard if e["event"] == "start"] == [2]
    assert_same(again, tiny_run)


def test_every_byte_of_the_flags_is_guarded(folder):
    file = folder / "flags.txt"
    content = file.read_bytes()
    flags = read_flags(file)
    seal = content.index(b"# SHA-256 of the other lines: ")
    for place in range(len(content)):
        flip(file, place, int(RNG.integers(1, 256)))
        # A line that is no digest any more tells nothing: the flags are what they were.
        is_mark = seal - 1 <= place < seal + 30
        assert read_flags(file) in ([None, flags] if is_mark else [None]), place
        file.write_bytes(content[:place])
        assert read_flags(file) is None, place
        file.write_bytes(content)


@pytest.mark.usefixtures("unchecked_shapes")
def test_damaged_flags_of_a_finished_run_are_restored(folder, tiny_run, capsys):
    file = folder / "flags.txt"
    content = file.read_bytes()
    expected = {"event": "damaged", "file": str(file), "remedy": "written again"}
    for number, changed in enumerate(damaged_flags(content)[:2]):
        file.write_bytes(changed)
        if number == 0:  # the results tell what the run is
            other = dataclasses.replace(TINY, batch_size=30)
            message = "which holds a run with batch_size=10, not 30; choose another wor"
            with pytest.raises(ValueError, match=message):
                heard_of(other, folder)
            message = r"which holds a run with seeds=\[5, 2, 8\], not \[5, 8\]; choose "
            with pytest.raises(ValueError, match=message):
                heard_of(TINY, folder, shard=ioca.Shard(0, 2))
        assert heard_of(TINY, folder) == [expected]
        assert file.read_bytes() == content
    events.log_lines()(expected)
    assert capsys.readouterr().err == f"{file} is damaged: written again\n"
    assert_same(folder, tiny_run)


def test_flags_of_version_2_are_read(folder):
    """These have no digest."""
    file = folder / "flags.txt"
    first, seal, others = file.read_text().split("\n", 2)
    digest = files.sha256(f"{first}\n{others}".encode())
    assert seal == f"# SHA-256 of the other lines: {digest}"
    file.write_text(f"{first}\n{others}")
    assert heard_of(TINY, folder) == []
    message = "which holds a run with batch_size=10, not 30; choose another workdir"
    with pytest.raises(ValueError, match=message):
        heard_of(dataclasses.replace(TINY, batch_size=30), folder)


def test_every_byte_of_the_networks_is_guarded(folder):
    _, before = ioca.load_networks(folder)
    found = 0
    for path in sorted((folder / "networks").rglob("*")):
        for place in places(path, 12) if path.is_file() else []:
            assert_found(path, place, lambda: networks.read_networks(folder), path)
            found += 1
    assert found > 60
    np.testing.assert_equal(ioca.load_networks(folder)[1], before)
    (folder / "networks" / "_METADATA").unlink()
    with pytest.raises(ValueError, match="_METADATA: expected the file as it was wri"):
        ioca.load_networks(folder)


@pytest.mark.usefixtures("unchecked_shapes")
def test_networks_of_some_seeds_are_read(folder):
    seeds = ioca.load_results(folder)["seed"].values.tolist()
    model, variables = ioca.load_networks(folder)
    for some in ([seeds[-1], seeds[0]], seeds[1:2], []):
        same, part = ioca.load_networks(folder, some)
        rows = [seeds.index(seed) for seed in some]
        expected = jax.tree.map(lambda leaf, rows=rows: leaf[rows], variables)
        np.testing.assert_equal(part, expected)
        assert same == model
    with pytest.raises(
        ValueError, match="^seeds: expected seeds of the run, .* got 77"
    ):
        ioca.load_networks(folder, [seeds[0], 77])
    number: Any = 3
    with pytest.raises(ValueError, match="^seeds: expected a sequence, got 3; "):
        ioca.load_networks(folder, number)


def test_files_that_are_not_of_the_run_are_refused(folder):
    assert len(networks.read_networks(folder, [])["params"]["dense_0"]["bias"]) == 0
    shutil.copytree(folder / "networks", folder / "networks" / "part_1")
    message = f"^{folder}/networks/part_1/.*: expected only files that the run has wri"
    with pytest.raises(ValueError, match=message) as caught:
        ioca.load_networks(folder)
    assert "\n" not in str(caught.value)


def test_merging_closes_what_it_has_opened(folder, monkeypatch, tmp_path):
    opened = []
    load = pieces.load_results
    monkeypatch.setattr(pieces, "load_results", lambda *a, **k: note(load(*a, **k)))

    def note(results):
        closed = []
        results.set_close(lambda close=results._close: closed.append(close()))
        opened.append(closed)
        return results

    with pytest.raises(ValueError, match="seeds: expected each in one part"):
        ioca.merge_runs([folder, folder], tmp_path / "all")
    (folder / "networks" / "_METADATA").unlink()
    with pytest.raises(ValueError, match="_METADATA: expected the file as it was wri"):
        ioca.merge_runs([folder], tmp_path / "all")
    assert [len(closed) for closed in opened] == [1, 1, 1]


def test_merging_and_reporting_verify(folder, tmp_path):
    path = folder / "networks" / "manifest.ocdbt"
    merge = lambda: ioca.merge_runs([folder], tmp_path / "all")  # noqa: E731
    assert_found(path, 30, merge, path)
    assert not (tmp_path / "all").exists()
    path = folder / "study.nc"
    report = lambda: ioca.run_study(TINY, folder, data=own_data())  # noqa: E731
    assert_found(path, 3000, report, path)
    # What the answer says to do: the results come back.
    before = ioca.load_results(folder)
    path.unlink()
    again = ioca.run_study(TINY, folder, data=own_data(), draw=False, seeds_at_once=1)
    assert again.drop_attrs(deep=False).identical(before.drop_attrs(deep=False))


def test_results_of_other_jobs_are_sealed_too(tiny_run, tmp_path):
    path = tmp_path / "pruning.nc"
    results = ioca.load_results(tiny_run)
    files.write_results(results, path)
    assert ioca.load_results(path).identical(results)
    for place in places(path, 20, last=90):
        assert_found(path, place, lambda: ioca.load_results(path), path)


def test_folders_of_version_1_have_no_seal_and_load(folder):
    results = ioca.load_results(folder)
    content = files.encode_results(results)
    (folder / "study.nc").write_bytes(content)
    assert ioca.load_results(folder).identical(results)
    ioca.load_networks(folder)
    # Nor does a seal keep other readers from the file.
    files.write_results(results, folder / "study.nc")
    assert (folder / "study.nc").stat().st_size > len(content)
    assert xr.load_dataset(folder / "study.nc").drop_attrs().equals(results)


def test_every_byte_of_a_chunk_is_guarded(tiny_run, tmp_path):
    _, variables = ioca.load_networks(tiny_run)
    chunk = chunks.Chunk(ioca.load_results(tiny_run), variables)
    chunks.save_chunk(chunk, tmp_path / "sound")
    (place,) = (tmp_path / "sound" / "chunks").iterdir()
    for path in sorted(place.iterdir()):
        for number in places(path, 30, last=8):
            shutil.copytree(tmp_path / "sound", tmp_path / "run")
            changed = tmp_path / "run" / "chunks" / place.name / path.name
            flip(changed, number, int(RNG.integers(1, 256)))
            found, damaged = chunks.find_chunks(tmp_path / "run")
            assert not found, (path, number)
            # A changed digest is told of the file that it is of.
            assert damaged[0].parent == changed.parent
            assert not changed.exists()
            shutil.rmtree(tmp_path / "run")
