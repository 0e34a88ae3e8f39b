"""README and BUILD are executed: the examples run, the commands exist."""

import pathlib
import re
import shlex
from collections.abc import Sequence

import command_line
import numpy as np
import pytest
from absl import flags

import ioca_jax as ioca
from ioca_jax import plots
from ioca_jax.cli import command
from ioca_jax.cli.reproduce import find_jobs

ROOT = pathlib.Path(ioca.__file__).parent.parent
DOCUMENTS = ("README.md", "BUILD.md")
GUIDE = "docs/guides/networks.md"


def blocks(language: str, documents: Sequence[str] = DOCUMENTS) -> list[str]:
    texts = [(ROOT / name).read_text() for name in documents]
    return re.findall(rf"```{language}\n(.*?)```", "\n".join(texts), re.DOTALL)


GUIDES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))


def commands(program: str) -> list[list[str]]:
    """Commands of the documents; ``ioca JOB`` is ``python -m experiments.JOB``.

    Of ``ioca reproduce`` the job's own module.
    """
    lines = [
        line
        for block in blocks("console", [*DOCUMENTS, *GUIDES])
        for line in block.splitlines()
    ]
    words = [shlex.split(line[1:], comments=True) for line in lines if line[0] == "$"]
    for word in words:
        if word[:2] == ["ioca", "reproduce"]:
            word[:3] = ["python", "-m", find_jobs()[word[2]].module]
        elif word[0] == "ioca":
            job = "run_study" if word[1] == "run" else word[1]
            word[:2] = ["python", "-m", f"experiments.{job}"]
    inline = re.findall(
        r"`((?:make|python) [^`]*)`",
        "\n".join((ROOT / name).read_text() for name in DOCUMENTS),
    )
    words += [shlex.split(line) for line in inline]
    return [word for word in words if word[0] == program]


