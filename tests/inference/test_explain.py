"""Grad-CAM against central differences, autograd and the PyTorch engine; and the overlay and its caption."""

import threading
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from helpers.small_network import COLOUR, GREY, model_file, network
from resnetlab.config import ModelConfig, Preprocessing
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.explain import (
    CAPTION_HEIGHT,
    MIN_SIDE,
    add_caption,
    blend_heat_map,
    grad_cam,
    heat_map,
    render_overlay,
)
from resnetlab.inference.predictor import load
from resnetlab.models.resnet import ResNet

RNG = np.random.default_rng(0)
CHANGES = [{}, {"norm": "none"}, {"block": "bottleneck", "shortcut": "none", "stage_channels": (2, 3)}]


def tiny(**changes: object) -> ResNet:
    """Build a network in double precision with BN statistics that are not initial."""
    fields = {"stage_blocks": (1, 1), "stage_channels": (4, 6), "stem": "cifar", "shortcut": "pad", "num_classes": 3}
    config = ModelConfig(**(fields | changes))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(1)
    model = ResNet(config, generator).double().train()
    for _ in range(3):
        model(torch.randn(8, 3, 10, 10, generator=generator, dtype=torch.float64))
    return model.eval()


def random_images(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 3, 10, 10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def heat_maps(model: ResNet, images: torch.Tensor, labels: list[int]) -> np.ndarray:
    """Return the heat maps of one class for each image, in double precision."""
    *_, feature_maps = model.features(images).values()
    return grad_cam(feature_maps.numpy(), model.fc.weight[labels].numpy())


@torch.no_grad()
def by_differences(model: ResNet, image: torch.Tensor, label: int, step: float = 1e-5) -> np.ndarray:
    """Move each value of the last feature map up and down in the real forward pass; then weigh and sum the channels."""
    feature_maps: list[torch.Tensor] = []
    offset = torch.zeros(())

    def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        feature_maps.append(output.clone())
        return output + offset

    handle = model.stages["stage2"].register_forward_hook(hook)
    model(image)
    feature_map = feature_maps[0]
    gradient = torch.zeros_like(feature_map)
    for position in np.ndindex(*feature_map.shape):
        logits = []
        for sign in (1, -1):
            offset = torch.zeros_like(feature_map)
            offset[position] = sign * step
            logits.append(model(image)[0, label].item())
        gradient[position] = (logits[0] - logits[1]) / (2 * step)
    handle.remove()
    heat = torch.zeros(feature_map.shape[2:], dtype=feature_map.dtype)
    for channel in range(feature_map.shape[1]):
        heat += gradient[0, channel].mean() * feature_map[0, channel]
    return heat.clamp(min=0).numpy()


@pytest.mark.parametrize("changes", CHANGES)
def test_heat_maps_equal_those_of_central_differences(changes):
    model, images = tiny(**changes), random_images(2, seed=2)
    maxima = []
    for label in range(3):
        heats = heat_maps(model, images, [label, label])
        assert heats.shape == (2, 5, 5)
        for index in range(2):
            expected = by_differences(model, images[index : index + 1], label)
            np.testing.assert_allclose(heats[index], expected, rtol=1e-6, atol=1e-9)
            maxima.append(expected.max())
    assert max(maxima) > 0.01


@pytest.mark.parametrize("changes", CHANGES)
def test_channel_weights_equal_the_averaged_gradient_of_autograd(changes):
    """The definition of Grad-CAM: the gradient of the class logit with respect to the map, averaged over the map."""
    model, images = tiny(**changes), random_images(2, seed=4)
    feature_maps: list[torch.Tensor] = []

    def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        feature_maps.append(output)

    handle = model.stages["stage2"].register_forward_hook(hook)
    logits = model(images)
    handle.remove()
    (last,) = feature_maps
    height, width = last.shape[2:]
    for label in range(3):
        (gradient,) = torch.autograd.grad(logits[:, label].sum(), last, retain_graph=True)
        closed_form = model.fc.weight[label].detach() / (height * width)
        torch.testing.assert_close(gradient.mean((2, 3)), closed_form.expand(2, -1), rtol=1e-6, atol=0)
        expected = torch.einsum("bc,bchw->bhw", gradient.mean((2, 3)), last.detach()).clamp(min=0)
        np.testing.assert_allclose(heat_maps(model, images, [label] * 2), expected.numpy(), rtol=1e-6, atol=1e-12)


def test_each_image_has_its_own_class():
    model, images = tiny(), random_images(3, seed=3)
    batch = heat_maps(model, images, [2, 0, 1])
    for index, label in enumerate((2, 0, 1)):
        np.testing.assert_allclose(batch[index], heat_maps(model, images[index : index + 1], [label])[0], rtol=1e-12)


@pytest.mark.parametrize(("preprocessing", "name"), [(COLOUR, "resnet8"), (GREY, "resnet8"), (COLOUR, "plain8")])
def test_pytorch_heat_map(preprocessing, name):
    """The sum of a heat map before its negative values are cut is the logit without the bias."""
    assert_heat_map_sums_to_the_logit(TorchEngine(network(preprocessing, name), preprocessing))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["resnet8", "plain8"])
