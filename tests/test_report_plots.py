"""The pictures and the whole report on disk: reproducible, honest about what is missing, unharmed by damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image
from test_report import HOSTILE, failed_phases, make_phases, make_record

from bench.errors import StorageError
from bench.records import Record
from bench.report import plots, plots_quality, plots_training
from bench.report.write import ReportFiles, write_report
from bench.store import StoredRun

TABLES = {"results.csv", "curve.csv", "measurements.csv"}
PICTURES = {
    f"{name}.{suffix}"
    for name in ("throughput", "quality", "cost_of_quality", "loss", "samples")
    for suffix in ("png", "svg")
}


def store(results: Path, record: Record, *, folder: str = "", samples: str = "samples/0000200000.png") -> StoredRun:
    """A run's folder with its record, a log and a sample grid; the record names `samples` as its last grid."""
    path = results / (folder or record.run_id)
    (path / "samples").mkdir(parents=True)
    if "train" in record.phases:
        artifacts = {"samples_0000000000": "samples/none.png", "samples_0000200000": samples}
        train = record.phases["train"].model_copy(update={"artifacts": artifacts})
        record = record.model_copy(update={"phases": record.phases | {"train": train}})
    (path / "record.json").write_text(record.model_dump_json(), encoding="utf-8")
    pixels = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3) % 251
    Image.fromarray(pixels.astype(np.uint8)).save(path / "samples" / "0000200000.png")
    entries = [
        {"images_shown": 32 * step, "duration_s": 0.1 * step, "discriminator": 1.3, "generator": 0.7 + step / 500}
        for step in range(1, 401)
    ]
    (path / "train.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return StoredRun(record, path)


def drawn(drawing: plots.Drawing) -> plots.Figure:
    assert drawing.figure is not None, drawing.caption
    return drawing.figure


def texts(figure_drawn: plots.Figure) -> str:
    return "\n".join(text.get_text() for text in figure_drawn.findobj(mpl.text.Text))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> tuple[Path, ReportFiles]:
    results = tmp_path_factory.mktemp("results")
    store(results, make_record("ladagan-tiny-11111111", size="tiny", preset="smoke"))
    store(results, make_record("sagan-22222222", model="sagan", phases=failed_phases(), curve=()))
    store(results, make_record(HOSTILE, model="_" + HOSTILE, dataset="$\\frac{"), folder="hostile")
    (results / "torn").mkdir()
    (results / "torn" / "record.json").write_text('{"run_id": ')
    reports = tmp_path_factory.mktemp("reports") / "new"
    return results, write_report(results, reports)


def test_a_report_is_three_csv_files_a_page_and_its_pictures_in_two_formats(report):
    results, files = report
    assert {path.name for path in files.pictures} == PICTURES
    assert {path.name for path in files.markdown.parent.iterdir()} == PICTURES | TABLES | {"report.md", "report.html"}
    assert len(files.problems) == 1
    assert str(results / "torn" / "record.json") in files.problems[0]
    assert "torn" in files.markdown.read_text(encoding="utf-8")
    for name in ("throughput", "quality", "cost_of_quality", "loss", "samples"):
        assert f"]({name}.png)" in files.markdown.read_text(encoding="utf-8")


def test_the_same_records_give_the_same_bytes_whatever_the_user_prefers(report, tmp_path):
    results, files = report
    with mpl.rc_context({"font.size": 20.0, "svg.hashsalt": "other", "axes.grid": False}):
        again = write_report(results, tmp_path)
        assert mpl.rcParams["font.size"] == 20.0
    for first in (*files.tables, files.markdown, files.page, *files.pictures):
        assert first.read_bytes() == (tmp_path / first.name).read_bytes(), first.name
    assert again.problems == files.problems


def test_without_runs_there_is_no_picture_and_an_old_one_is_removed(tmp_path):
    (tmp_path / "loss.png").write_bytes(b"of an older report")
    (tmp_path / "mine.png").write_bytes(b"not ours")
    files = write_report(tmp_path / "nothing", tmp_path)
    assert files.pictures == ()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.png", "report.md", "report.html", *TABLES}
    page = files.markdown.read_text(encoding="utf-8")
    assert "No run has a measured throughput." in page
    assert "No run has a training log" in page
    assert "](" not in page


def test_a_report_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="Cannot write"):
        write_report(tmp_path / "nothing", tmp_path / "file")


def test_throughput_uses_a_log_axis_only_where_figures_lie_far_apart(tmp_path):
    near = [
        StoredRun(make_record(f"a-{i}", model=f"m{i}", scale=scale), tmp_path) for i, scale in enumerate((1.0, 20.0))
    ]
    far = [*near, StoredRun(make_record("b", model="far", scale=40.0), tmp_path)]
    with plots.house_style():
        near_figure, far_figure = (drawn(plots.throughput(runs)) for runs in (near, far))
        failed = StoredRun(make_record("c", model="broken", phases=failed_phases()), tmp_path)
        beside = texts(drawn(plots.throughput([failed])))
    assert [axis.get_xscale() for axis in near_figure.axes] == ["linear", "linear"]
    assert [axis.get_xscale() for axis in far_figure.axes] == ["log", "log"]
    assert "log scale" in texts(far_figure)
    assert "412(3)" in beside
    assert "not known" in beside


