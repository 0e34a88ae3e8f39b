"""What lies in the way of a run's files is refused before any work."""

import dataclasses
import pathlib
import resource
import shutil
import subprocess
import sys

import command_line
import pytest
from synthetic import TINY, own_data

import ioca_jax as ioca
from ioca_jax.results import files
from ioca_jax.study import folder as folders
from ioca_jax.study import resources
from ioca_jax.study import run as runs
from ioca_jax.study.plan import make_plan

pytestmark = pytest.mark.usefixtures("unchecked_shapes")
AGAIN = "; move it, or choose another workdir"


@pytest.fixture
def no_work(monkeypatch):
    monkeypatch.setattr(
        runs._Run, "_compute_chunks", lambda *_: pytest.fail("it works")
    )


def refusal(work) -> str:
    with pytest.raises((OSError, ValueError), match=".") as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def run(folder, **options):
    return ioca.run_study(TINY, folder, data=own_data(), draw=False, **options)


@pytest.mark.parametrize("name", ["networks", "chunks", "tables", "figures"])
def test_files_and_dangling_links_where_folders_belong(no_work, name, tmp_path):
    place = tmp_path / name
    for make, kind in (
        (lambda: place.write_text("a file"), "a file"),
        (lambda: place.symlink_to(tmp_path / "nowhere"), "a link to nothing"),
    ):
        make()
        assert refusal(lambda: run(tmp_path)) == (
            f"workdir, {name}: expected a directory, got {place}, which is {kind}"
            + AGAIN
        )
        assert [path.name for path in tmp_path.iterdir()] == [name]
        place.unlink()


@pytest.mark.parametrize(
    "name", ["study.nc", "flags.txt", "report.html", "summary.txt", "events.jsonl"]
)
def test_folders_and_dangling_links_where_files_belong(no_work, name, tmp_path):
    place = tmp_path / name
    place.mkdir()
    assert refusal(lambda: run(tmp_path)) == (
        f"workdir, {name}: expected a file, or none yet, got {place}, which is a "
        f"directory{AGAIN}"
    )
    place.rmdir()
    place.symlink_to(tmp_path / "nowhere")
    assert refusal(lambda: run(tmp_path)) == (
        f"workdir, {name}: expected a file, or none yet, got {place}, which is a link "
        f"to nothing{AGAIN}"
    )


