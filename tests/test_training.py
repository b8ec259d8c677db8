import json

import numpy as np
import pytest
import torch
from torch import nn

from bench.catalog import find_model
from bench.errors import BenchError, CheckpointError
from bench.training.distributed import ALONE
from bench.training.feed import Resident, _Order, open_feed
from bench.training.images import generate, grid_png, to_networks, to_uint8
from bench.training.log import JsonLines
from bench.training.loop import LOOK_EVERY_STEPS, Hooks, Loop, Pace, Progress
from bench.training.losses import MAX_NONFINITE_IN_A_ROW, DivergedError, LossMeans
from bench.training.randomness import derive_seed, fixed_selection, latents, training_order
from bench.training.signals import StopRequest
from bench.training.step import StepOptions, Trainer, update_ema
from bench.training.weights import load_weights, save_weights
from bench.units import Budget


class FewImages:
    def __init__(self, n=40):
        self.n, self.reads = n, []

    def __len__(self):
        return self.n

    def read(self, indices):
        self.reads.append(np.array(indices))
        return np.stack([np.full((3, 32, 32), index, dtype=np.uint8) for index in indices])


@pytest.fixture
def trainer(small_gan):
    model = find_model(str(small_gan))
    torch.manual_seed(0)
    return Trainer(
        model.spec.build(32, "tiny"), model.spec.recipe("scenes", 32, "tiny"), device="cpu", precision="fp32", seed=3
    )


def test_a_latent_depends_on_its_index_alone():
    together = latents(5, 0, 10, 16)
    assert torch.equal(together[4:7], latents(5, 4, 3, 16))
    assert not torch.equal(together, latents(6, 0, 10, 16))
    many = latents(0, 0, 2000, 16)
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02


def test_every_epoch_shows_every_image_once_in_an_order_that_is_a_function_of_position():
    whole = training_order(40, 7, 0, 120)
    for epoch in range(3):
        assert sorted(whole[40 * epoch : 40 * epoch + 40]) == list(range(40))
    assert not np.array_equal(whole[:40], whole[40:80])
    pieces = np.concatenate([training_order(40, 7, start, 12) for start in range(0, 120, 12)])
    assert np.array_equal(whole, pieces)


def test_seeds_of_different_purposes_differ():
    assert len({derive_seed(seed, purpose, n) for seed in (0, 1) for purpose in "ab" for n in range(50)}) == 200


def test_the_fixed_selection_is_distinct_and_the_same_for_everyone():
    assert len(set(fixed_selection(1000, 100))) == 100
    assert np.array_equal(fixed_selection(1000, 100), fixed_selection(1000, 100))
    assert np.array_equal(fixed_selection(10, 100), np.arange(10))


def test_uint8_survives_the_way_to_the_networks_and_back():
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 3, 16, 16)
    assert np.array_equal(to_uint8(to_networks(levels, "cpu")), levels)
    assert to_uint8(torch.tensor([-7.0, 7.0, 0.0]).reshape(1, 3, 1, 1)).ravel().tolist() == [0, 255, 128]


def test_generated_images_do_not_depend_on_the_batch_size(trainer):
    one = list(generate(trainer.ema, latent_dim=8, seed=1, count=10, batch_size=3, device="cpu"))
    assert [len(batch) for batch in one] == [3, 3, 3, 1]
    two = list(generate(trainer.ema, latent_dim=8, seed=1, count=10, batch_size=10, device="cpu"))
    assert np.abs(np.concatenate(one).astype(int) - two[0]).max() <= 1


def test_a_grid_holds_every_image_and_no_other_pixel():
    png = grid_png(np.zeros((5, 3, 8, 8), dtype=np.uint8))
    assert png.startswith(b"\x89PNG")


def test_ema_averages_parameters_and_copies_buffers():
    network, ema = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(5.0)
    update_ema(ema, network, 0.9)
    assert torch.allclose(ema.weight, torch.full((2,), 1.2))
    assert torch.equal(ema.running_mean, network.running_mean)


