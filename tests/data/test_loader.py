"""Batches are a function of (seed, epoch, position) and nothing else."""

import dataclasses
import threading
import time
from collections.abc import Sequence

import pytest
import torch

from helpers.images import encode, random_images, resident_images
from resnetlab.config import ConfigError, DataConfig, Preprocessing, Recipe
from resnetlab.data.augmentation import alternating_flips, augmentation_params
from resnetlab.data.dataset import Split
from resnetlab.data.images.decode import BadImageError, decode_crop
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.data.loader import PREFETCH_BATCHES, eval_batches, steps_per_epoch, train_batches
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
    resize,
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


def test_the_global_generator_is_neither_used_nor_changed():
    torch.manual_seed(1)
    first = sample_order(3, 2, 50)
    state = torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, sample_order(3, 2, 50))
    torch.manual_seed(1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_alternating_flips_show_both_views_of_each_image_in_two_epochs():
    recipe = dataclasses.replace(RECIPE, crop_padding=0, alternate_flip=True, batch_size=len(DATA.train))
    plain = normalise(resident_images(DATA.train), DATA.preprocessing)
    flipped = []
    for epoch in (2, 3, 4):
        ((images, _),) = train_batches(DATA.train, DATA.preprocessing, recipe, seed=5, epoch=epoch)
        by_sample = torch.empty_like(images)
        by_sample[sample_order(5, epoch, len(DATA.train))] = images
        is_flipped = (by_sample != plain).flatten(1).any(1)
        assert torch.equal(by_sample[is_flipped], plain[is_flipped].flip(-1))
        flipped.append(is_flipped)
    symmetric = (plain == plain.flip(-1)).flatten(1).all(1)
    assert torch.equal(flipped[0] ^ flipped[1], ~symmetric)
    assert torch.equal(flipped[0], flipped[2])
    assert 0.4 < flipped[0].float().mean() < 0.6


def test_alternating_flips_depend_on_the_seed_and_are_uniform():
    order = torch.arange(4000)
    first, second = (alternating_flips(seed, 1, order) for seed in (0, 1))
    assert 0.45 < ((first < 0.5) == (second < 0.5)).float().mean() < 0.55
    assert 0 <= first.min() < 0.01
    assert 0.99 < first.max() < 1


def test_images_are_resized_after_the_crop_of_pad():
    full = train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=5, epoch=2)
    small = train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=5, epoch=2, image_size=6)
    for (images, labels), (resized, same_labels) in zip(full, small, strict=True):
        assert resized.shape == (100, 1, 6, 6)
        torch.testing.assert_close(resized, resize(images, 6))
        assert torch.equal(labels, same_labels)


def test_large_batches_are_resized_in_chunks():
    """More values than are processed together."""
    images = torch.randint(0, 256, (300, 3, 48, 48), dtype=torch.uint8)
    split = Split(images, torch.zeros(300, dtype=torch.int64))
    recipe = Recipe(batch_size=300, crop="pad", crop_padding=4)
    preprocessing = Preprocessing(48, mean=(0.5,) * 3, std=(0.25,) * 3)
    ((full, _),) = train_batches(split, preprocessing, recipe, seed=0, epoch=0)
    ((small, _),) = train_batches(split, preprocessing, recipe, seed=0, epoch=0, image_size=32)
    torch.testing.assert_close(small, resize(full, 32))
    assert small.is_contiguous(memory_format=torch.channels_last)


def test_batches_equal_the_reference():
    order, params = sample_order(5, 2, len(DATA.train)), augmentation_params(5, 2, len(DATA.train))
    batches = list(train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=5, epoch=2))
    assert len(batches) == steps_per_epoch(len(DATA.train), 100) == 12
    for step in (0, 7, 11):
        images, labels = batches[step]
        at = slice(100 * step, 100 * (step + 1))
        expected = normalise(resident_images(DATA.train)[order[at]], DATA.preprocessing)
        expected = random_flip(random_crop(expected, 1, params[at, :2]), params[at, 2])
        assert torch.equal(images, expected)
        assert torch.equal(labels, DATA.train.labels[order[at]])


