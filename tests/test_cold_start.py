import sys

import pytest

from bench.phases import _cold_start
from bench.phases._cold_start import STAGES, measure_cold_start
from bench.phases._settle import settle
from bench.records import RunSpec


def question(small_gan, **changes):
    words = {"model": str(small_gan), "dataset": "scenes", "resolution": 32, "device": "cpu", "preset": "smoke"}
    return settle(RunSpec(**words | {"no_data": True} | changes))


def test_a_fresh_process_tells_the_seconds_of_each_stage(small_gan):
    figures = measure_cold_start(question(small_gan))
    assert list(figures) == [f"cold_start_{stage}_s" for stage in STAGES]
    assert all(figure.value > 0 and figure.n == 1 and figure.low is None for figure in figures.values())
    assert "too few" in figures["cold_start_import_s"].note
    # importing torch takes seconds, the second call of a network of some thousand weights far below one
    assert figures["cold_start_import_s"].value > 5 * figures["cold_start_second_call_s"].value


def test_a_model_of_the_zoo_is_found_by_name(small_gan):
    figures = measure_cold_start(question(small_gan, model="ladagan", size="tiny", precision="bf16"))
    assert all(figure.value is not None for figure in figures.values())


@pytest.mark.parametrize(("preset", "num_repeats"), [("smoke", 1), ("standard", 3), ("publish", 5)])
def test_repeats_follow_the_preset_and_their_median_is_told(small_gan, monkeypatch, preset, num_repeats):
    starts = iter(range(1, 10))
    monkeypatch.setattr(_cold_start, "_one_start", lambda _: dict.fromkeys(STAGES, float(next(starts))))
    figure = measure_cold_start(question(small_gan, preset=preset))["cold_start_build_s"]
    assert (figure.n, figure.value) == (num_repeats, (num_repeats + 1) / 2)


def test_one_failure_among_the_repeats_leaves_no_figure(small_gan, monkeypatch):
    found = iter([dict.fromkeys(STAGES, 1.0), "the fresh process failed"])
    monkeypatch.setattr(_cold_start, "_one_start", lambda _: next(found))
    figures = measure_cold_start(question(small_gan, preset="standard"))
    assert {figure.note for figure in figures.values()} == {"the fresh process failed"}


@pytest.mark.parametrize(
    ("addition", "reason"),
    [
        ("raise RuntimeError('no licence for this model')", "no licence for this model"),
        ("import sys; sys.exit(0)", "without its figures"),
    ],
)
def test_a_process_that_fails_gives_unknown_figures_with_the_reason(small_gan, addition, reason):
    asked = question(small_gan)
    small_gan.write_text(small_gan.read_text() + f"\n{addition}\n")
    figures = measure_cold_start(asked)
    assert {figure.value for figure in figures.values()} == {None}
    assert all(reason in figure.note for figure in figures.values())


def test_an_interpreter_that_cannot_be_started_is_a_reason_too(small_gan, monkeypatch, tmp_path):
    asked = question(small_gan)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert "did not finish" in measure_cold_start(asked)["cold_start_build_s"].note
