"""Evaluation views equal those of torchvision and timm, for each rule, interpolation and fit, and in every consumer."""

import itertools
from dataclasses import replace
from io import BytesIO
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.reference_views import encoded, odd_photographs, reference_view, resample_with_numpy, resized_size
from helpers.small_network import COLOUR, network
from resnetlab.config import Fit, Interpolation, ModelConfig, Preprocessing, ResizeRule
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.eval_view import FULL_SIZE, REDUCED_BOUND, EvalView
from resnetlab.data.images.resample import make_view, resize, resize_with_pillow
from resnetlab.models.resnet import ResNet

from conftest import ROOT

SAMPLE = ROOT.parent / "shared" / "data" / "imagenette224-sample"
RULES, KERNELS, FITS = get_args(ResizeRule), get_args(Interpolation), get_args(Fit)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def preprocessing(rule="timm", kernel="bicubic", fit="crop", size=(56, 56), crop_ratio=0.875) -> Preprocessing:
    width = None if size[0] == size[1] else size[1]
    chosen = {"interpolation": kernel, "resize_rule": rule, "fit": fit, "image_width": width}
    return Preprocessing(size[0], MEAN, STD, crop_ratio=crop_ratio, **chosen)


def expected_view(image: Image.Image, pre: Preprocessing) -> np.ndarray:
    chosen = {"rule": pre.resize_rule, "interpolation": pre.interpolation, "fit": pre.fit, "mean": pre.mean}
    return reference_view(image, pre.input_size, pre.crop_ratio, **chosen)


def compare(images: list[Image.Image], pre: Preprocessing, model) -> tuple[int, float]:
    """Return the largest difference of pixels and of logits from the reference.

    Files are JPEG, or PNG where a JPEG may be decoded at a reduced size.
    """
    kind, pixels, logits = "PNG" if EvalView.of(pre).reduces_jpegs else "JPEG", [0], [0.0]
    for image in images:
        data = encoded(image, kind)
        decoded = image if kind == "PNG" else Image.open(BytesIO(data)).convert("RGB")
        found, expected = decode_eval_view(data, EvalView.of(pre)), expected_view(decoded, pre)
        assert found.shape == expected.shape == (*pre.input_size, 3)
        pixels.append(int(np.abs(found.astype(int) - expected).max()))
        batch = (np.stack([found, expected]) / 255 - pre.mean) / pre.std
        with torch.no_grad():
            ours, theirs = model(torch.from_numpy(batch).permute(0, 3, 1, 2).float())
        logits.append(float((ours - theirs).abs().max()))
    return max(pixels), max(logits)


@pytest.mark.parametrize(("rule", "kernel", "fit"), list(itertools.product(RULES, KERNELS, FITS)))
def test_pixels_and_logits_of_ten_photographs(rule, kernel, fit):
    model, images = network(COLOUR), odd_photographs(10)
    pixels, logits = compare(images, preprocessing(rule, kernel, fit), model)
    if (rule, kernel) == ("resnetlab", "bilinear"):  # PyTorch's kernel
        assert pixels <= 1
    else:
        assert pixels == 0
        assert logits < 1e-4


