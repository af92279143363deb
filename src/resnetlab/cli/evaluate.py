"""`resnetlab evaluate`: a trained network on images with labels; in the terminal, as JSON, as one page."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from resnetlab.config import ConfigError, DataConfig, Device

if TYPE_CHECKING:
    from resnetlab.data.eval_dataset import EvalDataset
    from resnetlab.evaluation.evaluator import EvaluationOptions
    from resnetlab.evaluation.html_report import EvaluationSummary
    from resnetlab.evaluation.metrics import Evaluation

PAGES = (".html", ".htm")


@dataclass(frozen=True)
class Options:
    """Judge networks on images with labels: errors, confusions, calibration, the most confident mistakes.

    Classes are matched by name. Several networks are averaged, as the paper's ensembles are. Under torchrun the
    processes share the images.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model files, run directories, or exported files."""
    data: str | None = None
    """A data set with a name, a folder of images, parquet files or shards, or the address of shards; what the network
    was trained on if not given."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie, or of the cache of an address."""
    cache_gib: float = 10.0
    """Size of the cache for shards behind an address, in GiB."""
    split: Literal["test", "val", "train", "all"] | None = None
    """What to judge on; the test split, or else val, that the data come with if not given, and else all images."""
    protocol: Literal["one-crop", "ten-crop", "multi-scale", "ensemble"] | None = None
    """One crop (section 4.2), ten crops (Table 3), several scales (Table 4), or several networks, one crop each."""
    shorter_sides: tuple[int, ...] = ()
    """In pixels: one for ten-crop, some for multi-scale; 256, or 224 256 384 480 640, for 224 if not given."""
    recalibrate_bn: bool = False
    """Estimate batch normalisation's statistics anew on training images, as the authors did."""
    allow_missing_classes: bool = False
    """Judge although the data lack some of the classes that the network knows."""
    on_bad_image: Literal["fail", "skip"] = "fail"
    """Stop at images that cannot be read, or leave them out and say so."""
    page: Path | None = None
    """HTML file to write; NAME-evaluation.html beside the first file if not given, none with --json."""
    backend: Literal["auto", "torch", "onnxruntime", "openvino"] | None = None
    """What computes: PyTorch for a model file, and for an exported file what reads it, if not given. auto measures once
    which is the fastest here that gives the same answers."""
    device: Device = "auto"
    """Where PyTorch computes; a GPU where there is one."""
    workers: int | None = None
    """Threads that decode; one a core if not given."""
    json: bool = False
    """Print one JSON object: top1_error_pct, top5_error_pct, num_samples, per_class, confusion and more."""


