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
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait
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


def unfold(browser: Any, *sections: str) -> None:
    for section in sections:
        script = "document.getElementById(arguments[0]).open = true"
        browser.execute_script(script, section)


def is_open(browser: Any, section: str) -> bool:
    return browser.find_element("id", section).get_attribute("open") is not None


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
    column = [*tables["orders"]].index("effect")  # before the p-values
    browser.execute_script(
        "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    )
    head = browser.find_element(
        "css selector", "#table-orders th[data-name=effect] button"
    )
    for times, sign in ((1, 1), (2, -1)):
        browser.execute_script("arguments[0].click()", head)
        rows = downloaded(browser, "button.csv[data-of=orders]")
        assert rows[0] == [
            name for name in tables["orders"] if name not in ("p_value", "p_bootstrap")
        ]
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
    column = rows[0].index("place_mutual_information_ascending")
    found = {int(row[column]) for row in rows[1:]}
    assert found == {ascending.index(neuron) + 1 for neuron in chosen}


def test_neurons_of_every_network_can_be_seen(browser, results):
    unfold(browser, "neurons")
    first, *_ = browser.find_elements("css selector", "#effect-chart path.point")
    before = first.get_attribute("transform")
    choose(browser, "neurons", "Network", "seed 3")
    after, *_ = browser.find_elements("css selector", "#effect-chart path.point")
    assert after.get_attribute("transform") != before
    head, *rows = downloaded(browser, ".csv-neurons")
    scores = results["score"].sel(seed=3, measure="mutual_information").values
    column = head.index("mutual_information")
    found = [float(row[column]) for row in rows]
    np.testing.assert_allclose(found, scores, rtol=6e-4)
    order = results["order"].sel(seed=3, scope="network")
    order = order.sel(ordering="mutual_information_descending_0").values
    column = head.index("place_mutual_information_descending")
    assert [int(row[column]) for row in rows] == (np.argsort(order) + 1).tolist()
    select = "highest tenth"
    for button in browser.find_elements("css selector", "#neuron-choices button"):
        if select in button.text:
            button.click()
    assert not browser.find_element("id", "selected-note").text.startswith("No neuron")
    choose(browser, "neurons", "Network", "seed 0")
    assert browser.find_element("id", "selected-note").text.startswith("No neuron")
    choose(browser, "neurons", "Network", "seed 3")  # each has its selection
    assert not browser.find_element("id", "selected-note").text.startswith("No neuron")


def test_sections_are_folded_until_they_are_asked_for(browser, started):
    sections = browser.find_elements("css selector", "details.fold")
    names = [section.get_attribute("id") for section in sections]
    assert {"all-findings", "orders", "neurons", "claims", "joint"} <= {*names}
    assert not any(is_open(browser, name) for name in names)
    assert browser.find_element("css selector", "#curve-chart svg").is_displayed()
    assert len(browser.find_elements("css selector", "#findings ol li")) == 3
    browser.find_element("css selector", "nav a[href='#claims']").click()
    chart = browser.find_element("css selector", "#claims .forest svg")
    assert chart.is_displayed()
    drawn, *_ = browser.find_elements("css selector", "#claims .forest")
    waiting = WebDriverWait(browser, 5)
    width = "return document.querySelector('#claims svg').viewBox.baseVal.width"
    waiting.until(lambda b: b.execute_script(width) == drawn.size["width"])
    browser.get(f"{started[1].as_uri()}#joint")
    assert is_open(browser, "joint")
    # As the search within the page does.
    browser.get("about:blank")
    browser.get(f"{started[1].as_uri()}#:~:text=is%20the%20area%20under%20it")
    waiting.until(lambda b: is_open(b, "orders"))
    assert not is_open(browser, "claims")
    browser.find_element("css selector", "nav button").click()
    assert all(is_open(browser, name) for name in names)


def test_printing_unfolds_what_it_folds_again(browser):
    before = browser.execute_script(
        """
        window.printed = null;
        addEventListener("beforeprint", () => {
          const folds = [...document.querySelectorAll("details.fold")];
          window.printed = folds.map((fold) => fold.open);
        });
        """
    )
    assert before is None
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert set(browser.execute_script("return window.printed")) == {True}
    assert not is_open(browser, "claims")


def test_sides_of_a_claim_say_where_it_holds(browser):
    unfold(browser, "claims")
    options = browser.find_elements("css selector", "#claims select option")
    texts = [option.get_attribute("textContent") for option in options]
    first = "Over the whole network, ascending order is no better than random order"
    deeper = "Ablation in deeper layers does less harm"
    assert {first, deeper} < {*texts}
    for text, sides in (
        (first, ["\u2190 holds", "fails \u2192"]),
        (deeper, ["\u2190 fails", "holds \u2192"]),
    ):
        choose(browser, "claims", "Claim", text)
        found = browser.find_elements("css selector", "#claims text.side")
        assert [node.get_attribute("textContent") for node in found] == sides


def test_files_have_names_without_commas_and_columns_too(browser):
    name = browser.execute_script(
        """
        let name = null;
        document.addEventListener("click", (event) => {
          if (event.target.matches("a[download]")) name = event.target.download;
        }, true);
        document.getElementById("save-curves").click();
        return name;
        """
    )
    assert name == "accuracy_network_zero.csv"
    order = "mutual_information"
    assert downloaded(browser, "#save-curves")[0] == [
        "neurons_ablated",
        *(f"{order}_ascending{end}" for end in ("", "_standard_deviation")),
        *(f"{order}_descending{end}" for end in ("", "_standard_deviation")),
        *("random", "random_standard_deviation"),
    ]


def test_neurons_are_selected_by_keys_and_by_dragging(browser):
    unfold(browser, "neurons")
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
    names += ["test_error_low", "test_error_high"]
    for place in ("network.mean.random.random", f"layer_1.mean.{order}"):
        names += [f"{end}.{place}" for end in ("area", "area_low", "area_high")]
    numbers = (3.0, 4, 2.5, 3.25, 0.5, 0.375, 0.75, 0.25, 0.125, 0.5)
    rows = [
        ("b=1", "finished", *numbers),
        ("b=2,c", "failed", *[np.nan] * 10),
    ]
    picture = (255).to_bytes()
    (tmp_path / "runs.png").write_bytes(picture)
    page = sweep_page(pd.DataFrame(rows, columns=names), tmp_path, "ioca sweep")
    (tmp_path / "report.html").write_text(page, "utf-8")
    driver.get((tmp_path / "report.html").as_uri())
    shown = "#section-1 .interval title"
    title = driver.find_element("css selector", shown)
    assert title.get_attribute("textContent") == (
        "b=1: 0.5, 95 % interval 0.375 to 0.75"
    )
    assert driver.find_element("css selector", ".banner").text == (
        "In 1 of 1 runs too few networks are above chance (4): no test over networks "
        "can reach 5 %; 6 can, 2 more are needed."
    )
    choose(driver, "section-1", "Scope", "layer 1")
    choose(driver, "section-1", "Ranked by", "mutual information")
    choose(driver, "section-1", "Direction", "ascending")
    title = driver.find_element("css selector", shown)
    assert title.get_attribute("textContent") == (
        "b=1: 0.25, 95 % interval 0.125 to 0.5"
    )
    assert driver.get_log("browser") == []


# Texts of charts that touch others of their chart, or its edge.
TOUCHING = """
    redrawWithin(document.body);
    const found = [];
    for (const chart of document.querySelectorAll(".chart svg")) {
      const edge = chart.getBoundingClientRect();
      const texts = [...chart.querySelectorAll("text")];
      const boxes = texts.map((text) => text.getBoundingClientRect());
      boxes.forEach((a, i) => {
        if (a.left < edge.left - 1 || a.right > edge.right + 1)
          found.push(`cut off: ${texts[i].textContent}`);
        boxes.slice(i + 1).forEach((b, j) => {
          const across = a.left < b.right && b.left < a.right;
          const along = a.top + 2 < b.bottom && b.top + 2 < a.bottom;
          const other = texts[i + 1 + j];
          if (across && along)
            found.push(`${texts[i].textContent} | ${other.textContent}`);
        });
      });
    }
    return found;
"""


@pytest.mark.parametrize("width", [390, 820, 1400])
def test_nothing_is_wider_than_the_screen(browser, width):
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.refresh()
    assert browser.execute_script("return innerWidth") == width
    assert browser.execute_script("return document.body.scrollWidth") <= width
    # With all unfolded no chart and no text in it is cut off, and no two ticks touch.
    browser.execute_script(
        "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
    )
    for chart in browser.find_elements("css selector", ".chart svg"):
        assert chart.size["width"] <= width
    assert browser.execute_script(TOUCHING) == []
    if width == 1400:
        cut = "return [...document.querySelectorAll('.scroll')].filter("
        cut += "(box) => box.scrollWidth > box.clientWidth).map((box) => box.ariaLabel)"
        assert browser.execute_script(cut) == []
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_long_texts_of_ticks_do_not_touch(browser):
    texts, places = browser.execute_script(
        """
        const scale = linear([0.00012, 0.00019], [60, 320]);
        const ticks = fittingTicks(scale, 8);
        return [ticks.map(shown), ticks.map(scale)];
        """
    )
    assert len(places) >= 2
    # In 12 px a digit is less than 7 wide.
    assert min(np.diff(places)) > 7 * max(map(len, texts))


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
