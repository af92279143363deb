"""Encoded images: results do not depend on the threads, and each bad image is reported once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.images import encode, random_images
from resnetlab.data.images.decode import BadImageError, decode_crop, decode_eval_view
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView

COUNT = 30
STORAGE = [encode(image, "JPEG" if i % 2 else "PNG") for i, image in enumerate(random_images(COUNT, 20))]
NAMES = [f"train/{i}.jpg" for i in range(COUNT)]  # the suffix does not matter
IMAGES = EncodedImages(STORAGE, NAMES, torch.full((COUNT, 2), 20), view=EvalView(16, 16, 0.8))
SAMPLES = torch.tensor([3, 0, 29, 7, 7, 11, 12, 13, 14, 15, 16, 17])


def with_bad_images(report=lambda message: None, skip_bad=True) -> EncodedImages:
    storage = [*STORAGE]
    storage[7], storage[12], storage[29] = storage[7][:300], b"", b"some text"
    return replace(IMAGES, storage=storage, skip_bad=skip_bad, report=report, _reported={})


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_eval_views_are_in_the_order_of_the_samples(pool):
    images, good = IMAGES.decode_eval_views(SAMPLES)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert good.tolist() == [True] * 12
    expected = np.stack([decode_eval_view(STORAGE[i], EvalView(16, 16, 0.8)) for i in SAMPLES.tolist()])
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert torch.equal(IMAGES.decode_eval_views(SAMPLES, pool)[0], images)


def test_each_crop_has_its_own_box(pool):
    boxes = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) / 2
    images, good = IMAGES.decode_crops(SAMPLES, boxes)
    assert good.all()
    expected = np.stack(
        [decode_crop(STORAGE[i], box, 16) for i, box in zip(SAMPLES.tolist(), boxes.tolist(), strict=True)]
    )
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert torch.equal(IMAGES.decode_crops(SAMPLES, boxes, pool)[0], images)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_bad_images_are_left_out_and_reported_once(threads):
    reported = []
    images = with_bad_images(reported.append)
    pool = ThreadPoolExecutor(threads) if threads else None
    for _ in range(3):
        decoded, good = images.decode_eval_views(SAMPLES, pool)
        assert good.tolist() == [i not in (7, 12, 29) for i in SAMPLES.tolist()]
        assert torch.equal(decoded, IMAGES.decode_eval_views(SAMPLES[good])[0])
    images.subset(torch.arange(20)).decode_eval_views(torch.tensor([7, 12]))
    assert reported == [
        "train/29.jpg: a text file, not an image",
        "train/7.jpg: truncated after 300 bytes",
        "train/12.jpg: is empty",
    ]
    if pool:
        pool.shutdown()


def test_the_first_bad_image_raises_unless_skipped(pool):
    images = with_bad_images(skip_bad=False)
    message = r"^train/7\.jpg: cannot be decoded \(truncated after 300 bytes\); skip .* --on-bad-image skip$"
    order = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10, 11, 12])
    for executor in (None, pool):
        with pytest.raises(BadImageError, match=message):
            images.decode_eval_views(order, executor)
    assert images.decode_eval_views(torch.tensor([0, 1]))[1].all()


def test_a_batch_of_bad_images_is_empty():
    decoded, good = with_bad_images().decode_eval_views(torch.tensor([7, 12]))
    assert decoded.shape == (0, 3, 16, 16)
    assert good.tolist() == [False, False]


def test_missing_files_are_bad_images(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path]
    paths[0].write_bytes(STORAGE[0])
    reported = []
    images = EncodedImages(
        paths,
        ["a", "gone", "folder"],
        torch.full((3, 2), 20),
        view=EvalView(16, 16, 0.8),
        skip_bad=True,
        report=reported.append,
    )
    decoded, good = images.decode_eval_views(torch.arange(3))
    assert good.tolist() == [True, False, False]
    assert torch.equal(decoded, IMAGES.decode_eval_views(torch.tensor([0]))[0])
    assert reported == ["gone: No such file or directory", "folder: Is a directory"]
    images.signature()


def test_the_signature_depends_on_names_and_lengths(tmp_path):
    files = [tmp_path / str(i) for i in range(COUNT)]
    for file, data in zip(files, STORAGE, strict=True):
        file.write_bytes(data)
    assert replace(IMAGES, storage=files).signature() == IMAGES.signature()
    assert replace(IMAGES, names=NAMES[::-1]).signature() != IMAGES.signature()
    assert with_bad_images().signature() != IMAGES.signature()
    assert IMAGES.subset(torch.arange(COUNT - 1)).signature() != IMAGES.signature()


def test_a_subset_has_the_samples_in_order():
    part = IMAGES.subset(SAMPLES)
    assert len(part) == 12
    assert list(part.names) == [NAMES[i] for i in SAMPLES.tolist()]
    assert torch.equal(part.decode_eval_views(torch.arange(12))[0], IMAGES.decode_eval_views(SAMPLES)[0])
    assert torch.equal(part.sizes, IMAGES.sizes[SAMPLES])
