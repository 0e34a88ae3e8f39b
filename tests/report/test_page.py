"""The report page holds the numbers of the results, and asks no host for anything."""

import json
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from pages import Page
from synthetic import (
    joint_results,
    planted_joint_results,
    synthetic_results,
    with_layer_names,
)

from ioca_jax.report import page_data
from ioca_jax.report.findings import unbroken
from ioca_jax.report.page import run_page
from ioca_jax.results import subsets
from ioca_jax.results.files import load_results, write_results


def described(results: xr.Dataset) -> xr.Dataset:
    return results.assign_attrs(
        configuration=json.dumps({"dataset": "mnist5k", "epochs": 3}),
        seconds=json.dumps({"loaded": 1.0, "computed": 2.5, "compiling": 0.5}),
    )


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return described(joint_results(seeds=3, diverged=(1,)))


PAPER = "https://arxiv.org/abs/1804.06679"


def test_no_address_but_the_papers_link_leads_to_a_host(results):
    table = pd.DataFrame({"effect": np.arange(9000.0)})
    text = run_page(results, {"orders_": table})
    page = Page(text)
    inside = ("#", "data:,", "tables/orders_.csv", PAPER)
    assert page.addresses.count(PAPER) == 1
    assert all(address.startswith(inside) for address in page.addresses)
    # The namespace of SVG is a name that nothing is loaded from.
    rest = text.replace("http://www.w3.org/2000/svg", "").replace(PAPER, "")
    for way in ("://", "@import", "url(", "fetch(", "XMLHttpRequest", "import("):
        assert way not in rest, way
    assert "default-src 'none'" in text


def test_curves_are_those_of_the_results(results):
    curves = Page(run_page(results, {})).data["curves"]
    kept = results.isel(seed=[0, 2])
    assert curves["clamps"] == ["zero", "mean"]
    assert [scope["name"] for scope in curves["scopes"]] == [*kept["scope"].values]
    for i, j, k in np.ndindex(2, 3, 7):
        order = curves["orders"][k]
        draws = (kept["ranked_by"] == order["ranked_by"]) & (
            kept["direction"] == order["direction"]
        )
        of_order = kept["accuracy"].values[:, i, j][:, draws.values].mean(axis=1)
        steps = curves["scopes"][j]["steps"]
        assert steps == list(range(np.isfinite(of_order[0]).sum()))
        expected = of_order[:, steps]
        np.testing.assert_allclose(
            curves["quantities"]["accuracy"]["mean"][i][j][k],
            expected.mean(0),
            atol=6e-5,
        )
        np.testing.assert_allclose(
            curves["quantities"]["accuracy"]["deviation"][i][j][k],
            expected.std(0, ddof=1),
            atol=6e-5,
        )
    assert len(curves["orders"]) == 7


def test_a_single_networks_band_is_over_random_draws():
    results = described(synthetic_results(seeds=1))
    curves = Page(run_page(results, {})).data["curves"]
    assert curves["quantities"]["accuracy"]["deviation"][0][0][:6] == [None] * 6
    draws = results["accuracy"].values[0, 0, 0, 6:]
    np.testing.assert_allclose(
        curves["quantities"]["accuracy"]["deviation"][0][0][6],
        draws.std(axis=0, ddof=1),
        atol=6e-5,
    )


def test_neurons_are_those_of_each_network_that_converged(results):
    results = results.isel(seed=[1, 2, 0])
    orders = results.sizes["ordering"]
    rng = np.random.default_rng(0)
    order = np.full((3, 3, orders, 7), -1)
    for index in np.ndindex(3, orders):
        order[index[0], 0, index[1]] = rng.permutation(7)
        order[index[0], 1, index[1], :4] = rng.permutation(4)
        order[index[0], 2, index[1], :3] = rng.permutation(3) + 4
    results["order"] = (("seed", "scope", "ordering", "position"), order)
    found = Page(run_page(results, {})).data["neurons"]
    assert found["neurons"] == 7
    assert found["layer"] == [0, 0, 0, 0, 1, 1, 1]
    assert found["index"] == [0, 1, 2, 3, 0, 1, 2]
    assert [one["seed"] for one in found["networks"]] == [2, 0]
    for seed, one in enumerate(found["networks"], 1):
        scores = results["score"].values[seed]
        np.testing.assert_allclose(one["scores"], scores, rtol=6e-4)
        effects = results["single_loss"].values[seed] - 0.5  # the intact one's loss
        np.testing.assert_allclose(one["effects"], effects, rtol=6e-4)
        for k, place in enumerate(one["in_network"]):
            assert order[seed, 0, k][place].tolist() == list(range(7))
        for k, place in enumerate(one["in_layer"]):
            assert order[seed, 1, k][place[:4]].tolist() == [0, 1, 2, 3]
            assert order[seed, 2, k][place[4:]].tolist() == [4, 5, 6]


