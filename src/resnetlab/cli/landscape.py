"""`resnetlab landscape`: the loss of networks on a plane through their weights."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.network_arguments import network_arguments, network_labels
from resnetlab.cli.terminal import print_json
from resnetlab.config import ConfigError, DataConfig, Device

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.evaluation.evaluator import EnsembleMember
    from resnetlab.evaluation.landscapes.landscape_models import LandscapeCase, LandscapeOptions, LandscapeResult
    from resnetlab.evaluation.lesions.lesion_models import EvaluatedImages

PAGE = "landscape.html"


@dataclass(frozen=True)
class Options:
    """Measure the loss of networks around their weights, and draw it as contours and surfaces (Li et al., 2018).

    Kernels and the head move along filter-normalised random directions; biases and batch normalisation stay, with
    their running statistics. Several networks stand side by side on one scale. A killed measurement continues: give
    the same command again.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model files, run directories, or names from `resnetlab weights`."""
    data: str | None = None
    """Name of a data set, folder of images, table of labels, parquet files or shards; the network's training data if
    not given."""
    reading: Reading = ReadingOptions()
    split: Literal["test", "val", "train", "all"] = "train"
    """Images on which the loss is measured; training minimised that of the train split."""
    images: int = 256
    """Most images; if the split has more, a fixed draw is used."""
    dimensions: Literal[1, 2] = 2
    """A line through the weights, or a plane."""
    points: int | None = None
    """Points along an axis, an odd number; as many as fit in --time if not given, 11 to 51 (101 on a line)."""
    time: float = 100.0
    """Seconds for the points of all networks if --points is not given."""
    extent: float = 1.0
    """The axes reach from minus this to plus this many lengths of the filters."""
    seed: int = 0
    """Selects the random directions."""
    states: tuple[Path, ...] = ()
    """States of the network's run, in order: a run directory of `train --keep-states`, or model files. The plane goes
    through them (principal directions) instead of random directions. For one network."""
    eigenvalues: int = 2
    """Largest eigenvalues of the Hessian at the network, by Lanczos iteration; 0 for none."""
    out: Path | None = None
    """Folder for points, figures and the page; NAME-landscape beside the first model if not given."""
    device: Device = "auto"
    """PyTorch device; auto uses a GPU if there is one."""
    json: bool = False
    """Print one JSON object instead of tables."""


def run(options: Options) -> int:
    """Measure, print and draw the landscapes.

    Raises:
        ConfigError: for a wrong call, for networks and data that do not fit, and if `--out` holds other points.
    """
    files, data, out = check_arguments(options)

    from resnetlab.cli.console import open_console
    from resnetlab.cli.evaluate_progress import ProgressBar
    from resnetlab.cli.landscape_output import print_landscapes
    from resnetlab.evaluation.landscapes.landscape_models import LandscapeOptions
    from resnetlab.evaluation.landscapes.landscape_networks import measure_cases
    from resnetlab.evaluation.lesions.lesion_models import open_networks
    from resnetlab.evaluation.options import EvaluationOptions
    from resnetlab.system.dir_lock import lock_dir
    from resnetlab.training.distributed import pick_device

    measured = LandscapeOptions(
        options.dimensions, options.points, options.time, options.extent, options.seed, options.eigenvalues
    )
    evaluation = EvaluationOptions(
        split=options.split,
        on_bad_image=options.reading.on_bad_image or "fail",
        training_data_changes=options.reading.changes(),
        device=str(pick_device(options.device)),
        backend="torch",
    )
    members, images = open_networks(files, data, evaluation)
    labels = network_labels([member.card.model.name for member in members])
    console = open_console(highlight=False)
    start_s = time.perf_counter()
    with lock_dir(out, "landscape"):
        cases, num_points = prepare(members, options, measured, out=out, console=console)
        with ProgressBar(enabled=True) as bar:
            results = measure_cases(cases, labels, measured, out, num_points=num_points, on_progress=bar.update)
        figures = write_figures(results, labels, out, title=f"{images.title}, {images.split} split")
    if options.json:
        print_json(as_json(results, labels, images, figures=figures))
    else:
        print_landscapes(results, labels, console, time_s=time.perf_counter() - start_s)
        for figure in figures:
            print(f"{'page' if figure.suffix == '.html' else 'figure'}: {figure}")
    return 0


def check_arguments(options: Options) -> tuple[list[Path], DataConfig | None, Path]:
    """Return the model files, the data and the output folder.

    Raises:
        ConfigError: as `network_arguments`, and for states of several networks or on a line.
    """
    from resnetlab.evaluation.landscapes.landscape_states import check_states

    check_states(len(options.states), len(options.models), options.dimensions)
    return network_arguments(options, "landscape")


def prepare(
    members: "Sequence[EnsembleMember]",
    options: Options,
    measured: "LandscapeOptions",
    *,
    out: Path,
    console: "Console",
) -> "tuple[list[LandscapeCase], int]":
    """Return the networks with their images, and the points along an axis; print what will be measured."""
    from resnetlab.evaluation.landscapes.landscape_models import choose_points
    from resnetlab.evaluation.landscapes.landscape_networks import landscape_cases

    states = [file for state in options.states for file in named_states(state)]
    cases = landscape_cases(members, options.images, states)
    num_points = choose_points(cases, measured, out)
    if not options.json:
        grid = f"{num_points} x {num_points} points" if options.dimensions == 2 else f"{num_points} points"
        title, split = members[0].dataset.title, members[0].dataset.split_name
        console.print(f"{title}, {split} split: {len(cases[0].images):,} images, {grid} for each network")
    return cases, num_points


def named_states(path: Path) -> list[Path]:
    """Return the states that a path names: a model file, or those in a run directory.

    Raises:
        ConfigError: for a run directory without states.
    """
    from resnetlab.models.model_card import find_model_file
    from resnetlab.training.kept_states import state_files

    files = state_files(path)
    if not files:
        raise ConfigError(f"{path} keeps no states of its run; train it with --keep-states 1")
    return [find_model_file(file) for file in files]


def write_figures(results: "Sequence[LandscapeResult]", labels: Sequence[str], out: Path, *, title: str) -> list[Path]:
    """Write the figures, and for planes the page; return the PNG files and the page."""
    from resnetlab.evaluation.landscapes.landscape_figures import draw_landscapes
    from resnetlab.evaluation.landscapes.landscape_page import write_page

    files = draw_landscapes(results, labels, out)
    if len(results[0].ys) > 1:
        write_page(out / PAGE, results, labels, title=title)
        files.append(out / PAGE)
    return files


def as_json(
    results: "Sequence[LandscapeResult]", labels: Sequence[str], images: "EvaluatedImages", *, figures: Sequence[Path]
) -> dict[str, Any]:
    """Return the results as one JSON object."""
    from resnetlab.evaluation.landscapes.landscape_models import as_json

    networks = [{"label": label, **as_json(result)} for label, result in zip(labels, results, strict=True)]
    return {
        "data": images.title,
        "split": images.split,
        "networks": networks,
        "figures": [str(path) for path in figures],
    }
