"""The options of the commands: name, type and one line of help each. Those of `run` stand in the order of its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

# The question
Model = Annotated[str | None, typer.Option(help="A name in `bench list models`, or a file such as my_gan.py.")]
Size = Annotated[str | None, typer.Option(help="Named size of the model: paper (default) or tiny.")]
Attention = Annotated[
    str | None, typer.Option(help="Operator of the attention layers, where the model offers several.")
]
Discriminator = Annotated[str | None, typer.Option(help="Train with the discriminator and losses of this other model.")]
Dataset = Annotated[str | None, typer.Option(help="A name in `bench list datasets`, or folder:PATH.")]
Resolution = Annotated[int | None, typer.Option(help="Pixels per side. Default: the data set's usual one.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step. Default: the recipe's.")]
Precision = Annotated[str | None, typer.Option(help="fp32, tf32 or bf16. Default: the recipe's.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. Default: the GPU where there is one.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random. Default: 0.")]
TrainFor = Annotated[
    str | None,
    typer.Option(help="200kimg, 5min or 0.2kWh. Default by preset: 10 s, 5 min, the recipe's images."),
]
EvalEvery = Annotated[
    str | None, typer.Option(help="50kimg or 5min: score the generator that often. Default: at thirds, afterwards.")
]
Until = Annotated[
    str | None, typer.Option(metavar="GOAL", help="End the training early where, for example, rfd_v1<=0.1.")
]
Metrics = Annotated[
    str | None,
    typer.Option(help="Comma-separated, of `bench list metrics`. Default: all that apply and can be had."),
]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="Measure and score these weights; nothing is trained.")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the losses with torch.compile.")]
Capture = Annotated[bool, typer.Option("--capture", help="On CUDA: whole steps as captured graphs.")]
ChannelsLast = Annotated[
    bool, typer.Option("--channels-last", help="Keep the channels of convolutions innermost in memory.")
]
NumAccumulationSteps = Annotated[int | None, typer.Option(help="Work off a batch in so many parts. Default: 1.")]
Preset = Annotated[str | None, typer.Option(help="How long to measure: smoke, standard (default) or publish.")]
Phases = Annotated[
    str | None, typer.Option(help="Comma-separated: cost,generate,train_step,train,quality. Default: all.")
]
NoData = Annotated[bool, typer.Option("--no-data", help="Cost and speed on random images; no training, no quality.")]
TdpW = Annotated[
    float | None, typer.Option(help="Design power of the processor: allows an estimate where there is no meter.")
]
CheckpointEvery = Annotated[
    str, typer.Option(metavar="5min", help="How much training a kill may lose: images or time.")
]
Log = Annotated[Literal["tensorboard"] | None, typer.Option(help="A log of the training beside its JSONL.")]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Readers of the training's images; 0 reads in place. Default: 1 thread.")
]
WorkerStart = Annotated[
    Literal["thread", "fork", "spawn"], typer.Option(help="What a worker is: a thread, or a process started so.")
]
ImagesIn = Annotated[
    Literal["auto", "storage", "memory", "device"],
    typer.Option(help="Where the training's images lie; auto: on the GPU where they fit."),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what was measured before.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly the stored record on stdout.")]

# Where the electricity comes from: CO2 is computed when it is shown, never stored
GridCode = Annotated[
    str | None, typer.Option("--grid", metavar="FRA", help="Country of the electricity, as a three-letter code.")
]
GridIntensity = Annotated[float | None, typer.Option("--grid-g-per-kwh", help="Own figure in place of --grid.")]
GridSource = Annotated[str | None, typer.Option("--grid-source", help="Where the own figure is from.")]
GridYear = Annotated[int | None, typer.Option("--grid-year", help="Year the own figure is for.")]
Pue = Annotated[float, typer.Option("--pue", help="Power usage effectiveness; 1 is the machine alone.")]
Results = Annotated[Path, typer.Option("--results", metavar="DIR", help="Folder of all runs.")]
