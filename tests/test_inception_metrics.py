"""The metrics of pretrained networks: they agree with torch-fidelity, and have no value without the pinned weights."""

import dataclasses
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from bench.catalog import METRICS
from bench.datasets import scenes
from bench.datasets._spec import OpenDataset
from bench.errors import BenchError, MissingDataError
from bench.metrics import _dinov2, _frechet_50k, _inception, _pretrained, _vgg16, inception_score_50k, kid_50k
from bench.metrics import precision_recall_50k as prc
from bench.metrics._fid_infinity import SET_SIZES, extrapolate
from bench.metrics._frechet import FrechetReference, Moments, moments_of
from bench.metrics._pretrained import PretrainedNetwork, require_noise_is_far

PRETRAINED = ("fid-50k", "kid-50k", "precision-recall-50k", "inception-score-50k", "fd-dinov2-50k")
SOURCES = sorted(Path(_inception.__file__).parent.parent.rglob("*.py"))
NUM_IMAGES = 12
# First four outputs of two inputs of facebookresearch/dinov2 at b8931f7, weights as below: DinoVisionTransformer(
# img_size=518, patch_size=14, embed_dim=32, depth=2, num_heads=4, init_values=1.0, block_chunks=0).
PUBLISHED_OUTPUT = [
    *(-0.1687573939561844, -0.08617337048053741, -0.1790429651737213, -0.023451359942555428),
    *(-0.17195357382297516, -0.08888900279998779, -0.17884273827075958, -0.020179860293865204),
]


class InMemory:
    """An ImageSet of given images."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        return self.images[indices]


def opened(train):
    return OpenDataset(train=InMemory(train), reference=InMemory(train[:1]), protocol={})


def correlated(rng, n, d, shift=0.0):
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + shift


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    for weights in (_inception.WEIGHTS, _vgg16.WEIGHTS, _dinov2.WEIGHTS):
        monkeypatch.setenv(weights.variable, str(tmp_path / "nothing" / weights.file_name))


# ------------------------------------------------------------------------------------------- without the weights


@pytest.mark.parametrize("name", PRETRAINED)
def test_without_weights_a_metric_is_one_sentence_and_no_value(name, no_weights):
    metric = METRICS.load(name)
    reason = metric.why_unavailable()
    assert "\n" not in reason and reason.endswith(".")
    assert "fetch https://" in reason and "BENCH_" in reason and "rfd_v1 needs no weights" in reason
    assert metric.why_not("scenes") is None, "that the data do not suit it is another matter"
    with pytest.raises(MissingDataError) as caught:
        metric.prepare(opened(np.zeros((30, 3, 32, 32), dtype=np.uint8)))
    assert str(caught.value) == reason


def test_metrics_that_need_no_weights_are_available(no_weights):
    for name in set(METRICS.names()) - set(PRETRAINED):
        assert METRICS.load(name).why_unavailable() is None


def test_another_file_under_the_right_name_is_refused(tmp_path, monkeypatch):
    path = tmp_path / _inception.WEIGHTS.file_name
    torch.save({}, path)
    monkeypatch.setenv("BENCH_INCEPTION_WEIGHTS", str(path))
    for name in ("fid-50k", "kid-50k", "inception-score-50k"):
        assert "not the pinned weights" in METRICS.load(name).why_unavailable()
        with pytest.raises(BenchError, match="not the pinned weights"):
            METRICS.load(name).prepare(opened(np.zeros((30, 3, 32, 32), dtype=np.uint8)))


def test_only_the_metric_with_the_pinned_hash_has_a_figure_that_is_called_fid():
    for name in METRICS.names():
        figures = METRICS.load(name).figures
        if name == "fid-50k":
            assert all(figure.startswith("fid_") for figure in figures)
        else:
            assert not [figure for figure in figures if "fid" in figure], name
    assert _inception.WEIGHTS.sha256 == "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"


def test_one_place_builds_inception_and_nothing_fetches_weights_or_takes_them_from_the_library():
    building = [path.name for path in SOURCES if "FeatureExtractorInceptionV3(" in path.read_text()]
    assert building == ["_inception.py"]
    fetching = re.compile(
        r"load_state_dict_from_url|hub\.load|calculate_metrics|create_feature_extractor|inception_v3\("
    )
    assert [path.name for path in SOURCES if fetching.search(path.read_text())] == []
    keys = re.compile(r"""["'](fid|fid_\w+)["']""")
    emitting = {path.name for path in SOURCES if path.parent.name == "metrics" and keys.search(path.read_text())}
    assert emitting == {"fid_50k.py"}


# --------------------------------------------------------------------------------- agreement with torch-fidelity


def fidelity_fid(first, second):
    statistics = [fid_features_to_statistics(torch.from_numpy(each)) for each in (first, second)]
    return fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]


