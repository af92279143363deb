"""Order is a function of (seed, epoch, position), and nothing else."""

import dataclasses

import pytest
import torch

from resnetlab.config import ConfigError, DataConfig, Recipe
from resnetlab.data.augment import normalise, random_crop, random_flip
from resnetlab.data.loader import draws, eval_batches, generator, sample_order, steps_per_epoch, train_batches
from resnetlab.data.sources import open_data

DATA = open_data(DataConfig("digits"))
RECIPE = Recipe(batch_size=100, crop_padding=1, flip=True)


def test_order_is_a_permutation_that_changes_with_seed_and_epoch():
    order = sample_order(0, 0, 1000)
    assert order.sort().values.tolist() == list(range(1000))
    assert torch.equal(order, sample_order(0, 0, 1000))
    assert not torch.equal(order, sample_order(0, 1, 1000))
    assert not torch.equal(order, sample_order(1, 0, 1000))


def test_purposes_do_not_share_random_numbers():
    a, b = (torch.rand(4, generator=generator(0, purpose, 0)) for purpose in ("order", "augment"))
    assert not torch.equal(a, b)


def test_global_randomness_neither_matters_nor_moves():
    torch.manual_seed(1)
    first = sample_order(3, 2, 50)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, sample_order(3, 2, 50))
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_batches_are_the_function_written_out():
    order, chance = sample_order(5, 2, len(DATA.train)), draws(5, 2, len(DATA.train))
    batches = list(train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=5, epoch=2))
    assert len(batches) == steps_per_epoch(len(DATA.train), 100) == 12
    for step in (0, 7, 11):
        images, labels = batches[step]
        at = slice(100 * step, 100 * (step + 1))
        expected = normalise(DATA.train.images[order[at]], DATA.preprocessing)
        expected = random_flip(random_crop(expected, 1, chance[at, :2]), chance[at, 2])
        assert torch.equal(images, expected)
        assert torch.equal(labels, DATA.train.labels[order[at]])


def test_a_samples_augmentation_does_not_depend_on_its_batch():
    large = torch.cat([x for x, _ in train_batches(DATA.train, DATA.preprocessing, RECIPE, 0, 0)])
    halves = dataclasses.replace(RECIPE, batch_size=50)
    small = torch.cat([x for x, _ in train_batches(DATA.train, DATA.preprocessing, halves, 0, 0)])
    assert torch.equal(large, small[: len(large)])


def test_without_augmentation_the_images_are_the_images():
    plain = Recipe(batch_size=1257)
    images, labels = next(train_batches(DATA.train, DATA.preprocessing, plain, 0, 0))
    order = sample_order(0, 0, 1257)
    assert torch.equal(images, normalise(DATA.train.images[order], DATA.preprocessing))
    assert torch.equal(labels, DATA.train.labels[order])


def test_evaluation_sees_every_sample_once_in_order():
    images, labels = zip(*eval_batches(DATA.val, DATA.preprocessing, batch_size=64), strict=True)
    assert torch.equal(torch.cat(labels), DATA.val.labels)
    assert torch.equal(torch.cat(images), normalise(DATA.val.images, DATA.preprocessing))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="batch size 2000 is larger than the training set of 1257 images"):
        next(train_batches(DATA.train, DATA.preprocessing, Recipe(batch_size=2000), 0, 0))
