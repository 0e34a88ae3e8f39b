"""Labels, codes and counts that are none are refused; what is traced is let be."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ioca_jax import checks

LABELS = np.array([0, 2, 1, 2], np.int32)
CODES = np.array([[0, 1], [1, 1], [2, 0]], np.int32)
COUNTS = np.array([[3, 0], [1, 2]], np.int32)


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_what_is_right_is_let_be(as_array):
    checks.check_labels(as_array(LABELS), 3, 4)
    checks.check_labels(as_array(LABELS.astype(np.uint8)), 3)
    checks.check_labels(as_array(LABELS[:0]), 3, 0)
    checks.check_codes(as_array(CODES), 3)
    checks.check_codes(as_array(CODES.astype(np.int8)), 3)
    checks.check_counts(as_array(COUNTS))
    checks.check_num_classes(2)


def test_values_are_known_unless_traced():
    assert checks.is_known(LABELS)
    assert checks.is_known(jnp.asarray(LABELS))
    assert checks.is_known([0, 1])
    found = []
    jax.jit(lambda x: found.append(checks.is_known(x)))(LABELS)
    jax.vmap(lambda x: found.append(checks.is_known(x)))(LABELS)
    assert found == [False, False]


@jax.jit
def checked_while_traced(labels, codes, counts):
    checks.check_labels(labels, 3, 4)
    checks.check_codes(codes, 3)
    checks.check_counts(counts)
    return labels


def test_values_that_are_traced_are_not_looked_at():
    # A label of -1 marks an example to leave out, inside of programs.
    assert checked_while_traced(LABELS - 1, CODES + 9, -COUNTS).tolist() == [
        -1,
        1,
        0,
        1,
    ]
    with pytest.raises(ValueError, match="^labels: expected 4, one for each"):
        checked_while_traced(LABELS[1:], CODES, COUNTS)
    with pytest.raises(ValueError, match="^codes: expected integers, got float32; "):
        checked_while_traced(LABELS, CODES * np.float32(0.5), COUNTS)


REFUSED = [
    (
        lambda: checks.check_labels(LABELS, 2),
        "labels: expected values in [0, 1], got 2; number classes from 0 to "
        "num_classes - 1",
    ),
    (
        lambda: checks.check_labels(LABELS - 1, 3, name="y"),
        "y: expected values in [0, 2], got -1; number classes from 0 to "
        "num_classes - 1",
    ),
    (
        lambda: checks.check_labels(np.array([2**32 + 1]), 3),
        "labels: expected values in [0, 2], got 4294967297; number classes from 0 to "
        "num_classes - 1",
    ),
    (
        lambda: checks.check_labels(LABELS.astype(np.float32), 3),
        "labels: expected integers, got float32; number classes from 0",
    ),
    (
        lambda: checks.check_labels(LABELS[:, None], 3),
        "labels: expected shape [N], one class for each example, got shape [4, 1]",
    ),
    (
        lambda: checks.check_labels(LABELS, 3, 5),
        "labels: expected 5, one for each example, got 4",
    ),
    (
        lambda: checks.check_codes(jnp.asarray(CODES), 2),
        "codes: expected values in [0, 1], got 2; num_codes is the number of codes B",
    ),
    (
        lambda: checks.check_codes(CODES - 1, 3),
        "codes: expected values in [0, 2], got -1; num_codes is the number of codes B",
    ),
    (
        lambda: checks.check_codes(CODES.astype(np.float32), 3),
        "codes: expected integers, got float32; quantize activations first",
    ),
    (
        lambda: checks.check_codes(CODES[0], 3),
        "codes: expected shape [N, H], a code for each example and neuron, got shape "
        "[2]",
    ),
    (
        lambda: checks.check_codes(CODES[:0], 0),
        "num_codes: expected at least 1, got 0",
    ),
    (
        lambda: checks.check_counts(COUNTS.astype(np.float32)),
        "counts: expected integers, got float32; count with joint_counts",
    ),
    (
        lambda: checks.check_counts(COUNTS[0]),
        "counts: expected shape [..., B, C], codes and classes, got shape [2]",
    ),
    (
        lambda: checks.check_counts(COUNTS - 1),
        "counts: expected none negative, got -1",
    ),
    (
        lambda: checks.check_counts(
            np.stack([COUNTS, COUNTS]).astype(np.int64) * 2**29
        ),
        "counts: expected at most 2147483647 examples, which int32 holds, got "
        "3221225472; take a part of them",
    ),
    (
        lambda: checks.check_num_classes(1),
        "num_classes: expected at least 2 classes to tell apart, got 1",
    ),
]


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_is_refused(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


X = np.array([[0.5, 1.0], [3e38, -1.0], [0.0, 2.0], [1.0, 1.0]], np.float32)
MASKS = np.array([[True, False, True], [True, True, True]])
CLAMP = np.array([0.0, 3e38, -1.0], np.float32)


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
def test_examples_masks_and_clamps_that_are_right_are_let_be(as_array):
    for x in (X, X.reshape(4, 1, 2), (X > 0).astype(np.uint8)):
        checks.check_examples(as_array(x), as_array(LABELS), 3)
    for masks in (MASKS, MASKS[0], MASKS[None]):
        checks.check_keep(as_array(masks), 3)
    for clamp in (CLAMP, CLAMP[None], np.zeros(3, int)):
        checks.check_clamp(as_array(clamp), 3)
    checks.check_clamp(
        as_array(with_nan(CLAMP)), 3, kept=np.array([False, True, False])
    )


def with_nan(array):
    changed = array.copy()
    changed.flat[1] = np.nan
    return changed


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: checks.check_examples(X[0], LABELS, 3),
            "x: expected numbers of shape [N, ...] with N at least 1, got float32 of "
            "shape [2]",
        ),
        (
            lambda: checks.check_examples(X[:0], LABELS[:0], 3),
            "x: expected numbers of shape [N, ...] with N at least 1, got float32 of "
            "shape [0, 2]",
        ),
        (
            lambda: checks.check_examples(X > 0, LABELS, 3),
            "x: expected numbers of shape [N, ...] with N at least 1, got bool of "
            "shape [4, 2]",
        ),
        (
            lambda: checks.check_examples(X, LABELS[:3], 3),
            "y: expected 4, one for each example, got 3",
        ),
        (
            lambda: checks.check_examples(X, LABELS, 2),
            "y: expected values in [0, 1], got 2; number classes from 0 to "
            "num_classes - 1",
        ),
        (
            lambda: checks.check_examples(jnp.asarray(with_nan(X)), LABELS, 3),
            "x: expected numbers, got NaN for 1 of 8 values; leave such examples out",
        ),
        (
            lambda: checks.check_keep(CLAMP, 3, name="masks"),
            "masks: expected bool [..., 3], True for each hidden neuron that is kept, "
            "got float32 of shape [3]; it is neither the clamp nor a list of neurons",
        ),
        (
            lambda: checks.check_keep(MASKS, 4),
            "keep: expected bool [..., 4], True for each hidden neuron that is kept, "
            "got bool of shape [2, 3]; it is neither the clamp nor a list of neurons",
        ),
        (
            lambda: checks.check_clamp(MASKS, 3),
            "clamp: expected one number, or float32 [..., 3], a value for each "
            "hidden neuron, got "
            "bool of shape [2, 3]",
        ),
        (
            lambda: checks.check_clamp(CLAMP[:2], 3),
            "clamp: expected one number, or float32 [..., 3], a value for each "
            "hidden neuron, got "
            "float32 of shape [2]",
        ),
        (
            lambda: checks.check_clamp(with_nan(CLAMP), 3, kept=MASKS[0]),
            "clamp: expected numbers, got NaN for 1 of 3 values; an ablated neuron "
            "outputs a number",
        ),
    ],
)
def test_unusable_examples_masks_and_clamps(call, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


def test_values_that_are_traced_are_let_be():
    @jax.jit
    def trace(x, y, clamp):
        checks.check_examples(x, y, 2)
        checks.check_clamp(clamp, 3)

    trace(with_nan(X), LABELS + 7, with_nan(CLAMP))
