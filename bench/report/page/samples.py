"""Pictures inside `report.html`: sample grids cut to a byte budget, and plots as the smaller of PNG and SVG.

Sample grids are cut, never recompressed: the first k × k images at their own pixels show what a model makes; a grid
shrunk to fit shows what the resampling makes. All models start from the same fixed latents and nobody selects, so the
first images are as good a choice as any, and all grids are cut to the same number. Only what is larger than the
page can show is made smaller.
"""

from __future__ import annotations

import base64
import io
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from bench.notation import format_quantity
from bench.report.plots_training import last_grid, num_images_text, read_grid
from bench.report.rows import data_name, model_name, sort_key
from bench.store import StoredRun

_GRID_SIDES = (6, 5, 4, 3, 2, 1)  # images per side, the most that fits is taken
_PADDINGS = (2, 0)  # pixels between two images of a grid
_MAX_SAMPLES = 16
_MAX_SIDE_PIXELS = 384
_LARGE_PNG_BYTES = 30_000  # a palette of 256 colours is invisible in a plot and saves two thirds
_BASE64 = 4 / 3


@dataclass(frozen=True, kw_only=True)
class PagePicture:
    """A plot; neither PNG nor SVG where there was nothing to draw and `caption` says why."""

    name: str
    title: str
    caption: str
    png: bytes | None = None
    svg: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An image as the page has it.

    Attributes:
        uri: `data:…`; empty where there is none.
        width, height: in CSS pixels; None where unknown.
        run: whose samples they are.
    """

    title: str
    caption: str
    uri: str
    width: int | None = None
    height: int | None = None
    run: StoredRun | None = None


def shown_pictures(pictures: Iterable[PagePicture], max_bytes: int) -> list[Shown]:
    """Every plot in the order given; the largest are left to the files beside the page where they do not all fit."""
    chosen = [(each, _smaller(each)) for each in pictures]
    kept = {id(each) for each, _ in chosen}
    sizes = sorted(((len(uri), id(each)) for each, uri in chosen), reverse=True)
    while sum(size for size, key in sizes if key in kept) > max_bytes:
        kept.discard(next(key for _, key in sizes if key in kept))
    shown = []
    for each, uri in chosen:
        left_out = f" Too large for this page: {each.name}.png lies beside it." if uri and id(each) not in kept else ""
        width, height = _png_size(each.png) if each.png else (None, None)
        kept_uri = "" if left_out else uri
        shown.append(Shown(title=each.title, caption=each.caption + left_out, uri=kept_uri, width=width, height=height))
    return shown


def shown_samples(runs: Sequence[StoredRun], max_bytes: int) -> tuple[list[Shown], int]:
    """The last sample grid of each model on each data set, in table order, and how many more runs have one.

    Args:
        runs: newest first; of a model's runs on one data set the newest that is no smoke run speaks, else the newest.
        max_bytes: of all data URIs together.
    """
    with_grids = [run for run in runs if last_grid(run)]
    by_worth = sorted(with_grids, key=lambda run: run.record.spec.preset == "smoke")
    first: dict[tuple[str, str], StoredRun] = {}
    for run in by_worth:
        first.setdefault((model_name(run.record), data_name(run.record)), run)
    grids = [(run, read_grid(run)) for run in list(first.values())[:_MAX_SAMPLES]]
    readable = [(run, Image.fromarray(grid)) for run, grid in grids if not isinstance(grid, str)]  # write.py tells why
    readable.sort(key=lambda each: sort_key(each[0].record))
    shown = [
        Shown(
            title=model_name(run.record),
            caption=" · ".join(filter(None, (_score(run), num_images_text(run)))),
            uri=_uri("png", png),
            width=side,
            height=side,
            run=run,
        )
        for (run, _), (png, side) in zip(readable, _cut_alike(readable, int(max_bytes / _BASE64)), strict=True)
    ]
    return shown, len(with_grids) - len(shown)


def _score(run: StoredRun) -> str:
    quantity = run.record.quantity("rfd_v1")
    return "" if quantity is None or quantity.value is None else f"rfd_v1 {format_quantity(quantity)}"


def _cut_alike(grids: Sequence[tuple[StoredRun, Image.Image]], max_bytes: int) -> list[tuple[bytes, int]]:
    """PNG and side in pixels of each grid: as many images a side as fit into the budget, the same number for all."""
    cut: list[tuple[bytes, int]] = []
    for num_images in _GRID_SIDES:
        for max_side in (_MAX_SIDE_PIXELS, _MAX_SIDE_PIXELS // 2):
            images = [_first_images(image, run.record.spec.resolution or 0, num_images) for run, image in grids]
            for image in images:
                image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
            cut = [(_png(image), max(image.size)) for image in images]
            if sum(len(png) for png, _ in cut) <= max_bytes:
                return cut
    return cut  # one small image of each model: a few KB, whatever the budget


def _first_images(image: Image.Image, resolution: int, num_images: int) -> Image.Image:
    """The upper left corner with that many images a side; the whole picture where its layout is not known."""
    padding = next((pad for pad in _PADDINGS if resolution and _is_grid(image.size, resolution, pad)), None)
    side = min(image.size) if padding is None else num_images * (resolution + padding) - padding
    return image.crop((0, 0, min(side, image.width), min(side, image.height)))


def _is_grid(size: tuple[int, int], resolution: int, padding: int) -> bool:
    return all((side + padding) % (resolution + padding) == 0 for side in size)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _png_size(png: bytes) -> tuple[int, int] | tuple[None, None]:
    """Width and height from the header (PNG specification, 11.2.2); None for something else."""
    if len(png) < 24 or png[12:16] != b"IHDR":
        return None, None
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def _smaller(picture: PagePicture) -> str:
    """The data URI of the smallest of SVG, PNG, and the PNG with a palette; empty where there is none."""
    if picture.png and len(picture.png) > _LARGE_PNG_BYTES:
        with Image.open(io.BytesIO(picture.png), formats=["PNG"]) as image:
            png = _png(image.convert("RGB").quantize(256, dither=Image.Dither.NONE))
        picture = replace(picture, png=min(png, picture.png, key=len))
    uris = [_uri(kind, data) for kind, data in (("png", picture.png), ("svg+xml", picture.svg)) if data]
    return min(uris, key=len, default="")


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
