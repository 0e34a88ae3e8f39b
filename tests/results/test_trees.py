"""Variables come back from files as they were, whatever their names."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_results

from ioca_jax.results import networks
from ioca_jax.results.trees import is_plain, named, numbered, split_at_slashes
from ioca_jax.study.chunks import Chunk, find_chunks, named_arrays, save_chunk

# Names that file formats join, cut, or keep for themselves.
NAMES = st.sampled_from(
    ["a", "b", "a/b", "a.b", "0", "1", "file", "", ".", "/", "ioca_jax_names", "part_0"]
    + ["é", "\ud800", "\0", "n" * 300, "_METADATA"]
)
LEAVES = st.sampled_from([(2, 3), (2,), (2, 0), (2, 1, 2)]).flatmap(
    lambda shape: st.integers(0, 99).map(lambda n: np.full(shape, n, np.float32))
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(NAMES, inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=2).map(tuple),
    ),
    max_leaves=6,
)


def by_names(tree) -> dict[tuple[str, ...], np.ndarray]:
    """Leaves by the keys of dictionaries and the places in sequences, by hand."""
    if isinstance(tree, np.ndarray):
        return {(): tree}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    return {
        (str(key), *names): leaf
        for key, inner in items
        for names, leaf in by_names(inner).items()
    }


def assert_equal_trees(found, tree):
    expected = by_names(tree)
    expected = {names or ("variables",): leaf for names, leaf in expected.items()}
    found = by_names(found)
    assert found.keys() == expected.keys()
    for names, leaf in expected.items():
        assert found[names].dtype == leaf.dtype
        np.testing.assert_array_equal(found[names], leaf)


@given(TREES)
@settings(max_examples=60)
def test_any_tree_comes_back_from_numbered_arrays(tree):
    assert_equal_trees(named_arrays(tree), tree)
    arrays = numbered(named_arrays(tree))
    assert all(leaf.size for leaf in arrays.values())
    assert_equal_trees(named(arrays), tree)


AWKWARD = {
    "dots": {"block.0": np.ones((2, 3)), "block": {"0": np.zeros((2, 3))}},
    "slashes": {"a/b": np.ones((2, 3)), "a": {"b": np.zeros((2, 3))}},
    "a leaf and a branch": {"a": np.ones(2), "a/b": np.zeros(2)},
    "an empty array": {"a": np.zeros((2, 0), np.float32), "b": np.ones(2)},
    "file": {"file": np.ones(2)},
    "a long name": {"n" * 70_000: np.ones(2)},
    "no name": np.ones((2, 3)),
}


@pytest.mark.parametrize("tree", AWKWARD.values(), ids=AWKWARD)
def test_awkward_trees_come_back_from_chunks_and_from_checkpoints(tree, tmp_path):
    variables = named_arrays(tree)
    save_chunk(Chunk(synthetic_results(seeds=2), variables), tmp_path)
    ((chunk,), damaged) = find_chunks(tmp_path)
    assert not damaged
    assert_equal_trees(chunk.load().variables, tree)
    networks.save_networks(variables, tmp_path)
    found = networks.take_networks(tmp_path, None)
    assert_equal_trees(found, tree)
    second = networks.take_networks(tmp_path, [1])
    assert_equal_trees(second, jax.tree.map(lambda leaf: leaf[1:], tree))


def test_plain_names_are_those_of_the_checkpoint():
    """Orbax alone reads such networks."""
    assert is_plain(
        {"params": {"dense_0": {"kernel": np.ones((2, 3))}, "0": np.ones(2)}}
    )
    for tree in (*list(AWKWARD.values())[:4], {"ioca_jax_names": np.ones(2)}):
        assert not is_plain(named_arrays(tree))


def test_arrays_of_equal_names_are_refused():
    tree = {"a": Twice(np.ones(2), np.zeros(2))}
    with pytest.raises(ValueError, match=".") as caught:
        named_arrays(tree)
    message = (
        "variables: expected each array under names of its own, got two at {}; rename "
        "one"
    )
    assert str(caught.value) == message.format("a/w")
    with pytest.raises(ValueError, match=".") as caught:
        split_at_slashes(AWKWARD["a leaf and a branch"])
    assert str(caught.value) == message.format("a/b")


@jax.tree_util.register_pytree_with_keys_class
class Twice:
    """A node of a caller's own, both children of which have one key."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        key = jax.tree_util.DictKey("w")
        return [(key, child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, aux, children):
        return cls(*children)


def test_runs_that_an_earlier_version_began_keep_its_names(tmp_path, monkeypatch):
    """It took a slash for a level, and wrote the arrays under the joined names."""
    whole = synthetic_results(seeds=2)
    tree = {"mlp/~/linear": {"w": np.arange(2.0)}, "b": np.arange(2.0)}

    def chunk(row):
        leaves = jax.tree.map(lambda leaf: leaf[[row]], tree)
        return Chunk(whole.isel(seed=[row]), leaves)

    with monkeypatch.context() as patch:
        patch.setattr(
            "ioca_jax.study.chunks.numbered",
            lambda tree: {"/".join(k): leaf for k, leaf in by_names(tree).items()},
        )
        save_chunk(chunk(0), tmp_path)
    save_chunk(chunk(1), tmp_path)
    found, _ = find_chunks(tmp_path)
    for row, stored in enumerate(found):
        expected = {"mlp": {"~": {"linear": {"w": [row]}}}, "b": [row]}
        np.testing.assert_equal(stored.load().variables, expected)
