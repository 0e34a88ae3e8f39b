"""Neurons together: dit and NumPy as oracles, planted cases, a loop over masks."""

import itertools
import math
from functools import partial
from typing import Any

import dit
import dit.multivariate
import dit.pid
import dit.shannon
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import entropy_of, information_of

from ioca_jax.measures.groups import (
    group_information,
    information_along_order,
    random_groups,
    redundancy_index,
    vulnerability,
)
from ioca_jax.measures.information import permuted_labels
from ioca_jax.measures.o_information import o_information
from ioca_jax.measures.pairs import (
    EXAMPLES_PER_CELL,
    PAIR_MEASURES,
    pair_information,
    pair_null,
    pair_values,
)
from ioca_jax.measures.whole_layers import layer_information

# The project's promise, in bits: float32 probabilities are right to 6e-8, logarithms
# are below 20 bits, and weights sum to 1.
TOLERANCE = 1e-5
KEY = jax.random.key(0)

values = jax.jit(pair_values)

# Oracles ------------------------------------------------------------------------------


def o_information_of(*columns: np.ndarray, **options: bool) -> float:
    bits = (len(columns) - 2) * entropy_of(*columns, **options)
    for j, column in enumerate(columns):
        others = columns[:j] + columns[j + 1 :]
        bits += entropy_of(column, **options) - entropy_of(*others, **options)
    return bits


def law_of(table: np.ndarray) -> dit.Distribution:
    """The empirical law of any number of variables, of a table of counts."""
    outcomes = [
        "".join(map(str, index))
        for index in itertools.product(*map(range, table.shape))
    ]
    return dit.Distribution(outcomes, (table / table.sum()).ravel())


def random_tables(num_codes: int, num_classes: int, number: int) -> np.ndarray:
    """Counts int32 [number, B*B, C], dense ones and ones with many empty cells."""
    rng = np.random.default_rng(10 * num_codes + num_classes)
    cells = num_codes**2 * num_classes
    tables = [
        rng.multinomial(1000, rng.dirichlet(np.full(cells, alpha)))
        for alpha in np.resize([1.0, 0.2], number)
    ]
    return np.reshape(tables, (number, num_codes**2, num_classes)).astype(np.int32)


XOR = [[1, 0], [0, 1], [0, 1], [1, 0]]
COPY = [[1, 0], [0, 0], [0, 0], [0, 1]]
AND = [[1, 0], [1, 0], [1, 0], [0, 1]]
APART = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
# Joint, redundancy, unique of the first, synergy; the same under all three measures but
# for neurons that say different bits of the class: I_min and MMI call them redundant.
CLOSED_FORMS = {
    "inputs of an XOR": (XOR, (1, 0, 0, 1)),
    "copies": (COPY, (1, 1, 0, 0)),
    "inputs of an AND": (AND, (0.811278, 0.311278, 0, 0.5)),
    "two bits of the class": (APART, (2, 1, 0, 1)),
}

# Pairs, informational -----------------------------------------------------------------


@pytest.mark.parametrize("case", CLOSED_FORMS)
def test_closed_forms(case):
    table, (joint, redundancy, unique, synergy) = CLOSED_FORMS[case]
    counts = np.array(table, np.int32) * 100
    bits = {name: float(value) for name, value in values(counts).items()}
    assert bits.keys() == set(PAIR_MEASURES)
    assert bits["joint_information"] == pytest.approx(joint, abs=TOLERANCE)
    for name in ("i_min", "mmi"):
        parts = [bits[f"{part}_{name}"] for part in ("redundancy", "unique", "synergy")]
        np.testing.assert_allclose(parts, (redundancy, unique, synergy), atol=TOLERANCE)
    assert bits["co_information"] == pytest.approx(redundancy - synergy, abs=TOLERANCE)


