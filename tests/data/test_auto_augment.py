"""Operations of TrivialAugment and RandAugment against Pillow, and the choice of operation and strength."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from resnetlab.config import ConfigError, Recipe
from resnetlab.data import image_operations as ops
from resnetlab.data.auto_augment import NUM_AUTO_PARAMS, RAND, TRIVIAL, auto_augment

FILL = torch.tensor([10.0, 20.0, 30.0])
TRIVIAL_RECIPE = Recipe(trivial_augment=True)
RAND_RECIPE = Recipe(rand_augment=6.0)


def photographs(num=3, height=14, width=18, seed=0):
    """Smooth images with noise, whose channels have different ranges."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 4, 4, generator=generator) * torch.tensor([150.0, 250.0, 90.0])[:, None, None] + 4
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (fine + 30 * torch.rand(fine.shape, generator=generator)).clamp(0, 255).floor()


def pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).byte().numpy())


def affine(image, matrix):
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=(10, 20, 30)
    )


REFERENCES = {
    "shear_x": (0.4, lambda image, a: affine(image, (1, a, 0, 0, 1, 0))),
    "shear_y": (-0.3, lambda image, a: affine(image, (1, 0, 0, a, 1, 0))),
    "translate_x": (5.0, lambda image, a: affine(image, (1, 0, a, 0, 1, 0))),
    "translate_y": (-3.0, lambda image, a: affine(image, (1, 0, 0, 0, 1, a))),
    "translate_x_share": (0.25, lambda image, a: affine(image, (1, 0, a * image.size[0], 0, 1, 0))),
    "translate_y_share": (-0.2, lambda image, a: affine(image, (1, 0, 0, 0, 1, a * image.size[1]))),
    "rotate": (33.0, lambda image, a: image.rotate(a, Image.Resampling.BILINEAR, fillcolor=(10, 20, 30))),
    "brightness": (1.6, lambda image, a: ImageEnhance.Brightness(image).enhance(a)),
    "color": (0.2, lambda image, a: ImageEnhance.Color(image).enhance(a)),
    "contrast": (1.8, lambda image, a: ImageEnhance.Contrast(image).enhance(a)),
    "sharpness": (1.9, lambda image, a: ImageEnhance.Sharpness(image).enhance(a)),
    "posterize": (3.0, lambda image, a: ImageOps.posterize(image, int(a))),
    "solarize": (100.0, lambda image, a: ImageOps.solarize(image, int(a))),
    "solarize_add": (
        40.0,
        lambda image, a: image.point([min(255, v + int(a)) if v < 128 else v for v in range(256)] * 3),
    ),
    "invert": (0.0, lambda image, a: ImageOps.invert(image)),
    "autocontrast": (0.0, lambda image, a: ImageOps.autocontrast(image)),
    "equalize": (0.0, lambda image, a: ImageOps.equalize(image)),
}
NOT_ROUNDED_ALIKE = {"rotate", "shear_x", "shear_y", "translate_x_share", "translate_y_share", "sharpness", "color"}
"""Operations in which Pillow computes in fixed or single precision: they may differ by 2 of 255."""


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("size", [(14, 18), (40, 40)])  # equalize changes nothing in an image of few pixels
def test_an_operation_is_pillows(name, size):
    images = photographs(3, *size)
    amount, reference = REFERENCES[name]
    ours = getattr(ops, name)(images, torch.full((3,), amount, dtype=torch.float64), FILL)
    assert torch.equal(ours, ours.floor())
    assert 0 <= ours.min() <= ours.max() <= 255
    for image, changed in zip(images, ours, strict=True):
        expected = torch.from_numpy(np.array(reference(pillow(image), amount))).permute(2, 0, 1).float()
        difference = (changed - expected).abs()
        assert difference.max() <= (2 if name in NOT_ROUNDED_ALIKE else 1), name
        assert difference.mean() < 0.6
        if size == (40, 40):
            assert (changed - image).abs().mean() > 1  # the test compares a change


def test_one_channel_has_no_colour_and_its_own_grey():
    grey = photographs()[:, :1]
    amounts = torch.full((3,), 0.5)
    assert torch.equal(ops.color(grey, amounts, FILL[:1]), grey)
    expected = ImageEnhance.Contrast(Image.fromarray(grey[0, 0].byte().numpy())).enhance(0.5)
    ours = ops.contrast(grey, amounts, FILL[:1])
    assert (ours[0, 0] - torch.from_numpy(np.array(expected))).abs().max() <= 1


def rows(*values):
    return torch.tensor([list(row) + [0.0] * (NUM_AUTO_PARAMS - len(row)) for row in values])


