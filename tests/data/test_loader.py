"""Order is a function of (seed, epoch, position), and nothing else."""

import dataclasses
import threading
import time
from collections.abc import Sequence

import pytest
import torch

from helpers.images import encode, pictures, resident
from resnetlab.config import ConfigError, DataConfig, Preprocessing, Recipe
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import BadImageError, decode_crop
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.loader import AHEAD, augmentation_params, eval_batches, steps_per_epoch, train_batches
from resnetlab.data.open_dataset import open_data
from resnetlab.data.rng import make_generator
from resnetlab.data.sampler import sample_order
from resnetlab.data.transforms import (
    colour_jitter,
    crop_boxes,
    normalise,
    pca_lighting,
    random_crop,
    random_flip,
    resize_boxes,
)

DATA = open_data(DataConfig("digits"))
RECIPE = Recipe(batch_size=100, crop_padding=1, flip=True)


def test_order_is_a_permutation_that_changes_with_seed_and_epoch():
    order = sample_order(0, 0, 1000)
    assert order.sort().values.tolist() == list(range(1000))
    assert torch.equal(order, sample_order(0, 0, 1000))
    assert not torch.equal(order, sample_order(0, 1, 1000))
    assert not torch.equal(order, sample_order(1, 0, 1000))


def test_purposes_do_not_share_random_numbers():
    a, b = (torch.rand(4, generator=make_generator(0, purpose, 0)) for purpose in ("order", "augment"))
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
    order, chance = sample_order(5, 2, len(DATA.train)), augmentation_params(5, 2, len(DATA.train))
    batches = list(train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=5, epoch=2))
    assert len(batches) == steps_per_epoch(len(DATA.train), 100) == 12
    for step in (0, 7, 11):
        images, labels = batches[step]
        at = slice(100 * step, 100 * (step + 1))
        expected = normalise(resident(DATA.train)[order[at]], DATA.preprocessing)
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
    assert torch.equal(images, normalise(resident(DATA.train)[order], DATA.preprocessing))
    assert torch.equal(labels, DATA.train.labels[order])


def test_evaluation_sees_every_sample_once_in_order():
    images, labels = zip(*eval_batches(DATA.val, DATA.preprocessing, batch_size=64), strict=True)
    assert torch.equal(torch.cat(labels), DATA.val.labels)
    assert torch.equal(torch.cat(images), normalise(resident(DATA.val), DATA.preprocessing))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="batch size 2000 is larger than the training set of 1257 images"):
        next(train_batches(DATA.train, DATA.preprocessing, Recipe(batch_size=2000), 0, 0))


def grey_free(size: int, count: int = 60) -> Split:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=make_generator(0, "pictures"))
    return Split(images, torch.arange(count))


def encoded(count: int = 60, size: int = 16, bad: Sequence[int] = (), **options) -> Split:
    """Images of many sizes, labelled by their number."""
    places: list[bytes] = []
    sizes = [(20 + i % 7, 30 - i % 5) for i in range(count)]
    for i, (height, width) in enumerate(sizes):
        picture = pictures(1, 30, seed=i)[0][:height, :width]
        places.append(encode(picture, "JPEG" if i % 2 else "PNG") if i not in bad else b"")
    names = [str(i) for i in range(count)]
    images = EncodedImages(places, names, torch.tensor(sizes), size, 0.875, **{"skip_bad": True, **options})
    return Split(images, torch.arange(count))


RGB = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), crop_ratio=0.875)
FULL = Recipe(batch_size=10, flip=True, jitter=0.4, lighting=0.1)


def by_hand(split: Split, recipe: Recipe, seed: int, epoch: int, step: int) -> torch.Tensor:
    """What a batch should be, written out in the order that the design says."""
    at = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    samples, chance = sample_order(seed, epoch, len(split))[at], augmentation_params(seed, epoch, len(split))[at]
    if isinstance(split.images, torch.Tensor):
        images = split.images[samples]
        if recipe.crop != "pad":
            sizes = torch.tensor([images.shape[2:]]).expand(len(images), 2)
            images = resize_boxes(images, crop_boxes(recipe, sizes, chance, 16), 16)
    elif recipe.crop == "pad":
        images = split.images.views(samples)[0]
    else:
        images = split.images.crops(samples, crop_boxes(recipe, split.images.sizes[samples], chance, 16))[0]
    images = images / 255 if images.dtype == torch.uint8 else images
    if recipe.flip and recipe.crop != "pad":
        images = random_flip(images, chance[:, 2])
    images = pca_lighting(colour_jitter(images, recipe.jitter, chance[:, 5:8]), recipe.lighting, chance[:, 8:11])
    images = normalise(images, RGB)
    if recipe.crop == "pad":
        images = random_flip(random_crop(images, recipe.crop_padding, chance[:, :2]), chance[:, 2])
    return images


@pytest.mark.parametrize("kind", ["pad", "scale", "resized"])
@pytest.mark.parametrize("make", [lambda: grey_free(16), encoded], ids=["resident", "encoded"])
def test_every_geometry_is_the_function_written_out(make, kind):
    split, recipe = make(), dataclasses.replace(FULL, crop=kind, crop_padding=2)
    order = sample_order(3, 1, 60)
    for step, (images, labels) in enumerate(train_batches(split, RGB, recipe, 3, 1)):
        assert torch.allclose(images, by_hand(split, recipe, 3, 1, step), atol=1e-5)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, order[10 * step : 10 * step + 10])


