"""Scores of heads of planted pairs, and verdicts on planted costs."""

import numpy as np
import pytest

from experiments.questions import synergistic_heads as heads

SEEDS, SIZE = 10, 6


def test_synergy_of_planted_heads():
    rng = np.random.default_rng(0)
    shared, parity, first, noise = rng.integers(2, size=(4, 2000))
    labels = (2 * shared + parity).astype(np.int32)
    columns = [first, first ^ parity, shared, shared, noise]
    found = heads.score_heads(np.stack(columns, 1).astype(np.int32), labels, 4)
    # A bit of one of four pairs: of an exclusive or, and of copies.
    expected = [0.25, 0.25, -0.25, -0.25, 0]
    np.testing.assert_allclose(found["synergy less redundancy"], expected, atol=0.01)
    expected = [0.25, 0.25, 0, 0, 0]
    np.testing.assert_allclose(found["synergy"], expected, atol=0.01)


def test_heads_are_ablated_from_the_greatest_score():
    masks = heads.descending_masks(np.array([[0.2, 0.5, 0.1]]))
    expected = [[True, False, True], [False, False, True], [False, False, False]]
    assert masks.tolist() == [expected]


def planted(sign: float) -> heads.Heads:
    """Networks in which synergy, but no other score, ranks the costs of heads."""
    rng = np.random.default_rng(2)
    scores = {name: rng.normal(size=(SEEDS, SIZE)) for name in heads.SCORES}
    costs = np.repeat(sign * scores["synergy"][:, None], 2, axis=1)
    nothing = rng.normal(size=(SEEDS, 2))
    along = {name: {"kl": nothing, "loss": nothing} for name in heads.SCORES}
    along["synergy"] = dict.fromkeys(("kl", "loss"), sign * (1 + abs(nothing)))
    alone = {"kl": costs, "loss": costs}
    return heads.Heads(scores, alone, along, np.full(SEEDS, 0.9))


def test_verdicts_on_planted_heads():
    table = heads.judge_heads(planted(1), planted(-1))
    # Two costs of trained networks, one of untrained ones and of the difference.
    assert len(table) == 3 * 2 * 2 * 4
    of_synergy = table.query("score == 'synergy'").set_index("networks")
    assert set(of_synergy.loc["trained", "verdict"]) == {heads.MORE}
    assert set(of_synergy.loc["untrained", "verdict"]) == {heads.LESS}
    assert set(of_synergy.loc["trained less untrained", "verdict"]) == {heads.MORE}
    rho = of_synergy.query("quantity == 'correlation'").loc["trained", "effect"]
    np.testing.assert_allclose(rho, 1)
    others = table.query("score == 'mutual information' and quantity == 'correlation'")
    assert set(others["verdict"]) == {"undecided"}


def test_levels_are_compared_with_those_before_training():
    trained, untrained = planted(1), planted(1)
    for name in heads.SCORES:
        trained.scores[name][:] = 0.1 + untrained.scores[name] / 100
        untrained.scores[name][:] = untrained.scores[name] / 1000
    table = heads.judge_levels(trained, untrained).set_index("networks")
    assert set(table.loc["trained less untrained", "verdict"]) == {"above 0"}
    expected = [
        trained.scores[n].mean() - untrained.scores[n].mean() for n in heads.SCORES
    ]
    assert table.loc["trained less untrained", "effect"].tolist() == pytest.approx(
        expected
    )
