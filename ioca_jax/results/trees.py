"""Variables as nested dictionaries of arrays by name, and as what files hold of them.

A name is one key of one level, whatever characters it has. File formats join the names
of all levels (Orbax by dots), and limit their length. So a tree whose names are not
plain is stored as numbered arrays, with its names beside them as text.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

NAMES = "ioca_jax_names"
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 200  # characters of all levels


def names_of(path: Sequence[Any]) -> tuple[str, ...]:
    """The names of the levels above a leaf, of its own last, by JAX's key path.

    A leaf that is no part of anything is called ``variables``.
    """
    names = (jax.tree_util.keystr((key,), simple=True) for key in path)
    return tuple(names) or ("variables",)


def nested(leaves: Iterable[tuple[Sequence[str], Any]]) -> dict[str, Any]:
    """Nested dictionaries of leaves by their names; refuses leaves that would meet."""
    tree: dict[str, Any] = {}
    for names, leaf in leaves:
        branch: Any = tree
        for name in names[:-1]:
            branch = branch.setdefault(name, {}) if isinstance(branch, dict) else None
        if not isinstance(branch, dict) or names[-1] in branch:
            raise ValueError(
                "variables: expected each array under names of its own, got two at "
                f"{'/'.join(names)[:_LONGEST]}; rename one"
            )
        branch[names[-1]] = leaf
    return tree


def split_at_slashes(tree: Any) -> dict[str, Any]:
    """The tree as earlier versions stored it, which joined the names by slashes."""
    leaves = jax.tree.leaves_with_path(tree)
    return nested(("/".join(names_of(path)).split("/"), leaf) for path, leaf in leaves)


def numbered(tree: Any) -> dict[str, np.ndarray]:
    """Arrays called ``0``, ``1``, ..., and their names in an array of bytes.

    Arrays without numbers are stored by shape and type alone: Orbax refuses them.
    """
    arrays, described = {}, []
    for number, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        entry: dict[str, Any] = {"names": names_of(path)}
        if leaf.size:
            arrays[str(number)] = leaf
        else:
            entry |= {"shape": leaf.shape, "dtype": str(leaf.dtype)}
        described.append(entry)
    text = json.dumps(described).encode()
    return arrays | {NAMES: np.frombuffer(text, np.uint8)}


def named(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that ``numbered`` took apart."""
    leaves = []
    for number, entry in enumerate(json.loads(np.asarray(arrays[NAMES]).tobytes())):
        if "shape" in entry:
            leaf = np.zeros(entry["shape"], entry["dtype"])
        else:
            leaf = arrays[str(number)]
        leaves.append((entry["names"], leaf))
    return nested(leaves)


def is_plain(tree: Any) -> bool:
    """Whether any file format holds a tree under its own names."""
    for path, leaf in jax.tree.leaves_with_path(tree):
        names = names_of(path)
        if not leaf.size or NAMES in names or len("/".join(names)) > _LONGEST:
            return False
        if not all(_PLAIN.fullmatch(name) for name in names):
            return False
    return True