@pytest.mark.parametrize(("num_codes", "num_classes"), [(2, 2), (2, 10), (3, 4)])
def test_pairs_agree_with_dit(num_codes, num_classes):
    counts = random_tables(num_codes, num_classes, 2)
    bits = values(counts)
    for index, table in enumerate(counts):
        law = law_of(table.reshape(num_codes, num_codes, num_classes))
        expected = {
            "joint_information": dit.shannon.mutual_information(law, [0, 1], [2]),
            "co_information": dit.multivariate.coinformation(law),
        }
        for name, pid in (("i_min", dit.pid.PID_WB), ("mmi", dit.pid.PID_MMI)):
            parts = pid(law, [[0], [1]], [2])
            expected[f"redundancy_{name}"] = parts[((0,), (1,))]
            expected[f"unique_{name}"] = parts[((0,),)]
            expected[f"synergy_{name}"] = parts[((0, 1),)]
        for name, value in expected.items():
            assert float(bits[name][index]) == pytest.approx(value, abs=TOLERANCE), name


def planted(num_examples: int) -> tuple[np.ndarray, np.ndarray]:
    """Neurons 0, 1: copies of a bit of the class; 2, 3: inputs of an XOR that gives
    that bit; 4, 5: noise; 6: the other bit of the class."""
    rng = np.random.default_rng(3)
    first, second, chance, *noise = rng.integers(2, size=(5, num_examples))
    columns = [first, first, chance, chance ^ first, *noise, second]
    labels = (2 * first + second).astype(np.int32)
    return np.stack(columns, axis=1).astype(np.int32), labels


NUM_PLANTED = 1000
SIGNED = "co_information_miller_madow"


def test_planted_pairs_are_recovered_and_told_from_chance():
    codes, labels = planted(NUM_PLANTED)
    bits = pair_information(codes, labels, num_codes=2, num_classes=4)
    copies, xor, noise, apart = (0, 1), (2, 3), (4, 5), (0, 6)
    # What chance gives 1,000 examples: 4 codes, 4 classes, 9 / (2 N ln 2) bits.
    chance = 0.02
    for pair, redundancy, synergy in ((copies, 1, 0), (xor, 0, 1), (noise, 0, 0)):
        for end in ("i_min", "mmi"):
            assert abs(bits[f"redundancy_{end}"][pair] - redundancy) < chance
            assert abs(bits[f"synergy_{end}"][pair] - synergy) < chance
        both = bits["co_information"][pair]
        assert abs(both - (redundancy - synergy)) < chance
        corrected = bits["co_information_miller_madow"][pair]
        assert abs(corrected - (redundancy - synergy)) < chance
    assert abs(bits["co_information"][apart]) < chance
    # Corrected values keep their sign.
    of = partial(information_of, labels=labels, corrected=True)
    corrected = []
    for i, j in itertools.permutations(range(7), 2):
        alone, joint = [of(codes[:, [n]]) for n in (i, j)], of(codes[:, [i, j]])
        parts = (alone[0] - min(alone), joint - max(alone), min(alone))
        for name, value in zip(("unique", "synergy", "redundancy"), parts, strict=True):
            found = float(bits[f"{name}_mmi_miller_madow"][i, j])
            assert found == pytest.approx(value, abs=TOLERANCE)
        corrected.append(parts)
    assert np.min(corrected, axis=0)[1] < -1e-4
    assert np.min(corrected, axis=0)[2] < -1e-4
    # Biased towards synergy when examples are few, as the null shows; about
    # (2 (B-1)(C-1) - (B B - 1)(C-1)) / (2 N ln 2) = -3 / (2 N ln 2).
    null = pair_null(
        codes,
        labels,
        num_codes=2,
        num_classes=4,
        key=KEY,
        measures=("co_information", SIGNED),
        permutations=99,
    )
    mean = float(null["co_information"][noise])
    expected = -3 / (2 * NUM_PLANTED * math.log(2))
    assert mean == pytest.approx(expected, rel=0.5)  # 99 draws of a chi-square
    assert abs(float(null[SIGNED][noise])) < abs(expected) / 2


