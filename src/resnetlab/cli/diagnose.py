"""`resnetlab diagnose`: what gradients, activations and responses do in one network, and what that points to."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.config import ConfigError, DataConfig, RunConfig

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.study.results import Run

FOLDER = "diagnosis"


@dataclass(frozen=True)
class Options:
    """Print and draw the signals of one network: gradient norms, activations, dead ReLUs, responses (Figure 7).

    Of a run directory they are those that its record holds. Of a model file they are measured, on one training batch of
    the data that it was trained on, or of --data.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """A run directory, or a model file."""
    data: str | None = None
    """Measure on these images: a data set with a name, or the path of your own."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie."""
    batch_size: int = 128
    """Images to measure a model file on, at least 2."""
    layers: bool = False
    """Print every layer, not only the range in each stage."""
    out: Path | None = None
    """Folder for the figures; diagnosis/ in the run directory, or NAME-diagnosis/ beside a model file."""
    json: bool = False
    """Print JSON instead of tables: the run, its signals and symptoms."""


def run(options: Options) -> int:
    """Print and draw the signals of one network."""
    run, out = find_signals(options)
    from rich.console import Console

    from resnetlab.study.figures.all_figures import draw_layer_stats
    from resnetlab.study.run_checks import run_issues
    from resnetlab.training.record import replace_non_finite

    files = draw_layer_stats(run, options.out or out)
    seen = run_issues(run)
    if options.json:
        said = {"run": run.row() | {"directory": str(options.path)}, "symptoms": [asdict(one) for one in seen]}
        print(
            json.dumps(replace_non_finite({**said, "signals": run.signals, "figures": [str(file) for file in files]}))
        )
        return 0
    console = Console(markup=False)
    errors = (
        f"{name} error {run.result[f'{name}_error_pct']:.2f} %"
        for name in ("train", "val", "test")
        if run.result.get(f"{name}_error_pct") is not None
    )
    console.print(f"{run.network}, {run.status}: {', '.join(errors) or 'no errors known'}", highlight=False)
    samples = [run.signals[0]] if len(run.signals) == 1 else [run.signals[0], run.signals[-1]]
    for signal in samples:
        console.print()
        print_signal(signal, options.layers, console)
    console.print()
    for one in seen:
        console.print(f"sign of {one.kind}: {one.sentence}", highlight=False, width=min(80, console.width))
    if not seen:
        console.print("no sign of trouble", highlight=False)
    console.print("one run shows signs; a verdict takes several seeds and depths: resnetlab study", style="dim")
    for file in files:
        console.print(f"figure: {file}", soft_wrap=True, highlight=False)
    return 0


def find_signals(options: Options) -> "tuple[Run, Path]":
    """Return what is to be diagnosed, with signals, and where its figures go if nothing else is said.

    Raises:
        ConfigError: where there is nothing of the kind; the message says what would work.
    """
    from resnetlab.study.results import MODEL, RUNS, read_run

    path = options.path
    if not path.is_dir():
        if not path.exists():
            raise ConfigError(f"{path}: no such run directory or model file")
        return measure_model(path, options), path.with_name(f"{path.stem}-{FOLDER}")
    if not (path / "config.json").exists():
        if (path / RUNS).is_dir():
            raise ConfigError(f"{path} is a study; name one of its runs in {path / RUNS}, or use: resnetlab report")
        raise ConfigError(f"{path}: no run here (no config.json); name a run directory or a model file")
    run = read_run(path)
    if run.signals and options.data is None:
        return run, path / FOLDER
    if run.signals and not (path / MODEL).exists():
        raise ConfigError(f"{path}: no {MODEL} to measure on {options.data}; without --data its record is shown")
    if not (path / MODEL).exists():
        raise ConfigError(f"{path}: its record has no signals, and there is no {MODEL} to measure; train it first")
    return measure_model(path / MODEL, options), path / FOLDER


