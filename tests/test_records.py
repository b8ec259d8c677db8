import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from bench.records import PHASES, PhaseResult, Quantity, Record, RunSpec, status_of, unknown

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "tests" / "records"


def result(phase, status="ok", reason=""):
    return PhaseResult(
        phase=phase, status=status, reason=reason, started_at="2026-01-01T00:00:00+00:00", duration_s=1.0
    )


def test_unknown_is_null_with_a_reason():
    quantity = unknown("J", "no meter", source="nvml")
    assert quantity.value is None
    assert quantity.note == "no meter"
    with pytest.raises(ValidationError, match="says why"):
        Quantity(value=None, unit="J", kind="measured", source="nvml")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_is_finite(value):
    with pytest.raises(ValidationError, match="finite"):
        Quantity(value=value, unit="s", kind="measured", source="clock")


def test_an_interval_has_two_ends_and_holds_the_value():
    with pytest.raises(ValidationError, match="come together"):
        Quantity(value=1.0, unit="s", low=0.5, kind="measured", source="clock")
    with pytest.raises(ValidationError, match="does not hold"):
        Quantity(value=1.0, unit="s", low=1.5, high=2.0, kind="measured", source="clock")


def test_an_estimate_cannot_pass_under_a_name_that_is_not_in_the_closed_list():
    with pytest.raises(ValidationError):
        Quantity(value=1.0, unit="J", kind="guessed", source="tdp")


def test_records_are_frozen_and_allow_no_unknown_field_and_no_coercion():
    spec = RunSpec(model="ladagan", dataset="scenes")
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 3
    with pytest.raises(ValidationError):
        RunSpec(model="ladagan", dataset="scenes", sede=3)
    with pytest.raises(ValidationError):
        RunSpec(model="ladagan", dataset="scenes", seed="3")


def test_a_phase_that_is_not_ok_says_why():
    with pytest.raises(ValidationError, match="says why"):
        result("train", status="failed")


def test_the_status_is_the_gravest_of_the_phases_and_incomplete_while_one_is_missing():
    done = {phase: result(phase) for phase in PHASES}
    assert status_of(done) == "ok"
    assert status_of({"cost": result("cost")}) == "incomplete"
    assert status_of(done | {"train": result("train", "skipped", "no data")}) == "ok"
    assert status_of(done | {"generate": result("generate", "inconclusive", "wide")}) == "inconclusive"
    oom = done | {"generate": result("generate", "oom", "out of memory"), "train": result("train", "failed", "bug")}
    assert status_of(oom) == "failed"


@pytest.mark.parametrize("path", sorted(RECORDS.glob("schema_*.json")), ids=lambda path: path.stem)
def test_one_old_record_of_each_schema_version_still_loads(path):
    record = Record.model_validate_json(path.read_bytes())
    assert record.quantity("num_params_generator").value > 0
    assert json.loads(record.model_dump_json(exclude_unset=True)) == json.loads(path.read_text())


def test_there_is_an_old_record_for_every_schema_version():
    versions = set(Record.model_fields["schema_version"].annotation.__args__)
    assert {f"schema_{version}.json" for version in versions} <= {path.name for path in RECORDS.iterdir()}


def test_the_exported_schema_is_the_one_the_code_has():
    exported = json.loads((ROOT / "results" / "record.schema.json").read_text())
    assert exported == Record.model_json_schema(), "run: python -m bench.records > results/record.schema.json"


COMMITTED = sorted([*RECORDS.glob("schema_*.json"), *(ROOT / "results").glob("*/record.json")])


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name + "/" + path.stem)
def test_the_exported_schema_validates_every_committed_record(path):
    schema = json.loads((ROOT / "results" / "record.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    record = json.loads(path.read_text())
    assert [error.message for error in validator.iter_errors(record)] == []
    broken = record | {"status": "wonderful", "spec": record["spec"] | {"seed": -1}}
    assert len(list(validator.iter_errors(broken))) == 2
