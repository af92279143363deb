"""Pictures to compare on."""

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError
from resnetlab.inference.probe_images import luma, probe_noise, probe_photographs, user_images

COLOUR = Preprocessing(32, (0.5,) * 3, (0.2,) * 3, crop_ratio=0.875)
GREY = Preprocessing(20, (0.5,), (0.2,))


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_shapes(preprocessing):
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    for made in (probe_photographs(preprocessing, 5), probe_noise(preprocessing, 5)):
        assert made.shape == (5, size, size, channels)
        assert made.dtype == np.uint8
    assert probe_photographs(preprocessing, 0).shape == probe_noise(preprocessing, 0).shape == (0, size, size, channels)


def test_photographs_are_real_and_differ():
    seen = probe_photographs(COLOUR, 12)
    assert (seen == probe_photographs(COLOUR, 12)).all()
    assert (seen[:3] == probe_photographs(COLOUR, 3)).all()
    assert len({one.tobytes() for one in seen}) == 12
    steps = np.abs(np.diff(seen.astype(int), axis=2)).mean()
    assert steps < 30 < np.abs(np.diff(probe_noise(COLOUR, 12).astype(int), axis=2)).mean()  # neighbours are alike


def test_the_users_own(tmp_path):
    Image.fromarray(probe_noise(Preprocessing(50, (0.5,) * 3, (0.2,) * 3), 1)[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert user_images({"a": data, "b": data}, COLOUR).shape == (2, 32, 32, 3)
    assert (
        user_images({"a": data}, GREY) == luma(user_images({"a": data}, Preprocessing(20, (0.5,) * 3, (0.2,) * 3)))
    ).all()
    with pytest.raises(BadImageError, match="b: truncated"):
        user_images({"a": data, "b": data[: len(data) // 2]}, COLOUR)