def test_a_step_is_one_adam_update_of_each_network_as_written_by_hand(trainer, small_gan):
    model = find_model(str(small_gan))
    torch.manual_seed(0)
    gan = model.spec.build(32, "tiny")
    recipe = model.spec.recipe("scenes", 32, "tiny")
    ema = [parameter.detach().clone() for parameter in gan.generator.parameters()]
    optimisers = [torch.optim.Adam(each.parameters(), 1e-3, (0.0, 0.99)) for each in (gan.discriminator, gan.generator)]
    real = torch.rand(16, 3, 32, 32)
    for step in range(3):
        trainer.step(real)
        for optimiser, loss in zip(optimisers, ("d", "g"), strict=True):
            name, shown = ("discriminator", 16 * step) if loss == "d" else ("generator", 16 * step + 16)
            torch.manual_seed(derive_seed(3, f"{name} step", shown))
            z = torch.randn(16, 8)
            objective = recipe.objective
            value = (
                objective.discriminator_loss(gan, real, z, 0)
                if loss == "d"
                else objective.generator_loss(gan, real, z, 0)
            )
            optimiser.zero_grad()
            value.total.backward()
            optimiser.step()
        ema = [0.9 * old + 0.1 * new.detach() for old, new in zip(ema, gan.generator.parameters(), strict=True)]
    for ours, plain in zip(trainer.gan.generator.parameters(), gan.generator.parameters(), strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)
    for ours, plain in zip(trainer.ema.parameters(), ema, strict=True):
        assert torch.allclose(ours, plain, atol=1e-6)


def test_bf16_runs_the_networks_under_autocast_and_keeps_parameters_in_float32(small_gan):
    model = find_model(str(small_gan))
    trainer = Trainer(
        model.spec.build(32, "tiny"), model.spec.recipe("scenes", 32, "tiny"), device="cpu", precision="bf16", seed=0
    )
    seen = []
    trainer.gan.discriminator[2].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    trainer.step(torch.rand(4, 3, 32, 32))
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.gan.generator.parameters()} == {torch.float32}


class NoWatch:
    def start(self, shown): ...
    def tick(self, shown): ...
    def stop(self, shown): ...
    def energy_j(self):
        return None


class JouleWatch(NoWatch):
    """1 J per image."""

    shown = 0

    def tick(self, shown):
        self.shown = shown

    stop = tick

    def energy_j(self):
        return float(self.shown)


def run_loop(trainer, tmp_path, budget, images=None, **changes):
    moments = []

    def evaluate(progress):
        moments.append((trainer.num_images_shown, progress.train_s))
        return False

    log = JsonLines(tmp_path / "train.jsonl", trainer.num_images_shown)
    hooks = Hooks(
        **{
            "evaluate": evaluate, "checkpoint": lambda _: None, "diverged": lambda *_: None,
            "sinks": [log], "watch": NoWatch(), "stop": StopRequest(),
        } | {key: value for key, value in changes.items() if key not in {"every", "checkpoint_every"}}
    )  # fmt: skip
    pace = Pace(
        budget=budget,
        evaluate_every=changes.get("every", Pace.thirds(budget)),
        checkpoint_every=changes.get("checkpoint_every", Budget(duration_s=1e9)),
    )
    images = images or FewImages()
    feed = open_feed(images, seed=3, batch_size=8, position=trainer.num_images_shown, device="cpu", world=ALONE)
    try:
        times = Loop(trainer, feed, pace, Progress(), hooks).run()
    finally:
        feed.close()
        log.close()
    return moments, times, [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]


def test_the_loop_stops_at_its_images_and_evaluates_at_thirds(trainer, tmp_path):
    moments, times, log = run_loop(trainer, tmp_path, Budget(num_images=8 * 30))
    assert [shown for shown, _ in moments] == [0, 80, 160, 240]
    assert log[-1]["images_shown"] == 240
    assert all(line["images_shown"] % (8 * LOOK_EVERY_STEPS) == 0 for line in log)
    assert moments[-1][1] == times.train_s
    assert 0 <= times.data_wait_s <= times.train_s


