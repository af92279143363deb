"""The images on which runtimes are compared."""

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError
from resnetlab.inference.probe_images import luma, probe_images, probe_noise, probe_photographs, user_images

COLOUR = Preprocessing(32, (0.5,) * 3, (0.2,) * 3, crop_ratio=0.875)
GREY = Preprocessing(20, (0.5,), (0.2,))


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_shapes(preprocessing):
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    for images in (probe_photographs(preprocessing, 5), probe_noise(preprocessing, 5)):
        assert images.shape == (5, size, size, channels)
        assert images.dtype == np.uint8
    assert probe_photographs(preprocessing, 0).shape == probe_noise(preprocessing, 0).shape == (0, size, size, channels)


def test_photographs_are_real_and_differ():
    images = probe_photographs(COLOUR, 12)
    assert (images == probe_photographs(COLOUR, 12)).all()
    assert (images[:3] == probe_photographs(COLOUR, 3)).all()
    assert len({image.tobytes() for image in images}) == 12
    steps = np.abs(np.diff(images.astype(int), axis=2)).mean()
    assert (
        steps < 30 < np.abs(np.diff(probe_noise(COLOUR, 12).astype(int), axis=2)).mean()
    )  # neighbouring pixels are similar


def test_user_images(tmp_path):
    Image.fromarray(probe_noise(Preprocessing(50, (0.5,) * 3, (0.2,) * 3), 1)[0]).save(tmp_path / "a.png")
    encoded = (tmp_path / "a.png").read_bytes()
    assert user_images({"a": encoded, "b": encoded}, COLOUR).shape == (2, 32, 32, 3)
    assert (
        user_images({"a": encoded}, GREY)
        == luma(user_images({"a": encoded}, Preprocessing(20, (0.5,) * 3, (0.2,) * 3)))
    ).all()
    with pytest.raises(BadImageError, match="b: truncated"):
        user_images({"a": encoded, "b": encoded[: len(encoded) // 2]}, COLOUR)


def test_probe_images_are_photographs_and_noise():
    images = probe_images(COLOUR)
    assert images.shape == (32, 32, 32, 3)
    assert images.dtype == np.uint8
    roughness = np.abs(np.diff(images.astype(int), axis=2)).mean((1, 2, 3))
    assert roughness[:24].max() < roughness[24:].min()
