"""Ten crops and several scales against a slow, obvious reference: one picture at a time, Pillow, loops."""

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab import build_model
from resnetlab.config import ConfigError, Preprocessing
from resnetlab.data.dataset import Split
from resnetlab.data.images.encoded import EncodedImages
from resnetlab.evaluation.crops import multi_scale_sides, shorter_side
from resnetlab.evaluation.protocols import collect_predictions, ensemble, multi_scale, one_crop, ten_crop
from resnetlab.models.resnet import ResNet

PRE = Preprocessing(24, (0.45, 0.5, 0.55), (0.2, 0.25, 0.3), crop_ratio=0.75)
SHAPES = [(32, 32), (32, 47), (60, 32), (32, 47), (33, 90), (20, 200)]
"""Height and width; the last is longer than four times its shorter side."""


def network(seed: int = 0, **fields) -> ResNet:
    """A small network with weights and BN statistics that are not those of the start."""
    chance = torch.Generator().manual_seed(seed)
    model = build_model("resnet8", 7, generator=chance, **fields)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(module.num_features, generator=chance) - 0.5
            module.running_var = torch.rand(module.num_features, generator=chance) + 0.5
    return model.eval()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Pictures on disk, smooth enough that two ways of resizing agree, and the same as arrays."""
    folder, chance = tmp_path_factory.mktemp("views"), np.random.default_rng(0)
    pixels = []
    for number, (height, width) in enumerate(SHAPES):
        small = Image.fromarray(chance.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        pixels.append(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))
        Image.fromarray(pixels[-1]).save(folder / f"{number}.png")
    return sorted(folder.iterdir()), pixels


def encoded(places, pre=PRE) -> EncodedImages:
    sizes = torch.tensor(SHAPES)
    return EncodedImages(places, [place.name for place in places], sizes, pre.image_size, pre.crop_ratio)


def resized(pixels: np.ndarray, shorter: int) -> np.ndarray:
    """Pillow's own resizing of the picture, or of the middle of a very long one."""
    height, width = pixels.shape[:2]
    if width > 4 * height:
        cut = (width - 4 * height) // 2
        pixels = pixels[:, cut : cut + 4 * height]
        width = 4 * height
    scale = shorter / min(height, width)
    size = (round(width * scale), round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR))


def seen(pixels: np.ndarray, pre: Preprocessing) -> torch.Tensor:
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
            logits = model(seen(crop[:, ::-1].copy() if flip else crop, pre))[0].double()
            total += torch.exp(logits) / torch.exp(logits).sum()
    return total / 10


@torch.no_grad()
def slow_multi_scale(model, pixels, pre, sides):
    """Class scores at every place of the last map, averaged over places, then over scales as probabilities."""
    total = torch.zeros(7, dtype=torch.float64)
    for side in sides:
        x = seen(resized(pixels, side), pre)
        x = torch.relu(model.bn1(model.conv1(x)))
        for stage in (model.layer1, model.layer2, model.layer3):
            x = stage(x)
        places = [model.fc(x[0, :, row, column]) for row in range(x.shape[2]) for column in range(x.shape[3])]
        logits = torch.stack(places).double().mean(0)
        total += torch.exp(logits) / torch.exp(logits).sum()
    return total / len(sides)


def gathered(scores, count):
    found = torch.zeros(count, 7, dtype=torch.float64)
    times = torch.zeros(count)
    for positions, _, logs in scores:
        found[positions] = logs.exp()
        times[positions] += 1
    assert times.tolist() == [1] * count
    return found


@pytest.mark.parametrize("shorter", [24, 27, 32])
def test_ten_crop_is_the_slow_one(drawn, shorter):
    places, pixels = drawn
    model, labels = network(), torch.arange(len(places))
    fast = gathered(ten_crop(model, encoded(places), labels, PRE, shorter), len(places))
    slow = torch.stack([slow_ten_crop(model, image, PRE, shorter) for image in pixels])
    assert torch.allclose(fast, slow, atol=2e-3)  # Pillow rounds pixels half a step otherwise
    assert (slow.max(0).values - slow.min(0).values).max() > 0.02  # pictures do differ


def test_ten_crop_without_resizing_is_exact(drawn):
    places, pixels = drawn
    fits = [at for at, (height, width) in enumerate(SHAPES) if min(height, width) == 32 and max(height, width) < 128]
    model, labels = network(), torch.arange(len(fits))
    fast = gathered(ten_crop(model, encoded([places[at] for at in fits]), labels, PRE, 32), len(fits))
    slow = torch.stack([slow_ten_crop(model, pixels[at], PRE, 32) for at in fits])
    assert torch.allclose(fast, slow, atol=1e-6)


def test_multi_scale_is_the_slow_one(drawn):
    places, pixels = drawn
    model, labels, sides = network(), torch.arange(len(places)), (24, 31, 48)
    fast = gathered(multi_scale(model, encoded(places), labels, PRE, sides), len(places))
    slow = torch.stack([slow_multi_scale(model, image, PRE, sides) for image in pixels])
    assert torch.allclose(fast, slow, atol=2e-3)


