"""The commands for weights: sample (images out of them) and import (the authors' files into ours)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli_options import Results
from bench.errors import UsageError


def sample(  # noqa: PLR0913, PLR0917 - typer turns each into an option
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the images go.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="ID", help="A trained run: its id, or how it begins or ends.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="A generator's weights as safetensors.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With --weights, where the file's header does not say it.")] = None,
    size: Annotated[str | None, typer.Option(help="The same.")] = None,
    resolution: Annotated[int | None, typer.Option(help="The same.")] = None,
    attention: Annotated[str | None, typer.Option(help="The same; default: the model's own.")] = None,
    num: Annotated[int, typer.Option(help="Images.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the latents; image i is the same for any --num.")] = 0,
    truncation: Annotated[
        float | None, typer.Option(help="From 0, the mean image, to 1, none; for models with a mapping network.")
    ] = None,
    attention_maps: Annotated[
        bool, typer.Option("--attention-maps", help="Draw LadaGAN's attention maps of the first images.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")
    ] = None,
    results: Results = Path("results"),
) -> None:
    """Write images of a trained run or of a file of weights: single PNGs, a grid, and where they come from."""
    from bench import sampling

    if (run is None) == (weights is None):
        raise UsageError("Say whose images: either --run ID or --weights FILE.")
    asked = sampling.Configuration(model=model, size=size, resolution=resolution, attention=attention)
    if run is not None:
        if asked != sampling.Configuration():
            raise UsageError("--model, --size, --resolution and --attention go with --weights; a run knows its own.")
        loaded = sampling.load_run(results, run, device=device)
    else:
        assert weights is not None
        loaded = sampling.load_file(weights, asked, device=device)
    samples = sampling.sample(
        loaded, num=num, out=out, seed=seed, truncation=truncation, has_attention_maps=attention_maps
    )
    typer.echo(f"{num} image{'s' if num > 1 else ''} of {loaded.title} in {out}")
    typer.echo("\n".join(str(path) for path in (samples.grid, samples.attention, samples.provenance) if path))


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TensorFlow's .index, or the PyTorch port's .pt.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The safetensors file to write.")],
    resolution: Annotated[int, typer.Option(help="Pixels per side of the released model.")],
    model: Annotated[str, typer.Option(help="Whose weights; ladagan is the one whose files are known.")] = "ladagan",
    size: Annotated[str, typer.Option(help="Named size of the model.")] = "paper",
) -> None:
    """Read the official LadaGAN weights into a file for `bench sample --weights`; nothing in them is executed."""
    from bench.released.importing import import_weights

    imported = import_weights(file, model=model, resolution=resolution, size=size, out=out)
    seen = "an unknown number of" if imported.num_images is None else f"{imported.num_images:,}"
    typer.echo(f"{imported.layout}: {imported.num_tensors} tensors, trained on {seen} images ({imported.note})")
    typer.echo(str(imported.path))
