"""The README's commands are real: each is run (a `bench run` as far as its plan)."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.cli import main
from bench.errors import MissingDataError
from bench.gate.checkout import GateError
from bench.notation import format_quantity
from bench.store import load_all

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in README.splitlines() if line.startswith("    bench ")]
GATES = [command for command in COMMANDS if command.startswith("bench gate")]
TARGETS = re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE)


# The columns of the README's table of results, from the third on.
README_FIGURES = (
    "num_params_generator",
    "macs_generator",
    "generate_images_per_s",
    "generate_latency_ms_p50",
    "train_images_per_s",
    "num_images_shown",
    "rfd_v1",
    "modes_covered",
)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(4):
        pixels = np.random.default_rng(index).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_the_two_first_commands_are_make_demo_and_make_test():
    assert TARGETS[:2] == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in TARGETS)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*GATES}))
def test_a_command_of_the_readme_runs(command, capsys, tmp_path, small_gan, photos, monkeypatch):
    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "data"))
    words = [{"path/to/my_gan.py": str(small_gan)}.get(word, word) for word in shlex.split(command)[1:]]
    words = [word.replace("folder:my/photos", f"folder:{photos}") for word in words]
    if words[0] == "list":
        assert all(main(["list", kind]) == 0 for kind in words[1].split("|"))
    elif words[0] == "run":
        code = main([*words, "--dry-run", "--results", str(tmp_path / "results")])
        needs_files = "lsun-bedroom" in words and "--no-data" not in words
        assert code == (1 if needs_files else 0), capsys.readouterr().err
    elif words[0] in {"report", "best", "audit"}:
        out = ["--out", str(tmp_path / "reports")] if words[0] == "report" else []
        committed = str(tmp_path / "none" if words[0] == "report" else ROOT / "results")
        assert main([*words, "--results", committed, *out]) == 0
    elif words[0] in {"show", "sample", "compare"}:
        assert main([*words, "--results", str(tmp_path / "none")]) == 1  # there is no run of that name
        assert "There is no run" in capsys.readouterr().err
    elif words[:2] == ["data", "prepare"]:
        monkeypatch.setattr(
            "bench.datasets._download.download_dataset",
            lambda name: (_ for _ in ()).throw(MissingDataError(f"no network for {name}")),
        )
        assert main(words) == 1
    elif words[0] == "evaluate":
        words = [{"samples/images": str(photos)}.get(word, word) for word in words]
        assert main([*words, "--results", str(tmp_path)]) == 2  # photographs that are not square
    elif words[0] == "import":
        assert main(words) == 1
        assert "CHECKPOINT" in capsys.readouterr().err  # which is not there
    elif words[0] == "scale":
        short = ["--budget", "4s", "--max-tokens", "64", "--width", "8", "--attention", "additive"]
        assert main([*words, *short, "--results", str(tmp_path), "--out", str(tmp_path)]) == 0
    else:
        for slow in ("calibrate", "overhead"):  # minutes; what they do is tested where it is done
            monkeypatch.setattr(f"bench.listing.{slow}", lambda *_, name=slow: f"{name}: done")
        assert main(words) == 0


@pytest.mark.parametrize("command", GATES)
def test_a_gate_of_the_readme_is_asked(command, capsys, tmp_path, monkeypatch):
    for slow in ("gate.gate", "history.history_gate", "selftest.self_test"):  # minutes; tested where they are
        monkeypatch.setattr(f"bench.gate.{slow}", lambda *_, **__: (_ for _ in ()).throw(GateError("it was asked")))
    assert main([*shlex.split(command)[1:], "--results", str(tmp_path)]) == 4
    assert "it was asked" in capsys.readouterr().err


def test_the_table_of_the_readme_is_what_the_committed_records_say():
    runs = [run.record for run in load_all(ROOT / "results")[0] if run.record.spec.size == "tiny"]
    by_id = {record.run_id[-8:]: record for record in runs}
    lines = [line for line in README.splitlines() if re.match(r"\| [0-9a-f]{8} \|", line)]
    assert len(lines) >= 10
    for line in lines:
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        record = by_id[cells[0]]
        assert cells[1] == record.spec.model_title
        assert cells[2:] == [format_quantity(record.quantity(name)) for name in README_FIGURES]
