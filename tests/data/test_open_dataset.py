"""Data sets of every container format: contents, splits, fingerprints and names."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from helpers.images import encode, random_images, resident_images, write_parquet, write_tree
from resnetlab.config import DataConfig
from resnetlab.data.open_dataset import open_data
from resnetlab.data.registry import CIFAR10
from resnetlab.data.transforms import normalise

from conftest import ROOT


def image_bytes(split):
    return [bytes(image) for image in resident_images(split).flatten(1).numpy()]


def test_digits_contain_every_image_once():
    data = open_data(DataConfig("digits"))
    images, labels = load_digits(return_X_y=True)
    assert [len(split) for split in data.splits.values()] == [1257, 270, 270]
    images_found = sorted(image for split in data.splits.values() for image in image_bytes(split))
    assert images_found == sorted(bytes(row) for row in (images * 255 / 16).round().astype("uint8"))
    together = torch.cat([split.labels for split in data.splits.values()])
    assert together.bincount().tolist() == torch.from_numpy(labels).bincount().tolist()


def test_the_split_is_stratified():
    data = open_data(DataConfig("digits"))
    for split in data.splits.values():
        shares = split.labels.bincount(minlength=10) / len(split)
        assert float((shares - 0.1).abs().max()) < 0.01


def test_the_split_depends_on_its_seed_alone():
    first, again, other = (open_data(DataConfig("digits", split_seed=seed)) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert image_bytes(first.test) != image_bytes(other.test)


def test_the_fingerprint_changes_with_a_single_label():
    data = open_data(DataConfig("digits"))
    labels = data.val.labels.clone()
    labels[3] = (labels[3] + 1) % 10
    changed = dataclasses.replace(data, val=dataclasses.replace(data.val, labels=labels))
    assert changed.fingerprint != data.fingerprint


def test_preprocessing_normalises_the_training_split():
    data = open_data(DataConfig("digits"))
    seen = normalise(resident_images(data.train), data.preprocessing)
    assert seen.dtype == torch.float32
    assert abs(float(seen.mean())) < 1e-5
    assert abs(float(seen.std()) - 1) < 1e-5
    assert abs(float(normalise(resident_images(data.val), data.preprocessing).mean())) > 1e-5


def shuffled_labels(count, num_classes):
    """Return `count` labels in a random order that is the same in each call."""
    return np.random.default_rng(1).permutation(np.arange(count) % num_classes).tolist()


def write_class_folders(root, pixels, labels, splits, classes, kind="PNG"):
    for number, (image, label, split) in enumerate(zip(pixels, labels, splits, strict=True)):
        folder = root / split / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.{kind.lower()}").write_bytes(encode(image, kind))
    return root


def write_cifar10(root, pixels, labels, splits):
    records = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for image, label in zip(pixels, labels, strict=True)]
    train = [record for record, split in zip(records, splits, strict=True) if split == "train"]
    root.mkdir()
    for number in range(5):
        (root / f"data_batch_{number + 1}.bin").write_bytes(b"".join(train[number::5]))
    (root / "test_batch.bin").write_bytes(b"".join(r for r, s in zip(records, splits, strict=True) if s == "test"))
    return root


def opened(path, **options):
    return open_data(DataConfig(str(path), **options))


def sizes(data):
    return {name: len(split) for name, split in data.splits.items()}


@pytest.mark.parametrize("image_size", [None, 24])
def test_the_container_format_does_not_change_the_result(tmp_path, image_size):
    """Open the same 200 images from CIFAR-10 records, a folder tree and parquet, each in a different order."""
    pixels, labels, splits = (
        random_images(200, 32),
        shuffled_labels(160, 10) + shuffled_labels(40, 10),
        ["train"] * 160 + ["test"] * 40,
    )
    pixels[labels.index(3)] = pixels[labels.index(3, labels.index(3) + 1)]  # two equal images of one class
    root = write_cifar10(tmp_path / "bin", pixels, labels, splits)
    write_class_folders(tmp_path / "tree", pixels[::-1], labels[::-1], splits[::-1], CIFAR10)
    for split, rows in (("train", [*range(80, 160), *range(80)]), ("test", range(160, 200))):
        encoded = [encode(pixels[row], "WEBP") for row in rows]
        write_parquet(
            tmp_path / "pq" / f"{split}-0.parquet", encoded, [labels[row] for row in rows], CIFAR10, image="img"
        )
    ours = open_data(DataConfig("cifar10", str(root), image_size=image_size))
    others = [opened(tmp_path / name, image_size=image_size) for name in ("tree", "pq")]
    assert sizes(ours) == {"train": 140, "val": 20, "test": 40}
    for other in others:
        assert other.fingerprint == ours.fingerprint
        assert (other.classes, other.preprocessing) == (ours.classes, ours.preprocessing)
        for name, split in ours.splits.items():
            assert torch.equal(resident_images(other.splits[name]), resident_images(split))
            assert torch.equal(other.splits[name].labels, split.labels)


def test_names_are_the_paths_of_the_images(tmp_path):
    data = opened(write_class_folders(tmp_path, random_images(40), shuffled_labels(40, 2), ["train"] * 40, ("a", "b")))
    for split in data.splits.values():
        for image, label, name in zip(resident_images(split), split.labels.tolist(), split.names, strict=True):
            stored = np.asarray(Image.open(tmp_path / name))
            assert np.array_equal(image.permute(1, 2, 0).numpy(), stored)
            assert name.split("/")[1] == data.classes[label]


def test_digits_of_another_size():
    data = open_data(DataConfig("digits", image_size=16))
    assert resident_images(data.train).shape == (1257, 1, 16, 16)
    assert (data.preprocessing.image_size, data.channels) == (16, 1)
    assert torch.equal(data.train.labels, open_data(DataConfig("digits")).train.labels)


SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"real data are missing: {SHARED}")


@pytest.mark.slow  # 13,000 images; a folder of photographs follows
@needs_shared
def test_imagenette64():
    data = opened(SHARED / "imagenette64")
    assert sizes(data) == {"train": 9469, "val": 3925, "test": 0}
    assert resident_images(data.train).shape == (9469, 3, 64, 64)
    assert data.classes[:2] == ("tench", "English springer")


@needs_shared
def test_a_folder_of_photographs():
    data = opened(SHARED / "imagenette224-sample")
    assert sizes(data) == {"train": 400, "val": 100, "test": 0}
    assert data.preprocessing.image_size == 224
    smaller = opened(SHARED / "imagenette224-sample", image_size=64)
    assert smaller.preprocessing.crop_ratio == 0.875
    assert resident_images(smaller.train).shape == (400, 3, 64, 64)


@pytest.mark.slow
@needs_shared
def test_cifar10():
    data = opened(SHARED / "cifar10")
    assert sizes(data) == {"train": 45_000, "val": 5_000, "test": 10_000}
    assert data.val.labels.bincount().tolist() == [500] * 10
    assert np.allclose(data.preprocessing.mean, (0.4914, 0.4822, 0.4465), atol=1e-3)
    assert np.allclose(data.preprocessing.std, (0.2470, 0.2435, 0.2616), atol=1e-3)


def test_copies_that_fall_into_drawn_splits_are_reported(tmp_path):
    tree = write_tree(tmp_path, {"train/a": 20, "train/b": 20})
    assert not any("copies" in line for line in open_data(DataConfig(str(tree))).warnings)
    for source in sorted(tree.rglob("*.png")):
        source.with_name(f"copy{source.name}").write_bytes(source.read_bytes())
    data = open_data(DataConfig(str(tree)))
    shared = set(image_bytes(data.val)) & set(image_bytes(data.train))
    count = sum(image in shared for image in image_bytes(data.val))
    assert count
    line = f"drawn splits have exact copies of training images ({count} of val)"
    assert data.warnings[-1] == f"{line}; remove the copies, or make the splits yourself"
    whole = open_data(DataConfig(str(tree / "train")))
    assert any("of val, " in line and "of test)" in line for line in whole.warnings)
    given = write_tree(tmp_path / "given", {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"})
    (given / "val/a/copy.png").write_bytes((given / "train/a/000.png").read_bytes())
    assert not any("copies" in line for line in open_data(DataConfig(str(given))).warnings)
