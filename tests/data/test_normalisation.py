import json

import numpy as np
import pytest
import torch

from helpers.images import encode, pictures, resident
from resnetlab.config import ConfigError, DataConfig, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.normalisation import SMALL, channel_normalisation, pixel_normalisation
from resnetlab.data.open_dataset import open_data
from resnetlab.serialization import from_json, to_json


def noise(count, side):
    images = torch.from_numpy(pictures(count, side).transpose(0, 3, 1, 2).copy())
    return Split(images, torch.zeros(count, dtype=torch.int64))


def encoded(pixels):
    sizes = torch.tensor([image.shape[:2] for image in pixels])
    places = [encode(image) for image in pixels]
    return Split(EncodedImages(places, ["x"] * len(pixels), sizes, 8, 1.0), torch.zeros(len(pixels), dtype=torch.int64))


def test_digits_stay_as_published():
    data = open_data(DataConfig("digits"))
    scaled = resident(data.train).double() / 255  # as version 0.1.0 computed it, to the last bit
    assert data.preprocessing == Preprocessing(8, (float(scaled.mean()),), (float(scaled.std()),))
    assert abs(data.preprocessing.mean[0] - 0.30560449716879595) < 1e-15


@pytest.mark.parametrize("count", [10, SMALL // (3 * 32 * 32) + 1])
def test_per_channel_is_the_mean_and_deviation(count):
    split = noise(count, 32)
    made = channel_normalisation(split)
    values = resident(split).numpy() / 255
    assert np.allclose(made.mean, values.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(made.std, values.std((0, 2, 3), ddof=1), rtol=1e-12)
    assert (made.image_size, made.crop_ratio, made.pixel_mean) == (32, 1.0, ())


def test_per_channel_of_encoded_images_is_that_of_their_views():
    pixels = pictures(300)
    split = Split(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()), torch.zeros(300, dtype=torch.int64))
    made, expected = channel_normalisation(encoded(pixels), workers=2), channel_normalisation(split)
    assert np.allclose(made.mean, expected.mean, rtol=1e-12)
    assert np.allclose(made.std, expected.std, rtol=1e-12)
    assert (made.image_size, made.crop_ratio) == (8, 1.0)


def test_a_channel_without_variation_is_left_as_it_is():
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    images[:2, 0] = 255
    made = channel_normalisation(Split(images, torch.zeros(4, dtype=torch.int64)))
    assert made.std[0] > 0.5
    assert made.std[1:] == (1.0, 1.0)


def test_per_pixel_subtracts_each_pixels_mean():
    split = noise(300, 4)
    made = pixel_normalisation(split, channel_normalisation(split))
    mean = np.array(made.pixel_mean).reshape(3, 4, 4)
    assert np.abs(mean - (resident(split).numpy() / 255).mean(0)).max() <= 0.5e-7
    assert made.std == (1.0, 1.0, 1.0)
    assert np.allclose(made.mean, mean.mean((1, 2)), atol=1e-7)
    assert from_json(Preprocessing, json.loads(json.dumps(to_json(made)))) == made


def test_per_pixel_needs_resident_images():
    split = encoded(pictures(3))
    with pytest.raises(
        ConfigError, match="a mean for each pixel needs images of one size that fit into memory; use --recipe"
    ):
        pixel_normalisation(split, channel_normalisation(split))
