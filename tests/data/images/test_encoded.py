"""Images that stay encoded: what comes out does not depend on who decodes, and a bad image is named once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.images import encode, pictures
from resnetlab.data.images.decode import BadImageError, decode_crop, decode_eval_view
from resnetlab.data.images.encoded import EncodedImages

COUNT = 30
PLACES = [encode(picture, "JPEG" if i % 2 else "PNG") for i, picture in enumerate(pictures(COUNT, 20))]
NAMES = [f"train/{i}.jpg" for i in range(COUNT)]  # whatever is in them
IMAGES = EncodedImages(PLACES, NAMES, torch.full((COUNT, 2), 20), image_size=16, crop_ratio=0.8)
SAMPLES = torch.tensor([3, 0, 29, 7, 7, 11, 12, 13, 14, 15, 16, 17])


def damaged(report=lambda message: None, skip_bad=True) -> EncodedImages:
    places = [*PLACES]
    places[7], places[12], places[29] = places[7][:300], b"", b"some text"
    return replace(IMAGES, places=places, skip_bad=skip_bad, report=report, _reported={})


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_views_are_views_in_the_order_asked_for(pool):
    images, good = IMAGES.views(SAMPLES)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert good.tolist() == [True] * 12
    expected = np.stack([decode_eval_view(PLACES[i], 16, 0.8) for i in SAMPLES.tolist()])
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert torch.equal(IMAGES.views(SAMPLES, pool)[0], images)


def test_crops_are_crops_each_with_its_own_box(pool):
    boxes = torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) / 2
    images, good = IMAGES.crops(SAMPLES, boxes)
    assert good.all()
    expected = np.stack(
        [decode_crop(PLACES[i], box, 16) for i, box in zip(SAMPLES.tolist(), boxes.tolist(), strict=True)]
    )
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), expected)
    assert torch.equal(IMAGES.crops(SAMPLES, boxes, pool)[0], images)


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_bad_images_are_left_out_and_reported_once(threads):
    told = []
    images = damaged(told.append)
    pool = ThreadPoolExecutor(threads) if threads else None
    for _ in range(3):
        kept, good = images.views(SAMPLES, pool)
        assert good.tolist() == [i not in (7, 12, 29) for i in SAMPLES.tolist()]
        assert torch.equal(kept, IMAGES.views(SAMPLES[good])[0])
    images.subset(torch.arange(20)).views(torch.tensor([7, 12]))
    assert told == [
        "train/29.jpg: not an image that can be read (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)",
        "train/7.jpg: truncated after 300 bytes",
        "train/12.jpg: is empty",
    ]
    if pool:
        pool.shutdown()


def test_the_first_bad_image_stops_who_does_not_skip(pool):
    images = damaged(skip_bad=False)
    message = r"^train/7\.jpg: cannot be decoded \(truncated after 300 bytes\); skip .* --on-bad-image skip$"
    order = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 9, 7, 10, 11, 12])
    for who in (None, pool):
        with pytest.raises(BadImageError, match=message):
            images.views(order, who)
    assert images.views(torch.tensor([0, 1]))[1].all()


def test_nothing_left_is_an_empty_batch():
    kept, good = damaged().views(torch.tensor([7, 12]))
    assert kept.shape == (0, 3, 16, 16)
    assert good.tolist() == [False, False]


def test_files_are_read_and_missing_ones_are_bad(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "gone.png", tmp_path]
    paths[0].write_bytes(PLACES[0])
    told = []
    images = EncodedImages(
        paths, ["a", "gone", "folder"], torch.full((3, 2), 20), 16, 0.8, skip_bad=True, report=told.append
    )
    kept, good = images.views(torch.arange(3))
    assert good.tolist() == [True, False, False]
    assert torch.equal(kept, IMAGES.views(torch.tensor([0]))[0])
    assert told == ["gone: No such file or directory", "folder: Is a directory"]
    images.signature()


def test_the_signature_is_that_of_names_and_lengths(tmp_path):
    files = [tmp_path / str(i) for i in range(COUNT)]
    for file, data in zip(files, PLACES, strict=True):
        file.write_bytes(data)
    assert replace(IMAGES, places=files).signature() == IMAGES.signature()
    assert replace(IMAGES, names=NAMES[::-1]).signature() != IMAGES.signature()
    assert damaged().signature() != IMAGES.signature()
    assert IMAGES.subset(torch.arange(COUNT - 1)).signature() != IMAGES.signature()


def test_a_subset_is_those_images_in_that_order():
    part = IMAGES.subset(SAMPLES)
    assert len(part) == 12
    assert list(part.names) == [NAMES[i] for i in SAMPLES.tolist()]
    assert torch.equal(part.views(torch.arange(12))[0], IMAGES.views(SAMPLES)[0])
    assert torch.equal(part.sizes, IMAGES.sizes[SAMPLES])
