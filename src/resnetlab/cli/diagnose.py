"""`resnetlab diagnose`: gradients, activations and responses of one network, and the issues they point to."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from resnetlab.cli.data_options import READING_OPTIONS, Reading, ReadingOptions
from resnetlab.cli.output_paths import check_output_folder
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import refuse_unused
from resnetlab.config import ConfigError, DataConfig, RunConfig

if TYPE_CHECKING:
    from torch import Tensor

    from resnetlab.models.model_card import ModelCard
    from resnetlab.models.resnet import ResNet
    from resnetlab.study.results import Run
    from resnetlab.study.verdicts.run_checks import RunIssue

DIAGNOSIS = "diagnosis"
"""Folder of the figures."""


@dataclass(frozen=True)
class Options:
    """Print and draw the layer statistics of one network: gradients, activations, dead ReLUs, responses (Figure 7).

    For a run directory they are read from its record. For a model file they are measured, on one training batch of its
    training data or of --data.
    """

    path: Annotated[Path, tyro.conf.Positional]
    """A run directory, a model file, or the name of published weights."""
    data: str | None = None
    """Measure on these images: a named data set, or the path of your own."""
    reading: Reading = ReadingOptions()
    batch_size: int = 128
    """Images to measure a model file on, at least 2; a run with recorded statistics needs --data."""
    shattering: bool = False
    """Measure instead how gradients at neighbouring inputs correlate (Balduzzi et al., 2017): of the trained network,
    at initial weights with and without shortcuts, and of white and brown noise."""
    layers: bool = False
    """Print every layer instead of the range in each stage."""
    out: Path | None = None
    """Folder for the figures; diagnosis/ in the run directory, or NAME-diagnosis/ beside a model file if not given."""
    json: bool = False
    """Print JSON instead of tables: the run, its layer statistics and issues."""


def run(options: Options) -> int:
    """Print and draw the layer statistics of one network, and print its issues."""
    check_output_folder("--out", figures_folder(options))
    if options.shattering:
        if options.layers:
            raise ConfigError("--layers is for layer statistics, which --shattering replaces; leave one of them out")
        return shattering(options)
    run = find_layer_stats(options)
    from resnetlab.cli.console import open_console
    from resnetlab.cli.diagnose_output import print_layer_stats
    from resnetlab.study.figures.all_figures import draw_layer_stats
    from resnetlab.study.verdicts.run_checks import run_issues

    files = draw_layer_stats(run, figures_folder(options))
    issues = run_issues(run)
    if options.json:
        print_run_json(run, issues, files, options.path)
        return 0
    console = open_console()
    errors = (
        f"{name} error {run.result[f'{name}_error_pct']:.2f} %"
        for name in ("train", "val", "test")
        if run.result.get(f"{name}_error_pct") is not None
    )
    console.print(f"{run.network}, {run.status}: {', '.join(errors) or 'no errors known'}", highlight=False)
    for note in run.record_notes:
        console.print(f"note: {note}", highlight=False, width=min(80, console.width))
    first_and_last = run.layer_stats[:1] if len(run.layer_stats) == 1 else (run.layer_stats[0], run.layer_stats[-1])
    for stats in first_and_last:
        console.print()
        print_layer_stats(stats, options.layers, console)
    console.print()
    for issue in issues:
        console.print(f"sign of {issue.kind}: {issue.sentence}", highlight=False, width=min(80, console.width))
    if not issues:
        console.print("no issue found", highlight=False)
    console.print("one run gives no verdict; compare seeds and depths with: resnetlab study", style="dim")
    for file in files:
        console.print(f"figure: {file}", soft_wrap=True, highlight=False)
    return 0


def shattering(options: Options) -> int:
    """Measure the shattering of a model file's gradients, or of the one in a run directory.

    Raises:
        ConfigError: as `measure_model`, and if a run directory has no model file.
    """
    from resnetlab.cli.diagnose_shattering import run_shattering
    from resnetlab.study.results import MODEL

    path = options.path
    if path.is_dir() and not (path / MODEL).exists():
        raise ConfigError(f"{path / MODEL}: no such model file; --shattering needs the weights of a network")
    batch = open_batch(path, options)
    out = figures_folder(options)
    return run_shattering(batch.model, batch.images, out=out, path=options.path, as_json=options.json)


def print_run_json(run: "Run", issues: "Sequence[RunIssue]", files: Sequence[Path], path: Path) -> None:
    """Print one JSON object; its keys are stable between versions."""
    output = {
        "run": run.row() | {"directory": str(path)},
        "symptoms": [asdict(issue) for issue in issues],
        "notes": list(run.record_notes),
        "signals": run.layer_stats,
        "figures": [str(file) for file in files],
    }
    print_json(output)


def find_layer_stats(options: Options) -> "Run":
    """Return the run with its layer statistics, read or measured.

    Raises:
        ConfigError: if the path has no layer statistics and nothing to measure; the message states what would work.
    """
    from resnetlab.study.results import MODEL, RUNS, read_run

    path = options.path
    if not path.is_dir():
        return measure_model(path, options)
    if not (path / "config.json").exists():
        if (path / RUNS).is_dir():
            raise ConfigError(f"{path} is a study; name one of its runs in {path / RUNS}, or use: resnetlab report")
        raise ConfigError(f"{path}: no run here (no config.json); name a run directory or a model file")
    run = read_run(path)
    if run.layer_stats and options.data is None:
        measuring = (*READING_OPTIONS, "batch_size")
        refuse_unused(options, measuring, "--data, since the layer statistics of this run are recorded")
        return run
    if run.layer_stats and not (path / MODEL).exists():
        raise ConfigError(f"{path}: no {MODEL} to measure on {options.data}; leave out --data to read the record")
    if not (path / MODEL).exists():
        notes = f" ({'; '.join(run.record_notes)})" if run.record_notes else ""
        raise ConfigError(
            f"{path}: its record has no layer statistics{notes}, and there is no {MODEL} to measure; train it first"
        )
    return measure_model(path / MODEL, options)


def figures_folder(options: Options) -> Path:
    """Return --out, or a folder in a run directory, beside a model file, or for published weights, here."""
    from resnetlab.models.pretrained.resolve import output_base

    if options.out is not None:
        return options.out
    if options.path.is_dir():
        return options.path / DIAGNOSIS
    base = output_base(options.path, options.path)
    return base.with_name(f"{base.stem}-{DIAGNOSIS}")


@dataclass(frozen=True)
class ModelBatch:
    """A network and one batch of images to measure it on."""

    model: "ResNet"
    card: "ModelCard"
    config: RunConfig
    """The configuration of the run that trained the network, with the data of the images."""
    images: "Tensor"
    labels: "Tensor"
    """Numbered as the network's classes."""


