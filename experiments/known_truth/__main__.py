"""Runs the instrument with known truth and writes its page of results.

  python -m experiments.known_truth
  python -m experiments.known_truth --quick
  python -m experiments.known_truth --parts=measures \
      --measures=package.module:function --page=mine.md

Work is shared out to processes; each piece is kept under ``--workdir`` when it is done.
"""

import dataclasses
import pathlib
from collections.abc import Iterator

import pandas as pd

import ioca_jax as ioca
from ioca_jax.checks import check_integer
from ioca_jax.cli.command import Command, option

from . import layers, networks, nulls, page
from .pieces import Piece, compute

PARTS = ("measures", "pairs", "layers", "nulls")
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
    layer_studies: int = option(25, "Studies of redundant and synergistic layers.")
    null_studies: int = option(250, "Studies of eight exchangeable null networks.")
    information_studies: int = option(
        125, "Studies of eight uninformative null networks."
    )
    quick: bool = option(False, "Small numbers, whatever the flags above.")
    draw_seed: int = option(0, "Seed of all draws.")
    finished: bool = option(
        False, "Compute nothing: write the page of the pieces that are finished."
    )
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
            small |= {"layer_studies": 5, "null_studies": 5, "information_studies": 5}
            for name, value in small.items():
                object.__setattr__(self, name, value)


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
    if "layers" in options.parts:
        for name in layers.LAYERS:
            yield Piece("layers", name, options.layer_studies, seed, 0)
    if "nulls" in options.parts:
        studies = options.null_studies, options.information_studies
        for name, number in zip(nulls.LAWS, studies, strict=True):
            for start in range(0, number, _STUDIES_AT_ONCE):
                size = min(_STUDIES_AT_ONCE, number - start)
                yield Piece("nulls", name, size, seed + start, 0)


def main(options: Options) -> None:
    """Computes what is missing, then writes the page."""
    folder = pathlib.Path(options.workdir)
    folder.mkdir(parents=True, exist_ok=True)
    pieces = list(pieces_of(options))
    missing = [piece for piece in pieces if not piece.file(folder).is_file()]
    if options.finished:
        pieces = [piece for piece in pieces if piece not in missing]
    else:
        compute(missing, folder, options.processes)
    parts = {
        part: pd.concat(
            [pd.read_csv(p.file(folder)) for p in pieces if p.part == part],
            ignore_index=True,
        )
        for part in dict.fromkeys(piece.part for piece in pieces)
    }
    about = {"version": ioca.__version__, "seed": options.draw_seed}
    text = page.write_page(parts, about)
    pathlib.Path(options.page).write_text(text, "utf-8")
    print(options.page)


COMMAND = Command(main, (Options,))

if __name__ == "__main__":
    COMMAND.run()