def run(options: Options) -> int:
    """Judge, print, write the page; of several processes the first one speaks."""
    files, data = _look_before_loading(options)

    from rich.console import Console

    from resnetlab.cli.evaluate_output import print_evaluation
    from resnetlab.evaluation.evaluator import evaluate_members, open_members
    from resnetlab.evaluation.metrics import compute_metrics
    from resnetlab.evaluation.predictions import merge_predictions
    from resnetlab.evaluation.summary import summarise
    from resnetlab.training.distributed import join_process_group

    terms = evaluation_options(options)
    with join_process_group() as world:
        quiet = world.rank > 0
        with ProgressBar(quiet) as bar:
            members = open_members(files, data, terms, bar.tell, None if quiet else bar.say, world)
            bar.expect(len(members) * -(-len(members[0].labels) // world.size))
            part = evaluate_members(members, terms, rank=world.rank, of=world.size, tell=bar.advance)
        judgement = merge_predictions(world.gather(part))
    if quiet:
        return 0
    evaluation = compute_metrics(judgement, members[0].card.classes)
    facts = summarise(members, terms, evaluation, reproduce_command(options))
    if options.json:
        print(json.dumps(as_json(evaluation, facts), ensure_ascii=False), flush=True)
    else:
        print_evaluation(evaluation, facts, Console(markup=False, highlight=False))
    page = options.page or (None if options.json else default_page_path(files[0]))
    if page is not None:
        _write_page(page, evaluation, facts, members[0].judged)
        if not options.json:
            print(f"page: {page}")
    return 0


def _write_page(page: Path, evaluation: "Evaluation", facts: "EvaluationSummary", judged: "EvalDataset") -> None:
    """Write the page, after everything was printed.

    Raises:
        OSError: where it cannot be written, saying what would work.
    """
    from resnetlab.evaluation.evaluator import eval_images
    from resnetlab.evaluation.html_report import write_page

    thumbnails = eval_images(judged, [mistake.position for mistake in evaluation.mistakes])
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_page(page, evaluation, facts, thumbnails)
    except OSError as error:
        raise OSError(
            f"{page}: the page cannot be written ({error.strerror or error}), and what was printed stands; name "
            "another place with --page FILE, or ask for --json, which writes none"
        ) from error


def default_page_path(file: Path) -> Path:
    """Return where the page of a file goes; that of `net.onnx` takes not the place of that of `net.safetensors`."""
    kind = file.suffix.replace(".", "-") if file.suffix != ".safetensors" else ""
    return file.with_name(f"{file.stem}{kind}-evaluation.html")


def evaluation_options(options: Options) -> "EvaluationOptions":
    """Return how the networks are to be judged.

    Raises:
        ConfigError: for options that do not go together.
    """
    from resnetlab.evaluation.evaluator import EvaluationOptions
    from resnetlab.system.cores import usable_cores
    from resnetlab.training.distributed import pick_device

    workers = usable_cores() if options.workers is None else options.workers
    if workers < 0:
        raise ConfigError(f"workers must be at least 0, not {workers}")
    protocol = options.protocol or ("ensemble" if len(options.models) > 1 else "one-crop")
    elsewhere = options.device == "auto" and options.backend in ("onnxruntime", "openvino")
    device = "cpu" if elsewhere else str(pick_device(options.device))
    return EvaluationOptions(
        protocol,
        options.split,
        options.shorter_sides,
        options.recalibrate_bn,
        options.allow_missing_classes,
        options.on_bad_image,
        device,
        workers,
        options.backend,
        options.cache_gib,
    )


def reproduce_command(options: Options) -> str:
    """Return the call that makes the same page again."""
    words = ["resnetlab", "evaluate", *map(str, options.models)]
    for name, default in Options.__dataclass_fields__.items():
        value = getattr(options, name)
        if name in ("models", "json") or value == default.default:
            continue
        words.append(f"--{name.replace('_', '-')}")
        words += [] if value is True else list(map(str, value)) if isinstance(value, tuple) else [str(value)]
    return shlex.join(words)


def as_json(evaluation: "Evaluation", facts: "EvaluationSummary") -> dict[str, Any]:
    """Return numbers and facts as one JSON object."""
    said = evaluation.as_json()
    for mistake, name in zip(said["mistakes"], facts.mistake_names, strict=False):  # no names: nothing to add
        mistake["name"] = name
    return said | {
        "models": list(facts.files),
        "backend": list(facts.computed_by),
        "data": facts.data,
        "split": facts.split,
        "protocol": facts.protocol,
        "num_left_out": facts.num_left_out,
        "left_out": list(facts.left_out),
        "notes": list(facts.notes),
    }


class ProgressBar:
    """A progress bar on stderr, for whoever watches a terminal."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._progress = Progress(console=console, transient=True, disable=quiet or not console.is_terminal)
        self._task = self._progress.add_task("opening")

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, stage: str, done: int, total: int) -> None:
        """Show how many images of a stage are done."""
        self._progress.update(self._task, description=stage, completed=done, total=total)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def expect(self, total: int) -> None:
        """Begin to count what is judged."""
        self._progress.update(self._task, description="judging", completed=0, total=total)

    def advance(self, count: int) -> None:
        """Count what was judged."""
        self._progress.advance(self._task, count)


def _look_before_loading(options: Options) -> tuple[list[Path], DataConfig | None]:
    """Find what is wrong and needs no PyTorch to be found; return the files and the data."""
    from resnetlab.data.registry import detect_kind
    from resnetlab.inference.formats.exported_file import is_exported_file
    from resnetlab.models.model_card import find_model_file, read_card

    if not options.models:
        raise ConfigError("name a model file: resnetlab evaluate MODEL --data DATA")
    if len(options.models) > 1 and options.protocol == "one-crop":
        raise ConfigError("one-crop judges one network; several are averaged with --protocol ensemble")
    files = [path if is_exported_file(path) else find_model_file(path) for path in options.models]
    for file in files:
        if not is_exported_file(file):
            read_card(file)
    if options.page is not None:
        _check_page(options.page, files)
    if options.data is None:
        return files, None
    data = DataConfig(options.data, None if options.data_root is None else str(options.data_root))
    detect_kind(data)
    return files, data


def _check_page(page: Path, files: Sequence[Path]) -> None:
    """Refuse a place where no page can be, or where something is that is still needed.

    Raises:
        ConfigError: saying what would work.
    """
    if page.is_dir():
        raise ConfigError(f"--page {page} is a folder; name a file in it: {page / 'evaluation.html'}")
    above = next((folder for folder in page.parents if folder.exists()), None)
    if above is not None and not above.is_dir():
        raise ConfigError(f"--page {page}: {above} is a file, and nothing can be in it; name a file in a folder")
    if page.suffix.lower() not in PAGES:
        what = page.suffix or "no suffix"
        raise ConfigError(
            f"--page {page}: a page is HTML, and {what} means something else; call it {page.with_suffix('.html')}"
        )
    if page.exists() and any(page.samefile(file) for file in files):
        raise ConfigError(f"--page {page} is what is judged, and would be overwritten; name another file")