@pytest.mark.parametrize("kind", ["pad", "resized"])
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(kind, workers):
    split, recipe = encoded(), dataclasses.replace(FULL, crop=kind)
    alone = list(train_batches(split, RGB, recipe, 0, 0))
    shared = list(train_batches(split, RGB, recipe, 0, 0, workers=workers))
    assert len(alone) == len(shared) == 6
    for ours, theirs in zip(alone, shared, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    for ours, theirs in zip(eval_batches(split, RGB, 25), eval_batches(split, RGB, 25, workers=workers), strict=True):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("make", [lambda: grey_free(16), encoded], ids=["resident", "encoded"])
def test_a_later_first_step_gives_the_same_batches(make):
    recipe = dataclasses.replace(FULL, crop="scale")
    every = list(train_batches(make(), RGB, recipe, 1, 2))
    rest = list(train_batches(make(), RGB, recipe, 1, 2, first_step=4, workers=2))
    assert len(rest) == 2
    for ours, theirs in zip(every[4:], rest, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert list(train_batches(make(), RGB, recipe, 1, 2, first_step=6)) == []


def test_parts_of_a_batch_are_worked_on_as_the_whole(monkeypatch):
    recipe = dataclasses.replace(FULL, crop="resized")
    for split in (grey_free(16), encoded()):
        for layout in (torch.channels_last, torch.contiguous_format):
            whole = next(train_batches(split, RGB, recipe, 0, 0, memory_format=layout))[0]
            with monkeypatch.context() as patch:
                patch.setattr("resnetlab.data.loader.CACHED", 3 * 768)
                parts = next(train_batches(split, RGB, recipe, 0, 0, memory_format=layout))[0]
            assert torch.equal(whole, parts)
            assert whole.stride() == parts.stride()
            assert parts.is_contiguous(memory_format=layout)


def test_resident_images_may_be_channels_last_as_well():
    split = grey_free(16)
    turned = Split(resident(split).contiguous(memory_format=torch.channels_last), split.labels)
    recipe = dataclasses.replace(FULL, crop_padding=2)
    for ours, theirs in zip(
        train_batches(split, RGB, recipe, 0, 0), train_batches(turned, RGB, recipe, 0, 0), strict=True
    ):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_makes_its_batch_smaller(workers):
    told = []
    recipe = dataclasses.replace(FULL, crop="resized")
    whole = list(train_batches(encoded(), RGB, recipe, 0, 0))
    broken = encoded(bad=(4, 5, 31), report=told.append)
    batches = list(train_batches(broken, RGB, recipe, 0, 0, workers=workers))
    for (images, labels), (all_images, all_labels) in zip(batches, whole, strict=True):
        good = torch.tensor([label not in (4, 5, 31) for label in all_labels.tolist()])
        assert torch.equal(labels, all_labels[good])
        assert torch.equal(images, all_images[good])
    assert sum(len(labels) for _, labels in batches) == 57
    seen = torch.cat([labels for _, labels in eval_batches(broken, RGB, 7, workers=workers)])
    assert seen.tolist() == [i for i in range(60) if i not in (4, 5, 31)]
    assert sorted(told) == ["31: is empty", "4: is empty", "5: is empty"]


def test_a_batch_of_one_cannot_be_trained_on_and_an_empty_one_not_evaluated():
    broken = encoded(20, bad=range(1, 20))
    with pytest.raises(ConfigError, match=r"only \d of the 10 images of a batch can be decoded"):
        list(train_batches(broken, RGB, dataclasses.replace(FULL, crop="scale"), 0, 0))
    assert [labels.tolist() for _, labels in eval_batches(broken, RGB, 5)] == [[0]]


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_threads_end_with_the_iterator_however_it_ends():
    recipe = dataclasses.replace(FULL, crop="resized")
    early = train_batches(encoded(), RGB, recipe, 0, 0, workers=3)
    next(early)
    assert decoders()
    early.close()
    assert not decoders()
    list(train_batches(encoded(), RGB, recipe, 0, 0, workers=3))
    assert not decoders()
    failing = encoded(bad=(17,), skip_bad=False)
    with pytest.raises(BadImageError, match="17: cannot be decoded"):
        list(train_batches(failing, RGB, recipe, 0, 0, workers=3))
    assert not decoders()


def test_no_more_than_a_few_batches_are_decoded_ahead(monkeypatch):
    decoded = []

    def counted(*words):
        decoded.append(words)
        return decode_crop(*words)

    monkeypatch.setattr("resnetlab.data.images.encoded.crop", counted)
    batches = train_batches(encoded(200), RGB, dataclasses.replace(FULL, crop="resized"), 0, 0, workers=2)
    for taken in (1, 2):
        next(batches)
        until = time.monotonic() + 5
        while len(decoded) < 10 * (taken + AHEAD) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(decoded) == 10 * (taken + AHEAD)
    batches.close()


def test_a_mean_for_each_pixel_is_subtracted_before_the_crop():
    split = grey_free(16)
    mean = torch.rand(3, 16, 16, generator=make_generator(0, "mean"))
    preprocessing = Preprocessing(16, RGB.mean, (1.0, 1.0, 1.0), pixel_mean=tuple(mean.flatten().tolist()))
    recipe = Recipe(batch_size=60, crop_padding=3, flip=True)
    images, labels = next(train_batches(split, preprocessing, recipe, 0, 0))
    chance = augmentation_params(0, 0, 60)
    expected = random_flip(random_crop(resident(split)[labels] / 255 - mean, 3, chance[:, :2]), chance[:, 2])
    assert torch.equal(images, expected)
