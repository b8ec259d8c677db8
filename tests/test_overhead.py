import time

import numpy as np
import pytest
import torch

from bench.errors import UsageError
from bench.phases import _overhead
from bench.phases._overhead import TOLERANCE, Comparison, compare, measure_overhead, overhead_table, rows_of
from bench.phases._settle import settle
from bench.records import RunSpec

SAME = "A/A"


def simulated(slowdown, noise, num_pairs=40, seed=0):
    """Rows of a harness that costs `slowdown`, on a machine whose blocks vary by `noise`."""
    random = np.random.default_rng(seed)

    def block(mean_s):
        return lambda: (mean_s * float(np.exp(noise * random.standard_normal())),)

    comparisons = [
        Comparison(rows=("loop",), base=block(1.0), variant=block(1.0 + slowdown)),
        Comparison(rows=(SAME,), base=block(1.0), variant=block(1.0)),
    ]
    return {row.compared: row for row in rows_of(compare(comparisons, num_pairs=num_pairs), noise_row=SAME)}


def test_no_cost_on_a_quiet_machine_is_within_the_tolerance():
    row = simulated(0.0, noise=0.002)["loop"]
    assert row.verdict == "within 0.5%"
    assert -TOLERANCE < row.difference.low <= row.difference.value <= row.difference.high < TOLERANCE


def test_a_slowdown_of_a_fifth_is_found_and_its_size_is_right():
    row = simulated(0.2, noise=0.05)["loop"]
    assert row.verdict.startswith("more than 0.5%: slower by at least 1")
    assert row.difference.low <= 0.2 <= row.difference.high
    assert row.difference.n == 40


def test_a_faster_variant_is_not_hidden():
    assert "faster by at least" in simulated(-0.2, noise=0.02)["loop"].verdict


def test_noise_that_hides_the_tolerance_is_said_with_its_size():
    rows = simulated(0.003, noise=0.1)
    noise = max(abs(rows[SAME].difference.low), abs(rows[SAME].difference.high))
    assert rows["loop"].verdict == f"not resolved: this machine's A/A noise is ± {noise:.2%}"
    assert rows[SAME].verdict == f"this machine's A/A noise: ± {noise:.2%}"


def test_a_clear_difference_below_the_noise_of_the_machine_is_not_claimed():
    log_ratios = {"loop": [0.01] * 12, SAME: [0.05, -0.05] * 6}
    rows = {row.compared: row for row in rows_of(log_ratios, noise_row=SAME)}
    assert rows["loop"].difference.low > TOLERANCE
    assert rows["loop"].verdict.startswith("not resolved: this machine's A/A noise is ± 5")


def test_a_cost_is_seldom_claimed_where_there_is_none_and_seldom_missed_where_it_is_clear():
    false_alarms = sum("more than" in simulated(0.0, noise=0.03, seed=seed)["loop"].verdict for seed in range(200))
    found = sum("slower" in simulated(0.1, noise=0.03, seed=seed)["loop"].verdict for seed in range(200))
    assert false_alarms <= 6
    assert found >= 195


def test_blocks_alternate_so_that_a_drift_meets_both_sides():
    order = []
    drifting = Comparison(
        rows=("r",),
        base=lambda: order.append("A") or (1.0 + 0.1 * len(order),),
        variant=lambda: order.append("B") or (1.0 + 0.1 * len(order),),
    )
    log_ratios = compare([drifting], num_pairs=8)["r"]
    assert "".join(order) == "ABBAABBAABBAABBA"
    assert sum(ratio > 0 for ratio in log_ratios) == 4


def test_too_few_pairs_for_an_interval_are_refused():
    with pytest.raises(UsageError, match="at least 6 pairs"):
        measure_overhead("cpu", num_pairs=5, say=lambda _: None)


def test_both_loops_train_on_the_same_batches_with_the_same_draws_and_leave_the_weights_alone(tmp_path, small_gan):
    question = settle(RunSpec(model=str(small_gan), dataset="synthetic", resolution=32, device="cpu", no_data=True))
    workbench = _overhead._Workbench(question, block_s=0.02, log_path=tmp_path / "log.jsonl")
    trainer = workbench._trainer
    assert workbench.num_steps > 1
    before = [parameter.detach().clone() for parameter in trainer.gan.generator.parameters()]
    honest_step, seen = trainer.step, []

    def watched_step(real):
        losses = honest_step(real)
        seen.append((trainer.num_images_shown, float(real.double().sum()), float(losses["discriminator"])))
        return losses

    trainer.step = watched_step
    workbench._bare_loop()
    by_hand = list(seen)
    seen.clear()
    workbench._harness_loop()
    assert seen == by_hand
    assert len(seen) == workbench.num_steps
    assert all(torch.equal(*pair) for pair in zip(before, trainer.gan.generator.parameters(), strict=True))


def test_the_real_comparison_finds_a_loop_that_was_slowed_on_purpose(monkeypatch):
    honest_train = _overhead.train

    def slowed(*arguments, **options):
        started = time.perf_counter()
        times = honest_train(*arguments, **options)
        time.sleep(1.5 * (time.perf_counter() - started))
        return times

    monkeypatch.setattr(_overhead, "train", slowed)
    monkeypatch.setattr(_overhead, "SUBJECT", _overhead.SUBJECT.model_copy(update={"batch_size": 4}))  # for haste
    said = []
    rows = measure_overhead("cpu", num_pairs=6, block_s=0.01, say=said.append)
    found = {row.compared: row for row in rows}
    assert list(found) == [_overhead._WHOLE, _overhead._WINDOW, _overhead._LOOP, _overhead._SAME]
    assert found[_overhead._LOOP].difference.value > 0.7  # +150 % and room for a shared machine
    assert found[_overhead._LOOP].difference.value > 3 * abs(found[_overhead._WINDOW].difference.value)
    for row in rows:
        assert row.difference.n == 6
        assert row.difference.low <= row.difference.value <= row.difference.high
    assert "6 pairs" in said[0] and "meters: clock" in said[0]
    table = overhead_table(rows)
    assert all(text in table for text in (*found, "verdict", "95 % interval", "A/A noise"))
