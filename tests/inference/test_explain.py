"""Grad-CAM against central differences of the real forward pass; and drawings that overwrite nothing."""

import sys
import threading
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from PIL import Image

from helpers.small_network import COLOUR, GREY, model_file, network
from resnetlab.config import ConfigError, ModelConfig
from resnetlab.inference.explain import SIDE, STRIP, Head, add_caption, blend_heat_map, captum, grad_cam, render_overlay
from resnetlab.inference.predictor import load
from resnetlab.models.resnet import ResNet

pytest.importorskip("captum")
CHANCE = np.random.default_rng(0)


def tiny(**changes: object) -> ResNet:
    """Build a network in double precision whose statistics have left their start."""
    fields = {"stage_blocks": (1, 1), "stage_channels": (4, 6), "stem": "cifar", "shortcut": "pad", "num_classes": 3}
    config = ModelConfig(**(fields | changes))  # pyright: ignore[reportArgumentType]
    generator = torch.Generator().manual_seed(1)
    model = ResNet(config, generator).double().train()
    for _ in range(3):
        model(torch.randn(8, 3, 10, 10, generator=generator, dtype=torch.float64))
    return model.eval()


@torch.no_grad()
def by_differences(model: ResNet, image: torch.Tensor, label: int, step: float = 1e-5) -> torch.Tensor:
    """Move each value of the last stage's map up and down inside the real forward pass; then weigh and sum, by hand."""
    maps: list[torch.Tensor] = []
    moved = torch.zeros(())

    def replace(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        maps.append(output.clone())
        return output + moved

    handle = model.stages["stage2"].register_forward_hook(replace)
    model(image)
    kept = maps[0]
    gradient = torch.zeros_like(kept)
    for place in np.ndindex(*kept.shape):
        logits = []
        for sign in (1, -1):
            moved = torch.zeros_like(kept)
            moved[place] = sign * step
            logits.append(model(image)[0, label].item())
        gradient[place] = (logits[0] - logits[1]) / (2 * step)
    handle.remove()
    heat = torch.zeros(kept.shape[2:], dtype=kept.dtype)
    for channel in range(kept.shape[1]):
        heat += gradient[0, channel].mean() * kept[0, channel]
    return heat.clamp(min=0)


@pytest.mark.parametrize("changes", [{}, {"norm": "none"}, {"block": "bottleneck", "shortcut": "none"}])
def test_the_map_is_that_of_central_differences(changes):
    model = tiny(**changes)
    images = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hottest = []
    for label in range(3):
        found = grad_cam(model, images, torch.tensor([label, label]))
        assert found.shape == (2, 5, 5)
        assert not found.requires_grad
        for at in range(2):
            expected = by_differences(model, images[at : at + 1], label)
            torch.testing.assert_close(found[at], expected, rtol=1e-6, atol=1e-9)
            hottest.append(expected.max().item())
    assert max(hottest) > 0.01
    assert all(parameter.grad is None for parameter in model.parameters())


def test_each_image_has_its_own_class():
    model = tiny()
    images = torch.randn(3, 3, 10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    together = grad_cam(model, images, torch.tensor([2, 0, 1]))
    for at, label in enumerate((2, 0, 1)):
        torch.testing.assert_close(together[at], grad_cam(model, images[at : at + 1], torch.tensor([label]))[0])


def test_the_head_is_the_networks():
    for model in (network(), network(GREY), tiny().float()):
        images = torch.randn(4, model.config.in_channels, 20, 20)
        with torch.no_grad():
            *_, maps = model.features(images).values()
            assert torch.equal(Head(model)(maps), model(images))


def test_threads_explain_each_its_own():
    model = network()
    images = [torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]
    label = torch.tensor([1])
    expected = [grad_cam(model, image, label) for image in images]
    wrong = []

    def work(first: int) -> None:
        order = [at % 8 for at in range(first, first + 16)]
        wrong.extend(at for at in order if not torch.equal(grad_cam(model, images[at], label), expected[at]))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_captum_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"explanations need captum .*; pip install 'resnetlab\[explain\]'"):
        captum()


def test_heat_lies_where_the_map_has_it():
    picture = np.full((90, 90, 3), 128, np.uint8)
    heat = torch.zeros(3, 3)
    heat[0, 2] = 7.0
    drawn = blend_heat_map(picture, heat).astype(int)
    hot = np.rint(0.25 * 128 + 0.75 * 255 * np.array(colormaps["inferno"](0.9)[:3]))
    assert np.abs(drawn[10, 79] - hot).max() <= 1
    assert np.abs(drawn[60:, :30] - 128).max() <= 1
    far = np.abs(drawn - 128).sum(2)
    assert far[:30, 60:].mean() > 5 * far[30:60, 30:60].mean()


def test_without_heat_the_picture_shows_alone_in_faded_colours():
    picture = CHANCE.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    drawn = blend_heat_map(picture, torch.zeros(4, 4)).astype(int)
    brightness = np.asarray(Image.fromarray(picture).convert("L")).astype(float)
    for channel in range(3):
        expected = 0.4 * picture[:, :, channel] + 0.6 * brightness
        assert np.abs(drawn[:, :, channel] - expected).max() <= 1


@pytest.mark.parametrize(
    "words", ["cat", "", "église 犬 🐕", "a\nb\tc\x1b[31m", "\ud800 alone", "x" * 5000, "اردو עברית", "\u202e\u200b"]
)
def test_any_words_can_be_written(words):
    page = add_caption(np.zeros((100, 200, 3), np.uint8), words)
    assert page.size == (200, 100 + STRIP)
    ink = np.asarray(page)[100:]
    assert (ink.max() > 200) == (words != "")
    assert ink[:, :10].max() == ink[:, -10:].max() == 0  # inside its margins
    page.save(BytesIO(), "PNG")


@pytest.mark.parametrize("preprocessing", [COLOUR, GREY])
def test_a_drawing_shows_what_the_network_saw(preprocessing, tmp_path):
    predictor = load(model_file(tmp_path / "m.safetensors", preprocessing))
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 35:85] = (200, 30, 30)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    data = file.getvalue()
    page = render_overlay(predictor, data, predictor.view(data), predictor(data))
    assert page.size == (SIDE, SIDE + STRIP)
    drawn = np.asarray(page).astype(int)
    assert drawn[:SIDE, SIDE // 2].mean() > drawn[:SIDE, 2].mean()  # the middle of the picture, without its ends
