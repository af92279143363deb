"""`resnetlab evaluate`: metrics of networks on images with labels, as text, JSON and an HTML page."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.evaluate_checks import check_networks, check_page
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import given_options
from resnetlab.config import ConfigError, DataConfig, Device
from resnetlab.system.cache_folder import CACHE_GIB

if TYPE_CHECKING:
    from resnetlab.data.eval_dataset import EvalDataset
    from resnetlab.evaluation.evaluator import EnsembleMember
    from resnetlab.evaluation.metrics import Evaluation
    from resnetlab.evaluation.options import EvaluationOptions
    from resnetlab.evaluation.predictions import Predictions
    from resnetlab.evaluation.summary import EvaluationSummary


@dataclass(frozen=True)
class Options:
    """Evaluate networks on images with labels: errors, confusions, calibration, the most confident mistakes.

    Classes are matched by name. The probabilities of several networks are averaged, as in the paper's ensembles. Under
    torchrun the processes share the images.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model files, run directories, exported files, or names from `resnetlab weights`."""
    data: str | None = None
    """Name of a data set, folder of images, table of labels, parquet files or shards, or URL of shards; the network's
    training data if not given."""
    reading: Reading = ReadingOptions()
    cache_gib: float = CACHE_GIB
    """Maximum size of the cache for remote shards, in GiB."""
    split: Literal["test", "val", "train", "all"] | None = None
    """Images to evaluate on. If not given: the test split that the data come with, else their val split, else the test
    images that training held out of these data, else all images."""
    protocol: Literal["one-crop", "ten-crop", "multi-scale", "ensemble"] | None = None
    """One crop (section 4.2), ten crops (Table 3), several scales (Table 4), or several networks, one crop each."""
    shorter_sides: tuple[int, ...] = ()
    """In pixels: one for ten-crop, several for multi-scale; if not given, 256, or 224 256 384 480 640, for an image
    size of 224, and in proportion for others."""
    fit_temperature: bool = False
    """First fit the temperature of the softmax on the validation split, never on the test split, and store it in the
    model file: probabilities then agree better with how often the network is right. Classes stay the same."""
    reject_below: float | None = None
    """Also report coverage and error if images whose most probable class has a lower probability are rejected as
    unknown; a number below 1, such as 0.8."""
    recalibrate_bn: bool = False
    """Recompute the batch-normalisation statistics on training images, as the authors did."""
    allow_missing_classes: bool = False
    """Accept data without some of the network's classes."""
    page: Path | None = None
    """HTML file to write; if not given, NAME-evaluation.html beside the first model, or none with --json."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None
    """Runtime; if not given, PyTorch for a model file, and the format's own runtime for an exported file. auto measures
    once which runtime is the fastest with the same predictions."""
    device: Device = "auto"
    """PyTorch device; auto uses a GPU if there is one and PyTorch computes every network."""
    workers: int | None = None
    """Threads that decode images; one for each core if not given."""
    json: bool = False
    """Print one JSON object: top1_error_pct, top5_error_pct, num_samples, per_class, confusion and more."""


def run(options: Options) -> int:
    """Evaluate, print the metrics and write the page; of several processes only the first one prints and writes."""
    files, data = _check_arguments(options)

    from resnetlab.cli.evaluate_multi_label import evaluate_labels
    from resnetlab.cli.evaluate_progress import ProgressBar
    from resnetlab.cli.evaluate_temperature import fit_and_log
    from resnetlab.evaluation.evaluator import evaluate_members, open_members
    from resnetlab.evaluation.predictions import merge_predictions
    from resnetlab.training.distributed import join_process_group

    evaluation_options = build_evaluation_options(options)
    check_networks(files, evaluation_options, page=options.page, fit_temperature=options.fit_temperature)
    with join_process_group() as process_group:
        rank, world_size = process_group.rank, process_group.size
        with ProgressBar(enabled=process_group.is_first) as bar:
            if options.fit_temperature:
                fit_and_log(files[0], data, evaluation_options, process_group=process_group, bar=bar)
            members = open_members(
                files,
                data,
                evaluation_options,
                on_progress=bar.update,
                log=bar.log if process_group.is_first else None,
                process_group=process_group,
            )
            part = None
            if not members[0].is_multi_label:
                bar.start_evaluation(len(members) * -(-len(members[0].labels) // world_size))
                part = evaluate_members(
                    members, evaluation_options, rank=rank, world_size=world_size, on_progress=bar.advance
                )
        if part is None:  # outside of the bar, which would take what is printed on standard output
            return evaluate_labels(members, evaluation_options, process_group, json=options.json)
        predictions = merge_predictions(process_group.all_gather(part))
    if process_group.is_first:
        _write_results(options, evaluation_options, members, predictions, files[0])
    return 0


def _write_results(
    options: Options,
    evaluation_options: "EvaluationOptions",
    members: "Sequence[EnsembleMember]",
    predictions: "Predictions",
    file: Path,
) -> None:
    """Compute the metrics, print them, and write the page of the first network, which is in `file`."""
    from resnetlab.cli.console import open_console
    from resnetlab.cli.evaluate_output import print_evaluation
    from resnetlab.evaluation.metrics import compute_metrics
    from resnetlab.evaluation.summary import summarise
    from resnetlab.models.pretrained.resolve import output_base

    evaluation = compute_metrics(
        predictions,
        members[0].card.classes,
        reject_below=options.reject_below,
        held_out=not any(member.dataset.seen_in_training for member in members),
    )
    summary = summarise(members, evaluation_options, evaluation, command=reproduce_command(options))
    if options.json:
        print_json(as_json(evaluation, summary))
    else:
        print_evaluation(evaluation, summary, open_console(highlight=False))
    page = options.page or (None if options.json else default_page_path(output_base(options.models[0], file)))
    if page is not None:
        _write_page(page, evaluation, summary, members[0].dataset)
        if not options.json:
            print(f"page: {page}")


def default_page_path(file: Path) -> Path:
    """Return the default page of a file; `net.onnx` and `net.safetensors` get different pages."""
    suffix = file.suffix.replace(".", "-") if file.suffix != ".safetensors" else ""
    return file.with_name(f"{file.stem}{suffix}-evaluation.html")


def build_evaluation_options(options: Options) -> "EvaluationOptions":
    """Return the options of the evaluation.

    Raises:
        ConfigError: if options do not fit together.
    """
    from resnetlab.evaluation.options import EvaluationOptions, computes_on_cpu
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.distributed import pick_device

    workers = usable_cores() if options.workers is None else options.workers
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, not {workers}")
    has_cpu_runtime = options.backend in ("onnxruntime", "openvino") or any(map(computes_on_cpu, options.models))
    needs_cpu = options.device == "auto" and has_cpu_runtime
    return EvaluationOptions(
        protocol=options.protocol or ("ensemble" if len(options.models) > 1 else "one-crop"),
        split=options.split,
        sides=options.shorter_sides,
        recalibrate_bn=options.recalibrate_bn,
        allow_missing_classes=options.allow_missing_classes,
        on_bad_image=options.reading.on_bad_image or "fail",
        device="cpu" if needs_cpu else str(pick_device(options.device)),
        workers=workers,
        backend=options.backend,
        training_data_changes=options.reading.changes(),
        cache_gib=options.cache_gib,
        reject_below=options.reject_below,
    )


def reproduce_command(options: Options) -> str:
    """Return the command line that reproduces the page."""
    arguments = ["resnetlab", "evaluate", *map(str, options.models)]
    for name, value in given_options(options).items():
        if name in ("models", "json", "fit_temperature"):  # a fitted temperature is in the model file
            continue
        arguments.append(f"--{name.replace('_', '-')}")
        arguments += [] if value is True else list(map(str, value)) if isinstance(value, tuple) else [str(value)]
    return shlex.join(arguments)


def as_json(evaluation: "Evaluation", summary: "EvaluationSummary") -> dict[str, Any]:
    """Return metrics and summary as one JSON object."""
    output = evaluation.as_json()
    for mistake, name in zip(output["mistakes"], summary.mistake_names, strict=False):  # there may be no names
        mistake["name"] = name
    for example, name in zip(
        (output["label_errors"] or {}).get("examples", ()), summary.label_error_names, strict=False
    ):
        example["name"] = name
    return output | {
        "models": list(summary.files),
        "backend": list(summary.computed_by),
        "temperature": list(summary.temperatures),
        "data": summary.data,
        "split": summary.split,
        "protocol": summary.protocol,
        "num_left_out": summary.num_left_out,
        "left_out": list(summary.left_out),
        "notes": list(summary.notes),
    }


def _write_page(page: Path, evaluation: "Evaluation", summary: "EvaluationSummary", dataset: "EvalDataset") -> None:
    """Write the page after all output was printed.

    Raises:
        OSError: if the page cannot be written; the message names alternatives.
    """
    from resnetlab.evaluation.evaluator import load_images
    from resnetlab.evaluation.html_report import write_page

    thumbnails = load_images(dataset, [mistake.position for mistake in evaluation.mistakes])
    examples = evaluation.label_errors.examples if evaluation.label_errors else ()
    label_error_thumbnails = load_images(dataset, [example.position for example in examples])
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page, evaluation, summary, thumbnails=thumbnails, label_error_thumbnails=label_error_thumbnails)
    except OSError as error:
        raise OSError(
            f"{page}: the page cannot be written ({error.strerror or error}), the printed metrics are valid; name "
            "another file with --page, or use --json, which writes no page"
        ) from error


def _check_arguments(options: Options) -> tuple[list[Path], DataConfig | None]:
    """Check everything that needs no PyTorch; return the model files and the data.

    Raises:
        ConfigError: if an argument is wrong.
    """
    from resnetlab.data.registry import detect_kind
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file, read_card

    if not options.models:
        raise ConfigError("name a model file: resnetlab evaluate MODEL --data DATA")
    if len(options.models) > 1 and options.protocol == "one-crop":
        raise ConfigError("one-crop evaluates one network; average several with --protocol ensemble")
    files = [path if is_exported_file(path) else find_model_file(path) for path in options.models]
    if options.fit_temperature:
        from resnetlab.cli.evaluate_temperature import check_fit

        check_fit(options.models, files, recalibrate_bn=options.recalibrate_bn)
    for file in files:
        if not is_exported_file(file):
            read_card(file)
    if options.page is not None:
        check_page(options.page, files)
    if options.data is None:
        return files, None
    data = DataConfig(options.data, **options.reading.changes())
    detect_kind(data)
    return files, data