def test_of_many_networks_as_many_can_be_chosen_as_a_page_holds(results, monkeypatch):
    # A neuron has 3 scores, 2 effects, 6 orders in two scopes, its layer and index.
    each = 3 + 2 + 2 * 6 + 2
    results = results.isel(seed=[0, 2])
    for numbers, neurons, networks in (
        (each * 7 * 2, 7, 2),
        (each * 7 * 2 - 1, 7, 1),
        (each * 7 - 1, 6, 1),
    ):
        monkeypatch.setattr(page_data, "_NUMBERS", numbers)
        found = page_data.neuron_data(results)
        assert len(found["layer"]) == neurons
        assert [one["seed"] for one in found["networks"]] == [0, 2][:networks]
        assert {len(row) for row in found["networks"][-1]["scores"]} == {neurons}


def test_claims_are_told_by_their_text_with_one_p_value(results):
    claims = pd.DataFrame(
        {
            "claim": ["1", "4"],
            "scope": ["network", "layer_2 over layer_1"],
            "effect": [0.25, -0.25],
            "p_value": [0.01, 0.02],
            "p_corrected": [0.04, 0.05],
            "p_bootstrap": [0.06, 0.07],
            "verdict": ["fails", "undecided"],
            "undefined": 0,
            "networks_for_power": [np.nan, np.inf],
            "networks_for_half": [np.nan, 50.0],
            "skewness": 0.5,
            "usual_skewness": 1.0,
        }
    )
    page = Page(run_page(results, {"claims": claims}))
    found = page.frame("claims")
    texts = [
        "Over the whole network, ascending order is no better than random order",
        "Ablation in deeper layers does less harm",
    ]
    assert [(name, found[name].tolist()) for name in found] == [
        ("claim", texts),
        ("verdict", ["fails", "undecided"]),
        ("scope", ["network", "layer_2 over layer_1"]),
        ("effect", ["0.25", "-0.25"]),
        ("p_corrected", ["0.04", "0.05"]),
        ("networks_for_power", ["", "inf"]),
    ]
    first, fourth = (page.data["claims"][text] for text in texts)
    assert (first["above"], first["threshold"]) == (False, 0.01)
    assert (fourth["above"], fourth["threshold"]) == (True, 0.0)
    assert "tables/claims.csv" in page.addresses  # which has the other columns


def test_the_page_says_what_it_is_and_lines_break_between_words(results):
    results = results.assign_attrs(
        device="cpu cpu, gpu NVIDIA A100, gpu NVIDIA H100", source_revision="unknown"
    )
    text = run_page(results, {})
    page = Page(text)
    said = " ".join(page.text.split())
    assert (
        "Information-ordered cumulative ablation (arXiv 1804.06679): the neurons"
        in said
    )
    assert "<dfn>clamp</dfn>" in text
    assert "<dfn>normalised area</dfn>" in text
    first, *_ = re.findall(r"<li>(.*?)</li>", text.split('<ol class="findings">')[1])
    assert first.startswith("The 2 networks have a test error of ")
    assert "\N{NO-BREAK SPACE}%" in first
    assert " %" not in first
    assert unbroken("95 % interval -1 to 2, corrected p = 0.04") == (
        "95\N{NO-BREAK SPACE}%\N{NO-BREAK SPACE}interval -1 to 2, corrected "
        "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}0.04"
    )
    assert "<dd>cpu, gpu NVIDIA A100, gpu NVIDIA H100</dd>" in text
    assert "Revision of the source" not in text
    known = run_page(results.assign_attrs(source_revision="0a1b"), {})
    assert "<dt>Revision of the source</dt><dd>0a1b</dd>" in known