def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "save_figures", lambda *_: [])  # most of the time
    namespace: dict = {}
    examples = blocks("python")
    assert len(examples) == 3
    for example in examples:
        exec(compile(example, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    scores = namespace["measured"].scores["mutual_information"]
    assert scores[namespace["order"][-5:]].min() == np.sort(scores)[-5]
    assert f"informative neurons {namespace['order'][-5:]}" in printed
    assert "51 points of a curve, 1,000 examples" in printed
    assert "40 neurons, 10 classes" in printed
    assert "40 neurons, 2 codes, 10 classes" in printed
    claims = namespace["claims"]
    assert claims.index.is_unique
    assert len(claims) == 10
    decided = claims[claims["verdict"] != "undecided"]["verdict"].to_dict()
    assert decided == {
        ("2, single neurons", "layer_1"): "fails",
        ("4", "layer_2 over layer_1"): "fails",
    }


def test_the_readme_is_short():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    text = re.sub(r"\]\([^)]*\)", "]", text)  # addresses are not read
    assert len(re.findall(r"[^\s|#*!\[\]-]+", text)) < 700


@pytest.fixture(scope="module")
def beginning():
    """What the first block of the guide defines."""
    namespace: dict = {}
    exec(compile(blocks("python", [GUIDE])[0], GUIDE, "exec"), namespace)
    return namespace


QUICK = ("Flax Linen", "scikit-learn")


def examples_of_guide() -> dict[str, str]:
    """The other blocks by the section that they are in, one for each."""
    sections = (ROOT / GUIDE).read_text().split("\n## ")[1:]
    titles = [section.partition("\n")[0] for section in sections]
    examples = {}
    for title, section in zip(titles, sections, strict=True):
        for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
            examples[title] = block
    return examples


@pytest.mark.parametrize(
    "section",
    [
        section if section in QUICK else pytest.param(section, marks=pytest.mark.slow)
        for section in examples_of_guide()
    ],
)
def test_the_guides_examples_run(section, beginning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "save_figures", lambda *_: [])
    example = examples_of_guide()[section]
    if section == "PyTorch":
        pytest.importorskip("torch")
    if section.startswith("Many networks"):
        exec(compile(examples_of_guide()["Flax Linen"], GUIDE, "exec"), beginning)
    exec(compile(example, GUIDE, "exec"), beginning)


def test_the_guides_examples_are_of_mixed_classes(beginning):
    for name in ("y", "y_test"):
        found = np.bincount(beginning[name], minlength=10)
        assert found.min() >= 8  # of 200; 20 are expected


def test_the_guide_of_the_library_runs(capsys):
    for example in blocks("python", ["docs/guides/library.md"]):
        exec(compile(example, "docs/guides/library.md", "exec"), {})
    assert "area under the curve 0." in capsys.readouterr().out


def test_the_guide_of_scores_runs(capsys):
    namespace: dict = {}
    for example in blocks("python", ["docs/guides/scores.md"]):
        exec(compile(example, "docs/guides/scores.md", "exec"), namespace)
    on = [int(number) for number in re.findall(r"\d+", capsys.readouterr().out)]
    assert len(on) == 14
    assert set(on) <= {0, *range(18, 22)}


def test_the_guide_of_curves_runs(capsys):
    namespace: dict = {}
    for example in blocks("python", ["docs/guides/curves.md"]):
        exec(compile(example, "docs/guides/curves.md", "exec"), namespace)
    assert f"[{' '.join(f'{step:2}' for step in range(0, 51, 5))}]" in (
        capsys.readouterr().out
    )
    bends, some = namespace["bends"], namespace["some"]
    assert len(bends.steps) in (16, 24, 32, 40, 48, 51)
    assert abs(namespace["area"] - some.accuracy.mean()) < 0.1


def test_the_guide_of_tokens_runs(capsys):
    namespace: dict = {}
    for example in blocks("python", ["docs/guides/tokens.md"]):
        exec(compile(example, "docs/guides/tokens.md", "exec"), namespace)
    counted = (namespace["data"].test.y >= 0).sum()
    printed = capsys.readouterr().out
    assert "10 neurons, 2 classes of each of 8 tokens" in printed
    assert printed.endswith(f"{counted} tokens that count\n(100, 10)\n")


@pytest.mark.slow
def test_the_gallery_of_figures_draws_and_prints_curves(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict = {"ioca": ioca}
    example = blocks("python", ["docs/guides/gallery.md"])[1]
    exec(compile(example, "docs/guides/gallery.md", "exec"), namespace)
    assert (tmp_path / "curve.pdf").stat().st_size > 1000
    assert "41 points of a curve, 1,000 examples" in capsys.readouterr().out


def test_the_jobs_and_flags_that_are_named_exist():
    found = set()
    for _, dash_m, module, *arguments in commands("python"):
        if module.startswith("experiments."):
            assert dash_m == "-m"
            known = [a for a in arguments if not a.startswith("--flagfile=runs/")]
            command_line.parsed(module, *known)
            found.add(module)
    assert {"experiments.run_study", "experiments.sweep"} <= found


def test_the_make_targets_that_are_named_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = {words[1] for words in commands("make")}
    assert {"demo", "test", "lint"} <= named
    for target in named:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments" / "flagfiles").glob("*.flags"))
)
def test_flagfiles_are_studies_with_their_findings(path):
    lines = path.read_text().splitlines()
    values = flags.FlagValues()
    command.define(ioca.StudyConfig, values)
    values(["run_study", f"--flagfile={path}"])
    config = command.parse(ioca.StudyConfig, values)
    assert path.stem.startswith(f"{config.dataset}_{config.activation}")
    heading = "\n".join(line for line in lines if line.startswith("#"))
    assert f"--flagfile=experiments/flagfiles/{path.name}" in heading
    for word in ("Shows", "Hardware", "Minutes", "Test error"):
        assert word in heading, word


def test_documents_name_files_that_exist():
    for name in DOCUMENTS:
        for link in re.findall(r"\]\(([^)]+)\)", (ROOT / name).read_text()):
            if "://" not in link:
                assert (ROOT / link).exists(), link


def test_the_reference_has_every_public_name():
    pages = [path.read_text() for path in (ROOT / "docs" / "api").glob("*.md")]
    named = re.findall(r"^\.\. auto(?:class|function):: (\w+)$", "\n".join(pages), re.M)
    assert sorted(named) == sorted(ioca.__all__)
