"""The sample of images for the self-check: which images are read, and those that cannot be."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import ConfigError, DataConfig
from resnetlab.evaluation.self_check.sample_images import load_sample


def write_images(folder, value, *, bad=0):
    """Write 3 images of one value into a folder, and `bad` files that are no images."""
    folder.mkdir(parents=True)
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(folder / f"{number}.png")
    for number in range(bad):
        (folder / f"bad{number}.png").write_bytes(b"no image")


def values(images):
    return sorted({int(image.max()) for image in images})


@pytest.fixture
def photos(tmp_path):
    """Return a folder with two splits of unknown names; one has a bad file."""
    for split, value in (("Lernen", 10), ("Pruefen", 200)):
        write_images(tmp_path / split / "cat", value)
        write_images(tmp_path / split / "dog", value + 1, bad=split == "Lernen")
    return tmp_path


def test_named_splits_of_a_folder_select_its_images(photos):
    data = DataConfig(str(photos), on_bad_image="skip")
    assert values(load_sample(data, 99, 3)) == [10, 11, 200, 201]
    for split_folders, expected in (("train=Pruefen,test=Lernen", [200, 201]), ("all=Lernen", [10, 11])):
        assert values(load_sample(replace(data, split_folders=split_folders), 99, 3)) == expected


@pytest.mark.parametrize("split_folders", [None, "train=Lernen,test=Pruefen"])
def test_an_image_that_cannot_be_read(photos, split_folders):
    data = DataConfig(str(photos), split_folders=split_folders)
    assert len(load_sample(replace(data, on_bad_image="skip"), 99, 3)) == (12 if split_folders is None else 6)
    with pytest.raises(ConfigError, match=r"bad0[.]png: cannot be decoded .*; skip such images with --on-bad"):
        load_sample(data, 99, 3)
