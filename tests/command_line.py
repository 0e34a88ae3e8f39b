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
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import pytest
from absl import app, flags
from absl.testing import flagsaver

from experiments import config_flags

# Otherwise the first command would define --help, and its end remove it.
app.define_help_flags()
_SHARED = {
    value.name
    for value in vars(config_flags).values()
    if isinstance(value, flags.FlagHolder)
}


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
    with (
        _flags_of_its_own(),
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.delitem(sys.modules, module, raising=False)
        patch.setattr(sys, "argv", [module, *map(str, arguments)])
        patch.setattr(config_flags, "_prepared_jax", contextlib.nullcontext)
        patch.setattr(os, "_exit", sys.exit)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def loaded(module: str, *arguments: object) -> Iterator[Any]:
    """The module of a command whose flags are parsed, so that its functions can run.

    Args:
        module: such as ``experiments.prune``.
        arguments: flags.

    Yields:
        The module, another than one imported before.
    """
    with _flags_of_its_own(), pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, module, raising=False)
        try:
            fresh = importlib.import_module(module)
            flags.FLAGS([module, *map(str, arguments)])
            yield fresh
        finally:
            sys.modules.pop(module, None)


@contextlib.contextmanager
def _flags_of_its_own() -> Iterator[None]:
    """Without the flags of other commands; what there was comes back."""
    handler = signal.getsignal(signal.SIGTERM)
    uses_cache = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    with flagsaver.flagsaver():
        others = _remove_commands_flags()
        try:
            yield
        finally:
            _remove_commands_flags()
            for name, flag in others.items():
                flags.FLAGS[name] = flag
            signal.signal(signal.SIGTERM, handler)
            jax.config.update("jax_enable_compilation_cache", uses_cache)


def _remove_commands_flags() -> dict[str, flags.Flag]:
    removed = {}
    for name in list(flags.FLAGS):
        module = str(flags.FLAGS.find_module_defining_flag(name))
        if name not in _SHARED and not module.startswith("absl."):
            removed[name] = flags.FLAGS[name]
            delattr(flags.FLAGS, name)
    return removed
