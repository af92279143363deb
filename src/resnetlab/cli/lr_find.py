"""`resnetlab lr-find`: training losses at rising learning rates, and the rate that they suggest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.terminal import escape_name, print_json, print_lines
from resnetlab.config import ConfigError, Recipe, RunConfig
from resnetlab.system.cache_folder import CACHE_GIB

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.training.lr_finder import LrCurve
    from resnetlab.training.runtime_options import RuntimeOptions
    from resnetlab.training.trainer import Trainer

TABLE_ROWS = 13
"""Rows of the table, at rates that differ by equal factors."""
FIGURE_SUFFIX = ".png"


@dataclass(frozen=True)
class Options:
    """Find a learning rate: train for some steps while the rate rises, and print the loss at each rate.

    The steps are those of `train` with the same options, in memory: no run directory is written, no image of the
    validation or test split is used. Network, weights and images that train selects by the speed of the machine are
    those without a measurement. The suggested rate is a tenth of the one with the lowest smoothed loss.
    """

    data: str | None = None
    """A named data set, a folder or a URL, as for train."""
    reading: Reading = ReadingOptions()
    model: str | None = None
    """The network. If not given: that of --from, else resnet20 for named data sets and for your own images up to 64
    pixels, and resnet18 above."""
    weights: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Initial weights, as for train; none means random ones. If not given: for your own images published weights if
    they are on this machine, as in train, else random ones; nothing is downloaded."""
    recipe: str | None = None
    """A recipe by name or file; as in train if not given. Its learning rate and schedule are not used."""
    set: tuple[str, ...] = ()
    """Any fields of the recipe, such as weight_decay=5e-4 optimizer=adamw."""
    batch_size: int | None = None
    """Images per step; the recipe's if not given. Another batch size needs another learning rate."""
    image_size: int | None = None
    """Side of the network's input in pixels; as in train if not given."""
    train_images: int | None = None
    """Size of a stratified subset of the training images; all if not given."""
    seed: int | None = None
    """Seed of the weights, the sample order and the augmentation; 0 if not given."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Device to train on; auto uses a GPU if one is available."""
    precision: Literal["auto", "fp32", "tf32", "bf16"] | None = None
    """Precision of convolutions and matrix products; as in train if not given."""
    workers: int | None = None
    """Threads that decode images; one per core if not given."""
    cache_gib: float = CACHE_GIB
    """Size of the cache for remote shards in GiB."""
    min_lr: float = 1e-5
    """First learning rate, above 0."""
    max_lr: float = 10.0
    """Last learning rate; the sweep ends before it if the loss diverges."""
    steps: int = 100
    """Training steps, at least 10."""
    figure: Path | None = None
    """PNG file of the losses; none if not given."""
    json: bool = False
    """Print one JSON object: suggested_lr, lowest_lr, diverged_lr, and the losses; print everything else to stderr."""


def run(options: Options) -> int:
    """Sweep the learning rate and print the losses; return 0.

    Raises:
        ConfigError: for an invalid option, as in `train`, or a loss that is not finite at the first rate.
    """
    config, runtime = _configuration(options), _runtime(options)
    _check_figure(options.figure)

    from resnetlab.cli.console import open_console
    from resnetlab.system.allocator import use_huge_pages

    console, progress_console = open_console(stderr=options.json, highlight=False), open_console(stderr=True)
    progress_console.print("loading PyTorch and the images …", style="dim")
    from resnetlab.training.lr_finder import LrSweep, find_lr

    def log(line: str) -> None:
        progress_console.print(line, style="dim", highlight=False)

    use_huge_pages()
    with _SweepProgress(progress_console, options.steps) as progress:
        curve = find_lr(
            config,
            LrSweep(options.min_lr, options.max_lr, options.steps),
            options=replace(runtime, log=log),
            on_start=lambda trainer: _print_start(trainer, console),
            on_step=progress.update,
        )
    if options.figure is not None:
        _write_figure(options.figure, curve, config)
    if options.json:
        figure = None if options.figure is None else str(options.figure)
        print_json({**curve.as_json(), "batch_size": config.recipe.batch_size, "figure": figure})
    else:
        print_curve(curve, config.recipe, console)
        print_lines(*([] if options.figure is None else [f"figure: {options.figure}"]))
    return 0


