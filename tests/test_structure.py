"""Data goes one way: the import table of the rooms is held against the code."""

import ast
import pathlib

import ioca_jax as ioca

ROOT = pathlib.Path(ioca.__file__).parent

# What each room may import of ours. A new room, or a new arrow, is a decision.
ROOMS: dict[str, set[str]] = {
    "datasets": set(),
    "mlp": set(),
    "streaming": set(),
    "quantization": set(),
    "histograms": set(),
    "information": {"histograms"},
    "interactions": {
        "ablation",
        "histograms",
        "information",
        "mlp",
        "parallel",
        "streaming",
    },
    "joint": {"interactions", "mlp", "quantization"},
    "importance": {"ablation", "mlp", "orderings", "streaming"},
    "statistics": set(),
    "provenance": set(),
    "events": set(),
    "checkpoints": {"results"},
    "results": set(),
    "training": {"datasets", "mlp", "parallel"},
    "orderings": set(),
    "surgery": {"mlp", "orderings"},
    "parallel": {"streaming"},
    "ablation": {"mlp", "orderings", "parallel", "streaming"},
    "figures": {"results"},
    "claims": {"results", "statistics"},
    "verdicts": {"claims", "information", "results", "statistics"},
    "report": {"claims", "results", "statistics", "verdicts"},
}
ROOMS["study"] = set(ROOMS) - {
    "figures",
    "report",
    "claims",
    "verdicts",
    "checkpoints",
    "events",
}
ROOMS["runs"] = set(ROOMS)


def imports_of(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def test_every_room_imports_what_its_row_says():
    files = {path.stem: path for path in ROOT.glob("*.py")}
    del files["__init__"]
    assert files.keys() == ROOMS.keys()
    for room, path in files.items():
        ours = {
            name.split(".")[1]
            for name in imports_of(path)
            if name.startswith("ioca_jax.")
        }
        assert ours <= ROOMS[room], f"{room} imports {ours - ROOMS[room]}"


def test_the_library_knows_neither_flags_nor_experiments():
    for path in ROOT.glob("*.py"):
        for name in imports_of(path):
            assert not name.startswith(("absl.flags", "absl.app", "experiments")), path


def test_only_figures_imports_matplotlib():
    users = {
        path.stem
        for path in ROOT.glob("*.py")
        if any(name.startswith("matplotlib") for name in imports_of(path))
    }
    assert users == {"figures"}


def test_the_public_surface_is_documented_and_sorted():
    names = ioca.__all__
    assert names == sorted(names, key=lambda n: (not n.isupper(), n.islower(), n))
    for name in names:
        assert getattr(ioca, name).__doc__, name
