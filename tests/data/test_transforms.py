"""Each transform against a reference that handles one sample at a time."""

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
PARAMS = torch.rand(37, 12, generator=RANDOM)
SIZES = torch.randint(5, 900, (37, 2), generator=RANDOM)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalise_uses_the_statistics_of_each_channel(layout):
    images = torch.tensor([[[[0]], [[255]]]], dtype=torch.uint8)
    result = normalise(images, Preprocessing(1, (0.5, 0.25), (0.5, 0.25)))
    assert result.flatten().tolist() == [-1.0, 3.0]
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.7)
    expected = PHOTOS.float() / 255 - torch.tensor(mean).view(3, 1, 1)
    expected = expected / torch.tensor(std).view(3, 1, 1)
    result = normalise(PHOTOS.contiguous(memory_format=layout), Preprocessing(12, mean, std))
    assert torch.equal(result, expected)
    assert result.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normalise_with_a_mean_for_each_pixel(layout):
    mean = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(1))
    preprocessing = Preprocessing(12, (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), pixel_mean=tuple(mean.flatten().tolist()))
    assert torch.equal(normalise(PHOTOS.contiguous(memory_format=layout), preprocessing), PHOTOS.float() / 255 - mean)


def test_normalise_does_not_change_its_input():
    images = PHOTOS.float() / 255
    before = images.clone()
    preprocessing = Preprocessing(12, (0.4, 0.5, 0.6), (0.2, 0.3, 0.7))
    assert torch.equal(normalise(images, preprocessing), normalise(PHOTOS, preprocessing))
    assert torch.equal(images, before)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3])
def test_random_crop_is_a_window_of_the_padded_image(layout, channels):
    images = torch.rand(64, channels, 5, 6).contiguous(memory_format=layout)
    params = torch.rand(64, 2)
    mirrored = torch.rand(64) < 0.5
    cropped = random_crop(images, 2, params)
    flipped = random_crop(images, 2, params, mirrored=mirrored)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for i in range(64):
        top, left = int(params[i, 0] * 5), int(params[i, 1] * 5)
        assert torch.equal(cropped[i], padded[i, :, top : top + 5, left : left + 6])
        assert torch.equal(flipped[i], cropped[i].flip(-1) if mirrored[i] else cropped[i])


def test_random_crop_reaches_every_offset():
    images = torch.arange(1.0, 10.0).view(1, 1, 3, 3).expand(9, 1, 3, 3)
    offsets = torch.cartesian_prod(torch.tensor([0.0, 0.4, 0.99]), torch.tensor([0.0, 0.4, 0.99]))
    cropped = random_crop(images, 1, offsets)
    assert len({tuple(x.flatten().tolist()) for x in cropped}) == 9
    assert torch.equal(cropped[4], images[4])


def test_random_flip_mirrors_images_with_a_parameter_below_one_half():
    images = torch.rand(3, 2, 4, 4)
    flipped = random_flip(images, torch.tensor([0.0, 0.5, 0.49]))
    assert torch.equal(flipped[0], images[0].flip(-1))
    assert torch.equal(flipped[1], images[1])
    assert torch.equal(flipped[2], images[2].flip(-1))


def test_crop_boxes_lie_inside_the_image():
    params = torch.cat((PARAMS, torch.zeros(37, 12), torch.full((37, 12), 1 - 2**-24)))
    for kind in ("scale", "resized"):
        box = crop_boxes(Recipe(crop=kind), SIZES.repeat(3, 1), params, image_size=64)
        assert box.dtype == torch.float32
        assert box.min() >= 0
        assert (box[:, 2:] > 0).all()
        assert (box[:, :2] + box[:, 2:] <= 1 + 1e-6).all()


def test_scale_boxes_match_a_crop_from_a_resized_image():
    recipe = Recipe(crop="scale", scale_range=(256, 480))
    box = crop_boxes(recipe, SIZES, PARAMS, image_size=112)
    for (height, width), (top, left, tall, wide), params in zip(
        SIZES.tolist(), box.tolist(), PARAMS.tolist(), strict=True
    ):
        shorter = (256 + (480 - 256) * params[3]) / 2  # half of the range for 224 pixels
        scale = shorter / min(height, width)
        assert tall * height * scale == pytest.approx(112, rel=1e-5)
        assert wide * width * scale == pytest.approx(112, rel=1e-5)
        assert top == pytest.approx(params[0] * (1 - tall), abs=1e-6)
        assert left == pytest.approx(params[1] * (1 - wide), abs=1e-6)