def print_curve(curve: "LrCurve", recipe: Recipe, console: "Console") -> None:
    """Print the losses at some of the rates, where the sweep ended, and the suggested rate."""
    from resnetlab.cli.tables import table

    listing = table("learning rate", "loss", "smoothed", "", left=0)
    listing.columns[-1].justify = "left"
    lowest = curve.lr.index(curve.lowest_lr)
    for index in sorted({*_spread(len(curve.lr)), lowest}):
        mark = "lowest" if index == lowest else ""
        listing.add_row(f"{curve.lr[index]:.3g}", f"{curve.loss[index]:.4f}", f"{curve.smoothed[index]:.4f}", mark)
    console.print(listing)
    console.print()
    end = "did not diverge" if curve.diverged_lr is None else f"diverged at {curve.diverged_lr:.3g}"
    width = min(80, console.width)
    console.print(f"The training {end}; the smoothed loss is lowest at {curve.lowest_lr:.3g}.", width=width)
    if curve.suggested_lr is None:
        console.print(
            "No learning rate is suggested: the loss hardly falls at any of them. Give more --steps, or look at the "
            "images and labels: resnetlab data check PATH",
            width=width,
        )
        return
    console.print(
        f"suggested: --lr {curve.suggested_lr:.2g}, a tenth of that rate, for {recipe.batch_size} images a step (the "
        f"recipe {recipe.name} has {recipe.lr:g})",
        width=width,
    )


def _spread(count: int) -> Iterator[int]:
    """Yield up to `TABLE_ROWS` positions from the first to the last of `count`, at equal distances."""
    rows = min(TABLE_ROWS, count)
    for row in range(rows):
        yield round(row * (count - 1) / max(1, rows - 1))


def _configuration(options: Options) -> RunConfig:
    """Return the configuration of `train`, as far as it needs no measurement."""
    from resnetlab.cli import train_options
    from resnetlab.cli.train_config import unmeasured_config

    return unmeasured_config(
        train_options.Options(
            data=options.data,
            reading=options.reading,
            model=options.model,
            weights=options.weights,
            image_size=options.image_size,
            train_images=options.train_images,
            seed=options.seed,
            recipe=train_options.RecipeOptions(options.recipe, options.set, batch_size=options.batch_size),
            execution=train_options.ExecutionOptions(options.precision, device=options.device),
        )
    )


def _runtime(options: Options) -> "RuntimeOptions":
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.runtime_options import RuntimeOptions

    return RuntimeOptions(
        workers=usable_cores() if options.workers is None else options.workers, cache_gib=options.cache_gib
    )


def _check_figure(figure: Path | None) -> None:
    """Raise `ConfigError` unless a PNG file can be written there, before the sweep."""
    if figure is None:
        return
    if figure.suffix.lower() != FIGURE_SUFFIX:
        raise ConfigError(f"--figure {figure}: the figure is a PNG file; name it {figure.with_suffix(FIGURE_SUFFIX)}")
    if figure.is_dir() or not figure.resolve().parent.is_dir():
        raise ConfigError(f"--figure {figure}: name a file in a folder that exists")


def _print_start(trainer: "Trainer", console: "Console") -> None:
    """Print what is trained, and the warnings of its set-up."""
    recipe, dataset, width = trainer.config.recipe, trainer.data.dataset, min(80, console.width)
    console.print(
        f"{trainer.config.model.name} on {escape_name(dataset.name)}, {len(dataset.train):,} training images: up to "
        f"{trainer.total_steps} steps of {recipe.batch_size} images, recipe {recipe.name}, {recipe.optimizer}",
        width=width,
    )
    for message in trainer.warnings:
        console.print(escape_name(f"warning: {message}"), style="yellow", width=width)


def _write_figure(path: Path, curve: "LrCurve", config: RunConfig) -> None:
    from resnetlab.data.registry import dataset_title
    from resnetlab.training.lr_figure import write_lr_figure

    title = f"{config.model.name} on {escape_name(dataset_title(config.data))}"
    write_lr_figure(curve, title, path)


class _SweepProgress:
    """A line in the terminal with the step, its rate and its loss; nothing elsewhere."""

    def __init__(self, console: "Console", steps: int) -> None:
        from rich.progress import Progress

        self._progress = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._progress.add_task("learning rate", total=steps)

    def __enter__(self) -> "_SweepProgress":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, lr: float, loss: float) -> None:
        """Show the step that was taken."""
        self._progress.update(self._task, completed=step, description=f"learning rate {lr:.2g}, loss {loss:.3g}")
