"""Runs the instrument with known truth and writes its page of results.

  python -m experiments.known_truth
  python -m experiments.known_truth --quick
  python -m experiments.known_truth --parts=measures \
      --measures=package.module:function --page=mine.md

Work is shared out to processes; each piece is kept under ``--workdir`` when it is done.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import time
import zlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd

import ioca_jax as ioca
from ioca_jax.checks import check_integer
from ioca_jax.cli.command import Command, option
from ioca_jax.results.files import atomic_write

from . import measures, networks, nulls, page, pairs

PARTS = ("measures", "pairs", "nulls")
_STUDIES_AT_ONCE, _NETWORKS_AT_ONCE = 25, 40


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of the instrument."""

    parts: tuple[str, ...] = option(PARTS, f"Out of {', '.join(PARTS)}.")
    measures: tuple[str, ...] = option(
        (), "Further measures to look for planted units: package.module:function."
    )
    networks: int = option(8, "Planted networks of each architecture.")
    examples: int = option(1000, "To measure planted networks on, and to ablate on.")
    pair_networks: int = option(160, "Networks in which pairs and backups are planted.")
    null_studies: int = option(1000, "Studies of null networks, of each law.")
    quick: bool = option(False, "Small numbers, whatever the flags above.")
    draw_seed: int = option(0, "Seed of all draws.")
    processes: int = option(2, "Processes to work in; 1 works in this one.")
    workdir: str = option("runs/known_truth", "Where finished pieces are kept.")
    page: str = option("experiments/KNOWN_TRUTH.md", "The page to write.")

    def __post_init__(self):
        """Checks the parts and numbers; small numbers for ``quick``."""
        for name in self.parts:
            if name not in PARTS:
                raise ValueError(
                    f"parts: expected one or more of {', '.join(PARTS)}, got {name!r}"
                )
        check_integer("networks", self.networks, least=1)
        check_integer("examples", self.examples, least=200)
        if self.quick:
            small = {"networks": 3, "examples": 200, "pair_networks": 8}
            for name, value in (small | {"null_studies": 5}).items():
                object.__setattr__(self, name, value)


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
        return pd.DataFrame(nulls.false_findings(self.name, self.number, rng))

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its rows are kept."""
        return folder / f"{self.part}_{zlib.crc32(repr(self).encode()):08x}.csv"

    def keep(self, folder: pathlib.Path) -> None:
        """Computes it unless it is there."""
        if not self.file(folder).is_file():
            rows = self.compute()
            atomic_write(self.file(folder), lambda path: rows.to_csv(path, index=False))


def pieces_of(options: Options) -> Iterator[Piece]:
    """All pieces of a run, the longest first."""
    seed, examples = 1000 * options.draw_seed, options.examples
    if "pairs" in options.parts:
        for start in range(0, options.pair_networks, _NETWORKS_AT_ONCE):
            number = min(_NETWORKS_AT_ONCE, options.pair_networks - start)
            yield Piece("pairs", "residual", number, seed + 1 + start, examples)
    if "measures" in options.parts:
        for name in networks.ARCHITECTURES:
            own = options.measures
            yield Piece("measures", name, options.networks, seed, examples, own)
    if "nulls" in options.parts:
        for name in nulls.LAWS:
            for start in range(0, options.null_studies, _STUDIES_AT_ONCE):
                number = min(_STUDIES_AT_ONCE, options.null_studies - start)
                yield Piece("nulls", name, number, seed + start, 0)


def _prepare(cache: str | None) -> None:
    """In another process: compiled programs are kept where this one keeps them."""
    jax.config.update("jax_compilation_cache_dir", cache)


def main(options: Options) -> None:
    """Computes what is missing, then writes the page."""
    began, folder = time.monotonic(), pathlib.Path(options.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = list(pieces_of(options))
    missing = [piece for piece in pieces if not piece.file(folder).is_file()]
    if options.processes == 1:
        for piece in missing:
            piece.keep(folder)
    else:
        cache: Any = jax.config.jax_compilation_cache_dir
        with concurrent.futures.ProcessPoolExecutor(
            options.processes,
            multiprocessing.get_context("spawn"),
            _prepare,
            (cache,),
        ) as pool:
            jobs = [pool.submit(piece.keep, folder) for piece in missing]
            for done in concurrent.futures.as_completed(jobs):
                done.result()
    parts = {
        part: pd.concat(
            [pd.read_csv(p.file(folder)) for p in pieces if p.part == part],
            ignore_index=True,
        )
        for part in options.parts
    }
    about = {
        "version": ioca.__version__,
        "seed": options.draw_seed,
        "minutes": round((time.monotonic() - began) / 60),
        "command": f"{len(missing)} of {len(pieces)} pieces in "
        f"{options.processes} processes",
    }
    text = page.write_page(parts, about)
    pathlib.Path(options.page).write_text(text, "utf-8")
    print(options.page)


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
