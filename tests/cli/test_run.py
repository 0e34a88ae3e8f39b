"""The command line: a run, its replay, and wrong input."""

import dataclasses
import re
import sys
from functools import partial

import command_line
import processes
import pytest

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.cli import command

FEW = "2 seeds: no test over networks can reach 5 %; 6 can, 4 more are needed"
SMALL = ["--seeds=0:2", "--hidden=6,5", "--epochs=1", "--random_orders=1"]

run = partial(command_line.run, "experiments.run_study")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figures", lambda *_: (path / "figures").mkdir())
        done = run(*SMALL, "--activation=tanh", f"--workdir={path}")
    assert (path / "figures").is_dir()
    assert done.returncode == 0, done.stderr
    # Without a terminal there are lines, and no bar.
    few, *lines = done.stderr.splitlines()
    assert few == FEW
    assert [line.partition(", after")[0] for line in lines] == [
        f"networks 1 to 2 of 2, {phase}"
        for phase in ("training", "measuring, ablating", "ablating", "testing")
    ] + ["2 of 2 networks done, reporting"]
    assert done.stdout.startswith("mnist5k: 2 networks 784-6-5-10 tanh, 1 epochs")
    findings = done.stdout.split("\n\n")[1]
    assert findings.startswith("1. The 2 networks have a test error of ")
    assert "\n2. In the whole network, " in findings
    assert "\n3. " in findings
    assert max(map(len, findings.splitlines())) <= 88
    assert f"All findings: {path / 'report.html'}; as text: " in done.stdout
    listed = done.stdout.strip().rpartition(f"\nWritten to {path}: ")[2].split(", ")
    assert {*listed, ".lock"} == {file.name for file in path.iterdir()}
    return path


def test_flags_replay_the_run(folder, tmp_path):
    done = run(
        f"--flagfile={folder / 'flags.txt'}",
        f"--workdir={tmp_path / 'again'}",
        "--nofigures",
    )
    assert not (tmp_path / "again" / "figures").exists()
    assert done.returncode == 0, done.stderr
    first, again = (ioca.load_results(path) for path in (folder, tmp_path / "again"))
    assert first.equals(again)


def test_help_names_every_field():
    done = run("--help")
    for flag in ("--seeds", "--hidden", "--[no]batch_norm", "--quantizer", "--l2"):
        assert flag in done.stdout
    text = done.stdout.replace("\n      ", " ")
    assert "uniform:B or quantile:B" in text
    assert "--epochs: Passes over the training split. (default: 10)" in text
    groups = re.findall(r"^(\w.*):$", done.stdout, re.MULTILINE)
    assert groups[groups.index("This job") :] == ["This job", *command.GROUPS]
    assert {*map(str.lower, command.GROUPS)} >= {"data", "network", "inference"}
    fields = {field.name for field in dataclasses.fields(ioca.StudyConfig)}
    assert fields <= set(" ".join(command.GROUPS.values()).split())


