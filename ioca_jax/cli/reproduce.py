"""Runs a job of the project's experiments again: ``ioca reproduce NAME``.

The jobs are the modules of the package ``experiments`` that define a ``Command`` of
their own. They are found in its folder; a new job needs no other entry. The package is
part of a checkout of the project and not of the wheel.
"""

import ast
import dataclasses
import importlib
import importlib.util
import pathlib
import sys
from typing import NamedTuple

from ioca_jax.checks import nearest
from ioca_jax.cli.command import Command, stop

_PREFIX = "reproduce_"  # of modules; `ioca reproduce` says it already


class Job(NamedTuple):
    """A job: its module, and its module's first sentence."""

    module: str
    text: str


def find_jobs() -> dict[str, Job]:
    """The jobs by name, alphabetically; empty where there is no checkout."""
    package = importlib.util.find_spec("experiments")
    if package is None or not package.submodule_search_locations:
        return {}
    (folder, *_) = map(pathlib.Path, package.submodule_search_locations)
    jobs = {}
    for path in folder.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        if _defines_command(tree):
            parts = path.relative_to(folder).with_suffix("").parts
            name = parts[-2] if parts[-1] == "__main__" else parts[-1]
            text = (ast.get_docstring(tree) or "").split("\n\n")[0]
            sentence = " ".join(text.split()).partition(". ")[0].rstrip(".")
            job = Job(".".join(("experiments", *parts)), sentence)
            jobs[name.removeprefix(_PREFIX)] = job
    return dict(sorted(jobs.items()))


def _defines_command(tree: ast.Module) -> bool:
    """Whether a module makes a ``COMMAND`` of its own rather than importing one."""
    assigned = (node for node in tree.body if isinstance(node, ast.Assign))
    return any(ast.unparse(node.targets[0]) == "COMMAND" for node in assigned)


def run_job(arguments: list[str]) -> None:
    """Runs the job that the first argument names, with the flags after it."""
    name, *given = arguments or ["--help"]
    jobs = find_jobs()
    if not jobs:
        stop(
            "reproduce: expected the package experiments of the project's checkout, "
            "found none; run the command in the checkout's folder"
        )
    if name in ("--help", "-h", "help"):
        print("usage: ioca reproduce JOB [--flag=value ...]\n")
        print("".join(f"  {job:18} {found.text}\n" for job, found in jobs.items()))
        print("ioca reproduce JOB --help explains the job and its flags.")
    elif name not in jobs:
        known = ", ".join(jobs)
        stop(f"reproduce: expected {known}, got {name!r}{nearest([name], jobs)}")
    else:
        sys.argv = [f"ioca reproduce {name}", *given]
        importlib.import_module(jobs[name].module).COMMAND.run()


@dataclasses.dataclass(frozen=True)
class _Reproduce(Command):
    """A command whose flags are those of the job that it runs."""

    def run(self) -> None:
        """Runs the job that the process's arguments name."""
        self.main(sys.argv[1:])


COMMAND = _Reproduce(run_job, ())
