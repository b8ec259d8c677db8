"""How much CO2 a kilowatt-hour stands for: one country's yearly average, or a figure the user brings with its source.

An intensity is worth nothing without its region, year and source, so the four travel together. Nothing is assumed: no
default country, no look-up of where this computer stands, no network. The country table is the one that codecarbon
packages (Our World in Data, lifecycle greenhouse gases in g CO2-equivalent per kWh generated:
https://ourworldindata.org/grapher/carbon-intensity-electricity); its years differ by country, and each is kept.

Deliberate difference to codecarbon: for countries with regional tables it may take another of its files, and for one it
does not know a world average; here an unknown country is an error.
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.errors import MissingDataError, UsageError

FIVE_GRIDS = ("FRA", "GBR", "USA", "DEU", "POL")  # from little to much carbon; issue 3
OWN_REGION = "own figure"

_PACKAGE = "codecarbon"
_COUNTRY_TABLE = "data/private_infra/global_energy_mix.json"
_YEARS = (1990, 2100)  # outside: a typing error
_INSTEAD = "give --grid-g-per-kwh with --grid-source and --grid-year instead"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """One intensity of electricity.

    Attributes:
        g_per_kwh: grams of CO2-equivalent per kWh.
        region: ISO 3166-1 alpha-3 code of the country, or `own figure`.
        year: year the figure is for.
        source: where it is from.
    """

    g_per_kwh: float
    region: str
    year: int
    source: str

    def text(self) -> str:
        """`FRA 2023: 56 g/kWh`."""
        return f"{self.region} {self.year}: {self.g_per_kwh:.3g} g/kWh"


def grid_of(code: str) -> Grid:
    """The yearly average of a country by its three-letter code, in either case.

    Raises:
        UsageError: the table has no such country, or no usable figure for it.
        MissingDataError: codecarbon's table is not where it was.
    """
    table = _country_table()
    country = table.get(code.strip().upper())
    if country is None:
        raise UsageError(
            f"--grid '{code}' is not in codecarbon's country table. {_suggestion(code, table)}"
            f"Write a three-letter ISO code such as {', '.join(FIVE_GRIDS)}, or {_INSTEAD}."
        )
    g_per_kwh, year = country.get("carbon_intensity"), country.get("year")
    if not isinstance(g_per_kwh, int | float) or not isinstance(year, int) or not 0 < g_per_kwh < math.inf:
        raise UsageError(  # the table says 0 where a country's figure was rounded away
            f"--grid {code}: codecarbon's table says {g_per_kwh} g/kWh for it, which no grid has; {_INSTEAD}."
        )
    source = f"{_PACKAGE} {metadata.version(_PACKAGE)}, {Path(_COUNTRY_TABLE).name} (Our World in Data)"
    return Grid(g_per_kwh=float(g_per_kwh), region=code.strip().upper(), year=year, source=source)


def chosen_grid(
    *, code: str | None = None, g_per_kwh: float | None = None, source: str | None = None, year: int | None = None
) -> Grid | None:
    """What `--grid`, or `--grid-g-per-kwh` with `--grid-source` and `--grid-year`, stand for; None where none is given.

    Raises:
        UsageError: both ways at once, a figure without source or year, or a number that cannot be.
    """
    if g_per_kwh is None:
        if source is not None or year is not None:
            raise UsageError("--grid-source and --grid-year belong to a figure: give --grid-g-per-kwh too.")
        return None if code is None else grid_of(code)
    if code is not None:
        raise UsageError("--grid and --grid-g-per-kwh are two answers to one question: give one of them.")
    if source is None or not source.strip() or year is None:
        raise UsageError(
            "--grid-g-per-kwh needs --grid-source and --grid-year: a figure without source and year means nothing."
        )
    if not 0 < g_per_kwh < math.inf:
        raise UsageError(f"--grid-g-per-kwh {g_per_kwh:g} must be a number above zero, in grams per kWh.")
    if not _YEARS[0] <= year <= _YEARS[1]:
        raise UsageError(f"--grid-year {year} must be a year between {_YEARS[0]} and {_YEARS[1]}.")
    return Grid(g_per_kwh=g_per_kwh, region=OWN_REGION, year=year, source=source.strip())


def checked_pue(pue: float) -> float:
    """The power usage effectiveness: energy of the whole data centre over that of its computers, at least 1.

    Raises:
        UsageError: below 1 or not finite.
    """
    if not 1.0 <= pue < math.inf:
        raise UsageError(f"--pue {pue:g} must be a number from 1.0 (the machine alone) upwards.")
    return pue


def pue_text(pue: float) -> str:
    """`PUE 1 (IT only)`, or `PUE 1.2`."""
    return "PUE 1 (IT only)" if pue == 1.0 else f"PUE {pue:g}"


@cache
def _country_table() -> dict[str, dict[str, Any]]:
    """Three-letter code → what codecarbon knows of the country, read without importing codecarbon.

    Importing it, which `importlib.resources.files` would do, loads its trackers and pandas; `find_spec` only looks.
    """
    package = importlib.util.find_spec(_PACKAGE)
    folders = (package.submodule_search_locations if package is not None else None) or []
    for folder in folders:
        path = Path(folder) / _COUNTRY_TABLE
        try:
            table: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise MissingDataError(
                f"codecarbon's country table '{path}' cannot be read ({error}); {_INSTEAD}."
            ) from error
        return table
    raise MissingDataError(f"codecarbon is not installed, so there is no country table; install it, or {_INSTEAD}.")


def _suggestion(code: str, table: dict[str, dict[str, Any]]) -> str:
    """`Did you mean FRA (France)? ` for a country's name or nearly a code; empty where nothing is near."""
    names = {str(country.get("country_name", "")).lower(): key for key, country in table.items()}
    near_names = difflib.get_close_matches(code.strip().lower(), names, n=1, cutoff=0.7)
    near_codes = difflib.get_close_matches(code.strip().upper(), table, n=3, cutoff=0.6)
    near = [names[name] for name in near_names] or near_codes
    named = [f"{key} ({table[key].get('country_name', key)})" for key in near]
    return f"Did you mean {' or '.join(named)}? " if named else ""