def test_dependent_neurons_without_the_class_are_at_their_chance_level():
    """The Miller-Madow correction leaves a bias where joint codes are rare."""
    sizes: Any = {"num_codes": 2, "num_classes": 10}
    pairs, found = np.triu_indices(8, 1), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        labels = rng.integers(10, size=600)
        common = rng.normal(size=(600, 1))
        outputs = common + 0.5 * rng.normal(size=(600, 8))
        codes = (outputs > rng.uniform(0, 2, size=8)).astype(np.int32)
        bits = pair_information(codes, labels, **sizes)
        null = pair_null(codes, labels, **sizes, key=jax.random.key(seed))
        chance_free = bits["co_information"] - null["co_information"]
        found.append(
            [np.asarray(of)[pairs].mean() for of in (bits[SIGNED], chance_free)]
        )
    corrected, chance_free = np.array(found, np.float64).T
    errors = [values.std(ddof=1) / np.sqrt(12) for values in (corrected, chance_free)]
    assert corrected.mean() / errors[0] < -8
    assert abs(chance_free.mean() / errors[1]) < 3


def network_like(num_examples: int, num_neurons: int, num_codes: int, num_classes: int):
    """Codes of neurons that depend on the class and on each other; one is dead."""
    rng = np.random.default_rng(num_codes)
    labels = rng.integers(num_classes, size=num_examples).astype(np.int32)
    common = (
        rng.normal(size=(num_examples, 3)) + rng.normal(size=(num_classes, 3))[labels]
    )
    outputs = common @ rng.normal(size=(3, num_neurons))
    outputs += rng.normal(size=outputs.shape)
    edges = np.quantile(outputs, np.arange(1, num_codes) / num_codes, axis=0)
    codes = (outputs[None] > edges[:, None]).sum(axis=0).astype(np.int32)
    codes[:, -1] = 0
    return codes, labels


CODES, LABELS = network_like(600, 7, 3, 4)


def test_all_pairs_agree_with_counting_rows():
    bits = {
        name: np.asarray(value)
        for name, value in pair_information(
            CODES, LABELS, num_codes=3, num_classes=4
        ).items()
    }
    for i, j in itertools.product(range(7), repeat=2):
        for suffix, corrected in (("", False), ("_miller_madow", True)):
            of = partial(information_of, labels=LABELS, corrected=corrected)
            first, second = of(CODES[:, [i]]), of(CODES[:, [j]])
            joint = of(CODES[:, [i, j]])
            expected = {
                "joint_information": joint,
                "co_information": first + second - joint,
                "redundancy_mmi": min(first, second),
                "unique_mmi": first - min(first, second),
                "synergy_mmi": joint - max(first, second),
            }
            for name, value in expected.items():
                found = bits[name + suffix][i, j]
                assert found == pytest.approx(value, abs=TOLERANCE), (name, i, j)
    for name, matrix in bits.items():
        if not name.startswith("unique"):
            np.testing.assert_allclose(matrix, matrix.T, atol=TOLERANCE)
    assert not bits["redundancy_mmi"][-1].any()  # a dead neuron says nothing


@settings(max_examples=25)
@given(
    hnp.arrays(np.int32, (9, 4), elements=st.sampled_from([0, 0, 1, 2, 7, 100, 9_999])),
    st.permutations(range(3)),
    st.permutations(range(4)),
)
def test_bounds_and_names_that_do_not_matter(counts, codes, classes):
    bits = values(counts)
    by_pair = counts.reshape(3, 3, 4)
    for end in ("i_min", "mmi", "mmi_miller_madow"):
        parts = [bits[f"{part}_{end}"] for part in ("redundancy", "unique", "synergy")]
        swapped = values(by_pair.swapaxes(0, 1).reshape(9, 4))
        total = sum(parts) + swapped[f"unique_{end}"]
        suffix = "_miller_madow" if "miller" in end else ""
        assert total == pytest.approx(
            float(bits["joint_information" + suffix]), abs=2 * TOLERANCE
        )
        if not suffix:
            assert all(part >= 0 for part in parts)
    # MMI takes the most that any measure of redundancy between two may be.
    assert bits["redundancy_i_min"] <= bits["redundancy_mmi"] + TOLERANCE
    same = values(by_pair[codes][:, :, classes].reshape(9, 4))
    for name, value in bits.items():
        np.testing.assert_allclose(same[name], value, rtol=0, atol=TOLERANCE)