def test_resized_boxes_have_the_drawn_area_and_aspect_ratio_if_they_fit():
    params = torch.rand(4000, 12, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[1000, 1000]]).expand(4000, 2)
    box = crop_boxes(Recipe(crop="resized"), sizes, params, image_size=224).double()
    area, aspect = box[:, 2] * box[:, 3], box[:, 3] / box[:, 2]
    fits = box[:, 2:].amax(1) < 1
    assert torch.allclose(area[fits], 0.08 + 0.92 * params[fits, 3].double(), rtol=1e-5)
    assert aspect.log().abs().max() <= math.log(4 / 3) + 1e-6
    assert 0.08 <= area.min() < 0.09
    assert area.max() > 0.95
    assert abs(aspect[fits & (area < 0.5)].log().mean()) < 0.01  # as often wide as tall
    wide = crop_boxes(Recipe(crop="resized"), torch.tensor([[10, 1000]]), torch.ones(1, 12), image_size=224)
    assert wide[0, 2] == 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resizing_the_whole_image_to_its_own_size_changes_nothing(layout):
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(37, 4)
    result = resize_boxes(PHOTOS.contiguous(memory_format=layout), whole, 12)
    assert torch.allclose(result, PHOTOS / 255, atol=1e-5)
    assert torch.allclose(resize_boxes(PHOTOS / 255, whole, 12), result)


def test_resize_boxes_adds_no_padding_at_the_edge():
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    assert torch.allclose(resize_boxes(torch.ones(1, 3, 12, 12), whole, 30), torch.ones(1, 3, 30, 30))


def test_resize_boxes_matches_pillow():
    box = torch.tensor([[2 / 12, 3 / 12, 6 / 12, 8 / 12]]).expand(37, 4)
    result = resize_boxes(PHOTOS, box, 24) * 255
    for resized, image in zip(result, PHOTOS, strict=True):
        whole = Image.fromarray(image.permute(1, 2, 0).numpy())
        expected = np.asarray(whole.resize((24, 24), Image.Resampling.BILINEAR, box=(3, 2, 11, 8)))
        pixels = resized.permute(1, 2, 0).numpy()
        assert np.abs(pixels - expected)[3:-3, 3:-3].max() <= 1  # at the edges Pillow uses the pixels of the box only


def enhance_with_pillow(image: torch.Tensor, factors: list[float]) -> np.ndarray:
    result = Image.fromarray(image.permute(1, 2, 0).numpy())
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        result = enhance(result).enhance(factor)
    return np.asarray(result)


def test_colour_jitter_matches_pillow():
    params = PARAMS[:, 5:8]
    result = colour_jitter(PHOTOS / 255, 0.4, params) * 255
    for jittered, image, values in zip(result, PHOTOS, params.tolist(), strict=True):
        expected = enhance_with_pillow(image, [1 + 0.4 * (2 * value - 1) for value in values])
        assert np.abs(jittered.permute(1, 2, 0).numpy() - expected).max() < 3.5  # Pillow rounds after each step
    assert torch.allclose(colour_jitter(PHOTOS / 255, 0.4, torch.full((37, 3), 0.5)), PHOTOS / 255, atol=1e-6)


def test_colour_jitter_of_grey_images_has_no_saturation():
    grey = PHOTOS[:, :1] / 255
    other = PARAMS.clone()
    other[:, 7] = 0.123
    result = colour_jitter(grey, 0.4, PARAMS[:, 5:8])
    assert torch.equal(result, colour_jitter(grey, 0.4, other[:, 5:8]))
    assert not torch.equal(result, grey)


def test_pca_lighting_shifts_along_the_components():
    images = PHOTOS / 255
    shift = (pca_lighting(images, 0.1, PARAMS[:, 8:11]) - images)[:, :, 3, 4]
    values = np.array([0.2175, 0.0188, 0.0045])
    vectors = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    normal = torch.distributions.Normal(0.0, 1.0).icdf(PARAMS[:, 8:11].double()).numpy()
    np.testing.assert_allclose(shift.numpy(), (0.1 * normal * values) @ vectors.T, atol=1e-6)
    assert torch.allclose(torch.tensor(vectors.T @ vectors), torch.eye(3, dtype=torch.double), atol=2e-3)
    assert pca_lighting(images, 0.1, torch.tensor([[0.0, 0.5, 1 - 2**-24]]).expand(37, 3)).isfinite().all()
    assert torch.equal(pca_lighting(images[:, :1], 0.1, PARAMS[:, 8:11]), images[:, :1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_samples_result_does_not_depend_on_its_batch(layout):
    def apply_all(rows: slice) -> torch.Tensor:
        images, params = PHOTOS[rows].contiguous(memory_format=layout), PARAMS[rows]
        box = crop_boxes(Recipe(crop="resized"), SIZES[rows], params, image_size=16)
        scaled = crop_boxes(Recipe(crop="scale"), SIZES[rows], params, image_size=16)
        images = resize_boxes(resize_boxes(images, box, 16), scaled, 16)
        images = pca_lighting(
            colour_jitter(random_flip(images, params[:, 2]), 0.4, params[:, 5:8]), 0.1, params[:, 8:11]
        )
        return random_crop(normalise(images, Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.7))), 2, params[:, :2])

    whole = apply_all(slice(0, 37))
    for size in (1, 2, 7):
        parts = torch.cat([apply_all(slice(i, min(i + size, 37))) for i in range(0, 37, size)])
        assert torch.equal(parts, whole)
