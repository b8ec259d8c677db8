"""`report.html` in headless Chromium, opened from disk: what a reader does with it. Run by `make test-browser`.

Needs Playwright's Python package and a Chromium on the PATH (`BROWSER` names another); neither is a dependency.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil

import pytest
from browser_page import HOSTILE_MODEL, made_up_page, made_up_records

from bench.notation import format_number, format_quantity
from bench.report.carbon import ACTIVITIES
from bench.report.grids import FIVE_GRIDS, grid_of
from bench.report.published import reported

pytestmark = pytest.mark.browser

# Without these Chromium calls home at every start; this page must not need a network.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser():
    playwright = importlib.import_module("playwright.sync_api")  # so that the file is collected where it is missing
    path = os.environ.get("BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.fail("needs Chromium: make test-browser installs it")
    with playwright.sync_playwright() as starter:
        found = starter.chromium.launch(executable_path=path, args=list(QUIET))
        yield found
        found.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(made_up_page(folder / "results"), encoding="utf-8")
    return (folder / "report.html").as_uri()


@pytest.fixture
def view(browser, address):
    """The page on a wide screen; every console message and every request that leaves the file fails the test."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 800}, color_scheme="light", reduced_motion="reduce"
    )
    page = context.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(f"dialog {dialog.message}"))
    page.on(
        "request", lambda request: said.append(request.url) if not request.url.startswith(("file:", "data:")) else 0
    )
    page.goto(address)
    yield page
    context.close()
    assert said == []


def column(view, table: str, figure: str, *, shown: bool = True) -> list[str]:
    """Texts of a figure's column from top to bottom, without letters and what stands beside."""
    return view.evaluate(
        """([table, figure, shown]) => {
            const element = document.querySelector(`table[data-table=${table}]`);
            const heads = [...element.tHead.rows[1].cells];
            const place = heads.findIndex((head) => head.dataset.f === figure || head.dataset.k === figure);
            return [...element.tBodies[0].rows].filter((row) => !shown || !row.hidden)
                .map((row) => (row.cells[place].querySelector("button") || row.cells[place]).firstChild.textContent);
        }""",
        [table, figure, shown],
    )


def head(view, table: str, name: str):
    return view.locator(f"table[data-table={table}] th[data-f={name}], table[data-table={table}] th[data-k={name}]")


def numbers(texts: list[str]) -> list[float]:
    return [float(re.match(r"≈?([\d.]+)", text)[1]) for text in texts if text != "—"]


def test_a_column_sorts_by_number_with_unknown_last_and_letters_apart(view):
    name = "generate_images_per_s"
    head(view, "cost", name).get_by_role("button").click()
    assert head(view, "cost", name).get_attribute("aria-sort") == "ascending"
    notice = view.locator("[data-notice=cost]")
    assert "machine.gpus" in notice.inner_text()
    notice.get_by_role("button").click()
    rising = numbers(column(view, "cost", name))
    assert rising == sorted(rising)
    assert len(rising) == len(made_up_records())
    head(view, "cost", name).get_by_role("button").click()
    assert head(view, "cost", name).get_attribute("aria-sort") == "descending"
    falling = numbers(column(view, "cost", name))
    assert falling == sorted(falling, reverse=True)
    head(view, "cost", "train_images_per_s").get_by_role("button").click()
    head(view, "cost", "train_images_per_s").get_by_role("button").click()
    texts = column(view, "cost", "train_images_per_s")
    assert texts[-1] == "—"
    assert "—" not in texts[:-1]
    assert head(view, "cost", name).get_attribute("aria-sort") == "none"
    head(view, "cost", "model").get_by_role("button").click()
    assert column(view, "cost", "model")[0] == HOSTILE_MODEL


def test_sorting_within_letters_never_ranks_what_may_not_be_compared(view):
    head(view, "cost", "generate_images_per_s").get_by_role("button").click()
    groups = view.locator("table[data-table=cost] tbody tr").evaluate_all(
        "rows => rows.map((row) => DATA.groups.generate_images_per_s[Number(row.dataset.r)])"
    )
    assert groups == sorted(groups)
    view.fill("#find", "cuda")
    assert view.locator("[data-notice=cost]").is_hidden()