@pytest.mark.slow  # half a minute: photographs of up to 640 pixels, each for 6 of the 18 views
@pytest.mark.skipif(not SAMPLE.exists(), reason=f"needs {SAMPLE}")
def test_pixels_and_logits_of_two_hundred_photographs():
    images = odd_photographs(200, (97, 640), SAMPLE)
    assert len({image.size for image in images}) == 200
    config = ModelConfig(stage_blocks=(1, 1), stage_channels=(8, 16), num_classes=10)
    model = ResNet(config, torch.Generator().manual_seed(0)).eval()
    for number, (rule, kernel, fit) in enumerate(itertools.product(RULES, KERNELS, FITS)):
        ratio, size = (1.0, 0.875, 224 / 232, 0.95)[number % 4], (160, 224) if number % 5 == 4 else (224, 224)
        part = images[(number + number // 3) % 3 :: 3]  # so each photograph meets every rule with every kernel
        pixels, logits = compare(part, preprocessing(rule, kernel, fit, size, ratio), model)
        print(rule, kernel, fit, size, f"{ratio:.3f}", pixels, f"{logits:.1e}")
        by_pytorch = (rule, kernel) == ("resnetlab", "bilinear")
        assert pixels <= (2 if by_pytorch else 0)
        assert by_pytorch or logits < 1e-4


def test_geometry_on_all_sizes():
    """Sizes and offsets alone, for many more sizes than can be resized."""
    views = [((224, 224), 0.875), ((224, 224), 224 / 232), ((288, 288), 0.95), ((160, 224), 0.9), ((224, 96), 1.0)]
    sides = [1, 2, 3, 7, 99, 223, 224, 225, 256, 333, 375, 500, 501, 640, 1023]
    for (size, ratio), rule, fit in itertools.product(views, RULES, FITS):
        view = EvalView(*size, ratio, resize_rule=rule, fit=fit)
        for height, width in itertools.product(sides, sides):
            layout = view.layout(height, width)
            expected = resized_size(height, width, view.resized_target, rule, fit)
            assert (layout.height, layout.width) == tuple(max(1, side) for side in expected)
            for side, wanted, offset in zip(expected, size, layout[2:], strict=True):
                assert abs(max(1, side) - wanted - 2 * offset) <= 1
                assert fit == "pad" or offset >= 0


def test_published_sizes():
    """Sizes that the documentation of the packages names: 256 and 232 for 224, 235 at 0.95, 303 at 0.95 of 288."""
    for ratio, target in ((224 / 256, 256), (224 / 232, 232)):
        assert EvalView(224, 224, ratio, resize_rule="torchvision").resized_target == (target, target)
    for size, ratio, target in ((224, 0.95, 235), (288, 0.95, 303), (224, 0.875, 256), (224, 1.0, 224)):
        assert EvalView(size, size, ratio, resize_rule="timm").resized_target == (target, target)
    # 500 x 375: the long side is 341.33, the offset 58.5 is rounded to the even number by torchvision.
    assert EvalView(224, 224, 0.875, resize_rule="torchvision").layout(375, 500) == (256, 341, 16, 58)
    assert EvalView(224, 224, 0.875, resize_rule="torchvision").layout(333, 500)[1:] == (384, 16, 80)
    assert EvalView(224, 224, 0.875).layout(375, 499)[1:] == (341, 16, 58)
    assert EvalView(224, 224, 0.875, resize_rule="torchvision").layout(375, 501)[1:] == (342, 16, 59)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_images_of_any_number_of_channels(kernel, channels):
    pixels = np.random.default_rng(channels).integers(0, 256, (37, 53, channels), dtype=np.uint8)
    for size in ((20, 31), (61, 70)):
        expected = resample_with_numpy(pixels, size, kernel)
        for function in (resize, resize_with_pillow):
            found = function(pixels, *size, kernel)
            assert found.shape == (*size, channels)
            assert np.abs(found.astype(int) - expected).max() <= 1
        # Sums of a half are rounded up or down by the last bit of the weights.
        assert (resize_with_pillow(pixels, *size, kernel) != expected).mean() < 0.02


def test_borders_have_the_colour_of_the_mean_or_are_black():
    white = np.full((10, 41, 3), 255, np.uint8)
    for rule, border in (("resnetlab", [124, 116, 104]), ("torchvision", [0, 0, 0]), ("timm", [124, 116, 104])):
        view = make_view(white, EvalView.of(preprocessing(rule, fit="pad", size=(20, 20), crop_ratio=1.0)))
        rows = (view == 255).all((1, 2))
        assert rows.sum() == 5 if rule != "torchvision" else 4  # 10 x 20 / 41 = 4.9
        assert rows[9]
        assert (view[~rows] == border).all()
    assert EvalView.of(replace(preprocessing(fit="pad"), mean=(1.5, -0.5, 0.5))).fill == (255, 0, 128)


def test_very_long_images_need_little_memory():
    for rule in RULES:
        line = np.zeros((1, 60_000, 3), np.uint8)
        for fit in FITS:
            view = EvalView(32, 32, resize_rule=rule, fit=fit)
            part = view.central_part(*line.shape[:2])
            layout = view.layout(*part)
            assert layout.height * layout.width <= 16 * 32 * 32
            assert make_view(line, view).shape == (32, 32, 3)


def test_a_jpeg_is_reduced_only_within_the_bound(monkeypatch):
    differences = []
    for image in odd_photographs(6, (257, 400)):
        data, view = encoded(image, "JPEG"), EvalView(56, 56, 0.875)
        assert view.jpeg_min_side == 128
        reduced = decode_eval_view(data, view)
        with monkeypatch.context() as patched:
            patched.setattr(EvalView, "reduces_jpegs", False)
            whole = decode_eval_view(data, view)
        differences.append(np.abs(reduced.astype(int) - whole).mean())
    assert 0 < max(differences) < REDUCED_BOUND
    for changes in ({"resize_rule": "timm"}, {"resize_rule": "torchvision"}, {"interpolation": "bicubic"}):
        assert replace(EvalView(56, 56, 0.875), **changes).jpeg_min_side == FULL_SIZE
