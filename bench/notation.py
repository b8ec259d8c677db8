"""How a figure and a string from a record are written down for a reader.

Figures: the concise notation of the International Vocabulary of Metrology's companion guide (JCGM 100:2008, 7.2.2),
`12.34(5)`, where the digits in parentheses are the uncertainty of the last digits shown. The guide puts a standard
uncertainty there; here it is deliberately the half-width of the stored 95 % interval (the wider side where the two
differ), and every report says so.

Strings: a record may come from anywhere, so what it says must stay text in a terminal, a spreadsheet and Markdown.
Spreadsheet formulas: https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal, localcontext

from bench.records import Kind, Quantity
from bench.units import BYTES_PER_GIB, format_bytes, format_count

UNKNOWN = "—"
UNMARKED_KINDS: tuple[Kind, ...] = ("measured", "computed")

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_MARKDOWN_SIGNS = re.compile(r"([\\`*\[\]|~$]|(?<!\w)_|_(?!\w))")
_FLOAT_RESOLUTION = 1e-15  # an interval narrower than this share of its value is none in float64


def format_quantity(quantity: Quantity | None) -> str:
    """`12.34(5)`; `—` where it is unknown; `12.34(5) [attributed]` where it was not measured or computed.

    An energy estimated from a design power, and what is computed from it, has one digit: `≈3 [estimated]`.
    """
    if quantity is None or quantity.value is None:
        return UNKNOWN
    if quantity.label == "estimated:tdp":
        return f"≈{rounded(quantity.value, 1)} [estimated]"
    text = format_number(quantity.value, quantity.low, quantity.high, quantity.unit)
    mark = provenance_mark(quantity)
    return f"{text} [{mark}]" if mark else text


def provenance_mark(quantity: Quantity) -> str:
    """`estimated`, `attributed` or `simulated`, by its kind or, where it was computed, by the label it inherited."""
    origin = quantity.kind if quantity.label in (None, "unavailable") else str(quantity.label).split(":")[0]
    weaker = [word for word in (quantity.kind, origin) if word not in UNMARKED_KINDS]
    return weaker[0] if weaker else ""


def rounded(value: float, num_digits: int) -> str:
    """A value with that many significant digits and no more: 34.7 → `30`, 0.0123 → `0.01` for one digit."""
    text = f"{value:.{num_digits - 1}e}"
    return text if value != 0 and not 1e-4 <= abs(value) < 1e15 else f"{Decimal(text):f}"


def format_number(value: float, low: float | None = None, high: float | None = None, unit: str = "1") -> str:
    """A value with its interval's half-width in parentheses; four significant digits where it has none or is exact.

    Bytes are given in binary prefixes (GiB where there is an interval); other numbers from a million on get an SI
    prefix, very small and very large ones an exponent. The unit itself is not part of the text unless it is bytes.
    """
    if low is None or high is None or low == high:
        return _without_interval(value, unit)
    magnitude = max(abs(value), abs(low), abs(high))
    if unit == "B":
        return f"{_concise(value, low, high, Decimal(BYTES_PER_GIB))} GiB"
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M")):
        if factor <= magnitude < 1e15:
            return _concise(value, low, high, Decimal(factor)) + prefix
    if magnitude >= 1e15 or 0 < magnitude < 1e-4:
        exponent = Decimal(magnitude).adjusted()
        return _concise(value, low, high, Decimal(1).scaleb(exponent)) + f"e{exponent:+03d}"
    return _concise(value, low, high, Decimal(1))


def _without_interval(value: float, unit: str) -> str:
    if unit == "B" and 0 <= value < 1e15:
        return format_bytes(value)
    magnitude = abs(value)
    if magnitude >= 1e15 or 0 < magnitude < 1e-4:
        return f"{value:.3e}"
    if magnitude >= 1e6:
        return format_count(value)
    if value == int(value):
        return f"{value:.0f}"
    decimals = max(0, 3 - math.floor(math.log10(magnitude)))
    return f"{value:.{decimals}f}"


def _concise(value: float, low: float, high: float, factor: Decimal) -> str:
    """`12.34(5)` in units of `factor`: one digit of half-width, two where the first is a 1."""
    with localcontext() as context:
        context.prec = 700  # the exact difference of any two float64 numbers
        scaled = Decimal(value) / factor
        half_width = max(Decimal(high) - Decimal(value), Decimal(value) - Decimal(low)) / factor
        if half_width <= abs(scaled) * Decimal(_FLOAT_RESOLUTION):
            return _without_interval(float(scaled), "1")
        half_width = Decimal(f"{half_width:.3g}")  # 0.0019999… is a 2: the ends of an interval are binary fractions
        first_digit = half_width.as_tuple().digits[0]
        num_digits = 2 if first_digit == 1 or half_width >= abs(scaled) else 1
        place = half_width.adjusted() - num_digits + 1
        quantum = Decimal(1).scaleb(place)
        rounded = half_width.quantize(quantum, ROUND_HALF_UP)
        shown = scaled.quantize(quantum, ROUND_HALF_UP)
        digits = rounded if place >= 0 else rounded.scaleb(-place).to_integral_value()
        return f"{shown:f}({digits:f})"


def plain(text: str) -> str:
    """One printable line: what would move a cursor, hide or reorder text is spelled out (`\\x1b`, `\\u202e`)."""
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def shortened(text: str, max_chars: int) -> str:
    """The text, its end replaced by `…` where it is too long."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def csv_text(text: str) -> str:
    """A text cell that no spreadsheet takes for a formula: a leading apostrophe where it starts like one."""
    kept = text if text.isprintable() else "".join(sign if sign in "\t\r\n" else plain(sign) for sign in text)
    return f"'{kept}" if kept.startswith(_FORMULA_STARTS) else kept


def markdown_text(text: str) -> str:
    """Text that stays text in a Markdown paragraph or table cell: one line, no HTML, no mark-up, no cell border."""
    return _MARKDOWN_SIGNS.sub(r"\\\1", html.escape(plain(text), quote=False))


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int) -> str:
    """Cells that are escaped already → a Markdown table; the first `num_left` columns and the last flush left."""
    rules = [":--" if index < num_left or index == len(header) - 1 else "--:" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rules, *rows))


def markdown_bullets(lines: Iterable[str]) -> str:
    """Lines that are escaped already → a Markdown list."""
    return "\n".join(f"* {line}" for line in lines)
