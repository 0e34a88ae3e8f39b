"""Bits: oracles of SciPy and scikit-learn, closed forms, invariants, transforms."""

import decimal
import fractions
from decimal import Decimal as D

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import mutual_info_score

from ioca_jax.measures import information
from ioca_jax.measures.counts import joint_counts
from ioca_jax.measures.information import (
    MEASURES,
    PAPER_MEASURES,
    ROUNDING,
    class_divergences,
    entropy_miller_madow,
    mutual_information_miller_madow,
    permutation_null,
    permuted_labels,
    reaches,
    selective_class,
)

# The project's promise, in bits. float32 keeps it: a probability is right to 6e-8, its
# logarithm is below 20 bits, and there are 64 * 20 terms with weights that sum to 1.
TOLERANCE = 1e-5


def tables_of(num_codes: int, num_classes: int) -> np.ndarray:
    """Random counts int32 [48, B, C]: imbalanced, with absences and dead neurons."""
    rng = np.random.default_rng(100 * num_codes + num_classes)
    of_class = rng.integers(1, 6000, num_classes) // 10 ** rng.integers(
        0, 4, num_classes
    )
    of_code = rng.dirichlet(np.full(num_codes, 0.5), (48, num_classes))
    tables = rng.poisson(of_code.swapaxes(1, 2) * of_class).astype(np.int32)
    tables[:8, :, 0] = 0  # an absent class
    tables[8:16, -1] = 0  # an empty code
    tables[16:20, 1:] = 0  # a dead neuron
    tables[20:24] = np.eye(num_codes, num_classes, dtype=np.int32) * of_class
    tables[24] = 0
    tables[24, 0, 1] = 1  # a single example
    return tables


def entropy_oracle(table: np.ndarray) -> float:
    return float(scipy.stats.entropy(table.sum(axis=1), base=2))


def mutual_information_oracle(table: np.ndarray) -> float:
    return float(mutual_info_score(None, None, contingency=table) / np.log(2))


def kl_selectivity_oracle(table: np.ndarray) -> float:
    of_code = table.sum(axis=1) / table.sum()
    occurring = table[:, table.sum(axis=0) > 0]
    given_class = occurring / occurring.sum(axis=0)
    terms = scipy.special.rel_entr(given_class, of_code[:, None])
    return float(terms.sum(axis=0).max() / np.log(2))


ORACLES = {
    "entropy": entropy_oracle,
    "mutual_information": mutual_information_oracle,
    "kl_selectivity": kl_selectivity_oracle,
}


@jax.jit
def measured(counts):
    """All three, traced once for each shape (a test below: traced = eager)."""
    return jnp.stack([measure(counts) for measure in PAPER_MEASURES.values()])


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("num_codes", [2, 8, 64])
def test_measures_agree_with_their_oracles(num_codes, num_classes):
    tables = tables_of(num_codes, num_classes)
    occurs = tables.sum(axis=(1, 2)) > 0
    assert occurs.sum() > 30
    bits = np.asarray(measured(tables))
    assert bits.shape == (3, 48)
    assert bits.dtype == np.float32
    assert np.isfinite(bits).all()
    expected = [
        [ORACLES[name](table) for table in tables[occurs]] for name in PAPER_MEASURES
    ]
    np.testing.assert_allclose(bits[:, occurs], expected, rtol=0, atol=TOLERANCE)