def test_tables_are_whole_and_exact(results):
    table = pd.DataFrame(
        {
            "layer": ["conv,1", '"2"'],
            "effect": [1 / 3, np.nan],
            "networks": [3, 10_000_000],
            "shown": [True, False],
        }
    )
    page = Page(run_page(results, {"trajectories": table}))
    found = page.frame("trajectories").to_dict("list")
    assert [*found] == [*table]
    assert found["layer"] == ["conv,1", '"2"']
    assert float(found["effect"][0]) == pytest.approx(1 / 3, abs=1e-8)
    assert found["effect"][1] == ""
    assert [*map(float, found["networks"])] == [3, 1e7]
    assert found["shown"] == ["yes", "no"]


HOSTILE = ["</script><img src=//host/x onerror=alert(1)>", "a&b<!--\u2028'\""]


def test_names_of_layers_and_data_are_escaped(results):
    plain = Page(run_page(results, {}))
    results = with_layer_names(results, HOSTILE)
    config = json.dumps({"dataset": HOSTILE[0], "epochs": 3})
    results = results.assign_attrs(configuration=config, network=HOSTILE[1])
    neurons = pd.DataFrame({"layer": HOSTILE, HOSTILE[0]: 1.0, "dead": 1.0})
    page = Page(run_page(results, {"neurons": neurons}, flags=HOSTILE[0]))
    assert page.data["neurons"]["layers"] == HOSTILE
    assert page.frame("neurons")["layer"].tolist() == HOSTILE
    assert page.frame("layers")["layer"].tolist() == HOSTILE
    assert "img" not in page.tags
    for tag in ("script", "style", "link"):
        assert page.tags.count(tag) == plain.tags.count(tag)
    assert all(name in page.text for name in HOSTILE)


def test_the_largest_page_is_small():
    large = synthetic_results(hidden=(60,) * 30, seeds=2, random_orders=1)
    rows = {f"column_{i}": np.random.default_rng(i).random(5000) for i in range(13)}
    names = [f"a_long_name_of_a_layer/{i}/mlp/down_projection" for i in range(30)]
    large = with_layer_names(described(large), names)
    tables = {f"table_{i}": pd.DataFrame(rows) for i in range(13)}
    text = run_page(large, tables)
    assert len(text.encode()) < 3e6
    page = Page(text)
    assert page.data["curves"]["layers_left_out"] == 0
    assert len(page.data["curves"]["quantities"]["accuracy"]["mean"][0][0][0]) >= 21
    assert page.data["curves"]["scopes"][0]["steps"][-1] == 1800


@pytest.mark.parametrize("fields", [{"random_orders": 0}, {"clamps": ("mean",)}])
def test_runs_with_less_have_a_page(fields):
    page = Page(run_page(described(synthetic_results(**fields)), {}))
    assert "claims" not in page.text.split("Tables")[0].lower()
    assert page.data["curves"]["clamps"] == [*fields.get("clamps", ("zero", "mean"))]


def test_networks_that_all_diverged_have_a_page_without_curves():
    results = described(synthetic_results(seeds=2, diverged=(0, 1)))
    page = Page(run_page(results, {}))
    assert "curves" not in page.data
    assert "All 2 networks diverged in training." in page.text


def test_results_that_are_read_in_pieces_give_the_same_page(tmp_path, monkeypatch):
    results = described(planted_joint_results())
    write_results(results, tmp_path / "study.nc")
    expected = run_page(results, {})
    assert Page(expected).data["neurons"]["networks"][0]["in_network"][0]
    monkeypatch.setattr(subsets, "PIECE_BYTES", 1)  # a network at a time
    assert run_page(load_results(tmp_path, lazy=True), {}) == expected


def test_the_guide_shows_a_page_of_a_size_that_is_read_online():
    docs = pathlib.Path(__file__).parents[2] / "docs"
    guide = (docs / "guides" / "report.md").read_text("utf-8")
    (name,) = re.findall(r"\{figure\} (\S+)", guide)
    content = (docs / "guides" / name).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(content[16:20]) == 1400  # wide
    assert len(content) < 200_000
    assert "guides/report\n" in (docs / "index.md").read_text("utf-8")
    # Sections are called as the page calls them, in its order.
    template = pathlib.Path(page_data.__file__).parent / "templates" / "run.html"
    folds = re.findall(r'call fold\("\S+", "(.*?)"', template.read_text("utf-8"))
    assert re.findall(r"^\| ([A-Z].*?) \|", guide, re.MULTILINE) == folds
