"""What a run is about to do, printed before it starts: every settled choice, minutes, watt-hours, disk.

The minutes are rough: MACs counted on `meta`, over a third of the rate of a 1024 × 1024 matrix product on the device
(a share that is ours, from experience with small networks, not a measurement). The watt-hours are those minutes times
the power that earlier runs on this machine drew; without such runs they are unknown, or bounded by `--tdp-w`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from bench.phases._context import Question
from bench.phases._scoring import NUM_SAMPLING_SEEDS
from bench.phases.cost import count_macs, count_params, one_step_of
from bench.records import PhaseName, RunSpec
from bench.training.loop import DEFAULT_NUM_EVALUATIONS
from bench.units import format_bytes, format_duration

_EXPECTED_SHARE_OF_PEAK = 1 / 3
# One step: generator forward twice and backward once (2 forwards' worth); discriminator forward three times, backward
# three times, and the penalty's double backward (about 3 forwards' worth).
_GENERATOR_FORWARDS_PER_STEP = 4
_DISCRIMINATOR_FORWARDS_PER_STEP = 12
_METRIC_S_PER_IMAGE = 3e-3
_START_UP_S = 2.0
_NUM_KEPT_STATES = 4  # the last two checkpoints, the best, and the one being written


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Estimates of one run.

    Attributes:
        phase_s: estimated seconds of each phase that is still to do; None where joules end it and nothing tells the
            power.
        disk_bytes: estimated bytes written.
        energy_j: estimated joules, or None where nothing tells this machine's power.
        energy_basis: what `energy_j` rests on, or why it is None.
    """

    run_id: str
    question: Question
    phase_s: dict[PhaseName, float | None]
    kept: tuple[PhaseName, ...]
    disk_bytes: int
    energy_j: float | None
    energy_basis: str

    def text(self) -> str:
        """The plan for a person."""
        question, spec = self.question, self.question.spec
        smoke = "" if question.preset.is_publishable else " (not publishable)"
        data = "random images of its shape (--no-data)" if spec.no_data else question.found_dataset.spec.title
        lines = [
            f"Run {self.run_id}",
            f"  model       {spec.model_title}, {question.resolution} px ({question.configuration})",
            f"  data        {spec.dataset}: {data}",
            f"  step        batch size {question.batch_size}, {question.precision}, {question.device}{_how(spec)}",
            f"  recipe      {question.recipe.source}",
            f"  measuring   seed {spec.seed}, preset {spec.preset}{smoke}; training for {spec.train_for}{_until(spec)}",
        ]
        if self.kept:
            lines.append(f"  kept        {', '.join(self.kept)} (measured before; --fresh starts over)")
        unknown = f"until {spec.train_for}"
        todo = ", ".join(
            f"{phase} {unknown if seconds is None else format_duration(seconds)}"
            for phase, seconds in self.phase_s.items()
        )
        total = format_duration(sum(seconds or 0.0 for seconds in self.phase_s.values()) + _START_UP_S)
        if None in self.phase_s.values():
            total += " and the training, whose minutes nothing tells yet"
        lines.append(f"  to do       {todo or 'nothing'}")
        lines.append(f"  estimate    {total} (rough), {format_bytes(self.disk_bytes)} of disk")
        return "\n".join(lines)


def _until(spec: RunSpec) -> str:
    """What the training was asked beside its budget."""
    words = [] if spec.until is None else [f"or until {spec.until}"]
    if spec.eval_every is not None:
        words.append(f"scored every {spec.eval_every}")
    return "".join(f", {each}" for each in words)


def _how(spec: RunSpec) -> str:
    """How a step is computed, where that is not plainly."""
    words = [name.replace("_", " ") for name in ("compile", "capture", "channels_last") if getattr(spec, name)]
    if spec.num_processes > 1:
        words.append(f"{spec.num_processes} processes")
    if spec.num_accumulation_steps > 1:
        words.append(f"in {spec.num_accumulation_steps} parts")
    return "".join(f", {each}" for each in words)


