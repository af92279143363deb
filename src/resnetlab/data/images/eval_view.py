"""Geometry of the evaluation view: the size to which an image is resized, and the crop or borders that follow.

The rules `torchvision` and `timm` are those of the published evaluation code (torchvision `Resize` and `CenterCrop`;
timm `transforms_imagenet_eval`, `ResizeKeepRatio` and `CenterCropOrPad`). This module needs no PyTorch.
"""

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import NamedTuple

from resnetlab.config import ColorProfiles, Fit, Interpolation, Preprocessing, ResizeRule

MAX_ASPECT: dict[ResizeRule, int] = {"resnetlab": 4, "torchvision": 16, "timm": 16}
"""With fit `crop`, only this many times the shorter side of a long image is resized: of 1 x 50,000 pixels, all others
would be resized to millions and then cropped off."""
REDUCED_BOUND = 4.0
"""Bound on the mean difference of a view from a reduced JPEG to that from the whole one, for values from 0 to 255.
libjpeg rounds reduced sides up, which shifts details by a fraction of a pixel (docs/log.md, 2026-11-30)."""
FULL_SIZE = 65_535
"""The longest side of a JPEG: none is decoded at a reduced size that keeps it."""


class Layout(NamedTuple):
    """The size of a resized image, and the offset of the network's input in it; a negative offset is a border."""

    height: int
    width: int
    top: int
    left: int


@dataclass(frozen=True)
class EvalView:
    """Geometry and colours of the network's input, before normalisation; the fields are those of `Preprocessing`."""

    height: int
    width: int
    """Height and width of the network's input in pixels."""
    crop_ratio: float = 1.0
    _: KW_ONLY
    interpolation: Interpolation = "bilinear"
    resize_rule: ResizeRule = "resnetlab"
    fit: Fit = "crop"
    color_profiles: ColorProfiles = "apply"
    fill: tuple[int, ...] = (0,)
    """Value of the borders of fit `pad` in each channel, or one for all, 0 to 255."""

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> "EvalView":
        """Return the view of a preprocessing.

        Borders are black with the rule `torchvision`, whose `CenterCrop` pads so, else the mean of each channel.
        """
        height, width = preprocessing.input_size
        black = preprocessing.resize_rule == "torchvision" or preprocessing.fit != "pad"
        return cls(
            height,
            width,
            preprocessing.crop_ratio,
            interpolation=preprocessing.interpolation,
            resize_rule=preprocessing.resize_rule,
            fit=preprocessing.fit,
            color_profiles=preprocessing.color_profiles,
            fill=(0,) if black else tuple(min(255, max(0, round(255 * mean))) for mean in preprocessing.mean),
        )

    def at_least(self, side: int) -> "EvalView":
        """Return the same view with a height and width of at least `side` pixels."""
        factor = max(1.0, side / min(self.height, self.width))
        return replace(self, height=round(self.height * factor), width=round(self.width * factor))

    @property
    def resized_target(self) -> tuple[int, int]:
        """Height and width that the resized image covers (`crop`), fits into (`pad`) or has (`squash`)."""
        exact = self.height / self.crop_ratio, self.width / self.crop_ratio
        rounded = math.floor if self.resize_rule == "timm" else round
        return rounded(exact[0]), rounded(exact[1])

    @property
    def reduces_jpegs(self) -> bool:
        """Whether a JPEG may be decoded at a reduced size: with the default rule and interpolation only.

        The mean difference of the pixels then stays below `REDUCED_BOUND`. Other views are exact.
        """
        return self.resize_rule == "resnetlab" and self.interpolation == "bilinear"

    @property
    def jpeg_min_side(self) -> int:
        """Pixels that each side of a JPEG keeps when it is decoded at a reduced size: twice the resized target."""
        return 2 * max(self.resized_target) if self.reduces_jpegs else FULL_SIZE

    def central_part(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the central part of an image that is resized: all, but of very long images."""
        if self.fit != "crop":
            return height, width
        longest = MAX_ASPECT[self.resize_rule] * min(height, width)
        return min(height, longest), min(width, longest)

    def layout(self, height: int, width: int) -> Layout:
        """Return the size to which an image of `height` x `width` pixels is resized, and the offset of the view."""
        resized = self._resized_size(height, width)
        top, left = (
            _offset(side, view, floor=self.resize_rule == "resnetlab")
            for side, view in zip(resized, (self.height, self.width), strict=True)
        )
        return Layout(*resized, top, left)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        target_height, target_width = self.resized_target
        if self.fit == "squash":
            return target_height, target_width
        by_height, by_width = target_height / height, target_width / width
        if self.resize_rule == "resnetlab":
            scale = (max if self.fit == "crop" else min)(by_height, by_width)
            return max(1, round(height * scale)), max(1, round(width * scale))
        square = target_height == target_width
        if self.resize_rule == "timm" and not (square and self.fit == "crop"):
            ratios = height / target_height, width / target_width
            ratio = min(ratios) if self.fit == "crop" else max(ratios)
            return max(1, round(height / ratio)), max(1, round(width / ratio))
        # One side is the target's, the other is cut to whole pixels. Products of integers decide which: a quotient may
        # be rounded below the target.
        height_decides = (target_height * width >= target_width * height) == (self.fit == "crop")
        if height_decides:
            return target_height, max(1, int(target_height * width / height))
        return max(1, int(target_width * height / width)), target_width


def _offset(side: int, view: int, *, floor: bool) -> int:
    """Return the offset of a view in a side, negative for borders: half the difference, in whole pixels.

    Half a pixel is cut off, or with `floor=False` rounded to the even number, as torchvision does it. Borders are cut
    to the smaller one in front in all rules.
    """
    if side < view:
        return -((view - side) // 2)
    return (side - view) // 2 if floor else round((side - view) / 2)