def measure_model(path: Path, options: Options) -> "Run":
    """Listen to a model file on one batch of training images; nothing of the file changes.

    Raises:
        ConfigError: where the file is no model file, or nothing says which images to take.
    """
    if options.batch_size < 2:
        raise ConfigError(f"batch-size must be at least 2, not {options.batch_size}")
    from resnetlab.data.loader import sample_images
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.class_matching import check_channels, match_classes
    from resnetlab.models.model_file import load_model
    from resnetlab.serialization import from_json
    from resnetlab.study.results import Run
    from resnetlab.training.layer_stats import measure_layer_stats

    model, card = load_model(path)
    known = card.provenance.get("config")
    config = from_json(RunConfig, known) if known else RunConfig()
    data = config.data
    if options.data is not None:
        root = None if options.data_root is None else str(options.data_root)
        if options.data != data.name:
            data = DataConfig(options.data, image_size=card.preprocessing.image_size)
        data = replace(data, root=root)
    elif not known:
        raise ConfigError(f"{path} does not say what it was trained on; name images with --data")
    dataset = open_data(data, seen_as=card.preprocessing)
    numbers = match_classes(card.classes, dataset.classes, path.name, dataset.name)
    train = dataset.train.shown_in(card.model.in_channels)
    check_channels(card, train.channels, dataset.name)
    images, labels = sample_images(train, card.preprocessing, options.batch_size)
    start = {"data": {"classes": list(card.classes)}}
    result = {"status": "measured", **card.error}
    config = replace(config, model=card.model, data=data, weights=None)
    return Run(path, config, "measured", start, (), result, (measure_layer_stats(model, images, numbers[labels]),))


COLUMNS = ("grad_norm", "grad_to_weight", "activation_var", "dead_relu_pct", "response_std")
"""What is printed of each convolution; and of each block, `residual_ratio`."""


def print_signal(signal: dict[str, Any], every_layer: bool, console: "Console") -> None:
    """Print one sample: each layer, or the lowest and the highest value in each stage."""
    from resnetlab.cli.tables import table

    ratios = last_layers(signal)
    columns = [*(signal[name] for name in COLUMNS), [ratios.get(name) for name in signal["layers"]]]
    heads = ("grad norm", "/ weight", "variance", "dead %", "response", "F / x")
    loss = "not finite" if signal["loss"] is None else _figures(signal["loss"])
    console.print(f"step {signal['step']:,}, loss {loss}" if signal["step"] else f"measured, loss {loss}")
    if every_layer:
        listing = table("layer", *heads)
        for at, name in enumerate(signal["layers"]):
            listing.add_row(name, *(_figures(column[at]) for column in columns))
    else:
        listing = table("stage", "", *heads, left=2)
        for rows in stages(signal["layers"]):
            name = signal["layers"][rows[0]].partition(".")[0]
            its = [[column[row] for row in rows if column[row] is not None] for column in columns]
            if len(rows) > 1:
                listing.add_row(name, "lowest", *(_figures(min(values, default=None)) for values in its))
            most = [_figures(max(values, default=None)) for values in its]
            listing.add_row(*((name, "") if len(rows) == 1 else ("", "highest")), *most)
    console.print(listing)


def last_layers(signal: dict[str, Any]) -> dict[str, float | None]:
    """Return the residual ratio of each block under the name of its last convolution."""
    found = {}
    for block, ratio in zip(signal["blocks"], signal["residual_ratio"], strict=True):
        *_, last = (name for name in signal["layers"] if name.startswith(f"{block}.conv"))
        found[last] = ratio
    return found


def stages(layers: Sequence[str]) -> list[list[int]]:
    """Return the positions of the layers of the stem, and of each stage."""
    names = list(dict.fromkeys(name.partition(".")[0] for name in layers))
    return [[at for at, layer in enumerate(layers) if layer.partition(".")[0] == name] for name in names]


def _figures(value: float | None) -> str:
    from resnetlab.study.seed_stats import two_figures

    return "–" if value is None else two_figures(value)
