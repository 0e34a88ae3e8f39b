"""What is installed: the command ``ioca``, its jobs, extras, and the wheel."""

import ast
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from functools import partial

import command_line
import pytest

import ioca_jax as ioca
from ioca_jax.__main__ import JOBS
from ioca_jax.checks import import_extra
from ioca_jax.report.tables import first_findings

ROOT = pathlib.Path(ioca.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]

command = partial(command_line.run, "ioca_jax.__main__")


def test_help_names_jobs_that_exist():
    done = command("--help")
    assert done.returncode == 0
    for job in JOBS:
        assert re.search(rf"^  {job} +\w", done.stdout, re.MULTILINE), job
        assert importlib.import_module(f"ioca_jax.cli.{job}").COMMAND.main, job
    assert command().stdout == done.stdout
    assert command("--version").stdout == f"{ioca.__version__}\n"


def test_another_job_gets_one_line():
    done = command("swep")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: expected {', '.join(JOBS)}, got 'swep'; did you mean sweep?\n"
    )


def test_a_report_is_what_the_run_wrote(tiny_run, tmp_path):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(folder / "tables")
    (folder / "summary.txt").unlink()
    (folder / "report.html").unlink()
    done = command("report", "--nofigures", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        (folder / "summary.txt").read_text().partition("\n")[0]
    )
    first, *_ = first_findings(ioca.findings(ioca.load_results(folder)))
    assert f"\n1. {first}\n" in done.stdout.replace("\n   ", " ")
    assert done.stdout.endswith(
        f"\nAll findings: {folder / 'report.html'}; as text: {folder / 'summary.txt'}\n"
        f"Written to {folder}: study.nc, networks, tables, report.html, summary.txt, "
        "events.jsonl, flags.txt\n"
    )
    written = (tiny_run / name for name in ("summary.txt", "report.html"))
    for file in [*written, *(tiny_run / "tables").iterdir()]:
        assert (folder / file.relative_to(tiny_run)).read_text() == file.read_text()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ([], "expected the folder of a finished run, got none"),
        (["/nowhere"], "expected the results of a finished run at /nowhere/study.nc"),
    ],
)
def test_a_report_of_nothing_is_refused(folders, message):
    done = command("report", *folders)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ImportError) as error:
        import_extra("no_such_package.inside", "data", "mnist5k")
    assert str(error.value) == (
        "mnist5k: expected the package no_such_package, found none; install it with "
        "pip install 'ioca_jax[data]'"
    )


def sources() -> dict[pathlib.Path, ast.Module]:
    folders = (ROOT / "ioca_jax", ROOT / "experiments")
    paths = [path for folder in folders for path in folder.rglob("*.py")]
    return {path: ast.parse(path.read_text()) for path in paths}


def package_name(requirement: str) -> str:
    return re.split(r"[>=\[]", requirement)[0].lower().replace("-", "_")


def test_extras_that_messages_name_exist_and_hold_the_package():
    found = set()
    for tree in sources().values():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") == "import_extra":
                module, extra = (ast.literal_eval(part) for part in call.args[:2])
                found.add((module, extra))
    assert {("mlxtend", "demo"), ("pyarrow", "sweep")} <= found
    for module, extra in found:
        assert module.lower() in map(package_name, EXTRAS[extra]), module


def test_the_library_imports_only_what_it_depends_on():
    dependencies = {*map(package_name, PROJECT["project"]["dependencies"])}
    names = {"absl_py": "absl", "orbax_checkpoint": "orbax"}
    allowed = {names.get(name, name) for name in dependencies}
    allowed |= {"ioca_jax", "experiments"}
    for path, tree in sources().items():
        for node in tree.body:  # others are imported where they are used
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            roots = {module.partition(".")[0] for module in modules}
            assert roots <= allowed | sys.stdlib_module_names, path


def test_the_version_stands_everywhere():
    version = ioca.__version__
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.slow
def test_the_wheel_runs_outside_of_the_checkout(tmp_path):
    pytest.importorskip("build")
    python = [sys.executable, "-m"]
    build = [*python, "build", "--no-isolation", "--outdir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    roots = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert roots == {"ioca_jax", f"ioca_jax-{ioca.__version__}.dist-info"}
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    install = [*python, "pip", "install", "--no-deps", "--target", installed, wheel]
    subprocess.run(install, check=True, capture_output=True)
    empty.mkdir()
    run = partial(
        subprocess.run,
        cwd=empty,
        env=os.environ | {"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    where = [sys.executable, "-c", "import ioca_jax; print(ioca_jax.__file__)"]
    assert run(where).stdout.startswith(str(installed))
    ioca_command = [sys.executable, installed / "bin" / "ioca"]
    assert "sweep" in run([*ioca_command, "--help"]).stdout
    small = ["--seeds=0:2", "--hidden=6,5", "--epochs=1", "--random_orders=1"]
    done = run([*ioca_command, "run", *small, "--nofigures", "--workdir=r"])
    assert done.stdout.startswith("mnist5k: 2 networks 784-6-5-10 relu, 1 epochs")
    done = run([*ioca_command, "report", "--nofigures", "r"])
    assert done.stdout.endswith(
        "\nWritten to r: study.nc, networks, tables, report.html, summary.txt, "
        "events.jsonl, flags.txt\n"
    )
    assert (empty / "r" / "report.html").is_file()
    assert (empty / "r" / "study.nc").is_file()
