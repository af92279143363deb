"""Evaluation views by the rules of torchvision, timm and resnetlab, with Pillow or NumPy alone, for comparison.

Each function follows the published description of the package, not the code under test.
"""

import math
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def reference_view(image, size, crop_ratio=1.0, *, rule, interpolation, fit, mean=(0.0, 0.0, 0.0)) -> np.ndarray:
    """Return the view of a PIL image: uint8 (height, width, 3). `size` is height and width of the view."""
    if rule == "resnetlab" and fit == "crop":  # of a very long image, only the central 4:1
        width, height = (min(side, 4 * min(image.size)) for side in image.size)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    target = tuple((math.floor if rule == "timm" else round)(side / crop_ratio) for side in size)
    height, width = resized_size(image.height, image.width, target, rule, fit)
    resized = image.resize((width, height), FILTERS[interpolation])
    # Borders: half of the missing pixels in front, rounded down.
    fill = (0, 0, 0) if rule == "torchvision" else tuple(round(255 * value) for value in mean)
    canvas = Image.new("RGB", (max(width, size[1]), max(height, size[0])), fill)
    canvas.paste(resized, (max(0, size[1] - width) // 2, max(0, size[0] - height) // 2))
    spare = canvas.height - size[0], canvas.width - size[1]
    # Python's round() takes a half to the even number, in torchvision's CenterCrop as well.
    top, left = (side // 2 if rule == "resnetlab" else round(side / 2.0) for side in spare)
    return np.asarray(canvas.crop((left, top, left + size[1], top + size[0])))


def resized_size(height, width, target, rule, fit) -> tuple[int, int]:
    """Return the height and width to which an image is resized."""
    if fit == "squash":
        return target
    if rule == "torchvision" or (rule == "timm" and fit == "crop" and target[0] == target[1]):
        return torchvision_size(height, width, target, fit)
    ratio = (min if fit == "crop" else max)(height / target[0], width / target[1])
    if rule == "timm":
        return round(height / ratio), round(width / ratio)
    scale = (max if fit == "crop" else min)(target[0] / height, target[1] / width)
    return round(height * scale), round(width * scale)


def torchvision_size(height, width, target, fit) -> tuple[int, int]:
    """One side is the target's; the other is the exact product, cut to whole pixels."""
    by_height = target[0], target[0] * width // height
    by_width = target[1] * height // width, target[1]
    covers = by_height[1] >= target[1]
    if fit == "crop":
        return by_height if covers else by_width
    return by_width if covers else by_height


def resample_with_numpy(pixels: np.ndarray, size, interpolation: str) -> np.ndarray:
    """Resize an image of any number of channels: first each row, then each column, with 8 bits between the two."""
    across = np.einsum("hwc,ow->hoc", pixels.astype(np.float64), _weights(pixels.shape[1], size[1], interpolation))
    across = np.clip(np.floor(across + 0.5), 0, 255)
    down = np.einsum("hwc,oh->owc", across, _weights(pixels.shape[0], size[0], interpolation))
    return np.clip(np.floor(down + 0.5), 0, 255).astype(np.uint8)


def _weights(before: int, after: int, interpolation: str) -> np.ndarray:
    """Return the weight of each pixel of a row in each pixel of the resized row: (after, before)."""
    scale = before / after
    stretch = max(1.0, scale)  # antialiasing: the kernel covers the pixels that fall together
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs((np.arange(before) + 0.5)[None] - centres[:, None]) / stretch
    if interpolation == "bilinear":
        weights = np.maximum(0, 1 - distance)
    else:
        a = -0.5
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def odd_photographs(count: int, sides: tuple[int, int] = (40, 160), folder: Path | None = None) -> list[Image.Image]:
    """Return photographs of odd sizes, with sides in the given range, from a folder or from scikit-learn's two."""
    rng = np.random.default_rng(5)
    if folder is None:
        sources = [Image.fromarray(image) for image in load_sample_images().images]
    else:
        files = sorted(folder.rglob("*.JPEG"))[:: max(1, 500 // count)]
        sources = [Image.open(file).convert("RGB") for file in files]
    photographs = []
    for number in range(count):
        source = sources[number % len(sources)]
        width, height = (int(side) for side in rng.integers(*sides, 2))
        left, top = (int(side * rng.uniform(0, 0.2)) for side in source.size)
        box = (left, top, int(source.width * rng.uniform(0.7, 1)), int(source.height * rng.uniform(0.7, 1)))
        photographs.append(source.resize((width, height), Image.Resampling.BICUBIC, box))
    return photographs


def encoded(image: Image.Image, kind: str) -> bytes:
    """Return an encoded image."""
    file = BytesIO()
    image.save(file, kind)
    return file.getvalue()
