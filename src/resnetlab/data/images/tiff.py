"""TIFF files, opened by Pillow: planes stored one after the other, and varieties that Pillow would misread."""

import logging
from typing import Any

from PIL.TiffImagePlugin import TiffImageFile

from resnetlab.data.images.errors import BadImageError
from resnetlab.data.images.libtiff import MISSING_CODEC, capture_errors
from resnetlab.data.images.varieties import tiff_reason

logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise Pillow's messages go to standard error
PLANES = 2
"""The planar configuration of channels that are stored one after the other."""


class PlanarTiffFile(TiffImageFile):
    """A TIFF that libtiff decodes if its planes are stored one after the other and have 16 bits or extra channels.

    Pillow's own decoder takes planes without compression for 8 bits, whatever their depth: 16 bits become noise. It
    leaves a file to libtiff if the compression is not `raw`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_compression" and value == "raw" and _is_planar(self) and not _has_plain_planes(self):
            value = "planes"
        super().__setattr__(name, value)


def check_tiff(image: TiffImageFile) -> None:
    """Raise `BadImageError` for a TIFF that Pillow opens, but whose pixels it would get wrong."""
    tags = image.tag_v2
    if not _is_planar(image) or (not image.use_load_libtiff and _has_plain_planes(image)):
        return
    # Pillow's use of libtiff loses the alpha plane of grey, or takes one for premultiplied that has no ExtraSamples.
    loses_alpha = image.mode in ("LA", "La", "PA") or (image.mode == "RGBA" and tags.get(338) not in ((1,), (2,)))
    if loses_alpha or not image.use_load_libtiff:  # the latter in a version of Pillow with other internals
        planes = f"{tags.get(277, 1)} planes one after the other"
        raise BadImageError(f"a TIFF with {planes}, which is not read; save its channels interleaved")


def _is_planar(image: TiffImageFile) -> bool:
    return image.tag_v2.get(284) == PLANES


def _has_plain_planes(image: TiffImageFile) -> bool:
    """Return whether Pillow's own decoder reads the planes rightly."""
    tags = image.tag_v2
    if set(tags.get(258, (1,))) != {8} or tags.get(262) not in (2, 5, 6) or tags.get(338, ()) not in ((), (2,)):
        return False
    expected = (4 if tags.get(262) == 5 else 3) + len(tags.get(338, ()))
    # Tiles beyond the right edge are read as if they had the expected number of channels.
    return tags.get(277) == expected or 324 not in tags or tags[256] % tags[322] == 0


def load_tiff(image: TiffImageFile) -> None:
    """Decode the pixels of a TIFF.

    Raises:
        BadImageError: If libtiff reports damage, or that it lacks the compression.
    """
    with capture_errors() as messages:
        try:
            image.load()
        except OSError:
            if MISSING_CODEC not in messages:
                raise
    if messages:
        reason = tiff_reason(image.tag_v2, messages[0]) if messages[0] == MISSING_CODEC else None
        raise BadImageError(reason or f"damaged TIFF (libtiff: {messages[0]})")
