"""`report.html` as text: what it holds, its safety, its size. What it does is in `test_page_browser.py`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from browser_page import HOSTILE_DATA, HOSTILE_MODEL, PNG, SVG, made_up_page, made_up_records, store
from PIL import Image
from test_report import figure, make_phases, make_record

from bench.notation import format_quantity
from bench.report import page
from bench.report.grids import Grid
from bench.report.page import PagePicture, html_page
from bench.report.page.data import Pool, as_json, badge_of, run_facts
from bench.report.page.headline import caveats, glance
from bench.report.page.samples import shown_pictures, shown_samples
from bench.report.page.tables import comparison_of, tables_of
from bench.report.page.windows import windows_of
from bench.report.published import reported
from bench.store import StoredRun

GRID = Grid(g_per_kwh=56.0, region="FRA", year=2023, source="a table")


class _Reader(HTMLParser):
    """Elements that are open, text of the cells, and every element that was seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br", "wbr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def read(text: str) -> _Reader:
    reader = _Reader()
    reader.feed(text)
    return reader


def plain_page(records, folder=Path("/nowhere"), **changed) -> str:
    facts = {"pictures": [], "verdicts": [], "findings": {}, "problems": [], "grid": None, "pue": 1.0}
    return html_page([StoredRun(reported(record), folder / record.run_id) for record in records], **facts | changed)


def data_of(text: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text)[1])


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> str:
    return made_up_page(tmp_path_factory.mktemp("runs"), grid=GRID, pue=1.2)


def test_every_element_is_closed_and_nothing_hostile_became_one(made_up):
    reader = read(made_up)
    assert reader.open == []
    assert sum(tag == "script" for tag, _ in reader.seen) == 2
    assert not any(tag == "b" and "onerror" in facts for tag, facts in reader.seen)
    assert all("onerror" not in facts for _, facts in reader.seen)
    assert "&lt;img src=x onerror=alert(1)&gt;" in made_up
    assert HOSTILE_MODEL not in made_up
    assert HOSTILE_DATA not in made_up
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u2029\u202e]", made_up)