def test_heat_map_on_cuda_equals_that_on_the_cpu(name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    view = RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    model = network(COLOUR, name)
    expected = heat_map(TorchEngine(model, COLOUR), view, 1)
    on_cuda = heat_map(TorchEngine(model.cuda(), COLOUR), view, 1)
    np.testing.assert_allclose(on_cuda, expected, rtol=1e-2, atol=1e-2 * float(expected.max()))


def assert_heat_map_sums_to_the_logit(engine: TorchEngine) -> None:
    size, channels = engine.preprocessing.image_size, len(engine.preprocessing.mean)
    view = RNG.integers(0, 256, (size, size, channels), dtype=np.uint8)
    logits = engine.logits(view[None])[0]
    for label, logit in enumerate(logits):
        heat = heat_map(engine, view, label)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        opposite = grad_cam(engine.feature_maps(view[None]), -engine.head_weights[label][None])[0]
        assert heat.sum() - opposite.sum() == pytest.approx(
            logit - float(engine.network.fc.bias.detach()[label]), abs=1e-4
        )


def test_threads_explain_their_own_images():
    engine = TorchEngine(network(), COLOUR)
    views = [RNG.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(8)]
    expected = [heat_map(engine, view, 1) for view in views]
    wrong = []

    def work(first: int) -> None:
        order = [index % 8 for index in range(first, first + 16)]
        wrong.extend(index for index in order if not np.array_equal(heat_map(engine, views[index], 1), expected[index]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_heat_is_drawn_at_its_position():
    image = np.full((90, 90, 3), 128, np.uint8)
    heat = np.zeros((3, 3), np.float32)
    heat[0, 2] = 7.0
    overlay = blend_heat_map(image, heat).astype(int)
    hot = np.rint(0.25 * 128 + 0.75 * 255 * np.array(colormaps["inferno"](0.9)[:3]))
    assert np.abs(overlay[10, 79] - hot).max() <= 1
    assert np.abs(overlay[60:, :30] - 128).max() <= 1
    change = np.abs(overlay - 128).sum(2)
    assert change[:30, 60:].mean() > 5 * change[30:60, 30:60].mean()


def test_without_heat_the_image_is_only_desaturated():
    image = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    overlay = blend_heat_map(image, np.zeros((4, 4), np.float32)).astype(int)
    brightness = np.asarray(Image.fromarray(image).convert("L")).astype(float)
    for channel in range(3):
        expected = 0.4 * image[:, :, channel] + 0.6 * brightness
        assert np.abs(overlay[:, :, channel] - expected).max() <= 1


@pytest.mark.parametrize(
    "text", ["cat", "", "église 犬 🐕", "a\nb\tc\x1b[31m", "\ud800 alone", "x" * 5000, "اردو עברית", "\u202e\u200b"]
)
def test_any_text_can_be_a_caption(text):
    page = add_caption(np.zeros((100, 200, 3), np.uint8), text)
    assert page.size == (200, 100 + CAPTION_HEIGHT)
    ink = np.asarray(page)[100:]
    assert (ink.max() > 200) == (text != "")
    assert ink[:, :10].max() == ink[:, -10:].max() == 0  # inside the margins
    page.save(BytesIO(), "PNG")


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_an_overlay_shows_the_crop_that_the_network_reads(preprocessing: Preprocessing, tmp_path):
    predictor = load(model_file(tmp_path / "m.safetensors", preprocessing))
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 35:85] = (200, 30, 30)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    encoded = file.getvalue()
    page = render_overlay(predictor, predictor(encoded), encoded=encoded, view=predictor.preprocess(encoded))
    assert page.size == (MIN_SIDE, MIN_SIDE + CAPTION_HEIGHT)
    overlay = np.asarray(page).astype(int)
    assert overlay[:MIN_SIDE, MIN_SIDE // 2].mean() > overlay[:MIN_SIDE, 2].mean()  # the red middle, without the ends