def make_plan(
    question: Question,
    run_id: str,
    *,
    todo: Sequence[PhaseName],
    kept: Sequence[PhaseName],
    earlier_w: Mapping[PhaseName, float],
) -> Plan:
    """Estimate the phases in `todo`.

    Args:
        earlier_w: power this machine drew in the phases `generate` and `train_step` of earlier runs, where known.
    """
    gan = question.build("meta")
    z = torch.empty(1, gan.latent_dim, device="meta")
    image = torch.empty(1, 3, question.resolution, question.resolution, device="meta")
    one_step, num_steps = one_step_of(gan.generator)
    macs_g = num_steps * count_macs(one_step or gan.generator, image if one_step else z)[0]
    is_trained = not question.model.spec.why_not_trained
    macs_d = count_macs(gan.discriminator, image)[0] if is_trained else 0
    macs_per_s = _matmul_macs_per_s(question.device) * _EXPECTED_SHARE_OF_PEAK
    image_s = macs_g / macs_per_s
    step_s = (_GENERATOR_FORWARDS_PER_STEP * macs_g + _DISCRIMINATOR_FORWARDS_PER_STEP * macs_d) / macs_per_s
    every: dict[PhaseName, float | None] = {
        "cost": 0.5,
        "generate": _windows_s(question, image_s * question.batch_size)
        + min(question.preset.num_latency_samples * image_s, question.preset.max_duration_s),
        "train_step": _windows_s(question, step_s * question.batch_size),
        "train": _train_s(question, step_s, earlier_w),
        "quality": _quality_s(question, image_s),
    }
    every |= {} if is_trained else {"train_step": 0.0}
    every |= {} if is_trained and question.dataset is not None else {"train": 0.0, "quality": 0.0}
    weights_bytes = 4 * count_params(gan.generator)
    state_bytes = _NUM_KEPT_STATES * (4 * weights_bytes + 12 * count_params(gan.discriminator) * is_trained)
    grid_bytes = 64 * 3 * question.resolution**2
    is_training = "train" in todo and question.dataset is not None and is_trained
    num_grids = _num_evaluations(question, every["train"], step_s)
    num_snapshots = 1 if question.scores_while_training else num_grids
    phase_s = {phase: every[phase] for phase in todo}
    energy_j, basis = _energy(phase_s, earlier_w, question.spec.tdp_w)
    return Plan(
        run_id=run_id,
        question=question,
        phase_s=phase_s,
        energy_j=energy_j,
        energy_basis=basis,
        kept=tuple(kept),
        disk_bytes=is_training * (num_snapshots * weights_bytes + num_grids * grid_bytes + state_bytes) + 2**20,
    )


def _energy(
    phase_s: Mapping[PhaseName, float | None], earlier_w: Mapping[PhaseName, float], tdp_w: float | None
) -> tuple[float | None, str]:
    """(joules, what they rest on); None and why where nothing tells the power."""
    known_s = {phase: seconds for phase, seconds in phase_s.items() if seconds is not None}
    if {"generate", "train_step"} <= earlier_w.keys():
        like_training = ("train_step", "train")
        power_w = {phase: earlier_w["train_step" if phase in like_training else "generate"] for phase in known_s}
        return sum(seconds * power_w[phase] for phase, seconds in known_s.items()), "power of earlier runs here"
    if tdp_w is not None and len(known_s) == len(phase_s):
        return tdp_w * sum(known_s.values()), f"at most, at {tdp_w:g} W all the time"
    return None, "no earlier run on this machine measured its power"


def _windows_s(question: Question, call_s: float) -> float:
    """Seconds of one series of windows with its warm-up."""
    preset = question.preset
    window_s = max(preset.min_window_s, call_s)
    return max(preset.warmup_s, 3 * call_s) + min(preset.num_windows[0] * window_s, preset.max_duration_s)


def _train_s(question: Question, step_s: float, earlier_w: Mapping[PhaseName, float]) -> float | None:
    """Seconds of the training; None where joules end it and nothing tells the power."""
    budget = question.budget
    if budget.energy_j is not None:
        return budget.energy_j / earlier_w["train_step"] if earlier_w.get("train_step") else None
    return budget.duration_s or (budget.num_images or 0) * step_s


def _num_evaluations(question: Question, train_s: float | None, step_s: float) -> int:
    """The untrained state's included."""
    every = question.evaluate_every
    if every is None or train_s is None:
        return DEFAULT_NUM_EVALUATIONS + 1
    every_s = every.duration_s or (every.num_images or 0) * step_s
    return int(train_s / every_s) + 2


def _quality_s(question: Question, image_s: float) -> float:
    num_images = max((metric.num_images for metric in question.metrics()), default=0)
    num_scored = 0 if question.scores_while_training else DEFAULT_NUM_EVALUATIONS + 1
    num_generated = num_scored + (NUM_SAMPLING_SEEDS - 1) * question.preset.is_publishable
    num_sets = num_generated + 2  # real train images, the reference
    return num_images * (num_generated * image_s + num_sets * _METRIC_S_PER_IMAGE)


def _matmul_macs_per_s(device: str) -> float:
    """The best of five products of 1024 × 1024 float32 matrices."""
    side = 1024
    left, right = torch.ones(side, side, device=device), torch.ones(side, side, device=device)
    best_s = float("inf")
    for _ in range(5):
        started = perf_counter()
        float((left @ right)[0, 0])  # reading one value waits for the device
        best_s = min(best_s, perf_counter() - started)
    return side**3 / best_s
