"""Runs that are cut up, interrupted, damaged and joined end in the same results."""

import dataclasses
import json
import os
import pathlib
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial

import command_line
import numpy as np
import processes
import pytest

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.report.tables import first_findings
from ioca_jax.study import chunks as checkpoints
from ioca_jax.study import events, merge, run

ROOT = pathlib.Path(ioca.__file__).parent.parent
CONFIG = ioca.StudyConfig(
    seeds=(4, 0, 7, 2, 9),
    hidden=(6, 5),
    epochs=1,
    random_orders=1,
    measures=("entropy",),
)
# The revision too: somebody may be at work on the source while these run.
OF_TIME = ("created", "seconds", "source_revision")
# How often a real run is killed as soon as it has finished one network more.
KILLS = 4 if os.environ.get("IOCA_SLOW") else 1


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Drawing takes most of the time of runs this small; other tests look at it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figures", lambda *_: [])
        yield


@pytest.fixture(scope="module")
def data():
    return ioca.load_dataset("mnist5k")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """An uninterrupted run of one chunk."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    ioca.run_study(CONFIG, folder, data=data, seeds_at_once=5)
    return folder


def assert_same_run(folder, other):
    """Equal to the last bit, attributes of time aside; and so are the networks."""
    first, second = (
        path.drop_attrs(deep=False).assign_attrs(
            {k: v for k, v in path.attrs.items() if k not in OF_TIME}
        )
        for path in map(ioca.load_results, (folder, other))
    )
    assert first.identical(second)
    networks = [ioca.load_networks(path)[1] for path in (folder, other)]
    np.testing.assert_equal(*networks)
    assert not (folder / "chunks").exists()


def test_chunks_change_nothing(whole, data, tmp_path):
    heard = []
    ioca.run_study(
        *(CONFIG, tmp_path / "chunked"),
        data=data,
        seeds_at_once=2,
        listeners=[heard.append],
    )
    assert_same_run(tmp_path / "chunked", whole)
    kinds = [event["event"] for event in heard]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("chunk") == 3
    assert kinds.count("epoch") == 3
    assert [e["finished"] for e in heard if e["event"] == "chunk"] == [2, 4, 5]
    lines = (tmp_path / "chunked" / "events.jsonl").read_text().splitlines()
    written = [json.loads(line) for line in lines]
    assert [line.pop("time") > "2020" for line in written] == [True] * len(heard)
    assert written == heard


def test_tensorboard_gets_what_is_asked_for(whole, tmp_path):
    listen = events.tensorboard(tmp_path / "tensorboard")
    for line in (whole / "events.jsonl").read_text().splitlines():
        listen(json.loads(line))
    (file,) = (tmp_path / "tensorboard").iterdir()
    content = file.read_bytes()
    for tag in (
        b"from_seed_4/train_loss",
        b"from_seed_4/validation_accuracy",
        b"test_error",
    ):
        assert tag in content


def test_a_log_tells_of_damage(capsys):
    listen = events.log_lines()
    listen({"event": "start", "chunks": 2})
    listen({"event": "damaged", "file": "chunks/x/results.npz"})
    listen({"event": "chunk", "chunk": 1, "finished": 3, "seeds": 5})
    assert (
        capsys.readouterr().err == "chunks/x/results.npz is damaged: computed again\n"
    )


def stop_after(number: int):
    """A listener that ends the run after so many chunks."""

    def listen(event):
        if event["event"] == "chunk" and event["chunk"] == number:
            raise InterruptedError

    return listen


@pytest.fixture
def stopped(tmp_path, data):
    """A run that ended after two of three chunks."""
    with pytest.raises(InterruptedError):
        ioca.run_study(
            *(CONFIG, tmp_path / "run"),
            data=data,
            seeds_at_once=2,
            listeners=[stop_after(2)],
        )
    return tmp_path / "run"


def heard_of(folder, data, **arguments):
    heard = []
    ioca.run_study(CONFIG, folder, data=data, listeners=[heard.append], **arguments)
    return heard


def test_a_run_goes_on_with_what_is_missing(stopped, whole, data):
    assert "4 networks are finished" in run.how_to_go_on(stopped)
    heard = heard_of(stopped, data, seeds_at_once=2)
    assert heard[0]["finished"] == 4
    assert [e["chunk"] for e in heard if e["event"] == "chunk"] == [1]
    assert_same_run(stopped, whole)


@pytest.mark.parametrize("file", ["results.npz", "networks.npz", "checksums.json"])
def test_a_damaged_chunk_is_named_and_computed_again(stopped, whole, data, file):
    place = sorted((stopped / "chunks").iterdir())[0]
    content = bytearray((place / file).read_bytes())
    content[len(content) // 2] ^= 1
    (place / file).write_bytes(content)
    heard = heard_of(stopped, data, seeds_at_once=2)
    assert [e["file"] for e in heard if e["event"] == "damaged"] == [str(place / file)]
    assert [e["finished"] for e in heard if e["event"] == "start"] == [2]
    assert_same_run(stopped, whole)


@pytest.mark.slow
def test_a_truncated_chunk_is_computed_again(stopped, whole, data):
    place = sorted((stopped / "chunks").iterdir())[1]
    os.truncate(place / "results.npz", 100)
    (place / "networks.npz").unlink()
    assert heard_of(stopped, data)[1]["event"] == "start"
    assert_same_run(stopped, whole)


@pytest.mark.slow
def test_a_full_disk_leaves_what_was_finished(stopped, whole, data):
    before = {p: p.read_bytes() for p in stopped.rglob("*.npz")}
    # A limit on file size is a disk that is full at any file of a chunk.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            ioca.run_study(CONFIG, stopped, data=data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert before == {p: p.read_bytes() for p in stopped.rglob("*.npz")}
    assert not list(stopped.rglob("*.part"))
    ioca.run_study(CONFIG, stopped, data=data)
    assert_same_run(stopped, whole)


def test_chunks_and_results_of_another_run_are_refused(stopped, whole, data, tmp_path):
    (stopped / "flags.txt").unlink()
    other = dataclasses.replace(CONFIG, learning_rate=0.05)
    with pytest.raises(ValueError, match="some of a run with other learning_rate; cho"):
        ioca.run_study(other, stopped, data=data)
    dark = ioca.Split(data.test.x * 0.5, data.test.y)
    with pytest.raises(ValueError, match="some of a run with other dataset; choose"):
        ioca.run_study(CONFIG, stopped, data=dataclasses.replace(data, test=dark))
    (tmp_path / "bare").mkdir()
    content = (whole / "study.nc").read_bytes()
    (tmp_path / "bare" / "study.nc").write_bytes(content)
    with pytest.raises(ValueError, match="which holds study.nc without flags.txt; ch"):
        ioca.run_study(CONFIG, tmp_path / "bare", data=data)
    assert (tmp_path / "bare" / "study.nc").read_bytes() == content


def test_a_run_may_go_on_with_less_memory(stopped, data):
    config = dataclasses.replace(CONFIG, memory_gb=1.0)
    results = ioca.run_study(config, stopped, data=data)
    assert results.sizes["seed"] == 5
    assert "5 networks" in (stopped / "summary.txt").read_text()


@pytest.fixture(scope="module")
def shards(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("shards")
    for index in range(3):
        shard = ioca.Shard(index, 3)
        ioca.run_study(CONFIG, folder / f"shard_{index}", data=data, shard=shard)
    return [folder / f"shard_{index}" for index in range(3)]


def test_the_command_joins_shards(shards, whole, tmp_path):
    merge = partial(command_line.run, "experiments.merge")
    done = merge(f"--workdir={tmp_path / 'all'}", *shards)
    assert done.returncode == 0, done.stderr
    first, *_ = first_findings(ioca.findings(ioca.load_results(tmp_path / "all")))
    assert f"\n1. {first}\n" in done.stdout.replace("\n   ", " ")
    said, listed = done.stdout.strip().rpartition("\n")[2].split(": ")
    assert said == f"Joined 3 runs in {tmp_path / 'all'}"
    there = {path.name for path in (tmp_path / "all").iterdir()}
    assert {*listed.split(", "), ".lock"} == there
    assert "events.jsonl" not in there
    assert_same_run(tmp_path / "all", whole)
    done = merge(f"--workdir={tmp_path / 'some'}", *shards[1:])
    assert done.returncode == 2
    assert done.stderr == (
        "error: seeds: expected results of all 5, 2 are missing: 2,4\n"
    )


def test_merged_seconds_are_those_of_the_slowest_shard():
    # The second was stopped between its last chunk and its results, and went on.
    seconds = [{"loaded": 1.0, "trained": 5.0, "computed": 9.0}, {"loaded": 2.0}]
    slowest = {"loaded": 2.0, "trained": 5.0, "computed": 9.0}
    assert merge._slowest(seconds) == slowest
    assert merge._slowest(seconds[::-1]) == slowest


@pytest.mark.slow
def test_shards_are_the_run(shards, whole, data, tmp_path):
    seeds = [ioca.load_results(shard)["seed"].values.tolist() for shard in shards]
    assert seeds == [[4, 2], [0, 9], [7]]
    assert "--shard=1/3" in (shards[1] / "flags.txt").read_text()
    ioca.merge_runs(shards[::-1], tmp_path / "all")
    assert_same_run(tmp_path / "all", whole)
    assert (tmp_path / "all" / "flags.txt").read_text() == (
        (whole / "flags.txt").read_text()
    )
    summaries = [
        (path / "summary.txt").read_text() for path in (tmp_path / "all", whole)
    ]
    first, second = (text.splitlines() for text in summaries)
    assert first[:1] + first[2:] == second[:1] + second[2:]

    with pytest.raises(
        ValueError,
        match="^seeds: expected results of all 5, 2 are missing: 0,9$",
    ):
        ioca.merge_runs(shards[::2], tmp_path / "some")
    assert not (tmp_path / "some").exists()
    some = ioca.merge_runs(shards[::2], tmp_path / "some", partial=True)
    assert some["seed"].values.tolist() == [4, 7, 2]
    with pytest.raises(ValueError, match="^seeds: expected each in one part, got 7 tw"):
        ioca.merge_runs([*shards, shards[2]], tmp_path / "twice")
    with pytest.raises(ValueError, match="which holds a finished run"):
        ioca.merge_runs(shards, tmp_path / "all")
    with pytest.raises(
        ValueError, match=r"which holds a run with shard=1/3, not None; choose another"
    ):
        ioca.run_study(CONFIG, shards[1], data=data)

    other = dataclasses.replace(CONFIG, seeds=(7,), l2=0.5)
    ioca.run_study(other, tmp_path / "other", data=data)
    with pytest.raises(
        ValueError,
        match=rf"^expected runs of one configuration, got l2=1e-05 in {shards[0]} and "
        rf"l2=0.5 in {tmp_path / 'other'}$",
    ):
        ioca.merge_runs([*shards[:2], tmp_path / "other"], tmp_path / "mixed")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "shard: expected i/n, such as 0/4, got '3'"),
        ("a/b", "shard: expected i/n, such as 0/4, got 'a/b'"),
        ("4/4", "shard: expected i/n with i from 0 to n - 1, got 4/4"),
        ("-1/4", "shard: expected i/n with i from 0 to n - 1, got -1/4"),
        ("0/6", "shard: expected at most 5 shards, one for each seed, got 0/6"),
    ],
)
def test_unusable_shards_are_refused(text, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        ioca.Shard.parse(text).seeds(CONFIG)


FLAGS = [
    *(f for f in CONFIG.flags() if not f.startswith("--seeds")),
    # One device, as this process has: sums over several are rounded otherwise.
    *("--seeds=4,0,7,2,9", "--seeds_at_once=1", "--num_devices=1"),
    "--nofigures",
]


def start(*flags: str) -> processes.Forked:
    return processes.start("-m", "experiments.run_study", *flags)


def finish(process: processes.Forked, code: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    return out, err


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.slow
def test_a_second_run_is_refused_and_sigterm_says_how_to_go_on(whole, data, tmp_path):
    folder = tmp_path / "run"
    first = start(*FLAGS, f"--workdir={folder}")
    wait_for(lambda: list(folder.glob("chunks/seeds_*")))
    with pytest.raises(
        BlockingIOError,
        match=rf"^workdir: expected a folder that no other run uses, got {folder}, in "
        rf"use by process {first.pid} on ",
    ):
        ioca.run_study(CONFIG, folder, data=data)
    first.send_signal(signal.SIGTERM)
    _, err = finish(first, code=143)
    last = err.splitlines()[-1]
    assert last.startswith("error: interrupted: ")
    assert last.endswith(
        f"networks are finished in {folder}; the same command goes on from there"
    )
    # Not refused after the first is gone.
    finish(start(*FLAGS, f"--workdir={folder}"))
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_run_killed_again_and_again_loses_nothing_finished(whole, tmp_path):
    folder = tmp_path / "run"
    for finished in range(KILLS):
        process = start(*FLAGS, f"--workdir={folder}")
        wait_for(
            lambda finished=finished: (
                len(list(folder.glob("chunks/seeds_*"))) > finished
            )
        )
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert len(checkpoints.find_chunks(folder)[0]) > finished
    finish(start(*FLAGS, f"--workdir={folder}"))
    assert_same_run(folder, whole)
