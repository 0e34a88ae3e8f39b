"""The report page in Chromium: what a reader chooses, keys, widths, no request."""

import csv
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import planted_joint_results
from test_page import described

from ioca_jax.report.overview import sweep_page
from ioca_jax.report.page import run_page
from ioca_jax.report.tables import tabulate
from ioca_jax.results.subsets import mean_curve

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not there"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
)


@pytest.fixture(scope="module")
def results() -> xr.Dataset:
    return described(planted_joint_results())


@pytest.fixture(scope="module")
def tables(results) -> dict[str, pd.DataFrame]:
    return tabulate(results)


@pytest.fixture(scope="module")
def started(results, tables, tmp_path_factory) -> Iterator[tuple[Any, pathlib.Path]]:
    """A browser, and the page's file."""
    folder = tmp_path_factory.mktemp("browser")
    file = folder / "report.html"
    file.write_text(run_page(results, tables, "--seeds=0:8"), "utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    logs = {"browser": "ALL", "performance": "ALL"}
    options.set_capability("goog:loggingPrefs", logs)
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver, file
    driver.quit()


@pytest.fixture
def browser(started) -> Iterator[Any]:
    """The page, opened anew; afterwards nothing was complained of or asked for."""
    driver, file = started
    driver.get(file.as_uri())
    yield driver
    assert driver.get_log("browser") == []
    entries = driver.get_log("performance")
    messages = [json.loads(entry["message"])["message"] for entry in entries]
    asked = {
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
        # Chromium's own first page asks too.
        and message["params"]["documentURL"].startswith(file.as_uri())
    }
    local = (file.as_uri(), "data:,", "blob:")
    assert file.as_uri() in asked
    assert all(address.startswith(local) for address in asked), asked


def choose(browser: Any, section: str, name: str, text: str) -> None:
    browser.execute_script(
        """
        const [section, name, text] = arguments;
        const select = document.querySelector(`#${section} select[name="${name}"]`);
        select.value = [...select.options].find((o) => o.textContent === text).value;
        select.dispatchEvent(new Event("change"));
        """,
        *(section, name, text),
    )


def press(browser: Any, chart: str, *keys: str) -> None:
    svg = browser.find_element("css selector", f"{chart} svg")
    browser.execute_script("arguments[0].focus()", svg)
    for key in keys:
        browser.switch_to.active_element.send_keys(key)


def values_shown(browser: Any) -> dict[str, float]:
    """By name of a line, its value beneath the curves."""
    items = browser.find_elements("css selector", "#curve-values li")
    cells = [
        [item.find_element("css selector", name).text for name in ("span", "b")]
        for item in items
    ]
    return {name: float(text.partition(" ")[0]) for name, text in cells}


def downloaded(browser: Any, selector: str) -> list[list[str]]:
    """What a button would save."""
    text = browser.execute_async_script(
        """
        const [selector, done] = arguments;
        const own = URL.createObjectURL;
        URL.createObjectURL = (blob) => { blob.text().then(done); return own(blob); };
        document.querySelector(selector).click();
        URL.createObjectURL = own;
        """,
        selector,
    )
    return list(csv.reader(text.splitlines()))


KEYS = {"right": "\ue014", "end": "\ue010", "escape": "\ue00c", "space": " "}


def test_a_choice_changes_the_curve_to_that_of_the_results(browser, results):
    line = "#curve-chart path.line"
    first = browser.find_element("css selector", line).get_attribute("d")
    choose(browser, "curves", "Scope", "layer 2")
    choose(browser, "curves", "Clamp", "mean")
    second = browser.find_element("css selector", line).get_attribute("d")
    assert first != second
    press(browser, "#curve-chart", "\ue011", KEYS["right"], KEYS["right"])
    shown = values_shown(browser)
    for name, *order in (
        ("mutual information, lowest first", "mutual_information", "ascending"),
        ("mutual information, highest first", "mutual_information", "descending"),
        ("random order", "random", "random"),
    ):
        curve = mean_curve(results, "mean", "layer_2", *order).mean("seed")
        assert shown[name] == pytest.approx(float(curve[2]), abs=6e-4), name
    assert len(shown) == 3
    box = browser.find_element("css selector", "input[value=entropy]")
    browser.execute_script("arguments[0].click()", box)
    assert len(values_shown(browser)) == 5
    assert len(browser.find_elements("css selector", line)) == 5


def test_hovering_shows_values_of_the_step(browser, results):
    svg = browser.find_element("css selector", "#curve-chart svg")
    browser.execute_script("arguments[0].scrollIntoView()", svg)
    actions = webdriver.ActionChains(browser)
    actions.move_to_element_with_offset(svg, svg.size["width"] // 2 - 15, 0).perform()
    neurons = results.sizes["neuron"]
    assert svg.get_attribute("aria-valuenow") == str(neurons)
    curve = mean_curve(results, "zero", "network", "random", "random").mean("seed")
    shown = values_shown(browser)["random order"]
    assert shown == pytest.approx(float(curve[-1]), abs=6e-4)


def test_tables_are_sorted_and_saved(browser, tables):
    column = [*tables["orders"]].index("effect")
    browser.execute_script(
        "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    )
    head = browser.find_element(
        "css selector", "#table-orders th[data-name=effect] button"
    )
    for times, sign in ((1, 1), (2, -1)):
        browser.execute_script("arguments[0].click()", head)
        rows = downloaded(browser, "button.csv[data-of=orders]")
        assert rows[0] == [*tables["orders"]]
        found = np.array([float(row[column]) for row in rows[1:]])
        expected = np.sort(tables["orders"]["effect"].to_numpy() * sign) * sign
        np.testing.assert_allclose(found, expected, rtol=1e-7, err_msg=str(times))


def test_selected_neurons_are_seen_in_effects_and_orders(browser, results):
    for button in browser.find_elements("css selector", "#neuron-choices button"):
        if "highest tenth" in button.get_attribute("textContent"):
            browser.execute_script("arguments[0].click()", button)
    rows = downloaded(browser, "button.csv[data-of=selected]")
    scores = results["score"].sel(measure="entropy").values[0]
    number = round(len(scores) / 10)
    best = np.sort(scores)[-number:]
    found = sorted(float(row[2]) for row in rows[1:])
    np.testing.assert_allclose(found, best, rtol=6e-4)
    for chart in ("#scatter", "#effect-chart"):
        filled = f'{chart} path.point[fill="var(--ink)"]'
        assert len(browser.find_elements("css selector", filled)) == number
    # Two orders of mutual information are drawn.
    marks = browser.find_elements("css selector", "#place-chart path.place")
    assert len(marks) == 2 * number
    order = results["order"].sel(scope="network").isel(seed=0)
    chosen = np.argsort(scores)[-number:]
    ascending = order.sel(ordering="mutual_information_ascending_0").values.tolist()
    column = rows[0].index("place in mutual information, lowest first")
    found = {int(row[column]) for row in rows[1:]}
    assert found == {ascending.index(neuron) + 1 for neuron in chosen}


def test_neurons_are_selected_by_keys_and_by_dragging(browser):
    note = browser.find_element("id", "selected-note")
    press(browser, "#scatter", KEYS["right"], KEYS["space"], KEYS["right"], " ")
    assert note.text.startswith("2 of ")
    press(browser, "#effect-chart", KEYS["escape"])
    assert note.text.startswith("No neuron")
    svg = browser.find_element("css selector", "#scatter svg")
    browser.execute_script("arguments[0].scrollIntoView()", svg)
    actions = webdriver.ActionChains(browser)
    actions.move_to_element_with_offset(svg, -120, -100).click_and_hold()
    actions.move_by_offset(300, 200).release().perform()
    assert int(note.text.split()[0]) > 2


def test_a_sweeps_page_draws_what_is_chosen(started, tmp_path):
    driver, _ = started
    names = ["name", "status", "test_error_mean", "above_chance"]
    order = "mutual_information.ascending"
    names += ["area.network.mean.random.random", f"area.layer_1.mean.{order}"]
    rows = [
        ("b=1", "finished", 3.0, 4, 0.5, 0.25),
        ("b=2,c", "failed", *[np.nan] * 4),
    ]
    picture = (255).to_bytes()
    (tmp_path / "runs.png").write_bytes(picture)
    page = sweep_page(pd.DataFrame(rows, columns=names), tmp_path, "ioca sweep")
    (tmp_path / "report.html").write_text(page, "utf-8")
    driver.get((tmp_path / "report.html").as_uri())
    shown = "#section-2 .interval title"
    title = driver.find_element("css selector", shown)
    assert title.get_attribute("textContent") == "b=1: 0.5"
    assert driver.find_element("css selector", ".banner").text == (
        "In 1 of 1 runs too few networks are above chance (4): no test over networks "
        "can reach 5 %; 6 can, 2 more are needed."
    )
    choose(driver, "section-2", "scope", "layer 1")
    choose(driver, "section-2", "ranked by", "mutual information")
    choose(driver, "section-2", "direction", "ascending")
    title = driver.find_element("css selector", shown)
    assert title.get_attribute("textContent") == "b=1: 0.25"
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_nothing_is_wider_than_the_screen(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.body.scrollWidth") <= width
    for chart in browser.find_elements("css selector", ".chart svg"):
        assert chart.size["width"] <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(browser, scheme):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    style = "const s = getComputedStyle(document.body); return [s.color, s.background"
    texts = browser.execute_script(f"{style}Color];")
    ink, paper = (
        np.mean([float(n) for n in text.split("(")[1].rstrip(")").split(",")[:3]])
        for text in texts
    )
    assert (paper > ink) == (scheme == "light")
    assert abs(paper - ink) > 180
