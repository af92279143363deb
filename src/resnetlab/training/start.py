"""Where a run's first weights come from, if not from chance: a model file, made deeper where it is shallower.

Paper: section 1, the solution by construction.
"""

from typing import Any

from resnetlab.config import ConfigError, Preprocessing, RunConfig
from resnetlab.configjson import differences
from resnetlab.data.chance import generator
from resnetlab.data.loader import some_images
from resnetlab.data.split import Split
from resnetlab.evaluation.protocols import single_view
from resnetlab.models.deepen import calibration_images, deepen, max_difference
from resnetlab.models.modelfile import load_model
from resnetlab.models.resnet import ResNet

FREE = ("name", "num_classes", "init_scale", "zero_init_residual", "stage_blocks")
"""Fields in which a file's network may differ: what does not shape its layers, the head, and the depth."""


def start_from(
    config: RunConfig, model: ResNet, train: Split, preprocessing: Preprocessing, workers: int
) -> dict[str, Any]:
    """Give a network the weights of the file `config.weights`; a head for another number of classes keeps its own.

    A file with a shallower network of the same kind is made deeper by identity blocks (`models.deepen`), calibrated on
    training images.

    Returns:
        What the record says of it: the file, and of a deepened network the depth it had, the largest difference of
        logits to the shallower one, and its training error in %, before the first step.

    Raises:
        ModelFileError: where the file cannot be read.
        ConfigError: where it holds another network.
    """
    wanted, path = config.model, config.weights
    assert path is not None
    source, card = load_model(path)
    other = [field for field in differences(card.model, wanted) if field.partition(":")[0] not in FREE]
    if other or len(card.model.stage_blocks) != len(wanted.stage_blocks):
        raise ConfigError(f"{path} holds {card.model.name}, which is not the network {wanted.name} of this run"
                          f" ({'; '.join(other) or 'another number of stages'})")  # fmt: skip
    start: dict[str, Any] = {"file": path}
    given = source
    if card.model.stage_blocks != wanted.stage_blocks:
        images, _ = some_images(train, preprocessing, calibration_images(preprocessing.image_size), workers=workers)
        try:
            given = deepen(source, wanted.stage_blocks, images=images, generator=generator(config.seed, "weights"))
        except ConfigError as error:
            raise ConfigError(f"{path} cannot be made {wanted.name} ({error})") from error
        start |= {"depth": card.model.depth, "max_logit_difference": max_difference(source, given, images)}
    tensors = given.state_dict()
    if card.model.num_classes != wanted.num_classes:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    model.load_state_dict(tensors, strict=False)
    if "depth" in start:
        start["train_error_pct"] = single_view(model, train, preprocessing, workers=workers).error_pct
    return start


def described(start: dict[str, Any]) -> str:
    """Return what `start_from` found as people read it."""
    if "depth" not in start:
        return start["file"]
    return (
        f"{start['file']}: its {start['depth']} layers, and identity blocks; logits differ by "
        f"{start['max_logit_difference']:.2g} at most, training error {start['train_error_pct']:.2f} %"
    )