def test_a_samples_augmentation_does_not_depend_on_its_batch():
    large = torch.cat([x for x, _ in train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=0, epoch=0)])
    halves = dataclasses.replace(RECIPE, batch_size=50)
    small = torch.cat([x for x, _ in train_batches(DATA.train, DATA.preprocessing, halves, seed=0, epoch=0)])
    assert torch.equal(large, small[: len(large)])


def test_without_augmentation_images_are_only_normalised():
    plain = Recipe(batch_size=1257)
    images, labels = next(train_batches(DATA.train, DATA.preprocessing, plain, seed=0, epoch=0))
    order = sample_order(0, 0, 1257)
    assert torch.equal(images, normalise(resident_images(DATA.train)[order], DATA.preprocessing))
    assert torch.equal(labels, DATA.train.labels[order])


def test_evaluation_yields_every_sample_once_in_order():
    images, labels = zip(*eval_batches(DATA.val, DATA.preprocessing, batch_size=64), strict=True)
    assert torch.equal(torch.cat(labels), DATA.val.labels)
    assert torch.equal(torch.cat(images), normalise(resident_images(DATA.val), DATA.preprocessing))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match="batch size 2000 is larger than the training set of 1257 images"):
        next(train_batches(DATA.train, DATA.preprocessing, Recipe(batch_size=2000), seed=0, epoch=0))


def test_a_negative_first_step_is_refused():
    with pytest.raises(ConfigError, match="first_step must be at least 0, not -1"):
        next(train_batches(DATA.train, DATA.preprocessing, RECIPE, seed=0, epoch=0, first_step=-1))


def resident_split(size: int, count: int = 60) -> Split:
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=make_generator(0, "images"))
    return Split(images, torch.arange(count))


def encoded_split(count: int = 60, size: int = 16, bad: Sequence[int] = (), **options) -> Split:
    """Return images of many sizes, labelled by their number."""
    storage: list[bytes] = []
    sizes = [(20 + i % 7, 30 - i % 5) for i in range(count)]
    for i, (height, width) in enumerate(sizes):
        image = random_images(1, 30, seed=i)[0][:height, :width]
        storage.append(encode(image, "JPEG" if i % 2 else "PNG") if i not in bad else b"")
    names = [str(i) for i in range(count)]
    options = {"skip_bad": True, **options}
    images = EncodedImages(storage, names, torch.tensor(sizes), view=EvalView(size, size, 0.875), **options)
    return Split(images, torch.arange(count))


RGB = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), crop_ratio=0.875)
FULL = Recipe(batch_size=10, flip=True, jitter=0.4, lighting=0.1)


def reference_batch(split: Split, recipe: Recipe, seed: int, epoch: int, step: int) -> torch.Tensor:
    """Return the expected images of a batch, computed step by step."""
    at = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
    samples, params = sample_order(seed, epoch, len(split))[at], augmentation_params(seed, epoch, len(split))[at]
    if isinstance(split.images, torch.Tensor):
        images = split.images[samples]
        if recipe.crop != "pad":
            sizes = torch.tensor([images.shape[2:]]).expand(len(images), 2)
            images = resize_boxes(images, crop_boxes(recipe, sizes, params, image_size=16), 16)
    elif recipe.crop == "pad":
        images = split.images.decode_eval_views(samples)[0]
    else:
        boxes = crop_boxes(recipe, split.images.sizes[samples], params, image_size=16)
        images = split.images.decode_crops(samples, boxes)[0]
    images = images / 255 if images.dtype == torch.uint8 else images
    if recipe.flip and recipe.crop != "pad":
        images = random_flip(images, params[:, 2])
    images = pca_lighting(colour_jitter(images, recipe.jitter, params[:, 5:8]), recipe.lighting, params[:, 8:11])
    images = normalise(images, RGB)
    if recipe.crop == "pad":
        images = random_flip(random_crop(images, recipe.crop_padding, params[:, :2]), params[:, 2])
    return images


