"""The Pareto frontier: probabilities against simulated cases with known truth, who may be on it, and the picture.

What the simulations with fixed seeds find (the limits below are about three standard errors wide):

* Members and dominated candidates 7 noises from their next competitor: above 0.999 and below 0.001, 20 times of 20.
* A tie in one of two objectives: 0.486 on average over 600 cases, theory 0.5; deciles 0.11 and 0.88, theory 0.1, 0.9.
  A tie in both: 0.759, theory 0.75.
* Calibration, 10,000 statements about five candidates with three objectives, in fifths: stated 0.050, 0.294, 0.500,
  0.706, 0.969; observed 0.064, 0.314, 0.494, 0.673, 0.963.
* Coverage of 95 % intervals of 2, 3 and 5 seeds: 94.3, 95.5 and 95.6 %. Of the middle 95 % of the draws of 2, 3, 6, 7
  and 10 seeds: 95.1, 94.7, 96.7, 98.2 and 96.9 %; of 12, 59 and 300 windows: 95.5, 95.0 and 94.2 %.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from scipy.stats import binom
from test_report import HOSTILE, failed_phases, figure, make_machine, make_phases, make_record

from bench.records import Finding, Quantity, Record, Window
from bench.report import label_places, plots, plots_frontier
from bench.report.frontier import (
    ALONE,
    ENERGY,
    LATENCY,
    FrontierRow,
    frontier_groups,
    frontier_rows,
    reasons_left_out,
)
from bench.report.membership import Evidence, Membership, memberships, seeds_quantity, undominated
from bench.report.published import reported
from bench.store import RunFolder, StoredRun

MEASURED = "measured:nvml-energy-counter"
BOTH = (0, 1)
Z = 1.959964  # the normal distribution's 97.5 % quantile, any table


def estimate(truth: float, noise: float, generator: np.random.Generator) -> Quantity:
    """What a measurement of known relative noise says of a positive figure."""
    value = truth * math.exp(noise * generator.standard_normal())
    ends = {"low": value * math.exp(-Z * noise), "high": value * math.exp(Z * noise)} if noise else {}
    return Quantity(value=value, unit="1", kind="measured", source="simulated case", **ends)


def lower(*quantities: Quantity | None) -> list[Evidence | None]:
    return [None if each is None else Evidence(quantity=each, better="lower") for each in quantities]


def shares(candidates, space=BOTH, **facts) -> list[float]:
    return [each[space].probability for each in memberships(candidates, [space], **facts)]


# Simulated cases with known truth


def test_a_certain_member_gets_one_and_a_dominated_candidate_none():
    generator = np.random.default_rng(1)
    truths = [(1.0, 3.0), (3.0, 1.0), (6.0, 6.0)]  # 7 noises and more apart
    for _ in range(20):
        found = shares([lower(*(estimate(each, 0.1, generator) for each in truth)) for truth in truths])
        assert found[0] > 0.999
        assert found[1] > 0.999
        assert found[2] < 0.001


def test_a_tie_in_one_objective_is_one_half_on_average_and_anything_in_a_single_case():
    generator = np.random.default_rng(2)
    slow, fast = figure(2.0), figure(1.0)
    found = [
        shares([lower(estimate(1.0, 0.1, generator), slow), lower(estimate(1.0, 0.1, generator), fast)])[0]
        for _ in range(600)
    ]
    assert np.mean(found) == pytest.approx(0.5, abs=0.036)  # theory: uniform on (0, 1), standard error 0.012
    assert np.quantile(found, [0.1, 0.9]) == pytest.approx([0.1, 0.9], abs=0.05)


def test_a_tie_in_both_objectives_is_three_quarters_on_average():
    generator = np.random.default_rng(3)
    found = [
        shares([lower(*(estimate(1.0, 0.1, generator) for _ in range(2))) for _ in range(2)])[0] for _ in range(600)
    ]
    assert np.mean(found) == pytest.approx(0.75, abs=0.03)  # not a member where the other wins both: 1/2 · 1/2


def test_the_stated_probability_is_the_observed_one():
    """Truths spread evenly, each objective measured with the noise its interval states: bins of what was said."""
    generator = np.random.default_rng(4)
    stated, observed = [], []
    for seed in range(2000):
        truths = np.exp(generator.uniform(-1.5, 1.5, (5, 3)))
        noises = generator.choice([0.05, 0.2, 0.4], (5, 3))
        candidates = [
            lower(*itertools.starmap(lambda t, n: estimate(t, n, generator), zip(truth, noise, strict=True)))
            for truth, noise in zip(truths, noises, strict=True)
        ]
        stated += shares(candidates, (0, 1, 2), num_draws=400, seed=seed)
        observed += undominated(truths.tolist(), ["lower"] * 3)
    bins = np.minimum((np.array(stated) * 5).astype(int), 4)
    for number in range(5):
        inside = bins == number
        said, seen = np.mean(np.array(stated)[inside]), np.mean(np.array(observed)[inside])
        assert inside.sum() > 500
        assert seen == pytest.approx(said, abs=0.045)


@pytest.mark.parametrize(("num_seeds", "lowest", "highest"), [(2, 0.93, 0.97), (3, 0.93, 0.97), (5, 0.93, 0.97)])
def test_the_interval_of_few_seeds_holds_the_truth_as_often_as_it_says(num_seeds, lowest, highest):
    generator = np.random.default_rng(5)
    samples = np.exp(0.2 * generator.standard_normal((1500, num_seeds)))
    found = [seeds_quantity([figure(value) for value in row]) for row in samples.tolist()]
    share = np.mean([each.low <= 1.0 <= each.high for each in found])
    assert lowest < share < highest


@pytest.mark.parametrize(("num_seeds", "lowest"), [(2, 0.93), (3, 0.93), (6, 0.93), (7, 0.93), (10, 0.93)])
def test_the_draws_of_several_seeds_spread_as_widely_as_their_uncertainty(num_seeds, lowest):
    generator = np.random.default_rng(6)
    held = 0
    for row in np.exp(0.2 * generator.standard_normal((1500, num_seeds))).tolist():
        evidence = Evidence(quantity=figure(1.0), better="lower", seeds=tuple(row))
        low, high = np.quantile(evidence.costs(generator, 1000), [0.025, 0.975])
        held += low <= 1.0 <= high
    assert lowest < held / 1500 < 0.99


@pytest.mark.parametrize("num_windows", [12, 59, 300])
def test_the_draws_of_windows_hold_the_true_median_as_often_as_they_say(num_windows):
    generator = np.random.default_rng(7)
    held = 0
    for row in generator.lognormal(0.0, 0.3, (600, num_windows)).tolist():
        evidence = Evidence(quantity=figure(1.0), better="lower", windows=tuple(row))
        low, high = np.quantile(evidence.costs(generator, 1000), [0.025, 0.975])
        held += low <= 1.0 <= high
    assert 0.92 < held / 600 < 0.98


def test_draws_of_windows_have_the_ranks_of_the_exact_interval():
    samples = tuple(float(each) for each in range(1, 13))
    drawn = Evidence(quantity=figure(6.5), better="lower", windows=samples).costs(np.random.default_rng(8), 40000)
    for rank in range(1, 13):  # P(median < x_(k)) = P(Binomial(12, 1/2) < k), as in bench.stats
        assert np.mean(drawn < rank) == pytest.approx(binom.cdf(rank - 1, 12, 0.5), abs=0.01)
    assert drawn.min() >= 1.0
    assert drawn.max() <= 12.0


def test_draws_have_the_quantiles_that_the_interval_states():
    for low, value, high in ((0.9, 1.0, 1.5), (-1.0, 0.5, 0.6), (1e-9, 2e-9, 8e-9)):
        quantity = Quantity(value=value, low=low, high=high, unit="1", kind="measured", source="s")
        drawn = Evidence(quantity=quantity, better="lower").costs(np.random.default_rng(11), 40000)
        width = high - low
        assert np.quantile(drawn, [0.025, 0.5, 0.975]) == pytest.approx([low, value, high], abs=0.03 * width)
        assert low <= 0 or drawn.min() > 0
        turned = Evidence(quantity=quantity, better="higher").costs(np.random.default_rng(11), 40000)
        assert np.array_equal(turned, -drawn)


def test_the_error_is_how_far_other_draws_land():
    generator = np.random.default_rng(12)
    candidates = [lower(*(estimate(1.0, 0.1, generator) for _ in range(2))) for _ in range(3)]
    found = [memberships(candidates, [BOTH], seed=seed)[0][BOTH] for seed in range(60)]
    spread = np.std([each.probability for each in found])
    assert found[0].error == pytest.approx(spread, rel=0.35)
    assert memberships([candidates[0]], [BOTH])[0][BOTH].error > 0  # never claims certainty


# Dominance


def test_the_undominated_are_those_of_the_definition():
    generator = np.random.default_rng(13)
    better = ["lower", "higher", "lower"]
    for num_objectives in (2, 3):
        points = generator.integers(0, 6, (40, num_objectives)).astype(float)  # with ties and doubles
        turned = points * [1, -1, 1][:num_objectives]
        expected = [not any((b <= a).all() and (b < a).any() for b in turned) for a in turned]
        assert undominated(points.tolist(), better[:num_objectives]) == expected
        assert 0 < sum(expected) < 40


def test_equal_points_without_intervals_are_both_members():
    assert shares([lower(figure(1.0), figure(2.0))] * 2) == [1.0, 1.0]


def test_leaving_out_the_hopeless_changes_no_probability():
    generator = np.random.default_rng(14)
    near = [lower(*(estimate(1.0, 0.1, generator) for _ in range(3))) for _ in range(4)]
    near[2][1] = None
    far = [lower(*(estimate(50.0, 0.1, generator) for _ in range(3))) for _ in range(6)]
    far[1][1] = None
    spaces = [(0, 1), (0, 2), (1, 2), (0, 1, 2)]
    alone, beside = memberships(near, spaces), memberships([*near, *far], spaces)
    assert beside[:4] == alone
    assert set(alone[2]) == {(0, 2)} == set(beside[5])
    assert all(each.probability == 0 for found in beside[4:] for each in found.values())


# Who may be on a frontier


def run(
    run_id: str,
    quality: float,
    latency_ms: float,
    energy_j: float | None = None,
    *,
    width=0.05,
    label=MEASURED,
    **facts,
) -> Record:
    """A run with the three figures and intervals of that relative half-width."""
    phases = make_phases()
    is_publishable = facts.pop("is_publishable", True)
    metric = facts.pop("metric", "rfd_v1")
    generate = dict(phases["generate"].quantities)
    generate[LATENCY] = figure(latency_ms, latency_ms * width, "ms")
    if energy_j is not None:
        kind = label.partition(":")[0]
        generate[ENERGY] = figure(energy_j, energy_j * width, "J/image", label=label, kind=kind)
    energy = {"publishable": is_publishable, "why_not_publishable": "" if is_publishable else "too few joules"}
    phases["generate"] = phases["generate"].model_copy(update={"quantities": generate, "protocol": {"energy": energy}})
    scores = {metric: figure(quality, quality * width)}
    phases["quality"] = phases["quality"].model_copy(update={"quantities": scores})
    return make_record(run_id, phases=phases, **({"model": run_id} | facts))


def stored(*records: Record, folder: Path = Path("nowhere")) -> list[StoredRun]:
    return [StoredRun(reported(record), folder / record.run_id) for record in records]


def row_of(rows: list[FrontierRow], label: str) -> FrontierRow:
    (row,) = [each for each in rows if each.label == label]
    return row


def test_rows_say_figures_probability_and_in_which_space():
    rows = frontier_rows(stored(run("good", 0.1, 3.0, 0.2), run("bad", 0.3, 9.0, 0.7), run("fast", 0.2, 1.0)))
    good, bad, fast = (row_of(rows, name) for name in ("good", "bad", "fast"))
    assert good.figures == good.space == ("rfd_v1", ENERGY, LATENCY)
    assert [each.value for each in good.values] == [0.1, 0.2, 3.0]
    assert (good.membership.probability, bad.membership.probability) == (1.0, 0.0)
    assert fast.space == ("rfd_v1", LATENCY)
    assert fast.membership.probability == 1.0
    assert fast.values[1] is None
    assert ENERGY in fast.reason
    assert {row.group for row in rows} == {"scenes 32 px · Two-core CPU · fp32"}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (run("x", 0.01, 0.1, preset="smoke"), "smoke"),
        (run("x", 0.01, 0.1, validity=(Finding(rule="alone", level="error", detail="d"),)), "alone"),
        (make_record("x", model="x", phases=failed_phases()), "rfd_v1 is not known"),
        (make_record("x", model="x", phases={}), "rfd_v1 is not known (the phase quality has not run)"),
        (run("x", 0.01, 0.1, machine=make_machine(hostname="other")), ALONE),
        (run("x", 0.01, 0.1, precision="bf16"), ALONE),
        (run("x", 0.01, 0.1, dataset="cifar10"), ALONE),
        (run("x", 0.01, 0.1, metric="fid_50k"), ALONE),
        (run("x", 0.01, 0.1, 0.1, label="simulated:fake-nvml"), "simulated"),
    ],
    ids=["smoke", "finding", "failed", "empty", "machine", "precision", "data", "metric", "simulated"],
)
def test_what_may_not_be_ranked_is_listed_with_its_reason_and_moves_nobody(record, reason):
    others = [run("good", 0.1, 3.0), run("bad", 0.3, 9.0)]
    rows = frontier_rows(stored(*others, record))
    left_out = row_of(rows, "x")
    assert left_out.membership is None
    assert reason in left_out.reason
    assert row_of(rows, "good").membership == row_of(frontier_rows(stored(*others)), "good").membership
    assert reasons_left_out([left_out]) == [f"1 run: {left_out.reason}"]


def test_another_protocol_of_quality_is_another_frontier():
    other = run("x", 0.01, 0.1)
    protocol = {"quality": {"rfd_v1": {"num_images": 5000}}}
    train = other.phases["train"]
    quality = other.phases["quality"].model_copy(update={"protocol": {"rfd_v1": {"num_images": 5000}}})
    assert train.protocol == protocol or quality.protocol
    other = other.model_copy(update={"phases": other.phases | {"quality": quality}})
    rows = frontier_rows(stored(run("good", 0.1, 3.0), run("bad", 0.3, 9.0), other))
    assert row_of(rows, "x").reason == ALONE


@pytest.mark.parametrize(
    ("facts", "reason"), [({"label": "estimated:tdp"}, "estimated"), ({"is_publishable": False}, "too few joules")]
)
def test_joules_that_may_not_be_ranked_take_no_part(facts, reason):
    rows = frontier_rows(stored(run("good", 0.1, 3.0, 0.2), run("odd", 0.3, 9.0, 0.001, **facts)))
    odd = row_of(rows, "odd")
    assert odd.space == ("rfd_v1", LATENCY)
    assert odd.membership.probability == 0.0
    assert reason in odd.reason
    assert odd.values[1] is None


def test_joules_of_two_batch_sizes_are_two_frontiers():
    records = [run(f"m{batch}-{i}", 0.1, 3.0 + i, 0.2, batch_size=batch) for batch in (16, 32) for i in range(2)]
    groups, left_out = frontier_groups(stored(*records, run("none", 0.1, 2.0)))
    assert [len(group.candidates) for group in groups] == [2, 2]
    assert len({group.title for group in groups}) == 2
    assert [row.reason.partition(" ")[0] for row in left_out] == [ALONE.partition(" ")[0]]


def test_seeds_are_one_candidate_with_the_interval_of_their_spread():
    values = (0.1, 0.2, 0.4)
    records = [run(f"r{index}", value, 3.0, model="m", seed=index) for index, value in enumerate(values)]
    rows = frontier_rows(stored(*records, run("other", 0.3, 5.0)))
    row = row_of(rows, "m, n=3 seeds")
    assert row.run_ids == ("r0", "r1", "r2")
    quality = row.values[0]
    factor = math.exp(4.302653 * math.log(2) / math.sqrt(3))  # t(0.975, 2) of any table
    assert (quality.low, quality.value, quality.high) == pytest.approx((0.2 / factor, 0.2, 0.2 * factor), rel=1e-6)
    assert (quality.n, quality.kind) == (3, "measured")
    assert row.membership.probability == pytest.approx(1.0, abs=0.001)


def with_windows(record: Record, folder: Path, values_ms: list[float]) -> StoredRun:
    windows = [
        Window(series=series, index=i, is_warmup=is_warmup, num_units=1, duration_s=each / 1000, readings={})
        for series, is_warmup, values in (
            ("generate.latency", True, [99.0] * 3),
            ("generate.latency", False, values_ms),
            ("generate.batch", False, [77.0]),
        )
        for i, each in enumerate(values)
    ]
    RunFolder(folder, record.run_id).write_windows("generate", windows)
    return StoredRun(record, folder / record.run_id)


def test_raw_windows_are_resampled_where_they_are_those_of_the_figure(tmp_path):
    two_humps = [2.0] * 21 + [4.0] * 20  # the interval is [2, 4]
    left = run("left", 0.2, 3.0, width=0.0)
    right = run("right", 0.1, 2.0, width=0.0)
    latency = figure(2.0, None, "ms", low=2.0, high=4.0, n=41)
    generate = right.phases["generate"]
    generate = generate.model_copy(update={"quantities": {**generate.quantities, LATENCY: latency}})
    right = right.model_copy(update={"phases": right.phases | {"generate": generate}})
    by_windows = frontier_rows([*stored(left), with_windows(right, tmp_path, two_humps)])
    by_interval = row_of(frontier_rows([*stored(left), *stored(right)]), "left").membership
    share = row_of(by_windows, "left").membership.probability
    assert share == pytest.approx(binom.sf(21, 41, 0.5) + 0.5 * binom.pmf(21, 41, 0.5), abs=0.03)  # 0.44
    assert by_interval.probability < 0.2  # log-normal about 2: it knows nothing of the other hump


def test_windows_that_are_broken_or_of_something_else_are_not_used_and_said(tmp_path):
    good = run("good", 0.1, 3.0)
    (tmp_path / "bad" / "windows").mkdir(parents=True)
    (tmp_path / "bad" / "windows" / "generate.jsonl").write_text('{"series": ')
    runs = [with_windows(good, tmp_path, [5.0] * 9), StoredRun(run("bad", 0.3, 9.0), tmp_path / "bad")]
    drawing = draw(runs)
    assert len(drawing.problems) == 2
    assert any("do not give its latency" in problem for problem in drawing.problems)
    assert any("cannot be read" in problem for problem in drawing.problems)
    assert frontier_rows(runs)[0].membership == frontier_rows(stored(good, run("bad", 0.3, 9.0)))[0].membership


def test_the_order_in_which_runs_come_changes_nothing():
    records = [run(f"m{index}", 0.1 + index / 100, 3.0 - index / 10, 0.2) for index in range(5)]
    assert frontier_rows(stored(*records)) == frontier_rows(stored(*records[::-1]))


# The picture


def draw(runs: list[StoredRun]) -> plots.Drawing:
    with plots.house_style():
        return plots_frontier.frontier(runs)


def texts(drawing: plots.Drawing) -> str:
    assert drawing.figure is not None, drawing.caption
    return "\n".join(text.get_text() for text in drawing.figure.findobj(mpl.text.Text))


def test_the_picture_has_three_panels_with_units_directions_and_a_table():
    drawing = draw(stored(run("good", 0.01, 3.0, 0.2), run("bad", 0.3, 9.0, 0.7), run("near", 0.0101, 3.1, 0.21)))
    panels = drawing.figure.axes[:3]
    assert [panel.get_xlabel() for panel in panels] == [
        "J per image, lower is better",
        "latency at batch 1 (ms), lower is better",
        "latency at batch 1 (ms), lower is better",
    ]
    assert panels[0].get_ylabel() == "rfd_v1, lower is better (log scale)"
    assert [panel.get_yscale() for panel in panels] == ["log", "log", "linear"]
    shown = texts(drawing)
    assert "good" in shown
    assert ">99 %" in shown
    assert "<1 %" in shown
    assert "0.0100(5)" in shown


def test_the_staircase_goes_through_the_undominated_values():
    drawing = draw(stored(run("a", 0.1, 4.0), run("b", 0.2, 2.0), run("c", 0.3, 1.0), run("d", 0.3, 4.0)))
    (line,) = [line for line in drawing.figure.axes[1].lines if line.get_linestyle() == "--"]
    corners = set(zip(*line.get_data(), strict=True))
    assert {(4.0, 0.1), (2.0, 0.2), (1.0, 0.3), (2.0, 0.3), (4.0, 0.2)} <= corners
    higher = draw(stored(*(run(n, q, ms, metric="precision_50k") for n, q, ms in (("a", 0.9, 4.0), ("b", 0.4, 2.0)))))
    (line,) = [line for line in higher.figure.axes[1].lines if line.get_linestyle() == "--"]
    assert {(2.0, 0.4), (4.0, 0.4), (4.0, 0.9)} <= set(zip(*line.get_data(), strict=True))


def test_a_panel_without_joules_says_why():
    assert texts(draw(stored(run("a", 0.1, 3.0), run("b", 0.2, 1.0)))).count("no run here has an energy meter") == 2
    estimated = [run(name, 0.1, 3.0, 0.1, label="estimated:tdp") for name in ("a", "b")]
    shown = texts(draw(stored(*estimated)))
    assert "no joules here may be ranked" in shown
    assert "estimated" in shown


def test_without_two_candidates_there_is_a_reason_and_no_picture():
    for records in ([], [run("a", 0.1, 3.0)], [run("a", 0.1, 3.0), run("b", 0.1, 3.0, preset="smoke")]):
        drawing = draw(stored(*records))
        assert drawing.figure is None
        assert "two runs that may be ranked" in drawing.caption
    assert "1 run: smoke" in drawing.caption


def test_a_figure_without_an_interval_is_a_point_and_says_so():
    drawing = draw(stored(run("a", 0.1, 3.0, width=0.0), make_record("b", model="b")))
    assert "has no interval" not in drawing.caption
    phases = make_phases()
    phases["quality"] = phases["quality"].model_copy(update={"quantities": {"rfd_v1": figure(0.1)}})
    drawing = draw(stored(make_record("a", model="a", phases=phases), make_record("b", model="b")))
    assert "rfd_v1 of 1 has no interval and is taken as a point." in drawing.caption


def test_twelve_candidates_and_three_groups_are_drawn_and_the_rest_is_named():
    many = [run(f"m{index:02d}", 0.1 + index / 50, 3.0, 0.2) for index in range(14)]
    groups = [run(f"{data}-{index}", 0.1, 1.0 + index, dataset=data) for data in "abcd" for index in range(2)]
    drawing = draw(stored(*many, *groups))
    assert len(drawing.figure.axes) == 3 * 4
    assert "2 more candidates are not drawn" in drawing.caption
    assert "Not drawn: c 32 px" in drawing.caption
    assert "m13" not in texts(drawing)


@pytest.mark.parametrize("num_candidates", [3, 10, 12])
def test_no_label_covers_another_or_a_marker_where_points_are_apart(num_candidates):
    generator = np.random.default_rng(15)
    places = generator.permutation(num_candidates), generator.permutation(num_candidates)
    figure_drawn = mpl.figure.Figure(figsize=(4.3, 3.4))
    axis = figure_drawn.add_subplot()
    axis.set(xlim=(-1, num_candidates), ylim=(-1, num_candidates))
    points = [
        label_places.Labelled(at=(x, y), ends=(x - 0.3, y - 0.3, x + 0.3, y + 0.3), texts=(f"{i}: >99 %", f"{i}"))
        for i, (x, y) in enumerate(zip(*(each.astype(float) for each in places), strict=True))
    ]
    boxes = label_places.place_labels(axis, points)
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for box in boxes:
        for x, y in (axis.transData.transform(point.at) * 72 / figure_drawn.dpi for point in points):
            assert not (box[0] < x < box[2] and box[1] < y < box[3])


def test_crowded_labels_become_numbers():
    near = [run(f"m{index}", 0.1 + index / 1e4, 3.0 + index / 1e3) for index in range(10)]
    shown = [text.get_text() for text in draw(stored(*near, run("far", 0.9, 9.0))).figure.axes[1].texts]
    assert "3" in shown
    assert not any(":" in text for text in shown)


def test_hostile_names_are_drawn_as_text_and_bytes_repeat():
    records = [run(f"r{index}", 0.1, 3.0 + index, model=HOSTILE + "$" * 90) for index in range(2)]
    records[1] = records[1].model_copy(update={"spec": records[1].spec.model_copy(update={"size": "_x"})})
    with plots.house_style():
        first, second = (plots.encoded(plots_frontier.frontier(stored(*records)).figure) for _ in range(2))
    assert first == second
    assert b"<script>" not in first["svg"]
    json.dumps([row.reason for row in frontier_rows(stored(*records))])


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "<1 %"), (0.004, "<1 %"), (0.5, "50 %"), (0.97, "97 %"), (0.999, ">99 %"), (1.0, ">99 %")]
)
def test_a_probability_claims_no_more_than_its_draws(share, text):
    assert plots_frontier.percent(Membership(probability=share, error=0.001)) == text
