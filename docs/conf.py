"""Configuration of the documentation; ``make docs`` builds it."""

import dataclasses
import os
import pathlib
import re
import sys
from typing import Any

from sphinx.application import Sphinx

import ioca_jax as ioca

project = "ioca_jax"
author = "The ioca_jax authors"
version = release = ioca.__version__

sys.path.insert(0, str(pathlib.Path(__file__).parent / "_ext"))
extensions = [
    "generated",
    "mathml",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
nitpicky = True
exclude_patterns = ["_jupyter"]

myst_enable_extensions = ["deflist", "dollarmath"]
html_math_renderer = "mathml"
myst_heading_anchors = 3
# A kernel that reports errors only: it warns of connections on the own machine.
os.environ["JUPYTER_PATH"] = str(pathlib.Path(__file__).parent / "_jupyter")
nb_execution_mode = "cache"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

# Shapes and types stand in the arguments' descriptions.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["../llms.txt"]
html_title = f"{project} {version}"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search field stands in the sidebar
}

_PUBLIC = re.compile(rf"``({'|'.join(ioca.__all__)})``")


def _edit_docstring(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Links public names, and adds the fields of a configuration."""
    del app, options
    own = name.rpartition(".")[2]

    def link(match: re.Match) -> str:
        public = match[1]
        return match[0] if public == own else f":py:obj:`~ioca_jax.{public}`"

    lines[:] = [_PUBLIC.sub(link, line) for line in lines]
    if what == "property" and lines:  # napoleon takes what precedes a colon for a type
        lines[0] = lines[0].replace(": ", " – ", 1)
    if obj is ioca.StudyConfig:
        lines += ["", "Fields, with their defaults:", ""]
        for field in dataclasses.fields(obj):
            meaning = field.metadata["help"]
            lines += [f"``{field.name}`` = ``{field.default!r}``", f"   {meaning}", ""]


def setup(app: Sphinx) -> None:
    """Connects the edit of docstrings, which comes before napoleon's."""
    app.connect("autodoc-process-docstring", _edit_docstring, priority=400)
