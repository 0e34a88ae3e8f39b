"""Forward selections agree with a loop over scikit-learn's mutual information."""

import jax
import numpy as np
import pytest
from reference import information_of
from sklearn.metrics import mutual_info_score

from ioca_jax.measures.forward_selection import SELECTIONS, selection_scores

RNG = np.random.default_rng(5)
LABELS = RNG.integers(3, size=400).astype(np.int32)
# Neurons that see the class through noise; the last copies the first.
CODES = (LABELS[:, None] + RNG.integers(4, size=(400, 7)) * (1 + np.arange(7)) // 3) % 3
CODES = np.concatenate([CODES, CODES[:, :1]], axis=1).astype(np.int32)
GROUPS = {"all": np.arange(8), "few": np.array([1, 4, 6])}


def bits(a, b):
    return mutual_info_score(a, b) / np.log(2)


def selected(criterion, neurons):
    alone = {i: bits(CODES[:, i], LABELS) for i in neurons}
    chosen = [max(neurons, key=lambda i: alone[i])]
    while len(chosen) < len(neurons):

        def value(i):
            if criterion == "mrmr":
                pairs = [bits(CODES[:, i], CODES[:, j]) for j in chosen]
                return alone[i] - np.mean(pairs)
            return sum(information_of(CODES[:, [i, j]], LABELS) for j in chosen)

        chosen.append(max((i for i in neurons if i not in chosen), key=value))
    return chosen


@pytest.mark.parametrize("criterion", SELECTIONS)
def test_selections_agree_with_a_loop(criterion):
    found = selection_scores(
        *(CODES, LABELS, GROUPS, jax.random.key(0)),
        criterion=criterion,
        num_codes=3,
        num_classes=3,
    )
    for name, neurons in GROUPS.items():
        scores = np.asarray(found[name])
        outside = np.setdiff1d(np.arange(8), neurons)
        assert np.isnan(scores[outside]).all()
        order = [*neurons[np.argsort(-scores[neurons])]]
        expected = selected(criterion, list(neurons))
        # The copies are equal until one is chosen: either may be the first.
        copies = {7: 0}
        assert [copies.get(i, i) for i in order] == [copies.get(i, i) for i in expected]


def test_mrmr_puts_a_copy_off():
    found = selection_scores(
        *(CODES, LABELS, GROUPS, jax.random.key(0)),
        criterion="mrmr",
        num_codes=3,
        num_classes=3,
    )
    scores = np.asarray(found["all"])
    assert abs(scores[0] - scores[7]) > 1