# Closed forms: a table, and its entropy, mutual information and KL selectivity.
CLOSED_FORMS = {
    # Fires for class 3 of ten balanced ones and for no other.
    "a detector of one class of ten": (
        [[100] * 3 + [0] + [100] * 6, [0] * 3 + [100] + [0] * 6],
        -0.1 * np.log2(0.1) - 0.9 * np.log2(0.9),
        -0.1 * np.log2(0.1) - 0.9 * np.log2(0.9),
        np.log2(10),
    ),
    # On for half of either class, as an input of an XOR is; the known mistake
    # H(T) + H(T|Y) gives 2 bits here, more than one bit can hold.
    "an input of an XOR": ([[50, 50], [50, 50]], 1, 0, 0),
    "a copy of the class bit": ([[70, 0], [0, 70]], 1, 1, 1),
    "a copy of four classes": (np.eye(4, dtype=np.int32) * 9, 2, 2, 2),
    # P(t=1) = 1/2, P(t=1|y) = 1/4 or 3/4: I = 1 - h(1/4), of each class too.
    "a noisy bit": (
        [[30, 10], [10, 30]],
        1,
        1 + 0.25 * np.log2(0.25) + 0.75 * np.log2(0.75),
        1 + 0.25 * np.log2(0.25) + 0.75 * np.log2(0.75),
    ),
    # The ceiling of KL selectivity is a rare class's: log2(1 / P(y)) for 1 in 1,024.
    "a detector of a rare class": (
        [[1023, 0], [0, 1]],
        (10 - 1023 * np.log2(1023 / 1024)) / 1024,
        (10 - 1023 * np.log2(1023 / 1024)) / 1024,
        10,
    ),
}


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_closed_forms(case):
    table, *expected = CLOSED_FORMS[case]
    bits = measured(np.array(table, np.int32))
    np.testing.assert_allclose(bits, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("num_codes", [2, 64])
@pytest.mark.parametrize(
    "of_class", [[5, 5], [9_999, 1], [7, 0, 3], [0, 0, 0]], ids=str
)
def test_a_dead_neuron_has_exactly_zero_bits(num_codes, of_class):
    tables = np.zeros((2, num_codes, len(of_class)), np.int32)
    tables[0, 0] = tables[1, -1] = of_class
    # Exactly, and NaN would not equal 0.
    np.testing.assert_array_equal(measured(tables), np.zeros((3, 2)))
    for measure in MEASURES.values():
        np.testing.assert_array_equal(measure(tables), np.zeros(2))


def test_a_dead_neuron_has_exactly_zero_bits_of_any_number_of_examples():
    # N * (1 / N) is not 1 in float32 for one N of eight: 41, 833, 4403 are some.
    totals = np.arange(1, 12_000)
    tables = np.zeros((len(totals), 2, 2), np.int32)
    tables[:, 1, 0] = totals // 3
    tables[:, 1, 1] = totals - totals // 3
    assert not np.asarray(measured(tables)).any()
    assert (np.asarray(selective_class(tables)) == -1).all()
    of_class = [308, 611, 156, 422, 585, 455, 547, 397, 518, 404]
    table = np.array([of_class, [0] * 10], np.int32)
    assert not np.asarray(measured(table)).any()
    assert selective_class(table) == -1


def test_an_independent_code_has_exactly_zero_bits_of_the_class():
    rng = np.random.default_rng(0)
    of_code, of_class = rng.integers(1, 300, (500, 4)), rng.integers(1, 300, (500, 7))
    tables = (of_code[:, :, None] * of_class[:, None]).astype(np.int32)
    assert not np.asarray(class_divergences(tables)).any()
    assert not np.asarray(MEASURES["mutual_information"](tables)).any()
    assert (np.asarray(selective_class(tables)) == -1).all()
    tables[:, 0, 0] += 1
    assert (np.asarray(class_divergences(tables))[:, 0] > 0).all()


def exact_divergence(table: np.ndarray, label: int) -> D:
    """Of 50 digits; the rationals under its logarithms are exact."""
    rows = [[int(count) for count in row] for row in table]
    of_code, total = [sum(row) for row in rows], sum(map(sum, rows))
    of_class = sum(row[label] for row in rows)
    nats = D(0)
    for row, code in zip(rows, of_code, strict=True):
        if row[label]:
            ratio = fractions.Fraction(row[label] * total, of_class * code)
            logarithm = (D(ratio.numerator) / D(ratio.denominator)).ln()
            nats += D(row[label]) / D(of_class) * logarithm
    return nats / D(2).ln()


@pytest.mark.parametrize("most", [10, 5_000, 40_000_000])
@pytest.mark.parametrize("dependence", [1e-3, 1])
def test_divergences_are_right_to_a_share_of_themselves(most, dependence):
    # Of 40 million examples and codes that are almost independent, 1e-7 bits.
    rng = np.random.default_rng(most)
    of_class = rng.integers(1, most, 5)
    laws = (1 - dependence) * np.array([0.5, 0.3, 0.2])
    laws = laws + dependence * rng.dirichlet(np.ones(3), 5)
    table = rng.multinomial(of_class, laws).T.astype(np.int32)
    with decimal.localcontext(prec=50):
        exact = [float(exact_divergence(table, label)) for label in range(5)]
    found = np.asarray(class_divergences(table))
    np.testing.assert_allclose(found, exact, rtol=ROUNDING / 2, atol=0)
    weights = table.sum(axis=0) / table.sum()
    information = MEASURES["mutual_information"](table)
    np.testing.assert_allclose(information, weights @ exact, rtol=ROUNDING / 2, atol=0)


def test_the_selective_class_is_the_first_of_equal_ones():
    # Few and small counts: many classes have the same law, or one as far from P(T).
    rng = np.random.default_rng(0)
    tables = rng.integers(0, 9, (4000, 2, 6)) * rng.integers(1, 40, (4000, 1, 6))
    tables[::2, :, 3:] = 7 * tables[::2, :, :3]
    tables = tables.astype(np.int32)
    found, expected, tied = np.asarray(selective_class(tables)), [], 0
    joint = tables / np.maximum(tables.sum(axis=(1, 2), keepdims=True), 1)
    of_class = np.maximum(joint.sum(axis=1, keepdims=True), 1e-300)
    terms = scipy.special.rel_entr(joint / of_class, joint.sum(axis=2, keepdims=True))
    divergences = terms.sum(axis=1)
    with decimal.localcontext(prec=50):
        for table, bits in zip(tables, divergences, strict=True):
            near = np.flatnonzero(bits > bits.max() - 1e-9)
            exact = [exact_divergence(table, int(label)) for label in near]
            equal = [max(exact) - value < D("1e-40") for value in exact]
            tied += sum(equal) > 1
            says_nothing = max(exact) < D("1e-40")
            expected.append(-1 if says_nothing else near[equal.index(True)])
    assert tied > 1500
    np.testing.assert_array_equal(found, expected)


def test_a_null_of_millions_of_examples_is_exact():
    # Tables of permuted labels: chance gives about 3e-6 bits.
    rng = np.random.default_rng(0)
    of_class = np.full(10, 200_000)
    on = rng.multivariate_hypergeometric(of_class, 700_000, size=400)
    tables = np.stack([of_class - on, on], axis=1)
    share = tables / 2e6
    product = share.sum(axis=2, keepdims=True) * share.sum(axis=1, keepdims=True)
    exact = scipy.special.rel_entr(share, product).sum(axis=(1, 2))
    bits = MEASURES["mutual_information"](tables.astype(np.int32))
    found = jnp.mean(reaches(bits, bits[:20, None], bits[:20, None]), axis=1)
    # No two are as near as rounding.
    wanted = (exact >= exact[:20, None]).mean(axis=1)
    assert wanted.min() < 0.2
    assert wanted.max() > 0.8
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize("measure", [*MEASURES.values(), selective_class])
def test_what_are_not_counts(measure, unchecked_shapes):
    table = np.array([[3, 1], [0, 2]], np.int32)
    for counts, message in (
        (table * 0.5, "^counts: expected integers, got float64; "),
        (table - 1, "^counts: expected none negative, got -1$"),
        (table.astype(np.int64) * 10**9, "^counts: expected at most 2147483647 "),
        (table[0], r"^counts: expected shape \[..., B, C\]"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(counts)
    assert measure(table.astype(np.int8)) == measure(table)


def test_class_divergences_are_zero_for_an_absent_class():
    table = np.array([[3, 0, 1], [1, 0, 3]], np.int32)
    divergences = np.asarray(class_divergences(table))
    assert divergences[1] == 0
    expected = [scipy.stats.entropy(p, [0.5, 0.5], base=2) for p in ([3, 1], [1, 3])]
    np.testing.assert_allclose(divergences[[0, 2]], expected, atol=TOLERANCE)


# One shape, so that JAX compiles its operations once.
counts_4_by_5 = hnp.arrays(
    np.int32, (4, 5), elements=st.sampled_from([0, 0, 1, 2, 7, 100, 9_999])
)


@settings(max_examples=50)
@given(counts_4_by_5)
@example(np.zeros((4, 5), np.int32))
def test_bounds(counts):
    of_class = counts.sum(axis=0) / max(1, counts.sum())
    entropy, information, selectivity = measured(counts).tolist()
    entropy_of_class = float(measured(counts.T)[0])
    assert np.isfinite([entropy, information, selectivity]).all()
    assert 0 <= entropy <= 2 + TOLERANCE
    assert 0 <= information <= selectivity + TOLERANCE
    assert information <= min(entropy, entropy_of_class) + TOLERANCE
    if counts.any():
        ceiling = np.log2(1 / of_class[of_class > 0].min())
        assert selectivity <= ceiling + TOLERANCE


@settings(max_examples=25)
@given(
    counts_4_by_5,
    st.permutations(range(4)),
    st.permutations(range(5)),
    st.integers(2, 10_000),
)
def test_names_and_totals_do_not_matter(counts, codes, classes, factor):
    bits = measured(counts)
    for same in (counts[codes], counts[:, classes], counts * factor):
        np.testing.assert_allclose(measured(same), bits, rtol=0, atol=TOLERANCE)


def test_mutual_information_is_symmetric():
    tables = tables_of(8, 10)
    bits, swapped = measured(tables)[1], measured(tables.swapaxes(1, 2))[1]
    np.testing.assert_allclose(swapped, bits, rtol=0, atol=TOLERANCE)


def test_a_one_bit_neuron_never_tells_more_than_one_bit():
    # The public replication's H(T) + H(T|Y) exceeds it for most of these tables.
    tables = tables_of(2, 10)
    entropy, information, _ = measured(tables)
    assert information.max() <= 1 + TOLERANCE
    of_class = tables.sum(axis=1) / np.maximum(tables.sum(axis=(1, 2)), 1)[:, None]
    given_class = scipy.stats.entropy(np.maximum(tables, 1e-30), axis=1, base=2)
    mistake = entropy + (of_class * given_class).sum(axis=1)
    assert (mistake > 1).any()  # or these tables could not tell


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_transforms_agree(measure):
    tables = tables_of(3, 10)[::8]
    bits = measure(tables)
    looped = [measure(table) for table in tables]
    # The same float32 operations, in another order: a few units in the last place.
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(jax.vmap(measure)(tables), bits, **close)
    np.testing.assert_allclose(looped, bits, **close)
    stacked = tables.reshape(2, 3, 3, 10)  # two leading axes, jitted
    np.testing.assert_allclose(jax.jit(measure)(stacked), bits.reshape(2, 3), **close)


def test_miller_madow_is_the_plug_in_value_and_the_cells_that_occur():
    tables = tables_of(8, 10)
    total = np.maximum(tables.sum(axis=(1, 2)), 1)
    codes = (tables.sum(axis=2) > 0).sum(axis=1)
    classes = (tables.sum(axis=1) > 0).sum(axis=1)
    pairs = (tables > 0).sum(axis=(1, 2))
    entropy, information, _ = measured(tables)
    bits = 1 / (2 * np.log(2) * total)
    # Cells that occur, less one, are at least 0: there is a table without examples.
    np.testing.assert_allclose(
        entropy_miller_madow(tables) - entropy,
        np.maximum(codes - 1, 0) * bits,
        atol=1e-6,
    )
    corrected = mutual_information_miller_madow(tables)
    degrees = np.maximum(codes - 1, 0) + np.maximum(classes - 1, 0)
    degrees -= np.maximum(pairs - 1, 0)
    np.testing.assert_allclose(corrected - information, degrees * bits, atol=1e-6)


def test_miller_madow_takes_most_of_the_bias_away():
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=1000).astype(np.int32)
    codes = rng.integers(4, size=(1000, 400)).astype(np.int32)  # says nothing of them
    counts = joint_counts(codes, labels, num_codes=4, num_classes=10)
    plug_in = np.asarray(MEASURES["mutual_information"](counts))
    corrected = np.asarray(mutual_information_miller_madow(counts))
    # (B-1)(C-1) / (2 N ln 2), and a standard error of sqrt(2 * 27) / (2 N ln 2 * 20).
    expected, error = 27 / 2000 / np.log(2), 54**0.5 / 2000 / np.log(2) / 20
    assert abs(plug_in.mean() - expected) < 4 * error
    assert abs(corrected.mean()) < 4 * error
    assert (corrected < 0).any()  # the sign is kept


def test_the_selective_class_attains_the_selectivity():
    tables = tables_of(2, 10)
    classes = np.asarray(selective_class(tables))
    divergences = np.asarray(class_divergences(tables))
    says_nothing = divergences.max(axis=1) == 0
    assert says_nothing.sum() >= 5  # dead neurons, and the single example
    assert (classes[says_nothing] == -1).all()
    there = np.flatnonzero(~says_nothing)
    np.testing.assert_array_equal(
        divergences[there, classes[there]], measured(tables)[2][there]
    )
    detector = np.zeros((2, 10), np.int32)
    detector[0], detector[0, 3], detector[1, 3] = 50, 0, 50
    assert selective_class(detector) == 3


def planted_codes() -> tuple[np.ndarray, np.ndarray]:
    """2,000 examples, of neurons: a label's copy, dead, a weak one, 47 of chance."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=2000).astype(np.int32)
    codes = rng.integers(2, size=(2000, 50)).astype(np.int32)
    codes[:, 0], codes[:, 1] = labels > 1, 0
    codes[:, 2] = np.where(rng.uniform(size=2000) < 0.15, labels > 1, codes[:, 2])
    return codes, labels


def test_the_null_finds_what_is_planted():
    codes, labels = planted_codes()
    nulls = permutation_null(
        codes,
        labels,
        num_codes=2,
        num_classes=4,
        key=jax.random.key(0),
        permutations=199,
    )
    assert nulls.keys() == {"mutual_information", "kl_selectivity"}
    for null in nulls.values():
        # (b + 1) / (m + 1): the least is 1 / 200, and a dead neuron's is 1.
        np.testing.assert_allclose(null.p_value[:3], [0.005, 1, 0.005], rtol=1e-6)
        np.testing.assert_allclose(null.p_value_family[:2], [0.005, 1], rtol=1e-6)
        assert null.p_value_family[2] < 0.05
        assert (null.p_value_family >= null.p_value).all()
        # 47 neurons of chance: 4 standard deviations of a binomial at 0.1.
        assert np.mean(null.p_value[3:] <= 0.1) < 0.1 + 4 * (0.09 / 47) ** 0.5
    mean = np.asarray(nulls["mutual_information"].mean[3:])
    bias = 3 / 4000 / np.log(2)  # (B-1)(C-1) / (2 N ln 2)
    np.testing.assert_allclose(mean, bias, rtol=0.35)
    assert abs(mean.mean() / bias - 1) < 0.05


def test_the_null_is_chi_square():
    codes, labels = planted_codes()
    null = permutation_null(
        codes,
        labels,
        num_codes=2,
        num_classes=4,
        key=jax.random.key(1),
        permutations=800,
    )["mutual_information"]
    counts = joint_counts(codes, labels, num_codes=2, num_classes=4)
    statistic = (
        2 * 2000 * np.log(2) * np.asarray(MEASURES["mutual_information"](counts))
    )
    expected = scipy.stats.chi2.sf(statistic[3:], df=3)
    # 47 shares of 800 draws: below 4.5 of their standard deviations, at most 0.0177.
    np.testing.assert_allclose(null.p_value[3:], expected, atol=0.08)


@pytest.mark.parametrize("num_codes", [2, 5])
def test_the_null_is_a_loop_over_permutations(num_codes):
    rng = np.random.default_rng(0)
    codes = rng.integers(num_codes, size=(60, 3)).astype(np.int32)
    labels = rng.integers(3, size=60).astype(np.int32)
    null = permutation_null(
        codes,
        labels,
        num_codes=num_codes,
        num_classes=3,
        key=jax.random.key(0),
        permutations=37,
    )["kl_selectivity"]
    shuffled = np.asarray(permuted_labels(labels, jax.random.key(0), 37))
    assert len(np.unique(shuffled, axis=0)) == 37
    tables = [[np.zeros((num_codes, 3), np.int32) for _ in range(3)] for _ in range(38)]
    for row, some in enumerate([labels, *shuffled]):
        np.testing.assert_array_equal(np.sort(some), np.sort(labels))
        for neuron in range(3):
            np.add.at(tables[row][neuron], (codes[:, neuron], some), 1)
    values = np.array([[kl_selectivity_oracle(t) for t in row] for row in tables])
    observed, drawn = values[0], values[1:]
    as_great = (drawn >= observed - 1e-6).sum(axis=0)
    any_as_great = (drawn.max(axis=1)[:, None] >= observed - 1e-6).sum(axis=0)
    np.testing.assert_allclose(null.p_value, (as_great + 1) / 38, rtol=1e-6)
    np.testing.assert_allclose(null.p_value_family, (any_as_great + 1) / 38, rtol=1e-6)
    np.testing.assert_allclose(null.mean, drawn.mean(axis=0), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"measures": ("entropy",)},
            "measures: expected some of mutual_information, kl_selectivity, "
            "mutual_information_miller_madow, got 'entropy'",
        ),
        (
            {"measures": ("taylor_zero",)},
            "measures: expected some of mutual_information, kl_selectivity, "
            "mutual_information_miller_madow, got 'taylor_zero'",
        ),
        ({"permutations": 2.5}, "permutations: expected an integer, got 2.5"),
        ({"permutations": 0}, "permutations: expected at least 1, got 0"),
        (
            {"num_codes": 1},
            r"codes: expected values in \[0, 0\], got 1; num_codes is the number of "
            "codes B",
        ),
        (
            {"num_classes": 3},
            r"labels: expected values in \[0, 2\], got 3; number classes from 0 to "
            "num_classes - 1",
        ),
        (
            {"labels": np.full(2000, 3, np.int32)},
            "labels: expected examples of two classes or more, got only class 3; "
            "information on the class needs classes to tell apart",
        ),
    ],
)
def test_what_no_null_can_be_made_of(change, message, unchecked_shapes):
    codes, labels = planted_codes()
    right = {"labels": labels, "num_codes": 2, "num_classes": 4}
    with pytest.raises(ValueError, match=f"^{message}$"):
        permutation_null(codes, key=jax.random.key(0), **right | change)


def test_products_of_words_are_whole():
    rng = np.random.default_rng(0)
    ends = np.array([0, 1, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFF0000, 0xFFFFFFFF])
    a, b = (np.append(rng.integers(2**32, size=500), e) for e in (ends, ends[::-1]))
    words = information._high_word(jnp.uint32(a), jnp.uint32(b))
    expected = [int(x) * int(y) >> 32 for x, y in zip(a, b, strict=True)]
    assert np.asarray(words).tolist() == expected
