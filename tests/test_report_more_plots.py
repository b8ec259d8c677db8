"""The pictures of a step's parts, roofline, memory, CO2 and operators: honest, inert, reproducible."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from test_carbon import energy, energy_record
from test_report import HOSTILE, figure, make_machine, make_phases, make_record

from bench.compare import MACHINE_FIELDS
from bench.errors import UsageError
from bench.phases import _replay
from bench.phases._scale_record import ScalePoint, ScaleRecord, load_every, save
from bench.records import PhaseResult, Quantity, Record, Window, unknown
from bench.report import plots, plots_carbon, plots_memory, plots_operators, plots_parts, plots_roofline
from bench.report.published import reported
from bench.store import StoredRun

NO_METER = "no energy meter can be read on this machine"
COUNTER = "measured:nvml-energy-counter"
PART_MS = {
    "generator_forward": 14.0,
    "discriminator": 24.0,
    "penalty": 18.5,
    "generator": 42.0,
    "optimiser": 1.3,
    "ema": 0.4,
}
ROOFS = {"device": "cpu", "precision": "fp32", "macs_per_s": 47.5e9, "copy_bytes_per_s": 26e9}
ROOFS |= {"measured_at": "2026-01-01T00:00:00+00:00", "torch": "2.15.0+cpu"}


def attributed(value: float, half_width: float | None = None, unit: str = "ms", **facts) -> Quantity:
    return figure(value, half_width, unit, **({"kind": "attributed", "source": "isolated replay"} | facts))


def step_figures(unit: str, *, residual: float = 3.8, scale: float = 1.0, **facts) -> dict[str, Quantity]:
    """The replayed parts; their sum and the residual are 104 × scale."""
    ends = {"unit": "ms" if unit == "ms" else "J", **facts}
    factor = scale * (104.0 - residual) / sum(PART_MS.values())
    found = {
        f"step_{part}_{unit}": attributed(value * factor, value * factor / 20, **ends)
        for part, value in PART_MS.items()
    }
    found[f"step_data_{unit}"] = attributed(9.0 * scale, 0.5 * scale, **ends)
    found[f"step_residual_{unit}"] = attributed(residual * scale, 12.0 * scale, **ends)
    return found


def with_figures(record: Record, phase: str, figures: dict[str, Quantity], **protocol) -> Record:
    result = record.phases[phase]
    changed = {"quantities": result.quantities | figures, "protocol": result.protocol | protocol}
    return record.model_copy(update={"phases": record.phases | {phase: result.model_copy(update=changed)}})


def whole_record(run_id: str = "ladagan-1234abcd", *, residual: float = 3.8, scale: float = 1.0, **facts) -> Record:
    """A run with parts in milliseconds and joules, counts, roofs, memory and measured energies."""
    record = energy_record(run_id, scale=1 / scale, **facts)
    joules = step_figures("energy_j", residual=residual, scale=scale, label="attributed:replay")
    parts = step_figures("ms", residual=residual, scale=scale)
    speed = figure(32 / 0.104 / scale, 3.0 / scale, "image/s")
    record = with_figures(record, "train_step", parts | joules | {"train_images_per_s": speed}, roofs=ROOFS)
    counts = {"macs_step_per_image": 5.8e7, "bytes_step_per_image": 4.2e7, "macs_generator": 6.3e6}
    counts["bytes_generator_per_image"] = 3.8e6
    exact = {name: figure(value, 0.0, unit="B") for name, value in counts.items()}
    record = with_figures(record, "cost", exact)
    memory = {"generate_peak_memory_bytes": figure(1.1e9, unit="B")}
    return with_figures(record, "generate", memory, roofs=ROOFS)


def without_joules(record: Record) -> Record:
    kept = {name: each for name, each in record.phases["train_step"].quantities.items() if "energy" not in name}
    missing = unknown("J/image", NO_METER, source="energy meters", label="unavailable")
    kept["train_step_energy_j_per_image"] = missing
    result = record.phases["train_step"].model_copy(update={"quantities": kept})
    return record.model_copy(update={"phases": record.phases | {"train_step": result}})


def sized(batch_size: int, *, gib: float = 0.0, **facts) -> Record:
    record = make_record(f"{facts.get('model', 'm')}-{batch_size:08d}", batch_size=batch_size, **facts)
    peak = figure((gib or 0.9 + 0.01 * batch_size) * 2**30, unit="B")
    record = with_figures(record, "generate", {"generate_peak_memory_bytes": peak})
    return with_figures(record, "train_step", {"peak_memory_bytes": peak})


def out_of_memory(batch_size: int, **facts) -> Record:
    result = PhaseResult(
        phase="train_step",
        status="oom",
        reason=f"out of memory at batch {batch_size}",
        started_at="2026-01-02T03:04:05+00:00",
        duration_s=1.0,
    )
    phases = make_phases() | {"train_step": result}
    return make_record(f"oom-{batch_size:08d}", batch_size=batch_size, phases=phases, **facts)


def scale_record(created_at: str = "2026-01-01T00:00:00+00:00", *, label: str = "unavailable", **facts) -> ScaleRecord:
    def joules(num_tokens: int) -> Quantity:
        if label == "unavailable":
            return unknown("J/image", NO_METER, source="meters", label="unavailable")
        return energy(1e-3 * num_tokens, 1e-5 * num_tokens, label=label)

    points = tuple(
        ScalePoint(
            study="layer",
            operator=operator,
            num_tokens=num_tokens,
            resolution=None,
            num_params=100,
            macs=num_tokens**power,
            num_bytes=8 * num_tokens**power,
            num_bytes_as_run=4 * num_tokens**power,
            peak_memory_bytes=1000 * num_tokens,
            energy_j_per_image=joules(num_tokens),
            windows=tuple(
                Window(
                    series="layer",
                    index=index,
                    is_warmup=False,
                    num_units=1,
                    duration_s=1e-6 * num_tokens**power * (1 + index / 100),
                    readings={},
                )
                for index in range(7)
            ),
        )
        for operator, power in (("additive", 1), ("softmax", 2))
        for num_tokens in (64, 256, 1024, 4096)
    )
    document = {
        "harness_version": "0.3.0",
        "created_at": created_at,
        "machine": make_machine(),
        "fingerprint": "feed" * 16,
        "device": "cpu",
        "width": 64,
        "num_heads": 4,
        "batch_size": 1,
        "budget_s": 60.0,
        "operators": ("additive", "softmax"),
        "protocol": {},
        "points": points,
        "ends": (),
    }
    return ScaleRecord(**(document | facts))


def stored(*records: Record) -> list[StoredRun]:
    """As the report hands runs on: through `reported`."""
    return [StoredRun(reported(record), Path(f"/nowhere/{index}")) for index, record in enumerate(records)]


def drawn(drawing: plots.Drawing) -> plots.Figure:
    assert drawing.figure is not None, drawing.caption
    return drawing.figure


def texts(figure_drawn: plots.Figure) -> str:
    return "\n".join(text.get_text() for text in figure_drawn.findobj(mpl.text.Text))


@pytest.fixture(autouse=True)
def house_style():
    with plots.house_style():
        yield


# --- all of them


DRAWN = {
    "parts": plots_parts.step_parts,
    "roofline": plots_roofline.roofline,
    "memory": plots_memory.memory_against_batch,
    "carbon": plots_carbon.carbon_grids,
}


@pytest.mark.parametrize("name", DRAWN)
def test_without_data_each_says_which_command_would_give_it(name):
    bare = make_record(phases={}, curve=())
    for runs in ([], stored(bare)):
        drawing = DRAWN[name](runs)
        assert drawing.figure is None
        assert "`bench " in drawing.caption or "`bench run`" in drawing.caption
        assert "\n" not in drawing.caption


@pytest.mark.parametrize("name", DRAWN)
def test_the_same_records_give_the_same_bytes(name):
    runs = stored(*(whole_record(f"a-{size:08d}", batch_size=size) for size in (16, 32)))
    first, second = (plots.encoded(drawn(DRAWN[name](each))) for each in (runs, list(runs)))
    assert first == second
    assert set(first) == {"png", "svg"}


@pytest.mark.parametrize("name", DRAWN)
def test_hostile_strings_and_protocols_stay_text(name):
    hostile = {"energy": {"publishable": False, "why_not_publishable": HOSTILE}}
    records = [
        whole_record(HOSTILE + str(size), model="_" + HOSTILE, batch_size=size, machine=make_machine(cpu=HOSTILE))
        for size in (16, 32)
    ]
    records = [with_figures(record, "generate", {}, **hostile) for record in records]
    strange = [with_figures(records[0], "generate", {}, roofs=each) for each in (HOSTILE, [], {"macs_per_s": True})]
    drawing = DRAWN[name](stored(*records, *strange))
    pictures = plots.encoded(drawn(drawing))
    assert b"<script" not in pictures["svg"]
    assert "\x1b" not in drawing.caption
    assert "\u202e" not in drawing.caption


def test_reports_draw_them_without_torch():
    modules = "plots_parts, plots_roofline, plots_memory, plots_carbon, plots_operators"
    code = f"import sys; from bench.report import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_of_many_only_the_first_are_named_and_the_rest_counted():
    found = plots.named_by_reason([(f"run {i}", "no\nmeter") for i in range(9)] + [("last", "x" * 500)])
    assert found.startswith("run 0, run 1, run 2, run 3, run 4, run 5 and 3 more (no\\nmeter); last (xxx")
    assert len(found) < 300


# --- where a step's time and joules go


def test_the_parts_are_those_that_are_replayed():
    assert (*plots_parts.PARTS, plots_parts.DATA) == _replay.PARTS


@pytest.mark.parametrize("residual", [12.0, -12.0])
def test_parts_and_residual_make_the_whole_and_a_negative_residual_lies_left_of_zero(residual):
    split = plots_parts.split_of(whole_record(residual=residual), "ms")
    assert isinstance(split, plots_parts.Split)
    assert sum(split.parts.values()) + split.residual[0] == pytest.approx(1.0)
    assert split.residual[0] == pytest.approx(residual / 104)
    assert split.whole == "104.0(10) ms"
    axis = drawn(plots_parts.step_parts(stored(whole_record(residual=residual)))).axes[0]
    bars = [patch for patch in axis.patches if patch.get_height() > 0.3]
    assert len(bars) == 7
    ends = sorted((bars[-1].get_x(), bars[-1].get_x() + bars[-1].get_width()))
    expected = (100 - 100 * residual / 104, 100.0) if residual > 0 else (100 * residual / 104, 0.0)
    assert ends == pytest.approx(expected)
    assert axis.get_xlim()[0] < min(0.0, ends[0])


def test_joules_say_whether_they_were_read_estimated_or_are_not_there():
    both = plots_parts.step_parts(stored(whole_record("a-11111111", model="with"), without_joules(whole_record())))
    assert f"Joules not known: ladagan ({NO_METER})." in both.caption
    assert "not known" in texts(drawn(both))
    assert "Attributed, not measured" in both.caption
    alone = plots_parts.step_parts(stored(without_joules(whole_record())))
    assert "no run here has an energy meter" in texts(drawn(alone))
    estimated = energy(3.3, label="estimated:tdp")
    record = with_figures(whole_record(), "train_step", {"train_step_energy_j_per_image": estimated})
    drawing = plots_parts.step_parts(stored(record))
    assert "≈100 J [estimated]" in texts(drawn(drawing))
    assert "Joules estimated, not read from a meter: ladagan" in drawing.caption


def test_simulated_joules_are_not_drawn():
    label = "simulated:fake-nvml"
    figures = step_figures("energy_j", label=label, kind="simulated")
    figures["train_step_energy_j_per_image"] = energy(3.3, label=label)
    drawing = plots_parts.step_parts(stored(with_figures(whole_record(), "train_step", figures)))
    assert "simulated, not published" in drawing.caption
    assert "no run here has an energy meter" in texts(drawn(drawing))


def test_a_part_that_is_missing_leaves_the_run_out_instead_of_a_gap():
    record = whole_record()
    gap = {"step_penalty_ms": unknown("ms", "gone", source="test", kind="attributed")}
    assert isinstance(plots_parts.split_of(with_figures(record, "train_step", gap), "ms"), str)
    assert plots_parts.step_parts(stored(with_figures(record, "train_step", gap))).figure is None


# --- roofline


def test_a_point_is_the_work_per_image_times_the_throughput_with_its_interval():
    point = plots_roofline.point_of(whole_record(), "train_step")
    assert isinstance(point, plots_roofline.Point)
    rate = 32 / 0.104
    assert point.intensity == pytest.approx(5.8 / 4.2)
    assert point.macs_per_s == pytest.approx((5.8e7 * rate, 5.8e7 * (rate - 3), 5.8e7 * (rate + 3)))
    assert point.roof.macs_per_s == 47.5e9


def test_each_machine_precision_and_thread_count_has_a_panel_of_its_own():
    records = [
        whole_record("a-11111111"),
        whole_record("b-22222222", seed=1),
        whole_record("c-33333333", precision="bf16"),
        whole_record("d-44444444", machine=make_machine(num_torch_threads=1)),
        whole_record("e-55555555", machine=make_machine(cpu="Other CPU")),
    ]
    figure_drawn = drawn(plots_roofline.roofline(stored(*records)))
    titles = [axis.get_title(loc="left") for axis in figure_drawn.axes]
    assert titles == [
        "Two-core CPU · cpu · fp32 · 2 threads",
        "Two-core CPU · cpu · bf16 · 2 threads",
        "Two-core CPU · cpu · fp32 · 1 thread",
        "Other CPU · cpu · fp32 · 2 threads",
    ]
    assert "num_torch_threads" in MACHINE_FIELDS
    assert "matrix product 47.50\xa0GMAC/s, copy\xa026\xa0GB/s" in texts(figure_drawn).replace("\n", " ")


def test_a_run_without_calibration_is_named_with_the_remedy():
    record = make_record("plain-11111111", model="plain", phases=whole_record().phases)
    for phase in ("generate", "train_step"):
        record = with_figures(record, phase, {}, roofs=None)
    drawing = plots_roofline.roofline(stored(whole_record(), record))
    assert "Points not drawn: plain (not calibrated when it was measured: run `bench doctor --calib" in drawing.caption
    assert "plain" not in texts(drawn(drawing))
    assert "plain (not calibrated" in plots_roofline.roofline(stored(record)).caption


def test_rates_that_are_no_numbers_are_no_roof():
    for rates in (
        {"macs_per_s": None},
        {"macs_per_s": "1e9"},
        {"macs_per_s": 0.0},
        {"macs_per_s": True},
        {"macs_per_s": 10**400},
        {},
    ):
        facts = {"copy_bytes_per_s": 1e9, "precision": "bf16", **rates}
        assert "no rate for bf16" in str(plots_roofline.roof_of(facts))


def test_figures_that_no_machine_has_are_left_out_and_said():
    record = with_figures(whole_record(), "generate", {"generate_images_per_s": figure(1e300)})
    assert "no figures of a machine" in str(plots_roofline.point_of(record, "generate"))
    endless = {"step_residual_ms": attributed(1.0, 1e300)}
    record = with_figures(whole_record(), "train_step", endless)
    assert plots_parts.split_of(record, "ms") == "its parts and their residual do not make a step"


def test_an_older_calibration_of_the_same_machine_is_drawn_dashed():
    older = ROOFS | {"macs_per_s": 40e9, "measured_at": "2025-01-01T00:00:00+00:00"}
    records = [whole_record("a-11111111"), with_figures(whole_record("b-22222222"), "generate", {}, roofs=older)]
    figure_drawn = drawn(plots_roofline.roofline(stored(*records)))
    styles = [line.get_linestyle() for line in figure_drawn.axes[0].lines if line.get_color() == plots.GREY]
    assert styles == ["-", "--"]
    assert "(older, 2025-01-01)" in texts(figure_drawn).replace("\n", " ")


# --- memory against batch


def test_one_batch_size_is_no_line():
    runs = stored(sized(16), sized(16, seed=1), sized(32, precision="bf16"), sized(32, model="other"))
    drawing = plots_memory.memory_against_batch(runs)
    assert drawing.figure is None
    assert "--batch-size" in drawing.caption


def test_a_line_joins_the_highest_of_each_batch_size_and_a_batch_that_did_not_fit_hangs_from_the_top():
    records = [sized(size) for size in (64, 16, 32)] + [sized(32, seed=1, gib=1.9), out_of_memory(128)]
    drawing = plots_memory.memory_against_batch(stored(*records, sized(16, model="alone")))
    axis = drawn(drawing).axes[1]
    hung = [each for each in axis.lines if each.get_markerfacecolor() == "white"]
    assert [float(each.get_xdata()[0]) for each in hung] == [128.0]
    line = next(each for each in axis.lines if len(each.get_xdata()) == 3)
    assert line.get_xdata().tolist() == [16, 32, 64]
    assert line.get_ydata().tolist() == pytest.approx([1.06, 1.9, 1.54])
    assert "out of memory" in texts(drawn(drawing))
    assert "resident set of the whole process" in texts(drawn(drawing))
    assert "Not drawn: 1 configuration with one batch size." in drawing.caption


def test_machines_have_rows_of_their_own_and_gpu_memory_is_called_what_it_is():
    gpu = make_machine(gpus=("NVIDIA H200",), gpu_memory_bytes=(2**37,))
    cuda = [sized(size, device="cuda:0", machine=gpu) for size in (16, 32)]
    compiled = [sized(size, compile=True) for size in (16, 32)]
    drawing = plots_memory.memory_against_batch(stored(sized(16), sized(32), *compiled, *cuda))
    figure_drawn = drawn(drawing)
    assert len(figure_drawn.axes) == 4
    assert "NVIDIA H200 (cuda:0): held by tensors" in texts(figure_drawn)
    assert "compiled" in texts(figure_drawn)


# --- CO2


def test_co2_is_drawn_under_five_grids_from_measured_joules_alone():
    records = [
        energy_record("a-11111111", model="read"),
        energy_record("b-22222222", model="guessed", label="estimated:tdp"),
        energy_record("c-33333333", model="made-up", label="simulated:fake-nvml"),
    ]
    drawing = plots_carbon.carbon_grids(stored(*records), pue=1.5)
    axis = drawn(drawing).axes[0]
    values = sorted(
        float(line.get_xdata()[0])
        for line in axis.lines
        if len(line.get_xdata()) == 1 and line.get_marker() in plots.MARKERS
    )
    grams = [
        0.7264 * 1000 / 3.6e6 * 1.5 * each.g_per_kwh for each in map(plots_carbon.grid_of, plots_carbon.FIVE_GRIDS)
    ]
    assert values == pytest.approx(sorted(grams))
    shown = texts(drawn(drawing))
    assert "guessed" not in shown
    assert "made-up" not in shown
    assert "guessed (generate, per image: estimated:tdp)" in drawing.caption
    assert "PUE 1.5" in drawing.caption
    for code in plots_carbon.FIVE_GRIDS:
        assert f"{code} 20" in shown


def test_joules_that_are_not_publishable_are_hollow_and_say_why():
    drawing = plots_carbon.carbon_grids(stored(energy_record(publishable=False)))
    assert "Hollow: ladagan (SHORT)" in drawing.caption
    assert all(
        line.get_markerfacecolor() == "white"
        for line in drawn(drawing).axes[0].lines
        if line.get_marker() in plots.MARKERS
    )


def test_a_pue_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="--pue"):
        plots_carbon.carbon_grids([], pue=0.5)


# --- operators over tokens


def test_the_newest_measurement_is_drawn_older_ones_named_and_broken_ones_reported(tmp_path):
    assert "run `bench scale`" in plots_operators.operators({}).caption
    save(scale_record("2026-02-02T00:00:00+00:00"), tmp_path)
    older = save(scale_record("2026-01-01T00:00:00+00:00", width=256), tmp_path)
    broken = tmp_path / "scale" / "broken.json"
    broken.write_text("{")
    scales, problems = load_every(tmp_path)
    drawing = plots_operators.operators(scales)
    assert f"not drawn: {older.name} (cpu, 256 channels, 4 heads, 2026-01-0" in drawing.caption
    assert len(problems) == 1
    assert str(broken) in problems[0]
    assert "layer of 64 channels" in texts(drawn(drawing))
    assert f"Joules: {NO_METER}." in drawing.caption
    again = plots_operators.operators(load_every(tmp_path)[0])
    assert plots.encoded(drawn(drawing)) == plots.encoded(drawn(again))


def test_joules_of_operators_have_a_column_where_a_meter_gave_them(tmp_path):
    save(scale_record(label=COUNTER), tmp_path)
    figure_drawn = drawn(plots_operators.operators(load_every(tmp_path)[0]))
    assert len(figure_drawn.axes) == 5
    assert COUNTER in figure_drawn.axes[4].get_title()
    fake = scale_record(label="simulated:fake-nvml")
    save(fake, tmp_path)
    drawing = plots_operators.operators(load_every(tmp_path)[0])
    assert len(drawn(drawing).axes) == 4
    assert "Joules: simulated, not published." in drawing.caption