def test_the_loop_stops_at_its_seconds(trainer, tmp_path):
    _, times, log = run_loop(trainer, tmp_path, Budget(duration_s=0.3))
    assert times.train_s >= 0.3
    assert log[-1]["duration_s"] == times.train_s


def test_the_loop_stops_at_its_joules_as_soon_as_a_look_knows_of_them(trainer, tmp_path):
    moments, _, log = run_loop(trainer, tmp_path, Budget(energy_j=200.0), watch=JouleWatch())
    assert moments[0][0] == 0
    assert moments[-1][0] == 240  # the first look past 200 J, at 1 J per image and 80 images per look
    assert log[-1]["energy_j"] == 240


def test_joules_that_become_unknown_end_a_training_that_was_to_end_on_them(trainer, tmp_path):
    class Failing(JouleWatch):
        def energy_j(self):
            return None if self.shown > 100 else float(self.shown)

    kept = []
    with pytest.raises(BenchError, match="energy meter failed"):
        run_loop(
            trainer, tmp_path, Budget(energy_j=1e6), watch=Failing(),
            checkpoint=lambda _: kept.append(trainer.num_images_shown),
        )  # fmt: skip
    assert kept == [160]


def test_a_mean_is_over_the_steps_that_had_the_loss_and_over_its_finite_values(trainer):
    means = LossMeans(trainer)
    means.add({"d": torch.tensor(1.0), "r1": torch.tensor(4.0)})
    means.add({"d": torch.tensor(3.0)})
    means.add({"d": torch.tensor(float("nan")), "bad": torch.tensor(float("inf"))})
    assert means.look().means == {"d": 2.0, "r1": 4.0, "bad": None}
    means.add({"d": torch.tensor(7.0)})
    assert means.look().means == {"d": 7.0}


def test_evaluations_come_at_0_after_each_interval_and_at_the_end(trainer, tmp_path):
    moments, _, _ = run_loop(trainer, tmp_path, Budget(num_images=100), every=Budget(num_images=30))
    assert [shown for shown, _ in moments] == [0, 32, 64, 96, 104]


def test_a_met_goal_ends_the_training(trainer, tmp_path):
    seen = []

    def evaluate(progress):
        seen.append(trainer.num_images_shown)
        return trainer.num_images_shown >= 64

    _, progress, _ = run_loop(
        trainer, tmp_path, Budget(num_images=1000), every=Budget(num_images=32), evaluate=evaluate
    )
    assert seen == [0, 32, 64]
    assert progress.is_met


def test_checkpoints_come_so_many_images_apart(trainer, tmp_path):
    at = []
    run_loop(
        trainer, tmp_path, Budget(num_images=200), checkpoint_every=Budget(num_images=48),
        checkpoint=lambda _: at.append(trainer.num_images_shown),
    )  # fmt: skip
    assert at == [48, 96, 144, 192]


def test_images_come_in_the_order_of_the_sampler(trainer, tmp_path):
    images = FewImages()
    run_loop(trainer, tmp_path, Budget(num_images=80), images)
    shown = np.concatenate(images.reads)[:80]
    assert np.array_equal(shown, training_order(40, 3, 0, 80))


def test_images_on_the_device_come_in_the_same_order_and_values():
    images, order = FewImages(), _Order(40, 3, 8, ALONE)
    resident = Resident(images, order, batch_size=8, position=16, device="cpu")
    feed = open_feed(images, seed=3, batch_size=8, position=16, device="cpu", world=ALONE)
    for _ in range(7):
        assert torch.equal(resident.next(), feed.next())
    feed.close()


