"""Ten crops and multiple scales against a slow reference implementation: one image at a time, Pillow, loops."""

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import build_model
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.data.images.eval_view import EvalView
from resnetlab.evaluation.crops import multi_scale_sides, ten_crop_side
from resnetlab.evaluation.protocols import collect_predictions, ensemble, multi_scale, one_crop, ten_crop
from resnetlab.models.resnet import ResNet

PRE = Preprocessing(24, (0.45, 0.5, 0.55), (0.2, 0.25, 0.3), crop_ratio=0.75)
SHAPES = [(32, 32), (32, 47), (60, 32), (32, 47), (33, 90), (20, 200)]
"""Height and width; the longer side of the last is more than four times its shorter side."""


def network(seed: int = 0, **fields) -> ResNet:
    """Build a small network with random batch-normalisation statistics."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model("resnet8", 7, generator=generator, **fields)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features, generator=generator) - 0.5
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    return model.eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Write images that are smooth enough for two resizing methods to agree; return files and arrays."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    pixels = []
    for number, (height, width) in enumerate(SHAPES):
        small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
        Image.fromarray(pixels[-1]).save(folder / f"{number}.png")
    return sorted(folder.iterdir()), pixels


def encoded(files, pre=PRE) -> EncodedImages:
    sizes = torch.tensor(SHAPES)
    return EncodedImages(files, [file.name for file in files], sizes, view=EvalView.of(pre))


def resized(pixels: np.ndarray, shorter: int) -> np.ndarray:
    """Resize an image, or the centre of a very long image, with Pillow."""
    height, width = pixels.shape[:2]
    if width > 4 * height:
        cut = (width - 4 * height) // 2
        pixels = pixels[:, cut : cut + 4 * height]
        width = 4 * height
    scale = shorter / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def network_input(pixels: np.ndarray, pre: Preprocessing) -> torch.Tensor:
    x = torch.tensor(pixels / 255.0, dtype=torch.float64)
    x = (x - torch.tensor(pre.mean, dtype=torch.float64)) / torch.tensor(pre.std, dtype=torch.float64)
    return x.permute(2, 0, 1)[None].float()


@torch.no_grad()
def slow_ten_crop(model, pixels, pre, shorter):
    image, size = resized(pixels, shorter), pre.image_size
    height, width = image.shape[:2]
    total = torch.zeros(7, dtype=torch.float64)
    for flip in (False, True):
        for top, left in [
            (0, 0),
            (0, width - size),
            (height - size, 0),
            (height - size, width - size),
            ((height - size) // 2, (width - size) // 2),
        ]:
            crop = image[top : top + size, left : left + size]
            logits = model(network_input(crop[:, ::-1].copy() if flip else crop, pre))[0].double()
            total += torch.exp(logits) / torch.exp(logits).sum()
    return total / 10


@torch.no_grad()
def slow_multi_scale(model, pixels, pre, sides):
    """Average the class scores over the positions of the last feature map, then the probabilities over scales."""
    total = torch.zeros(7, dtype=torch.float64)
    for side in sides:
        x = network_input(resized(pixels, side), pre)
        x = torch.relu(model.bn1(model.conv1(x)))
        for stage in (model.layer1, model.layer2, model.layer3):
            x = stage(x)
        scores = [model.fc(x[0, :, row, column]) for row in range(x.shape[2]) for column in range(x.shape[3])]
        logits = torch.stack(scores).double().mean(0)
        total += torch.exp(logits) / torch.exp(logits).sum()
    return total / len(sides)


def probabilities(batches, num_samples):
    result = torch.zeros(num_samples, 7, dtype=torch.float64)
    counts = torch.zeros(num_samples)
    for positions, _, log_probs in batches:
        result[positions] = log_probs.exp()
        counts[positions] += 1
    assert counts.tolist() == [1] * num_samples
    return result


@pytest.mark.parametrize("shorter", [24, 27, 32])
def test_ten_crop_equals_the_reference(images, shorter):
    files, pixels = images
    model, split = network(), Split(encoded(files), torch.arange(len(files)))
    fast = probabilities(ten_crop(model, split, PRE, side=shorter), len(files))
    slow = torch.stack([slow_ten_crop(model, image, PRE, shorter) for image in pixels])
    assert torch.allclose(fast, slow, atol=2e-3)  # Pillow rounds pixels half a step differently
    assert (slow.max(0).values - slow.min(0).values).max() > 0.02  # the images do differ


def test_ten_crop_without_resizing_is_exact(images):
    files, pixels = images
    fits = [at for at, (height, width) in enumerate(SHAPES) if min(height, width) == 32 and max(height, width) < 128]
    model, split = network(), Split(encoded([files[at] for at in fits]), torch.arange(len(fits)))
    fast = probabilities(ten_crop(model, split, PRE, side=32), len(fits))
    slow = torch.stack([slow_ten_crop(model, pixels[at], PRE, 32) for at in fits])
    assert torch.allclose(fast, slow, atol=1e-6)


def test_multi_scale_equals_the_reference(images):
    files, pixels = images
    model, split, sides = network(), Split(encoded(files), torch.arange(len(files))), (24, 31, 48)
    fast = probabilities(multi_scale(model, split, PRE, sides=sides), len(files))
    slow = torch.stack([slow_multi_scale(model, image, PRE, sides) for image in pixels])
    assert torch.allclose(fast, slow, atol=2e-3)


def test_sides_are_those_of_the_paper():
    imagenet = Preprocessing(224, (0.0,) * 3, (1.0,) * 3, crop_ratio=0.875)
    assert (multi_scale_sides(imagenet), ten_crop_side(imagenet)) == ((224, 256, 384, 480, 640), 256)
    cifar = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)
    assert (multi_scale_sides(cifar), ten_crop_side(cifar)) == ((32, 37, 55, 69, 91), 37)


def network_without_padding() -> ResNet:
    """Build a network whose kernels read only their own position, so that zero padding has no effect."""
    model = network()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            centre = module.weight.data[:, :, 1, 1].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, 1, 1] = centre
    return model


def test_multi_scale_of_a_constant_image_equals_one_crop():
    """Exact without padding; with padding, the share of the border differs between scales."""
    shades = torch.tensor([[10, 200, 90], [255, 255, 255], [0, 0, 0]], dtype=torch.uint8)
    pixels = shades[:, :, None, None].expand(3, 3, 32, 32)
    originals = Split(pixels.contiguous(), torch.tensor([0, 1, 2]))
    split = Split(pixels[:, :, :24, :24].contiguous(), originals.labels)
    model = network_without_padding()
    once = probabilities(one_crop(model, split, PRE), 3)
    several = probabilities(multi_scale(model, originals, PRE, sides=multi_scale_sides(PRE)), 3)
    assert torch.allclose(once, several, rtol=1e-5)
    assert torch.allclose(once, probabilities(ten_crop(model, originals, PRE, side=ten_crop_side(PRE)), 3), rtol=1e-5)
    padded = network()
    at_24 = probabilities(multi_scale(padded, originals, PRE, sides=(24,)), 3)
    assert torch.allclose(probabilities(one_crop(padded, split, PRE), 3), at_24, rtol=1e-6)
    assert not torch.allclose(at_24, probabilities(multi_scale(padded, originals, PRE, sides=(60,)), 3), rtol=1e-4)


def test_one_crop_uses_the_crop_ratio(images):
    files, _ = images
    split, model = Split(encoded(files), torch.arange(len(files))), network()
    uncropped = Preprocessing(24, PRE.mean, PRE.std)
    square = [at for at, shape in enumerate(SHAPES) if shape == (32, 32)]
    one = probabilities(one_crop(model, split, PRE), len(files))[square]
    whole = probabilities(multi_scale(model, split, uncropped, sides=(24,)), len(files))
    direct = probabilities(one_crop(model, Split(encoded(files, uncropped), split.labels), uncropped), len(files))
    assert torch.allclose(whole[square], direct[square], rtol=1e-6)
    assert not torch.allclose(one, direct[square], rtol=1e-3)


def test_a_per_pixel_mean_is_resized_with_the_image(images):
    files, _ = images
    split, model = Split(encoded(files), torch.arange(len(files))), network()
    flat = Preprocessing(24, (0.4, 0.5, 0.6), (1.0,) * 3, crop_ratio=0.75)
    same = Preprocessing(24, (0.4, 0.5, 0.6), (1.0,) * 3, tuple(np.repeat((0.4, 0.5, 0.6), 24 * 24)), crop_ratio=0.75)
    by_channel, by_pixel = (
        probabilities(multi_scale(model, split, pre, sides=(24, 31, 48)), len(files)) for pre in (flat, same)
    )
    assert torch.allclose(by_channel, by_pixel, atol=1e-5)


def test_ensemble_averages_probabilities_and_passes_one_network_through():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (70, 3, 24, 24), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 7, (70,), generator=generator)
    split, first, second = Split(pixels, labels), network(0), network(1)
    alone = collect_predictions(one_crop(first, split, PRE), 70)
    one = collect_predictions(ensemble([lambda: one_crop(first, split, PRE)], 70), 70)
    for name in ("positions", "labels", "top", "confidence", "loss"):
        assert np.array_equal(getattr(alone, name), getattr(one, name))
    both = probabilities(ensemble([lambda: one_crop(first, split, PRE), lambda: one_crop(second, split, PRE)], 70), 70)
    mean = (probabilities(one_crop(first, split, PRE), 70) + probabilities(one_crop(second, split, PRE), 70)) / 2
    assert torch.allclose(both, mean, rtol=1e-12)


def test_impossible_sides_raise(images):
    files, _ = images
    split = Split(encoded(files), torch.arange(len(files)))
    with pytest.raises(ConfigError, match="cannot be cut from a shorter side of 20; use 24 or more"):
        list(ten_crop(network(), split, PRE, side=20))
    with pytest.raises(ConfigError, match="at least 1 pixel each, not 24, 0"):
        list(multi_scale(network(), split, PRE, sides=(24, 0)))
