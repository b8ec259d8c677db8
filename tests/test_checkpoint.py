"""Checkpoints: what is in them, what is refused, and that a training goes on bit for bit."""

import errno
import json
import pickle

import pytest
import torch

from bench.catalog import MODELS, find_model
from bench.errors import CheckpointError, StorageError
from bench.training import checkpoint
from bench.training.checkpoint import NUM_KEPT, Checkpoints, _tensors, try_to_save
from bench.training.step import StepOptions, Trainer
from bench.training.weights import read_tensors, write_tensors

TRAINED = [name for name in MODELS.names() if not MODELS.load(name).why_not_trained]


def trainer_of(name, **options):
    spec = find_model(name).spec
    torch.manual_seed(5)
    return Trainer(
        spec.build(32, "tiny"), spec.recipe("scenes", 32, "tiny"), device="cpu", precision="fp32", seed=7,
        options=StepOptions(**options),
    )  # fmt: skip


def do_steps(trainer, num_steps, batch_size=2):
    for _ in range(num_steps):
        generator = torch.Generator().manual_seed(trainer.num_images_shown)
        trainer.step(torch.rand(batch_size, 3, 32, 32, generator=generator) * 2 - 1)


def assert_equal_bits(left, right):
    ours, theirs = _tensors(left), _tensors(right)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different
    assert (left.num_images_shown, left.num_steps) == (right.num_images_shown, right.num_steps)
    z = torch.randn(3, left.gan.latent_dim, generator=torch.Generator().manual_seed(1))
    assert torch.equal(left.ema(z), right.ema(z))


@pytest.mark.parametrize("name", TRAINED)
def test_every_model_goes_on_bit_for_bit_from_a_checkpoint(name, tmp_path):
    straight, first = trainer_of(name), trainer_of(name)
    do_steps(straight, 5)
    do_steps(first, 2)
    Checkpoints(tmp_path, "run").save(first, {})
    resumed = trainer_of(name)
    Checkpoints(tmp_path, "run").load_latest(resumed)
    do_steps(resumed, 3)
    assert_equal_bits(straight, resumed)


@pytest.mark.parametrize("name", ["ladagan", "sagan", "stylegan2"])
def test_40_steps_in_one_go_are_17_and_23_with_another_process_state_between(name, tmp_path):
    straight, first = trainer_of(name), trainer_of(name)
    do_steps(straight, 40)
    do_steps(first, 17)
    Checkpoints(tmp_path, "run").save(first, {})
    del first
    torch.rand(100)  # whatever the new process has drawn before
    resumed = trainer_of(name)
    do_steps(resumed, 1)  # and whatever state it had
    Checkpoints(tmp_path, "run").load_latest(resumed)
    assert resumed.num_steps == 17
    do_steps(resumed, 23)
    assert_equal_bits(straight, resumed)


def test_moments_come_back_in_the_layout_of_their_parameters(tmp_path):
    trainer = trainer_of("ladagan", channels_last=True)
    do_steps(trainer, 1)
    Checkpoints(tmp_path, "run").save(trainer, {})
    resumed = trainer_of("ladagan", channels_last=True)
    Checkpoints(tmp_path, "run").load_latest(resumed)
    for parameter in resumed.gan.discriminator.parameters():
        assert resumed.discriminator_optimiser.state[parameter]["exp_avg"].stride() == parameter.stride()


def test_the_last_two_and_the_best_are_kept(small_gan, tmp_path):
    trainer, checkpoints = trainer_of(str(small_gan)), Checkpoints(tmp_path, "run")
    for index in range(5):
        do_steps(trainer, 1)
        checkpoints.save(trainer, {"index": index})
        if index == 1:
            checkpoints.save_best(trainer, {})
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["000000000008.safetensors", "000000000010.safetensors", "best.safetensors"]
    assert len(names) == NUM_KEPT + 1
    memory, problems = checkpoints.load_latest(trainer_of(str(small_gan)))
    assert memory == {"index": 4}
    assert problems == []


def test_a_checkpoint_that_cannot_be_read_is_passed_over_and_named(small_gan, tmp_path):
    trainer, checkpoints = trainer_of(str(small_gan)), Checkpoints(tmp_path, "run")
    for _ in range(2):
        do_steps(trainer, 1)
        checkpoints.save(trainer, {})
    newest = tmp_path / "000000000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = trainer_of(str(small_gan))
    memory, problems = checkpoints.load_latest(resumed)
    assert memory == {}
    assert resumed.num_images_shown == 2
    assert "000000000004" in problems[0] and "truncated" in problems[0]


@pytest.fixture
def saved(small_gan, tmp_path):
    trainer = trainer_of(str(small_gan))
    do_steps(trainer, 1)
    Checkpoints(tmp_path, "run").save(trainer, {})
    return tmp_path / "000000000002.safetensors"


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the payload ran')",))


def change(path, *, tensors=None, **facts):
    found, header = read_tensors(path)
    write_tensors(path, tensors or found, header | facts)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(pickle.dumps(Payload())), "pickle"),
        (lambda path: torch.save({"x": torch.ones(1)}, path), "pickle"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: change(path, format=99), "format 99"),
        (lambda path: change(path, run_id="another"), "belongs to run another"),
        (lambda path: change(path, kind="weights"), "not a checkpoint"),
        (lambda path: change(path, tensors={"x": torch.ones(1)}), "missing or unknown"),
    ],
    ids=["pickle", "torch", "cut", "empty", "format", "run", "kind", "tensors"],
)
def test_a_foreign_or_broken_checkpoint_is_refused_in_one_sentence(saved, small_gan, damage, sentence):
    damage(saved)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        Checkpoints(saved.parent, "run").load_latest(trainer_of(str(small_gan)))
    assert "\n" not in str(caught.value)


def test_the_checkpoint_of_other_widths_is_refused_and_names_the_tensor(saved, small_gan):
    small_gan.write_text(small_gan.read_text().replace("4 * 16", "8 * 16").replace("(4, 4, 4)", "(8, 4, 4)"))
    small_gan.write_text(small_gan.read_text().replace("nn.Conv2d(4, 3", "nn.Conv2d(8, 3"))
    with pytest.raises(CheckpointError, match=r"'0\.weight'|'0\.bias'"):
        Checkpoints(saved.parent, "run").load_latest(trainer_of(str(small_gan)))


def test_a_full_disk_costs_no_good_checkpoint_and_is_said(saved, small_gan, monkeypatch):
    trainer, checkpoints = trainer_of(str(small_gan)), Checkpoints(saved.parent, "run")
    checkpoints.load_latest(trainer)
    do_steps(trainer, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left"):
            checkpoints.save(trainer, {})
        sentence = try_to_save(checkpoints, trainer, {})
    assert "No space left" in sentence and "goes on" in sentence
    assert [path.name for path in saved.parent.glob("*safetensors*")] == [saved.name]  # and no half-written file
    assert list(saved.parent.glob(".*")) == []
    assert checkpoints.load_latest(trainer_of(str(small_gan)))[0] == {}


def test_the_header_says_what_it_is_in_plain_json(saved):
    _, facts = read_tensors(saved)
    assert facts["kind"] == "checkpoint"
    assert facts["format"] == checkpoint.FORMAT
    assert json.loads(json.dumps(facts)) == facts