def test_workdirs_that_cannot_be(no_work, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    assert refusal(lambda: run(link)) == (
        f"workdir: expected a directory, got {link}, which is a link to nothing{AGAIN}"
    )
    long = tmp_path / ("a" * 300)
    assert refusal(lambda: run(long)) == (
        f"workdir: expected a folder that can be written, got {long} (File name too "
        "long)"
    )


def test_networks_in_another_place_stay_there(computed, tmp_path):
    """A link to a folder may stand for it; a run of its own replaces the link."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine.txt").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "networks").symlink_to(tmp_path / "elsewhere")
    run(tmp_path / "run")
    ioca.load_networks(tmp_path / "run")
    assert (tmp_path / "elsewhere" / "mine.txt").read_text() == "mine"


def test_a_finished_run_on_a_disk_that_is_read_only(tiny_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    bind = ["mount", "--bind", str(folder), str(folder)]
    if subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        remount = ["mount", "-o", "remount,ro,bind", str(folder)]
        subprocess.run(remount, check=True)
        before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
        assert run(folder).identical(ioca.load_results(tiny_run))
        assert not folders.can_write(folder)
        done = command_line.run("experiments.report", folder)
        assert (done.returncode, done.stderr) == (
            2,
            f"error: workdir: expected a folder that can be written, got {folder} "
            "(Read-only file system)\n",
        )
        other = dataclasses.replace(TINY, batch_size=30)
        with pytest.raises(ValueError, match="which holds a run with batch_size=10"):
            ioca.run_study(other, folder, data=own_data(), draw=False)
        assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_finished_run_that_may_not_be_written(tiny_run, tmp_path, monkeypatch):
    """The same where this user may not mount."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    monkeypatch.setattr(folders, "can_write", lambda _: False)
    monkeypatch.setattr(folders, "locked", lambda *_, **__: pytest.fail("it writes"))
    assert run(folder).identical(ioca.load_results(tiny_run))


def test_the_limit_of_addresses_counts(monkeypatch, tmp_path):
    """ulimit -v."""
    monkeypatch.setattr(files, "_left_to_control_group", lambda: iter(()))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    taken = pages * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (taken + 1_600_000_000, limits[1]))
        assert 0 < files.free_memory() <= 100_000_000
        resource.setrlimit(resource.RLIMIT_AS, (taken + 1_000_000_000, limits[1]))
        assert files.free_memory() == 0
        needs = resources.Needs(8, 8, 1, 8, 0, 1.0)
        message = (
            "^memory: expected a study that fits in the 0.0 MB that are free, .* most "
            r"of it for .*, or raise the limit of addresses \(ulimit -v\)$"
        )
        with pytest.raises(ValueError, match=message):
            resources.check_fits(needs, 1, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    assert files.free_memory() > 100_000_000


@pytest.mark.parametrize("seed", [2**64, 2**31, -1, -(2**70)])
def test_seeds_beyond_those_of_jax(seed):
    with pytest.raises(ValueError, match=".") as caught:
        ioca.StudyConfig(seeds=(0, seed))
    assert str(caught.value) == f"seeds: expected integers in [0, 2^31), got {seed}"


@pytest.mark.parametrize("width", [2**31, 10**18, 10**30])
def test_widths_beyond_what_can_be_numbered(width):
    for hidden in ((width,), (width - 1, 1)):
        with pytest.raises(ValueError, match=".") as caught:
            ioca.StudyConfig(hidden=hidden)
        assert str(caught.value) == (
            "hidden: expected at most 2147483647 in all, which int32 numbers, got "
            f"{width}"
        )
    with pytest.raises(ValueError, match="^channels: expected at most 2147483647 in"):
        ioca.StudyConfig(architecture="cnn", channels=(width,))


def test_more_memory_than_can_be_counted():
    with pytest.raises(ValueError, match="^memory_gb: expected at most 1e.09 GB, got "):
        ioca.StudyConfig(memory_gb=1e300)


def test_networks_too_deep_for_a_study_are_refused_at_once(tmp_path):
    config = ioca.StudyConfig(hidden=(1,) * 2000, batch_size=10)
    assert refusal(
        lambda: ioca.run_study(config, tmp_path / "run", data=own_data())
    ) == (
        "hidden: expected at most 500 layers, each of them a scope with all orders, "
        "got 2000; give fewer"
    )
    assert not (tmp_path / "run").exists()


def test_many_layers_are_counted_at_once(monkeypatch):
    """One by one, their programs took minutes."""
    lowered = []
    operations = resources._operations
    monkeypatch.setattr(
        resources,
        "_operations",
        lambda *given: (lowered.append(given), operations(*given))[1],
    )
    config = ioca.StudyConfig(hidden=(2,) * 40)
    found = resources.count_needs(make_plan(config, own_data()))
    assert len(lowered) == 1
    assert found.operations > 0
    assert found.results > 0


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("raise RuntimeError", "cannot be imported (RuntimeError)"),
        ("raise ValueError('no\\nGPU')", "cannot be imported (ValueError: no GPU)"),
        ("import sys; sys.exit(3)", "cannot be imported (SystemExit: 3)"),
        ("import nothing_at_all", "(ModuleNotFoundError: No module named 'nothing_at_"),
        ("def make(:", "cannot be imported (SyntaxError: invalid syntax ("),
        ("def make(): raise ValueError", "(network, variables), got ValueError; --"),
        ("def make(): import sys; sys.exit()", "(network, variables), got SystemExit;"),
    ],
)
def test_modules_of_networks_that_fail(text, given, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    name = f"theirs_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    done = command_line.run(
        "experiments.run_study", f"--network={name}:make", f"--workdir={tmp_path}/run"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: network: expected ")
    assert given in done.stderr
    assert done.stderr.endswith("; --verbosity=1 shows where\n")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
    sys.modules.pop(name, None)


def test_flag_files_that_are_no_text(tmp_path):
    (tmp_path / "flags").write_bytes(bytes(range(128, 256)))
    done = command_line.run("experiments.run_study", f"--flagfile={tmp_path / 'flags'}")
    assert (done.returncode, done.stderr) == (
        2,
        "error: flagfile: expected a text file with a flag a line, got 'utf-8' codec "
        "can't decode byte 0x80 in position 0: invalid start byte\n",
    )
    done = command_line.run("experiments.run_study", "--seeds=0:18446744073709551616")
    assert done.stderr == (
        "error: flag --seeds=0:18446744073709551616: expected seeds as a list 0,1,2; a "
        "range 0:5 is 0,1,2,3,4; seed 5 alone, 5,\n"
    )