def test_pairs_transform_and_compile_once(compiled):
    whole = pair_information(CODES, LABELS, num_codes=3, num_classes=4)
    names = ("synergy_i_min", "joint_information_miller_madow")

    @jax.jit
    def traced(codes, labels):
        return pair_information(
            codes, labels, num_codes=3, num_classes=4, measures=names
        )

    shuffled = np.random.default_rng(0).permutation(len(LABELS))
    for codes, labels in ((CODES, LABELS), (CODES[shuffled], LABELS[shuffled])):
        for name, matrix in traced(codes, labels).items():
            np.testing.assert_allclose(matrix, whole[name], atol=TOLERANCE)
    assert traced(CODES, LABELS).keys() == set(names)
    compiled.clear()
    pair_information(CODES[::-1], LABELS, num_codes=3, num_classes=4)
    assert "_pair_information" not in str(compiled)
    # A row at a time, as a small budget has it.
    smallest = 4 * 7 * 7 * 9 * 4 * 4e-9
    for name, matrix in pair_information(
        CODES, LABELS, num_codes=3, num_classes=4, memory_gb=1.01 * smallest
    ).items():
        np.testing.assert_allclose(matrix, whole[name], atol=TOLERANCE)
    for index in np.ndindex(3, 2):
        table = random_tables(3, 4, 6).reshape(3, 2, 9, 4)
        many, one = values(table), values(table[index])
        for name in PAIR_MEASURES:
            assert float(many[name][index]) == pytest.approx(
                float(one[name]), abs=TOLERANCE
            )


def test_the_null_of_pairs_is_the_mean_over_permutations_by_hand():
    names = ("synergy_i_min", "co_information_miller_madow", "redundancy_mmi")
    sizes = {"num_codes": 3, "num_classes": 4, "measures": names}
    null = pair_null(CODES, LABELS, **sizes, key=KEY, permutations=6)
    permuted = permuted_labels(jnp.asarray(LABELS), KEY, 6)
    draws = [pair_information(CODES, each, **sizes) for each in permuted]
    for name in names:
        mean = np.mean([draw[name] for draw in draws], axis=0)
        np.testing.assert_allclose(null[name], mean, atol=TOLERANCE)


# Groups -------------------------------------------------------------------------------

GROUPS = np.array([[0, 1, 2], [4, 2, 6], [5, 3, 1]])


def test_groups_agree_with_counting_rows():
    bits = group_information(
        CODES, LABELS, GROUPS, num_codes=3, num_classes=4, key=KEY, permutations=20
    )
    for index, group in enumerate(GROUPS):
        members = CODES[:, group]
        for end, corrected in (("", False), ("_miller_madow", True)):
            expected = (
                entropy_of(*members.T, corrected=corrected),
                information_of(members, LABELS, corrected=corrected),
            )
            for name, value in zip(("entropy", "information"), expected, strict=True):
                found = float(getattr(bits, name + end)[index])
                assert found == pytest.approx(value, abs=TOLERANCE)
        rows = np.column_stack([members, LABELS])
        assert bits.cells[index] == len(np.unique(rows, axis=0))
        # Every neuron of a group says something here, far above chance.
        assert float(bits.p_value[index]) == pytest.approx(1 / 21)
        expected = (3**3 - 1) * 3 / (2 * 600 * math.log(2))  # of 27 codes, 4 classes
        if 6 not in group:  # the dead one
            assert float(bits.null_information[index]) == pytest.approx(
                expected, rel=0.35
            )
        assert abs(bits.null_information_miller_madow[index]) < 0.03
    np.testing.assert_array_equal(bits.examples_needed, EXAMPLES_PER_CELL * bits.cells)


