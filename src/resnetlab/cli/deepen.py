"""`resnetlab deepen`: write the model file of a deeper network that computes the same function."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.cli.data_options import READING_OPTIONS, Reading, ReadingOptions
from resnetlab.cli.output_paths import check_model_output
from resnetlab.cli.terminal import print_json
from resnetlab.cli.unused_options import refuse_unused
from resnetlab.config import ConfigError, DataConfig, ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from resnetlab.models.model_file import ModelCard
    from resnetlab.models.resnet import ResNet

TOLERANCE = 1e-3
"""Largest difference of logits, over the largest logit, at which two networks count as the same function."""


@dataclass(frozen=True)
class Options:
    """Append identity blocks to the stages of a network: it gets deeper and computes the same function.

    The paper's section 1 concludes from such networks that depth alone need never increase the training error. The
    logits of both networks are compared before the file is written; if they differ, the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file or run directory of `resnetlab train`."""
    out: Path | None = None
    """The model file to write; an existing file is refused."""
    to: int | None = None
    """Depth in layers: 6n+2 (9n+2 with bottlenecks), or 34, 101 and 152 for ImageNet networks."""
    blocks: tuple[int, ...] | None = None
    """Blocks of each stage, in place of a depth."""
    data: str | None = None
    """Images for the comparison and for the calibration of BN: a name or path as for `resnetlab train`. Default:
    random pixels and no calibration."""
    reading: Reading = ReadingOptions()
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Deepen a network, compare it with the original, and write the model file.

    Raises:
        ConfigError: for a wrong call.
        RuntimeError: if the logits differ by more than `TOLERANCE`; no file is written.
    """
    to, out, data = _check_options(options)

    from resnetlab.data.registry import dataset_title
    from resnetlab.data.rng import make_generator
    from resnetlab.models.deepen import deepen, deeper_config
    from resnetlab.models.model_file import load_model, save_model

    model, card = load_model(options.model)
    config = deeper_config(card.model, to)  # before the data, which take time to open
    images = random_images(card) if data is None else training_images(card, data)
    deeper = deepen(model, to, images=None if data is None else images, generator=make_generator(0, "deepen"))
    difference, largest = compare_logits(model, deeper, images)
    source = {
        "depth": card.model.depth,
        "blocks": list(card.model.stage_blocks),
        "file": options.model.name,
        "max_logit_difference": difference,
    }
    if "deepened_from" in card.provenance:
        source["deepened_from"] = card.provenance["deepened_from"]
    out.parent.mkdir(parents=True, exist_ok=True)
    provenance = {**card.provenance, "deepened_from": source}
    save_model(out, deeper, replace(card, model=config, provenance=provenance))
    result = {
        "out": str(out),
        **_describe(deeper),
        "deepened_from": {"file": str(options.model), **_describe(model)},
        "max_logit_difference": difference,
        "largest_logit": largest,
        "images": f"{len(images)} {'random images' if data is None else f'training images of {dataset_title(data)}'}",
        "training_mode": _training_mode(config, calibrated=data is not None),
    }
    if options.json:
        print_json(result)
    else:
        print_result(result)
    return 0


def random_images(card: "ModelCard") -> "Tensor":
    """Return a fixed calibration batch of random pixels, normalised as the network expects.

    Returns:
        float32 of shape (batch, in_channels, height, width).
    """
    import torch

    from resnetlab.data.rng import make_generator
    from resnetlab.data.transforms import normalise
    from resnetlab.models.deepen import num_calibration_images

    height, width = card.preprocessing.input_size
    shape = (num_calibration_images(math.isqrt(height * width)), card.model.in_channels, height, width)
    pixels = torch.randint(256, shape, generator=make_generator(0, "deepen", "images"), dtype=torch.uint8)
    return normalise(pixels, card.preprocessing)


def training_images(card: "ModelCard", config: DataConfig) -> "Tensor":
    """Return a fixed calibration batch of training images, of all classes, normalised as the network expects.

    Returns:
        float32 of shape (batch, in_channels, height, width).

    Raises:
        ConfigError: if the images cannot be opened, or have another number of channels than the network reads.
    """
    from resnetlab.data.loader import sample_images
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.class_matching import check_channels
    from resnetlab.models.deepen import num_calibration_images
    from resnetlab.system.cores import usable_cores

    dataset = open_data(config, keep_encoded=True, preprocessing=card.preprocessing)
    train = dataset.train.with_channels(card.model.in_channels)
    check_channels(card, train.channels, dataset.name)
    count = num_calibration_images(math.isqrt(math.prod(card.preprocessing.input_size)))
    return sample_images(train, card.preprocessing, count, workers=usable_cores())[0]


def compare_logits(model: "ResNet", deeper: "ResNet", images: "Tensor") -> tuple[float, float]:
    """Return the largest absolute difference of logits, and the largest absolute logit, in evaluation mode.

    Raises:
        RuntimeError: if the difference exceeds `TOLERANCE` of the largest logit, or either is not finite.
    """
    import torch

    from resnetlab.models.deepen import max_difference

    difference = max_difference(model, deeper, images)
    with torch.no_grad():
        largest = float(model(images).abs().max())
    if not difference <= TOLERANCE * largest:  # also for NaN
        raise RuntimeError(
            f"the deeper network computes another function: logits differ by {difference:.2g}, and the largest is "
            f"{largest:.2g}; no file was written"
        )
    return difference, largest


def print_result(result: dict[str, Any]) -> None:
    """Print both networks, the difference of their logits, and the path of the model file."""
    old = result["deepened_from"]
    print(
        f"{result['name']}: {result['depth']} layers (from {old['depth']}), "
        f"{result['params']:,} parameters (from {old['params']:,})"
    )
    print(f"largest difference of logits: {result['max_logit_difference']:.2g}, on {result['images']}")
    if result["training_mode"] == "another":
        print("in training mode it is another function until its BN is calibrated; give --data")
    elif result["training_mode"] == "calibrated":
        print("its BN is calibrated on these: in training mode it is about the same function")
    print(f"model file: {result['out']}")


def _check_options(options: Options) -> tuple[int | tuple[int, ...], Path, DataConfig | None]:
    """Return the depth or blocks, the output file and the data; raise for mistakes found without PyTorch.

    Raises:
        ConfigError: for a missing depth or output file, an output that is no new model file, and unknown data.
    """
    from resnetlab.data.registry import detect_kind

    to = options.to if options.blocks is None else options.blocks
    if to is None or (options.to is not None and options.blocks is not None):
        raise ConfigError("give the depth in one of two ways: --to 56, or --blocks 9 9 9")
    if options.out is None:
        raise ConfigError("give the model file to write: --out FILE")
    check_model_output("--out", options.out)
    if options.data is None:
        refuse_unused(options, READING_OPTIONS, "--data")
        return to, options.out, None
    data = DataConfig(options.data, **options.reading.changes())
    detect_kind(data)
    return to, options.out, data


def _describe(model: "ResNet") -> dict[str, Any]:
    config = model.config
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"name": config.name, "depth": config.depth, "blocks": list(config.stage_blocks), "params": params}


def _training_mode(config: ModelConfig, *, calibrated: bool) -> str:
    """Return which function training mode computes: the `same`, about the same (`calibrated`), or `another`."""
    from resnetlab.models.deepen import needs_calibration

    if not needs_calibration(config):
        return "same"
    return "calibrated" if calibrated else "another"
