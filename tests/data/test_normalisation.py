"""Normalisation statistics of resident and encoded training splits."""

import json

import numpy as np
import pytest
import torch

from helpers.images import encode, random_images, resident_images
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.normalisation import FLOAT_VALUES, channel_normalisation, pixel_normalisation
from resnetlab.data.open_dataset import open_data
from resnetlab.serialization import from_json, to_json


def random_split(count, side):
    images = torch.from_numpy(random_images(count, side).transpose(0, 3, 1, 2).copy())
    return Split(images, torch.zeros(count, dtype=torch.int64))


def encoded_split(pixels):
    sizes = torch.tensor([image.shape[:2] for image in pixels])
    storage = [encode(image) for image in pixels]
    images = EncodedImages(storage, ["x"] * len(pixels), sizes, view=EvalView(8, 8))
    return Split(images, torch.zeros(len(pixels), dtype=torch.int64))


def test_digits_have_the_published_statistics():
    data = open_data(DataConfig("digits"))
    scaled = resident_images(data.train).double() / 255  # the computation of version 0.1.0, to the last bit
    assert data.preprocessing == Preprocessing(8, (float(scaled.mean()),), (float(scaled.std()),))
    assert abs(data.preprocessing.mean[0] - 0.30560449716879595) < 1e-15


@pytest.mark.parametrize("count", [10, FLOAT_VALUES // (3 * 32 * 32) + 1])
def test_channel_normalisation_has_mean_and_standard_deviation(count):
    split = random_split(count, 32)
    result = channel_normalisation(split)
    values = resident_images(split).numpy() / 255
    assert np.allclose(result.mean, values.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(result.std, values.std((0, 2, 3), ddof=1), rtol=1e-12)
    assert (result.image_size, result.crop_ratio, result.pixel_mean) == (32, 1.0, ())


def test_channel_normalisation_of_encoded_images_uses_evaluation_views():
    pixels = random_images(300)
    split = Split(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.zeros(300, dtype=torch.int64))
    result, expected = channel_normalisation(encoded_split(pixels), workers=2), channel_normalisation(split)
    assert np.allclose(result.mean, expected.mean, rtol=1e-12)
    assert np.allclose(result.std, expected.std, rtol=1e-12)
    assert (result.image_size, result.crop_ratio) == (8, 1.0)


def test_a_channel_without_variation_has_standard_deviation_1():
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    images[:2, 0] = 255
    result = channel_normalisation(Split(images, torch.zeros(4, dtype=torch.int64)))
    assert result.std[0] > 0.5
    assert result.std[1:] == (1.0, 1.0)


@pytest.mark.parametrize("value", [7, 85, 128, 254])
@pytest.mark.parametrize("count", [10, FLOAT_VALUES // (3 * 32 * 32) + 1])
def test_a_channel_of_one_value_other_than_0_has_standard_deviation_1(value, count):
    """Its mean may be rounded, so that the computed deviation is not exactly 0."""
    split = random_split(count, 32)
    assert isinstance(split.images, torch.Tensor)
    split.images[:, 1] = value
    result = channel_normalisation(split)
    assert result.std[1] == 1.0
    assert result.mean[1] == pytest.approx(value / 255, rel=1e-12)
    assert 0.2 < result.std[0] < 0.4


def test_an_encoded_channel_of_one_value_has_standard_deviation_1():
    pixels = random_images(30)
    pixels[..., 2] = 85
    assert channel_normalisation(encoded_split(pixels)).std[2] == 1.0


def test_pixel_normalisation_subtracts_the_mean_of_each_pixel():
    split = random_split(300, 4)
    result = pixel_normalisation(split, channel_normalisation(split))
    mean = np.array(result.pixel_mean).reshape(3, 4, 4)
    assert np.abs(mean - (resident_images(split).numpy() / 255).mean(0)).max() <= 0.5e-7
    assert result.std == (1.0, 1.0, 1.0)
    assert np.allclose(result.mean, mean.mean((1, 2)), atol=1e-7)
    assert from_json(Preprocessing, json.loads(json.dumps(to_json(result)))) == result


def test_pixel_normalisation_needs_resident_images():
    split = encoded_split(random_images(3))
    with pytest.raises(
        ConfigError, match="a mean for each pixel needs images of one size that fit into memory; use --recipe"
    ):
        pixel_normalisation(split, channel_normalisation(split))
