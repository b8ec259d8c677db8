"""The demo learns. Trains for two minutes: `make test-slow`."""

import json

import pytest

from bench.cli import main


@pytest.mark.slow
def test_the_demo_learns_and_leaves_a_whole_row(tmp_path):
    assert main(["run", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/record.json")
    record = json.loads(path.read_text())
    found = {name: value["value"] for phase in record["phases"].values() for name, value in phase["quantities"].items()}
    assert record["status"] == "ok"
    assert found["rfd_v1"] <= found["rfd_v1_untrained"] / 10
    assert found["modes_covered"] > 0
    assert found["modes_covered_untrained"] == 0
