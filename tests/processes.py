"""Python in processes of their own, from the project's root.

``run`` starts Python anew. ``start`` and ``call`` fork a process that has imported the
library already and has not yet run JAX, which saves the seconds of its import.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile

import ioca_jax as ioca

ROOT = pathlib.Path(ioca.__file__).parent.parent
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["ioca_jax.plots", "ioca_jax.study.run"])


class Forked:
    """A process as ``subprocess.Popen`` describes it, as far as tests need it."""

    def __init__(self, *arguments: object):
        self._folder = tempfile.TemporaryDirectory(prefix="ioca_tests_")
        self._process = _SERVER.Process(
            target=_become,
            args=([str(argument) for argument in arguments], *self._outputs()),
        )
        self._process.start()
        self._texts: tuple[str, str] | None = None

    def _outputs(self) -> tuple[pathlib.Path, pathlib.Path]:
        folder = pathlib.Path(self._folder.name)
        return folder / "stdout", folder / "stderr"

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative if by a signal; None as long as it runs."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self._process.is_alive():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end.

        Args:
            timeout: seconds.

        Returns:
            What it wrote to stdout and to stderr.

        Raises:
            TimeoutError: it has not ended by then.
        """
        self._process.join(timeout)
        if self._process.is_alive():
            raise TimeoutError(f"expected the process to end within {timeout} s")
        if self._texts is None:
            out, err = (p.read_text() if p.exists() else "" for p in self._outputs())
            self._texts = out, err
            self._folder.cleanup()
        return self._texts


def _become(arguments: list[str], *outputs: pathlib.Path) -> None:
    """What a forked process does: as Python does with these arguments."""
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    how, what, *rest = arguments
    sys.argv = [what if how == "-m" else how, *rest]
    try:
        if how == "-m":
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        else:
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()


def start(*arguments: object) -> Forked:
    """Starts what Python would, as ``start("-m", "experiments.run_study", ...)``."""
    return Forked(*arguments)


def call(*arguments: object, timeout: float = 240) -> str:
    """What such a process prints, which must end well."""
    process = start(*arguments)
    out, err = process.communicate(timeout)
    assert process.returncode == 0, err
    return out


def run(
    *arguments: object,
    check: bool = False,
    timeout: float = 240,
) -> subprocess.CompletedProcess:
    """Runs Python to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=check,
        timeout=timeout,
    )