def test_a_dry_run_says_what_would_run_and_leaves_nothing(folder, tmp_path):
    done = run(*SMALL, "--dry_run", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "run").exists()
    assert "3,000 train, 1,000 validation, 1,000 test examples" in done.stdout
    assert "Networks: 2, 0 of them finished, 1 epochs each, 11 neurons" in done.stdout
    assert f"\n{FEW}\nTakes at least " in done.stdout
    assert done.stdout.endswith(
        " by order of magnitude, without compiling: about a minute more where the "
        "machine has not compiled it yet\n"
    )
    assert re.search(r"least \d+\.\d MB of memory and \d+\.\d MB of disk", done.stdout)
    done = run(*SMALL, "--activation=tanh", "--dry_run", f"--workdir={folder}")
    assert done.stdout == f"{folder} is finished; the same command reports it\n"
    done = run(*SMALL, "--dry_run", f"--workdir={folder}")
    assert done.stderr.startswith("error: workdir: expected a new folder")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--activation=swish"],
            "activation: expected one of relu, sigmoid, tanh",
        ),
        (["--hidden=a"], "flag --hidden=a: expected integers as a list 0,1,2;"),
        (["--epoch=3"], "Unknown command line flag 'epoch'. Did you mean: epochs"),
        (
            ["--num_processes=2"],
            "num_processes: gone since version 3; share out the seeds by --shard, and "
            "join them by merge\n",
        ),
        (["extra"], "expected flags only (--name=value), got 'extra'"),
        (["--num_validation=4000"], "num_validation: expected between 1 and 3999"),
        (
            ["--dataset=mnist", "--data_dir=/nowhere"],
            "data_dir: expected a directory that holds mnist, got '/nowhere'",
        ),
        (["--batch_size=3001"], "batch_size: expected at most 3000,"),
        (["--epochs=two"], "flag --epochs=two: expected an integer, got 'two'"),
        (["--l2=small"], "flag --l2=small: expected a number, got 'small'"),
        (["--network=numpy:array"], "network: expected numpy:array to return"),
        *(
            ([*flags, "--dry_run"], message)
            for flags, message in (
                (["--batch_size=3001"], "batch_size: expected at most 3000,"),
                (["--seeds_at_once=0"], "seeds_at_once: expected at least 1, got 0"),
                (
                    ["--interactions", "--quantizer=uniform:64"],
                    "num_codes: expected at most 4 codes for pairs of neurons with",
                ),
            )
        ),
    ],
)
def test_wrong_input_gets_one_line_and_leaves_nothing(flags, message, tmp_path):
    folder = tmp_path / "run"
    done = run(*SMALL, f"--workdir={folder}", *flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {message}")
    assert not folder.exists()


def test_a_file_of_flags_that_are_gone_names_the_flag(tmp_path):
    (tmp_path / "flags.txt").write_text("--epochs=1\n--process_timeout=60\n")
    done = run(f"--flagfile={tmp_path / 'flags.txt'}", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (
        2,
        "error: process_timeout: gone since version 3; share out the seeds by --shard, "
        "and join them by merge\n",
    )


@pytest.mark.parametrize(
    ("flag", "suggested"),
    [
        ("--measures=entropy,mutual_informaton", "mutual_information"),
        ("--clamps=zero,maen", "mean"),
        ("--dataset=MNIST", "mnist"),
        ("--activation=rleu", "relu"),
        ("--optimizer=adm", "adam"),
    ],
)
def test_unknown_values_suggest_the_nearest(flag, suggested, tmp_path):
    done = run(*SMALL, f"--workdir={tmp_path / 'run'}", flag)
    assert done.stderr.endswith(f"; did you mean {suggested}?\n")


@pytest.mark.parametrize("flags", [[], ["--dry_run"]])
def test_a_folder_that_cannot_be_written(flags):
    done = run(*SMALL, "--workdir=/proc/run", *flags)
    assert done.stderr == (
        "error: workdir: expected a folder that can be written, got /proc/run; choose "
        "another workdir\n"
    )


MISSING = "workers: expected the package {}, found none; install it with pip install "
MISSING += "'ioca_jax[{}]'"
NO_ENGINES = [
    (["--workers=ray"], MISSING.format("ray", "ray")),
    (["--workers=submitit"], MISSING.format("submitit", "slurm")),
    (["--workers=submitit-local"], MISSING.format("submitit", "slurm")),
    (
        ["--workers=nowhere.at_all:function"],
        "workers: expected package.module:function, got 'nowhere.at_all:function', "
        "which cannot be imported (ModuleNotFoundError: No module named 'nowhere'); "
        "--verbosity=1 shows where",
    ),
    (
        ["--workers=many"],
        "workers: expected a number of processes, ray, submitit, submitit-local or "
        "package.module:function, got 'many'",
    ),
    (
        ["--workers=2", "--worker_gpus=2"],
        "worker_gpus: expected at most 3 GPUs for 2 workers, as this machine has, got "
        "4",
    ),
    (
        ["--workers=2", "--worker_gpus=-1"],
        "worker_gpus: expected a number not negative, got -1",
    ),
    (
        ["--workers=ray", "--worker_cpus=0"],
        "worker_cpus: expected at least 1, got 0",
    ),
    (
        ["--workers=submitit", "--worker_minutes=0"],
        "worker_minutes: expected at least 1, got 0",
    ),
]


@pytest.mark.parametrize(("flags", "line"), NO_ENGINES)
def test_a_dry_run_refuses_the_engines_that_a_run_refuses(
    flags, line, tmp_path, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    for package in ("ray", "submitit"):
        monkeypatch.setitem(sys.modules, package, None)
    for more in ([], ["--dry_run"]):
        done = run(*SMALL, f"--workdir={tmp_path / 'run'}", *flags, *more)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"error: {line}\n"
    assert not (tmp_path / "run").exists()


WITH_WORKERS = """
import contextlib
import sys
import jax
from ioca_jax import devices
from ioca_jax.cli import run

def limited_devices(number):
    print(jax.config.jax_platforms)
    raise SystemExit

devices.limited_devices = limited_devices
jax.config.update("jax_platforms", None)
for flags in ([], ["--workers=2"]):
    sys.argv = ["run", "--num_devices=1", *flags]
    with contextlib.suppress(SystemExit):
        run.COMMAND.run()
"""


def test_the_driver_of_workers_looks_at_no_device_but_the_cpu():
    """JAX would take the memory of the GPUs that it looks at."""
    assert processes.call("-c", WITH_WORKERS).split() == ["None", "cpu"]


def test_a_process_ends_with_the_code_and_the_line():
    done = processes.run("-m", "experiments.run_study", *SMALL, "--hidden=a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: flag --hidden=a: expected integers")
    assert done.stderr.count("\n") == 1


def test_another_runs_folder_is_refused(folder):
    done = run(*SMALL, "--activation=relu", f"--workdir={folder}")
    assert done.returncode == 2
    assert "which holds a run with activation=tanh, not relu" in done.stderr
    assert done.stderr.count("\n") == 1