def test_the_frechet_distance_is_torch_fidelitys_on_the_same_features():
    rng = np.random.default_rng(0)
    first, second = correlated(rng, 700, 96), correlated(rng, 900, 96, shift=0.2)
    ours = FrechetReference(moments_of(first)).distance(moments_of(second))
    assert ours == pytest.approx(fidelity_fid(first, second), abs=1e-6)


def test_so_it_is_where_there_are_fewer_images_than_features():
    rng = np.random.default_rng(1)
    first, second = correlated(rng, 40, 64), correlated(rng, 30, 64, shift=0.2)
    ours = FrechetReference(moments_of(first)).distance(moments_of(second))
    # torch-fidelity adds the roots of rounding noise over the null directions
    assert ours == pytest.approx(fidelity_fid(first, second), abs=1e-4)


def test_the_kernel_distance_is_torch_fidelitys_on_the_same_features(monkeypatch):
    monkeypatch.setattr(kid_50k, "NUM_SUBSETS", 12)
    monkeypatch.setattr(kid_50k, "SUBSET_SIZE", 150)
    rng = np.random.default_rng(2)
    generated, real = (correlated(rng, n, 64, shift).astype(np.float32) for n, shift in ((400, 0.1), (300, 0.0)))
    theirs = kid_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(real).double(),
        kid_subsets=12,
        kid_subset_size=150,
        rng_seed=2020,
        verbose=False,
    )
    found = kid_50k.subset_discrepancies(generated, real, "cpu")
    assert found.mean() == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-10)
    assert found.std() == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-10)


