"""Each operation against what it says, one sample at a time."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from resnetlab.config import Preprocessing, Recipe
from resnetlab.data.transforms import (
    colour_jitter,
    crop_boxes,
    normalise,
    pca_lighting,
    random_crop,
    random_flip,
    resize_boxes,
)

LAYOUTS = [torch.contiguous_format, torch.channels_last]
RANDOM = torch.Generator().manual_seed(0)
PHOTOS = torch.randint(0, 256, (37, 3, 12, 12), dtype=torch.uint8, generator=RANDOM)
DRAWS = torch.rand(37, 12, generator=RANDOM)
SIZES = torch.randint(5, 900, (37, 2), generator=RANDOM)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalise_is_per_channel(layout):
    images = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    seen = normalise(images, Preprocessing(1, (0.5, 0.25), (0.5, 0.25)))
    assert seen.flatten().tolist() == [-1.0, 3.0]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.7)
    expected = PHOTOS.float() / 255 - torch.tensor(mean).view(3, 1, 1)
    expected = expected / torch.tensor(std).view(3, 1, 1)
    seen = normalise(PHOTOS.contiguous(memory_format=layout), Preprocessing(12, mean, std))
    assert torch.equal(seen, expected)
    assert seen.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalise_with_a_mean_for_each_pixel(layout):
    mean = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    preprocessing = Preprocessing(12, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), pixel_mean=tuple(mean.flatten().tolist()))
    assert torch.equal(normalise(PHOTOS.contiguous(memory_format=layout), preprocessing), PHOTOS.float() / 255 - mean)


def test_normalise_takes_floats_and_leaves_them_alone():
    images = PHOTOS.float() / 255
    before = images.clone()
    preprocessing = Preprocessing(12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.7))
    assert torch.equal(normalise(images, preprocessing), normalise(PHOTOS, preprocessing))
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_is_a_window_of_the_padded_image(layout, channels):
    images = torch.rand(64, channels, 5, 6).contiguous(memory_format=layout)
    draws = torch.rand(64, 2)
    mirrored = torch.rand(64) < 0.5
    cropped = random_crop(images, 2, draws)
    flipped = random_crop(images, 2, draws, mirrored)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i in range(64):
        top, left = int(draws[i, 0] * 5), int(draws[i, 1] * 5)
        assert torch.equal(cropped[i], padded[i, :, top : top + 5, left : left + 6])
        assert torch.equal(flipped[i], cropped[i].flip(-1) if mirrored[i] else cropped[i])


def test_crop_reaches_every_place_and_the_middle_is_the_image():
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(9, 1, 3, 3)
    places = torch.cartesian_prod(torch.tensor([0.0, 0.4, 0.99]), torch.tensor([0.0, 0.4, 0.99]))
    cropped = random_crop(images, 1, places)
    assert len({tuple(x.flatten().tolist()) for x in cropped}) == 9
    assert torch.equal(cropped[4], images[4])


def test_flip_mirrors_those_below_one_half():
    images = torch.rand(3, 2, 4, 4)
    flipped = random_flip(images, torch.tensor([0.0, 0.5, 0.49]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])
    assert torch.equal(flipped[2], images[2].flip(-1))


def test_boxes_lie_inside():
    draws = torch.cat((DRAWS, torch.zeros(37, 12), torch.full((37, 12), 1 - 2**-24)))
    for kind in ("scale", "resized"):
        box = crop_boxes(Recipe(crop=kind), SIZES.repeat(3, 1), draws, 64)
        assert box.dtype == torch.float32
        assert box.min() >= 0
        assert (box[:, 2:] > 0).all()
        assert (box[:, :2] + box[:, 2:] <= 1 + 1e-6).all()


def test_scale_boxes_are_a_crop_of_an_image_whose_shorter_side_is_in_range():
    recipe = Recipe(crop="scale", scale_range=(256, 480))
    box = crop_boxes(recipe, SIZES, DRAWS, 112)
    for (height, width), (top, left, tall, wide), draws in zip(
        SIZES.tolist(), box.tolist(), DRAWS.tolist(), strict=True
    ):
        shorter = (256 + (480 - 256) * draws[3]) / 2  # for 112 pixels, half of that for 224
        scale = shorter / min(height, width)
        assert tall * height * scale == pytest.approx(112, rel=1e-5)
        assert wide * width * scale == pytest.approx(112, rel=1e-5)
        assert top == pytest.approx(draws[0] * (1 - tall), abs=1e-6)
        assert left == pytest.approx(draws[1] * (1 - wide), abs=1e-6)


def test_resized_boxes_have_the_area_and_aspect_drawn_where_they_fit():
    draws = torch.rand(4000, 12, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[1000, 1000]]).expand(4000, 2)
    box = crop_boxes(Recipe(crop="resized"), sizes, draws, 224).double()
    area, aspect = box[:, 2] * box[:, 3], box[:, 3] / box[:, 2]
    fits = box[:, 2:].amax(1) < 1
    assert torch.allclose(area[fits], 0.08 + 0.92 * draws[fits, 3].double(), rtol=1e-5)
    assert aspect.log().abs().max() <= math.log(4 / 3) + 1e-6
    assert 0.08 <= area.min() < 0.09
    assert area.max() > 0.95
    assert abs(aspect[fits & (area < 0.5)].log().mean()) < 0.01  # as often wide as tall
    wide = crop_boxes(Recipe(crop="resized"), torch.tensor([[10, 1000]]), torch.ones(1, 12), 224)
    assert wide[0, 2] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_whole_image_in_its_own_size_is_the_image(layout):
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(37, 4)
    seen = resize_boxes(PHOTOS.contiguous(memory_format=layout), whole, 12)
    assert torch.allclose(seen, PHOTOS / 255, atol=1e-5)
    assert torch.allclose(resize_boxes(PHOTOS / 255, whole, 12), seen)


def test_nothing_shines_in_from_beyond_the_edge():
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(resize_boxes(torch.ones(1, 3, 12, 12), whole, 30), torch.ones(1, 3, 30, 30))


def test_boxes_are_resized_as_pillow_enlarges_a_cut_of_whole_pixels():
    box = torch.tensor([[2 / 12, 3 / 12, 6 / 12, 8 / 12]]).expand(37, 4)
    seen = resize_boxes(PHOTOS, box, 24) * 255
    for picture, image in zip(seen, PHOTOS, strict=True):
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(whole.resize((24, 24), Image.Resampling.BILINEAR, box=(3, 2, 11, 8)))
        cut = picture.permute(1, 2, 0).numpy()
        assert np.abs(cut - expected)[3:-3, 3:-3].max() <= 1  # at its edges Pillow looks at the box alone


def enhanced(image: torch.Tensor, factors: list[float]) -> np.ndarray:
    result = Image.fromarray(image.permute(1, 2, 0).numpy())
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        result = enhance(result).enhance(factor)
    return np.asarray(result)


def test_jitter_is_what_pillow_does():
    draws = DRAWS[:, 5:8]
    seen = colour_jitter(PHOTOS / 255, 0.4, draws) * 255
    for picture, image, draw in zip(seen, PHOTOS, draws.tolist(), strict=True):
        expected = enhanced(image, [1 + 0.4 * (2 * d - 1) for d in draw])
        assert np.abs(picture.permute(1, 2, 0).numpy() - expected).max() < 3.5  # Pillow rounds after each step
    assert torch.allclose(colour_jitter(PHOTOS / 255, 0.4, torch.full((37, 3), 0.5)), PHOTOS / 255, atol=1e-6)


def test_jitter_of_grey_images_has_no_saturation():
    grey = PHOTOS[:, :1] / 255
    other = DRAWS.clone()
    other[:, 7] = 0.123
    seen = colour_jitter(grey, 0.4, DRAWS[:, 5:8])
    assert torch.equal(seen, colour_jitter(grey, 0.4, other[:, 5:8]))
    assert not torch.equal(seen, grey)


def test_lighting_shifts_along_the_components():
    images = PHOTOS / 255
    shift = (pca_lighting(images, 0.1, DRAWS[:, 8:11]) - images)[:, :, 3, 4]
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(DRAWS[:, 8:11].double()).numpy()
    np.testing.assert_allclose(shift.numpy(), (0.1 * normal * values) @ vectors.T, atol=1e-6)
    assert torch.allclose(torch.tensor(vectors.T @ vectors), torch.eye(3, dtype=torch.double), atol=2e-3)
    assert pca_lighting(images, 0.1, torch.tensor([[0.0, 0.5, 1 - 2**-24]]).expand(37, 3)).isfinite().all()
    assert torch.equal(pca_lighting(images[:, :1], 0.1, DRAWS[:, 8:11]), images[:, :1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_samples_result_does_not_depend_on_its_batch(layout):
    def everything(rows: slice) -> torch.Tensor:
        images, draws = PHOTOS[rows].contiguous(memory_format=layout), DRAWS[rows]
        box = crop_boxes(Recipe(crop="resized"), SIZES[rows], draws, 16)
        scaled = crop_boxes(Recipe(crop="scale"), SIZES[rows], draws, 16)
        images = resize_boxes(resize_boxes(images, box, 16), scaled, 16)
        images = pca_lighting(colour_jitter(random_flip(images, draws[:, 2]), 0.4, draws[:, 5:8]), 0.1, draws[:, 8:11])
        return random_crop(normalise(images, Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.7))), 2, draws[:, :2])

    together = everything(slice(0, 37))
    for part in (1, 2, 7):
        alone = torch.cat([everything(slice(i, min(i + part, 37))) for i in range(0, 37, part)])
        assert torch.equal(alone, together)