def test_the_paper_s_sizes():
    imagenet = Preprocessing(224, (0.0,) * 3, (1.0,) * 3, crop_ratio=0.875)
    assert (multi_scale_sides(imagenet), shorter_side(imagenet)) == ((224, 256, 384, 480, 640), 256)
    cifar = Preprocessing(32, (0.0,) * 3, (1.0,) * 3)
    assert (multi_scale_sides(cifar), shorter_side(cifar)) == ((32, 37, 55, 69, 91), 37)


def without_borders() -> ResNet:
    """A network whose kernels read their own place alone: zero padding never comes in."""
    model = network()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            centre = module.weight.data[:, :, 1, 1].clone()
            module.weight.data.zero_()
            module.weight.data[:, :, 1, 1] = centre
    return model


def test_multi_scale_of_a_constant_picture_is_one_crop():
    """Exact where padding plays no part; any network else sees its border in another proportion at each scale."""
    shades = torch.tensor([[10, 200, 90], [255, 255, 255], [0, 0, 0]], dtype=torch.uint8)
    originals = shades[:, :, None, None].expand(3, 3, 32, 32).contiguous()
    labels = torch.tensor([0, 1, 2])
    split = Split(originals[:, :, :24, :24].contiguous(), labels)
    model = without_borders()
    once = gathered(one_crop(model, split, PRE), 3)
    several = gathered(multi_scale(model, originals, labels, PRE, multi_scale_sides(PRE)), 3)
    assert torch.allclose(once, several, rtol=1e-5)
    assert torch.allclose(once, gathered(ten_crop(model, originals, labels, PRE, shorter_side(PRE)), 3), rtol=1e-5)
    ordinary = network()
    at_its_size = gathered(multi_scale(ordinary, originals, labels, PRE, (24,)), 3)
    assert torch.allclose(gathered(one_crop(ordinary, split, PRE), 3), at_its_size, rtol=1e-6)
    assert not torch.allclose(at_its_size, gathered(multi_scale(ordinary, originals, labels, PRE, (60,)), 3), rtol=1e-4)


def test_the_centre_crop_is_what_evaluation_and_prediction_see(drawn):
    places, _ = drawn
    images, labels, model = encoded(places), torch.arange(len(places)), network()
    square = [at for at, shape in enumerate(SHAPES) if shape == (32, 32)]
    one = gathered(one_crop(model, Split(images, labels), PRE), len(places))[square]
    whole = gathered(multi_scale(model, images, labels, Preprocessing(24, PRE.mean, PRE.std), (24,)), len(places))
    direct = gathered(
        one_crop(
            model,
            Split(encoded(places, Preprocessing(24, PRE.mean, PRE.std)), labels),
            Preprocessing(24, PRE.mean, PRE.std),
        ),
        len(places),
    )
    assert torch.allclose(whole[square], direct[square], rtol=1e-6)
    assert not torch.allclose(one, direct[square], rtol=1e-3)  # the crop ratio counts


def test_a_mean_for_each_pixel_follows_the_size(drawn):
    places, _ = drawn
    labels, model = torch.arange(len(places)), network()
    flat = Preprocessing(24, (0.4, 0.5, 0.6), (1.0,) * 3, crop_ratio=0.75)
    same = Preprocessing(24, (0.4, 0.5, 0.6), (1.0,) * 3, tuple(np.repeat((0.4, 0.5, 0.6), 24 * 24)), crop_ratio=0.75)
    sides = (24, 31, 48)
    by_channel, by_pixel = (
        gathered(multi_scale(model, encoded(places), labels, pre, sides), len(places)) for pre in (flat, same)
    )
    assert torch.allclose(by_channel, by_pixel, atol=1e-5)


def test_an_ensemble_of_one_is_the_network_and_of_two_their_mean():
    chance = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (70, 3, 24, 24), dtype=torch.uint8, generator=chance)
    labels = torch.randint(0, 7, (70,), generator=chance)
    split, first, second = Split(pixels, labels), network(0), network(1)
    alone = collect_predictions(one_crop(first, split, PRE), 70)
    one = collect_predictions(ensemble([lambda: one_crop(first, split, PRE)], 70), 70)
    for name in ("positions", "labels", "top", "confidence", "loss"):
        assert np.array_equal(getattr(alone, name), getattr(one, name))
    both = gathered(ensemble([lambda: one_crop(first, split, PRE), lambda: one_crop(second, split, PRE)], 70), 70)
    mean = (gathered(one_crop(first, split, PRE), 70) + gathered(one_crop(second, split, PRE), 70)) / 2
    assert torch.allclose(both, mean, rtol=1e-12)


def test_what_cannot_be_cut_is_refused(drawn):
    places, _ = drawn
    labels = torch.arange(len(places))
    with pytest.raises(ConfigError, match="cannot be cut from a shorter side of 20; use 24 or more"):
        list(ten_crop(network(), encoded(places), labels, PRE, 20))
    with pytest.raises(ConfigError, match="at least 1 pixel each, not 24, 0"):
        list(multi_scale(network(), encoded(places), labels, PRE, (24, 0)))
