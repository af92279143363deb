"""`resnetlab deepen`: from a model file to one of a deeper network that computes the same."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from resnetlab.config import ConfigError, DataConfig, ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from resnetlab.models.model_file import ModelCard
    from resnetlab.models.resnet import ResNet

TOLERANCE = 1e-3
"""Difference of logits, over the largest logit, up to which two networks are taken for the same function."""


@dataclass(frozen=True)
class Options:
    """Append blocks that are the identity to the stages of a network: it is deeper, and computes the same.

    The paper's section 1 argues from such networks that depth alone need never make the training error worse. The
    logits of both networks are compared before anything is written; where they differ the exit status is 1.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """A model file, as `resnetlab train` leaves it."""
    out: Path | None = None
    """The model file to write; one that is there already is refused."""
    to: int | None = None
    """Depth in layers: 6n+2 (9n+2 with bottlenecks), or 34, 101 and 152 for ImageNet networks."""
    blocks: tuple[int, ...] | None = None
    """Blocks of each stage, in place of a depth."""
    data: str | None = None
    """Images to compare on, and to calibrate BN on: a name or path as for `resnetlab train`. Random pixels, and no
    calibration, if not given."""
    data_root: Path | None = None
    """Folder where the archives of a named data set lie, or are downloaded to."""
    json: bool = False
    """Print one JSON object."""


def run(options: Options) -> int:
    """Deepen, compare, write.

    Raises:
        ConfigError: for a mistake in the call.
        RuntimeError: where the two networks differ by more than `TOLERANCE`; nothing is written then.
    """
    to, out, data = _look_before_loading(options)

    from resnetlab.data.registry import dataset_title
    from resnetlab.data.rng import make_generator
    from resnetlab.models.deepen import deepen, deeper_config
    from resnetlab.models.model_file import load_model, save_model

    model, card = load_model(options.model)
    config = deeper_config(card.model, to)  # may refuse, and opening data takes time
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
    said = {
        "out": str(out),
        **_described(deeper),
        "deepened_from": {"file": str(options.model), **_described(model)},
        "max_logit_difference": difference,
        "largest_logit": largest,
        "images": f"{len(images)} {'random images' if data is None else f'training images of {dataset_title(data)}'}",
        "training_mode": _training_mode(config, calibrated=data is not None),
    }
    if options.json:
        print(json.dumps(said, ensure_ascii=False))
    else:
        print_deepened(said)
    return 0


def random_images(card: "ModelCard") -> "Tensor":
    """Return images of random pixels, always the same, as the network sees them."""
    import torch

    from resnetlab.data.rng import make_generator
    from resnetlab.data.transforms import normalise
    from resnetlab.models.deepen import num_calibration_images

    size = card.preprocessing.image_size
    shape = (num_calibration_images(size), card.model.in_channels, size, size)
    pixels = torch.randint(256, shape, generator=make_generator(0, "deepen", "images"), dtype=torch.uint8)
    return normalise(pixels, card.preprocessing)


def training_images(card: "ModelCard", config: DataConfig) -> "Tensor":
    """Return some training images of a data set, of all classes and always the same, as the network sees them.

    Raises:
        ConfigError: where the images cannot be opened, or have other channels than the network reads.
    """
    from resnetlab.data.loader import sample_images
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.class_matching import check_channels
    from resnetlab.models.deepen import num_calibration_images
    from resnetlab.system.cores import usable_cores

    data = open_data(config, keep_encoded=True, seen_as=card.preprocessing)
    train = data.train.with_channels(card.model.in_channels)
    check_channels(card, train.channels, data.name)
    size = card.preprocessing.image_size
    return sample_images(train, card.preprocessing, num_calibration_images(size), workers=usable_cores())[0]


def compare_logits(model: "ResNet", deeper: "ResNet", images: "Tensor") -> tuple[float, float]:
    """Return the largest difference of logits, and the largest logit.

    Raises:
        RuntimeError: where the difference is more than `TOLERANCE` of the logit, or either is not finite.
    """
    import torch

    from resnetlab.models.deepen import max_difference

    difference = max_difference(model, deeper, images)
    with torch.no_grad():
        largest = float(model(images).abs().max())
    if not difference <= TOLERANCE * largest:  # NaN too
        raise RuntimeError(
            f"the deeper network is another function: logits differ by {difference:.2g} where the largest is "
            f"{largest:.2g}; nothing was written"
        )
    return difference, largest


def print_deepened(said: dict[str, Any]) -> None:
    """Print the network before and after, how far the two are apart, and where the file is."""
    old = said["deepened_from"]
    print(
        f"{said['name']}: {said['depth']} layers (from {old['depth']}), "
        f"{said['params']:,} parameters (from {old['params']:,})"
    )
    print(f"largest difference of logits: {said['max_logit_difference']:.2g}, on {said['images']}")
    if said["training_mode"] == "another":
        print("in training mode it is another function until its BN is calibrated; give --data")
    elif said["training_mode"] == "calibrated":
        print("its BN is calibrated on these: in training mode it is about the same function")
    print(f"model file: {said['out']}")


def _look_before_loading(options: Options) -> tuple[int | tuple[int, ...], Path, DataConfig | None]:
    """Find what is wrong and needs no PyTorch to be found; return how deep, where to, and the data."""
    from resnetlab.data.registry import detect_kind

    to = options.to if options.blocks is None else options.blocks
    if to is None or (options.to is not None and options.blocks is not None):
        raise ConfigError("say how deep, in one of two ways: --to 56, or --blocks 9 9 9")
    if options.out is None:
        raise ConfigError("name the model file to write: --out FILE")
    if options.out.exists():
        raise ConfigError(f"{options.out} is there already; choose another --out, or delete it")
    if options.data is None:
        return to, options.out, None
    data = DataConfig(options.data, None if options.data_root is None else str(options.data_root))
    detect_kind(data)
    return to, options.out, data


def _described(model: "ResNet") -> dict[str, Any]:
    config = model.config
    params = sum(parameter.numel() for parameter in model.parameters())
    return {"name": config.name, "depth": config.depth, "blocks": list(config.stage_blocks), "params": params}


def _training_mode(config: ModelConfig, *, calibrated: bool) -> str:
    """Say which function training mode computes: the `same`, about the same (`calibrated`), or `another`."""
    from resnetlab.models.deepen import needs_calibration

    if not needs_calibration(config):
        return "same"
    return "calibrated" if calibrated else "another"
