"""`resnetlab lesion`: errors of networks without some of their blocks, and gradients along their paths."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from resnetlab.cli.data_options import Reading, ReadingOptions
from resnetlab.cli.network_arguments import network_arguments, network_labels
from resnetlab.cli.terminal import print_json
from resnetlab.config import Device

if TYPE_CHECKING:
    from resnetlab.evaluation.lesions.lesion import LesionResult
    from resnetlab.evaluation.lesions.lesion_models import EvaluatedImages


@dataclass(frozen=True)
class Options:
    """Remove and reorder the blocks of networks, and measure the error each time (Veit et al., 2016).

    A removed block of a residual network leaves its shortcut. A block of a plain network is replaced by the identity,
    or by option A's padding where the shape changes. Nothing is trained, and no file changes. Several networks stand
    side by side, on the same images.
    """

    models: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Model files, run directories, or names from `resnetlab weights`."""
    data: str | None = None
    """Name of a data set, folder of images, table of labels, parquet files or shards; the network's training data if
    not given."""
    reading: Reading = ReadingOptions()
    split: Literal["test", "val", "train", "all"] | None = None
    """Images to evaluate on. If not given: the test split that the data come with, else their val split, else the test
    images that training held out of these data, else all images."""
    images: int = 1000
    """Most images; if the split has more, a fixed draw is used."""
    most_removed: int = 10
    """Largest number of blocks that are removed together, at random; only blocks that keep the shape."""
    most_swaps: int = 10
    """Largest number of random swaps of two blocks; both keep the shape and are in one stage."""
    repeats: int = 5
    """Random choices for each number of removed blocks and of swaps."""
    paths: int = 64
    """Random paths of each length whose gradient is measured in a residual network; 0 for none."""
    seed: int = 0
    """Selects blocks, swaps and paths; networks with blocks of the same shapes get the same ones."""
    out: Path | None = None
    """Folder for the figures (PNG and SVG); NAME-lesion beside the first model if not given."""
    device: Device = "auto"
    """PyTorch device; auto uses a GPU if there is one."""
    json: bool = False
    """Print one JSON object instead of tables."""


def run(options: Options) -> int:
    """Measure and print the errors, and draw the figures.

    Raises:
        ConfigError: for a wrong call, and for networks and data that do not fit.
    """
    from resnetlab.evaluation.lesions.lesion import LesionOptions

    changes = LesionOptions(options.most_removed, options.most_swaps, options.repeats, options.paths, options.seed)
    files, data, out = network_arguments(options, "lesion")

    from resnetlab.cli.console import open_console
    from resnetlab.cli.evaluate_progress import ProgressBar
    from resnetlab.cli.lesion_output import print_lesions
    from resnetlab.evaluation.evaluator import EvaluationOptions
    from resnetlab.evaluation.lesions.lesion_figures import draw_lesions
    from resnetlab.evaluation.lesions.lesion_models import lesion_members, open_networks
    from resnetlab.training.distributed import pick_device

    evaluation = EvaluationOptions(
        split=options.split,
        on_bad_image=options.reading.on_bad_image or "fail",
        training_data_changes=options.reading.changes(),
        device=str(pick_device(options.device)),
        backend="torch",
    )
    members, images = open_networks(files, data, evaluation)
    with ProgressBar(enabled=True) as bar:
        results = lesion_members(members, changes, max_images=options.images, on_progress=bar.update)
    labels = network_labels([result.network for result in results])
    figures = draw_lesions(results, labels, out)
    if options.json:
        print_json(as_json(results, labels, images, figures=figures))
        return 0
    print_lesions(results, labels, images, console=open_console(highlight=False))
    for figure in figures:
        print(f"figure: {figure} (and .svg)")
    return 0


def as_json(
    results: "Sequence[LesionResult]", labels: Sequence[str], images: "EvaluatedImages", *, figures: Sequence[Path]
) -> dict[str, object]:
    """Return the result as one JSON object."""
    networks = [{"label": label, **asdict(result)} for label, result in zip(labels, results, strict=True)]
    return {
        "data": images.title,
        "split": images.split,
        "networks": networks,
        "figures": [str(path) for path in figures],
    }
