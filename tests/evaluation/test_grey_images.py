"""Image files, which decode to colour, for a network that reads grey ones: the pixels of a prediction."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import random_images
from helpers.small_network import CLASSES, GREY, model_file
from resnetlab.cli.diagnose import Options, open_batch
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.evaluation.evaluator import evaluate_members, open_members
from resnetlab.evaluation.options import EvaluationOptions
from resnetlab.export.quantize import _open_splits  # pyright: ignore[reportPrivateUsage]
from resnetlab.inference.predictor import load
from resnetlab.models.model_card import read_card


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return model_file(tmp_path_factory.mktemp("network") / "grey.safetensors", GREY)


@pytest.fixture(scope="module", params=["L", "RGB"])
def folder(request, tmp_path_factory) -> Path:
    """Write images of each class, in grey or in colour."""
    root = tmp_path_factory.mktemp(request.param)
    for name, image in zip(CLASSES * 10, random_images(60, side=28), strict=True):
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(image).convert(request.param).save(root / name / f"{len(list((root / name).iterdir()))}.png")
    return root


@pytest.mark.parametrize("resident_mib", [0, 100])
def test_evaluation_and_prediction_see_the_same_pixels(network, folder, resident_mib):
    options = EvaluationOptions(split="all")
    (member,) = open_members([network], DataConfig(str(folder), resident_mib=resident_mib), options)
    assert isinstance(member.dataset.split.images, torch.Tensor) == (resident_mib > 0)
    assert member.dataset.split.channels == 1
    found = evaluate_members([member], options)
    files = [folder / member.dataset.split.names[position] for position in found.positions]
    expected = load(network).probabilities(files)
    np.testing.assert_allclose(found.confidence, expected.max(1), atol=1e-5)
    assert found.top[:, 0].tolist() == expected.argmax(1).tolist()


@pytest.mark.parametrize("protocol", ["ten-crop", "multi-scale"])
def test_protocols_that_resize_read_grey_files(network, folder, protocol):
    options = EvaluationOptions(split="all", protocol=protocol, sides=(32,))
    assert len(evaluate_members(open_members([network], DataConfig(str(folder)), options), options)) == 60


def test_calibration_and_diagnosis_read_grey_files(network, folder):
    train, val, _ = _open_splits(read_card(network), DataConfig(str(folder)), lambda *_: None)
    assert (train.channels, val.channels) == (1, 1)
    assert open_batch(network, Options(network, data=str(folder), batch_size=4)).images.shape == (4, 1, 28, 28)


def test_networks_of_other_channels_read_no_files(folder, tmp_path):
    file = model_file(tmp_path / "infrared.safetensors", Preprocessing(28, (0.5,) * 4, (0.2,) * 4))
    with pytest.raises(ConfigError, match="has 3-channel images, and resnet8 reads 4 channels"):
        open_members([file], DataConfig(str(folder)), EvaluationOptions(split="all"))