@pytest.mark.parametrize("kind", ["pad", "scale", "resized"])
@pytest.mark.parametrize("make", [lambda: resident_split(16), encoded_split], ids=["resident", "encoded"])
def test_every_crop_equals_the_reference(make, kind):
    split, recipe = make(), dataclasses.replace(FULL, crop=kind, crop_padding=2)
    order = sample_order(3, 1, 60)
    for step, (images, labels) in enumerate(train_batches(split, RGB, recipe, seed=3, epoch=1)):
        assert torch.allclose(images, reference_batch(split, recipe, 3, 1, step), atol=1e-5)
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(labels, order[10 * step : 10 * step + 10])


@pytest.mark.parametrize("kind", ["pad", "resized"])
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_the_batches(kind, workers):
    split, recipe = encoded_split(), dataclasses.replace(FULL, crop=kind)
    single = list(train_batches(split, RGB, recipe, seed=0, epoch=0))
    shared = list(train_batches(split, RGB, recipe, seed=0, epoch=0, workers=workers))
    assert len(single) == len(shared) == 6
    for ours, theirs in zip(single, shared, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    for ours, theirs in zip(eval_batches(split, RGB, 25), eval_batches(split, RGB, 25, workers=workers), strict=True):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("make", [lambda: resident_split(16), encoded_split], ids=["resident", "encoded"])
def test_a_later_first_step_yields_the_same_batches(make):
    recipe = dataclasses.replace(FULL, crop="scale")
    every = list(train_batches(make(), RGB, recipe, seed=1, epoch=2))
    rest = list(train_batches(make(), RGB, recipe, seed=1, epoch=2, first_step=4, workers=2))
    assert len(rest) == 2
    for ours, theirs in zip(every[4:], rest, strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])
    assert list(train_batches(make(), RGB, recipe, seed=1, epoch=2, first_step=6)) == []


def test_chunks_of_a_batch_give_the_same_result_as_the_whole(monkeypatch):
    recipe = dataclasses.replace(FULL, crop="resized")
    for split in (resident_split(16), encoded_split()):
        for layout in (torch.channels_last, torch.contiguous_format):
            whole = next(train_batches(split, RGB, recipe, seed=0, epoch=0, memory_format=layout))[0]
            with monkeypatch.context() as patch:
                patch.setattr("resnetlab.data.augmentation.CHUNK_VALUES", 3 * 768)
                chunked = next(train_batches(split, RGB, recipe, seed=0, epoch=0, memory_format=layout))[0]
            assert torch.equal(whole, chunked)
            assert whole.stride() == chunked.stride()
            assert chunked.is_contiguous(memory_format=layout)


