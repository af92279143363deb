"""The survey of a data set agrees with what opening it gives."""

import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.photographs import write_photographs
from resnetlab.config import DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import KNOWN_DATASETS
from resnetlab.planning import image_survey
from resnetlab.planning.image_survey import ImageSurvey, survey_images
from resnetlab.planning.workload import KNOWN_STATS, count_images


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`splits` with train and val, `whole` without splits, `trained` with train alone."""
    root = tmp_path_factory.mktemp("survey")
    write_photographs(root / "splits")
    shutil.copytree(root / "splits" / "train", root / "whole")
    shutil.copytree(root / "splits" / "train", root / "trained" / "train")
    return root


@pytest.mark.parametrize("name", ["splits", "whole", "trained"])
@pytest.mark.parametrize("train_images", [None, 12])
def test_the_numbers_are_those_of_the_opened_data(folders, name, train_images):
    config = DataConfig(str(folders / name), train_images=train_images)
    survey, opened = survey_images(config), open_data(config)
    assert (survey.num_train, survey.num_val) == (len(opened.train), len(opened.val))
    assert survey.num_evaluated == len(opened.train) + len(opened.val) + len(opened.test)
    assert survey.num_images == {"splits": 72, "whole": 60, "trained": 60}[name]
    assert survey.num_classes == 3
    assert survey.decode_s > 0
    assert all(24 <= side < 40 for size in survey.sizes for side in size)


@pytest.mark.parametrize(
    ("folder", "sizes"), [("", (34, 6, 6)), ("train", (40, 6, 0))], ids=["no splits", "no validation"]
)
def test_plan_survey_and_opened_data_agree_on_odd_numbers_of_images(tmp_path, folder, sizes):
    """Classes of 1, 5, 15 and 25 images: 10 % of each are 0.1, 0.5, 1.5 and 2.5 images."""
    rng = np.random.default_rng(0)
    for label, count in enumerate((1, 5, 15, 25)):
        path = tmp_path / folder / f"class{label}"
        path.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path / f"{number}.png")
    config = DataConfig(str(tmp_path))
    survey, opened = survey_images(config), open_data(config)
    assert (len(opened.train), len(opened.val), len(opened.test)) == sizes
    assert (survey.num_train, survey.num_val) == sizes[:2]
    assert count_images(str(tmp_path)).num_train == sizes[0]


def test_few_images_are_decoded_whatever_their_number(folders, monkeypatch):
    decoded = []
    monkeypatch.setattr(image_survey, "decode_eval_view", lambda data, view: decoded.append(len(data)))
    survey_images(DataConfig(str(folders / "whole")))
    assert 0 < len(decoded) <= image_survey.MAX_DECODED


def test_a_known_data_set_is_not_opened():
    survey = survey_images(DataConfig("cifar100", train_images=500))
    assert (survey.num_train, survey.num_val, survey.num_classes, survey.native_side) == (500, 5_000, 100, 32)


@pytest.mark.parametrize("name", [name for name in KNOWN_STATS if name in KNOWN_DATASETS])
@pytest.mark.parametrize("train_images", [None, 500])
def test_the_numbers_of_a_known_data_set_are_its_own(name, train_images):
    survey = survey_images(DataConfig(name, train_images=train_images))
    total = {"digits": 1797, "mnist": 70_000, "fashion-mnist": 70_000}.get(name, 60_000)
    assert survey.num_images == total
    left_out = 0 if train_images is None else survey_images(DataConfig(name)).num_train - 500
    assert survey.num_evaluated == total - left_out


def test_the_digits_are_counted_as_they_are_opened():
    survey, opened = survey_images(DataConfig("digits")), open_data(DataConfig("digits"))
    assert (survey.num_train, survey.num_val) == (len(opened.train), len(opened.val))
    assert survey.num_images == sum(map(len, opened.splits.values()))


@pytest.mark.parametrize(
    ("sizes", "side", "native"),
    [(((32, 32), (32, 32)), 32, 32), (((300, 400), (400, 500), (200, 900)), 300, None), (((40, 30),), 30, None)],
)
def test_the_side_is_the_median_of_the_shorter_ones(sizes, side, native):
    survey = ImageSurvey(10, 1, 11, 11, 2, sizes)
    assert (survey.side, survey.native_side) == (side, native)
