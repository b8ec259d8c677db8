"""How figures and hostile strings are written down: `bench.notation`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_report import HOSTILE, figure

from bench.notation import csv_text, format_number, format_quantity, markdown_text, plain
from bench.records import unknown


@pytest.mark.parametrize(
    ("value", "half_width", "text"),
    [
        (12.3412, 0.052, "12.34(5)"),
        (12.3412, 0.0149, "12.341(15)"),  # a leading 1 keeps two digits
        (12.3412, 0.0961, "12.34(10)"),  # rounding up to the next power of ten
        (1234.0, 56.0, "1230(60)"),
        (412.34, 3.1, "412(3)"),
        (45.67, 1.2, "45.7(12)"),
        (0.5, 2.0, "0.5(20)"),
        (1.2345e-6, 4e-8, "1.23(4)e-06"),
        (3.21e18, 4e16, "3.21(4)e+18"),
        (758349824.0, 2e6, "758(2) M"),
        (-3.14159, 0.002, "-3.142(2)"),
    ],
)
def test_the_half_width_gives_the_digits_in_parentheses(value, half_width, text):
    assert format_number(value, value - half_width, value + half_width) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "1", "0"),
        (1530.0, "1", "1530"),
        (19901647.0, "1", "19.90 M"),
        (0.43219, "1", "0.4322"),
        (412.34, "image/s", "412.3"),
        (1.5 * 2**30, "B", "1.50 GiB"),
        (-0.00001, "1", "-1.000e-05"),
        (1e300, "1", "1.000e+300"),
        (1e300, "B", "1.000e+300"),
    ],
)
def test_a_figure_without_an_interval_has_no_parentheses(value, unit, text):
    assert format_number(value, unit=unit) == text
    assert format_number(value, value, value, unit=unit) == text


def test_bytes_with_an_interval_keep_it():
    assert format_number(2**31, 2**31 - 2**26, 2**31 + 2**26, unit="B") == "2.00(6) GiB"


def test_the_wider_side_of_an_uneven_interval_is_shown():
    assert format_number(10.0, 9.98, 10.5) == "10.0(5)"


def test_unknown_and_estimated_figures_cannot_pass_for_measured_ones():
    assert format_quantity(None) == "—"
    assert format_quantity(unknown("s", "no clock", source="clock")) == "—"
    assert format_quantity(figure(2.0, 0.3, kind="estimated")) == "2.0(3) [estimated]"
    assert format_quantity(figure(2.0, 0.3, kind="simulated")) == "2.0(3) [simulated]"


@given(
    value=st.floats(-1e200, 1e200),
    half_width=st.floats(0, 1e200),
)
def test_what_is_printed_lies_within_half_a_digit_of_the_value(value, half_width):
    low, high = value - half_width, value + half_width
    text = format_number(value, low, high)
    factor = {"M": 1e6, "G": 1e9, "T": 1e12, "k": 1e3}.get(text[-1], 1.0)
    match = re.fullmatch(r"(-?\d+)(?:\.(\d+))?(?:\((\d+)\))?(?:e([+-]\d+))?(?: [kMGT])?", text)
    assert match is not None, text
    whole, decimals, digits, exponent = match.groups()
    scale = factor * 10.0 ** int(exponent or 0)
    shown = float(f"{whole}.{decimals or 0}") * scale
    if digits is None:
        assert shown == pytest.approx(value, rel=6e-4)
        return
    shown_half_width = int(digits) * scale * 10.0 ** -len(decimals or "")
    true_half_width = max(high - value, value - low)
    assert shown_half_width == pytest.approx(true_half_width, rel=0.34)
    assert abs(shown - value) <= true_half_width * 0.51


def test_hostile_text_stays_text():
    assert csv_text("=1+1") == "'=1+1"
    assert csv_text("@x").startswith("'")
    assert csv_text("\tx").startswith("'")
    assert csv_text("-x").startswith("'")
    assert csv_text("plain = text") == "plain = text"
    assert "\x1b" not in plain(HOSTILE)
    assert "\u202e" not in plain(HOSTILE)
    assert "\n" not in plain(HOSTILE)
    escaped = markdown_text(HOSTILE)
    assert "<" not in escaped
    assert "\n" not in escaped
    assert not re.search(r"(?<!\\)[|*\[\]$]", escaped)
    assert markdown_text("rfd_v1_real") == "rfd_v1_real"