def test_a_wide_group_is_coded_by_rank():
    # 40 neurons that are functions of five bits: 2^40 codes, of which 32 occur.
    rng = np.random.default_rng(1)
    five = rng.integers(2, size=(2000, 5))
    wide = (five @ rng.normal(size=(5, 40)) > 0.3).astype(np.int32)
    wide[:, :5] = five
    labels = (five.sum(axis=1) % 3).astype(np.int32)
    bits = group_information(
        wide,
        labels,
        np.arange(40)[None],
        num_codes=2,
        num_classes=3,
        key=KEY,
        permutations=3,
    )
    assert bits.cells[0] == 32
    assert float(bits.entropy[0]) == pytest.approx(entropy_of(*five.T), abs=TOLERANCE)
    expected = information_of(five, labels)
    assert float(bits.information[0]) == pytest.approx(expected, abs=TOLERANCE)


def test_information_along_an_order_agrees_with_its_groups_and_ends_where_it_must():
    codes, labels = network_like(600, 9, 2, 3)
    orders = np.array([[8, 3, 0, 1, 2, 4, 5, 7], [0, 1, 2, 3, 4, 5, 6, 7]])
    bits = information_along_order(
        codes, labels, orders, num_codes=2, num_classes=3, key=KEY, permutations=4
    )
    for row, order in enumerate(orders):
        first_refused = {}
        for k in range(9):
            # From the empty group on, on either side.
            for side, at, group in (
                ("ablated", k, order[:k]),
                ("left", 8 - k, order[8 - k :]),
            ):
                part = getattr(bits, side)
                rows = np.column_stack([codes[:, group], labels])
                cells = len(np.unique(rows, axis=0))
                found = [float(field[row, at]) for field in part[1:]]
                if 5 * cells > 600:
                    cells = first_refused.setdefault(side, cells)
                assert part.cells[row, at] == cells
                if 5 * cells > 600:
                    assert np.isnan(found).all()
                    continue
                expected = information_of(codes[:, group], labels)
                assert found[2] == pytest.approx(expected, abs=TOLERANCE)
                of_group = information_of(codes[:, group], labels, corrected=True)
                assert found[3] == pytest.approx(of_group, abs=TOLERANCE)
    supported = 5 * np.asarray(bits.ablated.cells) <= 600
    assert supported[:, 4].any()
    assert not supported.all()
    assert (bits.ablated.information[:, 0] == 0).all()
    assert (bits.left.information[:, 8] == 0).all()
    one = information_along_order(
        codes, labels, orders[1], num_codes=2, num_classes=3, key=KEY, permutations=4
    )
    np.testing.assert_allclose(one.left.information, bits.left.information[1])
    groups = group_information(
        codes,
        labels,
        orders[:, :3],
        num_codes=2,
        num_classes=3,
        key=KEY,
        permutations=4,
    )
    for field in ("null_information", "p_value", "entropy_miller_madow"):
        np.testing.assert_allclose(
            getattr(groups, field), getattr(bits.ablated, field)[:, 3], atol=TOLERANCE
        )


def test_o_information_agrees_with_dit_and_with_counting_rows():
    groups = GROUPS[:2]
    bits = o_information(
        CODES, LABELS, groups, num_codes=3, num_classes=4, key=KEY, permutations=4
    )
    for index, group in enumerate(groups):
        columns = (*CODES[:, group].T, LABELS)
        table = np.zeros((3, 3, 3, 4))
        np.add.at(table, columns, 1)
        expected = {
            "of_neurons": dit.multivariate.o_information(law_of(table.sum(axis=-1))),
            "with_class": dit.multivariate.o_information(law_of(table)),
        }
        for name, value in expected.items():
            chosen = columns if name == "with_class" else columns[:-1]
            assert o_information_of(*chosen) == pytest.approx(value, abs=1e-9)
            # Entropies of up to 7 bits are added some ten times: 1e-6 each at most.
            found = float(getattr(bits, name)[index])
            assert found == pytest.approx(value, abs=TOLERANCE)
            corrected = float(getattr(bits, name + "_miller_madow")[index])
            of_rows = o_information_of(*chosen, corrected=True)
            assert corrected == pytest.approx(of_rows, abs=TOLERANCE)


