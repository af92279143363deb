"""Where a run's first weights come from, if not from chance: a model file, made deeper where it is shallower.

Paper: section 1, the solution by construction.
"""

import dataclasses
from typing import Any

from resnetlab.config import ConfigError, Preprocessing, RunConfig
from resnetlab.data.chance import generator
from resnetlab.data.loader import some_images
from resnetlab.data.split import Split
from resnetlab.evaluation.protocols import single_view
from resnetlab.models.deepen import calibration_images, deepen, max_difference
from resnetlab.models.modelfile import load_model
from resnetlab.models.resnet import ResNet


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
    same = dataclasses.replace(card.model, name=wanted.name, num_classes=wanted.num_classes,
                               init_scale=wanted.init_scale, zero_init_residual=wanted.zero_init_residual,
                               stage_blocks=wanted.stage_blocks)  # fmt: skip
    if same != wanted:
        raise ConfigError(f"{path} holds {card.model.name}, which is not the network {wanted.name} of this run")
    start: dict[str, Any] = {"file": path}
    given = source
    if card.model.stage_blocks != wanted.stage_blocks:
        images, _ = some_images(train, preprocessing, calibration_images(preprocessing.image_size), workers=workers)
        given = deepen(source, wanted.stage_blocks, images=images, generator=generator(config.seed, "weights"))
        start |= {"depth": card.model.depth, "max_logit_difference": max_difference(source, given, images)}
    tensors = given.state_dict()
    if card.model.num_classes != wanted.num_classes:
        tensors = {key: value for key, value in tensors.items() if not key.startswith("fc.")}
    model.load_state_dict(tensors, strict=False)
    if "depth" in start:
        start["train_error_pct"] = single_view(model, train, preprocessing, workers=workers).error_pct
    return start
