"""Weights are used only where their hash is the pinned one; a missing or foreign file is one sentence."""

import dataclasses
import hashlib
import os
import pickle

import pytest
import torch

from bench.cli import main
from bench.errors import BenchError, MissingDataError
from bench.metrics import _dinov2, _inception, _vgg16
from bench.metrics._pinned_weights import PinnedWeights

ALL = [_inception.WEIGHTS, _vgg16.WEIGHTS, _dinov2.WEIGHTS]


def weights_of(sha256):
    return PinnedWeights(
        title="a test network",
        file_name="test-network.pth",
        url="https://example.org/test-network.pth",
        sha256=sha256,
        variable="BENCH_TEST_WEIGHTS",
    )


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A file of weights, named by the variable, and its pin."""
    path = tmp_path / "test-network.pth"
    torch.save({"filter": torch.arange(6.0).view(2, 3)}, path)
    monkeypatch.setenv("BENCH_TEST_WEIGHTS", str(path))
    return path, weights_of(hashlib.sha256(path.read_bytes()).hexdigest())


def assert_is_one_sentence(reason):
    assert reason.endswith((".", ")."))
    assert "\n" not in reason
    assert "rfd_v1 needs no weights" in reason
    assert "https://" in reason


def test_the_pinned_file_is_loaded(saved):
    _, weights = saved
    assert weights.why_unavailable() is None
    assert torch.equal(weights.load()["filter"], torch.arange(6.0).view(2, 3))


def test_a_missing_file_is_one_sentence_that_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_TEST_WEIGHTS", str(tmp_path / "nothing.pth"))
    weights = weights_of("0" * 64)
    reason = weights.why_unavailable()
    assert_is_one_sentence(reason)
    assert weights.url in reason and str(tmp_path / "nothing.pth") in reason and weights.variable in reason
    with pytest.raises(MissingDataError) as caught:
        weights.load()
    assert str(caught.value) == reason


def test_a_folder_in_place_of_the_file_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_TEST_WEIGHTS", str(tmp_path))
    weights = weights_of("0" * 64)
    assert_is_one_sentence(weights.why_unavailable())
    with pytest.raises(MissingDataError):
        weights.load()


def test_without_the_variable_the_file_lies_in_the_cache_of_torch_hub(tmp_path, monkeypatch):
    monkeypatch.delenv("BENCH_TEST_WEIGHTS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert weights_of("0" * 64).path() == tmp_path / "hub" / "checkpoints" / "test-network.pth"
    assert not (tmp_path / "hub").exists(), "looking makes no folder"


def test_one_changed_byte_is_refused(saved):
    path, weights = saved
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    os.utime(path, ns=(1, 1))
    reason = weights.why_unavailable()
    assert_is_one_sentence(reason)
    assert "not the pinned weights" in reason
    with pytest.raises(BenchError, match="not the pinned weights") as caught:
        weights.load()
    assert not isinstance(caught.value, MissingDataError)


def test_a_truncated_file_is_refused(saved):
    path, weights = saved
    path.write_bytes(path.read_bytes()[:-100])
    assert "not the pinned weights" in weights.why_unavailable()


class RunsCode:
    """A pickle of this makes a file when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("save", [torch.save, lambda what, path: path.write_bytes(pickle.dumps(what, protocol=2))])
def test_a_pickle_that_would_run_code_is_not_run_even_under_the_pinned_hash(save, tmp_path, monkeypatch):
    path, marker = tmp_path / "evil.pth", tmp_path / "it-ran"
    save({"filter": RunsCode(str(marker))}, path)
    monkeypatch.setenv("BENCH_TEST_WEIGHTS", str(path))
    with pytest.raises(BenchError, match="more than tensors"):
        weights_of(hashlib.sha256(path.read_bytes()).hexdigest()).load()
    assert not marker.exists()


@pytest.mark.parametrize("weights", ALL, ids=lambda each: each.title)
def test_every_pin_is_a_whole_hash_that_begins_as_its_file_name_says(weights):
    assert len(weights.sha256) == 64
    assert int(weights.sha256, 16)
    assert weights.url.endswith(f"/{weights.file_name}")
    digits = weights.file_name.removesuffix(".pth").rsplit("-", maxsplit=1)
    assert len(digits) == 1 or weights.sha256.startswith(digits[1])


def test_the_pins_are_of_three_files():
    for field in ("sha256", "file_name", "variable", "url"):
        assert len({dataclasses.asdict(each)[field] for each in ALL}) == 3


def test_weights_are_listed_and_fetched_under_their_pinned_hash(monkeypatch, tmp_path, capsys):
    asked = []
    monkeypatch.setenv("BENCH_VGG16_WEIGHTS", str(tmp_path / "vgg.pth"))
    monkeypatch.setattr("bench.datasets._download.download", lambda *arguments: asked.append(arguments))
    assert main(["data", "weights"]) == 0
    assert {"inception", "vgg16", "dinov2"} <= set(capsys.readouterr().out.split())
    assert asked == []
    assert main(["data", "weights", "vgg16"]) == 0
    ((url, path, expected),) = asked
    assert (url, path, expected.sha256) == (_vgg16.WEIGHTS.url, tmp_path / "vgg.pth", _vgg16.WEIGHTS.sha256)
    assert all(f"bench data weights {each.word}" in each._missing(tmp_path) for each in (_vgg16.WEIGHTS,))
