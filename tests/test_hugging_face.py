"""`--dataset hugging-face:NAME` with data sets that the package itself has written on this disk."""

import importlib
import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from bench.catalog import find_dataset
from bench.datasets.hugging_face import SPEC
from bench.errors import BenchError, MissingDataError, UsageError

NUM_IMAGES = 10


@pytest.fixture
def library(monkeypatch, tmp_path):
    """The package, its cache in this test's folder, without progress bars."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = pytest.importorskip("datasets", reason="the extra hugging-face is not installed")
    monkeypatch.setattr(found.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    found.disable_progress_bars()
    return found


def encoded(seed, file_format="PNG"):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, file_format)
    return stream.getvalue()


def rows_of(library, contents, columns=("image",)):
    features = library.Features({column: library.Image() for column in columns} | {"label": library.Value("int64")})
    cells = [{"bytes": content, "path": None} for content in contents]
    return library.Dataset.from_dict(
        dict.fromkeys(columns, cells) | {"label": list(range(len(cells)))}, features=features
    )


@pytest.fixture
def saved(library, tmp_path):
    rows_of(library, [encoded(seed) for seed in range(NUM_IMAGES)]).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def read_all(images):
    return images.read(np.arange(len(images)))


def one_sentence(error):
    text = str(error)
    assert "\n" not in text and text.endswith("."), text
    return text


def test_a_saved_set_is_every_image_once_prepared_as_a_folder_would_be(saved):
    opened = SPEC.open(32, str(saved))
    found = np.concatenate([read_all(opened.train), read_all(opened.reference)])
    wanted = []
    for seed in range(NUM_IMAGES):
        cropped = Image.open(io.BytesIO(encoded(seed))).crop((5, 0, 45, 40))
        wanted.append(np.asarray(cropped.resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1))
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in wanted)
    assert len(opened.train) == len(opened.reference) == 5
    assert str(saved) not in str(opened.protocol), "a record does not depend on where the files lie"


def test_it_can_be_sent_to_another_process_and_opened_again(saved):
    first, second = SPEC.open(32, str(saved)), SPEC.open(32, str(saved))
    assert first.protocol == second.protocol
    np.testing.assert_array_equal(read_all(pickle.loads(pickle.dumps(first.train))), read_all(second.train))


def test_one_changed_byte_is_another_manifest(library, saved, tmp_path):
    contents = [encoded(seed) for seed in range(NUM_IMAGES)]
    contents[3] = contents[3][:-1] + b"x"
    rows_of(library, contents).save_to_disk(tmp_path / "other")
    manifests = {SPEC.open(32, str(path)).protocol["manifest_sha256"] for path in (saved, tmp_path / "other")}
    assert len(manifests) == 2


def test_a_split_and_a_column_are_chosen_by_name(library, tmp_path):
    small = rows_of(library, [encoded(seed) for seed in range(4)], ("photo", "mask"))
    large = rows_of(library, [encoded(seed) for seed in range(6)], ("photo", "mask"))
    library.DatasetDict({"train": small, "test": large}).save_to_disk(tmp_path / "both")
    path = f"{tmp_path / 'both'}"
    assert len(SPEC.open(32, f"{path}#photo").train) == 2
    opened = SPEC.open(32, f"{path}@test#mask")
    assert len(opened.train) == 3
    assert opened.protocol["selection"] == "column mask of every row of split test"
    for word, complaint in (
        (path, "needs the column, as #COLUMN; its columns of images: photo, mask"),
        (f"{path}#label", "no column of images 'label'; its columns of images: photo, mask"),
        (f"{path}@valid#mask", "no split valid; known: train, test"),
    ):
        with pytest.raises(UsageError, match=complaint) as caught:
            SPEC.open(32, word)
        one_sentence(caught.value)


def test_the_command_line_hands_the_whole_word_over():
    found = find_dataset("hugging-face:someone/photos@test#image")
    assert (found.name, found.path) == ("hugging-face", "someone/photos@test#image")


def test_what_the_package_has_in_its_cache_is_read_without_a_network(library, tmp_path):
    photos, cache = tmp_path / "my_photos", library.config.HF_DATASETS_CACHE
    photos.mkdir()
    for seed in range(6):
        (photos / f"{seed}.jpg").write_bytes(encoded(seed, "JPEG"))
    library.load_dataset("imagefolder", data_dir=str(photos), cache_dir=str(cache))
    (written,) = (cache / "imagefolder").glob("*/*/*/")
    as_from_hub = cache / "someone___photos" / "default" / written.parts[-2] / written.parts[-1]
    as_from_hub.parent.mkdir(parents=True)
    written.rename(as_from_hub)
    (as_from_hub / "imagefolder-train.arrow").rename(as_from_hub / "photos-train.arrow")
    opened = SPEC.open(32, "someone/photos")
    assert len(opened.train) + len(opened.reference) == 6
    assert read_all(opened.train).std() > 1


def test_what_is_not_in_the_cache_is_one_sentence_with_the_remedy(library):
    with pytest.raises(MissingDataError, match=r"datasets\.load_dataset\('someone/photos'\).*--no-data") as caught:
        SPEC.open(32, "someone/photos")
    one_sentence(caught.value)


def test_a_damaged_row_and_an_empty_one_are_named(library, tmp_path):
    for name, content, complaint in (
        ("damaged", encoded(1)[:-300], r"Row 1 of 'hugging-face:.*' is truncated or damaged"),
        ("no-image", b"hello", r"Row 1 of '.*' is not a JPEG"),
    ):
        rows_of(library, [encoded(0), content]).save_to_disk(tmp_path / name)
        opened = SPEC.open(32, str(tmp_path / name))
        with pytest.raises(BenchError, match=complaint) as caught:
            [read_all(images) for images in (opened.train, opened.reference)]
        one_sentence(caught.value)
    features = library.Features({"image": library.Image()})
    cells = {"image": [None, {"bytes": encoded(0), "path": None}]}
    library.Dataset.from_dict(cells, features=features).save_to_disk(tmp_path / "empty")
    opened = SPEC.open(32, str(tmp_path / "empty"))
    with pytest.raises(BenchError, match=r"Row 0 of '.*' is empty"):
        [read_all(images) for images in (opened.train, opened.reference)]


@pytest.mark.parametrize("word", [None, "", "@train", "name@", "name@a@b", "name#x#y"])
def test_a_wrong_word_is_one_sentence(word):
    with pytest.raises(UsageError, match="is written hugging-face:NAME") as caught:
        SPEC.open(32, word)
    one_sentence(caught.value)


def test_a_folder_that_is_no_saved_set_or_has_too_few_images_is_one_sentence(library, tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match=r"was not written by `save_to_disk`.*folder:PATH") as caught:
        SPEC.open(32, str(tmp_path / "plain"))
    one_sentence(caught.value)
    rows_of(library, [encoded(0)]).save_to_disk(tmp_path / "one")
    with pytest.raises(UsageError, match="fewer than the 2 images") as caught:
        SPEC.open(32, str(tmp_path / "one"))
    one_sentence(caught.value)


def test_without_the_package_it_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDataError, match=r"pip install 'gan-bench\[hugging-face\]'.*--no-data") as caught:
        SPEC.open(32, str(tmp_path))
    one_sentence(caught.value)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("datasets")
