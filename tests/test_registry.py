import pytest

from bench.catalog import DATASETS, METERS, METRICS, MODELS, find_dataset, find_model, source_hash
from bench.errors import UsageError
from bench.registry import suggest


@pytest.mark.parametrize("registry", [MODELS, DATASETS, METERS, METRICS], ids=lambda registry: registry.kind)
def test_every_plug_in_file_has_its_constant(registry):
    assert registry.names()
    for name in registry.names():
        assert isinstance(registry.load(name), registry.plugin_type)


def test_a_typo_gets_a_suggestion():
    with pytest.raises(UsageError, match="Did you mean 'ladagan'"):
        find_model("ladagn")
    with pytest.raises(UsageError, match="Did you mean 'lsun-bedroom'"):
        find_dataset("lsun-bedrom")
    assert suggest("zzzzzz", ["ladagan"]) == "Known: ladagan."


def test_a_file_name_with_an_underscore_is_typed_with_a_dash():
    assert "lsun-bedroom" in DATASETS.names()
    with pytest.raises(UsageError):
        DATASETS.load("lsun_bedroom")


@pytest.mark.parametrize("word", ["folder", "folder:"])
def test_a_data_set_that_takes_a_path_asks_for_it(word):
    with pytest.raises(UsageError, match="folder:PATH"):
        find_dataset(word)


def test_a_path_where_none_is_taken_is_refused():
    with pytest.raises(UsageError, match="takes no path"):
        find_dataset("scenes:somewhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [("import no_such_module_here", "cannot be imported"), ("SPEC = 3", "defines no SPEC"), ("def (", "cannot be")],
)
def test_a_model_file_that_is_not_one_is_refused_in_a_sentence(tmp_path, text, message):
    path = tmp_path / "my_gan.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        find_model(str(path))


def test_a_model_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no model file"):
        find_model(str(tmp_path / "absent.py"))


def test_the_source_hash_covers_the_private_files_a_model_imports(tmp_path):
    (tmp_path / "gan.py").write_text("from models._layers_of_test import x\n")
    alone = source_hash(tmp_path / "gan.py")
    (tmp_path / "_layers_of_test.py").write_text("x = 1\n")
    first = source_hash(tmp_path / "gan.py")
    (tmp_path / "_layers_of_test.py").write_text("x = 2\n")
    second = source_hash(tmp_path / "gan.py")
    assert len({alone, first, second}) == 3