def test_filters_hide_rows_in_every_table_and_say_how_many_are_left(view):
    shown = view.locator("#shown")
    total = len(made_up_records())
    assert shown.inner_text() == f"{total} of {total} runs shown"
    assert shown.get_attribute("aria-live") == "polite"
    view.fill("#find", "HIT scenes")
    assert shown.inner_text() == f"1 of {total} runs shown"
    assert column(view, "quality", "model") == ["hit"]
    view.fill("#find", "")
    view.select_option("[data-filter=status]", "oom")
    assert column(view, "energy", "model") == ["ganformer"]
    view.select_option("[data-filter=status]", "")
    view.select_option("[data-filter=audit]", "warning")
    assert column(view, "cost", "model") == ["hit"]
    view.get_by_role("button", name="Clear").click()
    assert len(column(view, "cost", "model")) == total
    view.select_option("[data-filter=data]", "scenes 64 px")
    assert column(view, "cost", "model") == ["styleswin"]


def test_a_figure_opens_by_click_and_by_enter_and_escape_gives_the_focus_back(view):
    cell = view.locator("table[data-table=energy] tr", has_text="hit").locator("td button", has_text="0.0284").first
    for opened in (cell.click, lambda: cell.press("Enter")):
        opened()
        dialog = view.locator("dialog")
        assert dialog.is_visible()
        text = dialog.inner_text()
        for words in ("measured:nvml-energy-counter", "0.02725 to 0.02965", "± 5 %", "hit-gpu000004", "0123abcd", "20"):
            assert words in text
        assert "35 of them" not in text
        assert "the first 5 of them warm-up" in text
        assert dialog.locator("svg circle.window").count() == 35
        assert dialog.locator("svg circle.warmup").count() == 5
        assert dialog.locator("svg circle.flagged").count() == 1
        assert dialog.get_by_text("Protocol of the phase generate").count() == 1
        view.keyboard.press("Escape")
        assert dialog.is_hidden()
        assert cell.evaluate("element => element === document.activeElement")


def test_an_unknown_figure_says_why_without_being_opened(view):
    row = view.locator("table[data-table=cost] tr", has_text="ganformer")
    cell = row.locator("td.u button").first
    assert "out of memory at batch 32" in cell.get_attribute("title")
    assert cell.get_attribute("aria-label").startswith("not known: ")
    cell.click()
    assert "out of memory at batch 32" in view.locator("dialog").inner_text()


def test_a_run_opens_with_its_findings_and_every_figure_behind_it(view):
    view.locator("table[data-table=cost] tr", has_text="hit").locator("th button").click()
    dialog = view.locator("dialog")
    assert "warning: window length: short windows Remedy: measure longer" in dialog.inner_text()
    dialog.locator("dt", has_text=re.compile("^rfd_v1_real$")).locator("+ dd button").click()
    assert dialog.locator("h2").inner_text() == "rfd_v1_real"
    dialog.get_by_role("button", name="All of this run").click()
    dialog.get_by_role("button", name="Close").click()
    assert dialog.is_hidden()
    view.locator(".verdict summary").click()
    view.locator(".verdict [data-run] button").click()
    assert dialog.locator("h2").inner_text() == "hit"


def test_the_numbers_of_the_windows_can_be_copied(view):
    view.locator("table[data-table=cost] tr", has_text="hit").locator("td button", has_text="648").click()
    view.locator("dialog summary", has_text="Numbers").first.click()
    lines = view.locator("dialog textarea").input_value().splitlines()
    assert lines[0].startswith("window\twarm-up\tunits\tduration_s\timage/s\t")
    assert len(lines) == 41
    assert lines[18].endswith("throttled <b>")
    view.get_by_role("button", name="Copy").click()
    assert view.get_by_role("button", name=re.compile("Copied|Ctrl")).is_visible()


def test_the_co2_of_every_grid_is_what_python_computes(view):
    records = {record.run_id: record for record in made_up_records()}
    ids = view.evaluate("DATA.runs.map((run) => run.id)")
    assert set(column(view, "energy", "co2_kg_train")) == {"—"}
    for code, pue in [(code, pue) for code in FIVE_GRIDS for pue in (1.0, 1.37)]:
        view.select_option("#grid", code)
        view.fill("#pue", str(pue))
        shown = {run_id: reported(records[run_id], grid_of(code), pue) for run_id in ids}
        for activity in ACTIVITIES:
            expected = [format_quantity(record.quantity(activity.co2)) for record in shown.values()]
            assert column(view, "energy", activity.co2) == expected
    view.locator("table[data-table=energy] td button", has_text="[estimated]").last.click()
    assert f"PUE 1.37, {grid_of('POL').text()}" in view.locator("dialog").inner_text()
    view.keyboard.press("Escape")
    view.fill("#pue", "0.3")
    assert "PUE must be" in view.locator("#grid-says").inner_text()
    view.fill("#pue", "1")
    view.select_option("#grid", "")
    assert set(column(view, "energy", "co2_kg_train")) == {"—"}


