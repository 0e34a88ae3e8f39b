"""Folders of runs that must hold the same, to the last bit."""

import pathlib

import numpy as np

import ioca_jax as ioca


def assert_same(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """Compares results, networks and the names of all files, times aside.

    Args:
        folder: a run that was interrupted.
        whole: one that was not.
    """
    first, second = map(ioca.load_results, (folder, whole))
    assert first.drop_attrs(deep=False).identical(second.drop_attrs(deep=False))
    np.testing.assert_equal(*(ioca.load_networks(f)[1] for f in (folder, whole)))
    # Joining tells no events.
    names, expected = ({path.name for path in f.iterdir()} for f in (folder, whole))
    assert names | {"events.jsonl"} == expected
    assert (folder / "flags.txt").read_text() == (whole / "flags.txt").read_text()
    assert (folder / "summary.txt").stat().st_size > 500
