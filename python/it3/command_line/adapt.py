"""``it3 adapt``: a saved engine adapts to the samples in a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

import it3
from it3.command_line.adapting import Batches, adapt_to
from it3.command_line.devices import device_named
from it3.command_line.image_folder import image_numbers_from
from it3.command_line.option_values import checked, options_from
from it3.command_line.printing import AsJson, print_json, work_is_quiet
from it3.command_line.sample_files import check_ending, write_results
from it3.command_line.wrong_usage import WrongUsageError
from it3.support.kept import seed_all

Setting = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="An option as in it3.Options, in the place of the engine's."),
]
EngineFile = Annotated[Path, typer.Argument(metavar="ENGINE", help="What engine.save() or it3 train wrote.")]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Samples that adapt together. Default: all.")]
_MEAN = "Subtracted from the channels, which are from 0 to 1, such as 0.485,0.456,0.406. Default: 0."
Device = Annotated[str | None, typer.Option(help="cpu, cuda, or cuda: and a number. Default: where it was saved.")]


def loaded(path: Path, settings: list[str] | None, device: str | None) -> it3.IT3Engine:
    """Return a saved engine with other options in the place of some."""
    options = options_from(settings or [])
    if not path.is_file():
        raise WrongUsageError(f"there is no file {path}")
    engine = it3.load(path, device_named(device))
    engine.optimization_parameters = checked(engine.optimization_parameters, options)
    return engine


def adapt(
    engine: EngineFile,
    samples: Annotated[
        Path,
        typer.Option("--input", help="Samples: .npy, .csv with a header line, .parquet, or a folder of .png and .jpg."),
    ],
    output: Annotated[Path, typer.Option(help="Where predictions go: .npy, .csv or .parquet.")],
    uncertainty: Annotated[
        Path | None, typer.Option(help="Where ‖y1 - y0‖ of the samples, after adapting, goes.")
    ] = None,
    settings: Setting = None,
    batch_size: BatchSize = None,
    device: Device = None,
    image_mode: Annotated[
        str | None,
        typer.Option(metavar="RGB|L", help="Of a folder: 3 channels of colors, or 1 of gray. Default: as the engine."),
    ] = None,
    image_mean: Annotated[str | None, typer.Option(help=_MEAN)] = None,
    image_std: Annotated[str | None, typer.Option(help="What channels are divided by then. Default: 1.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of torch's random generators.")] = 0,
    progress: Annotated[bool, typer.Option("--progress", help="Tell how far it is on the error output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Adapt to samples and write the predictions; files appear when they are complete."""
    written = [path for path in (output, uncertainty) if path is not None]
    _check_paths(written, read=[engine, samples])
    images = image_numbers_from(image_mode, image_mean, image_std)
    if images is not None and not samples.is_dir():
        raise WrongUsageError(f"--image-mode, --image-mean and --image-std are for a folder of images, not {samples}")
    with work_is_quiet():
        one = loaded(engine, settings, device)
        batches = Batches(samples, one, batch_size, images)
        seed_all(seed)
        adapted = adapt_to(one, batches, output, progress=progress)
        if uncertainty is not None:
            write_results(uncertainty, adapted.uncertainty, "uncertainty")
        write_results(output, adapted.predictions, "prediction")
    if as_json:
        print_json(adapted.report)
    else:
        typer.echo(_sentence(adapted.report))


def _check_paths(written: list[Path], read: list[Path]) -> None:
    """Raise WrongUsageError for kinds of files that nothing writes, and where one would replace another."""
    for place, path in enumerate(written):
        check_ending(path)
        others = [*written[:place], *read]
        if any(path.absolute() == other.absolute() or _are_one(path, other) for other in others):
            raise WrongUsageError(f"{path} would replace another file of this call; give another name")
        if not path.absolute().parent.is_dir():
            raise WrongUsageError(f"there is no folder {path.parent} to write {path.name} in")


def _are_one(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _sentence(report: dict[str, Any]) -> str:
    batches = "1 batch" if report["batches"] == 1 else f"{report['batches']} batches"
    steps = "1 step" if report["steps"] == 1 else f"{report['steps']} steps"
    text = f"{report['samples']} samples, {batches}, up to {steps} each"
    if report["loss_before_first_step"] is not None:
        first, last = report["loss_before_first_step"], report["loss_before_last_step"]
        text += f": loss {first:.4g} before the first, {last:.4g} before the last"
    if "adapted_samples" in report:
        text += f"; {report['adapted_samples']} samples above the threshold {report['threshold']:.4g} adapted"
    if "drift" in report:
        text += f"; weights moved by {report['drift']:.2%}; recovered {report['recoveries']} times"
    text += f"; mean uncertainty {'after adapting ' if report['steps'] else ''}{report['mean_uncertainty']:.4g}"
    return f"{text}; {report['seconds']:.2f} s; {report['output']}"
