"""Python in processes of their own, from the project's root."""

import pathlib
import subprocess
import sys

import ioca_jax as ioca

ROOT = pathlib.Path(ioca.__file__).parent.parent


def start(*arguments: object) -> subprocess.Popen:
    """Starts Python, as ``start("-m", "experiments.run_study", ...)``."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    *arguments: object,
    input: str | None = None,
    check: bool = False,
    timeout: float = 240,
) -> subprocess.CompletedProcess:
    """Runs Python to its end."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        input=input,
        check=check,
        timeout=timeout,
    )