def test_the_null_of_a_wide_group_counts_every_joint_code():
    # Twelve neurons that are functions of three bits: permuted on their own they make
    # about as many joint codes as there are examples.
    rng = np.random.default_rng(2)
    three = rng.integers(2, size=(600, 3))
    wide = (three @ rng.normal(size=(3, 12)) > 0.3).astype(np.int32)
    labels = three[:, 0].astype(np.int32)
    bits = o_information(
        wide,
        labels,
        np.arange(12)[None],
        num_codes=2,
        num_classes=2,
        key=KEY,
        permutations=5,
    )
    expected = [o_information_of(*rng.permuted(wide, axis=0).T) for _ in range(5)]
    # A draw of either mean differs by some hundredths of a bit.
    assert np.std(expected) < 0.15
    assert float(bits.null_of_neurons[0]) == pytest.approx(np.mean(expected), abs=0.3)
    assert float(bits.of_neurons[0]) == pytest.approx(
        o_information_of(*wide.T), abs=TOLERANCE
    )


def test_o_information_of_planted_groups():
    codes, labels = planted(NUM_PLANTED)
    pairs = np.array([[0, 1], [2, 3], [4, 5]])
    # Of two neurons and the class it is co-information.
    bits = o_information(
        codes, labels, pairs, num_codes=2, num_classes=4, key=KEY, permutations=49
    )
    both = pair_information(codes, labels, num_codes=2, num_classes=4)["co_information"]
    np.testing.assert_allclose(bits.with_class, both[tuple(pairs.T)], atol=TOLERANCE)
    np.testing.assert_allclose(bits.of_neurons, 0, atol=TOLERANCE)
    np.testing.assert_allclose(bits.p_value_with_class[:2], 1 / 50, rtol=1e-6)
    assert bits.p_value_with_class[2] > 0.02
    triples = np.array([[2, 3, 0], [0, 1, 6], [4, 5, 6]])
    bits = o_information(
        codes, labels, triples, num_codes=2, num_classes=4, key=KEY, permutations=49
    )
    # An XOR's three; copies beside a third; noise.
    np.testing.assert_allclose(bits.of_neurons, [-1, 0, 0], atol=0.02)
    assert bits.p_value_of_neurons[0] == pytest.approx(1 / 50)
    assert bits.p_value_of_neurons[2] > 0.02
    assert (bits.null_of_neurons < 0).all()  # biased towards synergy


def test_the_redundancy_index_of_planted_groups():
    codes, labels = planted(NUM_PLANTED)
    groups = np.array([[0, 1], [2, 3], [0, 6]])
    index = redundancy_index(codes, labels, groups, num_codes=2, num_classes=4)
    # Copies, an XOR, two bits of the class; chance as in the test of pairs.
    np.testing.assert_allclose(index, [2, 0, 1], atol=0.02)
    of = partial(information_of, labels=labels, corrected=True)
    alone, joint = sum(of(codes[:, [j]]) for j in (2, 3)), of(codes[:, [2, 3]])
    assert float(index[1]) == pytest.approx(alone / joint, abs=TOLERANCE)
    many = redundancy_index(CODES, LABELS, GROUPS, num_codes=3, num_classes=4)
    for group, value in zip(GROUPS, many, strict=True):
        one = redundancy_index(CODES, LABELS, group[None], num_codes=3, num_classes=4)[
            0
        ]
        np.testing.assert_allclose(one, value, rtol=1e-6)
    traced = jax.jit(partial(redundancy_index, num_codes=3, num_classes=4))
    np.testing.assert_allclose(traced(CODES, LABELS, GROUPS), many, rtol=1e-5)
    nothing = np.zeros((100, 2), np.int32)
    dead = redundancy_index(
        nothing, np.arange(100) % 2, np.array([[0, 1]]), num_codes=2, num_classes=2
    )
    assert np.isnan(dead).all()


def test_the_vulnerability_of_planted_groups():
    codes, labels = planted(NUM_PLANTED)
    groups = np.array([[0, 1], [2, 3], [0, 6]])
    found = vulnerability(codes, labels, groups, num_codes=2, num_classes=4)
    # Copies, an XOR, two bits of the class.
    np.testing.assert_allclose(found, [0, 2, 1], atol=0.02)
    of = partial(information_of, labels=LABELS, corrected=True)
    many = vulnerability(CODES, LABELS, GROUPS, num_codes=3, num_classes=4)
    for group, value in zip(GROUPS, many, strict=True):
        joint = of(CODES[:, group])
        lost = sum(
            joint - of(CODES[:, np.delete(group, at)]) for at in range(len(group))
        )
        assert float(value) == pytest.approx(lost / joint, abs=1e-4)