def test_resident_images_may_be_channels_last():
    split = resident_split(16)
    channels_last = Split(resident_images(split).contiguous(memory_format=torch.channels_last), split.labels)
    recipe = dataclasses.replace(FULL, crop_padding=2)
    for ours, theirs in zip(
        train_batches(split, RGB, recipe, seed=0, epoch=0),
        train_batches(channels_last, RGB, recipe, seed=0, epoch=0),
        strict=True,
    ):
        assert torch.equal(ours[0], theirs[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_makes_its_batch_smaller(workers):
    reported = []
    recipe = dataclasses.replace(FULL, crop="resized")
    whole = list(train_batches(encoded_split(), RGB, recipe, seed=0, epoch=0))
    broken = encoded_split(bad=(4, 5, 31), report=reported.append)
    batches = list(train_batches(broken, RGB, recipe, seed=0, epoch=0, workers=workers))
    for (images, labels), (all_images, all_labels) in zip(batches, whole, strict=True):
        good = torch.tensor([label not in (4, 5, 31) for label in all_labels.tolist()])
        assert torch.equal(labels, all_labels[good])
        assert torch.equal(images, all_images[good])
    assert sum(len(labels) for _, labels in batches) == 57
    seen = torch.cat([labels for _, labels in eval_batches(broken, RGB, 7, workers=workers)])
    assert seen.tolist() == [i for i in range(60) if i not in (4, 5, 31)]
    assert sorted(reported) == ["31: is empty", "4: is empty", "5: is empty"]


def test_a_training_batch_of_one_image_is_an_error_and_an_empty_evaluation_batch_is_skipped():
    broken = encoded_split(20, bad=range(1, 20))
    with pytest.raises(ConfigError, match=r"only \d of the 10 images of a batch can be decoded"):
        list(train_batches(broken, RGB, dataclasses.replace(FULL, crop="scale"), seed=0, epoch=0))
    assert [labels.tolist() for _, labels in eval_batches(broken, RGB, 5)] == [[0]]


def decode_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


def test_threads_end_with_the_iterator():
    recipe = dataclasses.replace(FULL, crop="resized")
    early = train_batches(encoded_split(), RGB, recipe, seed=0, epoch=0, workers=3)
    next(early)
    assert decode_threads()
    early.close()
    assert not decode_threads()
    list(train_batches(encoded_split(), RGB, recipe, seed=0, epoch=0, workers=3))
    assert not decode_threads()
    failing = encoded_split(bad=(17,), skip_bad=False)
    with pytest.raises(BadImageError, match="17: cannot be decoded"):
        list(train_batches(failing, RGB, recipe, seed=0, epoch=0, workers=3))
    assert not decode_threads()


def test_decoding_is_limited_to_a_few_batches_ahead(monkeypatch):
    decoded = []

    def count_call(*args, **options):
        decoded.append(args)
        return decode_crop(*args, **options)

    monkeypatch.setattr("resnetlab.data.images.encoded.decode_crop", count_call)
    batches = train_batches(
        encoded_split(200), RGB, dataclasses.replace(FULL, crop="resized"), seed=0, epoch=0, workers=2
    )
    for received in (1, 2):
        next(batches)
        until = time.monotonic() + 5
        while len(decoded) < 10 * (received + PREFETCH_BATCHES) and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(decoded) == 10 * (received + PREFETCH_BATCHES)
    batches.close()


def test_the_mean_of_each_pixel_is_subtracted_before_the_crop():
    split = resident_split(16)
    mean = torch.rand(3, 16, 16, generator=make_generator(0, "mean"))
    preprocessing = Preprocessing(16, RGB.mean, (1.0, 1.0, 1.0), pixel_mean=tuple(mean.flatten().tolist()))
    recipe = Recipe(batch_size=60, crop_padding=3, flip=True)
    images, labels = next(train_batches(split, preprocessing, recipe, seed=0, epoch=0))
    params = augmentation_params(0, 0, 60)
    expected = random_flip(random_crop(resident_images(split)[labels] / 255 - mean, 3, params[:, :2]), params[:, 2])
    assert torch.equal(images, expected)


@pytest.mark.parametrize("crop", ["resized", "scale"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_mean_of_each_pixel_has_the_size_of_the_crop(crop, channels):
    images = torch.from_numpy(random_images(60, 16).transpose(0, 3, 1, 2).copy())[:, :channels]
    split = Split(images, torch.arange(60))
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 16), torch.linspace(0, 1, 16), indexing="ij")
    mean = torch.stack([rows, columns, rows * columns])[:channels]
    preprocessing = Preprocessing(16, (0.5,) * channels, (1.0,) * channels, pixel_mean=tuple(mean.flatten().tolist()))
    recipe = Recipe(batch_size=60, crop=crop)
    boxes = crop_boxes(recipe, torch.full((60, 2), 16), augmentation_params(0, 0, 60), image_size=12)
    found, labels = next(train_batches(split, preprocessing, recipe, seed=0, epoch=0, image_size=12))
    expected = resize_boxes(images[labels], boxes, 12) - resize(mean[None], 12)
    torch.testing.assert_close(found, expected)
