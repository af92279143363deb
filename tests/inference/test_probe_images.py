"""Pictures to compare on."""

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import Preprocessing
from resnetlab.data.images.decode import BadImageError
from resnetlab.inference.probe_images import luma, noise, own, photographs

COLOUR = Preprocessing(32, (0.5,) * 3, (0.2,) * 3, crop_ratio=0.875)
GREY = Preprocessing(20, (0.5,), (0.2,))


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_shapes(preprocessing):
    size, channels = preprocessing.image_size, len(preprocessing.mean)
    for made in (photographs(preprocessing, 5), noise(preprocessing, 5)):
        assert made.shape == (5, size, size, channels)
        assert made.dtype == np.uint8
    assert photographs(preprocessing, 0).shape == noise(preprocessing, 0).shape == (0, size, size, channels)


def test_photographs_are_real_and_differ():
    seen = photographs(COLOUR, 12)
    assert (seen == photographs(COLOUR, 12)).all()
    assert (seen[:3] == photographs(COLOUR, 3)).all()
    assert len({one.tobytes() for one in seen}) == 12
    steps = np.abs(np.diff(seen.astype(int), axis=2)).mean()
    assert steps < 30 < np.abs(np.diff(noise(COLOUR, 12).astype(int), axis=2)).mean()  # neighbours are alike


def test_the_users_own(tmp_path):
    Image.fromarray(noise(Preprocessing(50, (0.5,) * 3, (0.2,) * 3), 1)[0]).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert own({"a": data, "b": data}, COLOUR).shape == (2, 32, 32, 3)
    assert (own({"a": data}, GREY) == luma(own({"a": data}, Preprocessing(20, (0.5,) * 3, (0.2,) * 3)))).all()
    with pytest.raises(BadImageError, match="b: truncated"):
        own({"a": data, "b": data[: len(data) // 2]}, COLOUR)
