"""Grad-CAM of the last stage, drawn over the image: the regions that raise the logit of the predicted class.

Paper: Selvaraju et al., "Grad-CAM", 2017. These networks have a linear head on an average pool. For them
Grad-CAM is the class activation map of Zhou et al., 2016, with negative values set to 0.
"""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from resnetlab.data.images.decode import decode_eval_view
from resnetlab.data.images.eval_view import EvalView
from resnetlab.fonts import FallbackFont
from resnetlab.inference import optional_packages
from resnetlab.inference.engines.base import Engine
from resnetlab.inference.inputs import shorten_middle
from resnetlab.inference.predictor import Prediction, Predictor
from resnetlab.inference.probe_images import luma

MIN_SIDE = 448
"""Smallest side of an overlay in pixels; at 32 pixels it could not be read."""
CAPTION_HEIGHT = 36
"""Pixels below the image for the caption."""
COLORMAP = "inferno"
"""Matplotlib's. Its brightness rises evenly with the value, so it also works for colour-blind readers."""
OPACITY = 0.75
"""Opacity at the maximum of the heat map."""
DESATURATION = 0.6
"""Share of the image's colour that is removed, so that no colour of the image looks like heat."""


def grad_cam(feature_maps: np.ndarray, head_weights: np.ndarray) -> np.ndarray:
    """Return the Grad-CAM heat maps of one class for each image: float (batch, height, width), at least 0.

    Grad-CAM weighs each channel by the gradient of the class logit, averaged over the map, and sets negative sums to 0.
    The head is linear and reads the average of the map, so that gradient is the head's weight over the map's area.

    Args:
        feature_maps: Output of the last stage, (batch, channels, height, width).
        head_weights: For each image the head's weights of the class, (batch, channels).

    Paper: Selvaraju et al., 2017, equations 1 and 2.
    """
    height, width = feature_maps.shape[2:]
    return np.maximum(np.einsum("bc,bchw->bhw", head_weights / (height * width), feature_maps), 0)


def heat_map(engine: Engine, view: np.ndarray, label: int) -> np.ndarray:
    """Return the Grad-CAM heat map of one class in one image, on any runtime.

    Args:
        engine: The network.
        view: uint8 (height, width, channels), as `Predictor.preprocess` returns it.
        label: Index of the class.

    Returns:
        float32 (height, width) of the last feature map, at least 0.

    Raises:
        ConfigError: The engine is ONNX Runtime and the package onnx is not installed.
    """
    return grad_cam(engine.feature_maps(view[None]), engine.head_weights[label][None])[0]


def require_packages(engine: Engine) -> None:
    """Load the packages that `heat_map` needs for an engine.

    Raises:
        ConfigError: The engine is ONNX Runtime and the package onnx is not installed.
    """
    if engine.backend == "onnxruntime":
        optional_packages.onnx()


def render_overlay(predictor: Predictor, prediction: Prediction, *, encoded: bytes, view: np.ndarray) -> Image.Image:
    """Draw the heat map of the most probable class over the image, with class and probability below it.

    Args:
        predictor: The network.
        prediction: Its prediction for the image.
        encoded: The encoded image. The overlay shows the crop that the network reads, with sides of `MIN_SIDE` pixels
            or more.
        view: The same image as `Predictor.preprocess` returns it.

    Raises:
        ConfigError: As `require_packages`.
    """
    label, probability = prediction.top[0]
    heat = heat_map(predictor.engine, view, predictor.classes.index(label))
    enlarged = EvalView.of(predictor.preprocessing).at_least(MIN_SIDE)
    image = decode_eval_view(encoded, enlarged, max_pixels=predictor.max_pixels)
    if view.shape[2] == 1:
        image = np.repeat(luma(image), 3, axis=2)
    answer = f"{prediction.label}: " if prediction.is_unknown else ""
    return add_caption(blend_heat_map(image, heat), f"{answer}{label}  {100 * probability:.1f} %")


def blend_heat_map(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Blend a heat map over an image with reduced colours.

    Args:
        image: uint8 RGB (height, width, 3).
        heat: Float, at least 0, of any height and width. It is scaled to a maximum of 1; where it is 0, only the image
            is visible.

    Returns:
        uint8 RGB (height, width, 3).
    """
    from matplotlib import colormaps

    scaled = torch.from_numpy(heat / (float(heat.max()) or 1.0))[None, None]
    resized = F.interpolate(scaled, image.shape[:2], mode="bicubic", align_corners=False)
    strength = resized[0, 0].clamp(0, 1).numpy()[:, :, None]
    colour = colormaps[COLORMAP](0.9 * strength[:, :, 0])[:, :, :3] * 255  # the last tenth is invisible on white
    opacity = OPACITY * strength
    desaturated = image * (1 - DESATURATION) + luma(image) * DESATURATION
    return np.rint(desaturated * (1 - opacity) + colour * opacity).astype(np.uint8)


def add_caption(image: np.ndarray, text: str) -> Image.Image:
    """Return the image with one line of text below it, shortened to its width.

    Unprintable characters appear as question marks; letters that no font here has are logged (`resnetlab.fonts`).
    """
    height, width = image.shape[:2]
    page = Image.new("RGB", (width, height + CAPTION_HEIGHT), "black")
    page.paste(Image.fromarray(image))
    font = _font()
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    line = shorten_middle(printable, width - 24, font.getlength)
    font.write(ImageDraw.Draw(page), (12, height + CAPTION_HEIGHT / 2), line, "white")
    return page


def _font() -> FallbackFont:
    return FallbackFont(17)