def test_the_kernel_distance_is_the_sum_over_pairs():
    rng = np.random.default_rng(3)
    x, z = (torch.from_numpy(rng.normal(size=(5, 7))) for _ in range(2))

    def kernel(a, b):
        return (float(a @ b) / 7 + 1) ** 3

    within = sum(kernel(side[i], side[j]) for side in (x, z) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(kernel(a, b) for a in x for b in z) / 25
    assert kid_50k.squared_discrepancy(x, z) == pytest.approx(within - 2 * between, abs=1e-12)


def test_the_inception_score_of_every_split_is_torch_fidelitys():
    rng = np.random.default_rng(4)
    logits = (3 * rng.normal(size=(300, inception_score_50k.NUM_CLASSES))).astype(np.float32)
    splits = rng.integers(0, 4, 300)
    sums = inception_score_50k.ScoreSums(4)
    for rows in np.array_split(np.arange(300), 7):
        sums.add(logits[rows], splits[rows])
    for split, score in enumerate(sums.scores()):
        theirs = isc_features_to_metric(torch.from_numpy(logits[splits == split]), splits=1, shuffle=False)
        assert score == pytest.approx(theirs["inception_score_mean"], abs=1e-6)


def test_the_inception_score_has_its_closed_forms():
    sums = inception_score_50k.ScoreSums(2)
    logits = np.zeros((20, inception_score_50k.NUM_CLASSES), dtype=np.float32)
    sums.add(logits, np.zeros(20, dtype=np.int64))  # unsure of everything
    logits[np.arange(20), np.arange(20) % 10] = 1000.0
    sums.add(logits, np.ones(20, dtype=np.int64))  # sure of ten classes
    assert sums.scores() == pytest.approx([1.0, 10.0], abs=1e-9)


@pytest.mark.parametrize("save_cpu_ram", [False, True])
def test_precision_and_recall_are_torch_fidelitys_on_the_same_features(save_cpu_ram, monkeypatch):
    monkeypatch.setattr(prc, "_BLOCK_ROWS", 37)
    rng = np.random.default_rng(5)
    generated, real = (rng.normal(shift, 1, size=(n, 8)).astype(np.float32) for n, shift in ((150, 0.5), (130, 0.0)))
    theirs = prc_features_to_metric(
        torch.from_numpy(generated).double(),
        torch.from_numpy(real).double(),
        prc_neighborhood=3,
        prc_batch_size=64,
        save_cpu_ram=save_cpu_ram,
        verbose=False,
    )
    precision = prc.num_inside(generated, real, prc.squared_radii(real, "cpu")) / len(generated)
    recall = prc.num_inside(real, generated, prc.squared_radii(generated, "cpu")) / len(real)
    assert 0.1 < recall < precision < 0.99 or 0.1 < precision < recall < 0.99, "a test of nothing else"
    assert precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_a_set_is_inside_itself_and_outside_one_that_is_far():
    features = np.random.default_rng(6).normal(size=(60, 8)).astype(np.float32) + 100
    radii = prc.squared_radii(features, "cpu")
    assert prc.num_inside(features, features, radii) == 60
    assert prc.num_inside(features + 50, features, radii) == 0


def test_copies_of_an_image_are_at_distance_zero_although_the_sums_are_rounded():
    features = np.repeat(np.random.default_rng(7).normal(50, 1, size=(1, 300)), 5, axis=0).astype(np.float32)
    assert prc.squared_radii(features, "cpu").tolist() == [0.0] * 5


# ---------------------------------------------------------------------------------------------------- the line


def gaussian(d):
    return FrechetReference(Moments(count=10**9, mean=np.zeros(d), scatter=np.eye(d) * (10**9 - 1)))


def test_the_line_takes_the_bias_away():
    d, reference, rng = 24, gaussian(24), np.random.default_rng(8)
    lines, plain = [], []
    for _ in range(12):
        features = rng.normal(size=(4000, d))
        features[:, 0] += 0.5  # true distance 0.25
        lines.append(extrapolate(reference, [moments_of(part) for part in np.array_split(features, 10)]))
        plain.append(reference.distance(moments_of(features)))
    line = lines[0]
    assert len(line.counts) == len(SET_SIZES) >= 5
    assert line.counts == pytest.approx([4000 * size / 10 for size in SET_SIZES])
    assert line.r_squared > 0.99
    assert line.standard_error > 0
    intercepts = np.array([each.intercept for each in lines])
    error = intercepts.std(ddof=1) / np.sqrt(len(lines))
    assert abs(intercepts.mean() - 0.25) < 4 * error
    assert np.mean(plain) - 0.25 > 8 * abs(intercepts.mean() - 0.25), "without it the bias is plain to see"


def test_the_line_refuses_another_number_of_groups():
    parts = [moments_of(part) for part in np.array_split(np.random.default_rng(9).normal(size=(90, 3)), 9)]
    with pytest.raises(ValueError, match="10 groups"):
        extrapolate(gaussian(3), parts)


# ---------------------------------------------------------------------------------------------------- the gate


@pytest.mark.parametrize(
    ("distance", "floor", "num_real"),
    [(1e-12, 1e-18, 50_000), (0.9, 1e-9, 50_000), (99.0, 1.0, 50_000), (9.0, 1.0, 5000), (1.9, 1.0, 100)],
)
def test_a_network_that_noise_is_near_to_is_refused(distance, floor, num_real):
    with pytest.raises(BenchError, match="noise scores"):
        require_noise_is_far("A", distance=distance, floor=floor, num_real=num_real, width=2048)


@pytest.mark.parametrize(
    ("distance", "floor", "num_real"), [(300.0, 2.9, 50_000), (300.0, 25.0, 5000), (300.0, 100.0, 100)]
)
def test_a_network_that_noise_is_far_from_is_not(distance, floor, num_real):
    require_noise_is_far("A", distance=distance, floor=floor, num_real=num_real, width=2048)


def test_a_network_that_says_nan_is_refused():
    with pytest.raises(BenchError, match="noise scores"):
        require_noise_is_far("A", distance=float("nan"), floor=0.0, num_real=50_000, width=2048)


# ------------------------------------------------------------------------------------------------ from end to end


def untrained_inception(monkeypatch):
    """torch-fidelity's network as its constructor draws it, which no code of ours can get."""
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)


