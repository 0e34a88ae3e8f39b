"""Imports go one way: the table of packages is held against the code."""

import ast
import graphlib
import pathlib

import ioca_jax as ioca

ROOT = pathlib.Path(ioca.__file__).parent

# What each package, or module beside the packages, may import of ours. A new row or a
# new arrow is a decision; every row names only rows above it.
PACKAGES: dict[str, set[str]] = {
    "host_arrays": set(),
    "checks": {"host_arrays"},
    "batching": set(),
    "devices": {"checks", "batching", "host_arrays"},
    "arrays": {"checks", "batching"},
    "data": {"checks", "batching", "arrays"},
    "images": set(),
    "sources": {"checks", "arrays", "data", "images"},
    "networks": {"checks", "batching", "devices", "arrays", "data"},
    "measures": {"checks", "batching", "devices", "networks"},
    "ablation": {
        *("checks", "batching", "devices", "host_arrays"),
        *("networks", "measures"),
    },
    "results": set(),
    "inference": {"checks", "results", "measures"},
    "plots": {"ablation", "results", "inference"},
    "report": {"results", "inference", "plots"},
}
PACKAGES["study"] = set(PACKAGES)
PACKAGES["cli"] = set(PACKAGES)
PACKAGES["__main__"] = {"checks"}


def imports_of(path: pathlib.Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def modules() -> dict[str, pathlib.Path]:
    """By dotted name below ``ioca_jax``, every module but the package's own."""
    paths = {
        path.relative_to(ROOT).with_suffix(""): path for path in ROOT.rglob("*.py")
    }
    named = {".".join(name.parts): path for name, path in paths.items()}
    return {name: path for name, path in named.items() if name != "__init__"}


def ours(path: pathlib.Path) -> set[str]:
    """The modules of this library that a module imports."""
    names = {name.partition("ioca_jax.")[2] for name in imports_of(path)}
    return names & modules().keys()


def test_every_package_imports_what_its_row_says():
    for name, path in modules().items():
        package = name.split(".")[0]
        allowed = PACKAGES[package] | {package}
        imported = {other.split(".")[0] for other in ours(path)}
        assert imported <= allowed, f"{name} imports {imported - allowed}"
    assert {name.split(".")[0] for name in modules()} <= PACKAGES.keys()


def test_rows_name_only_rows_above_them():
    above: set[str] = set()
    for package, imported in PACKAGES.items():
        assert imported <= above, package
        above.add(package)


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: ours(path) for name, path in modules().items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_only_the_command_line_knows_flags_and_nothing_knows_experiments():
    for module, path in modules().items():
        for name in imports_of(path):
            assert not name.startswith(("absl.app", "experiments")), path
            assert not name.startswith("absl.flags") or module.startswith("cli."), path


def test_only_plots_imports_matplotlib():
    users = {
        name.split(".")[0]
        for name, path in modules().items()
        if any(imported.startswith("matplotlib") for imported in imports_of(path))
    }
    assert users == {"plots"}


def test_the_public_surface_is_documented_and_sorted():
    names = ioca.__all__
    assert names == sorted(names, key=lambda n: (not n.isupper(), n.islower(), n))
    for name in names:
        assert getattr(ioca, name).__doc__, name


def test_text_files_of_studies_are_utf_8_in_every_locale():
    paths = [*(ROOT / "study").glob("*.py")]
    paths += [*(ROOT / "cli").glob("*.py"), *(ROOT.parent / "experiments").glob("*.py")]
    calls = [
        (node.func.attr, ast.unparse(node))
        for path in paths
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    of_text = [text for name, text in calls if name in ("read_text", "write_text")]
    assert len(of_text) > 10
    assert [text for text in of_text if "'utf-8'" not in text] == []
