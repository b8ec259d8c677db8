"""`bench compare`: a word only where it may be said, what differs, and a sentence that claims no more."""

import json

import pytest
import typer
from test_compare import protocol
from test_report import HOSTILE, figure, make_machine, make_phases, make_record
from typer.testing import CliRunner

from bench import cli_decide
from bench.errors import RecordError, UsageError
from bench.records import Finding
from bench.report.versus import compare_runs, fields_apart, run_at
from bench.report.versus_text import comparison_document, comparison_text, notes, sentence
from bench.store import RunFolder


def record(run_id="a", *, scale=1.0, extra=None, **facts):
    """A finished run with a protocol of its quality; `extra` is phase → figures beside the usual ones."""
    phases = make_phases(scale)
    phases["quality"] = phases["quality"].model_copy(update={"protocol": facts.pop("protocol", protocol())})
    for phase, found in (extra or {}).items():
        result = phases[phase]
        phases[phase] = result.model_copy(update={"quantities": result.quantities | found})
    return make_record(run_id, phases=phases, **facts)


def words(record_a, record_b):
    return {each.name: each.word for each in compare_runs(record_a, record_b).figures}


def energy(value, label="measured:nvml-energy-counter", **facts):
    return {"generate": {"generate_energy_j_per_image": figure(value, value / 50, "J/image", label=label, **facts)}}


def test_each_figure_is_told_in_its_own_word_and_direction():
    found = words(record(), record("b", scale=2.0, model="sagan"))
    assert found["generate_images_per_s"] == "faster"
    assert found["generate_latency_ms_p50"] == "faster"
    assert found["rfd_v1"] == "better"
    assert found["num_params_generator"] == "the same"
    assert found["peak_memory_bytes"] == "cannot be told"
    assert found["pair_consistency"] == "the same within 5 %"
    back = words(record("b", scale=2.0), record())
    assert (back["generate_images_per_s"], back["generate_latency_ms_p50"], back["rfd_v1"]) == (
        "slower",
        "slower",
        "worse",
    )


def test_the_sentence_says_what_differs_and_why_the_rest_is_not_said():
    said = sentence(compare_runs(record(), record("b", scale=2.0, model="sagan", batch_size=64)))
    assert said.startswith("Compared with ladagan, sagan takes 0.500 (0.486 to 0.514) times as long for one image on")
    assert "its rfd_v1 is 0.50 (0.46 to 0.54) times as large, which is better" in said
    assert "generation speed, training speed and memory of training cannot be compared because batch_size differs" in (
        said
    )
    assert "images per second" not in said


@pytest.mark.parametrize(
    ("other", "figure_name", "field"),
    [
        (record("b", scale=2.0, machine=make_machine(cpu="Another")), "generate_images_per_s", "machine.cpu"),
        (record("b", scale=2.0, precision="bf16"), "generate_latency_ms_p50", "precision"),
        (record("b", scale=2.0, protocol=protocol(rfd__num_images=500)), "rfd_v1", "num_images"),
        (record("b", scale=2.0, train_for="5min"), "train_duration_s", "train_for"),
    ],
)
def test_what_is_decided_by_something_else_is_not_comparable_and_the_field_is_named(other, figure_name, field):
    comparison = compare_runs(record(), other)
    found = next(each for each in comparison.figures if each.name == figure_name)
    assert found.word == "not comparable"
    assert field in found.why
    assert found.ratio.value is not None, "the numbers are shown all the same"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"preset": "smoke"}, "B is smoke, not publishable"),
        ({"validity": (Finding(rule="gap", level="error", detail="too wide"),)}, "B is not publishable: gap"),
        ({"extra": energy(1.0, "simulated:fake-nvml", kind="simulated")}, "B is not publishable: simulated"),
    ],
)
def test_a_run_that_may_not_be_ranked_is_shown_and_never_faster(facts, reason):
    comparison = compare_runs(record(), record("b", scale=3.0, model="sagan", **facts))
    timed = [each for each in comparison.figures if each.name not in ("num_params_generator", "macs_generator")]
    assert all(not each.is_told or each.word == "the same" for each in timed)
    assert reason in comparison_text(comparison, show_all=False)
    assert "No difference between ladagan and sagan can be claimed" in sentence(comparison)
    assert "not ranked because" in sentence(comparison)


def test_an_estimate_is_never_better():
    assert words(record(), record("b", scale=2.0))["mode_kl"] == "not ranked"


