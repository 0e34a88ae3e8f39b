"""The command ``ioca reproduce`` finds the jobs of ``experiments`` and runs them."""

import importlib
import importlib.machinery
import importlib.util
import pkgutil
import sys
from functools import partial

import command_line
import pytest

import experiments
from ioca_jax.cli import reproduce
from ioca_jax.cli.command import Command

command = partial(command_line.run, "ioca_jax.__main__", "reproduce")


def modules_with_jobs() -> dict[str, Command]:
    """By importing every module: those whose ``COMMAND`` is made there."""
    found = {}
    walked = pkgutil.walk_packages(experiments.__path__, "experiments.")
    for name in (info.name for info in walked):
        job = getattr(importlib.import_module(name), "COMMAND", None)
        if job is not None and job.main.__module__ == name:
            found[name] = job
    return found


def test_the_list_has_every_job_with_what_it_does():
    jobs, there = reproduce.find_jobs(), modules_with_jobs()
    assert {job.module for job in jobs.values()} == there.keys()
    assert {"paper", "calibration", "benchmark"} <= jobs.keys()
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert command("--help").stdout == done.stdout
    lines = done.stdout.splitlines()
    for name, job in jobs.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        text = " ".join((importlib.import_module(job.module).__doc__ or "").split())
        assert text.startswith(line.removeprefix(f"  {name} ").strip()), name


JOB = '''"""Says a number. Once."""
import dataclasses

from ioca_jax.cli.command import Command, option


@dataclasses.dataclass(frozen=True)
class Options:
    number: int = option(1, "The number to say.")


def main(options):
    print(options.number + 1)


COMMAND = Command(main, (Options,))
'''


def test_flags_are_the_jobs_own(monkeypatch, tmp_path):
    folder = tmp_path / "experiments" / "asked"
    folder.mkdir(parents=True)
    (folder / "reproduce_number.py").write_text(JOB)
    (folder / "other.py").write_text("from reproduce_number import COMMAND\n")
    monkeypatch.setattr(experiments, "__path__", [str(folder.parent)])
    spec = importlib.machinery.ModuleSpec("experiments", None, is_package=True)
    spec.submodule_search_locations = [str(folder.parent)]
    monkeypatch.setattr(experiments, "__spec__", spec)
    module = "experiments.asked.reproduce_number"
    job = reproduce.Job(module, "Says a number")
    assert reproduce.find_jobs() == {"number": job}
    assert command("number", "--number=41").stdout == "42\n"
    assert "--number: The number to say. (default: 1)" in command("number", "-h").stdout
    refused = command("number", "--numbr=41")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: Unknown command line flag 'numbr'")
    for name in (module, "experiments.asked"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["calibratoin", "nothing"])
def test_an_unknown_job_is_refused(name):
    known = ", ".join(reproduce.find_jobs())
    meant = "; did you mean calibration?" if name != "nothing" else ""
    done = command(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: reproduce: expected {known}, got '{name}'{meant}\n"


@pytest.mark.parametrize("is_there", [False, True])
def test_without_a_checkout_one_line_says_what_to_do(
    is_there, monkeypatch, tmp_path, capsys
):
    """No package of that name, or one of somebody else's without such jobs."""
    (tmp_path / "another.py").write_text("from somewhere import COMMAND\n")
    spec = importlib.machinery.ModuleSpec("experiments", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)] if is_there else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(SystemExit) as end:
        reproduce.run_job(["calibration"])
    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: reproduce: expected the package experiments of the project's "
        "checkout, found none; run the command in the checkout's folder\n"
    )