def pin(monkeypatch, path, network):
    """Save weights and make their hash the pinned one, for this test alone."""
    torch.save(network.state_dict(), path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(_inception, "WEIGHTS", dataclasses.replace(_inception.WEIGHTS, sha256=sha256))
    monkeypatch.setenv("BENCH_INCEPTION_WEIGHTS", str(path))


def scene_images(count, start=0):
    return scenes.SPEC.open(32, None).train.read(np.arange(start, start + count))


def test_an_untrained_inception_is_refused_by_the_gate_even_under_a_pinned_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(_pretrained, "_FEWEST_NOISE_IMAGES", 4)
    monkeypatch.setattr(_pretrained, "FEWEST_FOR_A_CHECK", NUM_IMAGES)
    pin(monkeypatch, tmp_path / "untrained.pth", untrained_inception(monkeypatch))
    with pytest.raises(BenchError, match="noise scores"):
        METRICS.load("fid-50k").prepare(opened(scene_images(NUM_IMAGES)))


class TensorDataset(torch.utils.data.Dataset):
    """What torch-fidelity takes: uint8 tensors [3, h, w]."""

    def __init__(self, images):
        self.images = torch.from_numpy(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Few images scored by three metrics under a test-only hash, and by torch-fidelity's own call."""
    with pytest.MonkeyPatch.context() as patch:
        network = untrained_inception(patch)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)  # features of order 1, not 1e-8
        network.fc.weight.mul_(10)  # answers that differ
        path = tmp_path_factory.mktemp("weights") / "test-only.pth"
        pin(patch, path, network)
        patch.setenv("BENCH_CACHE", str(path.parent / "cache"))
        patch.setattr(_pretrained, "_FEWEST_NOISE_IMAGES", 4)
        patch.setattr(_pretrained, "FEWEST_FOR_A_CHECK", NUM_IMAGES)
        patch.setattr(_pretrained, "_MIN_OVER_FLOOR_OF_FEW", 0.0)
        patch.setattr(_frechet_50k, "_MIN_COUNT_OVER_WIDTH", 0)
        patch.setattr(kid_50k, "SUBSET_SIZE", NUM_IMAGES)
        patch.setattr(kid_50k, "NUM_SUBSETS", 3)
        patch.setattr(inception_score_50k, "MIN_IMAGES", 2)
        patch.setattr(inception_score_50k, "NUM_SPLITS", 2)
        dataset, generated = opened(scene_images(NUM_IMAGES)), scene_images(NUM_IMAGES, start=1000)[..., ::-1].copy()
        before = torch.random.get_rng_state()
        prepared = [METRICS.load(name).prepare(dataset) for name in ("fid-50k", "kid-50k", "inception-score-50k")]
        assert torch.equal(torch.random.get_rng_state(), before), "the run's random stream is not touched"
        scorers = [each.scorer() for each in prepared]
        for part in np.array_split(generated, 3):
            for scorer in scorers:
                scorer.update(part)
        figures = {name: figure for scorer in scorers for name, figure in scorer.figures().items()}
        for module in (_frechet_50k, kid_50k, inception_score_50k):
            patch.setattr(module, "NUM_IMAGES", NUM_IMAGES)
        full = {name: figure for scorer in scorers for name, figure in scorer.figures().items()}
        num_passed = prepared[0].network.num_images_passed
        theirs = calculate_metrics(
            input1=TensorDataset(generated),
            input2=TensorDataset(dataset.train.images),
            feature_extractor_weights_path=str(path),
            cuda=False,
            cache=False,
            save_cpu_ram=True,  # which is how it is kept from starting processes
            verbose=False,
            batch_size=NUM_IMAGES,
            fid=True,
            kid=True,
            isc=True,
            isc_splits=1,
            kid_subsets=3,
            kid_subset_size=NUM_IMAGES,
        )
        sums = inception_score_50k.ScoreSums(1)
        found = prepared[0].network.features_of(generated)
        sums.add(found["logits_unbiased"], np.zeros(NUM_IMAGES, dtype=np.int64))
        return {
            "figures": figures,
            "full": full,
            "theirs": theirs,
            "num_passed": num_passed,
            "protocol": prepared[0].protocol,
            "score": float(sums.scores()[0]),
            "prepared": prepared,
        }


def test_fid_is_what_torch_fidelity_gives_by_hand(scored):
    theirs = scored["theirs"]["frechet_inception_distance"]
    assert theirs > 1e-3
    assert scored["full"]["fid_50k"].value == pytest.approx(theirs, rel=1e-4)


def test_kid_is_what_torch_fidelity_gives_by_hand(scored):
    theirs = scored["theirs"]["kernel_inception_distance_mean"]
    assert abs(theirs) > 1e-4
    assert scored["full"]["kid_50k"].value == pytest.approx(theirs, abs=1e-6)


def test_the_inception_score_is_what_torch_fidelity_gives_by_hand(scored):
    theirs = scored["theirs"]["inception_score_mean"]
    assert theirs > 1.01
    assert scored["score"] == pytest.approx(theirs, abs=1e-6 * theirs)


def test_the_metrics_of_one_network_share_its_passes(scored):
    assert scored["num_passed"] == NUM_IMAGES + 4 + NUM_IMAGES, "real, noise and generated images, each once"


def test_the_names_follow_the_counts(scored):
    few, full = scored["figures"], scored["full"]
    assert set(few) == set(full)
    for name, other in (
        ("fid_50k", "fid_biased"),
        ("kid_50k", "kid_fewer"),
        ("inception_score_50k", "inception_score_fewer"),
    ):
        assert few[name].value is None and f"{NUM_IMAGES}" in few[name].note
        assert few[other].value is not None
        assert few[other].value == full[name].value
        assert full[other].value is None and full[other].note
    assert full["fid_floor"].value > 0
    assert full["fid_infinity"].value is None or full["fid_infinity"].kind == "estimated"


def test_the_protocol_names_the_weights_and_the_images(scored):
    protocol = scored["protocol"]
    assert protocol["weights_sha256"] == scored["prepared"][0].network.weights.sha256
    assert protocol["real_sha256"] == hashlib.sha256(scene_images(NUM_IMAGES).tobytes()).hexdigest()
    assert protocol["num_real"] == NUM_IMAGES
    json.dumps([each.protocol for each in scored["prepared"]])


def test_features_do_not_depend_on_the_batch_they_came_in(scored):
    network, images = scored["prepared"][0].network, scene_images(5)
    alone = network.features_of(images[:1])["2048"][0]
    assert alone == pytest.approx(
        network.features_of(images)["2048"][0], rel=1e-3, abs=1e-4 * float(np.abs(alone).max())
    )


# -------------------------------------------------------------------------------- a small network, to see the figures


class Colours(nn.Module):
    """uint8 images → 12 averages; stands where a pretrained network stands, to test the counting around it."""

    def forward(self, images):
        return (nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1),)


