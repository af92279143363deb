"""Where in a picture a network found what it says: Grad-CAM of the last stage, drawn over the picture.

Paper: Selvaraju et al., "Grad-CAM", 2017. Of these networks, whose head reads an average over the map, it is the class
activation map of Zhou et al., 2016.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from resnetlab.config import ConfigError
from resnetlab.data.images.decode import decode_eval_view
from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.engines.pytorch import TorchEngine
from resnetlab.inference.inputs import shorten_middle
from resnetlab.inference.predictor import Prediction, Predictor
from resnetlab.inference.probe_images import luma
from resnetlab.models.resnet import ResNet

SIDE = 448
"""Pixels: a picture that the network sees smaller is drawn so large, or it could not be read."""
STRIP = 36
"""Pixels below the picture, for the words."""
COLOURS = "inferno"
"""Matplotlib's: brightness rises evenly with the value, for the colour-blind too."""
OPACITY = 0.75
"""Of the hottest place."""
FADED = 0.6
"""How much of the picture's own colour is taken away, so that none is mistaken for heat."""


class Head(nn.Module):
    """What a network does with the map of its last stage, which stays a module of its own for hooks to find.

    The stages themselves run before, without hooks and gradients: threads can share the network, no activation is kept,
    and no ReLU overwrites what a hook has seen.
    """

    def __init__(self, model: ResNet) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.fc = model.fc

    def forward(self, maps: Tensor) -> Tensor:
        """Return logits: the average over the map, through the fully connected layer."""
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.maps(maps), 1), 1))


def grad_cam(model: ResNet, images: Tensor, classes: Tensor) -> Tensor:
    """Return what speaks for one class of each image, place by place: at least 0, (batch, height, width) of the map.

    `images` are as the network takes them, `classes` int64 of shape (batch,). Each channel of the last stage is weighed
    by the mean over the map of the logit's gradient; where the sum is negative it is set to 0.

    Raises:
        ConfigError: where captum is not installed.
    """
    attribution = captum()
    with torch.no_grad():
        *_, maps = model.features(images).values()
    head = Head(model)
    return attribution(head, head.maps).attribute(maps, classes, relu_attributions=True).detach()[:, 0]


def captum() -> Any:
    """Return captum's `LayerGradCam`.

    Raises:
        ConfigError: where it is not installed.
    """
    try:
        from captum.attr import LayerGradCam
    except ImportError as error:
        raise ConfigError(f"explanations need captum ({error}); pip install 'resnetlab[explain]'") from error
    return LayerGradCam


def require(engine: Engine) -> None:
    """Load what an engine's explanations need.

    Raises:
        ConfigError: where it is not installed.
    """
    if engine.backend == "torch":
        captum()
    elif engine.backend == "onnxruntime":
        optional_packages.onnx()


def render_overlay(predictor: Predictor, data: bytes, seen: np.ndarray, prediction: Prediction) -> Image.Image:
    """Draw what speaks for the predicted class over an encoded picture, of which the network saw the view `seen`.

    The part that the network saw, at least SIDE pixels a side; class and probability stand below.
    """
    heat = heat_map(predictor.engine, seen, predictor.classes.index(prediction.label))
    size, ratio = predictor.preprocessing.image_size, predictor.preprocessing.crop_ratio
    side = max(SIDE, size)
    picture = decode_eval_view(data, side, ratio, predictor.max_pixels)
    if seen.shape[2] == 1:
        picture = np.repeat(luma(picture), 3, axis=2)
    return add_caption(blend_heat_map(picture, heat), f"{prediction.label}  {100 * prediction.probability:.1f} %")


def heat_map(engine: Engine, seen: np.ndarray, label: int) -> Tensor:
    """Return what speaks for a class in one view, place by place: float32, at least 0, of the size of the last map.

    By `grad_cam` where PyTorch computes, up to a factor that `blend_heat_map` takes away. Elsewhere by its closed form: the
    head is linear and reads an average, so that the gradient that weighs a channel is the head's weight over the area.

    Raises:
        ConfigError: as `grad_cam` does.
    """
    if isinstance(engine, TorchEngine):
        classes = torch.tensor([label], device=engine.device)
        return grad_cam(engine.network, engine.seen(seen[None]), classes).float().cpu()[0]
    maps = torch.from_numpy(engine.maps(seen[None])[0])
    return torch.einsum("c,chw->hw", torch.from_numpy(engine.head[label]), maps).clamp(min=0)


def blend_heat_map(picture: np.ndarray, heat: Tensor) -> np.ndarray:
    """Lay a heat map, at least 0 and of any size, over a picture of faded colours: uint8 (height, width, 3).

    The hottest place is as hot as can be; where there is no heat, the picture shows alone.
    """
    from matplotlib import colormaps

    peak = float(heat.max())
    heat = F.interpolate(heat[None, None] / (peak or 1.0), picture.shape[:2], mode="bicubic", align_corners=False)
    strength = heat[0, 0].clamp(0, 1).numpy()[:, :, None]
    colour = colormaps[COLOURS](0.9 * strength[:, :, 0])[:, :, :3] * 255  # its last tenth is lost on white
    opacity = OPACITY * strength
    faded = picture * (1 - FADED) + luma(picture) * FADED
    return np.rint(faded * (1 - opacity) + colour * opacity).astype(np.uint8)


def add_caption(picture: np.ndarray, words: str) -> Image.Image:
    """Write one line below a picture; what has no glyph shows a box, what cannot be printed a question mark."""
    height, width = picture.shape[:2]
    page = Image.new("RGB", (width, height + STRIP), "black")
    page.paste(Image.fromarray(picture))
    font = _font()
    line = "".join(letter if letter.isprintable() else "?" for letter in words)
    ImageDraw.Draw(page).text(
        (12, height + STRIP / 2), shorten_middle(line, width - 24, font.getlength), "white", font, anchor="lm"
    )
    return page


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with Matplotlib and knows more scripts than Pillow's own."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", 17)