@pytest.mark.parametrize("magnitude", [1e-9, 3e-5, 9.99e-5, 1e-4, 0.0199, 0.5, 7.0, 99.95, 1234.5, 1e5, 2.5e6, 3e9])
def test_the_script_writes_numbers_as_python_does(view, magnitude):
    for share in (None, 0.0, 1e-4, 0.0149, 0.02, 0.0951, 0.5, 1.4):
        value = magnitude * 1.0371
        ends = [None, None] if share is None else [value * (1 - share), value * (1 + share)]
        assert view.evaluate("([value, low, high]) => concise(value, low, high)", [value, *ends]) == format_number(
            value, *ends
        )


def test_everything_is_reached_by_tab_and_the_focus_is_seen(view):
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.className") == "skip"
    view.keyboard.press("Enter")
    reached = []
    for _ in range(14):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.id || document.activeElement.dataset.filter || ''"))
    assert reached[1:6] == ["find", "data", "machine_name", "status", "audit"]
    view.locator("table[data-table=cost] tbody button").first.focus()
    view.keyboard.press("Tab")
    assert view.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert view.evaluate("[...document.querySelectorAll('[tabindex]')].every((each) => each.tabIndex <= 0)")


def test_the_theme_follows_the_system_until_the_button_says_otherwise(view):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = view.evaluate(paper)
    view.emulate_media(color_scheme="dark")
    dark = view.evaluate(paper)
    assert dark != light
    button = view.locator("#theme")
    button.click()
    assert button.inner_text() == "Theme: light"
    assert view.evaluate(paper) == light
    button.click()
    view.emulate_media(color_scheme="light")
    assert view.evaluate(paper) == dark
    button.click()
    assert view.evaluate(paper) == light


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_that_wcag_asks_for(view, scheme):
    view.emulate_media(color_scheme=scheme)
    worst = view.evaluate(
        """() => {
            const parts = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
            const light = (colour) => parts(colour).map((part) => part / 255)
                .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
                .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
            const behind = (element) => {
                for (let each = element; each; each = each.parentElement) {
                    const colour = getComputedStyle(each).backgroundColor;
                    if (!/, 0\\)$|transparent/.test(colour)) return colour;
                }
                return "rgb(255, 255, 255)";
            };
            const texts = [...document.querySelectorAll("main *")].filter((each) => each.offsetParent
                && [...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
            return Math.min(...texts.map((each) => {
                const [a, b] = [light(getComputedStyle(each).color), light(behind(each))];
                return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            }));
        }"""
    )
    assert worst >= 4.5


def test_a_narrow_screen_scrolls_tables_and_not_the_page(view):
    view.set_viewport_size({"width": 375, "height": 800})
    assert view.evaluate("document.documentElement.scrollWidth") == 375
    box = view.locator("table[data-table=cost]").locator("..")
    assert box.evaluate("element => element.scrollWidth > element.clientWidth")
    box.evaluate("element => { element.scrollLeft = 300; }")
    left = view.locator("table[data-table=cost] tbody th").first.bounding_box()["x"]
    assert left == pytest.approx(box.bounding_box()["x"], abs=2)
    view.locator("table[data-table=cost] tbody th button").first.click()
    assert view.locator("dialog").bounding_box()["width"] <= 375


def test_the_printed_page_has_whole_tables_and_no_controls(view):
    view.emulate_media(media="print")
    for name in (".top", "#filters", "#grid"):
        assert view.locator(name).is_hidden()
    view.set_viewport_size({"width": 1040, "height": 740})  # A4 across, less its margins
    for box in view.locator(".scroll").all():
        assert box.evaluate("element => element.scrollWidth <= element.clientWidth + 1")
        assert box.evaluate("element => element.scrollHeight <= element.clientHeight + 1")
    assert len(view.pdf(prefer_css_page_size=True)) > 10_000


def test_hostile_strings_stay_text(view):
    assert view.locator("img[src=x], b:has-text('rule'):not(td b)").count() == 0
    view.locator("table[data-table=cost] tbody th button", has_text=HOSTILE_MODEL).click()
    assert "<b>rule</b>" in view.locator("dialog").inner_text()
    assert view.locator("dialog b").count() == 0


def test_without_javascript_the_tables_stand(browser, address):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("table[data-table=quality] tbody tr").count() == len(made_up_records())
    assert page.locator("#filters").is_hidden()
    assert page.get_by_text("Without JavaScript").is_visible()
    context.close()