@pytest.fixture
def few_will_do(monkeypatch):
    monkeypatch.setattr(_pretrained, "FEWEST_FOR_A_CHECK", 24)


def colours():
    return PretrainedNetwork(Colours(), ("colours",), _inception.WEIGHTS)


NAMES = _frechet_50k.Names(source="d", full="d_full", biased="d_biased", infinity="d_infinity", floor="d_floor")


def frechet_figures(network, dataset, batches):
    prepared = _frechet_50k.prepare(network, network.real_images(dataset), NAMES, "colours")
    scorer = prepared.scorer()
    for images in batches:
        scorer.update(images)
    return scorer.figures()


def test_the_figures_depend_on_neither_batch_size_nor_order_and_the_line_is_there(few_will_do):
    dataset, images = opened(scene_images(300)), scene_images(240, start=5000)
    whole = frechet_figures(colours(), dataset, [images])
    shuffled = images[np.random.default_rng(0).permutation(240)]
    parts = frechet_figures(colours(), dataset, np.array_split(shuffled, 11))
    for name in ("d_biased", "d_infinity", "d_floor"):
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-6)
    assert whole["d_biased"].low <= whole["d_biased"].value <= whole["d_biased"].high
    assert whole["d_infinity"].value < whole["d_biased"].value
    assert whole["d_infinity"].low < whole["d_infinity"].value < whole["d_infinity"].high
    assert re.search(r"standard error .*R² 0\.\d+", whole["d_infinity"].note)
    assert whole["d_full"].value is None and "240 generated and 300 real" in whole["d_full"].note


@pytest.mark.parametrize(("num_real", "num_generated"), [(300, 23), (23, 300), (300, 0)])
def test_fewer_images_than_twice_the_width_have_no_distance_but_a_reason(num_real, num_generated, few_will_do):
    batches = [scene_images(num_generated, start=5000)] if num_generated else []
    figures = frechet_figures(colours(), opened(scene_images(num_real)), batches)
    for name in ("d_full", "d_biased", "d_infinity"):
        assert figures[name].value is None and "24 of each" in figures[name].note
    assert (figures["d_floor"].value is None) == (num_real == 23)


def test_real_images_among_the_generated_ones_are_counted(few_will_do):
    dataset = opened(scene_images(300))
    figures = frechet_figures(colours(), dataset, [dataset.train.images[:60]])
    assert "60 of the images are, bit by bit" in figures["d_biased"].note


