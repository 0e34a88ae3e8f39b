"""Counts in documents are those of the results, each beside its opposite's."""

import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]


def counts_by_claim() -> dict[str, np.ndarray]:
    """[settings, verdicts]: holds, fails and undecided, of the first table of claims.

    Settings: ReLU and sigmoid on MNIST, then on Fashion-MNIST, then on CIFAR-10.
    """
    found = {}
    for line in (ROOT / "experiments/RESULTS.md").read_text("utf-8").splitlines():
        claim, *cells = line.strip("| ").split(" | ")
        numbers = [re.fullmatch(r"(\d+) / (\d+) / (\d+)", cell) for cell in cells]
        if len(cells) == 6 and all(numbers):
            counts = [tuple(map(int, one.groups())) for one in numbers if one]
            found.setdefault(claim.split(":")[0], np.array(counts))
    return found


def test_rows_of_the_readme_are_those_of_the_results_in_short():
    readme = (ROOT / "README.md").read_text("utf-8").splitlines()
    rows = [line for line in readme if line[0:1] == "|" and " comparisons" in line]
    assert len(rows) == 4
    assert set(rows) <= {*(ROOT / "docs/results.md").read_text("utf-8").splitlines()}


def test_counts_and_their_opposites_are_those_of_the_results():
    by_claim = counts_by_claim()
    relu, sigmoid, mnist = [0, 2, 4], [1, 3, 5], [0, 1]

    def told(claim: str, settings: list[int], turned: bool = False) -> tuple[int, ...]:
        """Holds, in all, fails; turned: fails, in all, holds."""
        holds, fails, open_ = by_claim[claim][settings].sum(axis=0)
        first, last = (fails, holds) if turned else (holds, fails)
        return first, holds + fails + open_, last

    text = " ".join((ROOT / "docs/results.md").read_text("utf-8").split())
    for numbers, sentence in (
        (
            told("2, highest first", [*range(6)]),
            "Yes, in {} of {} comparisons; the opposite in {}.",
        ),
        (
            told("2, lowest first", relu),
            "With ReLU often: {} of {} comparisons, the opposite in {}.",
        ),
        (
            told("2, lowest first", sigmoid),
            "With sigmoid {} of {}, the opposite in {}.",
        ),
        (
            told("1", mnist, turned=True),
            "Not on MNIST: ascending order is better than random in {} of {} "
            "comparisons, shown to be no better in {}.",
        ),
        (
            told("1", relu[1:], turned=True),
            "On Fashion-MNIST and CIFAR-10 it is better in {} of {} with ReLU, no "
            "better in {};",
        ),
        (
            told("1", sigmoid[1:], turned=True),
            "with sigmoid better in {} of {}, no better in {}.",
        ),
    ):
        assert sentence.format(*numbers) in text
    (depth, of_depth, one), (harm, of_harm, none) = (
        told(claim, [*range(6)]) for claim in ("3", "4")
    )
    assert none == 0
    assert (
        f"Yes: {depth} of {of_depth} and {harm} of {of_harm} comparisons; the opposite "
        f"in {one} and in none."
    ) in text
    holds, fails, undecided = by_claim["5"].sum(axis=0)
    assert f"{holds} yes, {fails} no, {undecided} undecided." in text