def test_one_update_that_is_not_finite_is_counted_and_not_applied_and_the_training_goes_on(trainer, tmp_path):
    honest_step, num_steps = trainer.step, 0

    def poisoned_step(real):
        nonlocal num_steps
        num_steps += 1
        before = [each.detach().clone() for each in trainer.gan.discriminator.parameters()]
        losses = honest_step(real * float("nan") if num_steps == 7 else real)
        after = list(trainer.gan.discriminator.parameters())
        assert all(map(torch.equal, before, after)) == (num_steps == 7)
        return losses

    trainer.step = poisoned_step
    _, progress, log = run_loop(trainer, tmp_path, Budget(num_images=8 * 20))
    assert progress.num_nonfinite == {"discriminator": 1, "generator": 0}
    assert [line.get("num_nonfinite_discriminator") for line in log] == [1, 1, 1]  # a line each at 56, 112 and 160
    assert all(np.isfinite(line["discriminator"]) for line in log)
    assert all(torch.isfinite(each).all() for each in trainer.gan.discriminator.parameters())


def test_updates_that_stay_not_finite_end_the_training_with_a_dump(trainer, tmp_path):
    dumped = []
    with torch.no_grad():
        trainer.gan.discriminator[2].weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        run_loop(trainer, tmp_path, Budget(num_images=800), diverged=lambda _, batch: dumped.append(batch.shape))
    assert dumped == [torch.Size([8, 3, 32, 32])]
    assert trainer.num_nonfinite_in_a_row.max() >= MAX_NONFINITE_IN_A_ROW


def test_accumulated_gradients_are_those_of_the_whole_batch(small_gan):
    model = find_model(str(small_gan))
    after = []
    for num_parts in (1, 2, 4):
        torch.manual_seed(0)
        trainer = Trainer(
            model.spec.build(32, "tiny"), model.spec.recipe("scenes", 32, "tiny"), device="cpu", precision="fp32",
            seed=3, options=StepOptions(num_accumulation_steps=num_parts),
        )  # fmt: skip
        losses = [trainer.step(torch.rand(16, 3, 32, 32, generator=torch.manual_seed(step))) for step in range(3)]
        after.append((losses[-1]["discriminator"], losses[-1]["generator_fake"]))
    assert torch.allclose(torch.tensor(after[0]), torch.tensor(after[1]), atol=1e-5)
    assert torch.allclose(torch.tensor(after[0]), torch.tensor(after[2]), atol=1e-5)


def test_weights_come_back_the_same_and_another_network_is_refused(trainer, tmp_path):
    path = tmp_path / "ema.safetensors"
    save_weights(path, trainer.ema, {"run_id": "x"})
    with torch.no_grad():
        before = trainer.ema[0].weight.clone()
        trainer.ema[0].weight.zero_()
    load_weights(path, trainer.ema)
    assert torch.equal(trainer.ema[0].weight, before)
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(path, nn.Linear(2, 2))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(path, trainer.ema)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(tmp_path / "absent.safetensors", trainer.ema)


@pytest.mark.parametrize("name", ["ladagan", "stylegan2"])
@pytest.mark.parametrize(
    ("precision", "options", "tolerance"),
    [("fp32", {"channels_last": True}, 1e-3), ("bf16", {}, 0.1), ("fp32", {"num_accumulation_steps": 1}, 0.0)],
    ids=["channels_last", "bf16", "plain"],
)
def test_each_way_to_compute_a_step_has_the_losses_of_the_plain_one(name, precision, options, tolerance):
    spec = find_model(name).spec
    found = []
    for way in (("fp32", {}), (precision, options)):
        torch.manual_seed(0)
        trainer = Trainer(
            spec.build(32, "tiny"), spec.recipe("scenes", 32, "tiny"), device="cpu", precision=way[0], seed=3,
            options=StepOptions(**way[1]),
        )  # fmt: skip
        real = torch.rand(4, 3, 32, 32, generator=torch.manual_seed(1)) * 2 - 1
        found.append([trainer.step(real) for _ in range(2)])
    for plain, other in zip(*found, strict=True):
        assert plain.keys() == other.keys()
        for loss, value in plain.items():
            assert float(other[loss]) == pytest.approx(float(value), abs=tolerance * max(1.0, abs(float(value)))), loss