def test_many_runs_draw_the_newest_and_say_so(tmp_path):
    runs = [
        StoredRun(make_record(f"r-{i:08d}", seed=i, created_at=f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}"), tmp_path)
        for i in range(200)
    ]
    with plots.house_style():
        speed = plots.throughput(runs)
    assert "The 40 newest of 200 runs." in speed.caption
    assert "seed 199" in texts(drawn(speed))
    assert "seed 100" not in texts(drawn(speed))


def test_broken_log_lines_are_counted_and_infinite_losses_said(tmp_path):
    run = store(tmp_path, make_record())
    log = '{"images_shown": 32, "discriminator": 1.0, "generator": 0.5}\n'
    log += '{"images_shown": 64, "discriminator": NaN, "generator": null}\n'
    log += '[1]\n{"images_shown": "x"}\n{"images_shown": -1, "discriminator": 1, "generator": 1}\n\n{"images_sh'
    (run.folder / "train.jsonl").write_text(log)
    found = plots_training.read_loss_log(run.folder / "train.jsonl")
    assert found.num_broken == 4
    assert [points[:, 0].tolist() for points in found.losses.values()] == [[32, 64], [32, 64]]
    with plots.house_style():
        drawing = plots_training.loss([run])
    assert "has 4 lines that are no log entries" in drawing.problems[0]
    assert "2 not finite" in texts(drawn(drawing))


def test_a_step_without_a_generator_update_is_an_entry_and_no_infinite_loss(tmp_path):
    run = store(tmp_path, make_record())
    log = '{"images_shown": 32, "discriminator": 1.0}\n{"images_shown": 64, "discriminator": 1.0, "generator": 0.5}\n'
    (run.folder / "train.jsonl").write_text(log)
    found = plots_training.read_loss_log(run.folder / "train.jsonl")
    assert found.num_broken == 0
    assert {name: points[:, 0].tolist() for name, points in found.losses.items()} == {
        "discriminator": [32, 64],
        "generator": [64],
    }
    with plots.house_style():
        assert "not finite" not in texts(drawn(plots_training.loss([run])))


def test_a_long_log_keeps_its_mean_its_range_and_its_end(tmp_path):
    run = store(tmp_path, make_record())
    generator = np.random.default_rng(0).normal(size=5000)
    generator[2500] = 50.0
    lines = [
        json.dumps({"images_shown": 8 * i, "discriminator": 2.0, "generator": loss}) for i, loss in enumerate(generator)
    ]
    (run.folder / "train.jsonl").write_text("\n".join(lines))
    with plots.house_style():
        axis = drawn(plots_training.loss([run])).axes[0]
    discriminator, averaged = axis.lines
    assert len(averaged.get_xdata()) <= 150
    assert set(discriminator.get_ydata()) == {2.0}
    assert np.mean(averaged.get_ydata()) == pytest.approx(generator.mean(), abs=0.02)
    assert axis.get_ylim()[1] > 50.0  # a spike stays visible in the range


def test_a_damaged_missing_or_outside_sample_grid_is_named_not_drawn(tmp_path):
    results = tmp_path / "results"
    whole = store(results, make_record("a", model="whole"))
    torn = store(results, make_record("b", model="torn"))
    content = (torn.folder / "samples" / "0000200000.png").read_bytes()
    (torn.folder / "samples" / "0000200000.png").write_bytes(content[: len(content) // 2])
    missing = store(results, make_record("c"), samples="samples/gone.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    outside = store(results, make_record("d"), samples="../../secret.png")
    absolute = store(results, make_record("e"), samples=str(tmp_path / "secret.png"))
    with plots.house_style():
        drawing = plots_training.samples([whole, torn, missing, outside, absolute])
    assert len(drawn(drawing).axes) == 1
    assert "whole\nafter 200 kimg" in texts(drawn(drawing))
    assert len(drawing.problems) == 4
    for run, reason in ((torn, "cannot be read"), (missing, "cannot be read"), (outside, "lies outside")):
        assert any(f"'{run.folder}" in problem and reason in problem for problem in drawing.problems)
    assert any("'" + str(tmp_path / "secret.png") in problem for problem in drawing.problems)
    assert str(absolute.folder) not in texts(drawn(drawing))


def test_runs_without_training_are_no_problem(tmp_path):
    phases = {name: result for name, result in make_phases().items() if name == "cost"}
    run = StoredRun(make_record(phases=phases, curve=()), tmp_path)
    for draw in (plots.throughput, plots_quality.quality_curves, plots_training.loss, plots_training.samples):
        drawing = draw([run])
        assert drawing.figure is None
        assert drawing.caption.startswith("No run has")
        assert drawing.problems == ()