def test_trivial_augment_applies_one_operation_at_one_of_31_strengths():
    images = photographs(5).byte()
    # operation 5 of 14 (rotate) at bins 0, 15 and 30; operation 10 (posterize) at bin 30; operation 0 (identity)
    params = rows(
        (5.5 / 14, 0.0, 0.9), (5.5 / 14, 15.5 / 31, 0.9), (5.5 / 14, 0.9999, 0.1), (10.5 / 14, 0.99, 0), (0, 0.5, 0)
    )
    ours = auto_augment(images, TRIVIAL_RECIPE, params, mean=(0.5,) * 3) * 255
    black = torch.zeros(3)
    values = images.float()
    for index, degrees in enumerate((0.0, 67.5, -135.0)):
        expected = ops.rotate(values[index : index + 1], torch.tensor([degrees]), black)
        torch.testing.assert_close(ours[index : index + 1], expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[3], values[3].div(64).floor() * 64, rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[4], values[4], rtol=0, atol=1e-3)


def test_rand_augment_applies_two_operations_each_half_of_the_time():
    images = photographs(3).byte()
    middle = 0.5  # the strength's normal number is 0: exactly 6 of 10
    solarize, invert = 5.5 / 15, 2.5 / 15
    both = (solarize, middle, 0.0, 0.4, invert, middle, 0.0, 0.4)
    params = rows(both, (*both[:3], 0.6, *both[4:]), (*both[:7], 0.6))
    ours = auto_augment(images, RAND_RECIPE, params, mean=(0.5,) * 3) * 255
    values = images.float()
    threshold = 256 - int(0.6 * 256)
    solarized = torch.where(values < threshold, values, 255 - values)
    for changed, expected in zip(ours, (255 - solarized[0], 255 - values[1], solarized[2]), strict=True):
        torch.testing.assert_close(changed, expected, rtol=0, atol=1e-3)


def test_rand_augment_varies_its_strength_by_half_a_level():
    values = torch.arange(256.0).view(1, 1, 16, 16).expand(4000, 3, -1, -1).byte()
    params = torch.rand(4000, NUM_AUTO_PARAMS, generator=torch.Generator().manual_seed(0))
    params[:, 0], params[:, 3], params[:, 7] = 6.5 / 15, 0.0, 0.9  # solarize_add, and no second operation
    changed = auto_augment(values, RAND_RECIPE, params, mean=(0.5,) * 3)
    levels = (changed[:, 0, 0, 0] * 255).round() / 11  # 110 at level 10
    assert levels.mean().item() == pytest.approx(6, abs=0.1)
    assert levels.std().item() == pytest.approx(0.5, abs=0.05)


def test_every_operation_is_drawn_equally_often():
    for choices in (TRIVIAL, RAND):
        uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(1))
        counts = torch.bincount((uniform.double() * len(choices)).long(), minlength=len(choices))
        assert len(counts) == len(choices)
        assert (counts / 20_000 * len(choices) - 1).abs().max() < 0.1


@pytest.mark.parametrize("recipe", [TRIVIAL_RECIPE, RAND_RECIPE])
def test_an_image_does_not_depend_on_its_batch(recipe):
    images = photographs(64, 32, 32).byte()
    params = torch.rand(64, NUM_AUTO_PARAMS, generator=torch.Generator().manual_seed(2))
    whole = auto_augment(images, recipe, params, mean=(0.4, 0.5, 0.6))
    assert whole.shape == images.shape
    assert 0 <= whole.min() <= whole.max() <= 1
    parts = [auto_augment(images[i : i + 7], recipe, params[i : i + 7], mean=(0.4, 0.5, 0.6)) for i in range(0, 64, 7)]
    assert torch.equal(whole, torch.cat(parts))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(whole, auto_augment(last, recipe, params, mean=(0.4, 0.5, 0.6)))


@pytest.mark.parametrize("recipe", [TRIVIAL_RECIPE, RAND_RECIPE])
def test_a_gpu_gets_the_same_images(recipe, monkeypatch):
    """A GPU computes every operation for all images; here a processor does."""
    images = photographs(64, 32, 32).byte()
    params = torch.rand(64, NUM_AUTO_PARAMS, generator=torch.Generator().manual_seed(3))
    expected = auto_augment(images, recipe, params, mean=(0.4, 0.5, 0.6))
    monkeypatch.setattr(ops, "_apply_to_own", ops._apply_to_all)
    assert torch.equal(auto_augment(images, recipe, params, mean=(0.4, 0.5, 0.6)), expected)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rand_augment": 11.0}, "rand_augment must be from 0 to 10, not 11.0"),
        ({"rand_augment": 6.0, "trivial_augment": True}, "set trivial_augment or rand_augment, not both"),
        ({"random_erasing": 1.5}, "random_erasing must be from 0 to 1, not 1.5"),
    ],
)
def test_invalid_fields_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(Recipe(), **fields)