def test_the_sensor_s_own_error_cancels_on_one_board_and_only_there():
    one = [record(name, extra=energy(value, systematic=0.05)) for name, value in (("a", 1.0), ("b", 1.08))]
    comparison = compare_runs(*one)
    found = next(each for each in comparison.figures if each.name == "generate_energy_j_per_image")
    assert (found.word, found.is_sensor_shared) == ("costlier", True)
    assert "cancels" in " ".join(notes(comparison))
    moved = one[1].model_copy(update={"machine": make_machine(hostname="elsewhere")})
    other = next(each for each in compare_runs(one[0], moved).figures if each.name == found.name)
    assert (other.word, other.is_sensor_shared) == ("not comparable", False)
    assert other.ratio.low < found.ratio.low
    read_otherwise = record("c", extra=energy(1.0, "measured:nvml-power-polling"))
    assert "label of the energy" in fields_apart(one[0], read_otherwise, "generate_energy_j_per_image")


def test_what_differs_is_listed_by_kind_with_both_values():
    machine = make_machine(torch="2.99", packages={"numpy": "9"}, git_commit="ffff", git_dirty=True)
    other = record(
        "b", machine=machine, batch_size=64, recipe={"generator": {"lr": 0.1}}, protocol=protocol(rfd__resize="x")
    )
    apart = compare_runs(record(), other).apart
    found = {(kind, each.field): (each.of_a, each.of_b) for kind, fields in apart.items() for each in fields}
    assert found["code", "git_commit"] == ("0123abcd", "ffff")
    assert found["code", "git_dirty"] == (False, True)
    assert found["versions", "packages.numpy"] == ("2.4.0", "9")
    assert found["question", "batch_size"] == (32, 64)
    assert found["recipe", "generator.lr"] == (None, 0.1)
    assert found["protocol", "Random-feature distance.resize"] == ("none", "x")
    assert "machine" not in apart


def test_a_figure_that_only_one_run_knows_is_named_with_the_reason():
    phases = make_phases()
    del phases["train_step"]
    comparison = compare_runs(record(), make_record("b", phases=phases))
    assert comparison.absent["train_images_per_s"] == "B: the phase train_step has not run"
    assert "in B: the phase train_step has not run" in comparison_text(comparison, show_all=False)


def test_two_runs_without_a_figure_in_common_say_so():
    comparison = compare_runs(make_record("a", phases={}), record("b"))
    assert comparison.figures == ()
    assert "know no figure in common" in comparison_text(comparison, show_all=True)


def test_what_is_known_against_a_series_is_said():
    seen = {"generate.batch": {"stationarity": {"finding": "generate.batch is not stationary"}, "disturbances": "odd"}}
    found = record()
    generate = found.phases["generate"].model_copy(update={"protocol": {"series": seen}})
    drifting = found.model_copy(update={"phases": found.phases | {"generate": generate}})
    assert "A: generate: generate.batch is not stationary" in notes(compare_runs(drifting, record("b")))


def test_hostile_strings_stay_text():
    hostile = record(
        "b", model=HOSTILE, machine=make_machine(cpu=HOSTILE), recipe={HOSTILE: HOSTILE}, dataset=f"folder:{HOSTILE}"
    )
    comparison = compare_runs(record(), hostile)
    for show_all in (True, False):
        text = comparison_text(comparison, show_all=show_all)
        assert all(line.isprintable() for line in text.split("\n"))
    assert json.dumps(comparison_document(comparison)).isprintable()


def test_the_command_takes_ids_and_paths_and_prints_the_same_twice(tmp_path):
    here, there = tmp_path / "x", tmp_path / "y"
    RunFolder(here, "ladagan-1").write(record("ladagan-1"))
    RunFolder(there, "sagan-2").write(record("sagan-2", scale=2.0, model="sagan"))
    assert run_at(here, "ladagan-1") == run_at(there, str(here / "ladagan-1"))
    assert run_at(here, str(there / "sagan-2" / "record.json")).run_id == "sagan-2"
    app = typer.Typer()
    app.command()(cli_decide.compare)
    asked = ["ladagan-1", str(there / "sagan-2"), "--results", str(here)]
    first, second = (CliRunner().invoke(app, asked) for _ in range(2))
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    assert "Compared with ladagan, sagan generates" in first.stdout
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert document["b"]["run_id"] == "sagan-2"
    assert {each["name"] for each in document["figures"]} >= {"rfd_v1", "train_duration_s"}


def test_an_unknown_run_and_the_same_run_twice_are_sentences(tmp_path):
    RunFolder(tmp_path, "ladagan-1").write(record("ladagan-1"))
    with pytest.raises(RecordError, match="There is no run 'other'"):
        run_at(tmp_path, "other")
    with pytest.raises(RecordError, match="name a run's folder"):
        run_at(tmp_path, str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="the same run"):
        cli_decide.compare("ladagan-1", "ladagan-1", results=tmp_path)


def test_one_figure_in_two_units_has_no_ratio_and_says_so():
    other = record("b", extra={"generate": {"generate_latency_ms_p50": figure(0.03, 0.001, "s")}})
    comparison = compare_runs(record(), other)
    assert "generate_latency_ms_p50" not in {each.name for each in comparison.figures}
    assert comparison.absent["generate_latency_ms_p50"] == "A in ms and in B in s: no ratio"
