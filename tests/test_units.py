import pytest

from bench.errors import UsageError
from bench.units import Budget, format_bytes, format_count, format_duration, parse_budget


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("200kimg", Budget(num_images=200_000)),
        ("1.5 Mimg", Budget(num_images=1_500_000)),
        ("64img", Budget(num_images=64)),
        ("5min", Budget(duration_s=300)),
        ("10s", Budget(duration_s=10)),
        ("2h", Budget(duration_s=7200)),
        ("0.2kWh", Budget(energy_j=720_000)),
        ("3wh", Budget(energy_j=10_800)),
    ],
)
def test_a_budget_is_read_in_images_time_or_energy(text, budget):
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["5parsecs", "", "kimg", "-5min", "5", "0kimg", "nan s", "1e3img", "5 min extra"])
def test_anything_else_is_refused_in_one_sentence_that_names_the_option(text):
    with pytest.raises(UsageError, match="--train-for") as caught:
        parse_budget(text)
    assert "\n" not in str(caught.value)


def test_figures_are_formatted_for_readers():
    assert format_count(19_901_647) == "19.90 M"
    assert format_count(758_349_824) == "758.3 M"
    assert format_count(512) == "512"
    assert format_count(999_999_999) == "1.000 G"
    assert format_bytes(4_831_838_208) == "4.50 GiB"
    assert format_duration(0.52) == "0.5 s"
    assert format_duration(125) == "2 min 05 s"
    assert format_duration(7320) == "2 h 02 min"
