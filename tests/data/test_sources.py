import dataclasses

import torch
from sklearn.datasets import load_digits

from resnetlab.config import DataConfig
from resnetlab.data.augment import normalise
from resnetlab.data.sources import open_data


def rows(split):
    return [bytes(image) for image in split.images.flatten(1).numpy()]


def test_digits_are_all_there_once():
    data = open_data(DataConfig("digits"))
    images, labels = load_digits(return_X_y=True)
    assert [len(split) for split in data.splits.values()] == [1257, 270, 270]
    ours = sorted(row for split in data.splits.values() for row in rows(split))
    assert ours == sorted(bytes(row) for row in (images * 255 / 16).round().astype("uint8"))
    together = torch.cat([split.labels for split in data.splits.values()])
    assert together.bincount().tolist() == torch.from_numpy(labels).bincount().tolist()


def test_the_split_is_stratified():
    data = open_data(DataConfig("digits"))
    for split in data.splits.values():
        shares = split.labels.bincount(minlength=10) / len(split)
        assert float((shares - 0.1).abs().max()) < 0.01


def test_the_split_follows_its_seed_alone():
    first, again, other = (open_data(DataConfig("digits", seed)) for seed in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert rows(first.test) != rows(other.test)


def test_the_fingerprint_sees_a_single_label():
    data = open_data(DataConfig("digits"))
    labels = data.val.labels.clone()
    labels[3] = (labels[3] + 1) % 10
    changed = dataclasses.replace(data, val=dataclasses.replace(data.val, labels=labels))
    assert changed.fingerprint != data.fingerprint


def test_preprocessing_is_of_the_training_split():
    data = open_data(DataConfig("digits"))
    seen = normalise(data.train.images, data.preprocessing)
    assert seen.dtype == torch.float32
    assert abs(float(seen.mean())) < 1e-5
    assert abs(float(seen.std()) - 1) < 1e-5
    assert abs(float(normalise(data.val.images, data.preprocessing).mean())) > 1e-5
