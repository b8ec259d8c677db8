"""Shared fixtures: a model file small enough to train inside a test, lying outside the project as a user's would."""

import os
import signal
import textwrap

# Before torch is loaded, here and in the commands that tests start: one thread each, so that a test's time does not
# depend on who else needs the cores (see bench/__main__.py).
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# A shell starts a job in the background with SIGINT ignored, nohup with SIGHUP. The commands that tests start would
# inherit that, rightly stay deaf to it, and a test that interrupts one would wait forever.
for _number, _handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

SMALL_GAN = '''
"""A GAN of a few thousand parameters, for tests."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from models._spec import Gan, GanSpec, Loss, Recipe


@dataclass(frozen=True)
class Logistic:
    weight: float = 1.0

    @property
    def period(self):
        return 1

    def discriminator_loss(self, gan, real, z, step):
        with torch.no_grad():
            fake = gan.generator(z)
        real_loss = F.softplus(-gan.discriminator(real)).mean()
        fake_loss = F.softplus(gan.discriminator(fake)).mean()
        return Loss(real_loss + fake_loss, {"real": real_loss, "fake": fake_loss})

    def generator_loss(self, gan, real, z, step):
        fake_loss = F.softplus(-gan.discriminator(gan.generator(z))).mean()
        return Loss(fake_loss, {"fake": fake_loss})

    def without_penalty(self):
        return self


def build(resolution, size):
    generator = nn.Sequential(nn.Linear(8, 4 * 16), nn.Unflatten(1, (4, 4, 4)),
                              nn.Upsample(scale_factor=resolution // 4), nn.Conv2d(4, 3, 3, padding=1))
    discriminator = nn.Sequential(nn.AvgPool2d(resolution // 8), nn.Flatten(), nn.Linear(3 * 64, 1))
    return Gan(generator=generator, discriminator=discriminator, latent_dim=8)


def recipe(dataset, resolution, size):
    return Recipe(num_images=1000, batch_size=16, generator_lr=1e-3, discriminator_lr=1e-3, adam_betas=(0.0, 0.99),
                  ema_decay=0.9, objective=Logistic(), source="tests")


SPEC = GanSpec(title="Small GAN", year=2026, paper="none", code="none", licence="MIT", attention="none",
               resolutions={32: "ours: for tests", 64: "ours: for tests"}, build=build, recipe=recipe)
'''


@pytest.fixture(scope="session", autouse=True)
def statistics_cache(tmp_path_factory):
    """Statistics of references go to a folder of this session, whoever computes them, its own subprocesses too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def small_gan(tmp_path):
    """Path of a small model file."""
    path = tmp_path / "small_gan.py"
    path.write_text(textwrap.dedent(SMALL_GAN))
    return path
