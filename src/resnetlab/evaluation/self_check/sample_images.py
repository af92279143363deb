"""A sample of unlabelled images for the self-check, at their own sizes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.decode import BadImageError, decode
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.images.packed_sequences import take_items
from resnetlab.data.list_dataset import list_dataset
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import LISTED_KINDS, dataset_path, detect_kind
from resnetlab.data.rng import make_generator
from resnetlab.inference.inputs import find_inputs

MAX_SIDE = 512
"""Shorter side in pixels to which larger images are reduced: enough for crops at 288, and it bounds the memory."""


def load_sample(data: DataConfig, count: int, channels: int) -> list[Tensor]:
    """Return up to `count` images, uint8 of shape (channels, height, width); the draw is always the same.

    A folder may have any subfolders; of other data, and of a folder whose splits are named, it is the training split,
    or the first one.

    Args:
        data: The images; `on_bad_image` says whether those that cannot be read are left out.
        count: Largest number of images.
        channels: Channels that the network reads.

    Raises:
        ConfigError: if the data cannot be opened or have other channels than the network, or for an image that cannot
            be read, unless they are left out.
    """
    whole_folder = detect_kind(data) == "folder" and data.split_folders is None
    try:
        images = (_from_folder if whole_folder else _from_dataset)(data, count)
    except BadImageError as error:
        raise ConfigError(str(error)) from error
    return [_with_channels(_reduce(image), channels, data.name) for image in images]


def _from_folder(data: DataConfig, count: int) -> list[Tensor]:
    paths = [item for item in find_inputs([str(dataset_path(data.name))]) if item is not None and item.source]
    images = []
    for row in _draw(len(paths)).tolist():
        if len(images) == count:
            break
        try:
            pixels = decode(paths[row].read(), color_profiles=data.color_profiles or "apply")
        except BadImageError as error:
            if data.on_bad_image == "skip":
                continue
            raise BadImageError(
                f"{paths[row].name}: cannot be decoded ({error}); skip such images with --on-bad-image skip"
            ) from error
        images.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return images


def _from_dataset(data: DataConfig, count: int) -> list[Tensor]:
    """Return a sample of the training split; only its own images are decoded, unless they are in an archive."""
    if detect_kind(data) not in LISTED_KINDS:
        images = open_data(data).train.images
        assert isinstance(images, Tensor)
        return list(images[_draw(len(images))[:count]])
    splits = list_dataset(data).splits
    split = splits.get("train") or next(iter(splits.values()))
    rows = _draw(len(split.names))[:count].numpy()
    encoded = EncodedImages(
        storage=take_items(split.storage, rows),
        names=take_items(split.names, rows),
        sizes=torch.zeros(len(rows), 2, dtype=torch.int64),  # unknown: whole images are decoded
        view=EvalView(32, 32, color_profiles=data.color_profiles or "apply"),
        skip_bad=data.on_bad_image == "skip",
    )
    decoded = encoded.decode_full(torch.arange(len(rows)), MAX_SIDE)
    return [torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1) for pixels in decoded if pixels is not None]


def _draw(number: int) -> Tensor:
    """Return the numbers below `number` in random order, always the same."""
    return torch.randperm(number, generator=make_generator(0, "self-check", "sample"))


def _reduce(image: Tensor) -> Tensor:
    """Reduce a large image so that its shorter side has `MAX_SIDE` pixels."""
    scale = MAX_SIDE / min(image.shape[1:])
    if scale >= 1:
        return image
    height, width = (round(side * scale) for side in image.shape[1:])
    reduced = F.interpolate(image[None].float(), (height, width), mode="bilinear", antialias=True)[0]
    return reduced.round().clamp(0, 255).byte()


def _with_channels(image: Tensor, channels: int, name: str) -> Tensor:
    """Return an image with the channels that the network reads; colour becomes grey as the mean of equal channels.

    Raises:
        ConfigError: if the image is in colour and the network reads grey ones.
    """
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    if channels == 1 and bool((image == image[:1]).all()):  # a grey file decodes to three equal channels
        return image[:1]
    raise ConfigError(f"{name} has images in {image.shape[0]} channels, and the network reads {channels}")
