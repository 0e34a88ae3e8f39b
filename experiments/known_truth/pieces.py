"""Pieces of work that are kept when they are done, and processes that do them."""

import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import zlib
from collections.abc import Sequence

import jax
import numpy as np
import pandas as pd

from ioca_jax.results.files import atomic_write

from . import layers, measures, networks, nulls, pairs


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of work: its part, what of it, how much, and the seed of its draws."""

    part: str
    name: str
    number: int
    seed: int
    examples: int
    own: tuple[str, ...] = ()

    def compute(self) -> pd.DataFrame:
        """Its rows."""
        if self.part == "measures":
            found = networks.plant(self.name, self.number, self.examples, self.seed)
            return pd.DataFrame(measures.find_planted(found, self.own))
        if self.part == "pairs":
            found = networks.plant(self.name, self.number, self.examples, self.seed)
            return pd.DataFrame(pairs.name_planted(found))
        rng = np.random.default_rng([self.seed, zlib.crc32(self.name.encode())])
        if self.part == "layers":
            return pd.DataFrame(layers.judge_layers(self.name, self.number, rng))
        return pd.DataFrame(nulls.false_findings(self.name, self.number, rng))

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its rows are kept."""
        return folder / f"{self.part}_{zlib.crc32(repr(self).encode()):08x}.csv"

    def keep(self, folder: pathlib.Path) -> None:
        """Computes it unless it is there."""
        if not self.file(folder).is_file():
            rows = self.compute()
            atomic_write(self.file(folder), lambda path: rows.to_csv(path, index=False))


def _prepare(cache: str | None) -> None:
    """In another process: compiled programs are kept where this one keeps them."""
    jax.config.update("jax_compilation_cache_dir", cache)


def compute(pieces: Sequence[Piece], folder: pathlib.Path, processes: int) -> None:
    """Computes the pieces that are missing; with 1 process in this one."""
    if processes == 1:
        for piece in pieces:
            piece.keep(folder)
        return
    with concurrent.futures.ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        _prepare,
        (jax.config.values["jax_compilation_cache_dir"],),
    ) as pool:
        jobs = [pool.submit(piece.keep, folder) for piece in pieces]
        for done in concurrent.futures.as_completed(jobs):
            done.result()