def test_the_policy_allows_this_script_and_style_by_hash_and_no_network(made_up):
    policy = next(facts["content"] for tag, facts in read(made_up).seen if "content-security" in str(facts).lower())
    assert policy.startswith("default-src 'none'; ")
    for tag, kind in (("script>", "script"), ("style>", "style")):
        text = re.search(rf"<{tag}(.*?)</{tag}", made_up, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    addresses = [str(facts.get(name)) for _, facts in read(made_up).seen for name in ("src", "href") if name in facts]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert all("style" not in facts for _, facts in read(made_up).seen)


def test_the_script_builds_text_and_never_markup():
    for name in ("page.js", "tables.js", "dialog.js"):
        text = files("bench.report.page").joinpath(name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|fetch\(", text)
        assert len(text.splitlines()) <= 300


def test_the_same_records_give_the_same_bytes_in_any_order(tmp_path):
    records = made_up_records()
    assert plain_page(records) == plain_page(records[::-1])
    assert made_up_page(tmp_path) == made_up_page(tmp_path)


def test_the_tables_stand_without_javascript_as_python_wrote_the_figures(made_up):
    for record in made_up_records():
        for name in ("rfd_v1", "generate_images_per_s", "train_energy_j"):
            assert format_quantity(reported(record).quantity(name)) in made_up
    assert "18× the floor" in made_up
    assert made_up.count('<tr data-r="') == 3 * len(made_up_records())


def test_only_comparable_publishable_figures_are_best_and_letters_part_the_others():
    records = [reported(record) for record in made_up_records()]
    columns = [figure for table in tables_of(records) for figure in table.figures]
    found = comparison_of(records, columns)
    best = {run_id for run_id, figure in found.best if figure == "generate_images_per_s"}
    assert best == {"hit-gpu000004", "broken-00000001"}  # of the GPU; of the CPU's, where smoke (faster) may not win
    assert {run_id for run_id, figure in found.best if figure == "generate_energy_j_per_image"} == {"hit-gpu000004"}
    assert "machine.gpus" in found.differ["generate_images_per_s"]
    assert found.group["co2_kg_train"] == found.group["train_energy_j"]
    assert "num_images_shown" not in found.differ


def test_a_figure_carries_its_provenance_and_an_unknown_one_its_reason(made_up):
    data = data_of(made_up)
    run = next(run for run in data["runs"] if run["id"] == "hit-gpu000004")
    figure = dict(zip(data["fields"], run["figures"]["generate_energy_j_per_image"], strict=False))
    assert data["pool"][figure["label"]] == "measured:nvml-energy-counter"
    assert (figure["n"], figure["systematic"]) == (20, 0.05)
    assert figure["interval"] == "0.02725 to 0.02965"
    broken = next(run for run in data["runs"] if run["id"] == "broken-00000001")
    missing = dict(zip(data["fields"], broken["figures"]["train_images_per_s"], strict=False))
    assert missing["value"] is None
    assert "out of memory" in data["pool"][missing["note"]]
    assert run["phases"]["generate"][3]["energy"] >= 0
    assert run["badge"] == "1 warning"
    assert run["windows"]["generate"]["generate.batch"]["num_warmup"] == 5


def test_facts_are_shared_between_runs_and_json_stays_inside_its_element():
    pool = Pool()
    records = [reported(make_record(f"run-{index}", seed=index)) for index in range(5)]
    sizes = [len(pool.values) for record in records if run_facts(record, pool, short="", columns=[], findings=None)]
    assert sizes[-1] - sizes[0] < 20
    assert as_json({"a": "</script><!--&\u2028"}) == '{"a":"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028"}'


def test_protocols_with_infinities_and_control_signs_are_shown_as_text():
    phases = make_phases()
    odd = {"rate": float("inf"), "name": "a\u202eb", "many": ["x" * 9000]}
    phases["generate"] = phases["generate"].model_copy(update={"protocol": odd})
    pool = Pool()
    facts = run_facts(reported(make_record(phases=phases)), pool, short="", columns=[], findings=None)
    protocol = {name: pool.values[place] for name, place in facts["phases"]["generate"][3].items()}
    assert protocol["rate"] == "inf"
    assert protocol["name"] == "a\\u202eb"
    assert len(protocol["many"]) == 4000
    json.loads(as_json(pool.values))


def test_raw_windows_are_thinned_and_broken_lines_are_said(tmp_path):
    run = store(make_record(), tmp_path)
    path = run.folder / "windows/generate.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, *lines[5:] * 20, "{broken", "[]"]))
    found, problems = windows_of(run, Pool())
    series = found["generate"]["generate.batch"]
    assert len(series["duration_s"]) == 305
    assert series["left_out"] == 40 + 35 * 20 - 305
    assert series["num_units"] == 64
    assert series["readings"]["peak_memory_bytes"] == 1_500_000_000
    assert "2 lines" in problems[0]
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("secret")
    assert "generate" not in windows_of(run, Pool())[0]


def test_the_page_holds_the_newest_runs_that_fit_and_says_how_many_are_left_out(monkeypatch):
    records = [
        make_record(
            f"run-{index:08d}", seed=index, created_at=f"2026-01-02T03:{index // 60:02d}:{index % 60:02d}+00:00"
        )
        for index in range(300)
    ]
    monkeypatch.setattr(page, "MAX_BYTES", 600_000)
    text = plain_page(records)
    shown = {run["id"] for run in data_of(text)["runs"]}
    assert len(text.encode()) <= 600_000
    assert 20 < len(shown) < 300
    assert shown == {f"run-{index:08d}" for index in range(300 - len(shown), 300)}
    assert f"the {len(shown)} newest of 300 runs; {300 - len(shown)} older" in text
    assert f"the {len(shown)} newest of 9,000 runs" in plain_page(records, num_runs=9000)


def test_no_runs_give_a_page_that_says_so():
    text = plain_page([])
    assert "There is no run to report" in text
    assert read(text).open == []


def test_the_headline_says_who_is_best_among_whom_and_what_forbids_deciding():
    records = [reported(record) for record in made_up_records()]
    cards = {card["figure"]: card for card in glance(records)}
    assert cards["generate_images_per_s"]["runs"] == ["hit-gpu000004"]
    assert "best of 5" in cards["generate_images_per_s"]["sentence"].lower()
    smoke = [reported(make_record(f"smoke-{index}", preset="smoke")) for index in range(3)]
    assert all(not card["runs"] for card in glance(smoke))
    assert "smoke" in glance(smoke)[0]["sentence"]
    text = " ".join(caveats(smoke, {}, ["one"]))
    assert "No energy meter" in text
    assert "All 3 runs are smoke runs" in text


def test_an_audit_badge_names_the_gravest_findings():
    finding = made_up_records()[-2].validity[0]
    assert badge_of(()) == "sound"
    assert badge_of(None) == "not audited"
    assert badge_of([finding, finding]) == "2 errors"


def test_a_plot_is_the_smaller_file_and_the_largest_is_left_out_where_they_do_not_fit():
    small = PagePicture(name="a", title="a", caption="", png=PNG, svg=SVG)
    large = PagePicture(name="b", title="b", caption="A caption.", png=PNG + bytes(9000), svg=None)
    first, second = shown_pictures([small, large], 5000)
    assert first.uri.startswith("data:image/png;base64,")
    assert (first.width, first.height) == (2, 1)
    assert second.uri == ""
    assert second.caption == "A caption. Too large for this page: b.png lies beside it."


def test_samples_are_cut_alike_and_one_run_speaks_for_a_model(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (270, 270, 3), dtype=np.uint8)
    runs = []
    for index, (model, preset) in enumerate((("ladagan", "standard"), ("ladagan", "smoke"), ("sagan", "standard"))):
        phases = make_phases()
        artifacts = {"samples_0000200000": "samples/0000200000.png"}
        phases["train"] = phases["train"].model_copy(update={"artifacts": artifacts})
        record = make_record(f"run-{index}", model=model, preset=preset, phases=phases)
        (tmp_path / record.run_id / "samples").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / record.run_id / "samples/0000200000.png")
        runs.append(StoredRun(record, tmp_path / record.run_id))
    shown, num_left_out = shown_samples(runs, 200_000)
    assert [(each.title, each.width) for each in shown] == [("ladagan", 134), ("sagan", 134)]
    assert num_left_out == 1
    assert shown[0].run.record.run_id == "run-0"
    assert shown[0].caption == "rfd_v1 0.061(2) · after 200 kimg"
    assert sum(len(each.uri) for each in shown) <= 200_000


def test_a_duplicate_figure_of_bytes_has_no_doubled_unit():
    text = plain_page([make_record(phases=make_phases() | {"quality": make_phases()["quality"]})])
    assert "1.40 GiB" in text
    assert format_quantity(figure(1.5e9, unit="B")) == "1.40 GiB"
