"""Published figures beside ours: what "reproduced" means, and that the famous ones are."""

import pytest

from bench.catalog import MODELS
from bench.errors import BenchError
from bench.paper import AS_PUBLISHED, judge, published_rows, reads_the_same, table

FIGURES = {"params_generator", "macs_generator", "macs_step_conv_linear", "fid"}


@pytest.mark.parametrize(
    ("ours", "published", "same"),
    [
        (19_901_647, "19M", True),  # truncated
        (758_349_824, "0.7B", True),
        (295_136_000, "295M", True),
        (57_095_000, "57M", True),
        (23_819_544, "24M", True),  # rounded
        (18_900_000, "20M", False),
        (7_666_000_000, "7.8B", False),
        (1_500_000_000, "0.7B", False),  # 2 × MAC is another number
    ],
)
def test_a_figure_is_reproduced_where_its_printed_digits_are(ours, published, same):
    assert reads_the_same(ours, published) is same


def test_every_row_names_a_model_of_the_zoo_a_known_figure_and_its_source():
    rows = published_rows()
    assert {row.model for row in rows} <= set(MODELS.names())
    assert {row.figure for row in rows} == FIGURES
    assert all(row.source for row in rows)
    assert all(row.convention or row.why_different for row in rows if row.figure != "fid")


@pytest.mark.parametrize("row", [row for row in published_rows() if row.model in {"ladagan", "adm"}], ids=str)
def test_ladagan_and_adm_are_reproduced_and_no_fid_is_claimed(row):
    ours, _, status = judge(row)
    if row.figure == "fid":
        assert ours == "—"
        assert AS_PUBLISHED in status
    else:
        assert status == "reproduced" or row.why_different in status


def test_the_table_of_one_model_holds_its_rows_only_and_an_unknown_one_is_one_sentence():
    assert "4.340 G" in table("ladagan")
    assert "adm" not in table("ladagan")
    with pytest.raises(BenchError, match="Nothing is published here for 'nobody'"):
        table("nobody")
