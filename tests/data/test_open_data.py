"""`open_data`: missing splits, residency, and bad images."""

import pytest
import torch

from helpers.images import encode, random_images, resident_images, write_tree
from resnetlab.config import ConfigError, DataConfig
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.scan import BadDataError
from resnetlab.data.open_dataset import open_data
from resnetlab.data.splits import stratified_split


def opened(path, **options):
    return open_data(DataConfig(str(path), **options))


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


@pytest.mark.parametrize(
    ("layout", "expected", "warnings"),
    [
        ({"train/a": 30, "train/b": 20}, (45, 5, 0), ("there is no test split: the test error will be missing",)),
        ({"train/a": 30, "train/b": 20, "test/a": 2, "test/b": 1}, (45, 5, 3), ()),
        ({"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1}, (5, 2, 2), ()),
        (
            {"train/a": 3, "train/b": 2, "val/a": 1, "val/b": 1},
            (5, 2, 0),
            ("there is no test split: the test error will be missing",),
        ),
        ({"a": 30, "b": 20}, (40, 5, 5), ()),
        ({"a": 3, "b": 3}, (2, 2, 2), ()),
        ({"a": 30, "b": 2}, (25, 3, 4), ("too few images to split: val has no image of class b",)),
        (
            {"a": 30, "b": 1},
            (25, 3, 3),
            (
                "too few images to split: val has no image of class b",
                "too few images to split: test has no image of class b",
            ),
        ),
    ],
)
def test_missing_splits_are_drawn(tmp_path, layout, expected, warnings):
    data = opened(write_tree(tmp_path / "pets", layout))
    assert tuple(sizes(data).values()) == expected
    assert data.training_warnings == warnings
    assert data.warnings == tuple(line for line in warnings if not line.startswith("there is no test split"))
    assert data.name == "pets"
    assert resident_images(data.test).shape[1:] == (3, 8, 8)
    assert len({name for split in data.splits.values() for name in split.names}) == sum(expected)


def test_the_split_of_cifar10_has_exact_class_counts():
    labels = torch.arange(50_000) % 10
    parts = stratified_split(labels, {"val": 0.1}, 0)
    assert labels[parts["val"]].bincount().tolist() == [500] * 10
    assert labels[parts["train"]].bincount().tolist() == [4500] * 10
    assert torch.equal(torch.cat(list(parts.values())).sort().values, torch.arange(50_000))
    assert not torch.equal(parts["val"], stratified_split(labels, {"val": 0.1}, 1)["val"])
    assert torch.equal(parts["val"], stratified_split(labels, {"val": 0.1}, 0)["val"])


@pytest.mark.parametrize(
    ("count", "both", "val"),
    [
        (1, (1, 0, 0), (1, 0)),
        (2, (1, 0, 1), (1, 1)),
        (3, (1, 1, 1), (2, 1)),
        (14, (12, 1, 1), (13, 1)),
        (15, (11, 2, 2), (13, 2)),
    ],
)
def test_classes_with_few_images(count, both, val):
    labels = torch.zeros(count, dtype=torch.int64)
    parts = stratified_split(labels, {"val": 0.1, "test": 0.1}, 0)
    assert tuple(len(parts[name]) for name in ("train", "val", "test")) == both
    parts = stratified_split(labels, {"val": 0.1}, 0)
    assert tuple(len(parts[name]) for name in ("train", "val")) == val


@pytest.mark.parametrize(
    ("shapes", "options", "keep", "expected"),
    [
        ([(32, 32)], {}, False, (True, 32, 1.0)),
        ([(256, 256)], {}, False, (True, 256, 1.0)),
        ([(260, 260)], {}, False, (True, 224, 0.875)),
        ([(32, 40)], {}, False, (True, 224, 0.875)),
        ([(32, 32), (40, 40)], {"image_size": 32}, False, (True, 32, 1.0)),
        ([(32, 32), (40, 40)], {"image_size": 64}, False, (True, 64, 0.875)),
        ([(64, 64)], {"image_size": 64}, False, (True, 64, 1.0)),
        ([(32, 32)], {"resident_mib": 0}, False, (False, 32, 1.0)),
        ([(224, 224)], {"resident_mib": 1}, False, (False, 224, 1.0)),
        ([(100, 100), (90, 100)], {"image_size": 100, "resident_mib": 1}, False, (False, 100, 0.875)),
        ([(100, 100)], {"image_size": 100, "resident_mib": 1}, False, (True, 100, 1.0)),
        ([(32, 32)], {}, True, (True, 32, 1.0)),
        ([(40, 40)], {"image_size": 32}, True, (False, 32, 1.0)),
        ([(32, 32), (32, 40)], {"image_size": 64}, True, (False, 64, 0.875)),
    ],
)
def test_residency_and_geometry(tmp_path, shapes, options, keep, expected):
    for number in range(20):
        height, width = shapes[number % len(shapes)]
        folder = tmp_path / "ab"[number % 4 > 1]
        folder.mkdir(exist_ok=True)
        image = random_images(1, max(height, width), seed=number)[0, :height, :width]
        (folder / f"{number}.png").write_bytes(encode(image))
    data = open_data(DataConfig(str(tmp_path), **options), keep_encoded=keep)
    images, preprocessing = data.train.images, data.preprocessing
    assert (isinstance(images, torch.Tensor), preprocessing.image_size, preprocessing.crop_ratio) == expected
    if isinstance(images, torch.Tensor):
        assert images.shape == (16, 3, expected[1], expected[1])
    else:
        assert images.view.height == expected[1]
        assert {tuple(size) for size in images.sizes.tolist()} == set(shapes)
        assert list(images.names) == list(data.train.names)
        assert list(data.train.names) == sorted(data.train.names)  # by label, then by name
        assert len(data.test.images) == 2
        assert len(data.fingerprint) == 64


def write_bad_tree(root):
    """Write twelve images of two classes, of which two cannot be decoded: one is no image, one is truncated."""
    write_tree(root, {"train/a": 6, "train/b": 6})
    (root / "train/a/000.png").write_bytes(b"no image")
    whole = encode(random_images(1, 64)[0])
    (root / "train/b/000.png").write_bytes(whole[: len(whole) // 2])
    return root


def test_bad_images_raise_one_line(tmp_path):
    with pytest.raises(
        BadDataError, match=r"^2 of 12 images cannot be read: train/a/000.png: .*; train/b/000.png: "
    ) as error:
        opened(write_bad_tree(tmp_path))
    assert f"resnetlab data check {tmp_path}; skip such images with --on-bad-image skip" in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_images_can_be_skipped_and_are_listed(tmp_path):
    data = opened(write_bad_tree(tmp_path), on_bad_image="skip", image_size=8)
    assert [line.split(": ")[0] for line in data.skipped] == ["train/a/000.png", "train/b/000.png"]
    assert sizes(data) == {"train": 8, "val": 2, "test": 0}
    assert not {"train/a/000.png", "train/b/000.png"} & {*data.train.names, *data.val.names}


def test_bad_headers_of_encoded_images_raise(tmp_path):
    with pytest.raises(BadDataError, match=r"^1 of 12 images cannot be read: train/a/000.png: "):
        opened(write_bad_tree(tmp_path), resident_mib=0, image_size=8)
    (tmp_path / "train/a/000.png").unlink()
    with pytest.raises(ConfigError, match=r"^train/b/000.png: cannot be decoded \(.*; skip such images with --on-bad"):
        opened(tmp_path, resident_mib=0, image_size=8)
    data = opened(write_bad_tree(tmp_path), resident_mib=0, image_size=8, on_bad_image="skip")
    assert isinstance(data.train.images, EncodedImages)
    assert data.train.images.skip_bad
    assert sizes(data) == {"train": 9, "val": 2, "test": 0}
    assert len(data.skipped) == 1


def test_a_class_without_readable_images_is_an_error(tmp_path):
    write_tree(tmp_path, {"train/a": 6, "train/b": 1})
    (tmp_path / "train/b/000.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="train has no image of class b that can be read; replace the bad images"):
        opened(tmp_path, on_bad_image="skip")


def test_a_data_set_without_readable_images_is_an_error(tmp_path):
    write_tree(tmp_path, {"a": 1, "b": 1})
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(BadDataError, match="2 of 2 images cannot be read"):
        opened(tmp_path, on_bad_image="skip")


def test_images_above_the_pixel_limit_are_bad(tmp_path):
    write_tree(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "a/000.png").write_bytes(encode(random_images(1, 1100)[0]))
    with pytest.raises(BadDataError, match=r"^1 of 6 images cannot be read: a/000.png: "):
        opened(tmp_path, max_megapixels=1)


def test_progress_reports_stages(tmp_path):
    reported = []
    config = DataConfig(str(write_tree(tmp_path, {"a": 5, "b": 5})))
    open_data(config, on_progress=lambda *progress: reported.append(progress), workers=1)
    assert reported == [("measuring", 10, 10), ("decoding", 10, 10)]