def test_a_layer_is_bounded_by_what_a_decoder_makes_of_it():
    """Bits of the class are decoded whole, noise says nothing, N bounds the entropy."""
    rng = np.random.default_rng(8)
    labels = np.repeat(np.arange(4), 300)[rng.permutation(1200)]
    bits = np.stack([labels // 2, labels % 2], axis=1)
    noise = rng.integers(0, 2, (1200, 30))
    told = layer_information(
        np.concatenate([bits, noise], axis=1), labels, num_codes=2, num_classes=4
    )
    # Miller-Madow values may be a little above 2 bits.
    assert 1.9 < float(told.information_decoded) <= 2.01
    assert np.isnan(told.information_miller_madow)
    assert float(told.entropy) == pytest.approx(math.log2(1200), abs=1e-2)
    assert told.cells == 1200
    few = layer_information(bits, labels, num_codes=2, num_classes=4)
    assert float(few.entropy) == pytest.approx(2, abs=TOLERANCE)
    assert float(few.information_miller_madow) == pytest.approx(
        information_of(bits, labels, corrected=True), abs=TOLERANCE
    )
    nothing = layer_information(noise, labels, num_codes=2, num_classes=4)
    assert abs(float(nothing.information_decoded)) < 0.03
    # Three codes, one of which alone tells a class: the others share two classes.
    codes = np.stack([np.minimum(labels, 2)] * 2, axis=1)
    partly = layer_information(codes, labels, num_codes=3, num_classes=4)
    assert float(partly.information_decoded) == pytest.approx(1.5, abs=0.02)


def test_random_groups_are_drawn_without_repetition():
    groups = np.asarray(random_groups(np.arange(10, 20), 4, 300, key=KEY))
    assert groups.shape == (300, 4)
    assert all(len(set(group)) == 4 for group in groups.tolist())
    counts = np.bincount(groups.ravel(), minlength=20)
    assert not counts[:10].any()
    # 120 of each expected, standard deviation sqrt(300 * 0.4 * 0.6) = 8.5.
    assert abs(counts[10:] - 120).max() < 43
    again = random_groups(np.arange(10, 20), 4, 300, key=KEY)
    np.testing.assert_array_equal(again, groups)


# What is refused ----------------------------------------------------------------------

BITS = np.random.default_rng(0).integers(2, size=(200, 20)).astype(np.int32)
CLASSES = (np.arange(200) % 2).astype(np.int32)
everything = partial(group_information, key=KEY, permutations=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: everything(
                BITS, CLASSES, np.array([[0, -1]]), num_codes=2, num_classes=2
            ),
            r"^groups: expected neuron indices in \[0, 19\], got -1$",
        ),
        (
            lambda: o_information(
                BITS, CLASSES, np.array([[1]]), num_codes=2, num_classes=2, key=KEY
            ),
            r"^groups: expected integers of shape \[M, size\] with size at least 2, "
            r"neuron indices, got int64 of shape \[1, 1\]$",
        ),
        (
            lambda: pair_information(BITS, CLASSES, num_codes=5, num_classes=2),
            "^num_codes: expected at most 4 codes for pairs of neurons with 200 "
            r"examples, 5 for each of B\*B\*C cells, got 5; quantize more coarsely, or "
            "take 250 examples$",
        ),
        (
            lambda: pair_information(
                BITS, CLASSES, num_codes=2, num_classes=2, memory_gb=1e-5
            ),
            "^memory_gb: expected at least 5.1e-05 for all pairs of 20 neurons with 2 "
            "codes and 2 classes, got 1e-05; raise it, quantize more coarsely, or take "
            "the neurons of one layer at a time$",
        ),
        (
            lambda: pair_information(
                BITS, CLASSES, num_codes=2, num_classes=2, memory_gb=0
            ),
            "^memory_gb: expected a positive number, got 0$",
        ),
        (
            lambda: pair_information(
                BITS, CLASSES, num_codes=2, num_classes=2, measures=("broja",)
            ),
            "^measures: expected some of joint_information, .*, got 'broja'$",
        ),
        (
            lambda: pair_null(
                BITS, CLASSES, num_codes=2, num_classes=2, key=KEY, permutations=0
            ),
            "^permutations: expected at least 1, got 0$",
        ),
        (
            lambda: pair_information(BITS + 1, CLASSES, num_codes=2, num_classes=2),
            r"^codes: expected values in \[0, 1\], got 2; num_codes is the number of ",
        ),
        (
            lambda: pair_information(BITS, CLASSES - 1, num_codes=2, num_classes=2),
            r"^labels: expected values in \[0, 1\], got -1; number classes from 0 to ",
        ),
        (
            lambda: pair_information(BITS, 0 * CLASSES, num_codes=2, num_classes=2),
            "^labels: expected examples of two classes or more, got only class 0; ",
        ),
        (
            lambda: pair_information(BITS * 0.5, CLASSES, num_codes=2, num_classes=2),
            "^codes: expected integers, got float.*; quantize activations first$",
        ),
        (
            lambda: pair_information(BITS, CLASSES[1:], num_codes=2, num_classes=2),
            "^labels: expected 200, one for each example, got 199$",
        ),
        (
            lambda: information_along_order(
                BITS, CLASSES, np.array([0, 25]), num_codes=2, num_classes=2, key=KEY
            ),
            r"^order: expected neuron indices in \[0, 19\], got 25$",
        ),
        (
            lambda: random_groups(np.arange(3), 4, 2, key=KEY),
            "^size: expected from 1 to 3, the neurons to draw from, got 4$",
        ),
        (
            lambda: random_groups(np.arange(3), 2, 0, key=KEY),
            "^number: expected at least 1 group, got 0$",
        ),
        (
            lambda: pair_values(np.zeros((3, 2), np.int32)),
            r"^counts: expected int32 \[..., B\*B, C\], the codes of a pair and the "
            r"classes, got shape \[3, 2\]$",
        ),
    ],
)
def test_bad_input_is_refused_in_a_line(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call()


def test_groups_too_large_for_the_examples_are_refused_with_the_number_it_takes():
    groups = np.stack([np.arange(8), np.array([0] * 8) + np.arange(8)[::-1]])
    cells = len(np.unique(np.column_stack([BITS[:, :8], CLASSES]), axis=0))
    assert cells > 40
    with pytest.raises(
        ValueError,
        match=f"^groups: expected at least {5 * cells} examples for group 0 of 8 "
        f"neurons, 5 for each of the {cells} pairs of joint code and class that occur, "
        "got 200; take more examples or smaller groups$",
    ):
        everything(BITS, CLASSES, groups, num_codes=2, num_classes=2)
    with pytest.raises(ValueError, match=f"^groups: expected at least {5 * cells} "):
        redundancy_index(BITS, CLASSES, groups, num_codes=2, num_classes=2)
    # While tracing there is nobody to tell: NaN, and the cells.
    traced = jax.jit(
        lambda codes: everything(
            codes, CLASSES, jnp.asarray(groups), num_codes=2, num_classes=2
        )
    )(BITS)
    assert np.isnan(traced.information).all()
    assert (traced.cells == cells).all()
    # Exactly as many as it takes are enough: 4 cells, 20 examples.
    few = np.tile([[0], [1]], (10, 1)).astype(np.int32)
    labels = np.repeat([0, 1], 10).astype(np.int32)
    bits = everything(few, labels, np.array([[0]]), num_codes=2, num_classes=2)
    np.testing.assert_allclose(bits.information, [0], atol=TOLERANCE)
    with pytest.raises(ValueError, match="^groups: expected at least 20 examples"):
        everything(few[1:], labels[1:], np.array([[0]]), num_codes=2, num_classes=2)
