"""The project's commands in this process: no start of Python, no import of JAX.

What concerns a process (signals, devices, exit after other processes) is tested with
``processes``.
"""

import contextlib
import importlib
import io
import os
import runpy
import signal
import sys
from typing import Any, NamedTuple

import jax
import pytest
from absl.testing import flagsaver

from ioca_jax.cli import command


class Done(NamedTuple):
    """What a command left.

    Attributes:
        returncode: of the process that it would have been.
        stdout: what it printed.
        stderr: its warnings and errors.
    """

    returncode: int
    stdout: str
    stderr: str


def run(module: str, *arguments: object) -> Done:
    """Runs ``python -m module arguments`` within this process.

    The devices of this process stay as they are, and programs that are compiled stay
    compiled.

    Args:
        module: such as ``experiments.run_study``.
        arguments: flags and paths.

    Returns:
        Its exit code and what it wrote.
    """
    out, err, code = io.StringIO(), io.StringIO(), 0
    handler = signal.getsignal(signal.SIGTERM)
    uses_cache = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    with (
        flagsaver.flagsaver(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        for name in (module, f"{module}.__main__"):
            patch.delitem(sys.modules, name, raising=False)
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        patch.setattr(command, "_prepared_jax", contextlib.nullcontext)
        patch.setattr(os, "_exit", sys.exit)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
            jax.config.update("jax_enable_compilation_cache", uses_cache)
    return Done(code, out.getvalue(), err.getvalue())


def parsed(module: str, *arguments: object) -> tuple[Any, ...]:
    """The configurations that a command's flags give.

    Args:
        module: such as ``experiments.prune``.
        arguments: flags.

    Returns:
        What the command's ``main`` takes.
    """
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):  # of a package, as for python -m
        found = importlib.import_module(f"{module}.__main__")
    job = found.COMMAND
    values = job.flag_values()
    values([module, *map(str, arguments)])
    return tuple(command.parse(config_class, values) for config_class in job.configs)