def measure_model(path: Path, options: Options) -> "Run":
    """Measure the layer statistics of a model file on one batch of training images; the file does not change.

    Raises:
        ConfigError: if the file is no model file, or the training data are unknown and --data is not given.
    """
    from resnetlab.study.results import Run
    from resnetlab.training.layer_stats import measure_layer_stats

    batch = open_batch(path, options)
    return Run(
        directory=path,
        config=batch.config,
        status="measured",
        start={"data": {"classes": list(batch.card.classes)}},
        epochs=(),
        result={"status": "measured", **batch.card.error},
        layer_stats=(measure_layer_stats(batch.model, batch.images, batch.labels),),
    )


def open_batch(path: Path, options: Options) -> ModelBatch:
    """Load a model file and one batch of training images, the same one in every call.

    Raises:
        ConfigError: as `measure_model`.
    """
    if options.batch_size < 2:
        raise ConfigError(f"batch-size must be at least 2, not {options.batch_size}")
    from resnetlab.data.loader import sample_images
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.class_matching import check_channels, check_one_class, match_classes
    from resnetlab.evaluation.member_data import resolve_data_config
    from resnetlab.models.model_file import load_model
    from resnetlab.serialization import from_json

    model, card = load_model(path)
    saved_config = card.provenance.get("config")
    config = from_json(RunConfig, saved_config) if saved_config else RunConfig()
    changes = options.reading.changes()
    given = DataConfig(options.data, image_size=card.preprocessing.image_size, **changes) if options.data else None
    data = resolve_data_config(card, given, path, changes)
    dataset = open_data(data, preprocessing=card.preprocessing, one_class=True)
    check_one_class(multi_label=dataset.train.is_multi_label, name=dataset.name, use="diagnose of a model file")
    class_indices = match_classes(
        card.classes, dataset.classes, model_name=path.name, data_name=dataset.name, allow_missing=True
    )
    train = dataset.train.with_channels(card.model.in_channels)
    check_channels(card, train.channels, dataset.name)
    images, labels = sample_images(train, card.preprocessing, options.batch_size)
    return ModelBatch(
        model=model,
        card=card,
        config=replace(config, model=card.model, data=data, weights=None),
        images=images,
        labels=class_indices[labels],
    )