def test_a_set_is_at_distance_zero_from_itself(few_will_do):
    dataset = opened(scene_images(300))
    assert frechet_figures(colours(), dataset, [dataset.train.images])["d_biased"].value < 1e-8 * 255**2


def test_real_images_that_look_like_noise_are_refused(few_will_do):
    noise = np.random.default_rng(1).integers(0, 256, size=(200, 3, 32, 32), dtype=np.uint8)
    with pytest.raises(BenchError, match="look like noise"):
        colours().real_images(opened(noise))


def test_a_large_split_gives_a_fixed_selection_and_the_pass_is_made_once(few_will_do, monkeypatch):
    monkeypatch.setattr(_pretrained, "NUM_REAL_IMAGES", 100)
    monkeypatch.setattr(_pretrained, "MIN_NOISE_OVER_FLOOR", 0.0)
    dataset, network = opened(scene_images(400)), colours()
    first = network.real_images(dataset)
    assert len(first.features) == 100
    assert network.real_images(dataset) is first
    assert first.sha256 == hashlib.sha256(dataset.train.images[_pretrained.selection(400)].tobytes()).hexdigest()
    assert first.sha256 != hashlib.sha256(dataset.train.images[:100].tobytes()).hexdigest(), (
        "the first are no selection"
    )


def test_another_process_makes_no_second_pass_unless_something_changed(few_will_do, monkeypatch):
    images = scene_images(120)
    first, again = colours(), colours()
    before, after = first.real_images(opened(images)), again.real_images(opened(images))
    assert (first.num_images_passed, again.num_images_passed) == (120 + 64, 0)
    assert after.moments.count == 120 and np.array_equal(after.moments.scatter, before.moments.scatter)
    assert np.array_equal(after.features, before.features)
    assert (after.floor, after.digests, after.sha256) == (before.floor, before.digests, before.sha256)
    changed = images.copy()
    changed[7, 0, 3, 3] ^= 1
    other = dataclasses.replace(_inception.WEIGHTS, sha256="1" * 64)
    for network, real in (
        (colours(), changed),
        (colours(), images[:110]),
        (PretrainedNetwork(Colours(), ("colours",), other), images),
    ):
        network.real_images(opened(real))
        assert network.num_images_passed == len(real) + 64


def test_a_kept_side_is_checked_again(few_will_do, monkeypatch):
    dataset = opened(scene_images(120))
    colours().real_images(dataset)
    monkeypatch.setattr(_pretrained, "MIN_NOISE_DISTANCE", 1e9)
    with pytest.raises(BenchError, match="noise scores"):
        colours().real_images(opened(dataset.train.images))


# --------------------------------------------------------------------------------------------------------- DINOv2


def small_transformer():
    """A vision transformer with weights that follow from their place."""
    transformer = _dinov2.VisionTransformer(width=32, num_blocks=2, num_heads=4)
    stream = np.random.RandomState(7)
    with torch.no_grad():
        for _, parameter in sorted(transformer.named_parameters()):
            parameter.copy_(torch.from_numpy(0.2 * stream.standard_normal(tuple(parameter.shape))))
    return transformer.eval()


def test_the_transformer_gives_what_the_published_code_gives():
    x = torch.from_numpy(np.random.RandomState(8).standard_normal((2, 3, 56, 42))).float()
    with torch.inference_mode():
        found = small_transformer()(x)
    assert found[:, :4].flatten().tolist() == pytest.approx(PUBLISHED_OUTPUT, abs=2e-5)


def test_images_are_prepared_as_torch_fidelity_does():
    images = torch.from_numpy(scene_images(2))
    transformer = small_transformer()
    theirs = FeatureExtractorDinoV2.__new__(FeatureExtractorDinoV2)  # its constructor fetches code
    nn.Module.__init__(theirs)
    theirs.feature_extractor_internal_dtype, theirs.features_list = torch.float32, ["dinov2"]
    theirs.model = transformer
    with torch.inference_mode():
        ours = _dinov2.DinoFeatures(transformer)(images)[0]
        assert torch.allclose(ours, theirs(images)[0], atol=1e-5)


def test_tensors_of_another_network_are_refused():
    with pytest.raises(BenchError, match="not those of a ViT-L/14"):
        _dinov2.filled(small_transformer().state_dict())
