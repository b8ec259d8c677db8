"""The commands for data: `bench data list`, `info`, `prepare`, `verify`. Heavy imports wait until they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from bench.datasets._manifest import Manifest
    from bench.datasets._spec import DatasetSpec

app = typer.Typer(
    name="data",
    help="Data sets: what is here, and images prepared once for every run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Name = Annotated[str, typer.Argument(metavar="DATASET", help="A name in `bench data list`.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels per side. Default: the data set's usual one.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="A data folder in place of BENCH_DATA (or ./data).")
]


def say(text: str) -> None:
    """To a person, on stderr."""
    typer.echo(text, err=True)


@app.command(name="list")
def list_(out: Out = None) -> None:
    """List the data sets: resolutions, whether their files are here, and at which resolutions they are prepared."""
    from tabulate import tabulate

    from bench.catalog import DATASETS

    rows = []
    for name in DATASETS.names():
        spec = DATASETS.load(name)
        prepared = ", ".join(filter(None, (_short(name, each, out) for each in sorted(spec.resolutions)))) or "—"
        rows.append([name, spec.title, ", ".join(map(str, spec.resolutions)), _source_state(name, spec), prepared])
    typer.echo(tabulate(rows, headers=["data set", "title", "resolutions", "source", "prepared"], tablefmt="simple"))


@app.command()
def info(dataset: Name, resolution: Resolution = None, out: Out = None) -> None:
    """Say what a data set is and what is prepared of it: source, licence, split, preparation, counts, hashes."""
    from bench.catalog import DATASETS
    from bench.datasets._manifest import PLAN_FILE, prepared_folder, read_manifest

    name = dataset.partition(":")[0]
    spec = DATASETS.load(name)
    typer.echo(f"{name}: {spec.title}\n  source        {spec.source}\n  licence       {spec.licence}")
    typer.echo(f"  files         {_source_state(name, spec)}")
    for each in sorted(spec.resolutions) if resolution is None else [resolution]:
        folder = prepared_folder(name, each, out)
        manifest = read_manifest(folder)
        if manifest is not None:
            typer.echo(_description(manifest))
        elif (folder / PLAN_FILE).is_file():
            typer.echo(f"  unfinished    {each} px; `bench data prepare {name} --resolution {each}` goes on")
        elif resolution is not None:
            typer.echo(f"  prepared      not at {each} px")


@app.command()
def prepare(
    dataset: Name,
    resolution: Resolution = None,
    max_images: Annotated[
        int | None, typer.Option("--max-images", help="A fixed pseudo-random part of the set, of both splits.")
    ] = None,
    storage: Annotated[
        Literal["auto", "memmap", "zip", "lmdb"],
        typer.Option(help="How images are kept; auto: memmap up to 200,000, zip beyond."),
    ] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 works in this one.")] = 2,
    download: Annotated[
        bool, typer.Option("--download", help="First fetch what the authors publish: cifar10, lsun-bedroom (46 GB).")
    ] = False,
    out: Out = None,
) -> None:
    """Decode, crop and resize once; later runs read the result. Interrupted, the same command goes on."""
    from bench.catalog import DATASETS
    from bench.datasets._download import download_dataset
    from bench.preparation import Options, prepare

    name = dataset.partition(":")[0]
    spec = DATASETS.load(name)
    if download:
        say(f"Licence of {spec.title}: {spec.licence}")
        download_dataset(name)
    options = Options(
        resolution=resolution or spec.default_resolution,
        max_images=max_images,
        storage=storage,
        num_workers=workers,
        data=out,
    )
    typer.echo(_description(prepare(name, spec, options, say)))


@app.command()
def verify(dataset: Name, resolution: Resolution = None, out: Out = None) -> None:
    """Hash everything that was prepared again: ok, or the first file that is not what was written (exit 1)."""
    from bench.catalog import DATASETS
    from bench.preparation import verify

    spec = DATASETS.load(dataset)
    manifest = verify(dataset, resolution or spec.default_resolution, out)
    num_images = manifest.num_train_images + manifest.num_reference_images
    typer.echo(f"ok: {num_images:,} images in {len(manifest.shards)} shards are as they were written")


@app.command()
def weights(
    network: Annotated[
        Literal["inception", "vgg16", "dinov2"] | None, typer.Argument(help="Fetch these; without it all are listed.")
    ] = None,
) -> None:
    """List the pretrained weights that metrics need, or fetch one of them and check its hash."""
    from tabulate import tabulate

    from bench.datasets._download import Expected, download
    from bench.metrics import _dinov2, _inception, _vgg16

    every = {"inception": _inception.WEIGHTS, "vgg16": _vgg16.WEIGHTS, "dinov2": _dinov2.WEIGHTS}
    if network is None:
        rows = [[name, each.title, each.why_unavailable() or f"at {each.path()}"] for name, each in every.items()]
        typer.echo(tabulate(rows, headers=["name", "network", "state"], tablefmt="simple"))
        return
    pinned = every[network]
    if pinned.why_unavailable() is not None:
        download(pinned.url, pinned.path(), Expected(sha256=pinned.sha256))
    typer.echo(f"{pinned.title}: at {pinned.path()}, SHA-256 {pinned.sha256}")


def _source_state(name: str, spec: DatasetSpec) -> str:
    """Whether there are files, by a look at the folder; opening a set may take long."""
    from bench.datasets._files import data_folder

    if spec.takes_path:
        return "where PATH says"
    if not spec.source.startswith("https://"):
        return "computed"
    folder = data_folder(name)
    is_here = folder.is_dir() and any(child.name != "prepared" for child in folder.iterdir())
    return f"in {folder}" if is_here else "not here"


def _short(name: str, resolution: int, data: Path | None) -> str:
    """What is prepared at that resolution, in few words; empty where nothing is."""
    from bench.datasets._manifest import prepared_folder, read_manifest
    from bench.errors import BenchError

    try:
        manifest = read_manifest(prepared_folder(name, resolution, data))
    except BenchError:
        return f"{resolution} px (damaged: see `bench data info {name}`)"
    if manifest is None:
        return ""
    plan = manifest.plan
    part = "" if plan.max_images is None else f", {manifest.num_train_images + manifest.num_reference_images:,} images"
    return f"{plan.resolution} px ({plan.storage}{part})"


def _description(manifest: Manifest) -> str:
    """A manifest for a person."""
    from bench.units import format_bytes

    plan, protocol = manifest.plan, manifest.plan.protocol
    num_bytes = sum(each.shard.num_bytes for each in manifest.shards)
    size = f"{format_bytes(num_bytes)} in {len(manifest.shards)} shards"
    corrupt = [f"                {entry.split}/{entry.key}: {entry.reason}" for entry in manifest.corrupt[:5]]
    if len(manifest.corrupt) > len(corrupt):
        corrupt.append(f"                and {len(manifest.corrupt) - len(corrupt):,} more in manifest.json")
    lines = [
        f"  prepared      {plan.resolution} px, {plan.storage}, {size}",
        f"  images        {manifest.num_train_images:,} train, {manifest.num_reference_images:,} reference",
        f"  selection     {protocol['selection']}",
        f"  split         {protocol['split']}",
        f"  preparation   {protocol['preparation']} (Pillow {plan.pillow})",
        f"  corrupt       {len(manifest.corrupt):,} entries left out",
        *corrupt,
        f"  pixels        SHA-256 {manifest.pixels_sha256}",
    ]
    return "\n".join(lines)
