"""Pages of the documentation that are made of the library have all of it."""

import dataclasses
import importlib.util
import pathlib
import re

import pytest

import ioca_jax as ioca
from ioca_jax.__main__ import JOBS
from ioca_jax.report.tables import TABLES

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def generated():
    path = DOCS / "_ext" / "generated.py"
    spec = importlib.util.spec_from_file_location("generated", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_pages_ask_for_what_is_generated():
    assert "<!-- flags -->" in (DOCS / "cli.md").read_text()
    assert "<!-- columns -->" in (DOCS / "guides/tables.md").read_text()


def test_every_command_and_every_flag_of_a_study_is_described(generated):
    text = generated.describe_commands()
    assert re.findall(r"^## `ioca (\w+)`$", text, re.MULTILINE) == list(JOBS)
    run = text.partition("## `ioca run`")[2].partition("\n## ")[0]
    for field in dataclasses.fields(ioca.StudyConfig):
        name = f"[no]{field.name}" if isinstance(field.default, bool) else field.name
        assert f"\n`--{name}`" in run
    assert "`--epochs` (default `10`)\n: Passes over the training split.\n" in run
    assert "\n: Short for `--tracker=tensorboard`.\n" in run
    # What the page says of a command once, it only names for the next.
    sweep = text.partition("## `ioca sweep`")[2].partition("\n## ")[0]
    assert ": Passes over the training split." not in sweep
    assert "As above: " in sweep
    assert "`--epochs`" in sweep


def test_commands_of_help_texts_are_blocks_of_one_line(generated):
    text = generated.describe_commands()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert re.fullmatch(r"\$ ioca .*\n", block), block


def test_every_table_has_its_columns(generated):
    text = generated.list_columns()
    for table in TABLES:
        rows = text.partition(f"## `{table.name}.csv`")[2].partition("\n## ")[0]
        found = re.findall(r"^\| `(\w+)` \| (.+) \|$", rows, re.MULTILINE)
        assert [name for name, _ in found] == list(table.columns)
